//! What is measured: one node asks for many ops, others hold them.

use crate::{
    iroh::Relay,
    node::{Kind, Node, builder},
    store::{Store, id},
    wire::Wire,
};
use kitsune2_api::{PublishOp, Url};
use rustix::time::{ClockId, clock_gettime};
use stats_alloc::{Region, StatsAlloc};
use std::{
    alloc::System,
    time::{Duration, Instant},
};

/// Longer than any pause before ours asks again for the first time.
const IDLE_MAX: Duration = Duration::from_secs(25);
/// What counts as never: stock would go on for hours.
const TIME_MAX: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Net {
    Mem,
    Iroh,
}

/// So many ops, each offered by so many holders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scene {
    pub(crate) net: Net,
    pub(crate) ops: u64,
    pub(crate) holders: u64,
    pub(crate) asker: Kind,
    pub(crate) holder: Kind,
}

/// What became of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// Ops stored in time.
    pub(crate) stored: u64,
    pub(crate) wrong: u64,
    /// From the request to the last op that was stored.
    pub(crate) seconds: f64,
    /// Of all nodes, for each op stored.
    pub(crate) cpu_us: f64,
    pub(crate) requests: u64,
    pub(crate) responses: u64,
    /// On the wire, for each op stored.
    pub(crate) bytes: f64,
    /// Over iroh: not by way of the relay.
    pub(crate) direct: bool,
}

impl Outcome {
    pub(crate) fn rate(&self) -> f64 {
        self.stored as f64 / self.seconds.max(1e-9)
    }
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn offers(ids: std::ops::Range<u64>) -> Vec<PublishOp> {
    let offers = ids.map(|n| PublishOp {
        op_id: id(n),
        metadata: None,
    });
    offers.collect()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made")
}

impl Scene {
    pub(crate) fn run(&self) -> Outcome {
        let runtime = runtime();
        let outcome = runtime.block_on(self.measure());
        // What is left of one scene must not disturb the next.
        runtime.shutdown_timeout(Duration::from_secs(5));
        outcome
    }

    async fn measure(&self) -> Outcome {
        let server = match self.net {
            Net::Mem => None,
            Net::Iroh => Some(Relay::start().await),
        };
        let relay = server.as_ref().map(Relay::url);
        let relay = relay.as_deref();
        let mut holders = Vec::new();
        for _ in 0..self.holders {
            let store = Store::holding(self.ops + self.holders);
            holders.push(Node::start(self.holder, store, relay).await);
        }
        let (asker, _) = Node::start(self.asker, Store::default(), relay).await;
        let direct = self.warm_up(&asker, &holders).await;

        let before = Counts::of(&asker, &holders);
        let calls: Vec<_> = holders
            .iter()
            .map(|(_, url)| (offers(0..self.ops), url.clone()))
            .collect();
        let (begun, cpu_begun) = (Instant::now(), cpu());
        for (ops, url) in calls {
            let fetch = asker.fetch.clone();
            tokio::spawn(async move { fetch.request_ops(ops, url).await });
        }
        let (mut last, mut cpu_last, mut stored) = (begun, cpu_begun, 0);
        while stored < self.ops && last.elapsed() < IDLE_MAX && begun.elapsed() < TIME_MAX {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let now = asker.store.stored() as u64 - before.stored;
            if now > stored {
                (last, cpu_last, stored) = (Instant::now(), cpu(), now);
            }
        }
        let after = Counts::of(&asker, &holders);
        let each = |whole: f64| whole / stored.max(1) as f64;
        Outcome {
            stored,
            wrong: asker.store.wrong() as u64,
            seconds: (last - begun).as_secs_f64(),
            cpu_us: each((cpu_last - cpu_begun).as_secs_f64() * 1e6),
            requests: after.requests - before.requests,
            responses: after.responses - before.responses,
            bytes: each((after.bytes - before.bytes) as f64),
            direct,
        }
    }

    /// One op of each holder, so that they are connected; over iroh, on a way of their own if there
    /// is one.
    async fn warm_up(&self, asker: &Node, holders: &[(Node, Url)]) -> bool {
        for (n, (_, url)) in (self.ops..).zip(holders) {
            let ops = offers(n..n + 1);
            asker
                .fetch
                .request_ops(ops, url.clone())
                .await
                .expect("one op");
        }
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(10) {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let stats = asker.wire.stats().await;
            let direct = stats.iter().filter(|peer| peer.is_direct).count();
            let connected = asker.store.stored() == holders.len();
            if connected && (self.net == Net::Mem || direct == holders.len()) {
                return self.net == Net::Iroh;
            }
        }
        assert!(asker.store.stored() == holders.len(), "no connection");
        false
    }
}

struct Counts {
    stored: u64,
    requests: u64,
    responses: u64,
    bytes: u64,
}

impl Counts {
    fn of(asker: &Node, holders: &[(Node, Url)]) -> Self {
        let holders = || holders.iter().map(|(holder, _)| &holder.wire);
        Self {
            stored: asker.store.stored() as u64,
            requests: asker.wire.messages(),
            responses: holders().map(|wire| wire.messages()).sum(),
            bytes: asker.wire.bytes() + holders().map(|wire| wire.bytes()).sum::<u64>(),
        }
    }
}

/// Peers that offer what nobody answers for: each has its share of the room, an eighth.
const PARTS: u64 = 8;

/// What a module holds for each of so many ops that nobody answers for; the ids, which came with
/// the call, included.
pub(crate) fn bytes_a_pending_op(kind: Kind, ops: u64, allocator: &StatsAlloc<System>) -> f64 {
    let runtime = runtime();
    let held = runtime.block_on(async {
        let node = Node::on(Wire::default(), kind, Store::default(), builder(kind, None)).await;
        let region = Region::new(allocator);
        // No peer may take all the room.
        for (n, part) in (0..PARTS).zip((0..ops).step_by((ops / PARTS) as usize)) {
            let url = Url::from_str(format!("ws://nobody:80/{n}")).expect("a URL");
            let offers = offers(part..part + ops / PARTS);
            let requested = node.fetch.request_ops(offers, url).await;
            requested.expect("as many may be pending");
        }
        let change = region.change();
        let summary = node.fetch.get_state_summary().await.expect("it lives");
        assert_eq!(summary.pending_requests.len() as u64, ops);
        change.bytes_allocated as f64 - change.bytes_deallocated as f64
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    held / ops as f64
}
