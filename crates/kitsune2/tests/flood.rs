//! A module that is fed more than it can hold stays bounded, and serves and fetches meanwhile. Straight
//! into the module, for a network would be the bottleneck.

mod common;

use bytes::{Bytes, BytesMut};
use common::Node;
use gannet_kitsune2::GannetFetchConfig;
use kitsune2_api::*;
use kitsune2_core::factories::MemoryOp;
use prost::Message as _;
use std::{sync::Arc, time::Duration};
use tokio::sync::{Mutex, MutexGuard, Semaphore};

/// One test at a time, for they measure the memory of the process.
async fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::const_new(());
    ONE.lock().await
}

/// Waits until it is so, for at most a minute.
async fn until(what: &str, mut it: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(60), async {
        while !it().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(waited.await.is_ok(), "it never happened that {what}");
}

fn message(kind: FetchMessageType, data: impl Into<Bytes>) -> Bytes {
    let message = K2FetchMessage {
        fetch_message_type: kind.into(),
        data: data.into(),
    };
    message.encode_to_vec().into()
}

/// So much memory the process has taken at most, in bytes; 0 where that is not told.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// An op store that takes anything and keeps nothing, but for what it holds already.
fn forgetful(held: Vec<MemoryOp>) -> DynOpStore {
    let mut store = MockOpStore::new();
    store
        .expect_filter_out_existing_ops()
        .returning(|ids| Box::pin(async { Ok(ids) }));
    store.expect_process_incoming_ops().returning(|ops| {
        let ids = ops.into_iter().map(|op| op.op_id).collect();
        Box::pin(async { Ok(ids) })
    });
    store.expect_retrieve_ops().returning(move |ids| {
        let found = held.iter().filter(|op| ids.contains(&op.compute_op_id()));
        let found = found.cloned().map(MetaOp::from).collect();
        Box::pin(async { Ok(found) })
    });
    Arc::new(store)
}

/// A node that everybody but one floods with answers, a million of them: it asks that one, and
/// serves it.
async fn a_million_answers(config: GannetFetchConfig, answer: impl Fn(u64) -> Bytes) -> Node {
    const ANSWERS: u64 = 1_000_000;
    let _alone = alone().await;
    let (friend, enemy) = (common::url(1), common::url(2));
    let held = common::op();
    let node = Node::with(config, Some(forgetful(vec![held.clone()]))).await;
    let before = peak_memory();
    let most = u64::from(GannetFetchConfig::default().max_incoming_bytes);
    let mut rounds = 0;
    for n in 0..ANSWERS {
        node.wire.receive(&enemy, answer(n)).unwrap();
        if n % 100_000 != 0 {
            continue;
        }
        rounds += 1;
        assert!(node.stats().held_bytes <= most, "{:?}", node.stats());
        let wanted = common::op();
        node.request(&[wanted.compute_op_id()], &friend).await;
        let ask = serialize_request_message(vec![held.compute_op_id()]);
        node.wire.receive(&friend, ask).unwrap();
        until("it asks and serves", async || {
            node.wire.requests() == rounds && node.wire.responses().len() == rounds
        })
        .await;
        node.wire.answer(&friend, &[wanted]);
        until("the answer is taken", async || {
            node.pending().await.is_empty()
        })
        .await;
    }
    until("everything is dealt with", async || {
        let stats = node.stats();
        (stats.held_bytes, stats.storing) == (0, 0)
    })
    .await;
    let grown = peak_memory().saturating_sub(before);
    println!("{} MiB more at most, {:?}", grown >> 20, node.stats());
    assert!(grown < 512 << 20, "{} MiB", grown >> 20);
    node
}

fn unsolicited(n: u64) -> Bytes {
    let mut id = BytesMut::from(&n.to_be_bytes()[..]);
    id.resize(32, 1);
    let op = MetaOp {
        op_id: OpId::from(id.freeze()),
        op_data: Bytes::from_static(&[7; 100]),
    };
    serialize_response_message(vec![op])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_unsolicited_answers_are_stored_as_far_as_there_is_room() {
    let node = a_million_answers(GannetFetchConfig::default(), unsolicited).await;
    let stats = node.stats();
    let seen = stats.unsolicited + stats.unsolicited_dropped + stats.responses_dropped;
    assert_eq!(seen, 1_000_000, "{stats:?}");
    assert_eq!(stats.ops_stored, stats.unsolicited + 10, "{stats:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_unsolicited_answers_are_refused_where_the_host_says_so() {
    let config = GannetFetchConfig {
        accept_unsolicited: false,
        ..Default::default()
    };
    let node = a_million_answers(config, unsolicited).await;
    let stats = node.stats();
    assert_eq!(
        stats.unsolicited_refused + stats.responses_dropped,
        1_000_000
    );
    assert_eq!(stats.ops_stored, 10, "what was asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_empty_answers_cost_next_to_nothing() {
    let node = a_million_answers(GannetFetchConfig::default(), |_| {
        serialize_response_message(Vec::new())
    })
    .await;
    assert_eq!(node.stats().unsolicited, 0);
}

/// A message of a few bytes an op would take thirty times its size when it is read.
#[tokio::test]
async fn a_message_that_would_blow_up_is_not_read() {
    let _alone = alone().await;
    let node = Node::new().await;
    let before = peak_memory();
    // Empty ops, and empty ids: two bytes each.
    let many = Bytes::from([0x0a, 0].repeat(8 << 20));
    let answers = message(FetchMessageType::Response, many.clone());
    let requests = message(FetchMessageType::Request, many);
    let _ = node.wire.receive(&common::url(1), answers);
    let _ = node.wire.receive(&common::url(1), requests);
    let grown = peak_memory().saturating_sub(before);
    assert!(grown < 256 << 20, "{} MiB", grown >> 20);
    let stats = node.stats();
    assert_eq!((stats.responses_dropped, stats.requests_dropped), (1, 1));
    assert_eq!((stats.held_bytes, stats.serving_bytes), (0, 0));
}

/// A short request must not draw a long answer.
#[tokio::test]
async fn an_op_asked_for_a_thousand_times_in_one_request_is_sent_once() {
    let large = MemoryOp::new(Timestamp::now(), vec![9; 300_000]);
    let (id, last) = (large.compute_op_id(), common::op());
    let store = forgetful(vec![large, last.clone()]);
    let node = Node::with(GannetFetchConfig::default(), Some(store)).await;
    let sent = |id: &OpId| {
        let responses = node.wire.responses().into_iter();
        responses
            .flat_map(|(_, ops)| ops)
            .filter(|op| op.op_id == *id)
            .count()
    };
    // Twice, for the first teaches how large ops are.
    for round in 1..=2 {
        for ids in [vec![id.clone(); 1_000], vec![last.compute_op_id()]] {
            let ask = serialize_request_message(ids);
            node.wire.receive(&common::url(1), ask).unwrap();
        }
        until("both are served", async || {
            sent(&last.compute_op_id()) == round
        })
        .await;
        assert_eq!(sent(&id), round);
    }
}

/// However small they are: ops that nobody asked for must not take the room of those that were.
#[tokio::test]
async fn unsolicited_ops_leave_room_while_the_store_is_slow() {
    let _alone = alone().await;
    let (friend, enemy) = (common::url(1), common::url(2));
    let gate = Arc::new(Semaphore::new(0));
    let mut store = MockOpStore::new();
    store
        .expect_filter_out_existing_ops()
        .returning(|ids| Box::pin(async { Ok(ids) }));
    let closed = gate.clone();
    store.expect_process_incoming_ops().returning(move |ops| {
        let closed = closed.clone();
        Box::pin(async move {
            let _passed = closed.acquire().await.unwrap();
            Ok(ops.into_iter().map(|op| op.op_id).collect())
        })
    });
    let node = Node::with(GannetFetchConfig::default(), Some(Arc::new(store))).await;
    let wanted = common::op();
    node.request(&[wanted.compute_op_id()], &friend).await;
    until("it asks", async || node.wire.requests() == 1).await;
    for message in 0..600 {
        let ops = (0..1_000).map(|n: u64| MetaOp {
            op_id: OpId::from(Bytes::copy_from_slice(&(message * 1_000 + n).to_be_bytes())),
            op_data: Bytes::new(),
        });
        let answer = serialize_response_message(ops.collect());
        node.wire.receive(&enemy, answer).unwrap();
        tokio::task::yield_now().await;
    }
    let most = u64::from(GannetFetchConfig::default().max_incoming_bytes);
    until("only their share of the room is taken", async || {
        let stats = node.stats();
        stats.unsolicited_dropped + stats.responses_dropped > 0 && stats.held_bytes <= most / 4
    })
    .await;
    node.wire.answer(&friend, &[wanted]);
    gate.add_permits(Semaphore::MAX_PERMITS);
    until("the answer is stored", async || {
        node.pending().await.is_empty()
    })
    .await;
    // The first time.
    assert_eq!(node.stats().requests_sent, 1);
}
