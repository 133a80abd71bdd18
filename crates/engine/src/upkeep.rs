//! The upkeep of who is ready.
//!
//! Each group keeps, over its children, which of them can start something (per class, in turns) and
//! which sources could serve any fetch (by weight). A change at one source is carried up that path
//! only: O(depth * log n).

use crate::planted::planted;
use crate::{
    engine::Engine,
    id::{GroupId, Key, Time},
    state::{Child, NONE, WHOLE},
    timers::Who,
    weights::{Draw, Weight},
};

/// Sources that are kept in the draw at once while they have yet to acknowledge a start.
const BUSY_MAX: usize = 1024;

impl<K: Key> Engine<K> {
    /// What may have changed is only whether this source is free, or its rate: its group is told when
    /// somebody's turn may come. Until then it may be as before: between a start and its
    /// acknowledgement, say.
    pub(crate) fn tell_later(&mut self, source: u32) {
        let s = &mut self.sources[source];
        if !s.untold {
            s.untold = true;
            self.untold.push(source);
        }
    }

    /// Does what [`Engine::tell_later`] put off: before anybody is drawn, or has a turn.
    pub(crate) fn tell_now(&mut self) {
        while let Some(source) = self.untold.pop() {
            if self.sources.get(source).is_some_and(|s| s.untold) {
                self.refresh_source(source);
            }
        }
    }

    /// A start has passed through an open gate, and nobody waits for this source by name. It stays in
    /// the draw until it acknowledges the start, and who draws it draws again: mostly it is back before
    /// that, and to take it out and put it in again is two ways up the tree.
    fn keep_busy(&mut self, source: u32) -> bool {
        let s = &mut self.sources[source];
        let fits = s.posted.0 == 0 && s.posted.2 && s.queue.is_empty() && !s.untold;
        if !fits || self.busy.len() == BUSY_MAX || planted!("second-start-unacknowledged") {
            return false;
        }
        s.busy_at = self.busy.len() as u32;
        self.busy.push(source);
        true
    }

    /// Whether it was one of the busy. It is no more.
    fn leave_busy(&mut self, source: u32) -> bool {
        let at = std::mem::replace(&mut self.sources[source].busy_at, NONE);
        if at == NONE {
            return false;
        }
        self.busy.swap_remove(at as usize);
        if let Some(moved) = self.busy.get(at as usize) {
            self.sources[*moved].busy_at = at;
        }
        true
    }

    /// Takes all that are busy out of the draw.
    pub(crate) fn settle_busy(&mut self) {
        while let Some(source) = self.busy.last() {
            self.refresh_source(*source);
        }
    }

    /// A start at this source is acknowledged, or undone.
    pub(crate) fn unbusy(&mut self, source: u32) {
        self.idle = source;
        if !self.leave_busy(source) {
            self.tell_later(source);
        }
    }

    /// Recomputes what follows from a source's own state, and carries it up.
    pub(crate) fn refresh_source(&mut self, source: u32) {
        self.leave_busy(source);
        let now = self.now;
        let eligible = self.is_eligible(source);
        let s = &mut self.sources[source];
        s.untold = false;
        let unsound = s.is_unsound(now);
        let open = s.gate.is_open(now);
        let throttled = s.health.throttled_until > now;
        let acknowledged = s.unacknowledged.is_none() || planted!("second-start-unacknowledged");
        let free = eligible && open && !throttled && acknowledged;

        let mut wake = s.health.changes_at(now);
        if !open {
            wake = wake.min(s.gate.opens_at(now));
        }
        if s.blocked_until > now {
            wake = wake.min(s.blocked_until);
        }
        if s.gate.closed_until > now {
            wake = wake.min(s.gate.closed_until);
        }
        self.timers.arm(Who::Source(source), &mut s.wake, wake);

        let weight = if free {
            coarse(s.performance.rate())
        } else {
            0
        };
        let usable = free && (self.config.try_backed_off || !unsound);
        let posted = (usize::from(unsound), weight, usable);
        let changed = posted != s.posted;
        if changed {
            let n = &mut self.nodes[s.node];
            if weight > 0 {
                n.ready[posted.0].set(s.slot, Weight::one(weight));
            } else {
                n.ready[posted.0].set(s.slot, Weight::default());
            }
            if s.posted.0 != posted.0 {
                n.ready[s.posted.0].set(s.slot, Weight::default());
            }
            if s.posted.2 != usable {
                for class in s.queue.classes() {
                    n.turns_mut(class).set(s.slot, usable);
                }
            }
            s.posted = posted;
        }
        let node = s.node;

        // Membership among the eligible, by swap-remove.
        match (eligible, s.eligible_at) {
            (true, NONE) => {
                s.eligible_at = self.eligible.len() as u32;
                self.eligible.push(source);
            }
            (false, at) if at != NONE => {
                s.eligible_at = NONE;
                self.eligible.swap_remove(at as usize);
                if let Some(moved) = self.eligible.get(at as usize) {
                    self.sources[*moved].eligible_at = at;
                }
            }
            _ => {}
        }
        let s = &mut self.sources[source];
        let sound = eligible && !unsound;
        if sound != s.counted_sound {
            s.counted_sound = sound;
            self.sound = if sound {
                self.sound + 1
            } else {
                self.sound - 1
            };
        }
        if changed {
            self.refresh_node(node);
        }
    }

