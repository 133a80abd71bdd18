//! A node that is fed nonsense stays up, bounded, and serves and fetches meanwhile.

mod nodes;

use bytes::Bytes;
use gannet_kitsune2::GannetFetchConfig;
use kitsune2_api::*;
use nodes::{Net, meet, ops, rogue::Rogue, until};
use prost::Message as _;

// ---- messages that no good node sends ----

fn message(kind: i32, data: impl Into<Bytes>) -> Bytes {
    let message = K2FetchMessage {
        fetch_message_type: kind,
        data: data.into(),
    };
    message.encode_to_vec().into()
}

fn request(ids: impl IntoIterator<Item = Bytes>) -> Bytes {
    serialize_request_message(ids.into_iter().map(OpId::from).collect())
}

fn response(ops: impl IntoIterator<Item = (Bytes, Bytes)>) -> Bytes {
    let ops = ops.into_iter().map(|(id, op_data)| MetaOp {
        op_id: OpId::from(id),
        op_data,
    });
    serialize_response_message(ops.collect())
}

fn blob(len: usize) -> Bytes {
    Bytes::from(vec![7; len])
}

/// A message of some bad kind.
fn nonsense(next: &mut impl FnMut() -> u64) -> Bytes {
    let mut random = |most: u64| -> Bytes { (0..next() % most).map(|_| next() as u8).collect() };
    let garbage = random(200);
    let good = serialize_response_message((0..20).map(|n| ops::op(n).into()).collect());
    match next() % 14 {
        0 => garbage,
        1 => good.slice(..next() as usize % good.len()),
        2 => message(3 + (next() % 1_000) as i32, good),
        3 => message(0, garbage),
        4 => message(1, garbage),
        5 => message(2, garbage),
        // Huge ids.
        6 => request([blob(1 << 20)]),
        7 => response([(blob(1 << 20), blob(10))]),
        8 => request(vec![blob(32); 1_000]),
        9 => request(vec![Bytes::new(); 100]),
        10 => request([]),
        11 => response([]),
        12 => response(vec![(Bytes::new(), Bytes::new()); 100]),
        _ => response([(blob(32), blob(4 << 20))]),
    }
}

async fn nonsense_is_refused_and_the_node_serves_on(net: Net, rounds: u64) {
    let (ours, friend) = (net.gannet().await, net.stock().await);
    let enemy = net.start(Rogue::silent()).await;
    meet(&[&ours, &friend, &enemy]).await;
    let mut next = ops::random(7);
    for round in 0..rounds {
        let (a, b) = (2 * round, 2 * round + 1);
        ours.hold([a]).await;
        friend.hold([b]).await;
        for _ in 0..20 {
            // It may be hung up on.
            let _ = enemy.send(&ours.url, nonsense(&mut next)).await;
        }
        ours.request([b], &friend.url).await;
        friend.request([a], &ours.url).await;
        until(30, "both get what they ask for", async || {
            ours.held([b]).await == 1 && friend.held([a]).await == 1
        })
        .await;
    }
    until(30, "everything is dealt with", async || {
        let stats = ours.stats();
        (stats.held_bytes, stats.serving_bytes, stats.storing) == (0, 0, 0)
    })
    .await;
    let stats = ours.stats();
    assert!(stats.malformed >= rounds, "{stats:?}");
    assert!(stats.store_failures > 0 && stats.not_held > 0, "{stats:?}");
    assert_eq!((stats.pending, stats.pending_ops), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_refused_and_the_node_serves_on_over_mem() {
    nonsense_is_refused_and_the_node_serves_on(Net::mem(), 50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_refused_and_the_node_serves_on_over_iroh() {
    nonsense_is_refused_and_the_node_serves_on(Net::iroh().await, 10).await;
}

/// Others get theirs while one asks for more than can be served.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_requests_is_bounded_and_holds_nobody_up() {
    const OPS: u64 = 1_000;
    const MOST: u32 = 1 << 20;
    let net = Net::mem();
    let config = GannetFetchConfig {
        max_incoming_request_bytes: MOST,
        ..Default::default()
    };
    let (ours, friend) = (net.gannet_with(config).await, net.gannet().await);
    let enemy = net.start(Rogue::silent()).await;
    meet(&[&ours, &friend, &enemy]).await;
    ours.hold(0..OPS).await;
    let all = serialize_request_message((0..OPS).map(ops::id).collect());
    let flood = async {
        loop {
            enemy.send(&ours.url, all.clone()).await.unwrap();
            assert!(ours.stats().serving_bytes <= u64::from(MOST));
        }
    };
    let served = async {
        until(60, "requests are turned away", async || {
            ours.stats().requests_dropped > 10
        })
        .await;
        for n in 0..50 {
            friend.request([n], &ours.url).await;
            until(30, "the friend is served", async || {
                friend.held([n]).await == 1
            })
            .await;
        }
        friend.request(50..OPS, &ours.url).await;
        until(60, "the friend is served", async || {
            friend.held(0..OPS).await == OPS as usize
        })
        .await;
    };
    tokio::select! {
        () = flood => {}
        () = served => {}
    }
}
