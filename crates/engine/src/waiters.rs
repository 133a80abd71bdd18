//! Waiters: wants, joins, departures, deadlines; and how a fetch begins.

use crate::planted::planted;
use crate::{
    engine::Engine,
    hash::Tag,
    id::{FetchId, Key, SourceId, Time, WaiterId},
    output::{FetchError, Outcome, Output},
    plan::{Targets, Want},
    snapshot::Event,
    state::{Candidates, Fetch, NONE, State, Waiter, Waits, outlives},
    timers::Who,
    turns::Place,
};
use std::time::Duration;

impl<K: Key> Engine<K> {
    pub(crate) fn find_fetch(&self, key: &K) -> Option<u32> {
        self.find_tagged(self.by_key.tag(key), key)
    }

    fn find_tagged(&self, tag: Tag, key: &K) -> Option<u32> {
        self.by_key.find(tag, |slot| self.fetches[slot].key == *key)
    }

    pub(crate) fn find_waiter(&self, id: WaiterId) -> Option<u32> {
        self.by_waiter
            .find(self.by_waiter.tag(&id), |slot| self.waiters[slot].id == id)
    }

    // ---- coming ----

    pub(crate) fn want(&mut self, id: WaiterId, key: K, want: Want) {
        self.counters.wants += 1;
        if self.find_waiter(id).is_some() {
            self.counters.refused_inputs += 1;
            return;
        }
        if want.deadline.is_some_and(|deadline| deadline <= self.now) {
            self.counters.expired += 1;
            return self.refuse(id, FetchError::Expired);
        }
        if self.waiters.len() >= self.config.waiters_max {
            self.counters.overloaded += 1;
            return self.refuse(id, FetchError::Overloaded);
        }
        let tag = self.by_key.tag(&key);
        if let Some(fetch) = self.find_tagged(tag, &key) {
            self.counters.coalesced += 1;
            if self.config.events_max > 0 {
                let fetch = self.fetch_id(fetch);
                self.event(Event::Joined(fetch, id));
            }
            return self.join(fetch, id, want);
        }
        if self.fetches.len() >= self.config.fetches_max
            || want.plan.body_bytes_max > self.config.bytes_max
        {
            self.counters.overloaded += 1;
            return self.refuse(id, FetchError::Overloaded);
        }
        self.open(id, (key, tag), want);
    }

    fn refuse(&mut self, waiter: WaiterId, error: FetchError) {
        self.counters.failed += 1;
        self.emit(Output::Finish {
            waiter,
            fetch: None,
            outcome: Outcome::failed(error),
        });
    }

    fn open(&mut self, id: WaiterId, (key, tag): (K, Tag), want: Want) {
        self.counters.fetches += 1;
        let place = Place {
            class: 0,
            owner: want.owner,
            order: self.arrivals,
        };
        self.arrivals += 1;
        let plan = want.plan;
        let question = self.is_small(plan.body_bytes_max);
        let fetch = self.fetches.insert(Fetch {
            key: key.clone(),
            state: State::Selecting,
            listed: true,
            commit: plan.commit,
            priority: want.priority,
            at_top: 0,
            place,
            candidates: Candidates::Unranked,
            waits: Waits::Nowhere,
            question,
            flexible: false,
            first_waiter: NONE,
            last_waiter: NONE,
            waiters: 0,
            unspoken: 0,
            cycles: 0,
            outlives: outlives(plan.lifetime),
            not_before: plan.not_before.unwrap_or(Time::ZERO),
            paused_until: Time::ZERO,
            ceiling_at: Time::FAR,
            wake: Time::FAR,
            race: None,
            plan,
        });
        self.by_key.insert(tag, fetch);
        let fetch_id = self.fetch_id(fetch);
        self.emit(Output::Opened {
            fetch: fetch_id,
            key,
        });
        self.add_waiter(fetch, id, want.priority, want.deadline);
        self.retarget(fetch, want.targets, true);
        self.begin_cycle(fetch);
    }

