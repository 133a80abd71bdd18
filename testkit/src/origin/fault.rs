//! What the origin does wrong, to whom, and how often.

use std::time::Duration;

/// One kind of misbehaviour. Offsets `after` and `at` count body bytes of the response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Sends so many bytes, waits until the peer's kernel has them, then sends RST.
    Reset {
        /// Body bytes sent; if the body is shorter, nothing happens.
        after: u64,
    },
    /// Sends so many bytes and closes in good order, short of Content-Length.
    Truncate {
        /// Body bytes sent; if the body is shorter, nothing happens.
        after: u64,
    },
    /// Falls silent at this byte, then goes on. At 0, the head is held back too.
    Stall {
        /// Body bytes sent before.
        at: u64,
        /// How long; longer than any test for ever.
        lasting: Duration,
    },
    /// Sends a few bytes at a time.
    Drip {
        /// Bytes each time.
        bytes: usize,
        /// The pause after each.
        every: Duration,
    },
    /// Answers with this status and no object (404 says `NoSuchKey`, 403 `AccessDenied`, 503
    /// `SlowDown`).
    Status {
        /// The status code.
        code: u16,
        /// Seconds, sent as `Retry-After`.
        retry_after: Option<u32>,
    },
    /// Sends this etag in place of its own; it judges `If-Match` by its own all the same.
    WrongEtag(String),
    /// Sends no etag.
    NoEtag,
    /// Sends its etag as a weak one (`W/"..."`), which no `If-Match` matches.
    WeakEtag,
    /// Sends no `Last-Modified`.
    NoLastModified,
    /// Does not look at `If-Match`.
    IgnoreIfMatch,
    /// Answers ranges with 200 and the whole object.
    IgnoreRange,
    /// Says in `Content-Range` that the bytes begin so much later than they do.
    WrongContentRange {
        /// Added to the first byte's offset.
        by: u64,
    },
    /// Sends a wrong byte at this place of the response, under the right etag.
    Flip {
        /// Body bytes sent before it.
        at: u64,
    },
    /// Replaces the object by its successor when so many bytes have been sent; this response goes on
    /// with the version that it began.
    Replace {
        /// Body bytes sent before.
        at: u64,
    },
    /// Sends the body with `Transfer-Encoding: chunked` and no length.
    Chunked,
    /// Accepts the request, then closes without a byte.
    Hangup,
}

/// A fault, the requests that it strikes, and how often.
#[derive(Clone, Debug)]
pub struct Rule {
    pub(super) fault: Fault,
    pub(super) object: Option<(String, String)>,
    pub(super) method: Option<Method>,
    pub(super) at_byte: Option<u64>,
    pub(super) skip: u64,
    pub(super) left: Option<u64>,
}

impl Rule {
    /// Strikes every GET and HEAD of an object, for ever.
    pub fn new(fault: Fault) -> Self {
        Self {
            fault,
            object: None,
            method: None,
            at_byte: None,
            skip: 0,
            left: None,
        }
    }

    /// Only this object.
    #[must_use]
    pub fn object(mut self, bucket: &str, key: &str) -> Self {
        self.object = Some((bucket.into(), key.into()));
        self
    }

    /// Only this method.
    #[must_use]
    pub fn method(mut self, method: Method) -> Self {
        self.method = Some(method);
        self
    }

    /// Only requests whose range begins at or before this byte of the object and ends after it.
    #[must_use]
    pub fn at_byte(mut self, byte: u64) -> Self {
        self.at_byte = Some(byte);
        self
    }

    /// Lets so many matching requests pass first.
    #[must_use]
    pub fn skip(mut self, requests: u64) -> Self {
        self.skip = requests;
        self
    }

    /// Strikes so many requests, and is spent then.
    #[must_use]
    pub fn times(mut self, requests: u64) -> Self {
        self.left = Some(requests);
        self
    }

    /// Whether it strikes this request; counts it if so.
    pub(super) fn strikes(&mut self, struck: &Struck<'_>) -> bool {
        let matches = self.left != Some(0)
            && self.method.is_none_or(|method| method == struck.method)
            && (self.method == Some(Method::List)) == (struck.method == Method::List)
            && self
                .object
                .as_ref()
                .is_none_or(|(b, k)| (b.as_str(), k.as_str()) == struck.object)
            && self.at_byte.is_none_or(|byte| struck.range.contains(&byte));
        if !matches {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        if let Some(left) = &mut self.left {
            *left -= 1;
        }
        true
    }
}

/// What a request asks for, as the rules see it.
pub(super) struct Struck<'a> {
    pub(super) method: Method,
    pub(super) object: (&'a str, &'a str),
    pub(super) range: std::ops::Range<u64>,
}

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// GET of an object.
    Get,
    /// HEAD of an object.
    Head,
    /// A listing, HEAD of a bucket or the list of buckets; struck only by rules that name it.
    List,
    /// Anything else: answered with 405.
    Other,
}
