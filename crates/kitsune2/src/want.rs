//! What is wanted, and what is not any more.

use crate::{
    config::millis,
    machine::{End, Fault, GroupId, Input, Targets, Time, WaiterId, Want},
    select::{Added, Asked},
    state::State,
};
use bytes::Bytes;
use kitsune2_api::{OpId, Url};
use std::collections::{HashMap, VecDeque};

/// Set in the id of a waiter that only brings another offer.
const OFFER: u64 = 1 << 63;

/// What may be taken of a call to `request_ops`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// So many.
    For(usize),
    /// None until others are done with.
    Wait,
    /// None: as many as one peer may have, and it is silent.
    Silent,
}

impl State {
    // ---- wants come ----

    /// A call begins to look up which ops are held already. Returns its number.
    pub(crate) fn begin_lookup(&mut self) -> u64 {
        self.meanwhile.clock += 1;
        self.lookups.insert(self.meanwhile.clock);
        self.meanwhile.clock
    }

    /// This call has told what it wants, or was dropped.
    pub(crate) fn end_lookup(&mut self, lookup: u64) {
        self.lookups.remove(&lookup);
        let oldest = self.lookups.first().copied().unwrap_or(u64::MAX);
        self.meanwhile.forget_before(oldest);
    }

    /// Notes an op that was stored, for the lookups under way: they may have looked before it was.
    pub(crate) fn note_stored(&mut self, id: &[u8]) {
        if !self.lookups.is_empty() {
            self.meanwhile.note(id);
        }
    }

    /// How many more wants of this peer there is room for.
    pub(crate) fn room(&self, url: &Url) -> Room {
        let whole = (self.config.max_pending as usize).saturating_sub(self.book.len());
        let peer = self.book.peer_at(url).map(|peer| self.book.peer(peer));
        let (wants, silent) = peer.map_or((0, false), |peer| (peer.wants, peer.silent));
        let own = self.config.max_pending_per_peer.saturating_sub(wants) as usize;
        match whole.min(own) {
            0 if own == 0 && silent => Room::Silent,
            0 => Room::Wait,
            room => Room::For(room),
        }
    }

    /// Ops are offered by a peer, and wanted, as this lookup has found. Calls with the same `owner`
    /// share their turns.
    pub(crate) fn want(
        &mut self,
        now: Time,
        url: &Url,
        ops: impl IntoIterator<Item = (OpId, Option<Bytes>)>,
        (owner, lookup): (u32, u64),
    ) {
        let (peer, new) = self.book.meet(url, &self.config);
        let source = self.book.source_of(peer);
        if new {
            let group = GroupId(0);
            self.input(now, Input::SourceUp { source, group });
            self.limit(now, peer);
        }
        for (id, metadata) in ops {
            if self.meanwhile.since(lookup, &id) {
                continue;
            }
            let added = self.book.add(&id, peer, metadata);
            let key = match added {
                Added::Op(op) | Added::Offer(op) | Added::Again(op) => self.book.name_of_op(op),
            };
            let waiter = match added {
                Added::Op(_) => WaiterId(key),
                Added::Offer(_) => WaiterId(key | OFFER),
                Added::Again(op) => {
                    self.again(now, op, peer);
                    continue;
                }
            };
            let want = Want {
                targets: Targets::Only(vec![source]),
                priority: 1,
                owner,
                deadline: None,
                plan: self.plan.clone(),
            };
            self.input(now, Input::Want { waiter, key, want });
            if let Added::Offer(_) = added {
                // The op has its waiter. This one was for its word on whom to ask.
                self.input(now, Input::Release { waiter });
            }
        }
        // It may be that none of them was taken.
        self.rest(now, peer);
        self.drive(now);
    }

