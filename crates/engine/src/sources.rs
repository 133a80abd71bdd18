//! Sources and groups: coming and going, blocks, limits, pauses, and the upkeep of who is ready.
//!
//! Groups form a tree under the whole. Each group keeps, over its children, which of them can start
//! something (per class, in turns) and which sources could serve any fetch (by weight). A change at
//! one source is carried up that path only: O(depth * log n).

use crate::planted::planted;
use crate::{
    engine::Engine,
    gate::Gate,
    id::{GroupId, Key, SourceId, Time},
    input::{Limits, Scope},
    output::HowEnded,
    snapshot::{Event, Health},
    state::{Child, NONE, Node, Performance, Source, State, WHOLE},
    timers::Who,
    turns::Queue,
    weights::{Draw, Weight, Weights},
};
use std::collections::BTreeSet;

impl<K: Key> Engine<K> {
    pub(crate) const fn node(id: Option<GroupId>, parent: u32, slot: u32, gate: Gate) -> Node {
        Node {
            id,
            parent,
            slot,
            gate,
            own_limits: false,
            children: Vec::new(),
            free: Vec::new(),
            turns: Vec::new(),
            ready: [Weights::new(), Weights::new()],
            sources: 0,
            wake: Time::FAR,
        }
    }

    // ---- groups ----

    fn group(&mut self, id: GroupId) -> u32 {
        if let Some(node) = self.by_group.get(&id) {
            return *node;
        }
        let gate = Gate::new(self.config.group_limits, self.now);
        let node = self.nodes.insert(Self::node(Some(id), WHOLE, 0, gate));
        let slot = self.nodes[WHOLE].adopt(Child::Node(node));
        self.nodes[node].slot = slot;
        self.by_group.insert(id, node);
        node
    }

    /// Drops a group that nothing keeps.
    fn release_node(&mut self, node: u32) {
        let Some(n) = self.nodes.get(node) else {
            return;
        };
        let Some(id) = n.id else { return };
        let kept = n.own_limits
            || n.gate.closed_until > self.now
            || n.gate.running > 0
            || n.children.iter().any(Option::is_some);
        if kept {
            return;
        }
        let (parent, slot) = (n.parent, n.slot);
        let mut wake = n.wake;
        self.timers.arm(Who::Node(node), &mut wake, Time::FAR);
        self.nodes.remove(node);
        self.by_group.remove(&id);
        self.abandon(parent, slot);
        self.release_node(parent);
    }

    /// Takes a child out of its group.
    fn abandon(&mut self, node: u32, slot: u32) {
        let n = &mut self.nodes[node];
        n.children[slot as usize] = None;
        n.free.push(slot);
        for ready in &mut n.ready {
            ready.set(slot, Weight::default());
        }
        for (_, turns) in &mut n.turns {
            turns.set(slot, false);
        }
        self.refresh_node(node);
    }

    /// Moves a group under another, unless that would close a circle.
    fn nest(&mut self, node: u32, within: Option<GroupId>) {
        let parent = within.map_or(WHOLE, |id| self.group(id));
        let mut ancestor = parent;
        while ancestor != NONE {
            if ancestor == node {
                self.counters.refused_inputs += 1;
                return;
            }
            ancestor = self.nodes[ancestor].parent;
        }
        let (old, slot) = (self.nodes[node].parent, self.nodes[node].slot);
        if old == parent {
            return;
        }
        let running = self.nodes[node].gate.running;
        self.shift_running(old, running, false);
        self.abandon(old, slot);
        self.shift_running(parent, running, true);
        let slot = self.nodes[parent].adopt(Child::Node(node));
        self.nodes[node].parent = parent;
        self.nodes[node].slot = slot;
        self.refresh_node(node);
        self.release_node(old);
    }

    /// Attempts under way move with their source or group.
    fn shift_running(&mut self, from: u32, running: u32, add: bool) {
        let mut node = from;
        while node != NONE {
            let n = &mut self.nodes[node];
            n.gate.running = if add {
                n.gate.running + running
            } else {
                n.gate.running.saturating_sub(running)
            };
            let next = n.parent;
            self.refresh_node(node);
            node = next;
        }
    }

    // ---- sources ----