    /// Somebody of a class that was empty waits for this source now.
    pub(crate) fn class_came(&mut self, source: u32, class: u16) {
        if self.sources[source].busy_at != NONE {
            self.refresh_source(source);
        }
        let s = &self.sources[source];
        if s.posted.2 {
            let (node, slot) = (s.node, s.slot);
            self.nodes[node].turns_mut(class).set(slot, true);
            self.refresh_node(node);
        }
    }

    /// A class has left the queue of a source.
    pub(crate) fn class_left(&mut self, source: u32, class: u16) {
        let s = &self.sources[source];
        if !s.posted.2 {
            return;
        }
        let (node, slot) = (s.node, s.slot);
        self.nodes[node].turns_mut(class).set(slot, false);
        self.refresh_node(node);
    }

    /// Recomputes what follows from a group's own state, and carries it up.
    pub(crate) fn refresh_node(&mut self, mut node: u32) {
        loop {
            let now = self.now;
            let n = &mut self.nodes[node];
            let open = n.gate.is_open(now);
            if !open && !self.busy.is_empty() {
                // Who is drawn below it is not seen from above, and would be counted out twice.
                self.settle_busy();
            }
            let n = &mut self.nodes[node];
            let mut wake = if open {
                Time::FAR
            } else {
                n.gate.opens_at(now)
            };
            if n.gate.closed_until > now {
                wake = wake.min(n.gate.closed_until);
            }
            self.timers.arm(Who::Node(node), &mut n.wake, wake);
            let (parent, slot) = (n.parent, n.slot);
            if parent == NONE {
                return;
            }
            let ready = std::array::from_fn(|i| {
                if open {
                    n.ready[i].total()
                } else {
                    Weight::default()
                }
            });
            // Lent, for parent and child lie in the same slab.
            let turns = std::mem::take(&mut n.turns);
            let p = &mut self.nodes[parent];
            let mut changed = false;
            for (tree, weight) in p.ready.iter_mut().zip::<[Weight; 2]>(ready) {
                if tree.at(slot) != weight {
                    tree.set(slot, weight);
                    changed = true;
                }
            }
            for (class, below) in &turns {
                let present = open && !below.is_empty();
                let turns = p.turns_mut(*class);
                if turns.contains(slot) != present {
                    turns.set(slot, present);
                    changed = true;
                }
            }
            self.nodes[node].turns = turns;
            if !changed {
                return;
            }
            node = parent;
        }
    }

    /// A source that can take any fetch now: sound (`tier` 0) or backing off (1).
    pub(crate) fn draw(&self, tier: usize, mut draw: Draw) -> Option<u32> {
        let mut node = WHOLE;
        loop {
            let (slot, rest) = self.nodes[node].ready[tier].draw(draw)?;
            match self.nodes[node].children[slot as usize]? {
                Child::Node(child) => {
                    node = child;
                    draw = rest;
                }
                Child::Source(source) => return Some(source),
            }
        }
    }

