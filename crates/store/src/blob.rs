//! A blob that has been opened: its bytes, in whatever form costs least.
//!
//! An open blob stays readable though its store drops it meanwhile: in memory by reference count, on
//! disk by the open file. Only a shared store can lose it under the reader, who is told
//! ([`StoreError::Gone`]).

use crate::{BoxFuture, StoreError};
use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use futures_util::stream;
use std::{fmt, fs::File, ops::Range, pin::Pin, sync::Arc};

/// Verified bytes as they are read; an error ends it.
pub type BlobStream = Pin<Box<dyn Stream<Item = Result<Bytes, StoreError>> + Send>>;

/// A file that holds a blob: byte `i` of the blob is byte `offset + i` of the file.
#[derive(Clone, Debug)]
pub struct FileView {
    /// The file, open for reading. Positional reads and `sendfile` only: the cursor is shared.
    pub file: Arc<File>,
    /// Where the blob begins in it.
    pub offset: u64,
}

/// What a store written elsewhere provides to make a [`Blob`].
pub trait BlobSource: fmt::Debug + Send + Sync + 'static {
    /// Length in bytes.
    fn len(&self) -> u64;

    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The verified file that holds it, if one does.
    fn file(&self) -> Option<FileView> {
        None
    }

    /// Reads `range`, which lies within the blob and is not empty, verified, in pieces of the
    /// source's choice.
    fn stream(self: Arc<Self>, range: Range<u64>) -> BlobStream;

    /// Takes note that a reader found the copy wrong.
    fn condemn(&self, what: &str) {
        let _ = what;
    }
}

/// A blob that has been opened. Cheap to clone.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use gannet_store::Blob;
///
/// let blob = Blob::from_segments([bytes::Bytes::from("hello "), bytes::Bytes::from("world")]);
/// assert_eq!(blob.len(), 11);
/// assert_eq!(blob.to_bytes(4..8).await?, "o wo");
/// # Ok::<_, gannet_store::StoreError>(()) }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Blob(Inner);

#[derive(Clone)]
enum Inner {
    Memory { segments: Arc<[Bytes]>, len: u64 },
    Source(Arc<dyn BlobSource>),
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory { segments, len } => {
                write!(f, "{len} bytes in {} segments", segments.len())
            }
            Self::Source(source) => source.fmt(f),
        }
    }
}

impl Blob {
    /// A blob in memory.
    pub fn from_segments(segments: impl Into<Arc<[Bytes]>>) -> Self {
        let segments = segments.into();
        let len = segments.iter().map(|segment| segment.len() as u64).sum();
        Self(Inner::Memory { segments, len })
    }

    /// A blob that lies elsewhere.
    pub fn from_source(source: Arc<dyn BlobSource>) -> Self {
        Self(Inner::Source(source))
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match &self.0 {
            Inner::Memory { len, .. } => *len,
            Inner::Source(source) => source.len(),
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of it, if it is in memory. Never blocks.
    pub fn segments(&self) -> Option<&[Bytes]> {
        match &self.0 {
            Inner::Memory { segments, .. } => Some(segments),
            Inner::Source(_) => None,
        }
    }

    /// The parts of it that make `range`, if it is in memory: nothing is copied. Never blocks. None
    /// too if the range lies outside.
    pub fn slice(&self, range: Range<u64>) -> Option<Vec<Bytes>> {
        check_range(&range, self.len()).ok()?;
        self.segments().map(|segments| slices(segments, range))
    }

    /// The verified file that holds it, if one does: for `sendfile` and positional reads. Never
    /// blocks. A file that turns out to be short has been tampered with: say so by
    /// [`condemn`](Self::condemn).
    pub fn file(&self) -> Option<FileView> {
        match &self.0 {
            Inner::Memory { .. } => None,
            Inner::Source(source) => source.file(),
        }
    }

    /// The bytes of `range` as they are read, verified, in pieces of the store's choice. Memory: at
    /// most a few pieces are under way. To drop the stream is to stop the read.
    ///
    /// # Errors
    /// [`StoreError::Range`] at once if the range lies outside the blob; others in the stream.
    pub fn stream(&self, range: Range<u64>) -> Result<BlobStream, StoreError> {
        check_range(&range, self.len())?;
        if range.is_empty() {
            return Ok(Box::pin(stream::empty()));
        }
        Ok(match &self.0 {
            Inner::Memory { segments, .. } => {
                Box::pin(stream::iter(slices(segments, range).into_iter().map(Ok)))
            }
            Inner::Source(source) => source.clone().stream(range),
        })
    }

    /// The bytes of `range`, all at once, in pieces.
    ///
    /// # Errors
    /// As [`stream`](Self::stream).
    pub fn read(&self, range: Range<u64>) -> BoxFuture<'static, Result<Vec<Bytes>, StoreError>> {
        let stream = self.stream(range);
        Box::pin(async move {
            use futures_util::TryStreamExt as _;
            stream?.try_collect().await
        })
    }

    /// The bytes of `range` in one piece; copies where they are in several.
    ///
    /// # Errors
    /// As [`stream`](Self::stream).
    pub async fn to_bytes(&self, range: Range<u64>) -> Result<Bytes, StoreError> {
        let mut pieces = self.read(range).await?;
        if pieces.len() == 1 {
            return Ok(pieces.remove(0));
        }
        let mut whole = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
        pieces
            .iter()
            .for_each(|piece| whole.extend_from_slice(piece));
        Ok(whole.freeze())
    }

    /// Tells the store that this copy is wrong (short, say): it is dropped and counted, so that the
    /// next request refills. Does nothing for a copy that has been replaced since.
    pub fn condemn(&self, what: &str) {
        if let Inner::Source(source) = &self.0 {
            source.condemn(what);
        }
    }
}

/// Whether `range` lies within `len` bytes.
pub(crate) fn check_range(range: &Range<u64>, len: u64) -> Result<(), StoreError> {
    if range.start <= range.end && range.end <= len {
        Ok(())
    } else {
        Err(StoreError::Range {
            start: range.start,
            end: range.end,
            len,
        })
    }
}

/// The parts of `segments` that make `range`.
pub(crate) fn slices(segments: &[Bytes], range: Range<u64>) -> Vec<Bytes> {
    let mut parts = Vec::new();
    let mut at = 0;
    for segment in segments {
        let end = at + segment.len() as u64;
        let (from, to) = (range.start.max(at), range.end.min(end));
        if from < to {
            // Both lie within a segment, whose length is a usize.
            parts.push(segment.slice((from - at) as usize..(to - at) as usize));
        }
        if end >= range.end {
            break;
        }
        at = end;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn slices_are_the_range(
            segments in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..6),
            a in 0_u64..60,
            b in 0_u64..60,
        ) {
            let whole: Vec<u8> = segments.concat();
            let segments: Vec<Bytes> = segments.into_iter().map(Bytes::from).collect();
            let blob = Blob::from_segments(segments);
            let good = a <= b && b <= whole.len() as u64;
            prop_assert_eq!(blob.stream(a..b).is_ok(), good);
            match blob.slice(a..b) {
                Some(parts) => {
                    prop_assert_eq!(&parts.concat()[..], &whole[a as usize..b as usize]);
                    prop_assert!(parts.iter().all(|part| !part.is_empty()));
                }
                None => prop_assert!(!good),
            }
        }
    }
}
