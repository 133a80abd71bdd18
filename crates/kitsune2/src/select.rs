//! The book of what is wanted of whom: ops, peers, and a want for each pair of both.
//!
//! A want is in two lists, that of its op and that of its peer, so that a response, a peer's end and
//! a give-up each cost what they touch, not what is pending.

use crate::{
    config::GannetFetchConfig,
    key::OpKey,
    machine::{AttemptId, SourceId, Time},
    pace::Pace,
};
use bytes::Bytes;
use hashbrown::HashTable;
use kitsune2_api::Url;
use slab::Slab;
use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
};

/// No want: the end of a list.
const NONE: u32 = u32::MAX;

/// Peers without a want whose pace and standing are remembered.
const IDLE_PEERS_MAX: usize = 4_096;

/// Serials have 31 bits: with a slot's 32 they make a name, whose highest bit is left to others. A
/// name is used again after two thousand million adds, if they lead to the same slot.
const SERIAL_MASK: u32 = u32::MAX >> 1;

/// An op that is wanted.
#[derive(Debug)]
pub(crate) struct Op {
    pub(crate) key: OpKey,
    serial: u32,
    first: u32,
}

/// A peer: one that ops are wanted of, or were lately.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) url: Url,
    serial: u32,
    first: u32,
    last: u32,
    /// Wants of it.
    pub(crate) wants: u32,
    pub(crate) pace: Pace,
    /// The ops in flight that the engine grants it.
    pub(crate) window: u32,
    /// To be asked for in the next requests: what was never asked for, and what was in vain.
    pub(crate) outbox: [VecDeque<(AttemptId, u32)>; 2],
    /// Which of both is next.
    pub(crate) turn: usize,
    /// A request is on its way.
    pub(crate) sending: bool,
    /// Stands in the queue of those with something to send.
    pub(crate) queued: bool,
    /// When it last answered something.
    pub(crate) heard: Option<Time>,
    /// When the latest request that it has answered anything of was sent.
    pub(crate) front: Time,
    /// It let a request pass without a word, and has not answered anything since.
    pub(crate) silent: bool,
    /// Our own transport or memory was the reason why an answer was lost, then.
    pub(crate) overflowed: Option<Time>,
    /// Nothing is wanted of it; which entry in the queue of such peers is the valid one.
    idle: Option<u64>,
}

/// One op wanted of one peer.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) op: u32,
    pub(crate) peer: u32,
    next_of_op: u32,
    next_of_peer: u32,
    previous_of_peer: u32,
    /// What the host said of the op when it was requested.
    metadata: Option<Box<Bytes>>,
    /// Requests that went without an answer.
    pub(crate) tries: u8,
    /// When it was first asked for, and when last.
    pub(crate) since: Option<Time>,
    pub(crate) last: Option<Time>,
    /// A connection that ended has cost it an answer, and it was asked for again at once: not twice.
    pub(crate) forgiven: bool,
    /// Requests whose answer may have been lost in our own memory, and that did not count.
    pub(crate) spared: u8,
    pub(crate) asked: Asked,
}

/// How far asking for a want has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Not now.
    No,
    /// In its peer's outbox, or in a request under way.
    Soon(AttemptId),
    /// In this request.
    In(AttemptId, u32),
    /// It was answered; the store has it now.
    Answered,
}

#[derive(Debug, Default)]
pub(crate) struct Book {
    ops: Slab<Op>,
    by_key: HashTable<u32>,
    hasher: RandomState,
    wants: Slab<Wanted>,
    peers: Slab<Peer>,
    by_url: HashMap<Url, u32>,
    /// Peers without a want, by when that began; entries that are out of date are skipped.
    idle: VecDeque<(u64, u32)>,
    idle_count: usize,
    idle_stamp: u64,
    op_serial: u32,
    peer_serial: u32,
}