    /// The slot of a source, made (as one that is down) where it is new.
    pub(crate) fn source(&mut self, id: SourceId) -> Option<u32> {
        if let Some(source) = self.by_source.get(&id) {
            return Some(*source);
        }
        if self.sources.len() >= self.config.sources_max {
            self.counters.refused_inputs += 1;
            return None;
        }
        let source = self.sources.insert(Source {
            id,
            up: false,
            blocked_until: Time::ZERO,
            node: WHOLE,
            slot: 0,
            gate: Gate::new(self.config.source_limits, self.now),
            own_limits: false,
            unacknowledged: None,
            attempts: Vec::new(),
            health: crate::health::SourceHealth::new(),
            latency: crate::latency::Latency::new(),
            performance: Performance::new(self.typical),
            queue: Queue::default(),
            flexible: 0,
            targeted: BTreeSet::new(),
            paused: BTreeSet::new(),
            eligible_at: NONE,
            posted: (0, 0, false),
            counted_sound: false,
            untold: false,
            gone: 0,
            wake: Time::FAR,
        });
        let slot = self.nodes[WHOLE].adopt(Child::Source(source));
        self.sources[source].slot = slot;
        self.by_source.insert(id, source);
        Some(source)
    }

    pub(crate) fn find_source(&self, id: SourceId) -> Option<u32> {
        self.by_source.get(&id).copied()
    }

    pub(crate) fn is_eligible(&self, source: u32) -> bool {
        let s = &self.sources[source];
        s.up && (!s.is_blocked(self.now) || planted!("blocked-source-asked"))
            && (self.config.me != Some(s.id) || planted!("ourselves-asked"))
    }

    pub(crate) fn source_up(&mut self, id: SourceId, group: GroupId) {
        let Some(source) = self.source(id) else {
            return;
        };
        let node = self.group(group);
        let s = &self.sources[source];
        let (was_up, old, gone) = (s.up, s.node, s.gone);
        if old != node {
            let (slot, running) = (s.slot, s.attempts.len() as u32);
            self.shift_running(old, running, false);
            self.abandon(old, slot);
            self.shift_running(node, running, true);
            let slot = self.nodes[node].adopt(Child::Source(source));
            let s = &mut self.sources[source];
            s.node = node;
            s.slot = slot;
            s.posted = (0, 0, false);
            if was_up {
                self.nodes[old].sources -= 1;
                self.nodes[node].sources += 1;
            }
            self.release_node(old);
        }
        if !was_up {
            self.remembered.remove(&(gone, source));
            self.sources[source].up = true;
            self.nodes[node].sources += 1;
        }
        self.refresh_source(source);
        if !was_up {
            self.tell_health(source);
            self.appeared(source);
        }
    }

    pub(crate) fn source_down(&mut self, id: SourceId) {
        let Some(source) = self.find_source(id) else {
            return self.late();
        };
        if !self.sources[source].up {
            return self.late();
        }
        self.departures += 1;
        let s = &mut self.sources[source];
        s.up = false;
        s.gone = self.departures;
        let node = s.node;
        self.nodes[node].sources -= 1;
        self.refresh_source(source);
        self.tell_health(source);
        self.disappeared(source);
        self.release_source(source);
    }

    pub(crate) fn forget(&mut self, id: SourceId) {
        let Some(source) = self.find_source(id) else {
            return self.late();
        };
        let s = &mut self.sources[source];
        if s.up {
            return self.late();
        }
        s.blocked_until = Time::ZERO;
        s.health = crate::health::SourceHealth::new();
        s.performance = Performance::new(self.typical);
        s.latency = crate::latency::Latency::new();
        s.own_limits = false;
        s.gate.limits = self.config.source_limits;
        s.gate.closed_until = Time::ZERO;
        self.refresh_source(source);
        if self.is_unreferenced(source) {
            self.drop_source(source);
        }
    }

    fn is_unreferenced(&self, source: u32) -> bool {
        let s = &self.sources[source];
        !s.up
            && s.queue.is_empty()
            && s.targeted.is_empty()
            && s.paused.is_empty()
            && s.attempts.is_empty()
    }

    /// Drops a source that is down and that nothing refers to; remembers it for a while if there is
    /// something to remember.
    pub(crate) fn release_source(&mut self, source: u32) {
        if self.sources.get(source).is_none() || !self.is_unreferenced(source) {
            return;
        }
        let now = self.now;
        let s = &self.sources[source];
        let blocked = s.is_blocked(now);
        let blank = s.health.is_blank(now) && s.latency.seen() == 0 && s.gate.closed_until <= now;
        if blank && !blocked && !s.own_limits {
            return self.drop_source(source);
        }
        if blocked || s.own_limits {
            return;
        }
        self.remembered.insert((s.gone, source));
        while self.remembered.len() > self.config.remembered_sources_max as usize {
            let Some((_, oldest)) = self.remembered.pop_first() else {
                break;
            };
            // One that is referred to again comes back here when that ends.
            if self.is_unreferenced(oldest) {
                self.drop_source(oldest);
            }
        }
    }

    fn drop_source(&mut self, source: u32) {
        let Some(s) = self.sources.remove(source) else {
            return;
        };
        let mut wake = s.wake;
        self.timers.arm(Who::Source(source), &mut wake, Time::FAR);
        self.remembered.remove(&(s.gone, source));
        self.by_source.remove(&s.id);
        self.sweeps.retain(|(queue, _)| *queue != source);
        self.abandon(s.node, s.slot);
        self.release_node(s.node);
    }

