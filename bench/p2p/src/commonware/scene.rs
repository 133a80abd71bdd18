//! What is measured: many keys, with or without others that cannot be had.

use super::{
    network::{self, Net, Nothing, Peers, Quota, network},
    null,
};
use bytes::Bytes;
use commonware_cryptography::{
    Signer as _,
    ed25519::{PrivateKey, PublicKey},
};
use commonware_resolver::{Consumer, Delivery, Resolver as _, TargetedResolver as _, p2p as stock};
use commonware_runtime::{
    Clock as _, Runner as _, Supervisor as _,
    deterministic::{self, Context},
};
use commonware_utils::{
    NZDuration, NZUsize,
    channel::{mpsc, oneshot},
    non_empty_vec,
};
use rustix::time::{ClockId, clock_gettime};
use stats_alloc::{Region, StatsAlloc};
use std::{alloc::System, sync::Arc, time::Duration};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    Stock,
    Ours,
}

/// So many keys from so many peers.
pub(crate) struct Scene {
    keys: u64,
    peers: u64,
    /// Keys whose only target is away.
    stuck: u64,
    /// What each peer takes in a second, where that matters.
    quota: Option<u32>,
}

/// Keys that all peers have.
pub(crate) const fn plain(keys: u64, peers: u64) -> Scene {
    Scene {
        keys,
        peers,
        stuck: 0,
        quota: None,
    }
}

impl Scene {
    /// The same, but each peer takes no more than so many requests in a second.
    pub(crate) const fn at_quota(self, a_second: u32) -> Self {
        Self {
            quota: Some(a_second),
            ..self
        }
    }
}

pub(crate) fn all(quick: bool) -> Vec<Scene> {
    let stuck = |stuck| Scene {
        stuck,
        ..plain(if quick { 200 } else { 10_000 }, 10)
    };
    let quota = |keys, peers, quota| plain(keys, peers).at_quota(quota);
    if quick {
        return vec![plain(200, 10), stuck(100), quota(200, 10, 5)];
    }
    vec![
        plain(1_000, 10),
        plain(10_000, 10),
        plain(100_000, 10),
        plain(10_000, 100),
        plain(1_000, 1_000),
        plain(10_000, 1_000),
        plain(100_000, 1_000),
        stuck(1_000),
        stuck(3_000),
        quota(2_000, 10, 10),
        quota(5_000, 10, 10),
        quota(5_000, 1_000, 1),
    ]
}

/// Counts what is delivered, and finds it good.
#[derive(Clone)]
struct Count(mpsc::UnboundedSender<()>);

impl Consumer for Count {
    type Key = u64;
    type Value = Bytes;
    type Subscriber = ();
    type Outcome = bool;

    fn deliver(&mut self, _: Delivery<u64, ()>, value: Bytes) -> oneshot::Receiver<bool> {
        let (sender, receiver) = oneshot::channel();
        let _ = self.0.send(());
        let _ = sender.send(value.len() == network::VALUE.len());
        receiver
    }
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn peers(count: u64) -> Vec<PublicKey> {
    (0..count)
        .map(|seed| PrivateKey::from_seed(seed).public_key())
        .collect()
}

macro_rules! start {
    ($engine:ty, $context:expr, $peers:expr, $consumer:expr, $network:expr) => {{
        let peers = Peers::new($peers);
        let (engine, mailbox) = <$engine>::new(
            $context.child("engine"),
            stock::Config {
                peer_provider: peers.clone(),
                blocker: peers,
                consumer: $consumer,
                producer: Nothing,
                mailbox_size: NZUsize!(1024),
                me: None,
                fetch_timeout: NZDuration!(Duration::from_secs(5)),
                fetch_retry_delay: Duration::from_millis(100),
                priority_requests: false,
                priority_responses: false,
            },
        );
        engine.start($network);
        mailbox
    }};
}

/// Has the keys fetched by either engine, after those that cannot be had.
macro_rules! fetch {
    ($scene:expr, $context:expr, $mailbox:expr, $keys:expr) => {{
        let away = PrivateKey::from_seed(u64::MAX).public_key();
        let stuck = (0..$scene.stuck).map(|n| (u64::MAX - n, non_empty_vec![away.clone()]));
        $mailbox.fetch_all_targeted(stuck.collect::<Vec<_>>());
        // They are the older ones: whoever goes by age comes upon them first.
        $context.sleep(Duration::from_millis(10)).await;
        $mailbox.fetch_all($keys);
    }};
}

impl Scene {
    /// Runs of each kind, where so many are asked for: more of those that are short, whose first ones
    /// pay for memory that is never touched before.
    pub(crate) fn runs(&self, repeats: usize) -> usize {
        match self.is_plain() {
            true => repeats.max(repeats * 10_000 / self.keys as usize),
            false => repeats,
        }
    }

