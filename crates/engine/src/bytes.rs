//! Bytes: what fetches reserve of memory, and who goes first while it is short.
//!
//! A fetch whose turn it is and whose bytes do not fit is waited for: whoever else needs bytes would
//! take them from it for ever. Two kinds go past it all the same, because they do not keep it
//! waiting. Who holds its bytes already gives them back the sooner. And a question, which reserves
//! next to nothing, goes past while bodies under way are in the way of the one that waits; once
//! nothing but questions is, no more of them pass until it has started.

use crate::planted::planted;
use crate::{engine::Engine, id::Key, state::State, survey::Survey};

/// A question reserves at most the bound on bytes divided by this: 16 KiB of a gigabyte.
const QUESTION_SHARE: u64 = 1 << 16;
/// Questions that are looked at in one step for one that can start.
const LOOKS: u32 = 16;

impl<K: Key> Engine<K> {
    pub(crate) fn is_small(&self, bytes: u64) -> bool {
        bytes <= (self.config.bytes_max / QUESTION_SHARE).max(1)
    }

    /// Lets a question go past a fetch that waits for bytes, if it does not keep it waiting: bodies
    /// under way are in its way, and they end, for no further one begins before it.
    pub(crate) fn start_question(&mut self, waiting: u32) -> bool {
        if self.questions.is_empty() {
            return false;
        }
        let others = self.bytes - self.bytes_asked;
        let under_way = self.bytes - self.bytes_parked;
        let in_the_way = others.saturating_add(self.bytes_needed(waiting)) > self.config.bytes_max;
        if !in_the_way || under_way <= self.bytes_asked {
            return false;
        }
        let mut classes: Vec<u16> = self.questions.classes().collect();
        classes.sort_by_key(|class| self.shares.turn_of(*class));
        let mut looks = LOOKS;
        for class in classes {
            let mut first = None;
            while looks > 0 {
                let Some(fetch) = self.questions.take_turn(class) else {
                    break;
                };
                if first == Some(fetch) {
                    break;
                }
                first.get_or_insert(fetch);
                looks -= 1;
                if self.is_small(self.bytes_needed(fetch))
                    && !self.is_overdue(fetch)
                    && self.bytes_fit(fetch)
                    && let Some(source) = self.free_source(fetch)
                {
                    self.dequeue(fetch);
                    self.shares.charge(class);
                    self.launch(fetch, source);
                    return true;
                }
            }
        }
        false
    }

    /// Whether what the next attempt of a fetch may bring fits into memory.
    pub(crate) fn bytes_fit(&self, fetch: u32) -> bool {
        let need = self.bytes_needed(fetch);
        need == 0
            || self.bytes.saturating_add(need) <= self.config.bytes_max
            || planted!("bytes-overdrawn")
    }

    /// What the next attempt has to reserve: all that a body of its own may have, or what the shared
    /// body lacks.
    pub(crate) fn bytes_needed(&self, fetch: u32) -> u64 {
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
    pub(crate) fn make_room(&mut self, fetch: u32) -> bool {
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
            self.unreserve(holder, bytes);
            self.park_bytes(holder);
        }
        self.bytes_fit(fetch)
    }

    /// The source that a queued fetch could ask now. What it would wait for otherwise is left as it is:
    /// sources that only this look brought to mind are forgotten again.
    fn free_source(&mut self, fetch: u32) -> Option<u32> {
        match self.survey(fetch) {
            Survey::Start(source) => Some(source),
            Survey::Wait(waits) => {
                self.release_sources(&waits);
                None
            }
            Survey::Spent | Survey::Nobody => None,
        }
    }

    /// Lets a queued fetch that has its bytes already go before one that waits for bytes: otherwise
    /// they might wait for each other.
    pub(crate) fn start_holder(&mut self) -> bool {
        for holder in self.holders.iter().copied().collect::<Vec<_>>() {
            if self.fetches[holder].state == State::Queued
                && !self.is_overdue(holder)
                && self.bytes_fit(holder)
                && let Some(source) = self.free_source(holder)
            {
                self.dequeue(holder);
                self.launch(holder, source);
                return true;
            }
        }
        false
    }

    /// Counts what a fetch holds while it is not under way.
    pub(crate) fn park_bytes(&mut self, fetch: u32) {
        let f = &mut self.fetches[fetch];
        let Some(race) = &mut f.race else { return };
        let parked = match f.state {
            State::Selecting | State::Queued | State::Paused => race.reserved,
            _ => 0,
        };
        if race.parked == parked {
            return;
        }
        self.bytes_parked = self.bytes_parked - race.parked + parked;
        race.parked = parked;
        if parked > 0 {
            self.holders.insert(fetch);
        } else {
            self.holders.remove(&fetch);
        }
    }

    pub(crate) fn reserve(&mut self, fetch: u32, bytes: u64) {
        self.bytes += bytes;
        if self.fetches[fetch].question {
            self.bytes_asked += bytes;
        }
    }

    pub(crate) fn unreserve(&mut self, fetch: u32, bytes: u64) {
        self.bytes -= bytes;
        if self.fetches[fetch].question {
            self.bytes_asked -= bytes;
        }
    }

    /// A fetch that holds no byte of a body and has no attempt under way reserves nothing.
    pub(crate) fn unreserve_idle(&mut self, fetch: u32) {
        let Some(race) = &mut self.fetches[fetch].race else {
            return;
        };
        if race.body.frontier == 0 && race.attempts.is_empty() && race.judgement.is_none() {
            let bytes = std::mem::take(&mut race.reserved);
            self.unreserve(fetch, bytes);
        }
    }
}