    pub(crate) fn whole_is_open(&mut self) -> bool {
        let now = self.now;
        self.nodes[WHOLE].gate.is_open(now)
    }

    /// Whether this source, or a group of it, lets nothing through before a later time.
    pub(crate) fn is_parked(&self, source: u32) -> bool {
        let s = &self.sources[source];
        let mut node = s.node;
        let mut parked = s.gate.closed_until > self.now;
        while !parked && node != NONE {
            parked = self.nodes[node].gate.closed_until > self.now;
            node = self.nodes[node].parent;
        }
        parked
    }

    /// A source has been parked: who waits for it may have others to turn to now.
    pub(crate) fn parked(&mut self, source: u32) {
        if self.sources[source].flexible > 0 {
            self.start_sweep(source);
        }
    }

    /// Whether this source and all its groups let an attempt through now.
    pub(crate) fn is_free(&mut self, source: u32) -> bool {
        let now = self.now;
        if !self.is_eligible(source) {
            return false;
        }
        let s = &mut self.sources[source];
        let acknowledged = s.unacknowledged.is_none() || planted!("second-start-unacknowledged");
        if s.health.throttled_until > now || !s.gate.is_open(now) {
            return false;
        }
        if !acknowledged {
            self.met_unacknowledged = true;
            return false;
        }
        let mut node = s.node;
        while node != NONE {
            let n = &mut self.nodes[node];
            if !n.gate.is_open(now) {
                return false;
            }
            node = n.parent;
        }
        true
    }

    // ---- attempts pass ----

    pub(crate) fn enter(&mut self, source: u32, attempt: u32) {
        let now = self.now;
        let s = &mut self.sources[source];
        s.gate.enter(now);
        self.attempts[attempt].at_source = s.attempts.len() as u32;
        s.attempts.push(attempt);
        s.unacknowledged = Some(attempt);
        s.paid = None;
        let mut node = s.node;
        if !s.gate.is_open(now) {
            self.refresh_source(source);
        } else if !self.keep_busy(source) {
            self.tell_later(source);
        }
        while node != NONE {
            let n = &mut self.nodes[node];
            n.gate.enter(now);
            let (parent, closed) = (n.parent, !n.gate.is_open(now));
            if closed {
                self.refresh_node(node);
            }
            node = parent;
        }
    }

    /// An attempt has ended that stood at this place among those of the source.
    pub(crate) fn leave(&mut self, source: u32, attempt: u32, at: u32, refund: bool) {
        let now = self.now;
        let s = &mut self.sources[source];
        let closed = !s.gate.is_open(now);
        let unacknowledged = s.unacknowledged == Some(attempt);
        s.gate.leave();
        if refund {
            s.gate.refund();
        }
        s.attempts.swap_remove(at as usize);
        if let Some(moved) = s.attempts.get(at as usize) {
            self.attempts[*moved].at_source = at;
        }
        if unacknowledged {
            s.unacknowledged = None;
        }
        let paid = s.paid.filter(|_| refund);
        let mut node = s.node;
        if closed {
            self.refresh_source(source);
        } else if unacknowledged {
            self.unbusy(source);
        }
        while node != NONE {
            let n = &mut self.nodes[node];
            let closed = !n.gate.is_open(now);
            n.gate.leave();
            if refund && paid.is_none() {
                n.gate.refund();
            }
            let parent = n.parent;
            if closed {
                self.refresh_node(node);
            }
            node = parent;
        }
        if let Some(group) = paid {
            self.refund_group(group);
        }
        self.release_source(source);
    }

    /// A start that took its token from this group was undone, and its source is elsewhere by now.
    fn refund_group(&mut self, group: GroupId) {
        let now = self.now;
        let mut node = self.by_group.get(&group).copied().unwrap_or(WHOLE);
        while node != NONE {
            let n = &mut self.nodes[node];
            let closed = !n.gate.is_open(now);
            n.gate.refund();
            let parent = n.parent;
            if closed {
                self.refresh_node(node);
            }
            node = parent;
        }
    }
}

/// A rate to three significant bits: performance changes with every answer, the tree need not.
pub(crate) const fn coarse(rate: u64) -> u64 {
    let shift = (rate | 1).ilog2().saturating_sub(2);
    rate >> shift << shift
}
