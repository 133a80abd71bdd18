//! What the stock module lacks: asking again, batches, bounds, turns. Time is paused: it moves on when
//! nothing else can happen.

mod common;

use bytes::Bytes;
use common::{Node, Sent, Wire, offer, op, ops, store_that, until, url};
use gannet_kitsune2::GannetFetchConfig;
use kitsune2_api::*;
use kitsune2_core::factories::MemoryOp;
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, Weak, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::time::Instant;

/// Peers that hold these ops answer, each request with one message, as a stock node does.
fn answering(node: &Node, held: &[(Url, &[MemoryOp])]) {
    let held: HashMap<Url, HashMap<OpId, MemoryOp>> = held
        .iter()
        .map(|(url, ops)| {
            let ops = ops.iter().map(|op| (op.compute_op_id(), op.clone()));
            (url.clone(), ops.collect())
        })
        .collect();
    let wire: Weak<Wire> = Arc::downgrade(&node.wire);
    node.wire.on_send(move |peer, sent| {
        if let (Sent::Request(ids), Some(wire)) = (sent, wire.upgrade())
            && let Some(held) = held.get(peer)
        {
            let ops: Vec<_> = ids.iter().filter_map(|id| held.get(id)).cloned().collect();
            if !ops.is_empty() {
                wire.answer(peer, &ops);
            }
        }
        Ok(())
    });
}

/// Keeps the seconds at which each op is asked of each peer.
fn timing(node: &Node) -> Arc<Mutex<Vec<(u64, OpId, Url)>>> {
    let (kept, began) = (Arc::new(Mutex::new(Vec::new())), Instant::now());
    let keep = kept.clone();
    node.wire.on_send(move |peer, sent| {
        if let Sent::Request(ids) = sent {
            let at = began.elapsed().as_secs();
            let asked = ids.iter().map(|id| (at, id.clone(), peer.clone()));
            keep.lock().unwrap().extend(asked);
        }
        Ok(())
    });
    kept
}

async fn drained_within(node: &Node, secs: u64) {
    let (tx, rx) = futures_channel::oneshot::channel();
    node.fetch.notify_on_drained(tx);
    let told = tokio::time::timeout(Duration::from_secs(secs), rx).await;
    told.expect("not drained in time").unwrap();
}

