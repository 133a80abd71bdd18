//! The head of a response that carries an object (200, 206, 304): one function writes it, for hyper
//! and for the lean path alike, so that the two cannot differ.

use super::ids::{IdMint, RequestId};
use crate::types::ObjectMeta;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use std::{ops::Range, time::SystemTime};

/// What `Server` says.
pub(crate) const SERVER: &str = "gannet";
/// The header of our request ids.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-amz-request-id");
/// The header that names this process.
pub(crate) const HOST_ID: HeaderName = HeaderName::from_static("x-amz-id-2");
/// How a client asks for stored checksums.
pub(crate) const CHECKSUM_MODE: HeaderName = HeaderName::from_static("x-amz-checksum-mode");

/// S3's content type of an object that has none.
const CONTENT_TYPE_DEFAULT: &[u8] = b"binary/octet-stream";

/// Takes headers one by one.
pub(crate) trait HeadSink {
    fn header(&mut self, name: &HeaderName, value: &[u8]);
}

impl HeadSink for HeaderMap {
    fn header(&mut self, name: &HeaderName, value: &[u8]) {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            self.append(name, value);
        }
    }
}

/// The bytes of an HTTP/1 head.
impl HeadSink for Vec<u8> {
    fn header(&mut self, name: &HeaderName, value: &[u8]) {
        self.extend_from_slice(name.as_str().as_bytes());
        self.extend_from_slice(b": ");
        self.extend_from_slice(value);
        self.extend_from_slice(b"\r\n");
    }
}

/// What of an object is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// 200.
    Whole,
    /// 206.
    Part(Range<u64>),
    /// 304.
    Nothing,
}

/// The head of a response that carries an object.
#[derive(Debug)]
pub(crate) struct ObjectHead<'a> {
    pub(crate) meta: &'a ObjectMeta,
    pub(crate) extent: Extent,
    /// Whether stored checksums were asked for.
    pub(crate) checksums: bool,
    /// `response-*` of the query: these replace what is stored.
    pub(crate) overrides: &'a [(HeaderName, HeaderValue)],
}

impl ObjectHead<'_> {
    pub(crate) fn status(&self) -> StatusCode {
        match self.extent {
            Extent::Whole => StatusCode::OK,
            Extent::Part(_) => StatusCode::PARTIAL_CONTENT,
            Extent::Nothing => StatusCode::NOT_MODIFIED,
        }
    }

    /// The bytes of the object that the body consists of.
    pub(crate) fn range(&self) -> Range<u64> {
        match &self.extent {
            Extent::Whole => 0..self.meta.size,
            Extent::Part(range) => range.clone(),
            Extent::Nothing => 0..0,
        }
    }

    /// Writes all headers but `Date` and `Connection`.
    pub(crate) fn write(&self, ids: (&IdMint, RequestId), sink: &mut impl HeadSink) {
        write_ids(ids, sink);
        sink.header(&header::ACCEPT_RANGES, b"bytes");
        if is_value(self.meta.etag.as_bytes()) {
            sink.header(&header::ETAG, self.meta.etag.as_bytes());
        }
        sink.header(
            &header::LAST_MODIFIED,
            http_date(self.meta.modified).as_bytes(),
        );
        if self.extent != Extent::Nothing {
            let range = self.range();
            let mut number = Digits::new();
            sink.header(
                &header::CONTENT_LENGTH,
                number.format(range.end - range.start),
            );
            if let Extent::Part(range) = &self.extent {
                let size = self.meta.size;
                let value = format!("bytes {}-{}/{size}", range.start, range.end - 1);
                sink.header(&header::CONTENT_RANGE, value.as_bytes());
            }
        }
        let mut typed = self.extent == Extent::Nothing;
        for (name, value) in self.meta.headers.iter() {
            if self.travels(name) {
                typed |= name == header::CONTENT_TYPE;
                sink.header(name, value.as_bytes());
            }
        }
        for (name, value) in self
            .overrides
            .iter()
            .filter(|_| self.extent != Extent::Nothing)
        {
            typed |= name == header::CONTENT_TYPE;
            sink.header(name, value.as_bytes());
        }
        if !typed {
            sink.header(&header::CONTENT_TYPE, CONTENT_TYPE_DEFAULT);
        }
    }

    /// Whether a stored header goes out with this response. An allow-list: whatever an origin sent, it
    /// cannot set a cookie here or change how the message is framed.
    fn travels(&self, name: &HeaderName) -> bool {
        if self.extent == Extent::Nothing {
            return matches!(
                *name,
                header::CACHE_CONTROL | header::EXPIRES | header::VARY
            );
        }
        if self.overrides.iter().any(|(replaced, _)| replaced == name) {
            return false;
        }
        match *name {
            header::CONTENT_TYPE
            | header::CONTENT_ENCODING
            | header::CONTENT_DISPOSITION
            | header::CONTENT_LANGUAGE
            | header::CACHE_CONTROL
            | header::EXPIRES
            | header::VARY => true,
            _ => match name.as_str().strip_prefix("x-amz-") {
                // Ours, not theirs.
                Some("request-id" | "id-2") => false,
                // A checksum is of the whole object.
                Some(rest) if rest.starts_with("checksum-") => {
                    self.checksums && self.extent == Extent::Whole
                }
                Some(_) => true,
                None => false,
            },
        }
    }
}

