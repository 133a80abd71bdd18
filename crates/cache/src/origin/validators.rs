//! What an answer says of itself: etags, ranges, lengths, when to come back. Pure parsers of bytes
//! from outside; each bounds what it takes and never panics.

use http::{HeaderMap, HeaderValue, header};
use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, SystemTime},
};

/// The longest etag that is taken for one.
const ETAG_BYTES_MAX: usize = 1024;

/// The longest wait that a Retry-After is believed for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);

/// An etag, quotes included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Etag {
    /// Equal bytes, each one of them.
    Strong(Arc<str>),
    /// Equal in meaning only (`W/"..."`): says nothing of a byte range.
    Weak(Arc<str>),
}

/// Reads an etag. One without quotes (some S3 look-alikes, Azure's listings) gets them.
pub(crate) fn parse_etag(text: &str) -> Option<Etag> {
    let text = text.trim();
    let (weak, body) = match text.strip_prefix("W/").or_else(|| text.strip_prefix("w/")) {
        Some(body) => (true, body),
        None => (false, text),
    };
    let inner = match body.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"')?,
        None => body,
    };
    let graphic = |c: char| c != '"' && c > ' ' && c != '\u{7f}';
    if inner.is_empty() || inner.len() > ETAG_BYTES_MAX || !inner.chars().all(graphic) {
        return None;
    }
    Some(if weak {
        Etag::Weak(format!("W/\"{inner}\"").into())
    } else {
        Etag::Strong(format!("\"{inner}\"").into())
    })
}

/// The answer's etag; none where it has none, several, or an unreadable one.
pub(crate) fn etag(headers: &HeaderMap) -> Option<Etag> {
    parse_etag(sole(headers, &header::ETAG)?)
}

/// The strong etag of an answer.
pub(crate) fn strong_etag(headers: &HeaderMap) -> Option<Arc<str>> {
    match etag(headers)? {
        Etag::Strong(etag) => Some(etag),
        Etag::Weak(_) => None,
    }
}

/// The one value of a header; none where there are several, since which one counts is anyone's guess.
pub(crate) fn sole<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    value.to_str().ok()
}

/// Content-Length, if it is there once and is a number.
pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    digits(sole(headers, &header::CONTENT_LENGTH)?)
}

/// Last-Modified.
pub(crate) fn last_modified(headers: &HeaderMap) -> Option<SystemTime> {
    httpdate::parse_http_date(sole(headers, &header::LAST_MODIFIED)?).ok()
}

/// A Content-Range of one byte range, or of none (`bytes */size`, with a 416).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContentRange {
    /// The bytes that follow; none with a 416.
    pub(crate) range: Option<Range<u64>>,
    /// The whole's length; none where the server does not say (`*`).
    pub(crate) size: Option<u64>,
}

/// Reads a Content-Range.
pub(crate) fn parse_content_range(text: &str) -> Option<ContentRange> {
    let text = text.trim();
    let unit = text.get(..5)?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let rest = text[5..].strip_prefix([' ', '\t', '='])?.trim_start();
    let (range, size) = rest.split_once('/')?;
    let size = match size {
        "*" => None,
        number => Some(digits(number)?),
    };
    if range == "*" {
        return Some(ContentRange {
            range: None,
            size: Some(size?),
        });
    }
    let (first, last) = range.split_once('-')?;
    let (first, last) = (digits(first)?, digits(last)?);
    let end = last.checked_add(1)?;
    if first >= end || size.is_some_and(|size| end > size) {
        return None;
    }
    Some(ContentRange {
        range: Some(first..end),
        size,
    })
}

/// The answer's Content-Range.
pub(crate) fn content_range(headers: &HeaderMap) -> Option<ContentRange> {
    parse_content_range(sole(headers, &header::CONTENT_RANGE)?)
}

