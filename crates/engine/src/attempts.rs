//! Attempts: from their acknowledgement to their one end.

use crate::planted::planted;
use crate::{
    engine::Engine,
    id::{AttemptId, Key, Time},
    input::{End, Fault},
    output::{HowEnded, Output},
    plan::{Retry, Silence},
    schedule::LOOK_MIN,
    snapshot::{Event, Timer},
    state::{Answer, Body, Part, Parts, State},
    timers::Who,
};

/// What is wrong with bytes that came.
enum Trouble {
    /// The attempt broke its own word, or the plan's.
    Own(Fault),
    /// It does not go with what others of the same identity said.
    Between,
}

impl<K: Key> Engine<K> {
    fn find_attempt(&mut self, id: AttemptId) -> Option<u32> {
        let found = self.attempts.find(id.0);
        if found.is_none() {
            self.late();
        }
        found
    }

    /// The attempt, if it still matters to its fetch.
    fn find_live(&mut self, id: AttemptId) -> Option<u32> {
        let attempt = self.find_attempt(id)?;
        if self.attempts[attempt].aborting {
            return None;
        }
        Some(attempt)
    }

    pub(crate) fn acknowledged(&mut self, id: AttemptId) {
        let Some(attempt) = self.find_attempt(id) else {
            return;
        };
        self.acknowledge(attempt);
    }

    /// Any word of an attempt acknowledges it.
    fn acknowledge(&mut self, attempt: u32) {
        let a = &mut self.attempts[attempt];
        if a.acknowledged {
            return;
        }
        a.acknowledged = true;
        let source = a.source;
        if self.sources[source].unacknowledged == Some(attempt) {
            self.sources[source].unacknowledged = None;
            self.unbusy(source);
        }
    }

    pub(crate) fn declined(&mut self, id: AttemptId, until: Time) {
        let Some(attempt) = self.find_attempt(id) else {
            return;
        };
        if self.attempts[attempt].acknowledged {
            self.counters.refused_inputs += 1;
            return;
        }
        self.counters.declined += 1;
        let (fetch, source) = (self.attempts[attempt].fetch, self.attempts[attempt].source);
        if planted!("declined-charged-to-health") {
            let began = self.attempts[attempt].began;
            self.source_failed(source, began);
        }
        let live = !self.attempts[attempt].aborting;
        let gate = &mut self.sources[source].gate;
        gate.closed_until = gate.closed_until.max(until);
        let race = self.fetches[fetch]
            .race
            .as_mut()
            .expect("an attempt has a race");
        race.tried.retain(|tried| tried.attempt != id);
        race.started = race.started.saturating_sub(1);
        if live {
            race.live -= 1;
            if race.live == 0 {
                race.round = race.round.saturating_sub(1);
            }
            if race.tried.is_empty() && race.tried_cycle == 0 && race.failures == 0 {
                race.first_start = None;
                race.budget_from = None;
            }
        }
        self.remove_attempt(attempt, true);
        if self.sources.get(source).is_some() {
            self.parked(source);
        }
        self.round_over_or_gone(fetch);
    }

    pub(crate) fn heartbeat(&mut self, id: AttemptId) {
        if let Some(attempt) = self.find_live(id) {
            self.sign(attempt);
        }
    }

    /// News from an attempt: re-arms its idle timer and its fetch's hedge (both lazily: the timers
    /// find out when they fire).
    fn sign(&mut self, attempt: u32) {
        self.acknowledge(attempt);
        let now = self.now;
        let a = &mut self.attempts[attempt];
        a.last_sign = now;
        let fetch = a.fetch;
        if let Some(race) = &mut self.fetches[fetch].race {
            race.last_news = now;
        }
    }

    /// The answer goes on: other timers count from now on.
    fn goes_on(&mut self, attempt: u32) {
        if !self.attempts[attempt].opened {
            self.first_sign(attempt);
            self.rearm_attempt(attempt);
        }
    }