/// What came of adding a want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Added {
    /// The op was not wanted before.
    Op(u32),
    /// It was, but not of this peer.
    Offer(u32),
    /// It was wanted of this peer.
    Again(u32),
}

const fn next_serial(serial: u32) -> u32 {
    serial.wrapping_add(1) & SERIAL_MASK
}

fn is_idle(peers: &Slab<Peer>, stamp: u64, peer: u32) -> bool {
    peers
        .get(peer as usize)
        .is_some_and(|peer| peer.idle == Some(stamp))
}

impl Book {
    pub(crate) fn is_empty(&self) -> bool {
        self.wants.is_empty()
    }

    /// Pairs of an op and a peer.
    pub(crate) fn len(&self) -> usize {
        self.wants.len()
    }

    pub(crate) fn ops_len(&self) -> usize {
        self.ops.len()
    }

    pub(crate) fn peers_len(&self) -> usize {
        self.peers.len() - self.idle_count
    }

    // ---- ops ----

    pub(crate) fn find(&self, id: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one(id);
        self.by_key
            .find(hash, |op| self.ops[*op as usize].key.as_slice() == id)
            .copied()
    }

    pub(crate) fn op(&self, op: u32) -> &Op {
        &self.ops[op as usize]
    }

    /// A number for an op that no other op ever has.
    pub(crate) fn name_of_op(&self, op: u32) -> u64 {
        u64::from(self.ops[op as usize].serial) << 32 | u64::from(op)
    }

    pub(crate) fn op_named(&self, name: u64) -> Option<u32> {
        let op = name as u32;
        let found = self.ops.get(op as usize)?;
        (u64::from(found.serial) == name >> 32).then_some(op)
    }

    /// Ops in the order of their slots, from this one on: to be read in pieces.
    pub(crate) fn ops_from(&self, slot: u32) -> impl Iterator<Item = (u32, &Op)> {
        let slots = self.ops.capacity();
        (slot as usize..slots).filter_map(|slot| Some((slot as u32, self.ops.get(slot)?)))
    }

    /// The first op, in the order of slots, from this one on.
    pub(crate) fn first_op(&self, slot: u32) -> Option<u32> {
        self.ops_from(slot).next().map(|(op, _)| op)
    }

    /// The first want of an op, if there still is one.
    pub(crate) fn first_offer(&self, op: u32) -> Option<u32> {
        let first = self.ops.get(op as usize)?.first;
        (first != NONE).then_some(first)
    }

    // ---- peers ----

    pub(crate) fn peer_at(&self, url: &Url) -> Option<u32> {
        self.by_url.get(url).copied()
    }

    pub(crate) fn peer(&self, peer: u32) -> &Peer {
        &self.peers[peer as usize]
    }

    pub(crate) fn peer_mut(&mut self, peer: u32) -> &mut Peer {
        &mut self.peers[peer as usize]
    }

    /// For a peer that may have been forgotten meanwhile.
    pub(crate) fn peer_if_known(&mut self, peer: u32) -> Option<&mut Peer> {
        self.peers.get_mut(peer as usize)
    }

    pub(crate) fn source_of(&self, peer: u32) -> SourceId {
        let serial = self.peers[peer as usize].serial;
        SourceId(u64::from(serial) << 32 | u64::from(peer))
    }

    pub(crate) fn peer_named(&self, source: SourceId) -> Option<u32> {
        let peer = source.0 as u32;
        let found = self.peers.get(peer as usize)?;
        (u64::from(found.serial) == source.0 >> 32).then_some(peer)
    }

    /// The peer at this URL, and whether it is new.
    pub(crate) fn meet(&mut self, url: &Url, config: &GannetFetchConfig) -> (u32, bool) {
        if let Some(peer) = self.peer_at(url) {
            return (peer, false);
        }
        self.peer_serial = next_serial(self.peer_serial);
        let pace = Pace::new(config);
        let peer = self.peers.insert(Peer {
            url: url.clone(),
            serial: self.peer_serial,
            first: NONE,
            last: NONE,
            wants: 0,
            window: pace.window(config),
            pace,
            outbox: Default::default(),
            turn: 0,
            sending: false,
            queued: false,
            heard: None,
            front: Time::ZERO,
            silent: false,
            overflowed: None,
            idle: None,
        }) as u32;
        self.by_url.insert(url.clone(), peer);
        (peer, true)
    }

