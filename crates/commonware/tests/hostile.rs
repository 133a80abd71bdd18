//! A node that is fed nonsense stays up, bounded, and serves.

mod common;

use bytes::Bytes;
use common::{Collector, Holder, value};
use commonware_cryptography::{
    Signer as _,
    ed25519::{PrivateKey, PublicKey},
};
use commonware_macros::select;
use commonware_p2p::{
    LimitedSender as _, Manager as _, Receiver as _, Recipients, Sender as _,
    simulated::{self, Link, Network, Oracle},
};
use commonware_resolver::Resolver as _;
use commonware_runtime::{
    Clock as _, Metrics as _, Quota, Runner as _, Supervisor as _,
    deterministic::{self, Context},
};
use commonware_utils::{NZDuration, NZU32, NZUsize, ordered::Set, probability};
use gannet_commonware::{Config, Engine, Mailbox, Tuning};
use std::{num::NonZeroUsize, time::Duration};

type Channel = (
    simulated::Sender<PublicKey, Context>,
    simulated::Receiver<PublicKey>,
);

struct World {
    oracle: Oracle<PublicKey, Context>,
    peers: Vec<PublicKey>,
    channels: Vec<Channel>,
}

/// So many peers, all linked to each other, with practically no quota.
async fn world(context: &Context, count: u64) -> World {
    let (network, oracle) = Network::new(
        context.child("network"),
        simulated::Config {
            max_size: 1024 * 1024,
            max_peers_per_set: NZUsize!(8),
            disconnect_on_block: true,
            tracked_peer_sets: NZUsize!(1),
        },
    );
    network.start();
    let peers: Vec<PublicKey> = (1..=count)
        .map(|seed| PrivateKey::from_seed(seed).public_key())
        .collect();
    oracle
        .manager()
        .track(0, Set::try_from(peers.clone()).expect("different peers"));
    let link = Link {
        latency: Duration::from_millis(5),
        jitter: Duration::ZERO,
        success_rate: probability!(1.0),
    };
    let mut channels = Vec::new();
    for peer in &peers {
        let control = oracle.control(peer.clone());
        let quota = Quota::per_second(NZU32!(1_000_000));
        channels.push(control.register(0, quota).await.expect("registered once"));
        for other in &peers {
            if other != peer {
                oracle
                    .add_link(peer.clone(), other.clone(), link.clone())
                    .await
                    .expect("linked once");
            }
        }
    }
    World {
        oracle,
        peers,
        channels,
    }
}

fn start(
    context: &Context,
    label: &'static str,
    world: &World,
    (me, channel): (usize, Channel),
    tuning: Tuning,
    has: fn(u64) -> bool,
) -> (
    Mailbox<u64, PublicKey>,
    commonware_utils::channel::mpsc::UnboundedReceiver<u64>,
) {
    let (consumer, keys) = Collector::new();
    let me = world.peers[me].clone();
    let (engine, mailbox) = Engine::with_tuning(
        context.child(label),
        Config {
            peer_provider: world.oracle.manager(),
            blocker: world.oracle.control(me.clone()),
            consumer,
            producer: Holder(has),
            mailbox_size: NZUsize!(64),
            me: Some(me),
            fetch_timeout: NZDuration!(Duration::from_millis(400)),
            fetch_retry_delay: Duration::from_millis(20),
            priority_requests: false,
            priority_responses: false,
        },
        tuning,
    );
    engine.start(channel);
    (mailbox, keys)
}

fn counted(context: &Context, name: &str) -> u64 {
    let metrics = context.encode();
    let lines = metrics.lines().filter(|line| line.starts_with(name));
    lines
        .filter_map(|line| line.split_whitespace().next_back()?.parse::<u64>().ok())
        .sum()
}