    /// The answer itself has begun: the time to first byte is known.
    fn first_sign(&mut self, attempt: u32) {
        let now = self.now;
        let a = &mut self.attempts[attempt];
        if a.opened {
            return;
        }
        a.opened = true;
        a.window = (now, a.upto);
        let (source, took) = (a.source, now.since(a.began));
        self.sources[source].latency.record(took);
    }

    pub(crate) fn opened(&mut self, id: AttemptId, identity: u64, total: Option<u64>) {
        let Some(attempt) = self.find_live(id) else {
            return;
        };
        self.sign(attempt);
        self.goes_on(attempt);
        let fetch = self.attempts[attempt].fetch;
        self.attempts[attempt].total = total;
        let f = &mut self.fetches[fetch];
        if total.is_some_and(|total| total > f.plan.body_bytes_max) {
            return self.fail(attempt, HowEnded::Failed(Fault::TooLarge), None);
        }
        if !f.plan.resume {
            // It is held to what it announces, and gives back what it will not need.
            let a = &mut self.attempts[attempt];
            let spare = a.reserved.saturating_sub(total.unwrap_or(u64::MAX));
            a.reserved -= spare;
            return self.unreserve(fetch, spare);
        }
        let race = f.race.as_mut().expect("an attempt has a race");
        match race.body.identity {
            Some(known) if known != identity && !planted!("other-identity-continues") => {
                race.other_identity = true;
                self.fail(attempt, HowEnded::Failed(Fault::Changed), None);
            }
            known => {
                if known.is_none() {
                    race.body.identity = Some(identity);
                }
                let Some(total) = total else { return };
                if total < race.body.frontier || race.body.total.is_some_and(|t| t != total) {
                    return self.disagree(fetch);
                }
                race.body.total = Some(total);
                let spare = race.reserved.saturating_sub(total);
                race.reserved -= spare;
                self.unreserve(fetch, spare);
            }
        }
    }

    pub(crate) fn progress(&mut self, id: AttemptId, upto: u64) {
        let Some(attempt) = self.find_live(id) else {
            return;
        };
        self.sign(attempt);
        let fetch = self.attempts[attempt].fetch;
        if self.fetches[fetch].plan.resume && !self.attempts[attempt].opened {
            // Without an identity nothing can tell whether it continues the body.
            return self.fail(attempt, HowEnded::Failed(Fault::Malformed), None);
        }
        self.goes_on(attempt);
        match self.advance(attempt, upto) {
            Ok(()) => {}
            Err(Trouble::Own(fault)) => self.fail(attempt, HowEnded::Failed(fault), None),
            Err(Trouble::Between) => self.disagree(fetch),
        }
    }

    /// Sources of one identity disagree over the length. Nobody can tell who is wrong: the body is
    /// given up, nobody is blamed, and the next answer is from one source alone, anyone.
    fn disagree(&mut self, fetch: u32) {
        self.discard_body(fetch);
        let race = self.fetches[fetch]
            .race
            .as_mut()
            .expect("a body has a race");
        race.go_solo();
        race.failures += 1;
        race.tried.retain(|tried| tried.how != HowEnded::Aborted);
        self.round_over(fetch);
    }

    /// Bytes have come up to this offset.
    fn advance(&mut self, attempt: u32, upto: u64) -> Result<(), Trouble> {
        let now = self.now;
        let id = self.attempt_id(attempt);
        let a = &mut self.attempts[attempt];
        let f = &mut self.fetches[a.fetch];
        if upto < a.upto || a.total.is_some_and(|total| upto > total) {
            return Err(Trouble::Own(Fault::Malformed));
        }
        if upto > f.plan.body_bytes_max {
            return Err(Trouble::Own(Fault::TooLarge));
        }
        a.upto = upto;
        if !f.plan.resume {
            return Ok(());
        }
        let race = f.race.as_mut().expect("an attempt has a race");
        let beyond = race.body.total.is_some_and(|total| upto > total);
        let gain = upto.saturating_sub(race.body.frontier);
        if gain > 0 {
            race.body.frontier = upto;
            // Bytes fetched again, of a body that was given up, are no progress.
            if upto > race.furthest && !beyond {
                race.furthest = upto;
                race.budget_from = Some(now);
                race.fruitless = 0;
            }
            match race.body.parts.iter_mut().find(|part| part.attempt == id) {
                Some(part) => part.bytes += gain,
                None => race.body.parts.push(Part {
                    attempt: id,
                    source: a.source_id,
                    stage: a.stage,
                    bytes: gain,
                    began: a.began,
                    took: std::time::Duration::ZERO,
                    charged: false,
                }),
            }
        }
        // The driver has these bytes in its body: they are a part of it until they are discarded.
        if beyond {
            return Err(Trouble::Between);
        }
        Ok(())
    }

