//! Tiers: memory, then disk, then a shared store; what is in none of them is at the origin.
//!
//! A lookup goes from the nearest to the farthest and says which tier answered. A blob of the wrong
//! length cannot be the chunk that was asked for (its place is a hash of what it is): it is condemned,
//! so that the catalog of a store that went wrong heals itself. The shared store is asked by the
//! fetcher, as one more source: so all who want a chunk ask it once.
//!
//! Promotion: what comes from the shared store is put in memory and on disk, as what comes from the
//! origin is. What is on disk goes to memory too if it is small, where opening a file costs more than
//! sending it. A large chunk is not kept in memory beside a disk that holds it: the page cache has it
//! anyway, `sendfile` sends it from there without a copy, and it would push a thousand small ones out.
//! Memory takes large chunks where there is no disk, or the disk could not.

use crate::{
    breaker::{Breaker, Standing},
    metrics::{Metrics, Tier},
};
use bytes::Bytes;
use gannet_store::{Blob, BlobStore, Place, Put, StoreError};
use std::{sync::Arc, time::Duration};

/// Blobs up to this size are kept in memory also where the disk holds them.
const SMALL_BYTES_MAX: u64 = 256 << 10;

/// Parts of files from this size on are left to `sendfile`; shorter ones are not worth its call.
pub(crate) const FILE_BYTES_MIN: u64 = 16 << 10;

/// A commit to the shared store that takes longer is given up: the chunk's memory is not freed before.
const PUT_MAX: Duration = Duration::from_secs(30);

/// The stores of one node, nearest first.
#[derive(Debug)]
pub(crate) struct Tiers {
    memory: Arc<dyn BlobStore>,
    disk: Option<Arc<dyn BlobStore>>,
    shared: Option<Arc<dyn BlobStore>>,
    metrics: Arc<Metrics>,
    breaker: Breaker,
}