/// Numbers that follow from a seed.
fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// A message that is random, cut off, oversized, of an unknown kind, or an answer to nothing.
fn nonsense(next: &mut impl FnMut() -> u64) -> Vec<u8> {
    let mut bytes = next().to_be_bytes().to_vec();
    match next() % 6 {
        0 => bytes = (0..next() % 64).map(|_| next() as u8).collect(),
        1 => bytes.truncate((next() % 8) as usize),
        2 => bytes.extend([3 + (next() % 253) as u8, 1, 2, 3]),
        // A length with nothing behind it.
        3 => bytes.extend([1, 0xff, 0xff, 0xff, 0xff, 0x0f, 7]),
        4 => {
            bytes.extend([1, 0x80, 0x80, 0x04]);
            bytes.extend(vec![7; 65_536]);
        }
        _ => bytes.push(2),
    }
    bytes
}

#[test]
fn nonsense_is_dropped_and_the_node_serves_on() {
    deterministic::Runner::timed(Duration::from_secs(600)).start(|context| async move {
        let mut world = world(&context, 3).await;
        let mut channels = std::mem::take(&mut world.channels).into_iter();
        let mut take = || channels.next().expect("three channels");
        let odd = |key| key % 2 == 1;
        let even = |key| key % 2 == 0;
        let tuning = Tuning::default;
        let (mut ours, mut keys) = start(&context, "ours", &world, (0, take()), tuning(), odd);
        let (mut other, mut others) = start(&context, "other", &world, (1, take()), tuning(), even);
        let (mut liar, _answers) = take();
        let victim = world.peers[0].clone();
        let mut next = random(7);
        for round in 0..50 {
            for _ in 0..40 {
                let to = Recipients::One(victim.clone());
                liar.send(to, nonsense(&mut next), false);
            }
            ours.fetch(2 * round);
            other.fetch(2 * round + 1);
            let both = async {
                assert_eq!(keys.recv().await, Some(2 * round));
                assert_eq!(others.recv().await, Some(2 * round + 1));
            };
            select! {
                _ = both => {},
                _ = context.sleep(Duration::from_secs(10)) => panic!("stuck in round {round}"),
            }
        }
        let dropped = counted(&context, "ours_malformed_total")
            + counted(&context, "ours_unsolicited_total")
            + counted(&context, "ours_serve_total");
        assert!(dropped >= 50 * 40, "{dropped}");
        assert!(world.oracle.blocked().await.expect("it runs").is_empty());
    });
}

/// Answers that nobody asked for: what is held must not grow with them, and nothing of them arrives.
#[test]
fn unsolicited_answers_cost_nothing_that_lasts() {
    const ANSWERS: u64 = 1_000_000;
    deterministic::Runner::timed(Duration::from_secs(60_000)).start(|context| async move {
        let mut world = world(&context, 3).await;
        let mut channels = std::mem::take(&mut world.channels).into_iter();
        let mut take = || channels.next().expect("three channels");
        let (ours, theirs) = (take(), take());
        let tuning = Tuning::default;
        let (mut ours, mut keys) = start(&context, "ours", &world, (0, ours), tuning(), |_| false);
        let _holder = start(&context, "other", &world, (1, theirs), tuning(), |_| true);
        let (mut liar, mut asked) = take();
        let victim = world.peers[0].clone();
        let mut next = random(11);
        for n in 0..ANSWERS {
            let mut bytes = next().to_be_bytes().to_vec();
            bytes.extend([1, 3, 1, 2, 3]);
            let to = Recipients::One(victim.clone());
            // Past the quota there is nothing to test.
            if let Ok(checked) = liar.check(to) {
                let _ = commonware_p2p::CheckedSender::send(checked, bytes, false);
            }
            if n % 1000 == 0 {
                context.sleep(Duration::from_millis(10)).await;
            }
        }
        context.sleep(Duration::from_secs(1)).await;
        assert_eq!(counted(&context, "ours_unsolicited_total"), ANSWERS);
        assert_eq!(counted(&context, "ours_fetch_active"), 0);
        assert_eq!(counted(&context, "ours_fetch_pending"), 0);
        // One that is right but for who sent it: asked of another, answered by the liar.
        ours.fetch(5);
        let answered = async {
            loop {
                select! {
                    key = keys.recv() => break assert_eq!(key, Some(5)),
                    request = asked.recv() => {
                        let (peer, _) = request.expect("it runs");
                        assert_eq!(peer, victim, "asked, and says nothing");
                    },
                }
            }
        };
        select! {
            _ = answered => {},
            _ = context.sleep(Duration::from_secs(30)) => panic!("not served"),
        }
    });
}