    pub(crate) fn ended(&mut self, id: AttemptId, end: End) {
        let Some(attempt) = self.find_attempt(id) else {
            return;
        };
        self.acknowledge(attempt);
        if self.attempts[attempt].aborting {
            let fetch = self.attempts[attempt].fetch;
            // Under a resuming plan its bytes are part of the body, or were dropped as they came.
            if matches!(end, End::Complete { .. }) && !self.fetches[fetch].plan.resume {
                let (fetch, attempt) = (self.fetch_id(fetch), id);
                self.emit(Output::Discard { fetch, attempt });
            }
            self.remove_attempt(attempt, false);
            return self.round_over_or_gone(fetch);
        }
        match end {
            End::Complete { upto } => self.complete(attempt, upto),
            End::Missing => self.fail(attempt, HowEnded::Missing, Some(())),
            End::Busy { retry_after } => {
                let source = self.attempts[attempt].source;
                self.source_busy(source, retry_after);
                self.fail(attempt, HowEnded::Busy, Some(()));
            }
            End::Failed(fault) => {
                // Its transport has compared the identities. Should nobody be left who has the body's,
                // that may not bind the fetch for ever.
                let fetch = self.attempts[attempt].fetch;
                if fault == Fault::Changed
                    && let Some(race) = &mut self.fetches[fetch].race
                {
                    race.other_identity = true;
                }
                self.fail(attempt, HowEnded::Failed(fault), Some(()));
            }
            End::Aborted => self.fail(attempt, HowEnded::Aborted, Some(())),
        }
    }

    fn complete(&mut self, attempt: u32, upto: u64) {
        let id = self.attempt_id(attempt);
        let fetch = self.attempts[attempt].fetch;
        let resume = self.fetches[fetch].plan.resume;
        if !resume {
            self.first_sign(attempt);
        } else if !self.attempts[attempt].opened {
            return self.fail(attempt, HowEnded::Failed(Fault::Malformed), Some(()));
        }
        let total = self.attempts[attempt].total;
        match self.advance(attempt, upto) {
            Err(Trouble::Own(fault)) => {
                return self.fail(attempt, HowEnded::Failed(fault), Some(()));
            }
            Ok(()) if total.is_some_and(|total| upto < total) => {
                return self.fail(attempt, HowEnded::Failed(Fault::Truncated), Some(()));
            }
            agreed => {
                let body = self.fetches[fetch].race.as_ref().map(|race| &race.body);
                let longer =
                    |body: &Body| upto < body.frontier || body.total.is_some_and(|t| upto < t);
                if agreed.is_err() || (resume && body.is_some_and(longer)) {
                    let race = self.fetches[fetch]
                        .race
                        .as_mut()
                        .expect("an attempt has a race");
                    race.mark(id, HowEnded::Aborted, std::time::Duration::ZERO);
                    race.live -= 1;
                    self.remove_attempt(attempt, false);
                    return self.disagree(fetch);
                }
            }
        }
        let now = self.now;
        let a = &mut self.attempts[attempt];
        let took = now.since(a.began);
        let own = Part {
            attempt: id,
            source: a.source_id,
            stage: a.stage,
            bytes: upto - a.from.min(upto),
            began: a.began,
            took,
            charged: false,
        };
        let f = &mut self.fetches[fetch];
        let race = f.race.as_mut().expect("an attempt has a race");
        race.mark(id, HowEnded::Unfinished, took);
        race.live -= 1;
        let answer = if resume {
            race.body.total = Some(upto);
            // Whoever said that this is the end stands last, also where it only repeated what was
            // there: its word is part of the answer.
            let mut parts = race.body.parts.clone();
            let bytes = match parts.iter().position(|part| part.attempt == id) {
                Some(at) => parts.remove(at).bytes,
                None => 0,
            };
            parts.push(Part { bytes, ..own });
            for part in &mut parts {
                if part.took.is_zero() {
                    part.took = now.since(part.began);
                }
            }
            Answer {
                parts: match parts.as_slice() {
                    [part] => Parts::One(*part),
                    _ => Parts::Many(parts.into()),
                },
                reserved: 0,
            }
        } else {
            let reserved = std::mem::take(&mut self.attempts[attempt].reserved);
            Answer {
                parts: Parts::One(own),
                reserved,
            }
        };
        self.remove_attempt(attempt, false);
        self.answered(fetch, answer);
    }

