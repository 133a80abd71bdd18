//! Conditional requests (RFC 9110 section 13, with S3's leniency about quotes): whether an object is
//! sent whole, in part, or not at all. A pure function of the request's headers and the metadata.

use super::range::ByteRange;
use crate::types::ObjectMeta;
use std::{
    ops::Range,
    time::{Duration, SystemTime},
};

/// The headers of a request that decide what is sent, as raw values.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conditions<'a> {
    /// `Range`.
    pub range: Option<&'a [u8]>,
    /// `If-Match`.
    pub if_match: Option<&'a [u8]>,
    /// `If-None-Match`.
    pub if_none_match: Option<&'a [u8]>,
    /// `If-Modified-Since`.
    pub if_modified_since: Option<&'a [u8]>,
    /// `If-Unmodified-Since`.
    pub if_unmodified_since: Option<&'a [u8]>,
    /// `If-Range`.
    pub if_range: Option<&'a [u8]>,
}

/// What to do with a request for an object that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// 200 with everything.
    Whole,
    /// 206 with these bytes (never empty).
    Part(Range<u64>),
    /// 304.
    NotModified,
    /// 412; names the header.
    Failed(&'static str),
    /// 416.
    NotSatisfiable,
}

impl Conditions<'_> {
    /// Judges the request. Preconditions come before the range, a 412 before a 304.
    pub fn judge(&self, meta: &ObjectMeta) -> Verdict {
        let etag = meta.etag.as_bytes();
        let modified = whole_seconds(meta.modified);

        if let Some(tags) = self.if_match {
            if !list_matches(tags, etag, strong_eq) {
                return Verdict::Failed("If-Match");
            }
        } else if let Some(since) = self.if_unmodified_since.and_then(date)
            && modified > since
        {
            return Verdict::Failed("If-Unmodified-Since");
        }

        if let Some(tags) = self.if_none_match {
            if list_matches(tags, etag, weak_eq) {
                return Verdict::NotModified;
            }
        } else if let Some(since) = self.if_modified_since.and_then(date)
            && modified <= since
        {
            return Verdict::NotModified;
        }

        let range = self.range.and_then(ByteRange::parse);
        match range.filter(|_| {
            self.if_range
                .is_none_or(|value| range_holds(value, etag, modified))
        }) {
            None => Verdict::Whole,
            Some(range) => range
                .resolve(meta.size)
                .map_or(Verdict::NotSatisfiable, Verdict::Part),
        }
    }
}

/// Whether `If-Range` names this version; if not, the whole object is sent.
fn range_holds(value: &[u8], etag: &[u8], modified: SystemTime) -> bool {
    match date(value) {
        Some(date) => date == modified,
        None => strong_eq(value.trim_ascii(), etag),
    }
}

/// Dates travel in whole seconds: a fraction would make an object newer than its own `Last-Modified`.
fn whole_seconds(time: SystemTime) -> SystemTime {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs()),
        Err(_) => SystemTime::UNIX_EPOCH,
    }
}

/// An unreadable date is as none (RFC 9110 section 13.1.3).
fn date(value: &[u8]) -> Option<SystemTime> {
    httpdate::parse_http_date(std::str::from_utf8(value).ok()?.trim()).ok()
}

fn list_matches(list: &[u8], etag: &[u8], eq: fn(&[u8], &[u8]) -> bool) -> bool {
    list.trim_ascii() == b"*" || tags(list).any(|tag| eq(tag, etag))
}

/// Splits at commas outside quotes.
fn tags(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut quoted = false;
    list.split(move |&b| {
        quoted ^= b == b'"';
        b == b',' && !quoted
    })
    .map(<[u8]>::trim_ascii)
    .filter(|tag| !tag.is_empty())
}

/// A weak tag never matches strongly, not even itself.
fn strong_eq(a: &[u8], b: &[u8]) -> bool {
    !a.starts_with(b"W/") && !b.starts_with(b"W/") && opaque(a) == opaque(b)
}

fn weak_eq(a: &[u8], b: &[u8]) -> bool {
    opaque(a) == opaque(b)
}