    pub(crate) fn block(&mut self, id: SourceId, until: Time) {
        if until <= self.now {
            return self.unblock(id);
        }
        let Some(source) = self.source(id) else {
            return;
        };
        self.sources[source].blocked_until = until;
        let gone = self.sources[source].gone;
        self.remembered.remove(&(gone, source));
        self.refresh_source(source);
        for attempt in self.sources[source].attempts.clone() {
            self.give_up(attempt, HowEnded::Aborted);
        }
        self.disappeared(source);
    }

    pub(crate) fn unblock(&mut self, id: SourceId) {
        let Some(source) = self.find_source(id) else {
            return self.late();
        };
        if !self.sources[source].is_blocked(self.now) {
            return;
        }
        self.sources[source].blocked_until = Time::ZERO;
        self.refresh_source(source);
        self.appeared(source);
        self.release_source(source);
    }

    pub(crate) fn limit(&mut self, scope: Scope, limits: Limits) {
        let now = self.now;
        match scope {
            Scope::Source(id) => {
                let Some(source) = self.source(id) else {
                    return;
                };
                let s = &mut self.sources[source];
                s.own_limits = true;
                s.gate.set_limits(limits, now);
                self.refresh_source(source);
            }
            Scope::Group(id) => {
                let node = self.group(id);
                self.nodes[node].own_limits = true;
                self.nodes[node].gate.set_limits(limits, now);
                self.nest(node, limits.within);
                self.refresh_node(node);
            }
            Scope::Whole => {
                self.nodes[WHOLE].gate.set_limits(limits, now);
                self.refresh_node(WHOLE);
            }
        }
    }

    pub(crate) fn pause_scope(&mut self, scope: Scope, until: Time) {
        match scope {
            Scope::Source(id) => {
                let Some(source) = self.source(id) else {
                    return;
                };
                self.sources[source].gate.closed_until = until;
                self.refresh_source(source);
                self.parked(source);
                self.release_source(source);
            }
            Scope::Group(id) => {
                let node = self.group(id);
                self.nodes[node].gate.closed_until = until;
                self.refresh_node(node);
                self.release_node(node);
            }
            Scope::Whole => {
                self.nodes[WHOLE].gate.closed_until = until;
                self.refresh_node(WHOLE);
            }
        }
    }

    // ---- time ----

    pub(crate) fn source_timer(&mut self, source: u32) {
        let now = self.now;
        let Some(s) = self.sources.get_mut(source) else {
            return;
        };
        s.wake = Time::FAR;
        let unblocked = s.blocked_until != Time::ZERO && s.blocked_until <= now;
        if unblocked {
            s.blocked_until = Time::ZERO;
        }
        let settled = s.health.settle(now);
        self.refresh_source(source);
        if settled {
            self.tell_health(source);
        }
        if unblocked {
            self.appeared(source);
        }
        self.release_source(source);
    }

    pub(crate) fn node_timer(&mut self, node: u32) {
        let Some(n) = self.nodes.get_mut(node) else {
            return;
        };
        n.wake = Time::FAR;
        self.refresh_node(node);
        self.release_node(node);
    }

    // ---- who waits for whom ----

    /// The source may serve again: who waits out a pause and may use it goes on.
    pub(crate) fn appeared(&mut self, source: u32) {
        if !self.is_eligible(source) {
            return;
        }
        let id = self.sources[source].id;
        let waiting: Vec<u32> = self.sources[source]
            .paused
            .iter()
            .chain(&self.any_paused)
            .copied()
            .collect();
        for fetch in waiting {
            self.wake(fetch, id);
        }
    }

    /// The source may not serve now: who waits for it alone, and not for ever, has to know.
    fn disappeared(&mut self, source: u32) {
        if !self.sources[source].queue.is_empty() {
            self.start_sweep(source);
        }
        if self.eligible.is_empty() && !self.any.is_empty() {
            self.start_sweep(NONE);
        }
    }

    pub(crate) fn withdraw(&mut self, id: SourceId) {
        let Some(source) = self.find_source(id) else {
            return self.late();
        };
        for fetch in self.sources[source].targeted.clone() {
            self.untarget(fetch, source);
        }
        self.release_source(source);
    }

    pub(crate) fn withdraw_from(&mut self, key: &K, id: SourceId) {
        let (Some(fetch), Some(source)) = (self.find_fetch(key), self.find_source(id)) else {
            return self.late();
        };
        if self.sources[source].targeted.contains(&fetch) {
            self.untarget(fetch, source);
            self.release_source(source);
        }
    }

    // ---- upkeep ----

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

