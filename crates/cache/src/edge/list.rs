//! Listings: the query of ListObjects V1 and V2 and of ListBuckets, and their XML.

use super::{failure::Failure, query::Query, xml::Xml};
use crate::types::{BucketEntry, ListEntry, ListPage, ListQuery};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::{sync::Arc, time::SystemTime};
use time::{OffsetDateTime, macros::format_description};

/// S3's cap on the entries of a page.
const KEYS_MAX: u32 = 1000;
/// What `encoding-type=url` leaves alone.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'/');
/// The owner that listings name, since S3's clients expect one.
const OWNER: &str = "gannet";
/// Stands for "after everything that begins so": no key in use begins with U+10FFFF.
const LAST_CHAR: char = '\u{10FFFF}';

/// A listing as a client asked for it.
#[derive(Debug)]
pub(crate) struct Listing {
    /// What is asked of the backend; `keys_max` may be 0, and then nothing is.
    pub(crate) query: ListQuery,
    version: Version,
    url_encoded: bool,
    /// As given, for the echo.
    start: Option<String>,
    token: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2 { owner: bool },
}

impl Listing {
    /// Reads the query of a `GET /bucket`.
    pub(crate) fn parse(bucket: &str, query: &Query<'_>) -> Result<Self, Failure> {
        let version = match query.filled("list-type") {
            None => Version::V1,
            Some("2") => Version::V2 {
                owner: query.value("fetch-owner") == Some("true"),
            },
            Some(other) => {
                return Err(Failure::invalid_argument(
                    "Invalid List Type",
                    "list-type",
                    other,
                ));
            }
        };
        let url_encoded = match query.filled("encoding-type") {
            None => false,
            Some(kind) if kind.eq_ignore_ascii_case("url") => true,
            Some(other) => {
                let message = "Invalid Encoding Method specified in Request";
                return Err(Failure::invalid_argument(message, "encoding-type", other));
            }
        };
        let refusal = "Provided max-keys not an integer or within integer range";
        let keys_max = query
            .number("max-keys", 0, refusal)?
            .unwrap_or(KEYS_MAX)
            .min(KEYS_MAX);
        let prefix: Arc<str> = query.value("prefix").unwrap_or_default().into();
        let delimiter: Option<Arc<str>> = query.filled("delimiter").map(Into::into);
        let mut list = ListQuery {
            bucket: bucket.into(),
            prefix,
            delimiter,
            start_after: None,
            token: None,
            keys_max: u16::try_from(keys_max).unwrap_or(u16::MAX),
        };
        let (start, token) = match version {
            Version::V1 => (query.filled("marker"), None),
            Version::V2 { .. } => (
                query.filled("start-after"),
                query.value("continuation-token"),
            ),
        };
        match token {
            // As on S3: a token says where to go on, and start-after no more.
            Some(token) => list.token = Some(open_token(token, &list)?),
            None => list.start_after = start.map(|start| start_after(start, &list, version).into()),
        }
        let (start, token) = (start.map(str::to_owned), token.map(str::to_owned));
        Ok(Self {
            query: list,
            version,
            url_encoded,
            start,
            token,
        })
    }

    /// Whether an empty page with more behind it has no answer in this version: V1 names the place
    /// where the next page starts by the last entry.
    pub(crate) fn needs_entries(&self) -> bool {
        self.version == Version::V1
    }

    /// The answer.
    pub(crate) fn to_xml(&self, page: &ListPage) -> Bytes {
        let query = &self.query;
        Xml::document("ListBucketResult", |xml| {
            xml.text("Name", &query.bucket);
            self.name(xml, "Prefix", &query.prefix);
            match self.version {
                Version::V1 => self.name(xml, "Marker", self.start.as_deref().unwrap_or_default()),
                Version::V2 { .. } => {
                    if let Some(start) = &self.start {
                        self.name(xml, "StartAfter", start);
                    }
                    if let Some(token) = &self.token {
                        xml.text("ContinuationToken", token);
                    }
                    xml.number(
                        "KeyCount",
                        (page.objects.len() + page.prefixes.len()) as u64,
                    );
                }
            }
            xml.number("MaxKeys", u64::from(query.keys_max));
            if let Some(delimiter) = &query.delimiter {
                self.name(xml, "Delimiter", delimiter);
            }
            if self.url_encoded {
                xml.text("EncodingType", "url");
            }
            xml.truth("IsTruncated", page.next.is_some());
            if let Some(next) = &page.next {
                match self.version {
                    Version::V1 => self.name(xml, "NextMarker", last_entry(page)),
                    Version::V2 { .. } => {
                        xml.text("NextContinuationToken", &seal_token(next, query));
                    }
                }
            }
            for entry in &page.objects {
                self.entry(xml, entry);
            }
            for prefix in &page.prefixes {
                xml.open("CommonPrefixes");
                self.name(xml, "Prefix", prefix);
                xml.close("CommonPrefixes");
            }
        })
    }

