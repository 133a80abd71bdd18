//! Two nodes on loopback, over commonware's authenticated p2p: one has data, the other fetches it.
//!
//! ```console
//! $ cargo run -p gannet-commonware --example two_nodes
//! ```
//!
//! To see the same with the stock engine, import `Engine` from `commonware_resolver::p2p` instead:
//! nothing else changes.

use bytes::Bytes;
use commonware_cryptography::{
    ChaCha20Poly1305, Signer as _,
    ed25519::{PrivateKey, PublicKey},
};
use commonware_p2p::{Address, AddressableManager as _, authenticated::lookup};
use commonware_resolver::{Consumer, Delivery, Resolver as _};
use commonware_runtime::{Clock as _, Quota, Runner as _, Supervisor as _, tokio};
use commonware_stream::{
    cups::{self, Cups},
    sake::{self, Sake},
};
use commonware_utils::{
    NZDuration, NZU32, NZUsize,
    channel::{mpsc, oneshot},
    ordered::Map,
};
use gannet_commonware::{Config, Engine, Mailbox, Producer};
use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    time::Duration,
};

const KEYS: u64 = 1000;

/// Has every key, or none.
#[derive(Clone)]
struct Library {
    open: bool,
}

fn page(key: u64) -> Bytes {
    Bytes::from(format!("page {key} of the library"))
}

impl Producer for Library {
    type Key = u64;

    fn produce(&mut self, key: u64) -> oneshot::Receiver<Bytes> {
        let (sender, receiver) = oneshot::channel();
        if self.open {
            let _ = sender.send(page(key));
        }
        // A sender that is dropped says that there is nothing.
        receiver
    }
}

/// Says whether a page is the right one, and passes it on.
#[derive(Clone)]
struct Reader {
    pages: mpsc::UnboundedSender<(u64, Bytes)>,
}

impl Consumer for Reader {
    type Key = u64;
    type Value = Bytes;
    type Subscriber = ();
    type Outcome = bool;

    fn deliver(&mut self, delivery: Delivery<u64, ()>, bytes: Bytes) -> oneshot::Receiver<bool> {
        let (sender, receiver) = oneshot::channel();
        let right = bytes == page(delivery.key);
        if right {
            let _ = self.pages.send((delivery.key, bytes));
        }
        let _ = sender.send(right);
        receiver
    }
}

type Peer = (PrivateKey, SocketAddr);
type Pages = mpsc::UnboundedReceiver<(u64, Bytes)>;

/// Starts a node: its network, and the engine on a channel of it.
fn start(
    context: tokio::Context,
    (signer, listen): Peer,
    peers: &[Peer],
    library: Library,
) -> (Mailbox<u64, PublicKey>, Pages) {
    let me = signer.public_key();
    let sake = Sake {
        signer,
        synchrony_bound: Duration::from_secs(5),
        max_handshake_age: Duration::from_secs(10),
        version: sake::Version::V1,
    };
    let handshake = Cups::<_, ChaCha20Poly1305>::new(sake, cups::Version::V1);
    let (mut network, mut oracle) = lookup::Network::new(
        context.child("network"),
        lookup::Config::local(
            handshake,
            b"gannet-example",
            listen,
            NZUsize!(4),
            64 * 1024,
            NZUsize!(1024),
        ),
    );
    let peers = peers
        .iter()
        .map(|(signer, address)| (signer.public_key(), Address::Symmetric(*address)));
    oracle.track(0, Map::from_iter_dedup(peers));
    let channel = network.register(0, Quota::per_second(NZU32!(5000)));
    network.start();

    let (pages, received) = mpsc::unbounded_channel();
    let (engine, mailbox) = Engine::new(
        context.child("resolver"),
        Config {
            peer_provider: oracle.clone(),
            blocker: oracle,
            consumer: Reader { pages },
            producer: library,
            mailbox_size: NZUsize!(1024),
            me: Some(me),
            fetch_timeout: NZDuration!(Duration::from_secs(2)),
            fetch_retry_delay: Duration::from_millis(100),
            priority_requests: false,
            priority_responses: false,
        },
    );
    engine.start(channel);
    (mailbox, received)
}

fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("loopback is there")
}

fn main() {
    let peers = [1, 2].map(|seed| (PrivateKey::from_seed(seed), free_address()));
    tokio::Runner::default().start(|context| async move {
        let open = Library { open: true };
        let _library = start(context.child("library"), peers[0].clone(), &peers, open);
        let closed = Library { open: false };
        let (mut mailbox, mut pages) =
            start(context.child("reader"), peers[1].clone(), &peers, closed);

        let begun = context.current();
        mailbox.fetch_all((0..KEYS).collect::<Vec<_>>());
        let mut bytes = 0;
        for _ in 0..KEYS {
            let (key, page) = pages.recv().await.expect("the node runs");
            bytes += page.len();
            if key == 0 {
                println!("key 0: {:?}", String::from_utf8_lossy(&page));
            }
        }
        let took = context.current().duration_since(begun).unwrap_or_default();
        println!("{KEYS} keys, {bytes} bytes, in {took:.1?} (the connection included)");
    });
}