    /// Recomputes what follows from a source's own state, and carries it up.
    pub(crate) fn refresh_source(&mut self, source: u32) {
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
        if !acknowledged || s.health.throttled_until > now || !s.gate.is_open(now) {
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
        s.attempts.push(attempt);
        s.unacknowledged = Some(attempt);
        let mut node = s.node;
        if s.gate.is_open(now) {
            self.tell_later(source);
        } else {
            self.refresh_source(source);
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

    pub(crate) fn leave(&mut self, source: u32, attempt: u32, refund: bool) {
        let now = self.now;
        let s = &mut self.sources[source];
        let closed = !s.gate.is_open(now);
        let unacknowledged = s.unacknowledged == Some(attempt);
        s.gate.leave();
        if refund {
            s.gate.refund();
        }
        if let Some(at) = s.attempts.iter().position(|a| *a == attempt) {
            s.attempts.swap_remove(at);
        }
        if unacknowledged {
            s.unacknowledged = None;
        }
        let mut node = s.node;
        if closed {
            self.refresh_source(source);
        } else if unacknowledged {
            self.tell_later(source);
        }
        while node != NONE {
            let n = &mut self.nodes[node];
            let closed = !n.gate.is_open(now);
            n.gate.leave();
            if refund {
                n.gate.refund();
            }
            let parent = n.parent;
            if closed {
                self.refresh_node(node);
            }
            node = parent;
        }
        self.release_source(source);
    }

    // ---- health ----

    pub(crate) fn source_answered(&mut self, source: u32, began: Time) {
        let (now, health) = (self.now, self.config.health);
        let s = &mut self.sources[source];
        let sick = s.health.faults > 0;
        let recovered = s.health.succeeded(began, now, &health);
        // Of a healthy source, all that an answer can change is its rate.
        if sick {
            self.refresh_source(source);
        } else if s.posted.1 > 0 && s.posted.1 != coarse(s.performance.rate()) {
            self.tell_later(source);
        }
        if recovered {
            self.tell_health(source);
            self.appeared(source);
        }
    }

    pub(crate) fn source_failed(&mut self, source: u32, began: Time) {
        let (now, health) = (self.now, self.config.health);
        let s = &mut self.sources[source];
        let faults = s.health.faults;
        s.health.failed(began, now, &health, &mut self.rng);
        let worse = s.health.faults != faults;
        self.refresh_source(source);
        if worse {
            self.tell_health(source);
        }
    }

    pub(crate) fn source_busy(&mut self, source: u32, retry_after: Option<std::time::Duration>) {
        let (now, health) = (self.now, self.config.health);
        let was = self.sources[source].health.throttled_until > now;
        self.sources[source]
            .health
            .throttled(retry_after, now, &health);
        self.refresh_source(source);
        if !was {
            self.tell_health(source);
            self.parked(source);
        }
    }

    /// Charges time, and credits units, to a source's performance.
    pub(crate) fn charge(&mut self, source: u32, units: u64, took: std::time::Duration) {
        self.sources[source].performance.charge(units, took);
        if units > 0 {
            let rate = self.sources[source].performance.rate();
            // An average over samples, so that a newcomer is neither a favourite nor an outcast.
            self.typical = (self.typical - self.typical / 16 + rate / 16).max(1);
        }
    }

    fn tell_health(&mut self, source: u32) {
        if self.config.events_max > 0 {
            let health = self.health_of(source);
            let id = self.sources[source].id;
            self.event(Event::Health(id, health));
        }
    }

    pub(crate) fn health_of(&self, source: u32) -> Health {
        let s = &self.sources[source];
        s.health.state(s.up, self.now, &self.config.health)
    }

    /// Takes a source out of one fetch's targets.
    fn untarget(&mut self, fetch: u32, source: u32) {
        let id = self.sources[source].id;
        self.sources[source].targeted.remove(&fetch);
        let queued = self.fetches[fetch].state == State::Queued;
        if queued {
            self.dequeue(fetch);
        }
        self.unpause(fetch);
        if let crate::state::Candidates::Only(targets) = &mut self.fetches[fetch].candidates {
            targets.retain(|target| *target != id);
        }
        if self.fetches[fetch].state == State::Paused {
            self.repause(fetch);
        }
        let attempts: Vec<u32> = self.fetches[fetch]
            .race
            .as_ref()
            .map(|race| race.attempts.clone())
            .unwrap_or_default();
        for attempt in attempts {
            if self.attempts[attempt].source == source {
                self.give_up(attempt, HowEnded::Aborted);
            }
        }
        if queued {
            self.enqueue(fetch);
        }
    }
}

/// A rate to three significant bits: performance changes with every answer, the tree need not.
const fn coarse(rate: u64) -> u64 {
    let shift = (rate | 1).ilog2().saturating_sub(2);
    rate >> shift << shift
}
