//! What an engine is given of a network: a sender, a receiver, a peer provider and a blocker, all of
//! which tell the oracle what passes, and behave as the seed says.

use super::{
    account::{Notes, Run},
    state::{Shared, Sim, wall},
    wire::{Message, What},
    world::{names, peer_of},
};
use commonware_actor::{Feedback, Unreliable};
use commonware_cryptography::ed25519::PublicKey;
use commonware_p2p::{
    BlockedSubscription, Blocker, CheckedSender, LimitedSender, PeerSetSubscription, PeerSetUpdate,
    Provider, Receiver, Recipients, TrackedPeers,
};
use commonware_runtime::{IoBuf, IoBufs};
use commonware_utils::{
    NZUsize,
    channel::{mpsc, ring},
    ordered::Set,
};
use std::{collections::BTreeSet, fmt, num::NonZeroUsize, time::SystemTime};

/// One engine's place in the simulation: its node, and which of its engines this is.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) shared: Shared,
    pub(crate) node: usize,
    pub(crate) run: usize,
}

impl Sim {
    /// Asks an account what it makes of something.
    pub(crate) fn ask<R>(
        &mut self,
        now: u64,
        run: usize,
        f: impl FnOnce(&mut Run, &mut Notes) -> R,
    ) -> R {
        let mut notes = Notes::default();
        let account = &mut self.runs[run];
        account.overdue(now, &mut notes);
        let result = f(account, &mut notes);
        for mark in notes.marks {
            self.coverage.hit(mark);
        }
        for (rule, what) in notes.bad {
            self.fail(now, run, rule, format_args!("{what}"));
        }
        result
    }
}

/// The names of these peers.
pub(crate) fn named(peers: &BTreeSet<usize>) -> Set<PublicKey> {
    Set::from_iter_dedup(peers.iter().map(|peer| names()[*peer].clone()))
}

// ---- the wire ----

/// The way out.
#[derive(Clone, Debug)]
pub(crate) struct Port(pub(crate) Place);

/// The way out to one peer that is not at its quota.
#[derive(Debug)]
pub(crate) struct Checked {
    place: Place,
    peer: usize,
}

impl LimitedSender for Port {
    type PublicKey = PublicKey;
    type Checked<'a> = Checked;

    fn check(&mut self, recipients: Recipients<PublicKey>) -> Result<Checked, SystemTime> {
        let Recipients::One(peer) = recipients else {
            panic!("a resolver sends to one peer at a time");
        };
        let peer = peer_of(&peer);
        let Place { shared, node, run } = &self.0;
        shared.with(|sim, now| {
            let Err(until) = sim.take_token(now, *node, peer) else {
                let place = self.0.clone();
                return Ok(Checked { place, peer });
            };
            sim.line(now, "||", format_args!("{node}>{peer} until {until}"));
            sim.ask(now, *run, |run, notes| {
                run.turned_away(now, peer, until, notes)
            });
            Err(wall(until))
        })
    }
}

impl CheckedSender for Checked {
    type PublicKey = PublicKey;

    fn recipients(&self) -> Vec<PublicKey> {
        vec![names()[self.peer].clone()]
    }

    fn send(self, message: impl Into<IoBufs> + Send, _: bool) -> Unreliable<Feedback> {
        let bytes = message.into().coalesce().as_ref().to_vec();
        let Self {
            place: Place { shared, node, run },
            peer,
        } = self;
        shared.with(|sim, now| sim.sent(now, (node, run), peer, bytes))
    }
}

impl Sim {
    fn sent(
        &mut self,
        now: u64,
        (node, run): (usize, usize),
        peer: usize,
        bytes: Vec<u8>,
    ) -> Unreliable<Feedback> {
        let Some(message) = Message::decode(&bytes) else {
            self.fail(now, run, "format", format_args!("{bytes:?}"));
            return Unreliable::new(Feedback::Ok);
        };
        let refuse = self.world.odds.refuse;
        if self.fault(refuse) {
            self.line(now, "|x", format_args!("{node}>{peer} {message:?}"));
            self.ask(now, run, |run, notes| {
                run.not_taken(now, peer, &message, notes)
            });
            return Unreliable::rejected();
        }
        let Message { id, what } = &message;
        self.line(now, "->", format_args!("{node}>{peer} {id:x} {what:?}"));
        match what {
            What::Request(key) => {
                if !self.ids.insert((node, *id)) {
                    self.fail(now, run, "fresh ids", format_args!("{id:x} again"));
                }
                self.ask(now, run, |run, notes| run.asks(now, peer, *id, *key, notes));
            }
            _ => self.ask(now, run, |run, notes| {
                run.serves(now, peer, *id, what, notes)
            }),
        }
        self.transmit(now, node, peer, bytes);
        Unreliable::new(Feedback::Ok)
    }
}

/// The way in.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) place: Place,
    pub(crate) messages: mpsc::UnboundedReceiver<(usize, Vec<u8>)>,
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

impl Receiver for Inbox {
    type Error = Gone;
    type PublicKey = PublicKey;

