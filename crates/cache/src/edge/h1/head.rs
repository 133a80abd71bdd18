//! The head of an HTTP/1 request: `httparse`, and on top of it the strictness that keeps a proxy in
//! front of us and ourselves from reading one stream of bytes as different requests (RFC 9112 section
//! 11.2). A pure function of bytes.

use crate::edge::{condition::Conditions, failure::Failure};
use httparse::{Error, Header, Request, Status};
use std::mem::MaybeUninit;

/// Limits of a request's head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLimits {
    /// Bytes of the whole head.
    pub(crate) bytes_max: usize,
    /// Bytes of the request target.
    pub(crate) target_max: usize,
}

/// The most header lines.
pub(crate) const HEADERS_MAX: usize = 100;

/// Room for the headers of one head.
pub(crate) type Slots<'b> = [MaybeUninit<Header<'b>>; HEADERS_MAX];

/// Room for the headers of one head.
pub(crate) fn slots<'b>() -> Slots<'b> {
    [const { MaybeUninit::uninit() }; HEADERS_MAX]
}

/// What HTTP/2 begins with (prior knowledge).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A well-formed head.
#[derive(Debug)]
pub(crate) struct RequestHead<'b> {
    /// Its length in bytes.
    pub(crate) len: usize,
    pub(crate) method: &'b str,
    /// Origin form, absolute form or `*`, as it came.
    pub(crate) target: &'b str,
    /// 0 or 1: of HTTP/1.
    pub(crate) minor: u8,
    /// Whether the client lets the connection live on.
    pub(crate) keep_alive: bool,
    /// Whether a body follows.
    pub(crate) body: bool,
    pub(crate) host: Option<&'b [u8]>,
    pub(crate) authorization: Option<&'b [u8]>,
    pub(crate) checksum_mode: Option<&'b [u8]>,
    /// Empty, and so none, where there are several.
    pub(crate) traceparent: Option<&'b [u8]>,
    pub(crate) conditions: Conditions<'b>,
    /// Whether nothing in it needs more than what stands above: no expectation, no upgrade, no header
    /// of those above twice.
    pub(crate) plain: bool,
}

/// Why bytes are not the head of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadError {
    /// Not HTTP, or ambiguous HTTP.
    Malformed(&'static str),
    /// Neither HTTP/1.0 nor HTTP/1.1.
    Version,
    /// More bytes or lines than allowed.
    TooLarge,
    /// A target longer than allowed.
    TargetTooLong,
    /// A transfer coding other than chunked.
    TransferCoding,
}

impl From<HeadError> for Failure {
    fn from(error: HeadError) -> Self {
        use http::StatusCode as S;
        let (status, code, message) = match error {
            HeadError::Malformed(why) => (S::BAD_REQUEST, "BadRequest", why),
            HeadError::Version => (
                S::HTTP_VERSION_NOT_SUPPORTED,
                "HttpVersionNotSupported",
                "HTTP/1.0, HTTP/1.1 and HTTP/2 are spoken here.",
            ),
            HeadError::TooLarge => (
                S::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "RequestHeaderSectionTooLarge",
                "Your request header section exceeds the maximum allowed size.",
            ),
            HeadError::TargetTooLong => (
                S::URI_TOO_LONG,
                "URITooLong",
                "The request URI is too long.",
            ),
            HeadError::TransferCoding => (
                S::NOT_IMPLEMENTED,
                "NotImplemented",
                "A header you provided implies functionality that is not implemented: \
                 Transfer-Encoding other than chunked.",
            ),
        };
        Self::new(status, code, message)
    }
}

/// Where the head ends, if it does: behind the first empty line at or after `from`. (A bare line feed
/// ends a line here, so that [`parse`] gets to see and refuse it.)
pub(crate) fn complete(bytes: &[u8], from: usize) -> bool {
    let tail = &bytes[from.min(bytes.len()).saturating_sub(3)..];
    tail.windows(2).any(|w| w == b"\n\n") || tail.windows(3).any(|w| w == b"\n\r\n")
}

/// Reads a head; `None`: it is not complete yet.
///
/// # Errors
/// As [`HeadError`] says. What follows on the connection cannot be trusted then.
pub(crate) fn parse<'b>(
    bytes: &'b [u8],
    slots: &mut Slots<'b>,
    limits: &HeadLimits,
) -> Result<Option<RequestHead<'b>>, HeadError> {
    let mut request = Request::new(&mut []);
    let len = match request.parse_with_uninit_headers(bytes, slots) {
        Ok(Status::Complete(len)) if len <= limits.bytes_max => len,
        Ok(Status::Complete(_)) => return Err(too_large(bytes, limits)),
        Ok(Status::Partial) if bytes.len() < limits.bytes_max => return Ok(None),
        Ok(Status::Partial) | Err(Error::TooManyHeaders) => return Err(too_large(bytes, limits)),
        Err(Error::Version) => return Err(HeadError::Version),
        Err(_) => {
            return Err(HeadError::Malformed(
                "The request could not be read as HTTP.",
            ));
        }
    };
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Err(HeadError::Malformed(
            "The request could not be read as HTTP.",
        ));
    };
    if target.len() > limits.target_max {
        return Err(HeadError::TargetTooLong);
    }
    let bare_feed = |i: usize| bytes[i] == b'\n' && (i == 0 || bytes[i - 1] != b'\r');
    if (0..len).any(bare_feed) {
        return Err(HeadError::Malformed("A line ends in a bare line feed."));
    }
    let mut head = RequestHead {
        len,
        method,
        target,
        minor,
        keep_alive: minor == 1,
        body: false,
        host: None,
        authorization: None,
        checksum_mode: None,
        traceparent: None,
        conditions: Conditions::default(),
        plain: true,
    };
    head.read_headers(request.headers)?;
    Ok(Some(head))
}

