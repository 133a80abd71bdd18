//! What every store can do.

use crate::{Blob, Place, Stats, StoreError};
use bytes::Bytes;
use futures_core::Stream;
use std::{fmt, pin::Pin};

/// A future of a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The blobs of a space as they are found.
pub type EntryStream = Pin<Box<dyn Stream<Item = Result<Entry, StoreError>> + Send>>;

/// How a commit ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The blob was stored by this call.
    Stored,
    /// Somebody else had committed it already: their copy is the truth, and this is success.
    Exists,
}

/// A blob of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which.
    pub digest: [u8; 32],
    /// Its length in bytes.
    pub len: u64,
}

/// What dropping a space removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Blobs.
    pub blobs: u64,
    /// Their bytes, without overhead.
    pub bytes: u64,
}

/// A store of blobs that are put once and never change.
///
/// Every future may be dropped at any time: a `put` whose future is dropped ends as if it had
/// succeeded or had never been called, never in between.
pub trait BlobStore: fmt::Debug + Send + Sync + 'static {
    /// The blob, if it can be served this instant: from memory, or from a file that is open and
    /// verified. Never blocks, and `None` says nothing about [`open`](Self::open). Counts as a hit
    /// (statistics, recency) when it answers `Some`, and not at all otherwise.
    fn held(&self, place: &Place) -> Option<Blob> {
        let _ = place;
        None
    }

    /// The blob, verified as far as the store promises, or `None` if the store does not hold it (or
    /// held a corrupt copy, which it has dropped). Counts as a hit or a miss.
    ///
    /// # Errors
    /// Where the store cannot know: [`Transient`](StoreError::Transient),
    /// [`Auth`](StoreError::Auth), [`Closed`](StoreError::Closed).
    fn open<'a>(&'a self, place: &'a Place) -> BoxFuture<'a, Result<Option<Blob>, StoreError>>;

    /// Commits a blob: the concatenation of `segments`, which is verified by the caller. Atomic: the
    /// blob is there in full or not at all, whatever happens meanwhile. Never replaces one.
    ///
    /// # Errors
    /// [`Full`](StoreError::Full), [`TooLarge`](StoreError::TooLarge) and those of `open`. The blob
    /// is then not held (but a shared store that did not answer may still come to hold it).
    fn put<'a>(
        &'a self,
        place: &'a Place,
        segments: Vec<Bytes>,
    ) -> BoxFuture<'a, Result<Put, StoreError>>;

    /// Removes a blob; whether it was there, as far as the store can tell. Readers who have it open
    /// go on.
    ///
    /// # Errors
    /// Those of `open`.
    fn remove<'a>(&'a self, place: &'a Place) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// The blobs of a space, each once, in no particular order. What is put or removed meanwhile may
    /// or may not be among them.
    fn list(&self, space: &str) -> EntryStream;

    /// Removes all blobs of a space that were put before the call.
    ///
    /// # Errors
    /// Those of `open`; some blobs may be gone then, and calling again goes on.
    fn drop_space<'a>(&'a self, space: &'a str) -> BoxFuture<'a, Result<Dropped, StoreError>>;

    /// What the store has done and holds.
    fn stats(&self) -> Stats;

    /// Ends the store: waits for the operations under way, then refuses all others with
    /// [`Closed`](StoreError::Closed). Open blobs stay readable. Harmless when repeated.
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}
