//! Sources: coming and going, blocks, limits, pauses, and what is known of their health.

use crate::planted::planted;
use crate::{
    engine::Engine,
    gate::Gate,
    id::{GroupId, Key, SourceId, Time},
    input::{Limits, Scope},
    output::HowEnded,
    snapshot::{Event, Health},
    state::{Child, NONE, Performance, Source, State, WHOLE},
    timers::Who,
    turns::Queue,
    upkeep::coarse,
};
use std::collections::BTreeSet;

impl<K: Key> Engine<K> {
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
            paid: None,
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
            busy_at: NONE,
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
            let paid = self.nodes[old].id;
            let s = &mut self.sources[source];
            if s.unacknowledged.is_some() && s.paid.is_none() {
                s.paid = paid;
            }
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
                // What the operator said of it goes with no bound on what is remembered.
                let gone = s.gone;
                self.remembered.remove(&(gone, source));
                self.refresh_source(source);
            }
            Scope::Group(id) => {
                self.settle_busy();
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
        let unsound = s.is_unsound(now);
        self.refresh_source(source);
        if worse {
            self.tell_health(source);
        }
        if unsound && !self.config.try_backed_off {
            // It gives no turns now; whoever stood here alone may have had better reasons than it has.
            self.parked(source);
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