impl Tiers {
    pub(crate) fn new(
        memory: Arc<dyn BlobStore>,
        disk: Option<Arc<dyn BlobStore>>,
        shared: Option<Arc<dyn BlobStore>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            memory,
            disk,
            shared,
            metrics,
            breaker: Breaker::default(),
        }
    }

    /// The chunk, if it can be served this instant. Never blocks; counts nothing.
    pub(crate) fn held(&self, place: &Place, len: u64) -> Option<(Tier, Blob)> {
        let fits = |blob: Blob| check_len(blob, place, len);
        let memory = || Some((Tier::Memory, self.memory.held(place).and_then(fits)?));
        let disk = || self.held_on_disk(place, len);
        // Whichever is likely to have it, and is cheaper to send from.
        if len > SMALL_BYTES_MAX {
            disk().or_else(memory)
        } else {
            memory().or_else(disk)
        }
    }

    /// The chunk in a verified file that can be sent this instant. Never blocks; counts nothing.
    pub(crate) fn held_on_disk(&self, place: &Place, len: u64) -> Option<(Tier, Blob)> {
        let blob = self.disk.as_ref()?.held(place)?;
        Some((Tier::Disk, check_len(blob, place, len)?))
    }

    /// The chunk from memory or disk, verified on the way if need be; counts nothing. A disk that
    /// fails is as good as an empty one: the chunk is fetched, and the failure counted.
    pub(crate) async fn open_local(&self, place: &Place, len: u64) -> Option<(Tier, Blob)> {
        if let Some(held) = self.held(place, len) {
            return Some(held);
        }
        match self.disk.as_ref()?.open(place).await {
            Ok(blob) => blob
                .and_then(|blob| check_len(blob, place, len))
                .map(|blob| (Tier::Disk, blob)),
            Err(error) => {
                tracing::warn!(%place, %error, "the disk store failed; reading around it");
                self.metrics.store_error(Tier::Disk);
                None
            }
        }
    }

    /// The chunk from the shared store.
    pub(crate) async fn open_shared(
        &self,
        place: &Place,
        len: u64,
    ) -> Result<Option<Blob>, StoreError> {
        let Some(shared) = &self.shared else {
            return Ok(None);
        };
        let Some(pass) = self.breaker.admit() else {
            return Err(StoreError::Transient("it is left alone".into()));
        };
        let opened = shared.open(place).await;
        match &opened {
            Ok(_) => pass.well(),
            Err(error) => {
                pass.failed();
                self.metrics.store_error(Tier::Shared);
                tracing::warn!(%place, %error, "the shared store failed; reading around it");
            }
        }
        Ok(opened?.and_then(|blob| check_len(blob, place, len)))
    }

    /// Copies a small blob from disk to memory, in the background.
    pub(crate) fn promote(&self, place: &Place, tier: Tier, blob: &Blob) {
        if tier != Tier::Disk || blob.len() > SMALL_BYTES_MAX {
            return;
        }
        let (memory, place, blob) = (Arc::clone(&self.memory), place.clone(), blob.clone());
        tokio::spawn(async move {
            match blob.to_bytes(0..blob.len()).await {
                Ok(bytes) => drop(memory.put(&place, vec![bytes]).await),
                Err(error) => tracing::debug!(%place, %error, "cannot promote"),
            }
        });
    }

    /// Commits a verified chunk to all tiers, except the one that it came from. Good if it is in any
    /// that outlives the request: the disk if there is one, else the shared store, else memory.
    pub(crate) async fn commit(
        &self,
        place: &Place,
        segments: &[Bytes],
        from_shared: bool,
    ) -> Result<Put, StoreError> {
        let len: u64 = segments.iter().map(|segment| segment.len() as u64).sum();
        let mut memory = None;
        if self.disk.is_none() || len <= SMALL_BYTES_MAX {
            memory = Some(self.memory.put(place, segments.to_vec()).await);
        }
        let disk = async {
            match &self.disk {
                Some(disk) => Some(disk.put(place, segments.to_vec()).await),
                None => None,
            }
        };
        let shared = async {
            let shared = self.shared.as_ref().filter(|_| !from_shared)?;
            let pass = self.breaker.admit()?;
            let put = shared.put(place, segments.to_vec());
            let put = match tokio::time::timeout(PUT_MAX, put).await {
                Ok(put) => put,
                Err(_) => Err(StoreError::Transient("it takes too long".into())),
            };
            match &put {
                Ok(_) | Err(StoreError::TooLarge { .. }) => pass.well(),
                Err(_) => pass.failed(),
            }
            Some(put)
        };
        let (disk, shared) = tokio::join!(disk, shared);
        for (tier, put) in [(Tier::Disk, &disk), (Tier::Shared, &shared)] {
            if let Some(Err(error)) = put {
                self.metrics.store_error(tier);
                tracing::warn!(%place, ?tier, %error, "a chunk could not be stored");
            }
        }
        if memory.is_none() && !matches!(disk, Some(Ok(_))) {
            memory = Some(self.memory.put(place, segments.to_vec()).await);
        }
        disk.or(shared)
            .or(memory)
            .unwrap_or(Err(StoreError::Closed))
    }

    /// Keeps a chunk that came from another member in memory, to serve it on; its copy is that
    /// member's.
    pub(crate) async fn keep(&self, place: &Place, segments: &[Bytes]) -> Result<Put, StoreError> {
        self.memory.put(place, segments.to_vec()).await
    }

    /// Removes a chunk from all tiers.
    pub(crate) async fn remove(&self, place: &Place) -> Result<(), StoreError> {
        for store in self.all() {
            store.remove(place).await?;
        }
        Ok(())
    }

    /// How it stands with the shared store, if there is one.
    pub(crate) fn shared_standing(&self) -> Option<Standing> {
        self.shared.as_ref().map(|_| self.breaker.standing())
    }

    /// What keeps calls from the shared store.
    pub(crate) const fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// The stores that there are, nearest first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<dyn BlobStore>> {
        [Some(&self.memory), self.disk.as_ref(), self.shared.as_ref()]
            .into_iter()
            .flatten()
    }

    /// The stores that there are, by tier.
    pub(crate) fn by_tier(&self) -> impl Iterator<Item = (Tier, &Arc<dyn BlobStore>)> {
        let stores = [
            (Tier::Memory, Some(&self.memory)),
            (Tier::Disk, self.disk.as_ref()),
            (Tier::Shared, self.shared.as_ref()),
        ];
        stores
            .into_iter()
            .filter_map(|(tier, store)| Some((tier, store?)))
    }

    /// Whether a chunk that is read ahead would be kept until it is read.
    pub(crate) fn keeps(&self, bytes: u64) -> bool {
        let room = |store: &Arc<dyn BlobStore>| store.stats().bytes_max >= bytes;
        room(&self.memory) || self.disk.as_ref().is_some_and(room)
    }

    /// Closes all stores: what is being committed is committed.
    pub(crate) async fn close(&self) {
        for store in self.all() {
            store.close().await;
        }
    }
}

fn check_len(blob: Blob, place: &Place, len: u64) -> Option<Blob> {
    if blob.len() == len {
        return Some(blob);
    }
    tracing::warn!(%place, is = blob.len(), should = len, "a stored chunk has the wrong length");
    blob.condemn("wrong length");
    None
}
