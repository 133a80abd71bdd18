//! A network that costs next to nothing: every peer answers at once, within its quota.

use bytes::Bytes;
use commonware_actor::{Feedback, Unreliable};
use commonware_cryptography::ed25519::PublicKey;
use commonware_p2p::{
    BlockedSubscription, Blocker, CheckedSender, LimitedSender, Message, PeerSetSubscription,
    PeerSetUpdate, Provider, Receiver, Recipients, TrackedPeers,
};
use commonware_runtime::{Clock, IoBuf, IoBufs, deterministic::Context};
use commonware_utils::{
    NZUsize,
    channel::{mpsc, ring},
    ordered::Set,
};
use std::{
    collections::HashMap,
    fmt,
    num::NonZeroUsize,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

/// What every key holds.
pub(crate) const VALUE: [u8; 1400] = [7; 1400];

/// How many requests each peer takes in a second.
#[derive(Clone)]
pub(crate) struct Quota {
    pub(crate) clock: Arc<Context>,
    pub(crate) a_second: u32,
}

type Used = HashMap<PublicKey, (SystemTime, u32)>;

/// The sending side. An answer is in the inbox as soon as the request is sent.
#[derive(Clone)]
pub(crate) struct Net {
    inbox: mpsc::UnboundedSender<(PublicKey, IoBuf)>,
    quota: Option<Quota>,
    used: Arc<Mutex<Used>>,
}

/// The receiving side.
#[derive(Debug)]
pub(crate) struct Inbox(mpsc::UnboundedReceiver<(PublicKey, IoBuf)>);

pub(crate) fn network(quota: Option<Quota>) -> (Net, Inbox) {
    let (inbox, receiver) = mpsc::unbounded_channel();
    let net = Net {
        inbox,
        quota,
        used: Arc::default(),
    };
    (net, Inbox(receiver))
}

/// Leave to send to these.
pub(crate) struct Checked<'a> {
    net: &'a Net,
    to: Recipients<PublicKey>,
}

impl LimitedSender for Net {
    type PublicKey = PublicKey;
    type Checked<'a> = Checked<'a>;

    fn check(&mut self, to: Recipients<PublicKey>) -> Result<Checked<'_>, SystemTime> {
        if let (Some(quota), Recipients::One(peer)) = (&self.quota, &to) {
            let now = quota.clock.current();
            let mut used = self.used.lock().expect("nobody panics");
            let (since, count) = used.entry(peer.clone()).or_insert((now, 0));
            let next = *since + Duration::from_secs(1);
            if now >= next {
                (*since, *count) = (now, 0);
            }
            if *count >= quota.a_second {
                return Err(next);
            }
            *count += 1;
        }
        Ok(Checked { net: self, to })
    }
}

impl CheckedSender for Checked<'_> {
    type PublicKey = PublicKey;

    fn recipients(&self) -> Vec<PublicKey> {
        match &self.to {
            Recipients::One(peer) => vec![peer.clone()],
            Recipients::Some(peers) => peers.clone(),
            Recipients::All => Vec::new(),
        }
    }

    fn send(self, message: impl Into<IoBufs> + Send, _: bool) -> Unreliable<Feedback> {
        let request = message.into().coalesce();
        let mut answer = Vec::with_capacity(11 + VALUE.len());
        // The id of the request; a tag; the length, as a varint; the value.
        answer.extend_from_slice(&request.as_ref()[..8]);
        answer.extend_from_slice(&[1, 0xf8, 0x0a]);
        answer.extend_from_slice(&VALUE);
        if let Recipients::One(peer) = self.to {
            let _ = self.net.inbox.send((peer, IoBuf::from(answer)));
        }
        Unreliable::new(Feedback::Ok)
    }
}

impl Receiver for Inbox {
    type Error = Gone;
    type PublicKey = PublicKey;

    async fn recv(&mut self) -> Result<Message<PublicKey>, Gone> {
        self.0.recv().await.ok_or(Gone)
    }

    fn capacity(&self) -> NonZeroUsize {
        NZUsize!(1024)
    }
}

/// The network is gone.
#[derive(Debug)]
pub(crate) struct Gone;

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the network is gone")
    }
}

impl std::error::Error for Gone {}

/// The peers, which never change; nobody is ever blocked.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    set: Set<PublicKey>,
    open: Arc<Mutex<Vec<mpsc::UnboundedSender<PeerSetUpdate<PublicKey>>>>>,
}

impl Peers {
    pub(crate) fn new(peers: &[PublicKey]) -> Self {
        Self {
            set: Set::from_iter_dedup(peers.iter().cloned()),
            open: Arc::default(),
        }
    }
}

impl Provider for Peers {
    type PublicKey = PublicKey;

    async fn peer_set(&mut self, _: u64) -> Option<TrackedPeers<PublicKey>> {
        Some(TrackedPeers::primary(self.set.clone()))
    }

    async fn subscribe(&mut self) -> PeerSetSubscription<PublicKey> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let latest = TrackedPeers::primary(self.set.clone());
        let _ = sender.send(PeerSetUpdate {
            index: 0,
            all: latest.clone(),
            latest,
        });
        // The stream must not end.
        self.open.lock().expect("nobody panics").push(sender);
        receiver
    }
}

impl Blocker for Peers {
    type PublicKey = PublicKey;

    fn block(&mut self, _: PublicKey) -> Feedback {
        Feedback::Ok
    }

    fn blocked(&mut self) -> BlockedSubscription<PublicKey> {
        ring::channel(NZUsize!(1)).1
    }
}

/// Nobody asks us.
#[derive(Clone)]
pub(crate) struct Nothing;

impl commonware_resolver::p2p::Producer for Nothing {
    type Key = u64;

    fn produce(&mut self, _: u64) -> commonware_utils::channel::oneshot::Receiver<Bytes> {
        commonware_utils::channel::oneshot::channel().1
    }
}