    fn join(&mut self, fetch: u32, id: WaiterId, want: Want) {
        let f = &mut self.fetches[fetch];
        f.outlives = f.outlives.max(outlives(want.plan.lifetime));
        f.commit = f.commit.max(want.plan.commit);
        f.ceiling_at = Time::FAR;
        let earlier = want.plan.not_before.unwrap_or(Time::ZERO) < f.not_before;
        if earlier {
            f.not_before = want.plan.not_before.unwrap_or(Time::ZERO);
        }
        let (state, priority, alone) = (f.state, f.priority, f.waiters == 0);
        if want.priority > priority || alone {
            self.reclass(fetch, want.priority);
        }
        self.add_waiter(fetch, id, want.priority, want.deadline);
        match state {
            State::Draining => self.revive(fetch, want),
            State::Accepted => {
                // If the answer is not good enough for this one, it is fetched anew, from these too.
                self.retarget(fetch, want.targets, false);
                self.settle(fetch);
            }
            _ => {
                let change = self.retarget(fetch, want.targets, false);
                if earlier && state == State::Paused && self.fetches[fetch].cycles == 0 {
                    self.end_pause(fetch);
                } else if let Some(opened) = change {
                    self.reconsider(fetch, opened);
                }
                // With other sources than before there may be none at all, and then that was its end.
                if self.fetches.get(fetch).is_some() {
                    self.rearm(fetch);
                }
            }
        }
    }

    /// Nobody wanted it, its attempts are ending, and now it is wanted again: with what it had.
    fn revive(&mut self, fetch: u32, want: Want) {
        self.counters.revived += 1;
        let f = &mut self.fetches[fetch];
        if f.plan.resume == want.plan.resume {
            f.plan = want.plan;
        }
        f.outlives = outlives(f.plan.lifetime);
        f.commit = f.plan.commit;
        f.cycles = 0;
        f.place.owner = want.owner;
        if let Some(race) = &mut f.race {
            race.tried.clear();
            race.tried_cycle = 0;
            race.hopeless.clear();
            race.first_start = None;
            race.budget_from = None;
            race.fruitless = 0;
        }
        self.untarget_all(fetch);
        self.fetches[fetch].candidates = Candidates::Unranked;
        self.retarget(fetch, want.targets, true);
        self.begin_cycle(fetch);
    }

    fn add_waiter(&mut self, fetch: u32, id: WaiterId, priority: u8, deadline: Option<Time>) {
        let f = &mut self.fetches[fetch];
        let previous = f.last_waiter;
        let waiter = self.waiters.insert(Waiter {
            id,
            fetch,
            previous,
            next: NONE,
            priority,
            spoken: false,
            accepted: false,
            deadline: Time::FAR,
        });
        if previous == NONE {
            f.first_waiter = waiter;
        } else {
            self.waiters[previous].next = waiter;
        }
        f.last_waiter = waiter;
        f.waiters += 1;
        f.unspoken += 1;
        f.at_top += u32::from(priority == f.priority);
        self.by_waiter.insert(self.by_waiter.tag(&id), waiter);
        if let Some(deadline) = deadline {
            self.timers.arm(
                Who::Waiter(waiter),
                &mut self.waiters[waiter].deadline,
                deadline,
            );
        }
    }

    // ---- targets ----

    /// Merges what a want says of sources into a fetch. Returns `None` where that changes nothing, and
    /// else whether somebody new could serve it now.
    fn retarget(&mut self, fetch: u32, targets: Targets, fresh: bool) -> Option<bool> {
        let open = !fresh && !matches!(self.fetches[fetch].candidates, Candidates::Only(_));
        match targets {
            // A restricted want never restricts an open fetch.
            _ if open => None,
            Targets::Ranked => {
                let was = self.lift(fetch);
                self.fetches[fetch].candidates = Candidates::Unranked;
                was.then_some(true)
            }
            Targets::Any => {
                let was = self.lift(fetch);
                self.fetches[fetch].candidates = Candidates::Any;
                was.then_some(!self.eligible.is_empty())
            }
            Targets::Only(sources) => {
                let mut list = match &self.fetches[fetch].candidates {
                    Candidates::Only(list) => list.clone(),
                    _ => Vec::new(),
                };
                let (before, mut opened) = (list.len(), false);
                // There are many such lists, and what they have to spare adds up.
                list.reserve_exact(sources.len().min(self.config.candidates_max as usize));
                for id in sources {
                    if list.contains(&id) {
                        continue;
                    }
                    if list.len() >= self.config.candidates_max as usize {
                        self.counters.refused_inputs += 1;
                        break;
                    }
                    let Some(source) = self.source(id) else {
                        continue;
                    };
                    self.sources[source].targeted.insert(fetch);
                    opened |= self.is_eligible(source);
                    list.push(id);
                }
                let added = list.len() > before;
                if added && self.fetches[fetch].state == State::Paused {
                    self.unpause(fetch);
                }
                self.fetches[fetch].candidates = Candidates::Only(list);
                added.then_some(opened)
            }
        }
    }

