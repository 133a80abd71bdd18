//! What a store has done and holds, for metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a store has done since it was opened, and what it holds. Counts never fall; the rest are
/// gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Blobs held; 0 where the store does not know (a shared one).
    pub blobs: u64,
    /// Bytes taken by them, overhead included; 0 where the store does not know.
    pub bytes: u64,
    /// What they may take at this moment: the budget, or less while the disk under it is short.
    pub bytes_max: u64,
    /// Times that a blob was found.
    pub hits: u64,
    /// Times that it was not.
    pub misses: u64,
    /// Blobs dropped to make room.
    pub evictions: u64,
    /// Bytes that evictions freed.
    pub evicted_bytes: u64,
    /// Commits that stored the blob.
    pub commits_stored: u64,
    /// Commits that found it there already.
    pub commits_exists: u64,
    /// Commits that failed for want of room.
    pub commits_full: u64,
    /// Commits that failed otherwise.
    pub commits_error: u64,
    /// Copies found to be not what was put, and dropped.
    pub corrupt: u64,
    /// Copies that vanished behind the store's back.
    pub lost: u64,
    /// Blobs verified in the background.
    pub scrubbed: u64,
}

/// The counts, as they are kept.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) hits: Count,
    pub(crate) misses: Count,
    pub(crate) evictions: Count,
    pub(crate) evicted_bytes: Count,
    pub(crate) stored: Count,
    pub(crate) exists: Count,
    pub(crate) full: Count,
    pub(crate) error: Count,
    pub(crate) corrupt: Count,
    pub(crate) lost: Count,
    pub(crate) scrubbed: Count,
}

impl Counters {
    /// Counts how a commit ended.
    pub(crate) fn commit(&self, end: &Result<crate::Put, crate::StoreError>) {
        match end {
            Ok(crate::Put::Stored) => self.stored.add(1),
            Ok(crate::Put::Exists) => self.exists.add(1),
            Err(crate::StoreError::Full { .. } | crate::StoreError::TooLarge { .. }) => {
                self.full.add(1);
            }
            Err(_) => self.error.add(1),
        }
    }

    pub(crate) fn stats(&self, blobs: u64, bytes: u64, bytes_max: u64) -> Stats {
        Stats {
            blobs,
            bytes,
            bytes_max,
            hits: self.hits.value(),
            misses: self.misses.value(),
            evictions: self.evictions.value(),
            evicted_bytes: self.evicted_bytes.value(),
            commits_stored: self.stored.value(),
            commits_exists: self.exists.value(),
            commits_full: self.full.value(),
            commits_error: self.error.value(),
            corrupt: self.corrupt.value(),
            lost: self.lost.value(),
            scrubbed: self.scrubbed.value(),
        }
    }
}

/// A count that many threads raise; exact, unordered with anything else.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }

    fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
