//! Stock nodes and ours in one network, over authenticated connections on loopback TCP: each fetches
//! from the other, and neither can tell.

mod common;

use common::{Collector, Holder};
use commonware_cryptography::{ChaCha20Poly1305, Signer as _, ed25519::PrivateKey};
use commonware_macros::select;
use commonware_p2p::{Address, AddressableManager as _, authenticated::lookup};
use commonware_resolver::{Resolver as _, TargetedResolver as _, p2p as stock};
use commonware_runtime::{Clock as _, Quota, Runner as _, Supervisor as _, tokio};
use commonware_stream::{
    cups::{self, Cups},
    sake::{self, Sake},
};
use commonware_utils::{NZDuration, NZU32, NZUsize, non_empty_vec, ordered::Map};
use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    time::Duration,
};

/// An address that is free, as far as one can know.
fn address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback");
    listener.local_addr().expect("bound")
}

/// A node with its own network and an engine of the given kind; its mailbox, and the keys it gets.
macro_rules! node {
    ($engine:ty, $context:expr, $label:literal, $signer:expr, $listen:expr, $peers:expr, $has:expr) => {{
        let context = $context.child($label);
        let signer: PrivateKey = $signer;
        let me = signer.public_key();
        let handshake = Cups::<_, ChaCha20Poly1305>::new(
            Sake {
                signer,
                synchrony_bound: Duration::from_secs(5),
                max_handshake_age: Duration::from_secs(10),
                version: sake::Version::V1,
            },
            cups::Version::V1,
        );
        let config = lookup::Config::local(
            handshake,
            b"gannet-mixed",
            $listen,
            NZUsize!(4),
            64 * 1024,
            NZUsize!(1024),
        );
        let (mut network, mut oracle) = lookup::Network::new(context.child("network"), config);
        oracle.track(0, $peers);
        let channel = network.register(0, Quota::per_second(NZU32!(2000)));
        network.start();
        let (consumer, keys) = Collector::new();
        let (engine, mailbox) = <$engine>::new(
            context.child("engine"),
            stock::Config {
                peer_provider: oracle.clone(),
                blocker: oracle,
                consumer,
                producer: Holder($has),
                mailbox_size: NZUsize!(1024),
                me: Some(me),
                fetch_timeout: NZDuration!(Duration::from_secs(2)),
                fetch_retry_delay: Duration::from_millis(50),
                priority_requests: false,
                priority_responses: false,
            },
        );
        engine.start(channel);
        (mailbox, keys)
    }};
}

const KEYS: u64 = 500;

#[test]
fn stock_and_ours_fetch_from_each_other() {
    tokio::Runner::default().start(|context| async move {
        let signers = [PrivateKey::from_seed(1), PrivateKey::from_seed(2)];
        let addresses = [address(), address()];
        let peers = || {
            Map::try_from([
                (signers[0].public_key(), Address::Symmetric(addresses[0])),
                (signers[1].public_key(), Address::Symmetric(addresses[1])),
            ])
            .expect("two different peers")
        };
        // Each has what the other lacks.
        let (mut ours, mut our_keys) = node!(
            gannet_commonware::Engine<_, _, _, _, _, _, _>,
            context,
            "ours",
            signers[0].clone(),
            addresses[0],
            peers(),
            |key| key % 2 == 0
        );
        let (mut theirs, mut their_keys) = node!(
            stock::Engine<_, _, _, _, _, _, _>,
            context,
            "theirs",
            signers[1].clone(),
            addresses[1],
            peers(),
            |key| key % 2 == 1
        );
        let odd: Vec<u64> = (0..KEYS).filter(|key| key % 2 == 1).collect();
        let even: Vec<u64> = (0..KEYS).filter(|key| key % 2 == 0).collect();
        // All, some, and by name.
        ours.fetch_all(odd[2..].to_vec());
        ours.fetch(odd[0]);
        ours.fetch_targeted(odd[1], non_empty_vec![signers[1].public_key()]);
        theirs.fetch_all(even[2..].to_vec());
        theirs.fetch(even[0]);
        theirs.fetch_targeted(even[1], non_empty_vec![signers[0].public_key()]);

        let (mut got, mut they_got) = (BTreeSet::new(), BTreeSet::new());
        let timeout = context.sleep(Duration::from_secs(60));
        let all = async {
            while got.len() < odd.len() || they_got.len() < even.len() {
                select! {
                    key = our_keys.recv() => assert!(got.insert(key.expect("ours runs"))),
                    key = their_keys.recv() => assert!(they_got.insert(key.expect("theirs runs"))),
                }
            }
        };
        select! {
            _ = all => {},
            _ = timeout => panic!("too slow"),
        }
        assert!(got.into_iter().eq(odd) && they_got.into_iter().eq(even));
    });
}