    /// Lifts a restriction to targets.
    fn lift(&mut self, fetch: u32) -> bool {
        let restricted = matches!(self.fetches[fetch].candidates, Candidates::Only(_));
        if restricted {
            match self.fetches[fetch].state {
                State::Queued => self.dequeue(fetch),
                State::Paused => self.unpause(fetch),
                _ => {}
            }
            self.untarget_all(fetch);
        }
        restricted
    }

    pub(crate) fn untarget_all(&mut self, fetch: u32) {
        let Candidates::Only(list) = &self.fetches[fetch].candidates else {
            return;
        };
        for id in list.clone() {
            if let Some(source) = self.find_source(id) {
                self.sources[source].targeted.remove(&fetch);
                self.release_source(source);
            }
        }
    }

    /// The sources of a fetch that waits have changed; with `opened`, one could serve it now. Only that
    /// ends a pause: a target that is not there costs neither the back-off nor a cycle.
    fn reconsider(&mut self, fetch: u32, opened: bool) {
        let f = &self.fetches[fetch];
        match f.state {
            State::Queued => {
                self.dequeue(fetch);
                self.enqueue(fetch);
            }
            State::Paused if opened && f.not_before <= self.now => self.end_pause(fetch),
            State::Paused => self.repause(fetch),
            _ => {}
        }
    }

    pub(crate) fn ranked(&mut self, id: FetchId, mut list: Vec<SourceId>) {
        let Some(fetch) = self.fetches.find(id.0) else {
            return self.late();
        };
        if self.fetches[fetch].state != State::Selecting {
            return self.late();
        }
        // Each once, and no more than allowed; in the list as it came, for there are many of them.
        let max = self.config.candidates_max as usize;
        let mut kept = 0;
        for at in 0..list.len() {
            let source = list[at];
            if kept < max && !list[..kept].contains(&source) {
                list[kept] = source;
                kept += 1;
            }
        }
        list.truncate(kept);
        list.shrink_to_fit();
        self.fetches[fetch].candidates = Candidates::Ranked(list);
        self.enqueue(fetch);
    }

    pub(crate) fn announced(&mut self, key: &K, id: SourceId) {
        let Some(fetch) = self.find_fetch(key) else {
            return;
        };
        let f = &mut self.fetches[fetch];
        let may_serve = match &f.candidates {
            Candidates::Any => true,
            Candidates::Unranked => false,
            Candidates::Ranked(list) => list.contains(&id),
            Candidates::Only(list) => list.contains(&id),
        };
        if !may_serve || f.state != State::Paused || f.not_before > self.now {
            return;
        }
        if let Some(race) = &mut f.race {
            race.hopeless.retain(|source| *source != id);
        }
        self.end_pause(fetch);
    }

    // ---- going ----

    pub(crate) fn release(&mut self, id: WaiterId) {
        let Some(waiter) = self.find_waiter(id) else {
            return self.late();
        };
        self.counters.released += 1;
        let fetch = self.remove_waiter(waiter);
        self.departed(fetch);
    }

    pub(crate) fn move_deadline(&mut self, id: WaiterId, deadline: Option<Time>) {
        let Some(waiter) = self.find_waiter(id) else {
            return self.late();
        };
        // A deadline in the past is due at the next timeout.
        let at = deadline.unwrap_or(Time::FAR);
        self.timers
            .arm(Who::Waiter(waiter), &mut self.waiters[waiter].deadline, at);
    }