    /// A peer says again that it has an op: no reason to wait out a long pause. But one that is asked
    /// in vain is asked no sooner for repeating itself.
    fn again(&mut self, now: Time, op: u32, peer: u32) {
        let want = self
            .book
            .between(op, peer)
            .and_then(|want| self.book.want(want));
        let last = want.and_then(|want| want.last);
        let first_pause = millis(self.config.first_back_off_interval_ms);
        if last.is_none_or(|last| last.after(first_pause) <= now) {
            let (key, source) = (self.book.name_of_op(op), self.book.source_of(peer));
            self.input(now, Input::Announced { key, source });
        }
    }

    // ---- wants go ----

    /// Nothing more is wanted of this peer.
    pub(crate) fn drop_peer(&mut self, now: Time, peer: u32) {
        self.book.peer_mut(peer).outbox = Default::default();
        while let Some(want) = self.book.first_of(peer) {
            self.drop_want(now, want);
        }
    }

    /// This op is not wanted of this peer any more.
    pub(crate) fn drop_want(&mut self, now: Time, want: u32) {
        let (source, key) = {
            let want = self.book.want(want).expect("a want that is in the book");
            (
                self.book.source_of(want.peer),
                self.book.name_of_op(want.op),
            )
        };
        let (gone, offered) = self.book.remove(want);
        if offered {
            self.input(now, Input::WithdrawFrom { key, source });
        } else {
            let waiter = WaiterId(key);
            self.input(now, Input::Release { waiter });
        }
        let end = End::Failed(Fault::Unreachable);
        self.end_asking(now, gone.asked, end);
        self.gone(now, gone.peer);
    }

    /// An op came: nobody is asked for it any more.
    pub(crate) fn op_is_here(&mut self, now: Time, op: u32) {
        let wants: Vec<u32> = self.book.offers(op).collect();
        for want in wants {
            let (gone, _) = self.book.remove(want);
            self.end_asking(now, gone.asked, End::Aborted);
            self.gone(now, gone.peer);
        }
    }

    fn end_asking(&mut self, now: Time, asked: Asked, end: End) {
        let (Asked::Soon(attempt) | Asked::In(attempt, _)) = asked else {
            return;
        };
        if let Asked::In(_, batch) = asked {
            self.close_in_batch(batch);
        }
        if self.attempts.remove(&attempt).is_some() {
            self.input(now, Input::Ended { attempt, end });
        }
    }

    fn gone(&mut self, now: Time, peer: u32) {
        self.left = true;
        self.rest(now, peer);
    }

    /// Forgets a peer, if there are too many of which nothing is wanted.
    fn rest(&mut self, now: Time, peer: u32) {
        if let Some(source) = self.book.rest(peer) {
            self.input(now, Input::SourceDown { source });
            self.input(now, Input::Forget { source });
        }
    }

    /// Nothing can be sent or stored any more: nothing is wanted.
    pub(crate) fn close(&mut self, now: Time) {
        let mut next = self.book.first_op(0);
        while let Some(op) = next {
            while let Some(want) = self.book.first_offer(op) {
                self.drop_want(now, want);
            }
            next = self.book.first_op(op);
        }
        self.drive(now);
    }
}

/// Ops that were stored while calls looked up what is held.
#[derive(Debug, Default)]
pub(crate) struct Meanwhile {
    clock: u64,
    when: HashMap<Bytes, u64>,
    order: VecDeque<(u64, Bytes)>,
}

impl Meanwhile {
    fn note(&mut self, id: &[u8]) {
        self.clock += 1;
        let id = Bytes::copy_from_slice(id);
        self.when.insert(id.clone(), self.clock);
        self.order.push_back((self.clock, id));
    }

    /// Whether an op was stored since then.
    fn since(&self, then: u64, id: &[u8]) -> bool {
        self.when.get(id).is_some_and(|at| *at > then)
    }

    fn forget_before(&mut self, then: u64) {
        while let Some((at, id)) = self.order.front()
            && *at < then
        {
            if self.when.get(id) == Some(at) {
                self.when.remove(id);
            }
            self.order.pop_front();
        }
    }
}