    /// Notes that nothing may be wanted of a peer any more; returns the source that is forgotten in its
    /// favour: of those without a want, the one that has been for longest.
    pub(crate) fn rest(&mut self, peer: u32) -> Option<SourceId> {
        let p = self.peers.get_mut(peer as usize)?;
        if p.wants > 0 || p.idle.is_some() {
            return None;
        }
        self.idle_stamp += 1;
        p.idle = Some(self.idle_stamp);
        self.idle.push_back((self.idle_stamp, peer));
        self.idle_count += 1;
        if self.idle.len() > 2 * self.idle_count.max(32) {
            let peers = &self.peers;
            self.idle
                .retain(|(stamp, peer)| is_idle(peers, *stamp, *peer));
        }
        if self.idle_count <= IDLE_PEERS_MAX {
            return None;
        }
        for _ in 0..self.idle.len() {
            let (stamp, peer) = self.idle.pop_front()?;
            if !is_idle(&self.peers, stamp, peer) {
                continue;
            }
            let p = &self.peers[peer as usize];
            if p.sending || p.queued {
                self.idle.push_back((stamp, peer));
                continue;
            }
            let source = self.source_of(peer);
            let gone = self.peers.remove(peer as usize);
            self.by_url.remove(&gone.url);
            self.idle_count -= 1;
            return Some(source);
        }
        None
    }

    #[cfg(test)]
    pub(crate) fn peers(&self) -> impl Iterator<Item = (u32, &Peer)> {
        self.peers.iter().map(|(peer, p)| (peer as u32, p))
    }

    #[cfg(test)]
    pub(crate) fn check_idle(&self) {
        let idle = self.peers.iter().filter(|(_, p)| p.idle.is_some());
        let stamps: std::collections::BTreeSet<_> = idle
            .map(|(peer, p)| (p.idle.expect("filtered"), peer as u32))
            .collect();
        assert_eq!(stamps.len(), self.idle_count);
        let valid = self
            .idle
            .iter()
            .filter(|(stamp, peer)| is_idle(&self.peers, *stamp, *peer));
        assert_eq!(
            valid.copied().collect::<std::collections::BTreeSet<_>>(),
            stamps
        );
        assert!(self.idle.len() <= 2 * self.idle_count.max(32));
        assert!(
            self.peers
                .iter()
                .all(|(_, p)| p.wants == 0 || p.idle.is_none())
        );
    }

    /// As if two thousand million ops and peers had come and gone.
    #[cfg(test)]
    pub(crate) const fn skip_serials(&mut self) {
        (self.op_serial, self.peer_serial) = (SERIAL_MASK - 1, SERIAL_MASK - 1);
    }

    // ---- wants ----

    pub(crate) fn want(&self, want: u32) -> Option<&Wanted> {
        self.wants.get(want as usize)
    }

    pub(crate) fn want_mut(&mut self, want: u32) -> Option<&mut Wanted> {
        self.wants.get_mut(want as usize)
    }