    /// The plain path with as many peers.
    pub(crate) const fn is_plain_of(&self, other: &Self) -> bool {
        self.is_plain() && self.peers == other.peers
    }

    pub(crate) fn name(&self) -> String {
        let mut name = format!("{} keys, {} peers", self.keys, self.peers);
        if self.stuck > 0 {
            name += &format!(", {} stuck", self.stuck);
        }
        if let Some(quota) = self.quota {
            name += &format!(", {quota}/s each");
        }
        name
    }

    pub(crate) const fn is_plain(&self) -> bool {
        self.stuck == 0 && self.quota.is_none()
    }

    fn network(&self, context: &Context) -> (Net, network::Inbox) {
        network(self.quota.map(|a_second| Quota {
            clock: Arc::new(context.child("clock")),
            a_second,
        }))
    }

    pub(crate) fn cpu_us_a_key(&self, kind: Kind) -> f64 {
        self.cost(kind, cpu).as_secs_f64() * 1e6 / self.keys as f64
    }

    /// What the clock says that it takes to have all keys.
    pub(crate) fn cost(&self, kind: Kind, clock: fn() -> Duration) -> Duration {
        let peers = peers(self.peers);
        deterministic::Runner::default().start(|context| async move {
            let (sender, mut delivered) = mpsc::unbounded_channel();
            let consumer = Count(sender);
            let network = self.network(&context);
            let keys: Vec<u64> = (0..self.keys).collect();
            let begun = match kind {
                Kind::Null => {
                    let begun = clock();
                    null::run(context.child("null"), network, peers, keys, consumer).await;
                    for _ in 0..self.keys {
                        delivered.recv().await.expect("all were delivered");
                    }
                    begun
                }
                Kind::Stock => {
                    let mut mailbox =
                        start!(stock::Engine<_, _, _, _, _, _, _>, context, &peers, consumer, network);
                    context.sleep(Duration::from_millis(10)).await;
                    let begun = clock();
                    fetch!(self, context, mailbox, keys);
                    for _ in 0..self.keys {
                        delivered.recv().await.expect("the engine runs");
                    }
                    begun
                }
                Kind::Ours => {
                    let mut mailbox = start!(
                        gannet_commonware::Engine<_, _, _, _, _, _, _>,
                        context,
                        &peers,
                        consumer,
                        network
                    );
                    context.sleep(Duration::from_millis(10)).await;
                    let begun = clock();
                    fetch!(self, context, mailbox, keys);
                    for _ in 0..self.keys {
                        delivered.recv().await.expect("the engine runs");
                    }
                    begun
                }
            };
            clock().saturating_sub(begun)
        })
    }
}

/// What each of many keys holds that wait for a peer which is away.
pub(crate) fn bytes_a_waiting_key(kind: Kind, keys: u64, allocator: &StatsAlloc<System>) -> f64 {
    let scene = Scene {
        keys: 0,
        peers: 10,
        stuck: keys,
        quota: None,
    };
    let peers = peers(scene.peers);
    deterministic::Runner::default().start(|context| async move {
        let consumer = Count(mpsc::unbounded_channel().0);
        let network = scene.network(&context);
        let region = Region::new(allocator);
        match kind {
            Kind::Null => {}
            Kind::Stock => {
                let mut mailbox =
                    start!(stock::Engine<_, _, _, _, _, _, _>, context, &peers, consumer, network);
                fetch!(scene, context, mailbox, Vec::<u64>::new());
            }
            Kind::Ours => {
                let mut mailbox = start!(
                    gannet_commonware::Engine<_, _, _, _, _, _, _>,
                    context,
                    &peers,
                    consumer,
                    network
                );
                fetch!(scene, context, mailbox, Vec::<u64>::new());
            }
        }
        let change = region.change();
        (change.bytes_allocated as f64 - change.bytes_deallocated as f64) / keys as f64
    })
}