    async fn recv(&mut self) -> Result<(PublicKey, IoBuf), Gone> {
        let (from, bytes) = self.messages.recv().await.ok_or(Gone)?;
        let Place { shared, node, run } = &self.place;
        shared.with(|sim, now| sim.received(now, (*node, *run), from, &bytes));
        Ok((names()[from].clone(), IoBuf::from(bytes)))
    }

    fn capacity(&self) -> NonZeroUsize {
        NZUsize!(1024)
    }
}

impl Sim {
    /// An engine reads a message.
    fn received(&mut self, now: u64, (node, run): (usize, usize), from: usize, bytes: &[u8]) {
        let Some(message) = Message::decode(bytes) else {
            self.coverage.hit("malformed");
            return self.line(now, "<?", format_args!("{from}>{node} {bytes:?}"));
        };
        let Message { id, what } = &message;
        self.line(now, "<-", format_args!("{from}>{node} {id:x} {what:?}"));
        self.ask(now, run, |run, notes| match message.what {
            What::Request(key) => run.requested(now, from, message.id, key),
            _ => run.answered(now, from, message, notes),
        });
    }
}

// ---- peers ----

/// Who the peers are.
#[derive(Clone, Debug)]
pub(crate) struct Roll(pub(crate) Place);

impl Provider for Roll {
    type PublicKey = PublicKey;

    async fn peer_set(&mut self, _: u64) -> Option<TrackedPeers<PublicKey>> {
        None
    }

    async fn subscribe(&mut self) -> PeerSetSubscription<PublicKey> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let Place { shared, node, .. } = &self.0;
        shared.with(|sim, now| {
            sim.net.desks[*node].peer_sets = Some(sender);
            // To a new subscriber what is known is news.
            if let Some((index, set)) = sim.net.desks[*node].latest.take() {
                sim.tell_peers(now, *node, index, set);
            }
        });
        receiver
    }
}

impl Sim {
    /// Tells a node's engine a peer set; one that is older than the latest is not to be heeded.
    pub(crate) fn tell_peers(&mut self, now: u64, node: usize, index: u64, set: BTreeSet<usize>) {
        self.line(now, "..", format_args!("{node} peers {index} {set:?}"));
        let (one, two): (Vec<usize>, Vec<usize>) = set
            .iter()
            .partition(|peer| (**peer as u64 + index).is_multiple_of(2));
        let named = |peers: Vec<usize>| named(&peers.into_iter().collect());
        let update = PeerSetUpdate {
            index,
            latest: TrackedPeers::new(named(one), named(two)),
            // Nothing here is to be asked for its own sake.
            all: TrackedPeers::primary(Set::from_iter_dedup(names().iter().cloned())),
        };
        let desk = &mut self.net.desks[node];
        if let Some(sender) = &desk.peer_sets {
            // Nobody hears it if the engine has stopped.
            let _ = sender.send(update);
        }
        let stale = desk
            .latest
            .as_ref()
            .is_some_and(|(latest, _)| index <= *latest);
        if stale {
            return self.coverage.hit("stale peer set");
        }
        desk.latest = Some((index, set.clone()));
        if let Some(run) = self.run_of(node)
            && self.net.desks[node].peer_sets.is_some()
        {
            self.ask(now, run, |run, _| run.peers(now, set));
        }
    }

    /// Tells a node's engine who is blocked.
    pub(crate) fn tell_blocks(&mut self, now: u64, node: usize) {
        let blocked: BTreeSet<usize> = self.net.desks[node].blocked.keys().copied().collect();
        self.line(now, "..", format_args!("{node} blocks {blocked:?}"));
        if let Some(sender) = &self.net.desks[node].blocked_sets {
            sender.send_lossy(named(&blocked));
        }
        if let Some(run) = self.run_of(node)
            && self.net.desks[node].blocked_sets.is_some()
        {
            self.ask(now, run, |run, _| run.blocks(now, blocked));
        }
    }
}

/// Who is blocked.
#[derive(Clone, Debug)]
pub(crate) struct Warden(pub(crate) Place);

impl Blocker for Warden {
    type PublicKey = PublicKey;

    fn block(&mut self, peer: PublicKey) -> Feedback {
        let peer = peer_of(&peer);
        let Place { shared, node, run } = &self.0;
        shared.with(|sim, now| {
            sim.line(now, "##", format_args!("{node} blocks {peer}"));
            sim.ask(now, *run, |run, notes| {
                run.acts(now, "blocked a peer", notes);
                let accused = |(peers, _): &(Vec<usize>, u64)| peers.contains(&peer);
                match run.accused.iter().position(accused) {
                    Some(n) => drop(run.accused.remove(n)),
                    None => notes.bad("blocked", format!("{peer} was blocked for nothing")),
                }
            });
            sim.net.desks[*node].blocked.entry(peer).or_insert(now);
            sim.tell_blocks(now, *node);
        });
        Feedback::Ok
    }

    fn blocked(&mut self) -> BlockedSubscription<PublicKey> {
        let (sender, receiver) = ring::channel(NZUsize!(1));
        let Place { shared, node, .. } = &self.0;
        shared.with(|sim, now| {
            sim.net.desks[*node].blocked_sets = Some(sender);
            sim.tell_blocks(now, *node);
            if !sim.world.peers[*node].tells_blocks {
                sim.net.desks[*node].blocked_sets = None;
            }
        });
        receiver
    }
}
