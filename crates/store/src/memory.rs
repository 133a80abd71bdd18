//! Blobs in memory, within a byte budget.
//!
//! Segments are kept by reference where that is honest: a segment of at least 64 KiB is taken as it
//! is and counted by its length. Smaller ones are likely slices of a read buffer that is larger
//! than they are and would be kept alive whole, so they are copied together into pieces of their
//! exact size. What is counted is thus what is allocated, overhead of the bookkeeping included.
//!
//! Guarantees: what is counted never exceeds the budget; all operations are O(1) but for the copy.
//! Bytes that a reader holds after an eviction are the reader's, and no longer counted here.

use crate::{
    Blob, BlobStore, BoxFuture, Dropped, Entry, EntryStream, Place, Put, Stats, StoreError,
    evict::S3Fifo, stats::Counters,
};
use bytes::{Bytes, BytesMut};
use futures_util::{future, stream};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Segments shorter than this are copied.
const COPY_BELOW: usize = 64 << 10;
/// Copies are joined into pieces of at most this.
const PIECE_MAX: usize = 1 << 20;
/// What a blob takes beside its bytes: slot, table, hash, the allocation of the segment list.
const BLOB_OVERHEAD: u64 = 256;
/// What a segment takes beside its bytes: its handle, its shared header, the allocator's rounding.
const SEGMENT_OVERHEAD: u64 = 96;

/// The configuration of a [`MemoryStore`].
#[derive(Clone, Debug)]
pub struct MemoryConfig {
    /// Most bytes that blobs may take, overhead included \[1 GiB\].
    pub bytes_max: u64,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { bytes_max: 1 << 30 }
    }
}

/// A store in memory, with S3-FIFO eviction.
///
/// ```
/// use gannet_store::{BlobStore, MemoryConfig, MemoryStore, Place};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let store = MemoryStore::new(MemoryConfig { bytes_max: 64 << 20 });
/// let place = Place::derive("s3", [b"key".as_slice()]);
/// store.put(&place, vec![bytes::Bytes::from_static(b"abc")]).await?;
/// let blob = store.held(&place).expect("it is in memory");
/// assert_eq!(blob.segments().expect("so are its bytes"), ["abc"]);
/// # Ok::<_, gannet_store::StoreError>(()) }).unwrap();
/// ```
#[derive(Debug)]
pub struct MemoryStore {
    /// None once closed.
    blobs: RwLock<Option<S3Fifo<Place, Arc<[Bytes]>>>>,
    counters: Counters,
    bytes_max: u64,
}

impl MemoryStore {
    /// An empty store.
    pub fn new(config: MemoryConfig) -> Self {
        Self {
            blobs: RwLock::new(Some(S3Fifo::new())),
            counters: Counters::default(),
            bytes_max: config.bytes_max,
        }
    }

    /// The blob; counts a hit, not a miss. An operation may as well be called as awaited: nothing
    /// here waits.
    pub fn get(&self, place: &Place) -> Option<Blob> {
        let segments = self.read().as_ref()?.hit(place)?.clone();
        self.counters.hits.add(1);
        Some(Blob::from_segments(segments))
    }

    /// Stores a blob, evicting what is worth less.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] if it exceeds the budget by itself, [`StoreError::Closed`].
    pub fn insert(&self, place: &Place, segments: Vec<Bytes>) -> Result<Put, StoreError> {
        let end = self.try_insert(place, segments);
        self.counters.commit(&end);
        end
    }

    fn try_insert(&self, place: &Place, segments: Vec<Bytes>) -> Result<Put, StoreError> {
        if self
            .read()
            .as_ref()
            .ok_or(StoreError::Closed)?
            .peek(place)
            .is_some()
        {
            return Ok(Put::Exists);
        }
        let segments = compact(segments);
        let weight = weight(&segments);
        if weight > self.bytes_max {
            return Err(StoreError::TooLarge {
                need: weight,
                max: self.bytes_max,
            });
        }
        // Freed after the lock: to free a blob of many segments takes a while.
        let mut evicted = Vec::new();
        let mut guard = self.write();
        let blobs = guard.as_mut().ok_or(StoreError::Closed)?;
        if blobs.peek(place).is_some() {
            return Ok(Put::Exists);
        }
        while blobs.weight() + weight > self.bytes_max {
            let Some((_, segments, weight)) = blobs.evict(self.bytes_max) else {
                break;
            };
            self.counters.evictions.add(1);
            self.counters.evicted_bytes.add(weight);
            evicted.push(segments);
        }
        blobs.insert(place.clone(), segments.into(), weight);
        drop(guard);
        Ok(Put::Stored)
    }

