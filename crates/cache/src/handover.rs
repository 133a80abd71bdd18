//! Handing over: what a member of a cluster does with its chunks before it ends.
//!
//! Where there is no shared store, the coordinator's disk has the only copy. Whoever follows a member
//! that leaves would have to ask the origin for all of it again. So one that leaves in order tells for
//! each of its chunks the member that follows it ([`gannet_cluster::View::heir`]), which fetches it from
//! here like a coordinator that was there before it, and keeps it. This ends when all are handed over, or
//! when the time that is left for clients to finish is over: what was not is fetched from the origin
//! anew, when it is asked for. What was put on disk before the last start and was not read since is not
//! handed over: nobody knows by name what it is.

use crate::{core::ReadPath, key::CacheKey, key::ChunkKey};
use futures_util::{StreamExt as _, stream};
use gannet_cluster::Member;
use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Chunks on their way at once.
const AT_ONCE: usize = 8;

/// What became of the chunks.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    handed: u64,
    refused: u64,
    /// Of members that cannot be reached.
    left: u64,
}

impl ReadPath {
    /// Has the members that follow this one fetch what it holds, within so long.
    pub(crate) async fn hand_over(&self, within: Duration) {
        let ways = &self.0.ways;
        let Some(cluster) = &ways.cluster else {
            return;
        };
        cluster.leave();
        if ways.sources.shared || cluster.members().others().next().is_none() {
            return;
        }
        let sum = Mutex::new(Sum::default());
        let lost: Mutex<BTreeSet<Member>> = Mutex::default();
        let chunks = ways.versions.all().into_iter().flat_map(|version| {
            let count = version.size.div_ceil(version.chunk_size);
            (0..count).map(move |index| ChunkKey {
                version: version.clone(),
                index,
            })
        });
        let one = |chunk: ChunkKey| async {
            let chunk = chunk;
            let placement = CacheKey::Chunk(chunk.clone()).placement();
            let heir = cluster.members().view.heir(placement).cloned();
            let Some(heir) = heir else {
                return;
            };
            let held = ways.tiers.open_local(&chunk.place(), chunk.len()).await;
            if held.is_none() {
                return;
            }
            let lock = || lost.lock().unwrap_or_else(PoisonError::into_inner);
            let is_lost = lock().contains(&heir);
            let done = if is_lost {
                Err(String::new())
            } else {
                cluster.hand_over(&self.0.origin_id, &chunk, &heir).await
            };
            let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
            match done {
                Ok(true) => sum.handed += 1,
                Ok(false) => sum.refused += 1,
                Err(error) => {
                    sum.left += 1;
                    if lock().insert(heir.clone()) {
                        tracing::warn!(?heir, error, "cannot be handed anything");
                    }
                }
            }
        };
        let all = stream::iter(chunks).for_each_concurrent(AT_ONCE, one);
        let in_time = tokio::time::timeout(within, all).await.is_ok();
        let sum = *sum.lock().unwrap_or_else(PoisonError::into_inner);
        tracing::info!(?sum, in_time, "handed over to other members");
    }
}