/// Retry-After: seconds or a date, at most ten minutes; a date that has passed is zero.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = sole(headers, &header::RETRY_AFTER)?.trim();
    let wait = match digits(text) {
        Some(seconds) => Duration::from_secs(seconds),
        None => httpdate::parse_http_date(text)
            .ok()?
            .duration_since(now)
            .unwrap_or_default(),
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

/// `bytes=first-last` for a range that is not empty.
pub(crate) fn range_header(range: &Range<u64>) -> HeaderValue {
    HeaderValue::try_from(format!(
        "bytes={}-{}",
        range.start,
        range.end.saturating_sub(1)
    ))
    .expect("digits are a header value")
}

/// A decimal number without sign, spaces or overflow.
pub(crate) fn digits(text: &str) -> Option<u64> {
    if text.is_empty() || text.len() > 20 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn etags() {
        let strong = |s: &str| Some(Etag::Strong(s.into()));
        let weak = |s: &str| Some(Etag::Weak(s.into()));
        for (text, want) in [
            ("\"abc\"", strong("\"abc\"")),
            (" \"abc\" ", strong("\"abc\"")),
            ("abc", strong("\"abc\"")),
            ("0x8DC", strong("\"0x8DC\"")),
            ("W/\"abc\"", weak("W/\"abc\"")),
            ("w/\"abc\"", weak("W/\"abc\"")),
            ("\"\"", None),
            ("", None),
            ("\"a", None),
            ("\"a\"b\"", None),
            ("\"a\", \"b\"", None),
            ("a b", None),
            ("\"a\nb\"", None),
        ] {
            assert_eq!(parse_etag(text), want, "{text:?}");
        }
        assert_eq!(parse_etag(&"x".repeat(ETAG_BYTES_MAX + 1)), None);
    }

    #[test]
    fn two_etags_are_none() {
        let mut headers = HeaderMap::new();
        headers.append("etag", HeaderValue::from_static("\"a\""));
        assert_eq!(strong_etag(&headers).as_deref(), Some("\"a\""));
        headers.append("etag", HeaderValue::from_static("\"b\""));
        assert_eq!(etag(&headers), None);
    }

    #[test]
    fn content_ranges() {
        let some = |range, size| Some(ContentRange { range, size });
        for (text, want) in [
            ("bytes 0-0/1", some(Some(0..1), Some(1))),
            ("bytes 5-9/10", some(Some(5..10), Some(10))),
            ("Bytes 5-9/*", some(Some(5..10), None)),
            ("bytes=5-9/10", some(Some(5..10), Some(10))),
            ("bytes */10", some(None, Some(10))),
            ("bytes */0", some(None, Some(0))),
            ("bytes */*", None),
            ("bytes 9-5/10", None),
            ("bytes 5-10/10", None),
            ("bytes -5/10", None),
            ("bytes 5-/10", None),
            ("bytes +5-9/10", None),
            ("bytes 0-18446744073709551615/*", None),
            ("bytes 0-99999999999999999999/*", None),
            ("items 0-1/2", None),
            ("bytes", None),
            ("", None),
            ("€€", None),
        ] {
            assert_eq!(parse_content_range(text), want, "{text:?}");
        }
    }

    #[test]
    fn retry_after_is_bounded() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let check = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", HeaderValue::try_from(text).unwrap());
            retry_after(&headers, now).map(|d| d.as_secs())
        };
        for (text, want) in [
            ("0", Some(0)),
            ("7", Some(7)),
            ("99999999", Some(600)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:27 GMT", Some(0)),
            ("Sat, 06 Nov 2094 08:49:27 GMT", Some(600)),
            ("-1", None),
            ("soon", None),
        ] {
            assert_eq!(check(text), want, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn parsers_never_panic(text in ".*") {
            let _ = (parse_etag(&text), parse_content_range(&text), digits(&text));
        }

        #[test]
        fn what_is_written_is_read(first in 0u64..1 << 60, len in 1u64..1 << 40) {
            let end = first + len;
            let read = parse_content_range(&format!("bytes {first}-{}/{end}", end - 1));
            prop_assert_eq!(read, Some(ContentRange { range: Some(first..end), size: Some(end) }));
        }

        #[test]
        fn an_etag_that_is_read_is_well_formed(text in ".{0,64}") {
            if let Some(Etag::Strong(etag)) = parse_etag(&text) {
                prop_assert!(etag.starts_with('"') && etag.ends_with('"') && etag.len() > 2);
                let again = parse_etag(&etag);
                prop_assert_eq!(again, Some(Etag::Strong(etag)));
            }
        }
    }
}