/// Which of the limits so many bytes without an end exceed.
pub(crate) fn too_large(bytes: &[u8], limits: &HeadLimits) -> HeadError {
    let line = bytes
        .iter()
        .position(|&b| b == b'\n')
        .unwrap_or(bytes.len());
    if line > limits.target_max {
        HeadError::TargetTooLong
    } else {
        HeadError::TooLarge
    }
}

impl<'b> RequestHead<'b> {
    fn read_headers(&mut self, headers: &[Header<'b>]) -> Result<(), HeadError> {
        let mut length: Option<&[u8]> = None;
        let mut chunked = false;
        for header in headers {
            let value = header.value;
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            // By length first: most headers are none of these.
            let slot = match header.name.len() {
                4 if is("host") => {
                    if self.host.is_some() {
                        return Err(HeadError::Malformed("There is more than one Host."));
                    }
                    &mut self.host
                }
                5 if is("range") => &mut self.conditions.range,
                6 if is("expect") => {
                    self.plain = false;
                    continue;
                }
                7 if is("upgrade") => {
                    self.plain = false;
                    continue;
                }
                8 if is("if-match") => &mut self.conditions.if_match,
                8 if is("if-range") => &mut self.conditions.if_range,
                10 if is("connection") => {
                    self.read_connection(value);
                    continue;
                }
                11 if is("traceparent") => {
                    let several = self.traceparent.is_some();
                    self.traceparent = Some(if several { b"" } else { value });
                    continue;
                }
                13 if is("if-none-match") => &mut self.conditions.if_none_match,
                13 if is("authorization") => &mut self.authorization,
                14 if is("content-length") => {
                    if length.is_some_and(|seen| seen != value) {
                        return Err(HeadError::Malformed("Content-Length is given twice."));
                    }
                    length = Some(value);
                    continue;
                }
                17 if is("transfer-encoding") => {
                    if chunked || self.minor == 0 {
                        return Err(HeadError::Malformed(
                            "Transfer-Encoding makes no sense here.",
                        ));
                    }
                    if !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                        return Err(HeadError::TransferCoding);
                    }
                    chunked = true;
                    continue;
                }
                17 if is("if-modified-since") => &mut self.conditions.if_modified_since,
                19 if is("if-unmodified-since") => &mut self.conditions.if_unmodified_since,
                19 if is("x-amz-checksum-mode") => &mut self.checksum_mode,
                _ => continue,
            };
            self.plain &= slot.is_none();
            *slot = Some(value);
        }
        if self.host.is_none() && self.minor == 1 {
            return Err(HeadError::Malformed("Host is missing."));
        }
        if !self
            .host
            .unwrap_or_default()
            .iter()
            .all(|b| b.is_ascii_graphic() && *b != b'/')
        {
            return Err(HeadError::Malformed("Host is not a host."));
        }
        let length = match length {
            None => 0,
            Some(_) if chunked => {
                return Err(HeadError::Malformed(
                    "Content-Length and Transfer-Encoding exclude each other.",
                ));
            }
            Some(digits) => content_length(digits)
                .ok_or(HeadError::Malformed("Content-Length is not a length."))?,
        };
        self.body = chunked || length > 0;
        Ok(())
    }

    /// As hyper reads it: `close` ends an HTTP/1.1 connection, `keep-alive` keeps an HTTP/1.0 one.
    fn read_connection(&mut self, value: &[u8]) {
        let has = |token: &[u8]| {
            value
                .split(|&b| b == b',')
                .any(|t| t.trim_ascii().eq_ignore_ascii_case(token))
        };
        if self.minor == 0 {
            self.keep_alive = has(b"keep-alive");
        } else {
            self.keep_alive &= !has(b"close");
        }
        self.plain &= !has(b"upgrade");
    }
}