    pub(crate) fn waiter_timer(&mut self, waiter: u32) {
        let Some(w) = self.waiters.get_mut(waiter) else {
            return;
        };
        w.deadline = Time::FAR;
        if planted!("deadline-ignored") {
            return;
        }
        let fetch = w.fetch;
        self.counters.expired += 1;
        self.finish_waiter(waiter, Outcome::failed(FetchError::Expired));
        self.departed(fetch);
    }

    /// Gives a waiter its one outcome. What that means for the fetch is the caller's to see to.
    pub(crate) fn finish_waiter(&mut self, waiter: u32, outcome: Outcome) {
        let id = self.waiters[waiter].id;
        let fetch = self.remove_waiter(waiter);
        let fetch_id = self.fetch_id(fetch);
        match &outcome {
            Outcome::Datum { .. } => self.counters.answered += 1,
            Outcome::Failed { error, .. } => {
                self.counters.failed += 1;
                self.event(Event::Failed(fetch_id, id, *error));
            }
        }
        if planted!("double-outcome") && id.0.is_multiple_of(16) {
            let outcome = outcome.clone();
            self.emit(Output::Finish {
                waiter: id,
                fetch: Some(fetch_id),
                outcome,
            });
        }
        self.emit(Output::Finish {
            waiter: id,
            fetch: Some(fetch_id),
            outcome,
        });
    }

    pub(crate) fn finish_all(&mut self, fetch: u32, outcome: &Outcome) {
        while self.fetches[fetch].first_waiter != NONE {
            let waiter = self.fetches[fetch].first_waiter;
            self.finish_waiter(waiter, outcome.clone());
        }
    }

    fn remove_waiter(&mut self, waiter: u32) -> u32 {
        let mut w = self
            .waiters
            .remove(waiter)
            .expect("a waiter that was found");
        self.timers
            .arm(Who::Waiter(waiter), &mut w.deadline, Time::FAR);
        self.by_waiter.remove(self.by_waiter.tag(&w.id), waiter);
        let f = &mut self.fetches[w.fetch];
        f.waiters -= 1;
        f.unspoken -= u32::from(!w.spoken);
        f.at_top -= u32::from(w.priority == f.priority);
        match w.previous {
            NONE => f.first_waiter = w.next,
            previous => self.waiters[previous].next = w.next,
        }
        match w.next {
            NONE => f.last_waiter = w.previous,
            next => self.waiters[next].previous = w.previous,
        }
        w.fetch
    }

    /// A waiter has left: the class may sink, and without any the fetch may end.
    pub(crate) fn departed(&mut self, fetch: u32) {
        let f = &mut self.fetches[fetch];
        if f.waiters == 0 {
            match f.outlives {
                None => self.cancel(fetch),
                Some(nanos) => {
                    f.ceiling_at = self.now.after(Duration::from_nanos(nanos.get()));
                    if planted!("ceiling-ignored") {
                        f.ceiling_at = Time::FAR;
                    }
                    if f.state == State::Accepted {
                        self.settle(fetch);
                    } else {
                        self.rearm(fetch);
                    }
                }
            }
        }
        self.reclass_to_top(fetch);
    }

    /// Sinks to the highest class of the waiters left, once a whole class of them has gone (which pays
    /// for the walk).
    pub(crate) fn reclass_to_top(&mut self, fetch: u32) {
        if !self
            .fetches
            .get(fetch)
            .is_some_and(|f| f.waiters > 0 && f.at_top == 0)
        {
            return;
        }
        let (mut class, mut count) = (0, 0);
        let mut next = self.fetches[fetch].first_waiter;
        while next != NONE {
            let waiter = &self.waiters[next];
            if waiter.priority > class {
                (class, count) = (waiter.priority, 1);
            } else if waiter.priority == class {
                count += 1;
            }
            next = waiter.next;
        }
        self.reclass(fetch, class);
        self.fetches[fetch].at_top = count;
    }

    /// The fetch is not found by its key any more: a new want is a new fetch.
    pub(crate) fn unlist(&mut self, fetch: u32) {
        if !self.fetches[fetch].listed {
            return;
        }
        self.untarget_all(fetch);
        let f = &mut self.fetches[fetch];
        f.listed = false;
        self.by_key.remove(self.by_key.tag(&f.key), fetch);
    }
}