    fn entry(&self, xml: &mut Xml, entry: &ListEntry) {
        xml.open("Contents");
        self.name(xml, "Key", &entry.key);
        xml.text("LastModified", &iso_date(entry.modified));
        if let Some(etag) = &entry.etag {
            xml.text("ETag", etag);
        }
        xml.number("Size", entry.size);
        if !matches!(self.version, Version::V2 { owner: false }) {
            owner(xml);
        }
        xml.text(
            "StorageClass",
            entry.storage_class.as_deref().unwrap_or("STANDARD"),
        );
        xml.close("Contents");
    }

    /// A key or a part of one.
    fn name(&self, xml: &mut Xml, tag: &str, name: &str) {
        if self.url_encoded {
            xml.text(tag, &utf8_percent_encode(name, PLAIN).to_string());
        } else {
            xml.text(tag, name);
        }
    }
}

/// Where a listing that starts after `start` really starts: V1's marker may be a common prefix of the
/// page before, and then all that it stands for has been listed.
fn start_after(start: &str, list: &ListQuery, version: Version) -> String {
    let rolled_up = version == Version::V1
        && list.delimiter.as_deref().is_some_and(|delimiter| {
            start
                .strip_prefix(&*list.prefix)
                .is_some_and(|rest| rest.ends_with(delimiter))
        });
    if rolled_up {
        format!("{start}{LAST_CHAR}")
    } else {
        start.to_owned()
    }
}

/// The greatest name on the page.
fn last_entry(page: &ListPage) -> &str {
    let key = page.objects.last().map_or("", |entry| &entry.key);
    let prefix = page.prefixes.last().map_or("", String::as_str);
    key.max(prefix)
}

/// Our continuation token: the origin's, bound to the query that it continues.
fn seal_token(next: &str, query: &ListQuery) -> String {
    let mut bytes = binding(query).to_vec();
    bytes.extend_from_slice(next.as_bytes());
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn open_token(token: &str, query: &ListQuery) -> Result<Arc<str>, Failure> {
    let open = || {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
        let (bound_to, next) = bytes.split_first_chunk()?;
        (*bound_to == binding(query)).then(|| std::str::from_utf8(next).ok().map(Arc::from))?
    };
    open().ok_or_else(|| {
        let message = "The continuation token provided is incorrect";
        Failure::invalid_argument(message, "continuation-token", token)
    })
}

/// What a token is bound to: bucket, prefix and delimiter, not the page's size. Against mistakes, not
/// against forgery: what a caller may list is checked on each page.
fn binding(query: &ListQuery) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    for part in [
        &*query.bucket,
        &*query.prefix,
        query.delimiter.as_deref().unwrap_or_default(),
    ] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let mut out = [0; 8];
    hasher.finalize_xof().fill(&mut out);
    out
}

/// The answer of ListBuckets.
pub(crate) fn buckets_xml(buckets: &[BucketEntry], query: &Query<'_>) -> Result<Bytes, Failure> {
    let refusal = "max-buckets is a number from 1 to 10,000";
    let max = query.number("max-buckets", 1, refusal)?.unwrap_or(u32::MAX) as usize;
    let after = match query.filled("continuation-token") {
        Some(token) => BASE64_URL_SAFE_NO_PAD
            .decode(token)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or_else(|| {
                let message = "The continuation token provided is incorrect";
                Failure::invalid_argument(message, "continuation-token", token)
            })?,
        None => String::new(),
    };
    let prefix = query.value("prefix").unwrap_or_default();
    let mut sorted: Vec<_> = buckets
        .iter()
        .filter(|bucket| bucket.name.starts_with(prefix) && bucket.name > after)
        .collect();
    sorted.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let more = sorted.len() > max;
    sorted.truncate(max);
    Ok(Xml::document("ListAllMyBucketsResult", |xml| {
        owner(xml);
        xml.open("Buckets");
        for bucket in &sorted {
            xml.open("Bucket");
            xml.text("Name", &bucket.name);
            let created = bucket.created.unwrap_or(SystemTime::UNIX_EPOCH);
            xml.text("CreationDate", &iso_date(created));
            xml.close("Bucket");
        }
        xml.close("Buckets");
        if let (true, Some(last)) = (more, sorted.last()) {
            xml.text(
                "ContinuationToken",
                &BASE64_URL_SAFE_NO_PAD.encode(&last.name),
            );
        }
        if query.has("prefix") {
            xml.text("Prefix", prefix);
        }
    }))
}

fn owner(xml: &mut Xml) {
    xml.open("Owner");
    xml.text("ID", OWNER);
    xml.text("DisplayName", OWNER);
    xml.close("Owner");
}

