//! What S3 answers: pages of keys, buckets, objects. Pure functions of bytes from outside.

use super::{
    Answer, OriginError, encode, headers, validators,
    xml::{self, ErrorBody, XmlError},
};
use crate::types::{BucketEntry, ListEntry, ListPage, ObjectMeta};
use http::HeaderMap;
use std::{sync::Arc, time::SystemTime};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Entries of one page, whatever was asked for: no server has more.
const ENTRIES_MAX: usize = 10_000;

/// The error in an answer's body; an empty one where there is none.
pub(super) async fn error(answer: Answer) -> ErrorBody {
    match answer.collect(64 << 10).await {
        Ok(body) => xml::error_body(&body),
        Err(_) => ErrorBody::default(),
    }
}

/// An object, from the headers of a HEAD.
pub(super) fn meta(answer: &HeaderMap) -> Result<ObjectMeta, OriginError> {
    Ok(ObjectMeta {
        size: validators::content_length(answer)
            .ok_or_else(|| OriginError::Malformed("no Content-Length".into()))?,
        etag: validators::strong_etag(answer).ok_or(OriginError::MissingEtag)?,
        modified: validators::last_modified(answer).unwrap_or(SystemTime::UNIX_EPOCH),
        headers: Arc::new(headers::pick(answer, headers::S3)?),
    })
}

/// `ListBucketResult`, with `below` taken off each key.
pub(super) fn list(body: &[u8], below: &str) -> Result<ListPage, XmlError> {
    let mut encoded = false;
    // Where `EncodingType` stands among the entries is up to the server: look for it first.
    xml::walk(body, |element| {
        if element.path[0] != "ListBucketResult" {
            return Err(XmlError::Unexpected);
        }
        encoded |= element.is(&["EncodingType"]) && element.text.trim() == "url";
        Ok(())
    })?;
    let own = |text: &str| {
        let key = if encoded {
            encode::decode_form(text)
        } else {
            Some(text.to_owned())
        };
        let key = key.ok_or(XmlError::Unexpected)?;
        key.strip_prefix(below)
            .map(str::to_owned)
            .ok_or(XmlError::Unexpected)
    };
    let mut page = ListPage::default();
    let mut entry = Entry::default();
    let (mut truncated, mut token) = (false, None);
    xml::walk(body, |element| {
        let text = element.text;
        match element.path {
            [_, contents, field] if contents == "Contents" => match field.as_str() {
                "Key" => entry.key = Some(own(text)?),
                "Size" => entry.size = validators::digits(text.trim()),
                "ETag" => entry.etag = etag(text),
                "LastModified" => entry.modified = timestamp(text),
                "StorageClass" => entry.class = Some(text.trim().to_owned()),
                _ => {}
            },
            [_, contents] if contents == "Contents" => {
                page.objects.push(std::mem::take(&mut entry).finish()?);
            }
            [_, rolled, field] if rolled == "CommonPrefixes" && field == "Prefix" => {
                page.prefixes.push(own(text)?);
            }
            [_, field] if field == "IsTruncated" => truncated = text.trim() == "true",
            [_, field] if field == "NextContinuationToken" => token = Some(text.trim().to_owned()),
            _ => {}
        }
        if page.objects.len() + page.prefixes.len() > ENTRIES_MAX {
            return Err(XmlError::Bounds);
        }
        Ok(())
    })?;
    // The key that equals the prefix, `prefix/`, would be an empty key of ours.
    page.objects.retain(|object| !object.key.is_empty());
    if truncated {
        page.next = Some(
            token
                .filter(|token| !token.is_empty())
                .ok_or(XmlError::Unexpected)?
                .into(),
        );
    }
    Ok(page)
}

#[derive(Default)]
struct Entry {
    key: Option<String>,
    size: Option<u64>,
    etag: Option<String>,
    modified: Option<SystemTime>,
    class: Option<String>,
}

impl Entry {
    fn finish(self) -> Result<ListEntry, XmlError> {
        Ok(ListEntry {
            key: self.key.ok_or(XmlError::Unexpected)?,
            size: self.size.ok_or(XmlError::Unexpected)?,
            etag: self.etag,
            modified: self.modified.unwrap_or(SystemTime::UNIX_EPOCH),
            storage_class: self.class.filter(|class| !class.is_empty()),
        })
    }
}

/// `ListAllMyBucketsResult`.
pub(super) fn buckets(body: &[u8]) -> Result<Vec<BucketEntry>, XmlError> {
    let mut found = Vec::new();
    let (mut name, mut created) = (None, None);
    xml::walk(body, |element| {
        if element.path[0] != "ListAllMyBucketsResult" {
            return Err(XmlError::Unexpected);
        }
        if element.is(&["Buckets", "Bucket", "Name"]) {
            name = Some(element.text.trim().to_owned());
        } else if element.is(&["Buckets", "Bucket", "CreationDate"]) {
            created = timestamp(element.text);
        } else if element.is(&["Buckets", "Bucket"]) {
            let name = name.take().ok_or(XmlError::Unexpected)?;
            found.push(BucketEntry {
                name,
                created: created.take(),
            });
        }
        if found.len() > ENTRIES_MAX {
            Err(XmlError::Bounds)
        } else {
            Ok(())
        }
    })?;
    Ok(found)
}

