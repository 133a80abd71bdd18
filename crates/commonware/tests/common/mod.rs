//! What the tests share: a producer and a consumer whose data follows from the key.
#![allow(dead_code, unreachable_pub, unused_macros)] // Each test file uses a part of it.

use bytes::Bytes;
use commonware_resolver::{Consumer, Delivery, Outcome, Resolution, p2p::Producer};
use commonware_utils::channel::{mpsc, oneshot};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// What belongs to a key: of a length and with contents that follow from it.
pub fn value(key: u64) -> Bytes {
    let len = 1 + key * 37 % 2000;
    (0..len).map(|n| (n ^ key) as u8).collect()
}

/// Has the keys for which the function says yes; of the others it knows nothing.
#[derive(Clone, Copy)]
pub struct Holder(pub fn(u64) -> bool);

impl Producer for Holder {
    type Key = u64;

    fn produce(&mut self, key: u64) -> oneshot::Receiver<Bytes> {
        let (sender, receiver) = oneshot::channel();
        if self.0(key) {
            let _ = sender.send(value(key));
        }
        receiver
    }
}

/// Accepts what belongs to the key, rejects everything else, and tells which keys it got.
#[derive(Clone)]
pub struct Collector(mpsc::UnboundedSender<u64>);

impl Collector {
    pub fn new() -> (Self, mpsc::UnboundedReceiver<u64>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }
}

impl Consumer for Collector {
    type Key = u64;
    type Value = Bytes;
    type Subscriber = ();
    type Outcome = Outcome;

    fn deliver(&mut self, delivery: Delivery<u64, ()>, bytes: Bytes) -> oneshot::Receiver<Outcome> {
        let (sender, receiver) = oneshot::channel();
        let outcome = if bytes == value(delivery.key) {
            let _ = self.0.send(delivery.key);
            Outcome::Resolved(Resolution::Complete)
        } else {
            Outcome::Invalid
        };
        let _ = sender.send(outcome);
        receiver
    }
}

/// An address that is free, as far as one can know.
pub fn address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback");
    listener.local_addr().expect("bound")
}

/// A node with its own network and an engine of the given kind: its mailbox, the keys that it gets,
/// who can change its peers, and its tasks.
macro_rules! node {
    ($engine:ty, $context:expr, $label:literal, $signer:expr, $listen:expr, $peers:expr, $producer:expr) => {{
        use commonware_cryptography::Signer as _;
        use commonware_p2p::AddressableManager as _;
        use commonware_runtime::Supervisor as _;
        let context = $context.child($label);
        let signer: commonware_cryptography::ed25519::PrivateKey = $signer;
        let me = signer.public_key();
        let handshake =
            commonware_stream::cups::Cups::<_, commonware_cryptography::ChaCha20Poly1305>::new(
                commonware_stream::sake::Sake {
                    signer,
                    synchrony_bound: std::time::Duration::from_secs(5),
                    max_handshake_age: std::time::Duration::from_secs(10),
                    version: commonware_stream::sake::Version::V1,
                },
                commonware_stream::cups::Version::V1,
            );
        let config = commonware_p2p::authenticated::lookup::Config::local(
            handshake,
            b"gannet-mixed",
            $listen,
            commonware_utils::NZUsize!(4),
            64 * 1024,
            commonware_utils::NZUsize!(1024),
        );
        let (mut network, mut oracle) =
            commonware_p2p::authenticated::lookup::Network::new(context.child("network"), config);
        oracle.track(0, $peers);
        let channel = network.register(
            0,
            commonware_runtime::Quota::per_second(commonware_utils::NZU32!(2000)),
        );
        let network = network.start();
        let (consumer, keys) = $crate::common::Collector::new();
        let (engine, mailbox) = <$engine>::new(
            context.child("engine"),
            gannet_commonware::Config {
                peer_provider: oracle.clone(),
                blocker: oracle.clone(),
                consumer,
                producer: $producer,
                mailbox_size: commonware_utils::NZUsize!(1024),
                me: Some(me),
                fetch_timeout: commonware_utils::NZDuration!(std::time::Duration::from_secs(2)),
                fetch_retry_delay: std::time::Duration::from_millis(50),
                priority_requests: false,
                priority_responses: false,
            },
        );
        let engine = engine.start(channel);
        (mailbox, keys, oracle, [network, engine])
    }};
}