/// As S3 writes dates in XML: to the second, with the milliseconds spelt out.
fn iso_date(time: SystemTime) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].000Z");
    let secs = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let date = i64::try_from(secs)
        .ok()
        .and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
    date.unwrap_or(OffsetDateTime::UNIX_EPOCH)
        .format(format)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn parse(query: &str) -> Result<Listing, Failure> {
        Listing::parse("b", &Query::parse(Some(query)))
    }

    fn page(next: Option<&str>) -> ListPage {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_millis(784_111_777_500);
        ListPage {
            objects: vec![ListEntry {
                key: "p/a b".into(),
                size: 3,
                etag: Some("\"e\"".into()),
                modified,
                storage_class: None,
            }],
            prefixes: vec!["p/c/".into()],
            next: next.map(Into::into),
        }
    }

    fn xml(listing: &Listing, page: &ListPage) -> String {
        let xml = listing.to_xml(page);
        let text = std::str::from_utf8(&xml).unwrap();
        text.split_once("2006-03-01/\">").unwrap().1.to_owned()
    }

    #[test]
    fn v2() {
        let listing =
            parse("list-type=2&prefix=p/&delimiter=/&encoding-type=url&max-keys=2").unwrap();
        let text = xml(&listing, &page(Some("next")));
        let (_, token) = text.split_once("<NextContinuationToken>").unwrap();
        let (token, _) = token.split_once('<').unwrap();
        assert_eq!(
            text,
            format!(
                "<Name>b</Name><Prefix>p/</Prefix><KeyCount>2</KeyCount><MaxKeys>2</MaxKeys>\
                 <Delimiter>/</Delimiter><EncodingType>url</EncodingType>\
                 <IsTruncated>true</IsTruncated>\
                 <NextContinuationToken>{token}</NextContinuationToken>\
                 <Contents><Key>p/a%20b</Key><LastModified>1994-11-06T08:49:37.000Z</LastModified>\
                 <ETag>&quot;e&quot;</ETag><Size>3</Size><StorageClass>STANDARD</StorageClass>\
                 </Contents><CommonPrefixes><Prefix>p/c/</Prefix></CommonPrefixes></ListBucketResult>"
            )
        );
        let next = |rest: &str| parse(&format!("list-type=2&continuation-token={token}{rest}"));
        let again = next("&prefix=p/&delimiter=/&start-after=x&max-keys=7").unwrap();
        assert_eq!(again.query.token.as_deref(), Some("next"));
        assert_eq!(again.query.start_after, None);
        assert_eq!(
            next("&prefix=q/&delimiter=/").unwrap_err().code(),
            "InvalidArgument"
        );
        assert_eq!(next("&prefix=p/").unwrap_err().code(), "InvalidArgument");
        for bad in ["", "x", "!!!!", "AAAAAAAAAAAAAAAA"] {
            let failure = parse(&format!("list-type=2&continuation-token={bad}")).unwrap_err();
            assert_eq!(failure.code(), "InvalidArgument", "{bad:?}");
        }
    }

    #[test]
    fn v1() {
        let listing = parse("prefix=p/&delimiter=/&marker=p/c/").unwrap();
        assert_eq!(listing.query.start_after.as_deref(), Some("p/c/\u{10FFFF}"));
        let text = xml(&listing, &page(Some("ignored")));
        assert!(text.contains("<Marker>p/c/</Marker>"), "{text}");
        assert!(text.contains("<NextMarker>p/c/</NextMarker>"), "{text}");
        assert!(text.contains("<Owner><ID>gannet</ID>"), "{text}");
        assert!(!xml(&listing, &page(None)).contains("NextMarker"));
        let start = |query| {
            parse(query)
                .unwrap()
                .query
                .start_after
                .as_deref()
                .map(str::to_owned)
        };
        assert_eq!(start("delimiter=/&marker=p/c"), Some("p/c".into()));
        assert_eq!(start("marker=p/"), Some("p/".into()));
        assert_eq!(
            start("list-type=2&delimiter=/&start-after=p/"),
            Some("p/".into())
        );
    }

    #[test]
    fn bounds() {
        assert_eq!(parse("").unwrap().query.keys_max, 1000);
        assert_eq!(parse("max-keys=0").unwrap().query.keys_max, 0);
        assert_eq!(parse("max-keys=5000").unwrap().query.keys_max, 1000);
        for bad in [
            "max-keys=-1",
            "max-keys=x",
            "encoding-type=rot13",
            "list-type=3",
        ] {
            assert_eq!(parse(bad).unwrap_err().code(), "InvalidArgument", "{bad}");
        }
    }

    #[test]
    fn buckets() {
        let entry = |name: &str| BucketEntry {
            name: name.into(),
            created: None,
        };
        let buckets = [entry("b"), entry("a"), entry("ab")];
        let names = |query: &str| {
            let xml = buckets_xml(&buckets, &Query::parse(Some(query))).unwrap();
            let text = String::from_utf8(xml.to_vec()).unwrap();
            let names: Vec<_> = text
                .split("<Name>")
                .skip(1)
                .map(|rest| rest.split('<').next().unwrap().to_owned())
                .collect();
            let token = text
                .split_once("<ContinuationToken>")
                .map(|(_, rest)| rest.split('<').next().unwrap().to_owned());
            (names.join(","), token)
        };
        assert_eq!(names(""), ("a,ab,b".into(), None));
        assert_eq!(names("prefix=a"), ("a,ab".into(), None));
        let (first, token) = names("max-buckets=2");
        assert_eq!(first, "a,ab");
        let rest = names(&format!(
            "max-buckets=2&continuation-token={}",
            token.unwrap()
        ));
        assert_eq!(rest, ("b".into(), None));
    }
}
