//! Queues, turns and starts: which fetch goes next, and how its rounds and cycles run.

use crate::planted::planted;
use crate::{
    engine::Engine,
    id::Key,
    output::{FetchError, Output},
    state::{Candidates, State, WHOLE, Waits},
    survey::{Survey, is_persistent},
};
use std::time::Duration;

/// The least time between two looks at the same thing: a plan may say zero, and must not spin.
pub(crate) const LOOK_MIN: Duration = Duration::from_millis(1);

/// Turns taken in one step, so that no step takes long.
const TURNS_STEP: u32 = 1024;

/// What one start costs a class of weight 1.
const STRIDE: u64 = 1 << 20;

/// In strict mode, what the class of a retry is above that of a fresh key.
const RETRIES: u16 = 256;

/// Weighted shares of the classes: stride scheduling (Waldspurger and Weihl), with the lag of a class
/// that could not start anything bounded by one stride, so that it does not starve others later.
#[derive(Debug)]
pub(crate) struct Shares {
    pass: Box<[u64; 512]>,
    virtual_time: u64,
    /// Per class, whether any-source fetches had the last turn.
    any_last: Box<[bool; 512]>,
}

impl Shares {
    pub(crate) fn new() -> Self {
        Self {
            pass: Box::new([0; 512]),
            virtual_time: 0,
            any_last: Box::new([false; 512]),
        }
    }

    /// What orders the classes by their turns.
    pub(crate) fn turn_of(&self, class: u16) -> (bool, u64, u16) {
        (class >= RETRIES, self.pass(class), !class)
    }

    fn pass(&self, class: u16) -> u64 {
        self.pass[usize::from(class)].max(self.virtual_time.saturating_sub(STRIDE))
    }

    pub(crate) fn charge(&mut self, class: u16) {
        if planted!("unfair-queue") {
            return;
        }
        let pass = self.pass(class);
        self.virtual_time = self.virtual_time.max(pass);
        self.pass[usize::from(class)] = pass + STRIDE / u64::from((class % RETRIES).max(1));
    }
}

impl<K: Key> Engine<K> {
    // ---- turns ----

    /// Starts what can be started, and looks at a piece of what is in doubt. Bytes that were given back go
    /// to hedges first, which end what is under way the sooner; there are so many and no more, for what
    /// waits for its turn waits for these bytes too.
    pub(crate) fn pump(&mut self) {
        if self.bytes < self.bytes_before && !self.hedges.is_empty() {
            self.hedge_on(true);
        }
        self.take_turns();
        self.bytes_before = self.bytes;
    }

    fn take_turns(&mut self) {
        self.sweep();
        self.unfinished = false;
        let mut turns = 0;
        while self.standing > 0 && self.racing < self.config.racing_max && self.whole_is_open() {
            if turns == TURNS_STEP {
                self.unfinished = true;
                return;
            }
            turns += 1;
            self.tell_now();
            let Some(fetch) = self.next_turn() else {
                return;
            };
            if self.is_overdue(fetch) {
                self.end_overdue(fetch);
                continue;
            }
            match self.survey(fetch) {
                Survey::Start(source) => {
                    if !self.bytes_fit(fetch) && !self.make_room(fetch) {
                        self.stalled = Some(self.fetch_id(fetch));
                        if !self.start_holder() && !self.start_question(fetch) {
                            return;
                        }
                        continue;
                    }
                    let class = self.fetches[fetch].place.class;
                    self.dequeue(fetch);
                    self.shares.charge(class);
                    self.launch(fetch, source);
                }
                other => {
                    let left = self.step_out(fetch);
                    self.settle_down(fetch, other);
                    self.release_sources(&left);
                }
            }
        }
    }

    /// The fetch whose turn it is. It stays queued.
    fn next_turn(&mut self) -> Option<u32> {
        if let Some(id) = self.stalled.take()
            && let Some(fetch) = self.fetches.find(id.0)
            && self.fetches[fetch].state == State::Queued
        {
            return Some(fetch);
        }
        let any_ready = self.any_is_ready();
        let named = self.nodes[WHOLE]
            .turns
            .iter()
            .filter(|(_, turns)| !turns.is_empty());
        let named = named.map(|(class, _)| *class);
        let any = self.any.classes().filter(|_| any_ready);
        let class = named
            .chain(any)
            .min_by_key(|class| self.shares.turn_of(*class))?;
        let has_any = any_ready && self.any.has(class);
        let has_named = self.nodes[WHOLE].has_turn(class);
        let any_last = &mut self.shares.any_last[usize::from(class)];
        let take_any = has_any && (!has_named || !*any_last);
        *any_last = take_any;
        if take_any {
            return self.any.take_turn(class);
        }
        let mut node = WHOLE;
        loop {
            let slot = self.nodes[node].turns_mut(class).take()?;
            match self.nodes[node].children[slot as usize]? {
                crate::state::Child::Node(child) => node = child,
                crate::state::Child::Source(source) => {
                    return self.sources[source].queue.take_turn(class);
                }
            }
        }
    }

