//! The network between the nodes, and the agenda: messages are lost, doubled, delayed and overtaken
//! as the seed says, links part and heal, and peers without an engine answer as their moods are.
//!
//! Not commonware's simulated network, for that delivers every message once or not at all, and hides
//! from the oracle when a message reaches its receiver.

use super::{
    state::Sim,
    wire::{Message, What},
    world::{self, Kind, MS, Mood, World},
};
use bytes::Bytes;
use commonware_cryptography::ed25519::PublicKey;
use commonware_p2p::PeerSetUpdate;
use commonware_resolver::Outcome;
use commonware_utils::{
    channel::{mpsc, oneshot, ring},
    ordered::Set,
};
use std::collections::{BTreeMap, BTreeSet};

/// Something that is to happen.
#[derive(Debug)]
pub(crate) enum Event {
    /// A message arrives.
    Arrive {
        from: usize,
        to: usize,
        bytes: Vec<u8>,
    },
    /// A consumer has made up its mind; None: it drops the delivery.
    Judge {
        delivery: usize,
        run: usize,
        outcome: Option<Outcome>,
        sender: oneshot::Sender<Outcome>,
    },
    /// A producer is done; None: it has nothing.
    Produce {
        run: usize,
        /// Which request of a peer this is, in the account.
        serve: u64,
        bytes: Option<Bytes>,
        sender: oneshot::Sender<Bytes>,
    },
}

/// What one node's network keeps for it, whichever engine it runs.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    pub(crate) inbox: Option<mpsc::UnboundedSender<(usize, Vec<u8>)>>,
    pub(crate) peer_sets: Option<mpsc::UnboundedSender<PeerSetUpdate<PublicKey>>>,
    pub(crate) blocked_sets: Option<ring::Sender<Set<PublicKey>>>,
    /// Who is blocked, and since when.
    pub(crate) blocked: BTreeMap<usize, u64>,
    /// The latest peer set and its index.
    pub(crate) latest: Option<(u64, BTreeSet<usize>)>,
    /// By peer: when the next message would be the first of a fresh burst.
    full_at: BTreeMap<usize, u64>,
}

/// The network.
#[derive(Debug)]
pub(crate) struct Net {
    pub(crate) desks: Vec<Desk>,
    /// Links that let nothing through, by who sends and who should receive.
    pub(crate) parted: BTreeSet<(usize, usize)>,
    agenda: BTreeMap<(u64, u64), Event>,
    entries: u64,
    /// Tells the agenda's task that there is something earlier to do.
    pub(crate) alarm: Option<mpsc::UnboundedSender<()>>,
    /// Answers that are never given, until the end.
    pub(crate) never: Vec<Event>,
    /// The last requests seen: who asked whom, with which id, for what.
    seen: Vec<(usize, u64, u64)>,
}

impl Net {
    pub(crate) fn new(world: &World) -> Self {
        Self {
            desks: world.peers.iter().map(|_| Desk::default()).collect(),
            parted: BTreeSet::new(),
            agenda: BTreeMap::new(),
            entries: 0,
            alarm: None,
            never: Vec::new(),
            seen: Vec::new(),
        }
    }

    pub(crate) fn at(&mut self, due: u64, event: Event) {
        let earlier = self.next().is_none_or(|next| due < next);
        self.entries += 1;
        self.agenda.insert((due, self.entries), event);
        if earlier && let Some(alarm) = &self.alarm {
            // Without a task there is nobody to be told.
            let _ = alarm.send(());
        }
    }

    pub(crate) fn next(&self) -> Option<u64> {
        self.agenda.keys().next().map(|(due, _)| *due)
    }

    fn due(&mut self, now: u64) -> Option<Event> {
        let entry = self.agenda.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }
}

impl Sim {
    /// What is due is done.
    pub(crate) fn perform(&mut self, now: u64) {
        while let Some(event) = self.net.due(now) {
            match event {
                Event::Arrive { from, to, bytes } => self.arrived(now, from, to, bytes),
                Event::Judge {
                    delivery,
                    run,
                    outcome,
                    sender,
                } => self.judge(now, run, delivery, outcome, sender),
                Event::Produce {
                    run,
                    serve,
                    bytes,
                    sender,
                } => self.produced(now, run, serve, bytes, sender),
            }
        }
    }

    /// Whether the quota of a node lets it send to a peer; if not, when it will. Takes a token.
    pub(crate) fn take_token(&mut self, now: u64, node: usize, to: usize) -> Result<(), u64> {
        // When faults stop there are no quotas: answers come out of the same quota as requests, and a
        // node that uses it up by asking serves nobody.
        let quota = self.world.peers[node].quota.filter(|_| !self.calm);
        let Some((burst, every)) = quota else {
            return Ok(());
        };
        let full_at = self.net.desks[node].full_at.entry(to).or_default();
        let next = (*full_at).max(now) + every;
        // So much may be taken in advance of the time that it takes to earn it.
        let allowed = now + burst * every;
        if next > allowed {
            return Err(now + (next - allowed));
        }
        *full_at = next;
        Ok(())
    }

