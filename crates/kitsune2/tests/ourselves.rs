//! What is our own trouble, and not the peers': a store that fails or is slow, no local agent yet. Time is
//! paused: it moves on when nothing else can happen.

mod common;

use common::{Node, Sent, ops, until, url};
use gannet_kitsune2::GannetFetchConfig;
use kitsune2_api::*;
use kitsune2_core::factories::MemoryOp;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::Semaphore;

/// Every peer holds these ops and answers at once, if its request gets through.
fn answering(node: &Node, held: &[MemoryOp], through: impl Fn() -> K2Result<()> + Send + 'static) {
    let held: HashMap<OpId, MemoryOp> = held
        .iter()
        .map(|op| (op.compute_op_id(), op.clone()))
        .collect();
    let wire = Arc::downgrade(&node.wire);
    node.wire.on_send(move |peer, sent| {
        through()?;
        if let (Sent::Request(ids), Some(wire)) = (sent, wire.upgrade()) {
            let ops: Vec<_> = ids.iter().filter_map(|id| held.get(id)).cloned().collect();
            wire.answer(peer, &ops);
        }
        Ok(())
    });
}

async fn drained_within(node: &Node, secs: u64) {
    let (tx, rx) = futures_channel::oneshot::channel();
    node.fetch.notify_on_drained(tx);
    let told = tokio::time::timeout(Duration::from_secs(secs), rx).await;
    told.expect("not drained in time").unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_a_local_agent_asking_is_put_off_and_nothing_is_dropped() {
    let node = Node::new().await;
    let (held, ids) = ops(100);
    let tries = AtomicU32::new(0);
    answering(&node, &held, move || match tries.fetch_add(1, Relaxed) {
        0..5 => Err(K2Error::NoLocalAgentsDuringPreflight),
        _ => Ok(()),
    });
    node.request(&ids, &url(1)).await;
    until("it was tried", async || node.wire.requests() == 2).await;
    assert_eq!(node.pending().await.len(), 100);
    drained_within(&node, 10).await;
    let stats = node.stats();
    assert_eq!((stats.ops_stored, stats.sends_failed), (100, 0));
    assert_eq!(stats.unanswered, 0);
}

#[tokio::test(start_paused = true)]
async fn while_the_store_fails_next_to_nothing_is_asked_for() {
    let down = Arc::new(AtomicBool::new(true));
    let is_down = down.clone();
    let store = common::store_that(move |ops| match is_down.load(Relaxed) {
        true => Err(K2Error::other("the disk is full")),
        false => Ok(ops.into_iter().map(|op| op.op_id).collect()),
    });
    let node = Node::with(GannetFetchConfig::default(), Some(store)).await;
    let (held, ids) = ops(5_000);
    answering(&node, &held, || Ok(()));
    for n in 1..=4 {
        node.request(&ids, &url(n)).await;
    }
    tokio::time::sleep(Duration::from_secs(15)).await;
    // Four peers offer each op. What they may be asked for before any answer is given to the store, and
    // then four requests.
    let asked = node.stats().ops_asked;
    assert!(asked < 3_000, "{asked}");
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(node.stats().given_up, 0);
    down.store(false, Relaxed);
    drained_within(&node, 900).await;
    assert_eq!(node.stats().ops_stored, 5_000);
}

#[tokio::test(start_paused = true)]
async fn what_one_peer_sends_does_not_wait_for_all_that_another_sends() {
    let (gate, stored) = (
        Arc::new(Semaphore::new(0)),
        Arc::new(Mutex::new(Vec::new())),
    );
    let mut store = MockOpStore::new();
    store
        .expect_filter_out_existing_ops()
        .returning(|ids| Box::pin(async { Ok(ids) }));
    let (wait, keep) = (gate.clone(), stored.clone());
    store.expect_process_incoming_ops().returning(move |ops| {
        let (wait, keep) = (wait.clone(), keep.clone());
        Box::pin(async move {
            wait.acquire().await.unwrap().forget();
            let ids: Vec<OpId> = ops.into_iter().map(|op| op.op_id).collect();
            keep.lock().unwrap().extend(ids.clone());
            Ok(ids)
        })
    });
    let config = GannetFetchConfig {
        store_concurrency: 1,
        max_ops_per_store_call: 100,
        ..GannetFetchConfig::default()
    };
    let node = Node::with(config, Some(Arc::new(store))).await;
    // One peer pushes far more than the other.
    let ((many, _), (few, few_ids)) = (ops(4_000), ops(3));
    for part in many.chunks(500) {
        node.wire.answer(&url(1), part);
    }
    until("it waits for the store", async || {
        node.stats().storing > 3_000
    })
    .await;
    node.wire.answer(&url(2), &few);
    until("the others wait, too", async || {
        node.stats().storing == 3_903
    })
    .await;
    gate.add_permits(2);
    until("two calls have ended", async || {
        stored.lock().unwrap().len() == 200
    })
    .await;
    let stored = stored.lock().unwrap();
    assert!(few_ids.iter().all(|id| stored.contains(id)));
}
