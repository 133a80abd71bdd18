//! What the stock module's own tests pin through its private state, shown through the public traits.

mod common;

use bytes::Bytes;
use common::{Node, Sent, offer, op, ops, store_that, until, url};
use gannet_kitsune2::GannetFetchConfig;
use kitsune2_api::*;
use kitsune2_core::factories::MemoryOp;
use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

#[tokio::test(start_paused = true)]
async fn each_op_is_asked_of_its_peer_and_pending_until_stored() {
    let node = Node::new().await;
    let lists = [10, 20, 30].map(ops);
    for (n, (_, ids)) in lists.iter().enumerate() {
        node.request(ids, &url(n as u32)).await;
    }
    let mut expected: Vec<_> = lists
        .iter()
        .enumerate()
        .flat_map(|(n, (_, ids))| ids.iter().map(move |id| (id.clone(), url(n as u32))))
        .collect();
    expected.sort();
    until("all are asked for", async || node.wire.asked().len() == 60).await;
    let mut asked = node.wire.asked();
    asked.sort();
    assert_eq!(asked, expected);
    assert_eq!(node.pending().await, expected);
}

#[tokio::test(start_paused = true)]
async fn ops_in_the_store_are_never_asked_for() {
    let node = Node::new().await;
    let (held, held_ids) = ops(2);
    let stored = held.into_iter().map(Into::into).collect();
    node.op_store.process_incoming_ops(stored).await.unwrap();
    let new = op().compute_op_id();
    let ids = [held_ids[0].clone(), new.clone(), held_ids[1].clone()];
    node.request(&ids, &url(1)).await;
    until("the new one is asked for", async || {
        node.wire.requests() > 0
    })
    .await;
    assert_eq!(node.wire.asked(), [(new.clone(), url(1))]);
    assert_eq!(node.pending().await, [(new, url(1))]);
}

#[tokio::test(start_paused = true)]
async fn an_unresponsive_peer_is_not_asked_and_leaves_the_summary() {
    let node = Node::new().await;
    let now = Timestamp::now();
    node.peer_meta_store
        .set_unresponsive(url(1), now, now)
        .await
        .unwrap();
    let ((_, away), (_, here)) = (ops(2), ops(2));
    node.request(&away, &url(1)).await;
    node.request(&here, &url(2)).await;
    until("only the other is left", async || {
        node.pending()
            .await
            .iter()
            .all(|(_, url)| *url == common::url(2))
    })
    .await;
    until("the other is asked", async || node.wire.asked().len() == 2).await;
    assert!(node.wire.asked().iter().all(|(_, asked)| *asked == url(2)));
}