    fn any_is_ready(&self) -> bool {
        let ready = &self.nodes[WHOLE].ready;
        ready[0].total().count as usize > self.busy.len()
            || (self.config.try_backed_off && self.sound == 0 && ready[1].total().count > 0)
    }

    // ---- in and out of queues ----

    /// Puts a fetch where its next turn will come from.
    pub(crate) fn enqueue(&mut self, fetch: u32) {
        if self.budget_end(fetch) <= self.now {
            return self.exhausted(fetch, FetchError::Exhausted);
        }
        if matches!(self.fetches[fetch].candidates, Candidates::Unranked) {
            self.set_state(fetch, State::Selecting);
            let fetch = self.fetch_id(fetch);
            return self.emit(Output::Select { fetch });
        }
        if self.waits_for_any(fetch) {
            return self.stand(fetch, Waits::Any);
        }
        let survey = self.survey(fetch);
        self.settle_down(fetch, survey);
    }

    /// Whether a survey could say nothing else than to wait for any source, whoever is free.
    fn waits_for_any(&self, fetch: u32) -> bool {
        let f = &self.fetches[fetch];
        matches!(f.candidates, Candidates::Any) && f.race.is_none() && !self.eligible.is_empty()
    }

    fn settle_down(&mut self, fetch: u32, survey: Survey) {
        match survey {
            Survey::Start(source) => {
                let waits = self.alternatives(fetch, source);
                self.stand(fetch, waits);
            }
            Survey::Wait(waits) => self.stand(fetch, waits),
            Survey::Spent => self.cycle_spent(fetch, FetchError::Exhausted),
            Survey::Nobody => self.cycle_spent(fetch, FetchError::NoCandidates),
        }
    }

    fn stand(&mut self, fetch: u32, waits: Waits) {
        let f = &mut self.fetches[fetch];
        let retry = self.config.fresh_first && f.race.as_ref().is_some_and(|r| r.failures > 0);
        f.place.class = u16::from(f.priority) + if retry { RETRIES } else { 0 };
        let place = f.place;
        f.flexible = match &f.candidates {
            Candidates::Ranked(list) => list.len() > 1,
            Candidates::Only(list) => list.len() > 1,
            Candidates::Any | Candidates::Unranked => true,
        };
        let flexible = u32::from(f.flexible);
        if f.question {
            self.questions.insert(place, fetch);
        }
        if waits == Waits::Any {
            self.any.insert(place, fetch);
        }
        for source in waits.sources() {
            self.sources[*source].flexible += flexible;
            if self.sources[*source].queue.insert(place, fetch) {
                self.class_came(*source, place.class);
            }
        }
        self.standing += 1;
        self.fetches[fetch].waits = waits;
        self.set_state(fetch, State::Queued);
    }

    /// Takes a fetch out of all queues. Its state is the caller's to set.
    pub(crate) fn dequeue(&mut self, fetch: u32) {
        let left = self.step_out(fetch);
        self.release_sources(&left);
    }

    /// Takes a fetch out of all queues, and leaves it to the caller to release the sources: it may be
    /// about to stand there again.
    fn step_out(&mut self, fetch: u32) -> Waits {
        let f = &mut self.fetches[fetch];
        let place = f.place;
        let flexible = u32::from(f.flexible);
        let waits = std::mem::replace(&mut f.waits, Waits::Nowhere);
        self.standing -= u32::from(waits != Waits::Nowhere);
        if f.question {
            self.questions.remove(place);
        }
        if waits == Waits::Any {
            self.any.remove(place);
        }
        for source in waits.sources() {
            self.sources[*source].flexible -= flexible;
            if self.sources[*source].queue.remove(place) {
                self.class_left(*source, place.class);
            }
        }
        waits
    }

    pub(crate) fn release_sources(&mut self, waits: &Waits) {
        for source in waits.sources() {
            self.release_source(*source);
        }
    }

    /// Looks anew at what a queued fetch waits for.
    pub(crate) fn requeue(&mut self, fetch: u32) {
        if self.fetches[fetch].state != State::Queued {
            return;
        }
        // The common case by far: nothing else to wait for, and patience without end.
        let f = &self.fetches[fetch];
        if f.waits.sources().len() == 1 && is_persistent(f) {
            let alone = match &f.candidates {
                Candidates::Only(list) => list.len() == 1,
                Candidates::Ranked(list) => list.len() == 1,
                _ => false,
            };
            if alone {
                return;
            }
        }
        let survey = self.survey(fetch);
        if let Survey::Wait(waits) = &survey
            && *waits == self.fetches[fetch].waits
        {
            return;
        }
        let left = self.step_out(fetch);
        self.settle_down(fetch, survey);
        self.release_sources(&left);
    }

    /// Changes class, keeping its place within.
    pub(crate) fn reclass(&mut self, fetch: u32, priority: u8) {
        if self.fetches[fetch].priority == priority {
            return;
        }
        let queued = self.fetches[fetch].state == State::Queued;
        let waits = if queued {
            self.step_out(fetch)
        } else {
            Waits::Nowhere
        };
        let f = &mut self.fetches[fetch];
        f.priority = priority;
        f.at_top = 0;
        if queued {
            self.stand(fetch, waits);
        }
    }
}
