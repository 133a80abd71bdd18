//! [`Budget`]: what all bodies hold together.
//!
//! Fills are admitted by the engine, which reserves the most that each may bring
//! (`engine::Config::bytes_max`). What remains is what outlives its fetch: bodies that are kept by
//! readers alone. Those linger here, in the order in which their fetches ended, and beyond the bound
//! the oldest lose their bytes; their readers are told that they lag.

use super::shared::{Inner, SharedBody};
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// What all bodies hold together.
#[derive(Debug)]
pub struct Budget {
    /// Bytes in all bodies.
    held: AtomicU64,
    /// The most that lingering bodies may hold.
    lingering_max: u64,
    lingering: Mutex<Lingering>,
}

#[derive(Debug, Default)]
struct Lingering {
    /// Oldest first; those that are gone leave a place behind until it is swept.
    queue: VecDeque<Weak<Inner>>,
    /// Bodies that linger, and their bytes.
    bodies: usize,
    bytes: u64,
}

impl Budget {
    /// A budget under which bodies that are kept by readers alone hold at most so many bytes.
    pub fn new(lingering_bytes_max: u64) -> Arc<Self> {
        Arc::new(Self {
            held: AtomicU64::new(0),
            lingering_max: lingering_bytes_max,
            lingering: Mutex::default(),
        })
    }

    /// Bytes in all bodies now.
    pub fn held(&self) -> u64 {
        self.held.load(Relaxed)
    }

    pub(super) fn add(&self, bytes: u64) {
        self.held.fetch_add(bytes, Relaxed);
    }

    pub(super) fn sub(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Lingering> {
        self.lingering
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note that from now on only readers keep this body, which has ended; takes the bytes of
    /// the oldest such bodies while they hold too much together. Amortized O(1).
    pub(crate) fn linger(&self, body: SharedBody) {
        let Some(bytes) = body.inner().begin_to_linger() else {
            return; // It does so already, or there is nothing to bound.
        };
        let mut oldest = Vec::new();
        {
            let mut lingering = self.lock();
            lingering.bodies += 1;
            lingering.bytes += bytes;
            if lingering.queue.len() > 2 * lingering.bodies + 64 {
                lingering.queue.retain(|weak| weak.strong_count() > 0);
            }
            lingering.queue.push_back(Arc::downgrade(body.inner()));
            let mut over = lingering.bytes.saturating_sub(self.lingering_max);
            while over > 0 {
                let Some(weak) = lingering.queue.pop_front() else {
                    break;
                };
                // One that is about to go is not waited for, nor counted twice.
                if let Some(inner) = weak.upgrade() {
                    over = over.saturating_sub(inner.lingering());
                    oldest.push(inner);
                }
            }
        }
        // Outside of the lock: ours may be the last handles, and their end comes back here.
        for inner in oldest {
            inner.trim();
        }
        drop(body);
    }

    /// A body lingers no more: it was trimmed, or has gone.
    pub(super) fn leave(&self, bytes: u64) {
        let mut lingering = self.lock();
        lingering.bodies -= 1;
        lingering.bytes -= bytes;
    }
}

#[cfg(test)]
impl Budget {
    /// Places in the queue.
    pub(super) fn places(&self) -> usize {
        self.lock().queue.len()
    }
}