/// The headers that every response carries.
pub(crate) fn write_ids((mint, id): (&IdMint, RequestId), sink: &mut impl HeadSink) {
    sink.header(&REQUEST_ID, &id.digits());
    sink.header(&HOST_ID, mint.host().as_bytes());
    sink.header(&header::SERVER, SERVER.as_bytes());
}

/// A date before 1970 or after 9999 cannot be said; it is clamped.
pub(crate) fn http_date(time: SystemTime) -> String {
    const LAST: u64 = 253_402_300_799;
    let secs = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(secs.min(LAST));
    httpdate::fmt_http_date(time)
}

/// Whether these bytes can be the value of a header.
fn is_value(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .all(|&b| b == b'\t' || (b >= b' ' && b != 0x7f))
}

/// Decimal digits without an allocation.
struct Digits([u8; 20]);

impl Digits {
    fn new() -> Self {
        Self([0; 20])
    }

    fn format(&mut self, mut number: u64) -> &[u8] {
        let mut at = self.0.len();
        loop {
            at -= 1;
            self.0[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return &self.0[at..];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::Arc, time::Duration};

    fn headers(extent: Extent, checksums: bool, overrides: &[(&'static str, &str)]) -> String {
        let mut stored = HeaderMap::new();
        for (name, value) in [
            ("content-type", "text/plain"),
            ("cache-control", "max-age=5"),
            ("x-amz-meta-colour", "red"),
            ("x-amz-checksum-crc32", "AAAA"),
            ("x-amz-request-id", "theirs"),
            ("set-cookie", "a=b"),
            ("transfer-encoding", "chunked"),
        ] {
            stored.append(name, HeaderValue::from_static(value));
        }
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let meta = ObjectMeta {
            size: 10,
            etag: "\"e\"".into(),
            modified,
            headers: Arc::new(stored),
        };
        let overrides: Vec<_> = overrides
            .iter()
            .map(|(n, v)| {
                (
                    HeaderName::from_static(n),
                    HeaderValue::from_str(v).unwrap(),
                )
            })
            .collect();
        let head = ObjectHead {
            meta: &meta,
            extent,
            checksums,
            overrides: &overrides,
        };
        let (mut out, mut map) = (Vec::new(), HeaderMap::new());
        let mint = IdMint::new();
        let ids = (&mint, mint.mint());
        head.write(ids, &mut out);
        head.write(ids, &mut map);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count(), map.len(), "both sinks take the same");
        text.lines()
            .skip(3)
            .map(|line| format!("{line}\n"))
            .collect()
    }

    #[test]
    fn heads() {
        let common = "accept-ranges: bytes\netag: \"e\"\n\
                      last-modified: Sun, 06 Nov 1994 08:49:37 GMT\n";
        assert_eq!(
            headers(Extent::Whole, false, &[]),
            format!(
                "{common}content-length: 10\ncontent-type: text/plain\ncache-control: max-age=5\n\
                 x-amz-meta-colour: red\n"
            )
        );
        assert!(headers(Extent::Whole, true, &[]).contains("x-amz-checksum-crc32: AAAA\n"));
        let part = headers(Extent::Part(2..5), true, &[("content-type", "text/html")]);
        assert_eq!(
            part,
            format!(
                "{common}content-length: 3\ncontent-range: bytes 2-4/10\n\
                 cache-control: max-age=5\nx-amz-meta-colour: red\ncontent-type: text/html\n"
            )
        );
        assert_eq!(
            headers(Extent::Nothing, true, &[("content-type", "text/html")]),
            format!("{common}cache-control: max-age=5\n")
        );
    }

    #[test]
    fn digits_and_dates() {
        for n in [0, 7, 10, 12_345, u64::MAX] {
            assert_eq!(Digits::new().format(n), n.to_string().as_bytes());
        }
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
        assert_eq!(http_date(far), "Fri, 31 Dec 9999 23:59:59 GMT");
        let early = SystemTime::UNIX_EPOCH - Duration::from_secs(5);
        assert_eq!(http_date(early), "Thu, 01 Jan 1970 00:00:00 GMT");
    }
}
