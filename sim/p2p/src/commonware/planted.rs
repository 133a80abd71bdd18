//! Bugs planted on purpose between an engine and the world, one at a time, to prove that the oracle
//! would see them: what stands here bends what passes the traits, on the engine's side of them.
//!
//! Nothing is bent unless a bug is named.

use super::{
    application::{Holder, Judge},
    host::{Checked, Gone, Inbox, Place, Port, Roll, Warden},
    wire::{Message, What},
    world::{names, peer_of},
};
use bytes::Bytes;
use commonware_actor::{Feedback, Unreliable};
use commonware_cryptography::ed25519::PublicKey;
use commonware_p2p::{
    BlockedSubscription, Blocker, CheckedSender, LimitedSender, PeerSetSubscription, PeerSetUpdate,
    Provider, Receiver, Recipients, TrackedPeers,
};
use commonware_resolver::{Consumer, Delivery, Outcome, p2p::Producer};
use commonware_runtime::{IoBuf, IoBufs};
use commonware_utils::{
    NZUsize,
    channel::{mpsc, oneshot, ring},
    vec::NonEmptyVec,
};
use gannet_sim::subject::Plant;
use std::{
    collections::{BTreeMap, BTreeSet, hash_map::RandomState},
    hash::BuildHasher as _,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

/// Every bug that can be planted, and what the oracle has to say of it.
pub(crate) const ALL: &[Plant] = &[
    ("alters-values", "true to the wire"),
    ("asks-itself", "never itself"),
    ("asks-twice", "one request"),
    ("blocks-twice", "blocked"),
    ("blocks-unheard", "blocked peers"),
    ("chance", "I8"),
    ("counts-ids", "fresh ids"),
    ("deaf-to-retain", "wanted"),
    (
        "delivers-twice",
        "true to the wire|once per request|one delivery",
    ),
    ("forgets-retries", "liveness"),
    ("hammers", "quota"),
    ("leaves-a-task", "no tasks"),
    ("long-timeout", "true to the wire"),
    ("loses-answers", "delivered"),
    ("matches-by-id", "true to the wire"),
    ("mute", "served"),
    ("never-blocks", "blocked"),
    ("no-delay", "retry delay"),
    ("old-peers", "latest peers"),
    ("serves-all", "bounded"),
    ("serves-wrong", "served"),
    ("short-timeout", "one request"),
    ("strips-subscribers", "subscribers"),
    ("widens-targets", "targets"),
];

/// What a planted bug remembers.
#[derive(Debug, Default)]
struct Memory {
    /// Whom a request was sent to, by its id.
    asked: BTreeMap<u64, usize>,
    /// Keys that were asked for.
    keys: BTreeSet<u64>,
    /// The ids of the engine, by those on the wire.
    wire: BTreeMap<u64, u64>,
    /// Kept open, and never read or written again.
    kept: Vec<(
        mpsc::UnboundedSender<PeerSetUpdate<PublicKey>>,
        PeerSetSubscription<PublicKey>,
    )>,
}

/// The bug of one engine, if any, and what it remembers.
#[derive(Clone, Debug)]
pub(crate) struct Bend {
    pub(crate) plant: Option<&'static str>,
    place: Place,
    memory: Arc<Mutex<Memory>>,
}

impl Bend {
    pub(crate) fn new(plant: Option<&'static str>, place: Place) -> Self {
        let memory = Arc::default();
        Self {
            plant,
            place,
            memory,
        }
    }

    pub(crate) fn is(&self, name: &str) -> bool {
        debug_assert!(
            ALL.iter().any(|(known, _)| *known == name),
            "{name} is listed"
        );
        self.plant == Some(name)
    }

    fn memory<R>(&self, f: impl FnOnce(&mut Memory) -> R) -> R {
        f(&mut self.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What an engine is given, perhaps bent.
#[derive(Clone, Debug)]
pub(crate) struct Bent<T>(pub(crate) T, pub(crate) Bend);

// ---- the wire ----

impl LimitedSender for Bent<Port> {
    type PublicKey = PublicKey;
    type Checked<'a> = Bent<Checked>;

    fn check(&mut self, recipients: Recipients<PublicKey>) -> Result<Bent<Checked>, SystemTime> {
        let checked = self.0.check(recipients.clone());
        if checked.is_err() && self.1.is("hammers") {
            let _ = self.0.check(recipients.clone());
            let _ = self.0.check(recipients);
        }
        Ok(Bent(checked?, self.1.clone()))
    }
}

impl CheckedSender for Bent<Checked> {
    type PublicKey = PublicKey;

    fn recipients(&self) -> Vec<PublicKey> {
        self.0.recipients()
    }

    fn send(self, message: impl Into<IoBufs> + Send, priority: bool) -> Unreliable<Feedback> {
        let Self(checked, bend) = self;
        let bytes = message.into().coalesce();
        if bend.plant.is_none() {
            return checked.send(bytes, priority);
        }
        let to = peer_of(&checked.recipients()[0]);
        let mut message = Message::decode(bytes.as_ref()).expect("an engine makes sense");
        let lost = Unreliable::new(Feedback::Ok);
        match &mut message.what {
            What::Request(key) => {
                let (id, key) = (message.id, *key);
                let again = bend.memory(|memory| {
                    memory.asked.insert(id, to);
                    !memory.keys.insert(key)
                });
                if again && bend.is("forgets-retries") {
                    return lost;
                }
                if bend.is("chance") && RandomState::new().hash_one(id).is_multiple_of(4) {
                    return lost;
                }
                if bend.is("counts-ids") {
                    message.id = bend.memory(|memory| {
                        let wire = memory.wire.len() as u64;
                        memory.wire.insert(wire, id);
                        wire
                    });
                }
                if bend.is("asks-twice") {
                    let id = id ^ (1 << 63);
                    let twin = Message {
                        id,
                        ..message.clone()
                    };
                    let recipients = Recipients::One(names()[to].clone());
                    if let Ok(twice) = Port(bend.place).check(recipients) {
                        twice.send(twin.encode(), priority);
                    }
                }
            }
            What::Response(data) if bend.is("serves-wrong") => data.push(1),
            _ if bend.is("mute") => return lost,
            _ => {}
        }
        checked.send(message.encode(), priority)
    }
}

impl Receiver for Bent<Inbox> {
    type Error = Gone;
    type PublicKey = PublicKey;

    async fn recv(&mut self) -> Result<(PublicKey, IoBuf), Gone> {
        loop {
            let (from, bytes) = self.0.recv().await?;
            let Some(mut message) = Message::decode(bytes.as_ref()) else {
                return Ok((from, bytes));
            };
            if matches!(message.what, What::Request(_)) {
                return Ok((from, bytes));
            }
            if self.1.is("loses-answers") {
                continue;
            }
            let id = message.id;
            if self.1.is("matches-by-id") {
                let asked = self.1.memory(|memory| memory.asked.get(&id).copied());
                return Ok((
                    names()[asked.unwrap_or_else(|| peer_of(&from))].clone(),
                    bytes,
                ));
            }
            if self.1.is("counts-ids") {
                message.id = self
                    .1
                    .memory(|memory| memory.wire.get(&id).copied())
                    .unwrap_or(id);
                return Ok((from, IoBuf::from(message.encode())));
            }
            return Ok((from, bytes));
        }
    }

    fn capacity(&self) -> NonZeroUsize {
        self.0.capacity()
    }
}

// ---- peers ----

impl Provider for Bent<Roll> {
    type PublicKey = PublicKey;

    async fn peer_set(&mut self, id: u64) -> Option<TrackedPeers<PublicKey>> {
        self.0.peer_set(id).await
    }

    async fn subscribe(&mut self) -> PeerSetSubscription<PublicKey> {
        let mut sets = self.0.subscribe().await;
        if !self.1.is("old-peers") {
            return sets;
        }
        // The first set, and never another.
        let (sender, first) = mpsc::unbounded_channel();
        if let Ok(set) = sets.try_recv() {
            let _ = sender.send(set);
        }
        self.1.memory(|memory| memory.kept.push((sender, sets)));
        first
    }
}

impl Blocker for Bent<Warden> {
    type PublicKey = PublicKey;

    fn block(&mut self, peer: PublicKey) -> Feedback {
        if self.1.is("never-blocks") {
            return Feedback::Ok;
        }
        if self.1.is("blocks-twice") {
            let _ = self.0.block(peer.clone());
        }
        self.0.block(peer)
    }

    fn blocked(&mut self) -> BlockedSubscription<PublicKey> {
        let told = self.0.blocked();
        match self.1.is("blocks-unheard") {
            true => ring::channel(NZUsize!(1)).1,
            false => told,
        }
    }
}

// ---- the application ----

impl Consumer for Bent<Judge> {
    type Key = u64;
    type Value = Bytes;
    type Subscriber = u64;
    type Outcome = Outcome;

    fn deliver(
        &mut self,
        mut delivery: Delivery<u64, u64>,
        mut value: Bytes,
    ) -> oneshot::Receiver<Outcome> {
        if self.1.is("delivers-twice") {
            drop(self.0.deliver(delivery.clone(), value.clone()));
        }
        if self.1.is("strips-subscribers") {
            let (sub, span) = delivery.subscribers.first().clone();
            delivery.subscribers = NonEmptyVec::new((sub, span));
        }
        if self.1.is("alters-values") {
            value = value.iter().chain(&[1]).copied().collect();
        }
        self.0.deliver(delivery, value)
    }
}

impl Producer for Bent<Holder> {
    type Key = u64;

    fn produce(&mut self, key: u64) -> oneshot::Receiver<Bytes> {
        self.0.produce(key)
    }
}
