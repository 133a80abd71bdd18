//! Three real nodes exchange ten thousand ops, while one of them restarts, and two more in the network
//! lie and fall silent.

mod nodes;

use bytes::Bytes;
use gannet_kitsune2::GannetFetchConfig;
use kitsune2_api::*;
use nodes::{Net, Node, Parts, meet, ops, rogue::Rogue, until, within};
use std::ops::Range;

const OPS: u64 = 10_000;

/// What each of the three honest nodes holds at first.
const SHARES: [Range<u64>; 3] = [0..3_333, 3_333..6_666, 6_666..OPS];

/// The half of a share that is there from the beginning.
fn first(share: &Range<u64>) -> Range<u64> {
    share.start..(share.start + share.end) / 2
}

fn config() -> GannetFetchConfig {
    GannetFetchConfig {
        answer_timeout_ms: 500,
        first_back_off_interval_ms: 500,
        last_back_off_interval_ms: 4_000,
        ..Default::default()
    }
}

/// The op that has this id.
fn named(id: &OpId) -> MetaOp {
    let n = id.first_chunk().copied().map(u64::from_be_bytes);
    ops::op(n.expect("an id of ours")).into()
}

/// Lies of every kind: what is no message, no op, another op, or nothing at all.
fn liar() -> Parts {
    let mut next = ops::random(3);
    Rogue::answering(move |ids| {
        let right: Vec<MetaOp> = ids.iter().map(named).collect();
        let with = |data: &dyn Fn(&MetaOp) -> Bytes| {
            let lies = right.iter().map(|op| MetaOp {
                op_id: op.op_id.clone(),
                op_data: data(op),
            });
            lies.collect::<Vec<_>>()
        };
        let garbage = Bytes::from_static(b"{ this is no op");
        let other = MetaOp::from(ops::op(OPS + 7)).op_data;
        let lies = match next() % 8 {
            0 => return vec![(0..next() % 100).map(|_| next() as u8).collect()],
            1 => {
                let message = serialize_response_message(right);
                return vec![message.slice(..message.len() / 2)];
            }
            // The op store panics on it.
            2 => with(&|_| garbage.clone()),
            // It can be read, and is not what the id says.
            3 => with(&|_| other.clone()),
            // One bad apple among good ones.
            4 => {
                let mut lies = right.clone();
                lies[0].op_data = garbage;
                lies
            }
            // Right ones that nobody asked for, and wrong ones twice.
            5 => {
                let unasked = (0..10)
                    .map(|_| ops::op(OPS + next() % 1_000).into())
                    .collect();
                let wrong = serialize_response_message(with(&|_| other.clone()));
                let unasked = serialize_response_message(unasked);
                return vec![unasked, wrong.clone(), wrong];
            }
            6 => with(&|_| Bytes::new()),
            _ => return Vec::new(),
        };
        vec![serialize_response_message(lies)]
    })
}

/// As good as any for a while, and then not a word.
fn going_silent() -> Parts {
    let mut left = 500;
    Rogue::answering(move |ids| {
        if ids.len() > left {
            return Vec::new();
        }
        left -= ids.len();
        vec![serialize_response_message(ids.iter().map(named).collect())]
    })
}

/// A node is told of the shares of the others: by those who hold them, and by two who only say that
/// they do.
async fn tell(nodes: [&Node; 3], to: usize, false_friends: [&Url; 2]) {
    for (from, share) in SHARES.iter().enumerate().filter(|(from, _)| *from != to) {
        for url in [&nodes[from].url].into_iter().chain(false_friends) {
            nodes[to].request(share.clone(), url).await;
        }
    }
}

async fn everything_honest_arrives(net: Net) {
    let over = net.over();
    let [a, b, c] = [
        net.gannet_with(config()).await,
        net.gannet_with(config()).await,
        net.gannet_with(config()).await,
    ];
    let (liar, silent) = (net.start(liar()).await, net.start(going_silent()).await);
    meet(&[&a, &b, &c, &liar, &silent]).await;
    let false_friends = [&liar.url, &silent.url];
    // Each has the first half of its share, and says that it has all.
    for (node, share) in [&a, &b, &c].into_iter().zip(&SHARES) {
        node.hold(first(share)).await;
    }
    for to in 0..3 {
        tell([&a, &b, &c], to, false_friends).await;
    }
    until(
        120,
        "what is there of the second's share has come",
        async || {
            let half = first(&SHARES[1]);
            a.held(half.clone()).await == half.count()
        },
    )
    .await;
    // It goes down, with requests of it and to it under way.
    assert!(b.pending().await > 0 && a.pending().await > 0 && c.pending().await > 0);
    let (op_store, agent) = b.crash();
    let again = Parts {
        op_store: Some(op_store),
        agent,
        ..Parts::gannet(config())
    };
    let b = net.start(again).await;
    for (node, share) in [&a, &b, &c].into_iter().zip(SHARES) {
        node.hold(share).await;
    }
    meet(&[&a, &b, &c]).await;
    // Back, it asks for what it lacks; and all are told of what is there by now.
    for to in 0..3 {
        tell([&a, &b, &c], to, false_friends).await;
    }

    let (mut silences, mut lies, mut panics) = (0, 0, 0);
    for (name, node) in [("a", &a), ("b", &b), ("c", &c)] {
        let all = within(120, async || node.held(0..OPS).await == OPS as usize).await;
        if !all {
            let mut halves = Vec::new();
            for share in &SHARES {
                let half = first(share);
                let rest = half.end..share.end;
                halves.push((node.held(half).await, node.held(rest).await));
            }
            let pending = node.pending().await;
            let stats = [&a, &b, &c].map(Node::stats);
            panic!("{name} has only {halves:?}, {pending} are pending; {stats:#?}");
        }
        until(60, "nothing is pending", async || node.pending().await == 0).await;
        let (drained, told) = futures_channel::oneshot::channel();
        node.space.fetch().notify_on_drained(drained);
        told.await.unwrap();
        let stats = node.stats();
        println!("{name} over {over}: {stats:?}");
        assert_eq!((stats.in_flight, stats.pending, stats.peers), (0, 0, 0));
        assert!(stats.ops_stored > 0, "{stats:?}");
        silences += stats.unanswered;
        lies += stats.refused;
        panics += stats.store_failures;
    }
    assert!(silences > 0 && lies > 0 && panics > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_honest_arrives_over_mem() {
    everything_honest_arrives(Net::mem()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_honest_arrives_over_iroh() {
    everything_honest_arrives(Net::iroh().await).await;
}