/// With more requests at work than it is allowed, a node says at once that it has nothing.
#[test]
fn serving_is_bounded() {
    #[derive(Clone)]
    struct Never;
    impl gannet_commonware::Producer for Never {
        type Key = u64;
        fn produce(&mut self, _: u64) -> commonware_utils::channel::oneshot::Receiver<Bytes> {
            let (sender, receiver) = commonware_utils::channel::oneshot::channel();
            std::mem::forget(sender);
            receiver
        }
    }
    deterministic::Runner::timed(Duration::from_secs(60)).start(|context| async move {
        let mut world = world(&context, 2).await;
        let mut channels = std::mem::take(&mut world.channels).into_iter();
        let (ours, (mut sender, mut receiver)) =
            (channels.next().expect("two"), channels.next().expect("two"));
        let me = world.peers[0].clone();
        let (engine, _mailbox) = Engine::with_tuning(
            context.child("ours"),
            Config {
                peer_provider: world.oracle.manager(),
                blocker: world.oracle.control(me.clone()),
                consumer: Collector::new().0,
                producer: Never,
                mailbox_size: NZUsize!(64),
                me: Some(me.clone()),
                fetch_timeout: NZDuration!(Duration::from_millis(400)),
                fetch_retry_delay: Duration::from_millis(20),
                priority_requests: false,
                priority_responses: false,
            },
            Tuning {
                serves_max: NonZeroUsize::new(3).expect("three"),
                ..Tuning::default()
            },
        );
        engine.start(ours);
        for id in 0..5_u64 {
            let mut bytes = id.to_be_bytes().to_vec();
            bytes.push(0);
            bytes.extend(9_u64.to_be_bytes());
            sender.send(Recipients::One(me.clone()), bytes, false);
        }
        for id in 3..5_u64 {
            let (_, message) = receiver.recv().await.expect("it runs");
            let mut expected = id.to_be_bytes().to_vec();
            expected.push(2);
            assert_eq!(message.as_ref(), expected);
        }
        assert_eq!(counted(&context, "ours_serve_processing"), 3);
    });
}

/// With a hedge a silent peer is not waited for.
#[test]
fn a_hedge_asks_another() {
    deterministic::Runner::timed(Duration::from_secs(60)).start(|context| async move {
        let mut world = world(&context, 3).await;
        let mut channels = std::mem::take(&mut world.channels).into_iter();
        let mut take = || channels.next().expect("three channels");
        let (ours, theirs, _silent) = (take(), take(), take());
        let tuning = Tuning {
            hedge: Some(gannet_commonware::Hedge::After(Duration::from_millis(30))),
            ..Tuning::default()
        };
        let (mut ours, mut keys) = start(&context, "ours", &world, (0, ours), tuning, |_| false);
        let _holder = start(
            &context,
            "other",
            &world,
            (1, theirs),
            Tuning::default(),
            |_| true,
        );
        context.sleep(Duration::from_millis(50)).await;
        for key in 0..20 {
            assert!(!value(key).is_empty());
            let begun = context.current();
            ours.fetch(key);
            assert_eq!(keys.recv().await, Some(key));
            let took = context.current().duration_since(begun).expect("onwards");
            assert!(took < Duration::from_millis(100), "{took:?}");
        }
        assert_eq!(
            counted(&context, "ours_fetch_total"),
            20,
            "and nothing failed"
        );
    });
}
