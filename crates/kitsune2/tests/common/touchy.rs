//! An op store that panics when one op is named, before it returns a future.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use kitsune2_api::*;
use kitsune2_core::{default_test_builder, factories::MemOpStoreFactory};
use kitsune2_test_utils::space::TEST_SPACE_ID;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

#[derive(Debug)]
pub(crate) struct Touchy {
    bad: OpId,
    inner: DynOpStore,
    /// Reads that named it.
    pub(crate) looks: Arc<AtomicUsize>,
}

impl Touchy {
    pub(crate) async fn new(bad: OpId) -> Self {
        let builder = Arc::new(default_test_builder().with_default_config().unwrap());
        let inner = MemOpStoreFactory::create()
            .create(builder, TEST_SPACE_ID)
            .await;
        Self {
            bad,
            inner: inner.unwrap(),
            looks: Arc::default(),
        }
    }
}

impl OpStore for Touchy {
    fn process_incoming_ops(&self, ops: Vec<IncomingOp>) -> BoxFuture<'_, K2Result<Vec<OpId>>> {
        assert!(ops.iter().all(|op| op.op_id != self.bad), "not this one");
        self.inner.process_incoming_ops(ops)
    }

    fn retrieve_op_hashes_in_time_slice(
        &self,
        arc: DhtArc,
        start: Timestamp,
        end: Timestamp,
    ) -> BoxFuture<'_, K2Result<(Vec<OpId>, u32)>> {
        self.inner.retrieve_op_hashes_in_time_slice(arc, start, end)
    }

    fn retrieve_ops(&self, ids: Vec<OpId>) -> BoxFuture<'_, K2Result<Vec<MetaOp>>> {
        if ids.contains(&self.bad) {
            self.looks.fetch_add(1, Relaxed);
            panic!("not this one");
        }
        self.inner.retrieve_ops(ids)
    }

    fn filter_out_existing_ops(&self, ids: Vec<OpId>) -> BoxFuture<'_, K2Result<Vec<OpId>>> {
        self.inner.filter_out_existing_ops(ids)
    }

    fn retrieve_op_ids_bounded(
        &self,
        arc: DhtArc,
        start: Timestamp,
        limit_bytes: u32,
    ) -> BoxFuture<'_, K2Result<(Vec<OpId>, u32, Timestamp)>> {
        self.inner.retrieve_op_ids_bounded(arc, start, limit_bytes)
    }

    fn earliest_timestamp_in_arc(&self, arc: DhtArc) -> BoxFuture<'_, K2Result<Option<Timestamp>>> {
        self.inner.earliest_timestamp_in_arc(arc)
    }

    fn store_slice_hash(
        &self,
        arc: DhtArc,
        slice: u64,
        hash: Bytes,
    ) -> BoxFuture<'_, K2Result<()>> {
        self.inner.store_slice_hash(arc, slice, hash)
    }

    fn slice_hash_count(&self, arc: DhtArc) -> BoxFuture<'_, K2Result<u64>> {
        self.inner.slice_hash_count(arc)
    }

    fn retrieve_slice_hash(
        &self,
        arc: DhtArc,
        slice: u64,
    ) -> BoxFuture<'_, K2Result<Option<Bytes>>> {
        self.inner.retrieve_slice_hash(arc, slice)
    }

    fn retrieve_slice_hashes(&self, arc: DhtArc) -> BoxFuture<'_, K2Result<Vec<(u64, Bytes)>>> {
        self.inner.retrieve_slice_hashes(arc)
    }

    fn query_total_op_count(&self) -> BoxFuture<'_, K2Result<u64>> {
        self.inner.query_total_op_count()
    }
}