/// An etag of a listing, quotes included.
fn etag(text: &str) -> Option<String> {
    match validators::parse_etag(text)? {
        validators::Etag::Strong(etag) | validators::Etag::Weak(etag) => Some(etag.to_string()),
    }
}

fn timestamp(text: &str) -> Option<SystemTime> {
    OffsetDateTime::parse(text.trim(), &Rfc3339)
        .ok()
        .map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;
    use std::time::Duration;

    const PAGE: &str = r#"<?xml version="1.0"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>
<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>
<Contents><Key>p/a+b%2Bc%25</Key><LastModified>1970-01-01T00:00:09.000Z</LastModified>
<ETag>&quot;e1&quot;</ETag><Size>7</Size><StorageClass>STANDARD</StorageClass>
<Owner><ID>x</ID></Owner></Contents>
<Contents><Key>p/</Key><Size>0</Size></Contents>
<CommonPrefixes><Prefix>p/dir%2F</Prefix></CommonPrefixes>
<NextContinuationToken>tok</NextContinuationToken></ListBucketResult>"#;

    #[test]
    fn a_page() {
        let page = list(PAGE.as_bytes(), "p/").unwrap();
        assert_eq!(page.objects.len(), 1);
        let object = &page.objects[0];
        assert_eq!((object.key.as_str(), object.size), ("a b+c%", 7));
        assert_eq!(object.etag.as_deref(), Some("\"e1\""));
        assert_eq!(
            object.modified,
            SystemTime::UNIX_EPOCH + Duration::from_secs(9)
        );
        assert_eq!(object.storage_class.as_deref(), Some("STANDARD"));
        assert_eq!(page.prefixes, ["dir/"]);
        assert_eq!(page.next.as_deref(), Some("tok"));
    }

    #[test]
    fn keys_are_taken_literally_where_the_server_does_not_encode() {
        let xml = PAGE.replace("<EncodingType>url</EncodingType>", "");
        assert_eq!(
            list(xml.as_bytes(), "p/").unwrap().objects[0].key,
            "a+b%2Bc%25"
        );
    }

    #[test]
    fn answers_that_are_none() {
        let truncated = PAGE.replace("<NextContinuationToken>tok</NextContinuationToken>", "");
        for xml in [
            "<html/>",
            "<ListBucketResult>",
            "<ListBucketResult><Contents><Size>1</Size></Contents></ListBucketResult>",
            "<ListBucketResult><Contents><Key>x</Key><Size>-1</Size></Contents></ListBucketResult>",
            truncated.as_str(),
        ] {
            assert!(list(xml.as_bytes(), "").is_err(), "{xml}");
        }
        assert!(
            list(PAGE.as_bytes(), "other/").is_err(),
            "keys outside of the prefix"
        );
    }

    #[test]
    fn all_buckets() {
        let xml = b"<ListAllMyBucketsResult><Owner><ID>1</ID></Owner><Buckets>\
            <Bucket><Name>a</Name><CreationDate>1970-01-01T00:00:01Z</CreationDate></Bucket>\
            <Bucket><Name>b</Name></Bucket></Buckets></ListAllMyBucketsResult>";
        let found = buckets(xml).unwrap();
        assert_eq!(
            found.iter().map(|b| b.name.as_str()).collect::<Vec<_>>(),
            ["a", "b"]
        );
        assert!(found[0].created.is_some() && found[1].created.is_none());
        assert!(buckets(b"<Error/>").is_err());
    }

    #[test]
    fn an_object_needs_a_length_and_a_strong_etag() {
        let mut answer = HeaderMap::new();
        assert!(matches!(meta(&answer), Err(OriginError::Malformed(_))));
        answer.insert("content-length", HeaderValue::from_static("5"));
        assert!(matches!(meta(&answer), Err(OriginError::MissingEtag)));
        answer.insert("etag", HeaderValue::from_static("W/\"x\""));
        assert!(matches!(meta(&answer), Err(OriginError::MissingEtag)));
        answer.insert("etag", HeaderValue::from_static("\"x\""));
        assert_eq!(meta(&answer).unwrap().size, 5);
    }

    proptest! {
        #[test]
        fn never_panics(middle in "(<(Contents|Key|Size|Prefix|/Key|/Contents|/Size)>|[%+a0]{1,3}){0,30}") {
            let _ = list(format!("<ListBucketResult>{middle}</ListBucketResult>").as_bytes(), "a");
            let _ = buckets(middle.as_bytes());
        }
    }
}
