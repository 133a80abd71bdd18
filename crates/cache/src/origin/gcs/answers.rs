//! What Google answers: objects and pages of them, as JSON. Pure functions of bytes from outside.

use super::{OriginError, token, validators};
use crate::{
    origin::headers,
    types::{ListEntry, ListPage, ObjectMeta},
};
use http::{HeaderMap, HeaderName, header};
use serde::Deserialize;
use std::{borrow::Cow, collections::BTreeMap, sync::Arc, time::SystemTime};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// An object, as the JSON API describes it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Object {
    name: String,
    pub(super) generation: Option<String>,
    size: Option<Number>,
    updated: Option<String>,
    storage_class: Option<String>,
    content_type: Option<String>,
    content_encoding: Option<String>,
    content_disposition: Option<String>,
    content_language: Option<String>,
    cache_control: Option<String>,
    crc32c: Option<String>,
    metadata: Option<BTreeMap<String, Option<String>>>,
}

/// A number, which JSON of this API writes as a string.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Number {
    Text(String),
    Plain(u64),
}

impl Number {
    fn value(&self) -> Option<u64> {
        match self {
            Self::Text(text) => validators::digits(text),
            Self::Plain(number) => Some(*number),
        }
    }
}

impl Object {
    pub(super) fn etag(&self) -> Option<Arc<str>> {
        let generation = self.generation.as_deref()?;
        validators::digits(generation)?;
        Some(format!("\"{generation}\"").into())
    }

