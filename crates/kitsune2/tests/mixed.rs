//! Stock nodes and ours in one network, over both of Kitsune2's transports: each fetches from the
//! other, and neither can tell.

mod nodes;

use kitsune2_api::*;
use nodes::{Net, Node, meet, ops, until};
use std::collections::HashSet;

/// Ops that each holds, and the other does not.
const OPS: u64 = 300;

fn theirs() -> std::ops::Range<u64> {
    0..OPS
}

fn ours() -> std::ops::Range<u64> {
    OPS..2 * OPS
}

async fn pair(net: &Net) -> (Node, Node) {
    let (stock, gannet) = (net.stock().await, net.gannet().await);
    meet(&[&stock, &gannet]).await;
    stock.hold(theirs()).await;
    gannet.hold(ours()).await;
    (stock, gannet)
}

/// Until both have everything; then nothing is pending anywhere, and each has been told of every op.
async fn complete(stock: &Node, gannet: &Node) {
    until(60, "both have everything", async || {
        stock.held(ours()).await == OPS as usize && gannet.held(theirs()).await == OPS as usize
    })
    .await;
    for (node, peer, numbers) in [(stock, gannet, ours()), (gannet, stock, theirs())] {
        until(60, "nothing is pending", async || node.pending().await == 0).await;
        let (drained, told) = futures_channel::oneshot::channel();
        node.space.fetch().notify_on_drained(drained);
        told.await.unwrap();
        let reports = node.report.0.lock().unwrap();
        let expected: HashSet<_> = numbers
            .map(|n| {
                let op = MetaOp::from(ops::op(n));
                (peer.url.clone(), op.op_id, op.op_data.len() as u64)
            })
            .collect();
        assert_eq!(reports.len(), OPS as usize);
        assert_eq!(reports.iter().cloned().collect::<HashSet<_>>(), expected);
    }
}

async fn each_fetches_from_the_other(net: Net) {
    let (stock, gannet) = pair(&net).await;
    stock.request(ours(), &gannet.url).await;
    gannet.request(theirs(), &stock.url).await;
    complete(&stock, &gannet).await;
    let stats = gannet.stats();
    assert_eq!((stats.ops_served, stats.ops_stored), (OPS, OPS));
    assert!(stats.requests_sent < OPS / 5, "{stats:?}");
    let quiet = [
        stats.malformed,
        stats.unsolicited,
        stats.unanswered,
        stats.sends_failed,
    ];
    assert_eq!(quiet, [0; 4], "{stats:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fetches_from_the_other_over_mem() {
    each_fetches_from_the_other(Net::mem()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fetches_from_the_other_over_iroh() {
    each_fetches_from_the_other(Net::iroh().await).await;
}

/// What a host does: it tells its peers of new ops, and their publish module asks the fetch module.
async fn what_is_published_is_fetched(net: Net) {
    let (stock, gannet) = pair(&net).await;
    let publish = async |from: &Node, numbers, to: &Node| {
        let ops = ops::offer(numbers);
        from.space
            .publish()
            .publish_ops(ops, to.url.clone())
            .await
            .unwrap();
    };
    publish(&stock, theirs(), &gannet).await;
    publish(&gannet, ours(), &stock).await;
    complete(&stock, &gannet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_fetched_over_mem() {
    what_is_published_is_fetched(Net::mem()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_fetched_over_iroh() {
    what_is_published_is_fetched(Net::iroh().await).await;
}

/// An answer that nobody asked for is stored and reported, by a node of either kind.
async fn what_is_pushed_is_stored_and_reported(net: Net) {
    let (stock, gannet) = pair(&net).await;
    let mut told = Vec::new();
    for (from, to) in [(&stock, &gannet), (&gannet, &stock)] {
        let pushed: Vec<MetaOp> = [1_000_001, 1_000_002].map(|n| ops::op(n).into()).to_vec();
        let bytes: usize = pushed.iter().map(|op| op.op_data.len()).sum();
        let message = serialize_response_message(pushed);
        from.send(&to.url, message).await.unwrap();
        until(30, "both ops are reported", async || {
            to.report.0.lock().unwrap().len() == 2
        })
        .await;
        assert_eq!(to.held([1_000_001, 1_000_002]).await, 2);
        let reports = to.report.0.lock().unwrap();
        assert!(reports.iter().all(|(source, ..)| *source == from.url));
        let sizes: u64 = reports.iter().map(|(.., size)| size).sum();
        assert_eq!(sizes, bytes as u64);
        told.push(
            reports
                .iter()
                .map(|(_, id, size)| (id.clone(), *size))
                .collect::<HashSet<_>>(),
        );
    }
    assert_eq!(told[0], told[1]);
    assert_eq!(gannet.stats().unsolicited, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_is_stored_and_reported_over_mem() {
    what_is_pushed_is_stored_and_reported(Net::mem()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_is_stored_and_reported_over_iroh() {
    what_is_pushed_is_stored_and_reported(Net::iroh().await).await;
}