    /// An attempt brought nothing, or no more. With `over`, it has ended; otherwise it is told to.
    pub(crate) fn fail(&mut self, attempt: u32, how: HowEnded, over: Option<()>) {
        let now = self.now;
        let id = self.attempt_id(attempt);
        let a = &mut self.attempts[attempt];
        a.aborting = true;
        let (fetch, source, source_id, began) = (a.fetch, a.source, a.source_id, a.began);
        let took = now.since(began);
        let f = &mut self.fetches[fetch];
        let race = f.race.as_mut().expect("an attempt has a race");
        race.mark(id, how, took);
        race.live -= 1;
        if how != HowEnded::Aborted {
            race.failures += 1;
            race.last_failed = Some(source_id);
        }
        for part in race.body.parts.iter_mut().filter(|part| part.attempt == id) {
            part.took = took;
            part.charged = true;
        }
        if race.body.frontier == 0 && race.live == 0 {
            // No byte has come of it: another identity is welcome.
            race.body.identity = None;
            race.body.total = None;
        }
        if race.solo && race.body.frontier > 0 && race.live == 0 {
            // Alone means whole: what one source began is not for another to continue.
            self.discard_body(fetch);
        }
        let f = &mut self.fetches[fetch];
        let silence = f.plan.silence;
        let passes = match how {
            HowEnded::Missing => false,
            HowEnded::Failed(fault) => fault.may_pass(),
            _ => true,
        };
        if !passes && matches!(f.plan.retry, Retry::Budget { .. }) {
            let race = f.race.as_mut().expect("an attempt has a race");
            if !race.hopeless.contains(&source_id) {
                race.hopeless.push(source_id);
            }
        }
        match how {
            HowEnded::Missing => self.source_answered(source, began),
            HowEnded::Failed(fault) => {
                self.counters.faults += 1;
                let excused = fault == Fault::TimedOut && silence == Silence::Nothing;
                if fault.blames_source() {
                    self.charge(source, 0, took);
                    if !excused {
                        self.source_failed(source, began);
                    }
                }
            }
            _ => {}
        }
        if self.config.events_max > 0 {
            let fetch_id = self.fetch_id(fetch);
            self.event(Event::End(fetch_id, id, source_id, how));
        }
        if over.is_some() {
            self.remove_attempt(attempt, false);
        } else {
            self.counters.aborted += 1;
            self.emit(Output::Abort { attempt: id });
            self.rearm_attempt(attempt);
        }
        self.round_over_or_gone(fetch);
    }

    /// Stops an attempt that is not wanted any more: no blame.
    pub(crate) fn give_up(&mut self, attempt: u32, how: HowEnded) {
        if self.attempts.get(attempt).is_some_and(|a| !a.aborting) {
            self.fail(attempt, how, None);
        }
    }