    /// Sends a message on its way.
    pub(crate) fn transmit(&mut self, now: u64, from: usize, to: usize, bytes: Vec<u8>) {
        if let Some(Message {
            id,
            what: What::Request(key),
        }) = Message::decode(&bytes)
        {
            self.net.seen.push((from, id, key));
            if self.net.seen.len() > 32 {
                self.net.seen.remove(0);
            }
        }
        if self.net.parted.contains(&(from, to)) || self.fault(self.world.odds.loss) {
            self.line(now, "xx", format_args!("{from}>{to} {} bytes", bytes.len()));
            return self.coverage.hit("lost");
        }
        if self.fault(self.world.odds.duplicate) {
            self.coverage.hit("doubled");
            self.travel(now, from, to, bytes.clone());
        }
        self.travel(now, from, to, bytes);
    }

    fn travel(&mut self, now: u64, from: usize, to: usize, bytes: Vec<u8>) {
        let (low, high) = self.world.latency;
        let due = now + self.rng.range(low, high);
        self.net.at(due, Event::Arrive { from, to, bytes });
    }

    fn arrived(&mut self, now: u64, from: usize, to: usize, bytes: Vec<u8>) {
        if self.world.peers[to].kind == Kind::Raw {
            return self.asked_raw(now, from, to, &bytes);
        }
        let Some(inbox) = &self.net.desks[to].inbox else {
            return self.coverage.hit("arrived at nobody");
        };
        if inbox.send((from, bytes)).is_err() {
            self.coverage.hit("arrived at nobody");
        }
    }

    /// A peer without an engine gets a message.
    fn asked_raw(&mut self, now: u64, from: usize, me: usize, bytes: &[u8]) {
        let Some(Message {
            id,
            what: What::Request(key),
        }) = Message::decode(bytes)
        else {
            return;
        };
        let moods = &self.world.peers[me].moods;
        let mood = moods[self.rng.index(moods.len())];
        let truth = world::value(key);
        let honest = match self.world.holds(me, key) {
            true => What::Response(truth.clone()),
            false => What::Missing,
        };
        let mut other = truth.clone();
        other.push(7);
        let half = truth[..truth.len() / 2].to_vec();
        let answers = match mood {
            Mood::Honest => vec![(id, honest)],
            Mood::Lie => vec![(id, What::Response(other))],
            Mood::Truncate => vec![(id, What::Response(half))],
            Mood::NoData => vec![(id, What::Missing)],
            Mood::Silent | Mood::Garbage => Vec::new(),
            Mood::Late => {
                let timeout = self.world.peers[from].fetch_timeout.as_nanos() as u64;
                let late = now + timeout / 2 + self.rng.range(0, timeout);
                let bytes = Message { id, what: honest }.encode();
                let (to, from) = (from, me);
                return self.net.at(late, Event::Arrive { from, to, bytes });
            }
            Mood::Twice => vec![(id, honest.clone()), (id, honest)],
            Mood::Both => vec![(id, What::Missing), (id, honest)],
            Mood::WrongId => vec![(id.wrapping_add(1), honest.clone()), (id ^ 1, honest)],
            Mood::Steal => {
                let seen = self.net.seen.iter();
                let stolen = seen.map(|(asker, id, _)| (*asker, *id));
                let stolen: Vec<(usize, u64)> =
                    stolen.filter(|(asker, _)| *asker == from).collect();
                let answer = |(_, id)| (id, What::Response(vec![0xbd]));
                stolen.into_iter().map(answer).collect()
            }
        };
        if mood == Mood::Garbage {
            let bytes = self.garbage();
            self.transmit(now, me, from, bytes);
        }
        for (id, what) in answers {
            self.transmit(now, me, from, Message { id, what }.encode());
        }
    }

    /// Bytes that are no message.
    pub(crate) fn garbage(&mut self) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..self.rng.range(0, 30))
            .map(|_| self.rng.draw() as u8)
            .collect();
        if let Some(tag) = bytes.get_mut(8) {
            // Some are nearly one.
            *tag = self.rng.range(0, 4) as u8;
        }
        bytes
    }

    /// A flood of what nobody asked for, from one peer to one node.
    pub(crate) fn flood(&mut self, now: u64, from: usize, to: usize) {
        for _ in 0..self.rng.range(1, 30) {
            let bytes = if self.rng.permille(300) {
                self.garbage()
            } else {
                let seen = &self.net.seen;
                let known = (!seen.is_empty()).then(|| seen[self.rng.index(seen.len())]);
                let near = known.map_or(0, |(_, id, _)| id);
                let id = near.wrapping_add(self.rng.range(0, 4)).wrapping_sub(2);
                let what = match self.rng.range(0, 2) {
                    0 => What::Missing,
                    1 => What::Response(vec![0xbd, 1]),
                    _ => What::Request(self.rng.range(0, self.world.keys)),
                };
                Message { id, what }.encode()
            };
            let due = now + self.rng.range(0, 20 * MS);
            self.net.at(due, Event::Arrive { from, to, bytes });
        }
    }
}
