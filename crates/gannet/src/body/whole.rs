//! [`Body`]: the bytes of a datum that is complete.

use bytes::{Bytes, BytesMut};
use std::{fmt, ops::Range, sync::Arc};

/// The bytes of a datum that is complete, in segments. Cheap to clone.
///
/// ```
/// use gannet::Body;
///
/// let body = Body::from("hello");
/// assert_eq!(body.len(), 5);
/// assert_eq!(body.to_bytes(), "hello");
/// ```
#[derive(Clone)]
pub struct Body {
    segments: Arc<[Bytes]>,
    start: u64,
    len: u64,
}

impl Body {
    /// A body of these segments, whole.
    pub fn new(segments: impl Into<Arc<[Bytes]>>) -> Self {
        Self::from_offset(0, segments.into())
    }

    /// The end of a body, from this offset on.
    pub(crate) fn from_offset(start: u64, segments: Arc<[Bytes]>) -> Self {
        let held: u64 = segments.iter().map(|bytes| bytes.len() as u64).sum();
        Self {
            segments,
            start,
            len: start + held,
        }
    }

    /// Length of the datum in bytes, those outside the window included.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the datum has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether all bytes are here. A datum larger than the window
    /// ([`Config::window_bytes_max`](crate::Config)) has lost its beginning.
    pub fn is_whole(&self) -> bool {
        self.start == 0
    }

    /// The segments that are here, in order: the end of the datum.
    pub fn segments(&self) -> &[Bytes] {
        &self.segments
    }

    /// All that is here in one piece. Costs nothing for a single segment, a copy otherwise.
    pub fn to_bytes(&self) -> Bytes {
        match &*self.segments {
            [] => Bytes::new(),
            [one] => one.clone(),
            many => {
                let mut all = BytesMut::with_capacity(many.iter().map(Bytes::len).sum());
                many.iter().for_each(|bytes| all.extend_from_slice(bytes));
                all.freeze()
            }
        }
    }

    /// A range of the datum, in segments, without a copy; what lies outside of what is here is left
    /// out.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use gannet::Body;
    ///
    /// let body = Body::new(vec![Bytes::from("hel"), Bytes::from("lo")]);
    /// let middle: Vec<_> = body.range(1..4).collect();
    /// assert_eq!(middle, ["el", "l"]);
    /// ```
    pub fn range(&self, range: Range<u64>) -> impl Iterator<Item = Bytes> + '_ {
        let mut start = self.start;
        self.segments.iter().filter_map(move |bytes| {
            let len = bytes.len() as u64;
            let (from, to) = (
                range.start.clamp(start, start + len),
                range.end.clamp(start, start + len),
            );
            let part =
                (from < to).then(|| bytes.slice((from - start) as usize..(to - start) as usize));
            start += len;
            part
        })
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() {
            return Self::new([]);
        }
        Self::new([bytes])
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl fmt::Debug for Body {
    /// Lengths only: payloads have no place in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("len", &self.len)
            .field("start", &self.start)
            .field("segments", &self.segments.len())
            .finish()
    }
}