    /// Stops all attempts of a fetch, without going on to the next round.
    pub(crate) fn abort_all(&mut self, fetch: u32) {
        let now = self.now;
        let Some(race) = &self.fetches[fetch].race else {
            return;
        };
        if race.attempts.is_empty() {
            return;
        }
        for attempt in race.attempts.clone() {
            let id = self.attempt_id(attempt);
            let a = &mut self.attempts[attempt];
            if a.aborting {
                continue;
            }
            a.aborting = true;
            let took = now.since(a.began);
            let race = self.fetches[fetch]
                .race
                .as_mut()
                .expect("an attempt has a race");
            race.mark(id, HowEnded::Aborted, took);
            race.live -= 1;
            for part in race.body.parts.iter_mut().filter(|part| part.attempt == id) {
                part.took = took;
            }
            self.counters.aborted += 1;
            if !planted!("abort-forgotten") {
                self.emit(Output::Abort { attempt: id });
            }
            self.rearm_attempt(attempt);
        }
    }

    /// The attempt is no more: its places are free.
    fn remove_attempt(&mut self, attempt: u32, refund: bool) {
        let Some(mut a) = self.attempts.remove(attempt) else {
            return;
        };
        self.timers
            .arm(Who::Attempt(attempt), &mut a.wake, Time::FAR);
        let race = self.fetches[a.fetch]
            .race
            .as_mut()
            .expect("an attempt has a race");
        race.attempts.retain(|other| *other != attempt);
        if race.attempts.is_empty() {
            self.racing -= 1;
        }
        self.unreserve(a.fetch, a.reserved);
        if !(a.aborting && planted!("leaked-slot-after-abort")) {
            self.leave(a.source, attempt, a.at_source, refund);
        }
    }

    /// After an attempt: the next round, or the end of a fetch that only waited for it.
    fn round_over_or_gone(&mut self, fetch: u32) {
        if self.fetches[fetch].state == State::Draining {
            self.drained(fetch);
        } else {
            self.round_over(fetch);
        }
    }

    // ---- timers ----

    fn next_timer(&self, attempt: u32) -> (Time, Timer) {
        let a = &self.attempts[attempt];
        let plan = &self.fetches[a.fetch].plan;
        let mut first = (a.began.after(plan.total_timeout), Timer::Total);
        let mut consider = |at: Time, timer| {
            if at < first.0 {
                first = (at, timer);
            }
        };
        if a.opened {
            consider(a.last_sign.after(plan.idle_timeout), Timer::Idle);
            if let Some(floor) = plan.throughput_floor {
                consider(
                    a.window.0.after(floor.window.max(LOOK_MIN)),
                    Timer::Throughput,
                );
            }
        } else {
            // A heartbeat re-arms it as well.
            consider(a.last_sign.after(plan.first_byte_timeout), Timer::FirstByte);
        }
        first
    }

    pub(crate) fn rearm_attempt(&mut self, attempt: u32) {
        let at = if self.attempts[attempt].aborting {
            Time::FAR
        } else {
            self.next_timer(attempt).0
        };
        let a = &mut self.attempts[attempt];
        self.timers.arm(Who::Attempt(attempt), &mut a.wake, at);
    }

    pub(crate) fn attempt_timer(&mut self, attempt: u32) {
        let now = self.now;
        let Some(a) = self.attempts.get_mut(attempt) else {
            return;
        };
        a.wake = Time::FAR;
        if a.aborting {
            return;
        }
        let (at, timer) = self.next_timer(attempt);
        if at > now {
            return self.rearm_attempt(attempt);
        }
        if timer == Timer::Throughput {
            let a = &mut self.attempts[attempt];
            let floor = self.fetches[a.fetch].plan.throughput_floor;
            let brought = a.upto - a.window.1;
            if floor.is_none_or(|floor| brought >= floor.bytes_min) {
                a.window = (now, a.upto);
                return self.rearm_attempt(attempt);
            }
        }
        self.counters.timeouts += 1;
        let fetch = self.attempts[attempt].fetch;
        let (fetch_id, id) = (self.fetch_id(fetch), self.attempt_id(attempt));
        self.event(Event::Timeout(fetch_id, id, timer));
        self.fail(attempt, HowEnded::Failed(Fault::TimedOut), None);
    }
}
