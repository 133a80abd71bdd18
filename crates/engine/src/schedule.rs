//! Queues, turns and starts: which fetch goes next, and how its rounds and cycles run.

use crate::planted::planted;
use crate::{
    engine::Engine,
    health::jittered,
    id::{Key, SourceId, Time},
    output::{FetchError, HowEnded, Output, Stage, Tried},
    plan::{Hedge, Retry},
    snapshot::{Event, Phase},
    state::{Attempt, Candidates, State, WHOLE, Waits},
    survey::{Survey, is_persistent},
    timers::Who,
};
use std::time::Duration;

/// The least time between two looks at the same thing: a plan may say zero, and must not spin.
pub(crate) const LOOK_MIN: Duration = Duration::from_millis(1);

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

    fn pass(&self, class: u16) -> u64 {
        self.pass[usize::from(class)].max(self.virtual_time.saturating_sub(STRIDE))
    }

    fn charge(&mut self, class: u16) {
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

    /// Starts what can be started, in turns, and looks at a piece of what is in doubt.
    pub(crate) fn pump(&mut self) {
        self.sweep();
        while self.racing < self.config.racing_max && self.whole_is_open() {
            let Some(fetch) = self.next_turn() else {
                return;
            };
            match self.survey(fetch) {
                Survey::Start(source) => {
                    if !self.bytes_fit(fetch) && !self.make_room(fetch) {
                        self.stalled = Some(self.fetch_id(fetch));
                        if !self.start_holder() {
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
            .min_by_key(|class| (*class >= RETRIES, self.shares.pass(*class), !*class))?;
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
        ready[0].total().count > 0
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
        let survey = self.survey(fetch);
        self.settle_down(fetch, survey);
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
        if waits == Waits::Any {
            self.any.insert(place, fetch);
        }
        for source in waits.sources() {
            self.sources[*source].flexible += flexible;
            if self.sources[*source].queue.insert(place, fetch) {
                self.class_came(*source, place.class);
            }
        }
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

    fn release_sources(&mut self, waits: &Waits) {
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
        if let (Waits::One(_), true) = (&f.waits, is_persistent(f)) {
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

    // ---- cycles ----

    /// Begins the next cycle over the candidates.
    pub(crate) fn begin_cycle(&mut self, fetch: u32) {
        let f = &mut self.fetches[fetch];
        if f.not_before > self.now {
            let until = f.not_before;
            return self.pause(fetch, until);
        }
        if let Some(race) = &mut f.race {
            race.round = 0;
            race.started = 0;
        }
        if matches!(f.candidates, Candidates::Ranked(_)) {
            f.candidates = Candidates::Unranked;
        }
        self.enqueue(fetch);
    }

    /// All attempts have failed: the next round, or the end of the cycle.
    pub(crate) fn round_over(&mut self, fetch: u32) {
        let f = &self.fetches[fetch];
        let Some(race) = &f.race else { return };
        if race.live > 0 || race.judgement.is_some() || f.state != State::Racing {
            return;
        }
        if self.may_start_more(fetch) {
            self.enqueue(fetch);
        } else {
            self.cycle_spent(fetch, FetchError::Exhausted);
        }
    }

    fn may_start_more(&self, fetch: u32) -> bool {
        let f = &self.fetches[fetch];
        let Some(race) = &f.race else { return true };
        let rounds = f
            .plan
            .rounds_max
            .map_or(u32::MAX, |n| n.get())
            .min(self.config.rounds_max);
        let starts = f
            .plan
            .attempts_max
            .map_or(u32::MAX, |n| n.get())
            .min(self.config.attempts_max);
        race.round < rounds && race.started < starts
    }

    /// The cycle brought nothing: another after a pause, or the end.
    pub(crate) fn cycle_spent(&mut self, fetch: u32, error: FetchError) {
        let now = self.now;
        let f = &mut self.fetches[fetch];
        let error = match f.race.as_ref().and_then(|race| race.commit_fault) {
            Some(fault) => FetchError::Commit(fault),
            None => error,
        };
        let backoff = match f.plan.retry {
            Retry::No => return self.exhausted(fetch, error),
            Retry::UntilReleased { backoff } => backoff,
            Retry::Budget {
                tries,
                total,
                backoff,
            } => {
                let Some(race) = &f.race else {
                    return self.exhausted(fetch, error);
                };
                let begun = race.budget_from.unwrap_or(now);
                let hopeless = race.commit_fault.is_none()
                    && match &f.candidates {
                        Candidates::Any | Candidates::Unranked => false,
                        Candidates::Ranked(list) => {
                            list.iter().all(|source| race.hopeless.contains(source))
                        }
                        Candidates::Only(list) => {
                            list.iter().all(|source| race.hopeless.contains(source))
                        }
                    };
                let fruitless = race.fruitless;
                let resumes = now.after(backoff.pause(fruitless));
                if fruitless + 1 >= tries || resumes >= begun.after(total) || hopeless {
                    return self.exhausted(fetch, error);
                }
                backoff
            }
        };
        let failures = match (&mut f.race, f.plan.retry) {
            (Some(race), Retry::Budget { .. }) => {
                race.fruitless += 1;
                race.fruitless - 1
            }
            _ => f.cycles,
        };
        let pause = backoff.pause(failures);
        let pause = jittered(pause, backoff.jitter_permille, &mut self.rng);
        // A pause of nothing is none, where somebody was asked in this cycle: whoever answers gives
        // the next cycle its beat. Where nobody was, only time can change that.
        let at_once = pause.is_zero()
            && f.race
                .as_ref()
                .is_some_and(|race| race.tried_cycle == f.cycles && !race.tried.is_empty());
        f.cycles += 1;
        // What another version's source said does not bind the next cycle.
        if f.race.as_ref().is_some_and(|race| race.other_identity) {
            self.discard_body(fetch);
        }
        if at_once {
            self.unreserve_idle(fetch);
            return self.begin_cycle(fetch);
        }
        let until = now.after(pause.max(LOOK_MIN));
        if self.config.events_max > 0 {
            let id = self.fetch_id(fetch);
            self.event(Event::Pause(id, until));
        }
        self.pause(fetch, until);
    }

    pub(crate) fn pause(&mut self, fetch: u32, until: Time) {
        self.fetches[fetch].paused_until = until;
        self.unreserve_idle(fetch);
        self.set_state(fetch, State::Paused);
        self.repause(fetch);
    }

    /// Lets the candidates of a paused fetch know of it, so that it wakes when one appears.
    pub(crate) fn repause(&mut self, fetch: u32) {
        let f = &self.fetches[fetch];
        if f.not_before > self.now {
            return;
        }
        let list = match &f.candidates {
            Candidates::Any => {
                self.any_paused.insert(fetch);
                return;
            }
            Candidates::Unranked => return,
            Candidates::Ranked(list) => list.to_vec(),
            Candidates::Only(list) => list.clone(),
        };
        for id in list {
            if let Some(source) = self.source(id) {
                self.sources[source].paused.insert(fetch);
            }
        }
    }

    /// The reverse of [`Engine::repause`].
    pub(crate) fn unpause(&mut self, fetch: u32) {
        let list = match &self.fetches[fetch].candidates {
            Candidates::Any => {
                self.any_paused.remove(&fetch);
                return;
            }
            Candidates::Unranked => return,
            Candidates::Ranked(list) => list.to_vec(),
            Candidates::Only(list) => list.clone(),
        };
        for id in list {
            if let Some(source) = self.find_source(id)
                && self.sources[source].paused.remove(&fetch)
            {
                self.release_source(source);
            }
        }
    }

    /// A source that a paused fetch may use has appeared: the pause ends.
    pub(crate) fn wake(&mut self, fetch: u32, _source: SourceId) {
        let Some(f) = self.fetches.get(fetch) else {
            return;
        };
        if f.state == State::Paused && f.not_before <= self.now {
            self.end_pause(fetch);
        }
    }

    pub(crate) fn end_pause(&mut self, fetch: u32) {
        self.unpause(fetch);
        self.fetches[fetch].paused_until = Time::ZERO;
        self.begin_cycle(fetch);
    }

    // ---- bytes ----

    /// Whether what the next attempt of a fetch may bring fits into memory.
    pub(crate) fn bytes_fit(&self, fetch: u32) -> bool {
        let need = self.bytes_needed(fetch);
        need == 0
            || self.bytes.saturating_add(need) <= self.config.bytes_max
            || planted!("bytes-overdrawn")
    }

    /// What the next attempt has to reserve: all that a body of its own may have, or what the shared
    /// body lacks.
    fn bytes_needed(&self, fetch: u32) -> u64 {
        let f = &self.fetches[fetch];
        let max = f.plan.body_bytes_max;
        match &f.race {
            Some(race) if f.plan.resume => {
                race.body.total.unwrap_or(max).saturating_sub(race.reserved)
            }
            _ => max,
        }
    }

    /// Bytes held by fetches that are not under way may have to go: while any fetch under way holds
    /// some, its end is waited for; when none does, the oldest body that waits is given up.
    fn make_room(&mut self, fetch: u32) -> bool {
        while self.bytes == self.bytes_parked && !self.bytes_fit(fetch) {
            let Some(holder) = self.holders.iter().copied().find(|holder| *holder != fetch) else {
                return false;
            };
            self.discard_body(holder);
            let race = self.fetches[holder]
                .race
                .as_mut()
                .expect("a holder has a race");
            let bytes = std::mem::take(&mut race.reserved);
            self.unreserve(bytes);
            self.park_bytes(holder);
        }
        self.bytes_fit(fetch)
    }

    /// Lets a queued fetch that has its bytes already go before one that waits for bytes: otherwise
    /// they might wait for each other.
    fn start_holder(&mut self) -> bool {
        for holder in self.holders.iter().copied().collect::<Vec<_>>() {
            if self.fetches[holder].state == State::Queued
                && self.bytes_fit(holder)
                && let Survey::Start(source) = self.survey(holder)
            {
                self.dequeue(holder);
                self.launch(holder, source);
                return true;
            }
        }
        false
    }

    /// Counts what a fetch holds while it is not under way.
    fn park_bytes(&mut self, fetch: u32) {
        let f = &mut self.fetches[fetch];
        let parked = match f.state {
            State::Selecting | State::Queued | State::Paused => {
                f.race.as_ref().map_or(0, |race| race.reserved)
            }
            _ => 0,
        };
        if f.parked_bytes == parked {
            return;
        }
        self.bytes_parked = self.bytes_parked - f.parked_bytes + parked;
        f.parked_bytes = parked;
        if parked > 0 {
            self.holders.insert(fetch);
        } else {
            self.holders.remove(&fetch);
        }
    }

    pub(crate) fn unreserve(&mut self, bytes: u64) {
        self.bytes -= bytes;
    }

    /// A fetch that holds no byte of a body and has no attempt under way reserves nothing.
    pub(crate) fn unreserve_idle(&mut self, fetch: u32) {
        let Some(race) = &mut self.fetches[fetch].race else {
            return;
        };
        if race.body.frontier == 0 && race.attempts.is_empty() && race.judgement.is_none() {
            let bytes = std::mem::take(&mut race.reserved);
            self.unreserve(bytes);
        }
    }

    // ---- starts ----

    /// Starts a round at this source; its further attempts go where there is room at once.
    fn launch(&mut self, fetch: u32, first: u32) {
        let width = self.open_round(fetch);
        let stage = {
            let race = self.fetches[fetch]
                .race
                .as_ref()
                .expect("a round makes the race");
            if race.body.frontier > 0 && !race.solo {
                Stage::Resume
            } else if race.first_start.is_none() {
                Stage::First
            } else {
                Stage::Retry
            }
        };
        self.set_state(fetch, State::Racing);
        self.start(fetch, first, stage);
        self.fan_out(fetch, width.saturating_sub(1), Stage::Fanout);
        self.rearm(fetch);
    }

    fn open_round(&mut self, fetch: u32) -> u32 {
        let (width_max, starts_max) = (self.config.width_max, self.config.attempts_max);
        let f = &mut self.fetches[fetch];
        let race = f.race.get_or_insert_default();
        let starts = f
            .plan
            .attempts_max
            .map_or(u32::MAX, |n| n.get())
            .min(starts_max);
        let width = if race.solo {
            1
        } else {
            f.plan.width(race.round).min(width_max)
        };
        race.round += 1;
        width.min(starts.saturating_sub(race.started))
    }

    /// Starts up to `width` more attempts, where there is room at once. Returns how many.
    fn fan_out(&mut self, fetch: u32, width: u32, stage: Stage) -> u32 {
        for n in 0..width {
            if !self.whole_is_open() || !self.bytes_fit(fetch) {
                return n;
            }
            match self.survey(fetch) {
                Survey::Start(source) => self.start(fetch, source, stage),
                Survey::Wait(waits) => {
                    self.release_sources(&waits);
                    return n;
                }
                _ => return n,
            }
        }
        width
    }

    fn start(&mut self, fetch: u32, source: u32, stage: Stage) {
        let now = self.now;
        let source_id = self.sources[source].id;
        let cycle = self.fetches[fetch].cycles;
        let attempt = self.attempts.insert(Attempt {
            fetch,
            source,
            source_id,
            stage,
            from: 0,
            upto: 0,
            began: now,
            acknowledged: false,
            opened: false,
            total: None,
            aborting: false,
            last_sign: now,
            window: (now, 0),
            reserved: 0,
            wake: Time::FAR,
        });
        let id = self.attempt_id(attempt);
        let reserve = self.bytes_needed(fetch);
        self.bytes += reserve;
        let f = &mut self.fetches[fetch];
        let race = f.race.get_or_insert_default();
        let from = if f.plan.resume && !race.solo {
            let early = u64::from(planted!("resume-from-the-wrong-byte"));
            race.body.frontier.saturating_sub(early)
        } else {
            0
        };
        if race.tried_cycle != cycle {
            race.tried.clear();
            race.tried_cycle = cycle;
        }
        race.tried.push(Tried {
            source: source_id,
            attempt: id,
            how: HowEnded::Unfinished,
            took: Duration::ZERO,
        });
        race.first_start.get_or_insert(now);
        race.budget_from.get_or_insert(now);
        race.started += 1;
        race.last_news = now;
        race.live += 1;
        race.attempts.push(attempt);
        if race.attempts.len() == 1 {
            self.racing += 1;
        }
        let a = &mut self.attempts[attempt];
        a.from = from;
        a.upto = from;
        a.window.1 = from;
        if f.plan.resume {
            race.reserved += reserve;
        } else {
            a.reserved = reserve;
        }
        self.counters.attempts += 1;
        match stage {
            Stage::First | Stage::Fanout => {}
            Stage::Hedge => self.counters.hedges += 1,
            Stage::Retry => self.counters.retries += 1,
            Stage::Resume => self.counters.resumes += 1,
        }
        self.enter(source, attempt);
        let fetch_id = self.fetch_id(fetch);
        self.event(Event::Start(fetch_id, id, source_id, stage));
        self.emit(Output::Start {
            attempt: id,
            fetch: fetch_id,
            source: source_id,
            from_byte: from,
            stage,
        });
        self.rearm_attempt(attempt);
    }

    // ---- the timer of a fetch ----

    fn hedge_delay(&self, fetch: u32) -> Option<Duration> {
        let f = &self.fetches[fetch];
        let race = f.race.as_ref()?;
        if race.solo || race.live == 0 || planted!("hedge-timer-lost") {
            return None;
        }
        let delay = match f.plan.hedge? {
            Hedge::After(delay) => delay,
            Hedge::AtQuantile { permille, floor } => race
                .attempts
                .iter()
                .map(|attempt| &self.attempts[*attempt])
                .filter(|attempt| !attempt.aborting)
                .map(|attempt| &self.sources[attempt.source].latency)
                .filter(|latency| latency.seen() >= self.config.latency_samples_min)
                .filter_map(|latency| latency.quantile(permille))
                .fold(floor, Duration::max),
        };
        Some(delay.max(LOOK_MIN))
    }

    /// Arms the timer of a fetch for whatever it does by itself next.
    pub(crate) fn rearm(&mut self, fetch: u32) {
        let f = &self.fetches[fetch];
        let mut at = match f.state {
            State::Paused => f.paused_until,
            State::Racing if self.may_start_more(fetch) => {
                let last_news = f.race.as_ref().map_or(Time::ZERO, |race| race.last_news);
                self.hedge_delay(fetch)
                    .map_or(Time::FAR, |delay| last_news.after(delay))
            }
            State::Queued => self.budget_end(fetch),
            _ => Time::FAR,
        };
        at = at.min(self.fetches[fetch].ceiling_at);
        let f = &mut self.fetches[fetch];
        self.timers.arm(Who::Fetch(fetch), &mut f.wake, at);
    }

    fn budget_end(&self, fetch: u32) -> Time {
        let f = &self.fetches[fetch];
        match (
            f.plan.retry,
            f.race.as_ref().and_then(|race| race.budget_from),
        ) {
            (Retry::Budget { total, .. }, Some(begun)) => begun.after(total),
            _ => Time::FAR,
        }
    }

    pub(crate) fn fetch_timer(&mut self, fetch: u32) {
        let now = self.now;
        let Some(f) = self.fetches.get_mut(fetch) else {
            return;
        };
        f.wake = Time::FAR;
        if f.waiters == 0 && f.ceiling_at <= now {
            f.ceiling_at = Time::FAR;
            return self.cancel(fetch);
        }
        let (state, paused_until) = (f.state, f.paused_until);
        match state {
            State::Paused if paused_until <= now => self.end_pause(fetch),
            State::Queued if self.budget_end(fetch) <= now => {
                self.dequeue(fetch);
                self.exhausted(fetch, FetchError::Exhausted);
            }
            State::Racing => self.maybe_hedge(fetch),
            _ => self.rearm(fetch),
        }
    }

    fn maybe_hedge(&mut self, fetch: u32) {
        let last_news = self.fetches[fetch]
            .race
            .as_ref()
            .map_or(Time::ZERO, |race| race.last_news);
        let due = self.hedge_delay(fetch).map(|delay| last_news.after(delay));
        if due.is_some_and(|at| at <= self.now) && self.may_start_more(fetch) {
            if self.config.events_max > 0 {
                let id = self.fetch_id(fetch);
                self.event(Event::Hedge(id));
            }
            let race = self.fetches[fetch].race.as_ref().expect("racing");
            let (round, started) = (race.round, race.started);
            let width = self.open_round(fetch);
            let added = self.fan_out(fetch, width, Stage::Hedge);
            let now = self.now;
            let race = self.fetches[fetch].race.as_mut().expect("racing");
            if added == 0 {
                // Nobody is free: the round did not take place, and is tried again after the delay.
                race.round = round;
                race.started = started;
            }
            race.last_news = now;
        }
        self.rearm(fetch);
    }

    pub(crate) fn set_state(&mut self, fetch: u32, state: State) {
        let f = &mut self.fetches[fetch];
        let changed = f.state != state;
        f.state = state;
        self.park_bytes(fetch);
        self.rearm(fetch);
        if changed && self.config.events_max > 0 {
            let (id, phase) = (self.fetch_id(fetch), self.phase(fetch));
            self.event(Event::Phase(id, phase));
        }
    }

    pub(crate) fn phase(&self, fetch: u32) -> Phase {
        let f = &self.fetches[fetch];
        match f.state {
            State::Selecting => Phase::Selecting,
            State::Queued => {
                let absent = match &f.waits {
                    Waits::Any => self.eligible.is_empty(),
                    waits => waits
                        .sources()
                        .iter()
                        .all(|source| !self.is_eligible(*source)),
                };
                if absent { Phase::Parked } else { Phase::Queued }
            }
            State::Paused => Phase::Parked,
            State::Racing => Phase::Racing,
            State::Judging => Phase::Judging,
            State::Accepted => {
                let race = f.race.as_ref();
                let committing = race.is_some_and(|race| race.commit_pending);
                if committing {
                    Phase::Committing
                } else {
                    Phase::Judging
                }
            }
            State::Draining => Phase::Draining,
        }
    }
}
