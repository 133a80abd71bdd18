//! An op store that costs little: it keeps ops as they are, and knows a wrong one at sight.

use bytes::Bytes;
use kitsune2_api::{
    BoxFut, DhtArc, IncomingOp, K2Error, K2Result, MetaOp, OpId, OpStore, Timestamp,
};
use std::{
    collections::HashMap,
    sync::{
        RwLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// The length of an id, with which an op's bytes begin.
const ID_LEN: usize = 32;
/// What follows it: an op has 256 bytes.
const REST: [u8; 224] = [7; 224];

/// Some op, with a buffer of its own.
pub(crate) fn op(n: u64) -> Bytes {
    let mut id = [0; ID_LEN];
    // Ids are hashes: they differ everywhere.
    for (place, bytes) in (1..).zip(id.chunks_exact_mut(8)) {
        let mixed = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        bytes.copy_from_slice(
            &mixed
                .wrapping_mul(0xbf58_476d_1ce4_e5b9 + 2 * place)
                .to_le_bytes(),
        );
    }
    Bytes::from([&id[..], &REST].concat())
}

/// The id of an op, with a buffer of its own.
pub(crate) fn id(n: u64) -> OpId {
    OpId::from(Bytes::copy_from_slice(&op(n)[..ID_LEN]))
}

#[derive(Debug, Default)]
pub(crate) struct Store {
    ops: RwLock<HashMap<OpId, Bytes>>,
    stored: AtomicUsize,
    wrong: AtomicUsize,
}

impl Store {
    pub(crate) fn holding(count: u64) -> Self {
        let ops = (0..count).map(|n| (id(n), op(n)));
        Self {
            ops: RwLock::new(ops.collect()),
            ..Self::default()
        }
    }

    /// Ops that came.
    pub(crate) fn stored(&self) -> usize {
        self.stored.load(Relaxed)
    }

    /// Ops that came and are not what their id says.
    pub(crate) fn wrong(&self) -> usize {
        self.wrong.load(Relaxed)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<OpId, Bytes>> {
        self.ops.read().expect("nobody panics")
    }
}

fn not_here<T: Send + 'static>() -> BoxFut<'static, K2Result<T>> {
    Box::pin(async { Err(K2Error::other("gossip is not measured here")) })
}

impl OpStore for Store {
    fn process_incoming_ops(&self, ops: Vec<IncomingOp>) -> BoxFut<'_, K2Result<Vec<OpId>>> {
        Box::pin(async move {
            let mut held = self.ops.write().expect("nobody panics");
            let (before, mut taken) = (held.len(), Vec::with_capacity(ops.len()));
            for op in ops {
                let parts = op.op_data.split_at_checked(ID_LEN);
                if parts.is_none_or(|(id, rest)| id != &op.op_id[..] || rest != REST) {
                    self.wrong.fetch_add(1, Relaxed);
                    continue;
                }
                taken.push(op.op_id.clone());
                held.insert(op.op_id, op.op_data);
            }
            self.stored.fetch_add(held.len() - before, Relaxed);
            Ok(taken)
        })
    }

    fn retrieve_ops(&self, ids: Vec<OpId>) -> BoxFut<'_, K2Result<Vec<MetaOp>>> {
        Box::pin(async move {
            let held = self.read();
            let ops = ids.into_iter().filter_map(|op_id| {
                let op_data = held.get(&op_id)?.clone();
                Some(MetaOp { op_id, op_data })
            });
            Ok(ops.collect())
        })
    }

    fn filter_out_existing_ops(&self, mut ids: Vec<OpId>) -> BoxFut<'_, K2Result<Vec<OpId>>> {
        Box::pin(async move {
            let held = self.read();
            ids.retain(|id| !held.contains_key(id));
            Ok(ids)
        })
    }

    fn query_total_op_count(&self) -> BoxFut<'_, K2Result<u64>> {
        Box::pin(async move { Ok(self.read().len() as u64) })
    }

    fn retrieve_op_hashes_in_time_slice(
        &self,
        _: DhtArc,
        _: Timestamp,
        _: Timestamp,
    ) -> BoxFut<'_, K2Result<(Vec<OpId>, u32)>> {
        not_here()
    }

    fn retrieve_op_ids_bounded(
        &self,
        _: DhtArc,
        _: Timestamp,
        _: u32,
    ) -> BoxFut<'_, K2Result<(Vec<OpId>, u32, Timestamp)>> {
        not_here()
    }

    fn earliest_timestamp_in_arc(&self, _: DhtArc) -> BoxFut<'_, K2Result<Option<Timestamp>>> {
        not_here()
    }

    fn store_slice_hash(&self, _: DhtArc, _: u64, _: Bytes) -> BoxFut<'_, K2Result<()>> {
        not_here()
    }

    fn slice_hash_count(&self, _: DhtArc) -> BoxFut<'_, K2Result<u64>> {
        not_here()
    }

    fn retrieve_slice_hash(&self, _: DhtArc, _: u64) -> BoxFut<'_, K2Result<Option<Bytes>>> {
        not_here()
    }

    fn retrieve_slice_hashes(&self, _: DhtArc) -> BoxFut<'_, K2Result<Vec<(u64, Bytes)>>> {
        not_here()
    }
}