    fn read(&self) -> RwLockReadGuard<'_, Option<S3Fifo<Place, Arc<[Bytes]>>>> {
        // Nothing panics under the lock; were it so, a map of intact links is still right.
        self.blobs.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Option<S3Fifo<Place, Arc<[Bytes]>>>> {
        self.blobs.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn entries(&self, space: &str) -> Result<Vec<(Place, u64)>, StoreError> {
        let guard = self.read();
        let all = guard.as_ref().ok_or(StoreError::Closed)?.iter();
        Ok(all
            .filter(|(place, _)| &**place.space() == space)
            .map(|(place, segments)| (place.clone(), len(segments)))
            .collect())
    }
}

impl BlobStore for MemoryStore {
    fn held(&self, place: &Place) -> Option<Blob> {
        self.get(place)
    }

    fn open<'a>(&'a self, place: &'a Place) -> BoxFuture<'a, Result<Option<Blob>, StoreError>> {
        let blob = self.get(place);
        if blob.is_none() {
            if self.read().is_none() {
                return Box::pin(future::ready(Err(StoreError::Closed)));
            }
            self.counters.misses.add(1);
        }
        Box::pin(future::ready(Ok(blob)))
    }

    fn put<'a>(
        &'a self,
        place: &'a Place,
        segments: Vec<Bytes>,
    ) -> BoxFuture<'a, Result<Put, StoreError>> {
        Box::pin(async move { self.insert(place, segments) })
    }

    fn remove<'a>(&'a self, place: &'a Place) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            let removed = self
                .write()
                .as_mut()
                .ok_or(StoreError::Closed)?
                .remove(place);
            Ok(removed.is_some())
        })
    }

    fn list(&self, space: &str) -> EntryStream {
        match self.entries(space) {
            Ok(entries) => Box::pin(stream::iter(entries.into_iter().map(|(place, len)| {
                Ok(Entry {
                    digest: *place.digest(),
                    len,
                })
            }))),
            Err(error) => Box::pin(stream::iter([Err(error)])),
        }
    }

    fn drop_space<'a>(&'a self, space: &'a str) -> BoxFuture<'a, Result<Dropped, StoreError>> {
        Box::pin(async move {
            let mut dropped = Dropped::default();
            for (place, _) in self.entries(space)? {
                let removed = self
                    .write()
                    .as_mut()
                    .ok_or(StoreError::Closed)?
                    .remove(&place);
                if let Some(segments) = removed {
                    dropped.blobs += 1;
                    dropped.bytes += len(&segments);
                }
            }
            Ok(dropped)
        })
    }

    fn stats(&self) -> Stats {
        let guard = self.read();
        let (blobs, bytes) = guard
            .as_ref()
            .map_or((0, 0), |blobs| (blobs.len() as u64, blobs.weight()));
        self.counters.stats(blobs, bytes, self.bytes_max)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        let blobs = self.write().take();
        drop(blobs);
        Box::pin(future::ready(()))
    }
}

fn len(segments: &[Bytes]) -> u64 {
    segments.iter().map(|segment| segment.len() as u64).sum()
}

fn weight(segments: &[Bytes]) -> u64 {
    BLOB_OVERHEAD + segments.len() as u64 * SEGMENT_OVERHEAD + len(segments)
}