#[tokio::test(start_paused = true)]
async fn silence_is_asked_again_after_20_s_growing_to_10_min_then_the_wants_are_dropped() {
    let node = Node::new().await;
    let asked = timing(&node);
    let (_, ids) = ops(3);
    node.request(&ids, &url(1)).await;
    drained_within(&node, 3_600).await;
    // Two seconds of silence each time, then 20, 62, 193 and 600 s.
    let at = |n: usize| -> Vec<u64> {
        let asked = asked.lock().unwrap();
        asked
            .iter()
            .filter(|(_, id, _)| *id == ids[n])
            .map(|(at, ..)| *at)
            .collect()
    };
    for n in 0..3 {
        assert_eq!(at(n), [0, 22, 86, 281, 883], "op {n}");
    }
    assert!(node.pending().await.is_empty());
    assert_eq!(node.stats().given_up, 3);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_comes_and_goes_uses_up_no_patience() {
    let node = Node::new().await;
    let asked = timing(&node);
    let (_, wanted) = ops(1);
    node.request(&wanted, &url(1)).await;
    for _ in 0..30 {
        // Its connection ends under a request, and it is there again.
        let (held, ids) = ops(1);
        node.request(&ids, &url(1)).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        node.wire.handler().peer_disconnect(url(1), None);
        tokio::time::sleep(Duration::from_secs(1)).await;
        node.wire.answer(&url(1), &held);
        tokio::time::sleep(Duration::from_secs(8)).await;
    }
    let times = || {
        let asked = asked.lock().unwrap();
        asked.iter().filter(|(_, id, _)| *id == wanted[0]).count()
    };
    assert!(times() > 10, "it was asked for {} times", times());
    assert_eq!(node.pending().await.len(), 1);
    // What it answers nothing for has an end all the same.
    tokio::time::sleep(Duration::from_secs(500)).await;
    assert_eq!(node.pending().await.len(), 1);
    drained_within(&node, 700).await;
    assert_eq!(node.stats().given_up, 1);
}

#[tokio::test(start_paused = true)]
async fn what_one_peer_does_not_answer_for_is_asked_of_the_others() {
    let node = Node::new().await;
    let (held, ids) = ops(50);
    answering(&node, &[(url(3), &held)]);
    for n in 1..=3 {
        node.request(&ids, &url(n)).await;
    }
    // Two silent ones at most, two seconds each.
    drained_within(&node, 5).await;
    assert_eq!(node.op_store.retrieve_ops(ids).await.unwrap().len(), 50);
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_is_as_welcome_as_any() {
    let node = Node::new().await;
    let op = op();
    node.request(&[op.compute_op_id()], &url(1)).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(node.stats().unanswered, 1);
    node.wire.answer(&url(1), &[op]);
    drained_within(&node, 1).await;
    assert_eq!((node.stats().late, node.wire.requests()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn what_a_peer_that_answers_does_not_hold_is_dropped_alone() {
    let node = Node::new().await;
    let ((held, held_ids), (_, missing)) = (ops(10), ops(3));
    answering(&node, &[(url(1), &held)]);
    node.request(&missing, &url(1)).await;
    node.request(&held_ids[..5], &url(1)).await;
    until("five are here", async || node.stats().ops_stored == 5).await;
    // It is given up with the fifth request; the peer had an answer for others meanwhile.
    tokio::time::sleep(Duration::from_secs(800)).await;
    assert_eq!(node.pending().await.len(), 3);
    node.request(&held_ids[5..], &url(1)).await;
    until("ten are here", async || node.stats().ops_stored == 10).await;
    drained_within(&node, 200).await;
    assert_eq!(node.stats().given_up, 3);
}

#[tokio::test(start_paused = true)]
async fn new_ops_are_not_stuck_behind_unavailable_ones() {
    let node = Node::new().await;
    let (held, ids) = ops(1);
    answering(&node, &[(url(1), &held)]);
    node.request(&ops(50_000).1, &url(1)).await;
    let began = Instant::now();
    node.request(&ids, &url(1)).await;
    until("the new one is here", async || node.stats().ops_stored == 1).await;
    // As long as it takes until those in flight count as not answered.
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn ops_travel_in_batches() {
    let node = Node::new().await;
    let (held, ids) = ops(10_000);
    answering(&node, &[(url(1), &held)]);
    node.request(&ids, &url(1)).await;
    drained_within(&node, 10).await;
    let requests = node.wire.requests();
    assert!(requests < 200, "{requests}");
    assert_eq!(node.wire.asked().len(), 10_000);
    assert_eq!(node.stats().ops_stored, 10_000);
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_in_vain_is_asked_in_smaller_company() {
    let node = Node::new().await;
    let (held, ids) = ops(16);
    // A peer whose answer to more than two ops does not fit its transport.
    let wire = Arc::downgrade(&node.wire);
    node.wire.on_send(move |peer, sent| {
        if let (Sent::Request(ids), Some(wire)) = (sent, wire.upgrade())
            && ids.len() <= 2
        {
            let ops: Vec<_> = held
                .iter()
                .filter(|op| ids.contains(&op.compute_op_id()))
                .cloned()
                .collect();
            wire.answer(peer, &ops);
        }
        Ok(())
    });
    node.request(&ids, &url(1)).await;
    drained_within(&node, 60).await;
    assert_eq!(node.stats().ops_stored, 16);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_is_not_waited_for() {
    let node = Node::new().await;
    let (held, ids) = ops(5);
    answering(&node, &[(url(2), &held)]);
    node.request(&ids, &url(1)).await;
    until("the first is asked", async || node.wire.requests() == 1).await;
    node.request(&ids, &url(2)).await;
    let began = Instant::now();
    node.wire.handler().peer_disconnect(url(1), None);
    until("they are here", async || node.stats().ops_stored == 5).await;
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_with_the_last_of_patience_is_survived() {
    let config = GannetFetchConfig {
        max_ops_per_request: 1,
        num_back_off_intervals: 0,
        ..GannetFetchConfig::default()
    };
    let node = Node::with(config, None).await;
    let (held, ids) = ops(5);
    answering(&node, &[(url(2), &held)]);
    node.request(&ids, &url(1)).await;
    until("all are asked", async || node.wire.requests() == 5).await;
    // Once, it is asked again over another connection.
    node.wire.handler().peer_disconnect(url(1), None);
    until("all are asked again", async || node.wire.requests() == 10).await;
    // The first that is in vain is one too many, and takes the peer's other requests with it.
    node.wire.handler().peer_disconnect(url(1), None);
    drained_within(&node, 1).await;
    node.request(&ids, &url(2)).await;
    until("they are here", async || node.stats().ops_stored == 5).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_pushed_and_refused_costs_no_other_want() {
    let store = store_that(|_| Ok(Vec::new()));
    let config = GannetFetchConfig {
        num_back_off_intervals: 0,
        max_ops_in_flight_per_peer: 1,
        ..GannetFetchConfig::default()
    };
    let node = Node::with(config, Some(store)).await;
    let (lies, ids) = ops(3);
    node.request(&ids, &url(1)).await;
    until("the first is asked for", async || node.wire.requests() == 1).await;
    // The others wait for their turn.
    node.wire.answer(&url(1), &lies[2..]);
    until("it was refused", async || node.stats().refused == 1).await;
    assert_eq!(node.pending().await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn silence_of_a_peer_that_lied_is_no_reason_to_ask_it_sooner() {
    let store = store_that(|_| Ok(Vec::new()));
    let node = Node::with(GannetFetchConfig::default(), Some(store)).await;
    let asked = timing(&node);
    let (lies, lie_ids) = ops(1);
    node.request(&lie_ids, &url(1)).await;
    until("it is asked", async || node.wire.requests() == 1).await;
    node.wire.answer(&url(1), &lies);
    until("it has lied", async || node.stats().refused == 1).await;
    node.request(&ops(3).1, &url(1)).await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(asked.lock().unwrap().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_second_peer_is_asked_early_where_the_host_says_so() {
    let config = GannetFetchConfig {
        hedge_ms: 300,
        ..GannetFetchConfig::default()
    };
    let node = Node::with(config, None).await;
    let (held, ids) = ops(5);
    node.request(&ids, &url(1)).await;
    until("the first is asked", async || node.wire.requests() == 1).await;
    answering(&node, &[(url(2), &held)]);
    let began = Instant::now();
    node.request(&ids, &url(2)).await;
    drained_within(&node, 10).await;
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
}

fn failing_on(
    bad: Vec<OpId>,
    how: fn() -> K2Result<Vec<OpId>>,
) -> (DynOpStore, Arc<Mutex<HashSet<OpId>>>) {
    let stored = Arc::new(Mutex::new(HashSet::new()));
    let mut store = MockOpStore::new();
    store
        .expect_filter_out_existing_ops()
        .returning(|ids| Box::pin(async { Ok(ids) }));
    let keep = stored.clone();
    store.expect_process_incoming_ops().returning(move |ops| {
        let ids: Vec<OpId> = ops.into_iter().map(|op| op.op_id).collect();
        let fails = ids.iter().any(|id| bad.contains(id));
        let keep = keep.clone();
        Box::pin(async move {
            if fails {
                return how();
            }
            keep.lock().unwrap().extend(ids.iter().cloned());
            Ok(ids)
        })
    });
    (Arc::new(store), stored)
}

#[tokio::test(start_paused = true)]
async fn one_op_that_the_store_fails_or_panics_on_does_not_keep_others_out() {
    let hows: [fn() -> _; 2] = [|| Err(K2Error::other("bad op")), || panic!("worse op")];
    for how in hows {
        let (held, ids) = ops(40);
        let (store, stored) = failing_on(vec![ids[7].clone(), ids[30].clone()], how);
        let node = Node::with(GannetFetchConfig::default(), Some(store)).await;
        answering(&node, &[(url(1), &held)]);
        node.request(&ids, &url(1)).await;
        until("all but two are stored", async || {
            stored.lock().unwrap().len() == 38
        })
        .await;
        assert_eq!(node.pending().await.len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_fails_with_one_op_is_not_repeated_before_it_is_asked_for_again() {
    let calls = Arc::new(Mutex::new(0));
    let count = calls.clone();
    let store = store_that(move |_| {
        *count.lock().unwrap() += 1;
        Err(K2Error::other("bad op"))
    });
    let node = Node::with(GannetFetchConfig::default(), Some(store)).await;
    let (held, ids) = ops(1);
    answering(&node, &[(url(1), &held)]);
    node.request(&ids, &url(1)).await;
    until("it failed", async || node.stats().store_failures == 1).await;
    assert_eq!(*calls.lock().unwrap(), 1);
    assert_eq!(node.pending().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_panics_before_it_returns_a_future_is_survived() {
    let ((held, ids), (other, other_ids)) = (ops(3), ops(2));
    let store = common::touchy::Touchy::new(ids[1].clone()).await;
    let looks = store.looks.clone();
    let config = GannetFetchConfig {
        store_concurrency: 1,
        ..GannetFetchConfig::default()
    };
    let node = Node::with(config, Some(Arc::new(store))).await;
    answering(&node, &[(url(1), &held), (url(2), &other)]);
    node.request(&ids, &url(1)).await;
    until("two are stored", async || node.stats().ops_stored == 2).await;
    // It stores on, and it serves on.
    node.request(&other_ids, &url(2)).await;
    until("the others are stored", async || {
        node.stats().ops_stored == 4
    })
    .await;
    for n in 1..=3 {
        let ask = serialize_request_message(vec![ids[1].clone()]);
        node.wire.receive(&url(9), ask).unwrap();
        until("it was looked up", async || looks.load(Relaxed) == n).await;
    }
    until("nothing waits to be served", async || {
        node.stats().serving_bytes == 0
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_liar_is_passed_over_for_an_honest_peer() {
    let (held, ids) = ops(20);
    let honest: HashMap<OpId, Bytes> = held
        .iter()
        .map(|op| (op.compute_op_id(), Bytes::from(op.clone())))
        .collect();
    let stored = Arc::new(Mutex::new(HashSet::new()));
    let keep = stored.clone();
    let store = store_that(move |ops| {
        let good = ops.into_iter().filter(|op| honest[&op.op_id] == op.op_data);
        let good: Vec<OpId> = good.map(|op| op.op_id).collect();
        keep.lock().unwrap().extend(good.iter().cloned());
        Ok(good)
    });
    let node = Node::with(GannetFetchConfig::default(), Some(store)).await;
    let lies: HashMap<OpId, MetaOp> = ids
        .iter()
        .map(|id| {
            let lie = MetaOp {
                op_id: id.clone(),
                op_data: Bytes::from_static(b"a lie"),
            };
            (id.clone(), lie)
        })
        .collect();
    let (wire, truth) = (Arc::downgrade(&node.wire), held);
    node.wire.on_send(move |peer, sent| {
        if let (Sent::Request(ids), Some(wire)) = (sent, wire.upgrade()) {
            if *peer == url(1) {
                let ops = ids.iter().map(|id| lies[id].clone()).collect();
                wire.receive(peer, serialize_response_message(ops)).unwrap();
            } else {
                let ops: Vec<_> = truth
                    .iter()
                    .filter(|op| ids.contains(&op.compute_op_id()))
                    .cloned()
                    .collect();
                wire.answer(peer, &ops);
            }
        }
        Ok(())
    });
    node.request(&ids, &url(1)).await;
    node.request(&ids, &url(2)).await;
    drained_within(&node, 5).await;
    assert_eq!(stored.lock().unwrap().len(), 20);
    assert!(
        node.report
            .0
            .lock()
            .unwrap()
            .iter()
            .all(|(from, ..)| *from == url(2))
    );
}

#[tokio::test(start_paused = true)]
async fn at_the_bound_requests_wait_and_a_silent_peer_is_refused() {
    let config = GannetFetchConfig {
        max_pending: 100,
        max_pending_per_peer: 60,
        ..GannetFetchConfig::default()
    };
    let node = Node::with(config, None).await;
    let (held, ids) = ops(500);
    answering(&node, &[(url(1), &held)]);
    // More than fits: it goes on as ops arrive.
    node.request(&ids, &url(1)).await;
    drained_within(&node, 1).await;
    assert_eq!(node.stats().ops_stored, 500);
    // Nobody answers: taken as far as there is room, and then refused, by then because it is silent.
    let error = node
        .fetch
        .request_ops(offer(&ops(100).1), url(2))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("40 ops"), "{error}");
    assert_eq!(node.pending().await.len(), 60);
    let error = node
        .fetch
        .request_ops(offer(&ops(10).1), url(2))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("does not answer"), "{error}");
    // Others have the rest.
    node.request(&ops(40).1, &url(3)).await;
}

#[tokio::test(start_paused = true)]
async fn a_response_that_does_not_fit_is_counted_and_asked_for_again() {
    // A store that hangs until it is let go.
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let mut store = MockOpStore::new();
    store
        .expect_filter_out_existing_ops()
        .returning(|ids| Box::pin(async { Ok(ids) }));
    let wait = gate.clone();
    store.expect_process_incoming_ops().returning(move |ops| {
        let wait = wait.clone();
        Box::pin(async move {
            let _ = wait.acquire().await;
            Ok(ops.into_iter().map(|op| op.op_id).collect())
        })
    });
    let config = GannetFetchConfig {
        max_incoming_bytes: 160_000,
        ..GannetFetchConfig::default()
    };
    let node = Node::with(config, Some(Arc::new(store))).await;
    let (held, ids) = ops(320);
    answering(&node, &[(url(1), &held)]);
    node.request(&ids, &url(1)).await;
    until("responses are dropped", async || {
        node.stats().responses_dropped > 0
    })
    .await;
    assert!(node.stats().held_bytes <= 160_000);
    gate.add_permits(1_000);
    drained_within(&node, 200).await;
    assert_eq!(node.stats().ops_stored, 320);
    assert_eq!(node.stats().held_bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn answers_too_large_to_be_read_do_not_keep_a_want_for_ever() {
    let config = GannetFetchConfig {
        num_back_off_intervals: 2,
        // Room for two ops in one response.
        max_incoming_bytes: 2_048,
        ..GannetFetchConfig::default()
    };
    let node = Node::with(config, None).await;
    let (lies, _) = ops(3);
    let wire = Arc::downgrade(&node.wire);
    node.wire.on_send(move |peer, sent| {
        if let (Sent::Request(_), Some(wire)) = (sent, wire.upgrade()) {
            wire.answer(peer, &lies);
        }
        Ok(())
    });
    node.request(&ops(1).1, &url(1)).await;
    drained_within(&node, 700).await;
    let stats = node.stats();
    assert_eq!((stats.responses_dropped, stats.given_up), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_there_is_never_room_for_does_not_keep_a_want_for_ever() {
    let mut store = MockOpStore::new();
    store
        .expect_filter_out_existing_ops()
        .returning(|ids| Box::pin(async { Ok(ids) }));
    let hangs = || Box::pin(std::future::pending::<K2Result<Vec<OpId>>>());
    store
        .expect_process_incoming_ops()
        .returning(move |_| hangs());
    let config = GannetFetchConfig {
        num_back_off_intervals: 2,
        max_incoming_bytes: 2_048,
        ..GannetFetchConfig::default()
    };
    let node = Node::with(config, Some(Arc::new(store))).await;
    let (held, ids) = ops(2);
    answering(&node, &[(url(1), &held)]);
    node.request(&ids[..1], &url(1)).await;
    until("one is being stored", async || node.stats().held_bytes > 0).await;
    node.request(&ids[1..], &url(1)).await;
    // Three requests that are forgiven, and three that are not: 20 s lie between the first two, and
    // 600 s between the others.
    tokio::time::sleep(Duration::from_secs(2_400)).await;
    let stats = node.stats();
    assert_eq!((stats.responses_dropped, stats.given_up), (5, 0));
    tokio::time::sleep(Duration::from_secs(100)).await;
    let stats = node.stats();
    assert_eq!((stats.responses_dropped, stats.given_up), (6, 1));
    assert_eq!(node.pending().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn no_more_is_asked_for_at_once_than_would_be_read() {
    let config = GannetFetchConfig {
        max_incoming_bytes: 2_048,
        max_ops_in_flight_per_peer: 2,
        ..GannetFetchConfig::default()
    };
    let node = Node::with(config, None).await;
    let (held, ids) = ops(40);
    answering(&node, &[(url(1), &held)]);
    node.request(&ids, &url(1)).await;
    drained_within(&node, 700).await;
    assert_eq!(node.stats().ops_stored, 40);
}

#[tokio::test(start_paused = true)]
async fn a_transport_that_is_gone_ends_what_is_wanted() {
    let node = Node::new().await;
    node.request(&ops(3).1, &url(1)).await;
    let Node { fetch, wire, .. } = node;
    drop(wire);
    let (tx, rx) = futures_channel::oneshot::channel();
    fetch.notify_on_drained(tx);
    tokio::time::timeout(Duration::from_secs(60), rx)
        .await
        .unwrap()
        .unwrap();
    assert!(fetch.request_ops(offer(&ops(1).1), url(1)).await.is_err());
}

#[test]
fn settings_that_no_node_can_run_with_are_refused_by_name() {
    use gannet_kitsune2::{GannetFetchFactory, GannetFetchModConfig};
    let bad = [
        (
            GannetFetchConfig {
                max_ops_per_request: 0,
                ..Default::default()
            },
            "maxOpsPerRequest",
        ),
        (
            GannetFetchConfig {
                last_back_off_interval_ms: 1,
                ..Default::default()
            },
            "lastBackOffIntervalMs",
        ),
    ];
    for (gannet_fetch, name) in bad {
        let config = Config::default();
        let settings = GannetFetchModConfig {
            gannet_fetch,
            ..Default::default()
        };
        config.set_module_config(&settings).unwrap();
        let error = GannetFetchFactory::create()
            .validate_config(&config)
            .unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
}