/// S3 takes tags without their quotes too; many clients send them so.
fn opaque(tag: &[u8]) -> &[u8] {
    let tag = tag.strip_prefix(b"W/").unwrap_or(tag);
    tag.strip_prefix(b"\"")
        .and_then(|tag| tag.strip_suffix(b"\""))
        .unwrap_or(tag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;
    use std::sync::Arc;

    const AT: &str = "Tue, 15 Nov 1994 08:12:31 GMT";
    const BEFORE: &str = "Tue, 15 Nov 1994 08:12:30 GMT";
    const AFTER: &str = "Tue, 15 Nov 1994 08:12:32 GMT";

    fn meta(etag: &str) -> ObjectMeta {
        let modified = httpdate::parse_http_date(AT).unwrap() + Duration::from_millis(600);
        ObjectMeta {
            size: 10,
            etag: etag.into(),
            modified,
            headers: Arc::new(HeaderMap::new()),
        }
    }

    fn check(etag: &str, headers: &[(&str, &str)], want: Verdict) {
        let mut c = Conditions::default();
        for (name, value) in headers {
            let slot = match *name {
                "range" => &mut c.range,
                "match" => &mut c.if_match,
                "none" => &mut c.if_none_match,
                "since" => &mut c.if_modified_since,
                "unmod" => &mut c.if_unmodified_since,
                "if-range" => &mut c.if_range,
                other => panic!("{other}"),
            };
            *slot = Some(value.as_bytes());
        }
        assert_eq!(c.judge(&meta(etag)), want, "{etag} {headers:?}");
    }

    #[test]
    fn conditions() {
        use Verdict::{Failed, NotModified, NotSatisfiable, Part, Whole};
        let e = "\"abc\"";
        check(e, &[], Whole);
        check(e, &[("match", "\"abc\"")], Whole);
        check(e, &[("match", "abc")], Whole);
        check(e, &[("match", "*")], Whole);
        check(e, &[("match", "\"x\", \"abc\"")], Whole);
        check(e, &[("match", "\"x,\"abc\"")], Failed("If-Match"));
        check(e, &[("match", "\"x\"")], Failed("If-Match"));
        check(e, &[("match", "W/\"abc\"")], Failed("If-Match"));
        check("W/\"abc\"", &[("match", "W/\"abc\"")], Failed("If-Match"));
        check("W/\"abc\"", &[("none", "\"abc\"")], NotModified);
        check(e, &[("none", "\"abc\"")], NotModified);
        check(e, &[("none", "W/\"abc\"")], NotModified);
        check(e, &[("none", "*")], NotModified);
        check(e, &[("none", "\"x\"")], Whole);
        check(e, &[("since", AT)], NotModified);
        check(e, &[("since", AFTER)], NotModified);
        check(e, &[("since", BEFORE)], Whole);
        check(e, &[("since", "yesterday")], Whole);
        check(e, &[("unmod", AT)], Whole);
        check(e, &[("unmod", BEFORE)], Failed("If-Unmodified-Since"));
        check(e, &[("unmod", "never")], Whole);
        // An entity tag beats a date.
        check(e, &[("match", "\"abc\""), ("unmod", BEFORE)], Whole);
        check(e, &[("none", "\"x\""), ("since", AFTER)], Whole);
        check(e, &[("match", "\"abc\""), ("none", "\"abc\"")], NotModified);
        // Preconditions beat ranges.
        check(e, &[("range", "bytes=2-3")], Part(2..4));
        check(e, &[("range", "bytes=20-")], NotSatisfiable);
        check(
            e,
            &[("range", "bytes=20-"), ("none", "\"abc\"")],
            NotModified,
        );
        check(
            e,
            &[("range", "bytes=20-"), ("match", "\"x\"")],
            Failed("If-Match"),
        );
        // If-Range.
        check(
            e,
            &[("range", "bytes=2-3"), ("if-range", "\"abc\"")],
            Part(2..4),
        );
        check(e, &[("range", "bytes=2-3"), ("if-range", "\"x\"")], Whole);
        check(
            e,
            &[("range", "bytes=2-3"), ("if-range", "W/\"abc\"")],
            Whole,
        );
        check(e, &[("range", "bytes=2-3"), ("if-range", AT)], Part(2..4));
        check(e, &[("range", "bytes=2-3"), ("if-range", AFTER)], Whole);
        check(e, &[("range", "bytes=20-"), ("if-range", "\"x\"")], Whole);
        check(e, &[("if-range", "\"x\"")], Whole);
    }
}