    pub(super) fn meta(&self) -> Result<ObjectMeta, OriginError> {
        let size = self.size.as_ref().and_then(Number::value);
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (header::CONTENT_TYPE, &self.content_type),
            (header::CONTENT_ENCODING, &self.content_encoding),
            (header::CONTENT_DISPOSITION, &self.content_disposition),
            (header::CONTENT_LANGUAGE, &self.content_language),
            (header::CACHE_CONTROL, &self.cache_control),
            // The same four bytes in the same notation; of composite objects too.
            (
                HeaderName::from_static("x-amz-checksum-crc32c"),
                &self.crc32c,
            ),
        ] {
            if let Some(value) = value {
                headers::add(&mut headers, name, value);
            }
        }
        for (name, value) in self.metadata.iter().flatten() {
            if let (Some(name), Some(value)) = (headers::user_metadata(name), value) {
                headers::add(&mut headers, name, value);
            }
        }
        Ok(ObjectMeta {
            size: size.ok_or_else(|| OriginError::Malformed("no size".into()))?,
            etag: self.etag().ok_or(OriginError::MissingEtag)?,
            modified: self
                .updated
                .as_deref()
                .and_then(timestamp)
                .unwrap_or(SystemTime::UNIX_EPOCH),
            headers: Arc::new(headers::pick(&headers, headers::S3)?),
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Listing {
    items: Vec<Object>,
    prefixes: Vec<String>,
    pub(super) next_page_token: Option<String>,
}

impl Listing {
    /// Where the server says that more is to be had.
    pub(super) fn more(&self) -> Option<&str> {
        self.next_page_token
            .as_deref()
            .filter(|token| !token.is_empty())
    }

    /// The page after `after`, at most `max` entries in order, without `below`.
    pub(super) fn page(
        self,
        below: &str,
        after: &str,
        max: usize,
    ) -> Result<ListPage, OriginError> {
        let more = self.more().is_some();
        let stray = || OriginError::Malformed("the listing has keys outside of the prefix".into());
        let mut entries: BTreeMap<String, Option<ListEntry>> = BTreeMap::new();
        for object in self.items {
            let key = object
                .name
                .strip_prefix(below)
                .ok_or_else(stray)?
                .to_owned();
            if key.is_empty() || key.as_str() <= after {
                continue;
            }
            let size = object.size.as_ref().and_then(Number::value);
            let entry = ListEntry {
                key: key.clone(),
                size: size.ok_or_else(|| OriginError::Malformed("no size".into()))?,
                etag: object.etag().map(|etag| etag.to_string()),
                modified: object
                    .updated
                    .as_deref()
                    .and_then(timestamp)
                    .unwrap_or(SystemTime::UNIX_EPOCH),
                storage_class: object.storage_class,
            };
            entries.insert(key, Some(entry));
        }
        for prefix in self.prefixes {
            let prefix = prefix.strip_prefix(below).ok_or_else(stray)?.to_owned();
            if prefix.as_str() > after {
                entries.insert(prefix, None);
            }
        }
        let cut = entries.len() > max;
        let mut page = ListPage::default();
        let mut last = None;
        for (name, entry) in entries.into_iter().take(max) {
            last = Some(name.clone());
            match entry {
                Some(entry) => page.objects.push(entry),
                None => page.prefixes.push(name),
            }
        }
        if cut || more {
            page.next = last.as_deref().map(token);
        }
        Ok(page)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Buckets {
    pub(super) items: Vec<Bucket>,
    pub(super) next_page_token: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Bucket {
    pub(super) name: String,
    pub(super) time_created: Option<String>,
}

/// Where a listing begins that is to hold what comes after `after`: at that key, which is passed
/// over; or behind all keys that the common prefix `after` stands for.
pub(super) fn start_offset<'a>(
    after: &'a str,
    prefix: &str,
    delimiter: Option<&str>,
) -> Option<Cow<'a, str>> {
    if after.is_empty() {
        return None;
    }
    // Not of the prefix itself: a key that ends in the delimiter and is the prefix rolls up nothing.
    let rest = after.strip_prefix(prefix).unwrap_or_default();
    Some(match delimiter {
        // The largest character there is: no key of this prefix comes after it but such ones.
        Some(delimiter) if !rest.is_empty() && rest.ends_with(delimiter) => {
            Cow::Owned(format!("{after}\u{10ffff}"))
        }
        _ => Cow::Borrowed(after),
    })
}

/// The generation in one of our etags.
pub(super) fn generation_of(etag: &str) -> Option<&str> {
    let generation = etag.strip_prefix('"')?.strip_suffix('"')?;
    validators::digits(generation).map(|_| generation)
}

/// An RFC 3339 time.
pub(super) fn timestamp(text: &str) -> Option<SystemTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok().map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::token::from_token;
    use proptest::prelude::*;

    fn object(name: &str) -> Object {
        Object {
            name: name.into(),
            size: Some(Number::Text("1".into())),
            generation: Some("5".into()),
            ..Object::default()
        }
    }

    #[test]
    fn metadata_becomes_headers() {
        let json = r#"{"name":"k","size":"7","generation":"1700000000000001","updated":"1970-01-01T00:00:09.5Z",
            "contentType":"text/plain","contentEncoding":"gzip","crc32c":"AAAAAA==","md5Hash":null,
            "metadata":{"owner":"me","bad name":"x","nul":null,"line":"a\nb"}}"#;
        let meta = serde_json::from_str::<Object>(json)
            .unwrap()
            .meta()
            .unwrap();
        assert_eq!((meta.size, &*meta.etag), (7, "\"1700000000000001\""));
        assert_eq!(meta.headers.len(), 4);
        assert_eq!(meta.headers["x-amz-meta-owner"], "me");
        assert_eq!(meta.headers["x-amz-checksum-crc32c"], "AAAAAA==");
        assert!(matches!(
            Object {
                generation: None,
                ..object("k")
            }
            .meta(),
            Err(OriginError::MissingEtag)
        ));
        assert!(matches!(
            Object {
                size: None,
                ..object("k")
            }
            .meta(),
            Err(OriginError::Malformed(_))
        ));
        let odd = Object {
            generation: Some("1\r\nx: y".into()),
            ..object("k")
        };
        assert!(matches!(odd.meta(), Err(OriginError::MissingEtag)));
    }

    #[test]
    fn pages_are_cut_where_the_server_does_not() {
        let listing = |more: bool| Listing {
            items: ["p/a", "p/c", "p/e"].map(object).into(),
            prefixes: vec!["p/b/".into(), "p/d/".into()],
            next_page_token: more.then(|| "x".into()),
        };
        let page = listing(false).page("p/", "a", 2).unwrap();
        assert_eq!(page.prefixes, ["b/"]);
        assert_eq!(page.objects.len(), 1);
        assert_eq!(from_token(&page.next.unwrap()).unwrap(), "c");
        let page = listing(false).page("p/", "c", 9).unwrap();
        assert_eq!(
            (page.objects.len(), page.prefixes.len(), page.next),
            (1, 1, None)
        );
        let page = listing(true).page("p/", "", 9).unwrap();
        assert_eq!(from_token(&page.next.unwrap()).unwrap(), "e");
        let page = listing(true).page("p/", "z", 9).unwrap();
        assert!(page.objects.is_empty() && page.next.is_none() && listing(true).more().is_some());
        assert!(
            listing(false).page("q/", "", 9).is_err(),
            "outside of the prefix"
        );
    }

    #[test]
    fn generations() {
        assert_eq!(generation_of("\"17\""), Some("17"));
        for etag in ["17", "\"\"", "\"a\"", "\"1&x=2\"", "W/\"17\""] {
            assert_eq!(generation_of(etag), None, "{etag}");
        }
        for (after, prefix, delimiter, want) in [
            ("", "", Some("/"), None),
            ("d/", "", None, Some("d/")),
            ("d/", "", Some("/"), Some("d/\u{10ffff}")),
            ("d/", "d/", Some("/"), Some("d/")),
            ("d/e/", "d/", Some("/"), Some("d/e/\u{10ffff}")),
            ("d/e", "d/", Some("/"), Some("d/e")),
            ("c/", "d/", Some("/"), Some("c/")),
        ] {
            let found = start_offset(after, prefix, delimiter);
            assert_eq!(found.as_deref(), want, "{after} {prefix} {delimiter:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(json in "\\{(\"(items|name|size|prefixes|metadata)\":|[0-9\\[\\]{},\"a]){0,20}\\}") {
            if let Ok(listing) = serde_json::from_str::<Listing>(&json) {
                let _ = listing.page("a", "", 2);
            }
            if let Ok(object) = serde_json::from_str::<Object>(&json) {
                let _ = object.meta();
            }
        }
    }
}