fn content_length(digits: &[u8]) -> Option<u64> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    plain.then(|| std::str::from_utf8(digits).ok()?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits {
        bytes_max: 4096,
        target_max: 1024,
    };

    fn check<T: std::fmt::Debug + PartialEq>(
        text: &str,
        look: impl Fn(&RequestHead<'_>) -> T,
        want: Result<T, HeadError>,
    ) {
        let mut slots = slots();
        let got = parse(text.as_bytes(), &mut slots, &LIMITS);
        let got = got.map(|head| look(&head.expect("complete")));
        assert_eq!(got, want, "{text:?}");
    }

    #[test]
    fn well_formed() {
        let get = |rest: &str| format!("GET /b/k HTTP/1.1\r\nHost: h\r\n{rest}\r\n");
        check(
            &get(""),
            |h| (h.keep_alive, h.body, h.plain),
            Ok((true, false, true)),
        );
        check(&get("Connection: Close\r\n"), |h| h.keep_alive, Ok(false));
        check(
            &get("Connection: x, close\r\n"),
            |h| h.keep_alive,
            Ok(false),
        );
        check(&get("Content-Length: 0\r\n"), |h| h.body, Ok(false));
        check(&get("Content-Length: 5\r\n"), |h| h.body, Ok(true));
        check(
            &get("Content-Length: 5\r\nContent-Length: 5\r\n"),
            |h| h.body,
            Ok(true),
        );
        check(&get("Transfer-Encoding: Chunked\r\n"), |h| h.body, Ok(true));
        check(&get("Expect: 100-continue\r\n"), |h| h.plain, Ok(false));
        check(&get("Range: a\r\nRange: b\r\n"), |h| h.plain, Ok(false));
        check(
            &get("RANGE: bytes=0-1\r\n"),
            |h| h.conditions.range.is_some(),
            Ok(true),
        );
        let old = |rest: &str| format!("GET /b/k HTTP/1.0\r\n{rest}\r\n");
        check(&old(""), |h| (h.minor, h.keep_alive), Ok((0, false)));
        check(
            &old("Connection: keep-alive\r\n"),
            |h| h.keep_alive,
            Ok(true),
        );
    }

    #[test]
    fn ambiguous() {
        let check = |text: &str, want| check(text, |_| (), Err(want));
        let malformed = |text: &str, why| {
            let mut slots = slots();
            match parse(text.as_bytes(), &mut slots, &LIMITS) {
                Err(HeadError::Malformed(said)) => assert!(said.contains(why), "{said} / {why}"),
                other => panic!("{text:?}: {other:?}"),
            }
        };
        let get = |rest: &str| format!("GET /b/k HTTP/1.1\r\nHost: h\r\n{rest}\r\n");
        let cl = "Content-Length: 5\r\n";
        let te = "Transfer-Encoding: chunked\r\n";
        malformed(&get(&format!("{cl}{te}")), "exclude");
        malformed(&get(&format!("{te}{te}")), "no sense");
        malformed(&get(&format!("{cl}Content-Length: 6\r\n")), "twice");
        malformed(&get("Content-Length: 5, 5\r\n"), "not a length");
        malformed(&get("Content-Length: +5\r\n"), "not a length");
        malformed(&get("Content-Length: -1\r\n"), "not a length");
        malformed(
            &get("Content-Length: 99999999999999999999\r\n"),
            "not a length",
        );
        malformed(&get("Content-Length:\r\n"), "not a length");
        malformed(&get("Host: other\r\n"), "more than one Host");
        malformed("GET / HTTP/1.1\r\n\r\n", "Host is missing");
        malformed("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "not a host");
        malformed("GET / HTTP/1.1\nHost: h\n\n", "bare");
        malformed("GET / HTTP/1.1\r\nHost: h\nX: y\r\n\r\n", "bare");
        malformed(
            "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "no sense",
        );
        malformed("GET / HTTP/1.1\r\nHost : h\r\n\r\n", "as HTTP");
        malformed("GET / HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n", "as HTTP");
        malformed("GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n", "as HTTP");
        malformed("\x16\x03\x01\x02\0\x01", "as HTTP");
        check(
            &get("Transfer-Encoding: gzip, chunked\r\n"),
            HeadError::TransferCoding,
        );
        check(
            &get("Transfer-Encoding: xchunked\r\n"),
            HeadError::TransferCoding,
        );
        check("GET / HTTP/2.0\r\nHost: h\r\n\r\n", HeadError::Version);
    }

    #[test]
    fn bounds() {
        let check = |text: &str, want| {
            let mut slots = slots();
            let got = parse(text.as_bytes(), &mut slots, &LIMITS).map(|head| head.is_some());
            assert_eq!(got, want, "{} bytes", text.len());
        };
        check("GET / HTTP/1.1\r\nHost", Ok(false));
        check(
            &format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "k".repeat(1024)),
            Err(HeadError::TargetTooLong),
        );
        check(
            &format!("GET /{}", "k".repeat(4096)),
            Err(HeadError::TargetTooLong),
        );
        let long = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}", "v".repeat(4096));
        check(&long, Err(HeadError::TooLarge));
        check(&format!("{long}\r\n\r\n"), Err(HeadError::TooLarge));
        let many = "X: y\r\n".repeat(HEADERS_MAX);
        check(
            &format!("GET / HTTP/1.1\r\nHost: h\r\n{many}\r\n"),
            Err(HeadError::TooLarge),
        );
    }

    #[test]
    fn the_end_is_found_across_reads() {
        let text = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        for cut in 0..text.len() {
            assert!(!complete(&text[..cut], 0), "{cut}");
            assert!(complete(text, cut), "{cut}");
        }
        assert!(complete(b"GET / HTTP/1.1\n\n", 15));
    }
}