/// Joins runs of small segments into pieces of their exact size.
fn compact(segments: Vec<Bytes>) -> Vec<Bytes> {
    let mut out = Vec::new();
    let mut segments = segments
        .into_iter()
        .filter(|segment| !segment.is_empty())
        .peekable();
    while let Some(segment) = segments.next() {
        if segment.len() >= COPY_BELOW {
            out.push(segment);
            continue;
        }
        let mut run = vec![segment];
        let mut len = run[0].len();
        while let Some(segment) =
            segments.next_if(|next| next.len() < COPY_BELOW && len + next.len() <= PIECE_MAX)
        {
            len += segment.len();
            run.push(segment);
        }
        let mut piece = BytesMut::with_capacity(len);
        run.iter()
            .for_each(|segment| piece.extend_from_slice(segment));
        out.push(piece.freeze());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;
    use proptest::prelude::*;

    fn place(n: u64) -> Place {
        Place::derive("s", [n.to_le_bytes().as_slice()])
    }

    #[tokio::test]
    async fn conforms() {
        conformance::check(conformance::Suite::local(), async || {
            Arc::new(MemoryStore::new(MemoryConfig::default()))
        })
        .await;
    }

    proptest! {
        #[test]
        fn compaction_keeps_the_bytes(
            lens in prop::collection::vec(prop_oneof![0..200_usize, 60_000..70_000_usize], 0..40),
        ) {
            let segments: Vec<Bytes> =
                lens.iter().zip(0_u8..).map(|(&len, fill)| vec![fill; len].into()).collect();
            let whole = segments.concat();
            let compacted = compact(segments);
            prop_assert_eq!(compacted.concat(), whole);
            prop_assert!(compacted.iter().all(|piece| !piece.is_empty()));
            // No two neighbours are small: nothing is left in crumbs.
            let crumbs = compacted.windows(2).any(|pair| {
                pair.iter().all(|piece| piece.len() < COPY_BELOW)
                    && pair[0].len() + pair[1].len() <= PIECE_MAX - COPY_BELOW
            });
            prop_assert!(!crumbs);
        }

        #[test]
        fn the_budget_holds(lens in prop::collection::vec(0..30_000_usize, 1..60)) {
            let store = MemoryStore::new(MemoryConfig { bytes_max: 100_000 });
            for (n, len) in (0..).zip(lens) {
                prop_assert_eq!(store.insert(&place(n), vec![vec![7; len].into()]).unwrap(), Put::Stored);
                let stats = store.stats();
                prop_assert!(stats.bytes <= stats.bytes_max);
                prop_assert_eq!(stats.blobs + stats.evictions, n + 1);
                prop_assert_eq!(store.get(&place(n)).unwrap().len(), len as u64);
            }
        }
    }

    #[test]
    fn large_segments_are_not_copied_and_small_ones_are() {
        let store = MemoryStore::new(MemoryConfig::default());
        let large = Bytes::from(vec![1; COPY_BELOW]);
        let small = Bytes::from(vec![2; COPY_BELOW]).slice(..10);
        store
            .insert(&place(1), vec![large.clone(), small.clone()])
            .unwrap();
        let blob = store.get(&place(1)).unwrap();
        let [kept, copied] = blob.segments().unwrap() else {
            panic!("{blob:?}")
        };
        assert_eq!(kept.as_ptr(), large.as_ptr());
        assert_ne!(copied.as_ptr(), small.as_ptr());
        assert_eq!(copied, &small);
    }

    #[test]
    fn an_open_blob_outlives_its_eviction() {
        let store = MemoryStore::new(MemoryConfig { bytes_max: 10_000 });
        store
            .insert(&place(0), vec![vec![9; 5_000].into()])
            .unwrap();
        let blob = store.get(&place(0)).unwrap();
        for n in 1..10 {
            store
                .insert(&place(n), vec![vec![1; 5_000].into()])
                .unwrap();
        }
        assert!(store.get(&place(0)).is_none());
        assert_eq!(blob.segments().unwrap().concat(), [9; 5_000]);
    }

    #[test]
    fn too_large_is_said() {
        let store = MemoryStore::new(MemoryConfig { bytes_max: 1_000 });
        let end = store.insert(&place(0), vec![vec![0; 1_000].into()]);
        assert!(
            matches!(end, Err(StoreError::TooLarge { max: 1_000, .. })),
            "{end:?}"
        );
        assert_eq!(store.stats().commits_full, 1);
    }
}