    /// Adds a want. Metadata that is there already stays.
    pub(crate) fn add(&mut self, id: &[u8], peer: u32, metadata: Option<Bytes>) -> Added {
        let metadata = metadata.map(|bytes| Box::new(Bytes::copy_from_slice(&bytes)));
        let known = self.find(id);
        if let Some(op) = known
            && let Some(want) = self.between(op, peer)
        {
            let held = &mut self.wants[want as usize].metadata;
            if held.is_none() {
                *held = metadata;
            }
            return Added::Again(op);
        }
        let op = known.unwrap_or_else(|| self.add_op(id));
        let want = self.wants.insert(Wanted {
            op,
            peer,
            next_of_op: self.ops[op as usize].first,
            next_of_peer: NONE,
            previous_of_peer: self.peers[peer as usize].last,
            metadata,
            tries: 0,
            since: None,
            last: None,
            forgiven: false,
            spared: 0,
            asked: Asked::No,
        }) as u32;
        self.ops[op as usize].first = want;
        let p = &mut self.peers[peer as usize];
        match p.last {
            NONE => p.first = want,
            last => self.wants[last as usize].next_of_peer = want,
        }
        p.last = want;
        p.wants += 1;
        if p.idle.take().is_some() {
            self.idle_count -= 1;
        }
        match known {
            Some(op) => Added::Offer(op),
            None => Added::Op(op),
        }
    }

    fn add_op(&mut self, id: &[u8]) -> u32 {
        self.op_serial = next_serial(self.op_serial);
        let op = self.ops.insert(Op {
            key: OpKey::new(id),
            serial: self.op_serial,
            first: NONE,
        }) as u32;
        let hash = self.hasher.hash_one(id);
        self.by_key.insert_unique(hash, op, |op| {
            self.hasher.hash_one(self.ops[*op as usize].key.as_slice())
        });
        op
    }

    /// The want of this op from this peer. O(peers that offer the op).
    pub(crate) fn between(&self, op: u32, peer: u32) -> Option<u32> {
        self.offers(op)
            .find(|want| self.wants[*want as usize].peer == peer)
    }

    /// The wants of an op, the latest first.
    pub(crate) fn offers(&self, op: u32) -> impl Iterator<Item = u32> {
        let mut next = self.ops[op as usize].first;
        std::iter::from_fn(move || {
            let want = next;
            next = self.wants.get(want as usize)?.next_of_op;
            Some(want)
        })
    }

    /// The first want of a peer.
    pub(crate) fn first_of(&self, peer: u32) -> Option<u32> {
        let first = self.peers[peer as usize].first;
        (first != NONE).then_some(first)
    }

    /// What the host said of an op: with this peer's offer, or else with the earliest that said
    /// anything.
    pub(crate) fn metadata(&self, op: u32, peer: Option<u32>) -> Option<Bytes> {
        let of = |want: u32| self.wants[want as usize].metadata.as_deref().cloned();
        let own = peer.and_then(|peer| self.between(op, peer)).and_then(of);
        own.or_else(|| self.offers(op).filter_map(of).last())
    }

    /// Takes a want out. Returns it, and whether its op is wanted of others.
    pub(crate) fn remove(&mut self, want: u32) -> (Wanted, bool) {
        let gone = self.wants.remove(want as usize);
        // Out of the list of its op.
        let op = gone.op as usize;
        if self.ops[op].first == want {
            self.ops[op].first = gone.next_of_op;
        } else {
            let mut before = self.ops[op].first;
            while self.wants[before as usize].next_of_op != want {
                before = self.wants[before as usize].next_of_op;
            }
            self.wants[before as usize].next_of_op = gone.next_of_op;
        }
        // Out of the list of its peer.
        let p = &mut self.peers[gone.peer as usize];
        p.wants -= 1;
        match gone.previous_of_peer {
            NONE => p.first = gone.next_of_peer,
            before => self.wants[before as usize].next_of_peer = gone.next_of_peer,
        }
        match gone.next_of_peer {
            NONE => self.peers[gone.peer as usize].last = gone.previous_of_peer,
            next => self.wants[next as usize].previous_of_peer = gone.previous_of_peer,
        }
        let left = self.ops[op].first != NONE;
        if !left {
            let hash = self.hasher.hash_one(self.ops[op].key.as_slice());
            let entry = self.by_key.find_entry(hash, |other| *other == gone.op);
            entry.expect("an op is in the index").remove();
            self.ops.remove(op);
        }
        (gone, left)
    }
}