#[tokio::test(start_paused = true)]
async fn nothing_pending_is_told_at_once_and_otherwise_with_the_last_op() {
    let node = Node::new().await;
    let (tx, mut rx) = futures_channel::oneshot::channel();
    node.fetch.notify_on_drained(tx);
    assert!(rx.try_recv().unwrap().is_some());

    let (ops, ids) = ops(10);
    node.request(&ids, &url(1)).await;
    let (tx, mut rx) = futures_channel::oneshot::channel();
    node.fetch.notify_on_drained(tx);
    node.wire.answer(&url(1), &ops[..9]);
    until("nine are stored", async || node.pending().await.len() == 1).await;
    assert!(rx.try_recv().unwrap().is_none());
    node.wire.answer(&url(1), &ops[9..]);
    tokio::time::timeout(Duration::from_secs(1), rx)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn failed_sends_drain() {
    let node = Node::new().await;
    node.wire
        .on_send(|_, _| Err(K2Error::other("nobody there")));
    node.request(&ops(10).1, &url(1)).await;
    node.drained().await;
    assert!(node.pending().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_failed_send_drops_the_wants_of_that_peer_and_asks_the_others() {
    let node = Node::new().await;
    let (_, ids) = ops(3);
    node.wire.on_send(|peer, _| match *peer == url(1) {
        true => Err(K2Error::other("nobody there")),
        false => Ok(()),
    });
    // Offered by both before anybody is asked: what the first cannot be asked for, the second is.
    let (first, second) = (
        node.fetch.request_ops(offer(&ids), url(1)),
        node.fetch.request_ops(offer(&ids), url(2)),
    );
    let (first, second) = tokio::join!(first, second);
    first.and(second).unwrap();
    until("the second was asked for all", async || {
        let asked: HashSet<_> = node
            .wire
            .asked()
            .into_iter()
            .filter(|(_, u)| *u == url(2))
            .collect();
        asked.len() == 3
    })
    .await;
    until("only the second is left", async || {
        let pending = node.pending().await;
        pending.len() == 3 && pending.iter().all(|(_, u)| *u == url(2))
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_stored_op_clears_all_its_pairs_and_no_other() {
    let node = Node::new().await;
    let (wanted, other) = (op(), op().compute_op_id());
    let id = wanted.compute_op_id();
    node.request(&[id.clone(), other.clone()], &url(1)).await;
    node.request(std::slice::from_ref(&id), &url(2)).await;
    assert_eq!(node.pending().await.len(), 3);
    until("it is asked for", async || node.wire.requests() > 0).await;
    node.wire.answer(&url(1), &[wanted]);
    until("one pair is left", async || {
        node.pending().await == [(other.clone(), url(1))]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn metadata_is_upgraded_never_overwritten_and_reaches_the_store() {
    let received = Arc::new(Mutex::new(Vec::new()));
    let taken = received.clone();
    let store = store_that(move |ops| {
        let ids = ops.iter().map(|op| op.op_id.clone()).collect();
        taken.lock().unwrap().extend(ops);
        Ok(ids)
    });
    let node = Node::with(GannetFetchConfig::default(), Some(store)).await;
    let op = op();
    for metadata in [None, Some("first"), Some("second")] {
        let offer = PublishOp {
            op_id: op.compute_op_id(),
            metadata: metadata.map(|text| Bytes::from_static(text.as_bytes())),
        };
        node.fetch.request_ops(vec![offer], url(1)).await.unwrap();
    }
    assert_eq!(node.pending().await.len(), 1);
    node.wire.answer(&url(1), &[op]);
    until("it is stored", async || {
        !received.lock().unwrap().is_empty()
    })
    .await;
    let received = received.lock().unwrap();
    assert_eq!(received[0].metadata.as_deref(), Some(&b"first"[..]));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_leaves_the_op_wanted() {
    let store = store_that(|_| Err(K2Error::other("disk full")));
    let node = Node::with(GannetFetchConfig::default(), Some(store)).await;
    let op = op();
    node.request(&[op.compute_op_id()], &url(1)).await;
    until("it is asked for", async || node.wire.requests() > 0).await;
    node.wire.answer(&url(1), &[op]);
    until("the store has failed", async || {
        node.stats().store_failures == 1
    })
    .await;
    assert_eq!(node.pending().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn unsolicited_ops_are_stored_and_reported() {
    let node = Node::new().await;
    let (ops, ids) = ops(2);
    node.wire.answer(&url(1), &ops);
    until("they are reported", async || {
        node.report.0.lock().unwrap().len() == 2
    })
    .await;
    let lens = ops.iter().cloned().map(|op| Bytes::from(op).len() as u64);
    let expected: Vec<_> = ids
        .iter()
        .cloned()
        .zip(lens)
        .map(|(id, len)| (url(1), id, len))
        .collect();
    assert_eq!(*node.report.0.lock().unwrap(), expected);
    assert_eq!(node.op_store.retrieve_ops(ids).await.unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn unsolicited_ops_are_refused_where_the_host_says_so() {
    let config = GannetFetchConfig {
        accept_unsolicited: false,
        ..GannetFetchConfig::default()
    };
    let node = Node::with(config, None).await;
    let (ops, ids) = ops(3);
    node.request(&ids[..1], &url(1)).await;
    // Not from this peer, either.
    node.wire.answer(&url(2), &ops);
    node.wire.answer(&url(1), &ops);
    node.drained().await;
    until("five are refused", async || {
        node.stats().unsolicited_refused == 5
    })
    .await;
    let stored = node.op_store.retrieve_ops(ids).await.unwrap();
    assert_eq!(stored.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn requests_are_answered_each_to_its_sender_with_what_is_held() {
    let node = Node::new().await;
    let (held, ids) = ops(3);
    let stored = held.iter().cloned().map(Into::into).collect();
    node.op_store.process_incoming_ops(stored).await.unwrap();
    let missing = op().compute_op_id();
    let first = serialize_request_message(vec![ids[0].clone(), ids[1].clone()]);
    let second = serialize_request_message(vec![ids[2].clone(), missing]);
    node.wire.receive(&url(1), first).unwrap();
    node.wire.receive(&url(2), second).unwrap();
    until("both are answered", async || {
        node.wire.responses().len() == 2
    })
    .await;
    let held: Vec<MetaOp> = held.into_iter().map(Into::into).collect();
    let responses = node.wire.responses();
    assert!(responses.contains(&(url(1), held[..2].to_vec())));
    assert!(responses.contains(&(url(2), held[2..].to_vec())));
    assert_eq!(node.stats().not_held, 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_held_is_not_answered() {
    let node = Node::new().await;
    node.wire
        .receive(&url(1), serialize_request_message(ops(2).1))
        .unwrap();
    until("it was looked up", async || node.stats().not_held == 2).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(node.wire.responses().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_failed_answer_does_not_stop_serving() {
    let node = Node::new().await;
    let op = op();
    let id = op.compute_op_id();
    node.op_store
        .process_incoming_ops(vec![op.into()])
        .await
        .unwrap();
    let mut failed = false;
    node.wire
        .on_send(move |_, _| match std::mem::replace(&mut failed, true) {
            false => Err(K2Error::other("not now")),
            true => Ok(()),
        });
    let request = serialize_request_message(vec![id]);
    node.wire.receive(&url(1), request.clone()).unwrap();
    until("the first fails", async || {
        node.stats().responses_failed == 1
    })
    .await;
    node.wire.receive(&url(1), request).unwrap();
    until("the second is sent", async || {
        node.stats().responses_sent == 1
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_fetch_message_closes_the_connection() {
    let node = Node::new().await;
    for message in ["this is no fetch message", "\u{8}\u{7f}"] {
        assert!(
            node.wire
                .receive(&url(1), Bytes::from_static(message.as_bytes()))
                .is_err()
        );
    }
    assert_eq!(node.stats().malformed, 2);
}

#[tokio::test(start_paused = true)]
async fn dropped_it_refuses_messages_and_tells_who_waits() {
    let Node { fetch, wire, .. } = Node::new().await;
    fetch.request_ops(offer(&ops(3).1), url(1)).await.unwrap();
    let (tx, rx) = futures_channel::oneshot::channel();
    fetch.notify_on_drained(tx);
    drop(fetch);
    tokio::time::timeout(Duration::from_secs(1), rx)
        .await
        .unwrap()
        .unwrap();
    assert!(
        wire.receive(&url(1), serialize_request_message(ops(1).1))
            .is_err()
    );
}

#[tokio::test(start_paused = true)]
async fn sizes_are_reported_for_the_right_ops() {
    // A store that takes every other op, and names them in its own order.
    let store = store_that(|ops| {
        let taken = ops.iter().rev().step_by(2).map(|op| op.op_id.clone());
        Ok(taken.collect())
    });
    let node = Node::with(GannetFetchConfig::default(), Some(store)).await;
    let ops: Vec<MemoryOp> = (1..=5)
        .map(|n| MemoryOp::new(Timestamp::now(), vec![n; 40 * usize::from(n)]))
        .collect();
    let ids: Vec<OpId> = ops.iter().map(MemoryOp::compute_op_id).collect();
    node.request(&ids, &url(1)).await;
    until("they are asked for", async || node.wire.asked().len() == 5).await;
    node.wire.answer(&url(1), &ops);
    until("three are reported", async || {
        node.report.0.lock().unwrap().len() == 3
    })
    .await;
    let lens = |n: usize| Bytes::from(ops[n].clone()).len() as u64;
    let expected = [0, 2, 4].map(|n| (url(1), ids[n].clone(), lens(n)));
    assert_eq!(*node.report.0.lock().unwrap(), expected);
    // What the store did not take stays wanted.
    assert_eq!(node.pending().await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_op_that_arrives_meanwhile_is_not_asked_for_again() {
    let node = Node::new().await;
    let (all, ids) = ops(2_000);
    // More than a first window: the rest is not in flight when it arrives by another way.
    node.request(&ids, &url(1)).await;
    until("a window is asked for", async || {
        node.wire.asked().len() >= 256
    })
    .await;
    let asked: HashSet<OpId> = node.wire.asked().into_iter().map(|(id, _)| id).collect();
    let pushed: Vec<_> = all
        .iter()
        .filter(|op| !asked.contains(&op.compute_op_id()))
        .cloned()
        .collect();
    assert!(!pushed.is_empty());
    node.wire.answer(&url(9), &pushed);
    until("they are stored", async || {
        node.stats().ops_stored == pushed.len() as u64
    })
    .await;
    let rest: Vec<_> = all
        .iter()
        .filter(|op| asked.contains(&op.compute_op_id()))
        .cloned()
        .collect();
    node.wire.answer(&url(1), &rest);
    node.drained().await;
    assert_eq!(node.wire.asked().len(), asked.len());
    assert!(matches!(
        node.wire.sent.lock().unwrap()[0].1,
        Sent::Request(_)
    ));
}
