//! Blobs on a local disk, one file each, within a byte budget.
//!
//! - **Layout**: `DIR/v1/SPACE/HH/DIGEST.LEN`; data first, then a table of CRC-32C per
//!   64 KiB block and a fixed part that binds it to its place ([`crate::frame`]). The data begins at
//!   offset 0, so it is page-aligned for `sendfile`, and a small blob takes one block, not two.
//! - **Commit**: written under another name in `DIR/tmp`, then renamed without replacing
//!   (`renameat2(RENAME_NOREPLACE)`, or link and unlink where that is missing). A crash at any point
//!   leaves no blob, a whole blob, or an orphan in `DIR/tmp` that the next start removes.
//! - **No fsync** by default: that a machine lost power in the middle is found by the checksums, since
//!   after a start nothing counts as verified, and a lost blob is only refetched.
//! - **Verified** when opened for the first time after the start, again when that is longer ago than
//!   [`verify_every`](DiskConfig::verify_every), when somebody has touched the file since (its ctime,
//!   looked at before each use), in the background at a bounded rate, and on every read that passes
//!   through user space. A bad copy is dropped, counted and reported as not held.
//! - **Files are read, never mapped** (see `disk/fs.rs`): truncated under us, they give an error.
//! - **Budget** in allocated blocks, S3-FIFO eviction ([`crate::evict`]). Room is reserved before the
//!   first byte is written. While the file system is short the budget shrinks with it, so that serving
//!   goes on from what there is.
//! - **Start**: the index is rebuilt from directory entries alone; the length is in the name.
//! - **One process** per directory, by `flock`, which ends with the process.
//!
//! Blocking calls run on tokio's blocking threads, bounded in number; only [`held`](BlobStore::held)
//! answers at once, from files that are open and verified.
//!
//! Not for: network file systems that lie about rename or `flock`, and not a defence against who
//! can write into the directory.

mod config;
mod file;
mod fs;
mod index;
mod layout;
mod pool;
mod scrub;
mod store;
#[cfg(test)]
mod tests;

use crate::{Blob, BlobStore, BoxFuture, Dropped, EntryStream, Place, Put, Stats, StoreError};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use std::{sync::Arc, time::Duration};
use tokio::task::AbortHandle;

pub use config::DiskConfig;
use fs::{Fs, RealFs};
use store::Shared;

/// A store on a local disk.
///
/// - A blob is one file, its data at offset 0: for `sendfile` and positional reads. Files are never
///   mapped, so one that is truncated by somebody is an error, not the end of the process.
/// - A commit is atomic and never replaces; `kill -9`, power loss and a full disk at any point leave
///   the blob whole or not there, and nothing behind that the next start would not remove.
/// - What is served was compared with its checksums (CRC-32C of each 64 KiB): at the first opening
///   after a start, again every [`verify_every`](DiskConfig::verify_every), whenever the file was
///   touched since, and in the background. A copy that fails is dropped, counted, and reported as not
///   held.
/// - The budget counts allocated blocks; S3-FIFO decides what goes. While the file system is short,
///   the budget is, too.
/// - One process per directory.
///
/// To drop it releases the directory once the operations under way have ended;
/// [`close`](BlobStore::close) waits for that.
///
/// ```
/// # tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
/// use gannet_store::{BlobStore, DiskConfig, DiskStore, Place};
///
/// let dir = tempfile::tempdir()?;
/// let place = Place::derive("s3", [b"key".as_slice(), b"\"etag\""]);
/// let store = DiskStore::open(DiskConfig::new(dir.path())).await?;
/// store.put(&place, vec![bytes::Bytes::from_static(b"abc")]).await?;
/// store.close().await;
///
/// let store = DiskStore::open(DiskConfig::new(dir.path())).await?;
/// assert!(store.held(&place).is_none(), "not verified since the start");
/// let blob = store.open(&place).await?.expect("it was stored");
/// assert!(store.held(&place).is_some());
/// let view = blob.file().expect("for sendfile");
/// assert_eq!(blob.to_bytes(0..3).await?, "abc");
/// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
#[derive(Debug)]
pub struct DiskStore {
    shared: Arc<Shared>,
    scrubber: Option<AbortHandle>,
}

impl DiskStore {
    /// Opens the store: takes the lock, removes what was being written, and rebuilds the index.
    /// Must be called, like all operations, within a tokio runtime that has its timers on. Cost: under a second for each
    /// 100,000 blobs.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another process uses the directory; [`StoreError::Auth`] and
    /// [`StoreError::Unsuitable`] if it cannot be used, with the remedy.
    pub async fn open(config: DiskConfig) -> Result<Self, StoreError> {
        Self::open_with(config, Arc::new(RealFs)).await
    }

    async fn open_with(config: DiskConfig, fs: Arc<dyn Fs>) -> Result<Self, StoreError> {
        let rate = config.scrub_rate;
        let opening = tokio::task::spawn_blocking(move || Shared::open(config, fs));
        let shared = Arc::new(opening.await.map_err(|_| StoreError::Closed)??);
        let scrubber = (rate > 0)
            .then(|| tokio::spawn(scrub::run(Arc::downgrade(&shared), rate)).abort_handle());
        Ok(Self { shared, scrubber })
    }

    /// How long the index took to come back, and how many blobs it found.
    pub fn opened_in(&self) -> (Duration, u64) {
        self.shared.opened_in
    }

    /// Files that are kept open at this moment.
    pub fn open_files(&self) -> u64 {
        self.shared.lock().files()
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Shared>) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = self.shared.clone();
        self.shared.writers.run(move || work(&shared)).await
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        if let Some(scrubber) = &self.scrubber {
            scrubber.abort();
        }
    }
}

impl BlobStore for DiskStore {
    fn held(&self, place: &Place) -> Option<Blob> {
        self.shared.held(place)
    }

    fn open<'a>(&'a self, place: &'a Place) -> BoxFuture<'a, Result<Option<Blob>, StoreError>> {
        Box::pin(async move {
            // What is surely there or surely not needs no thread.
            if let Some(known) = self.shared.known(place)? {
                return Ok(known);
            }
            let (shared, place) = (self.shared.clone(), place.clone());
            self.shared
                .readers
                .run(move || shared.open_blob(&place))
                .await?
        })
    }

    fn put<'a>(
        &'a self,
        place: &'a Place,
        segments: Vec<Bytes>,
    ) -> BoxFuture<'a, Result<Put, StoreError>> {
        Box::pin(async move {
            let place = place.clone();
            self.write(move |shared| shared.put(&place, &segments))
                .await?
        })
    }

    fn remove<'a>(&'a self, place: &'a Place) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            let place = place.clone();
            self.write(move |shared| shared.remove(&place)).await?
        })
    }

    fn list(&self, space: &str) -> EntryStream {
        let (shared, space) = (self.shared.clone(), space.to_owned());
        let entries = async move {
            let pool = shared.readers.clone();
            let entries = pool.run(move || shared.entries(&space)).await??;
            Ok(stream::iter(entries.into_iter().map(Ok)))
        };
        stream::once(entries).try_flatten().boxed()
    }

    fn drop_space<'a>(&'a self, space: &'a str) -> BoxFuture<'a, Result<Dropped, StoreError>> {
        Box::pin(async move {
            let space = space.to_owned();
            self.write(move |shared| shared.drop_space(&space)).await?
        })
    }

    fn stats(&self) -> Stats {
        self.shared.stats()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Some(scrubber) = &self.scrubber {
                scrubber.abort();
            }
            self.shared.refuse();
            self.shared.writers.idle().await;
            self.shared.readers.idle().await;
            self.shared.release();
        })
    }
}
