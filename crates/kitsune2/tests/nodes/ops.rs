//! Ops that follow from their number, and an op store that knows them from wrong ones.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use kitsune2_api::*;
use kitsune2_core::factories::MemoryOp;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Once},
};

/// Numbers that follow from a seed.
pub(crate) fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// The data of an op: its id first, as it would be a hash of the rest.
fn data(n: u64) -> Vec<u8> {
    let mut next = random(n.wrapping_mul(1 << 32));
    let len = 32 + next() % 200;
    let mut data = n.to_be_bytes().to_vec();
    data.resize_with(len as usize, || next() as u8);
    data
}

pub(crate) fn op(n: u64) -> MemoryOp {
    MemoryOp::new(Timestamp::from_micros(n as i64), data(n))
}

pub(crate) fn id(n: u64) -> OpId {
    op(n).compute_op_id()
}

pub(crate) fn offer(numbers: impl IntoIterator<Item = u64>) -> Vec<PublishOp> {
    let offers = numbers.into_iter().map(|n| PublishOp {
        op_id: id(n),
        metadata: None,
    });
    offers.collect()
}

/// The op store panics on what is no op, hundreds of times in some tests: nobody needs to read that.
pub(crate) fn expect_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let text = info.payload_as_str().unwrap_or_default();
            if !text.starts_with("failed to deserialize MemoryOp") {
                print(info);
            }
        }));
    });
}

/// Keeps ops, and leaves out those whose data does not belong to their id. Like the in-memory op
/// store of Kitsune2, it panics on data that it cannot read.
#[derive(Debug, Default)]
pub(crate) struct CheckedStore(Mutex<HashMap<OpId, Bytes>>);

impl CheckedStore {
    pub(crate) fn create() -> DynOpStore {
        Arc::new(Self::default())
    }
}

impl OpStore for CheckedStore {
    fn process_incoming_ops(&self, ops: Vec<IncomingOp>) -> BoxFuture<'_, K2Result<Vec<OpId>>> {
        Box::pin(async move {
            let right: Vec<IncomingOp> = ops
                .into_iter()
                .filter(|op| {
                    let read = MemoryOp::from(op.op_data.clone());
                    let n = read.op_data.first_chunk().copied().map(u64::from_be_bytes);
                    op.op_id == read.compute_op_id() && n.is_some_and(|n| data(n) == read.op_data)
                })
                .collect();
            let mut held = self.0.lock().unwrap();
            let stored = right.into_iter().map(|op| {
                // Not the whole message that it came in.
                let data = Bytes::copy_from_slice(&op.op_data);
                let id = OpId::from(Bytes::copy_from_slice(&op.op_id));
                held.insert(id.clone(), data);
                id
            });
            Ok(stored.collect())
        })
    }

    fn retrieve_ops(&self, ids: Vec<OpId>) -> BoxFuture<'_, K2Result<Vec<MetaOp>>> {
        Box::pin(async move {
            let held = self.0.lock().unwrap();
            let found = ids.into_iter().filter_map(|op_id| {
                let op_data = held.get(&op_id)?.clone();
                Some(MetaOp { op_id, op_data })
            });
            Ok(found.collect())
        })
    }

    fn filter_out_existing_ops(&self, mut ids: Vec<OpId>) -> BoxFuture<'_, K2Result<Vec<OpId>>> {
        Box::pin(async move {
            let held = self.0.lock().unwrap();
            ids.retain(|id| !held.contains_key(id));
            Ok(ids)
        })
    }

    fn query_total_op_count(&self) -> BoxFuture<'_, K2Result<u64>> {
        Box::pin(async { Ok(self.0.lock().unwrap().len() as u64) })
    }

    // What gossip needs, which the tests have none of.

    fn retrieve_op_hashes_in_time_slice(
        &self,
        _: DhtArc,
        _: Timestamp,
        _: Timestamp,
    ) -> BoxFuture<'_, K2Result<(Vec<OpId>, u32)>> {
        Box::pin(async { Err(no_gossip()) })
    }

    fn retrieve_op_ids_bounded(
        &self,
        _: DhtArc,
        _: Timestamp,
        _: u32,
    ) -> BoxFuture<'_, K2Result<(Vec<OpId>, u32, Timestamp)>> {
        Box::pin(async { Err(no_gossip()) })
    }

    fn earliest_timestamp_in_arc(&self, _: DhtArc) -> BoxFuture<'_, K2Result<Option<Timestamp>>> {
        Box::pin(async { Err(no_gossip()) })
    }

    fn store_slice_hash(&self, _: DhtArc, _: u64, _: Bytes) -> BoxFuture<'_, K2Result<()>> {
        Box::pin(async { Err(no_gossip()) })
    }

    fn slice_hash_count(&self, _: DhtArc) -> BoxFuture<'_, K2Result<u64>> {
        Box::pin(async { Err(no_gossip()) })
    }

    fn retrieve_slice_hash(&self, _: DhtArc, _: u64) -> BoxFuture<'_, K2Result<Option<Bytes>>> {
        Box::pin(async { Err(no_gossip()) })
    }

    fn retrieve_slice_hashes(&self, _: DhtArc) -> BoxFuture<'_, K2Result<Vec<(u64, Bytes)>>> {
        Box::pin(async { Err(no_gossip()) })
    }
}

fn no_gossip() -> K2Error {
    K2Error::other("there is no gossip here")
}
