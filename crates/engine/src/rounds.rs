//! Rounds: starts, attempts that join a race, hedges, and the timer of a fetch.

use crate::planted::planted;
use crate::{
    engine::Engine,
    id::{Key, Time},
    output::{FetchError, HowEnded, Output, Stage, Tried},
    plan::{Hedge, Retry},
    schedule::LOOK_MIN,
    snapshot::{Event, Phase},
    state::{Attempt, State, Waits},
    survey::Survey,
    timers::Who,
};
use std::time::Duration;

impl<K: Key> Engine<K> {
    // ---- starts ----

    /// Starts a round at this source; its further attempts go where there is room at once.
    pub(crate) fn launch(&mut self, fetch: u32, first: u32) {
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
        let races = &mut self.races;
        let race = f
            .race
            .get_or_insert_with(|| races.pop().unwrap_or_default());
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
            if !self.whole_is_open() {
                return n;
            }
            if !self.bytes_fit(fetch) {
                self.met_short = true;
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
            at_source: 0,
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
        self.reserve(fetch, reserve);
        let f = &mut self.fetches[fetch];
        let race = f.race.as_mut().expect("a round makes the race");
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
        if race.tried.capacity() == 0 {
            // Nearly always one, and there may be many races.
            race.tried.reserve_exact(1);
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
        let doubt = self.config.health.doubt;
        let delay = match doubt.filter(|doubt| *doubt < delay) {
            Some(doubt) if self.is_in_doubt(&race.attempts) => doubt,
            _ => delay,
        };
        Some(delay.max(LOOK_MIN))
    }

    /// Whether nothing was heard yet of these attempts, and the last of their sources was a fault.
    fn is_in_doubt(&self, attempts: &[u32]) -> bool {
        let attempts = attempts.iter().map(|attempt| &self.attempts[*attempt]);
        attempts.filter(|attempt| !attempt.aborting).all(|attempt| {
            let heard = attempt.opened || attempt.last_sign > attempt.began;
            !heard && self.sources[attempt.source].health.is_in_doubt()
        })
    }

    /// Arms the timer of a fetch for whatever it does by itself next.
    pub(crate) fn rearm(&mut self, fetch: u32) {
        let f = &self.fetches[fetch];
        let mut at = match f.state {
            State::Paused => f.paused_until,
            State::Racing if f.plan.hedge.is_some() && self.may_start_more(fetch) => {
                let last_news = f.race.as_ref().map_or(Time::ZERO, |race| race.last_news);
                self.hedge_delay(fetch)
                    .map_or(Time::FAR, |delay| last_news.after(delay))
            }
            State::Queued => self.budget_end(fetch),
            _ => Time::FAR,
        };
        at = at.min(f.ceiling_at);
        if at == f.wake {
            return;
        }
        let f = &mut self.fetches[fetch];
        self.timers.arm(Who::Fetch(fetch), &mut f.wake, at);
    }

    pub(crate) fn budget_end(&self, fetch: u32) -> Time {
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
        let Some(f) = self.fetches.get_mut(fetch) else {
            return;
        };
        f.wake = Time::FAR;
        if self.is_overdue(fetch) {
            return self.end_overdue(fetch);
        }
        let f = &self.fetches[fetch];
        match f.state {
            State::Paused if f.paused_until <= self.now => self.end_pause(fetch),
            State::Racing => self.maybe_hedge(fetch),
            _ => self.rearm(fetch),
        }
    }

    /// Whether time has ended a fetch: the ceiling of one that nobody wants any more, or the budget of
    /// one that waits for its turn. Asked before a turn as well, for inputs may come before the timer is
    /// served.
    pub(crate) fn is_overdue(&self, fetch: u32) -> bool {
        let f = &self.fetches[fetch];
        let deserted = f.waiters == 0 && f.ceiling_at <= self.now;
        deserted || f.state == State::Queued && self.budget_end(fetch) <= self.now
    }

    pub(crate) fn end_overdue(&mut self, fetch: u32) {
        let f = &mut self.fetches[fetch];
        if f.waiters == 0 {
            f.ceiling_at = Time::FAR;
            return self.cancel(fetch);
        }
        self.dequeue(fetch);
        self.exhausted(fetch, FetchError::Exhausted);
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
            if !self.hedge(fetch) && (self.met_unacknowledged || self.met_short) {
                let id = self.fetch_id(fetch);
                self.hedges.push_back((id, self.now));
            }
        }
        self.rearm(fetch);
    }

    /// Adds a round to one that went without news. Whether anybody was free for it.
    fn hedge(&mut self, fetch: u32) -> bool {
        (self.met_unacknowledged, self.met_short) = (false, false);
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
        added > 0
    }

    /// A start was acknowledged, or bytes were given back: hedges that only waited for that go on, in the
    /// order in which they fell due; one for the one, as many as fit for the other. Many fetches hedge at
    /// one moment when one source falls silent.
    pub(crate) fn hedge_on(&mut self, all: bool) {
        while let Some((id, since)) = self.hedges.pop_front() {
            let Some(fetch) = self.fetches.find(id.0) else {
                continue;
            };
            let f = &self.fetches[fetch];
            let no_news = f.race.as_ref().is_some_and(|race| race.last_news == since);
            let due = f.state == State::Racing && no_news && self.hedge_delay(fetch).is_some();
            if !due || !self.may_start_more(fetch) {
                continue;
            }
            let added = self.hedge(fetch);
            self.rearm(fetch);
            let waits = self.met_unacknowledged || self.met_short;
            if !added && waits {
                self.hedges.push_front((id, self.now));
            }
            if waits || added && !all {
                return;
            }
        }
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
