//! Cycles over the candidates of a fetch: their beginning, their end, and the pauses between them.

use crate::planted::planted;
use crate::{
    engine::Engine,
    health::jittered,
    id::{Key, SourceId, Time},
    output::FetchError,
    plan::Retry,
    schedule::LOOK_MIN,
    snapshot::Event,
    state::{Candidates, State},
};

impl<K: Key> Engine<K> {
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

    pub(crate) fn may_start_more(&self, fetch: u32) -> bool {
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
        race.round < rounds && race.started < starts && self.budget_end(fetch) > self.now
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
        let until = if planted!("pause-forgotten") {
            self.now
        } else {
            until
        };
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
            Candidates::Ranked(list) | Candidates::Only(list) => list.clone(),
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
            Candidates::Ranked(list) | Candidates::Only(list) => list.clone(),
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
}
