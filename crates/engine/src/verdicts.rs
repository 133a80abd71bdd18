//! From an answer to its outcome: judging, committing, retiring.

use crate::planted::planted;
use crate::{
    config::PerformanceUnit,
    engine::Engine,
    id::{FetchId, JudgementId, Key, SourceId, Time},
    input::{CommitFault, Verdict},
    output::{FetchError, HowEnded, Outcome, Output, Sources, Stage},
    plan::{Commit, OnInvalid, Plan},
    snapshot::Event,
    state::{Answer, Body, Judgement, NONE, Part, Parts, State},
};

/// Races that are kept for the fetches to come.
const RACES_KEPT: usize = 256;

impl<K: Key> Engine<K> {
    // ---- judging ----

    /// A whole answer has come.
    pub(crate) fn answered(&mut self, fetch: u32, answer: Answer) {
        let f = &mut self.fetches[fetch];
        let race = f.race.as_mut().expect("an answer has a race");
        if f.state != State::Racing && f.state != State::Judging {
            // Decided without it meanwhile.
            return self.discard(fetch, answer);
        }
        if f.state == State::Judging {
            race.answers.push_back(answer);
            return;
        }
        race.answer = Some(answer);
        if f.plan.resume {
            // There is one body, and it is whole: nobody can add to it.
            self.abort_all(fetch);
        }
        self.set_state(fetch, State::Judging);
        self.ask_judge(fetch, false);
    }

    /// Puts the next whole answer before the judge.
    fn judge_next(&mut self, fetch: u32) -> bool {
        let race = self.fetches[fetch]
            .race
            .as_mut()
            .expect("an answer has a race");
        let Some(answer) = race.answers.pop_front() else {
            return false;
        };
        race.answer = Some(answer);
        self.set_state(fetch, State::Judging);
        self.ask_judge(fetch, false);
        true
    }

    fn ask_judge(&mut self, fetch: u32, late: bool) {
        let mut next = self.fetches[fetch].first_waiter;
        let all = &mut self.waiters;
        let waiters = std::iter::from_fn(|| {
            while next != NONE {
                let waiter = &mut all[next];
                next = waiter.next;
                if !std::mem::replace(&mut waiter.spoken, true) {
                    return Some(waiter.id);
                }
            }
            None
        })
        .collect();
        let id = self.fetch_id(fetch);
        let f = &mut self.fetches[fetch];
        f.unspoken = 0;
        let race = f.race.as_mut().expect("an answer has a race");
        let parts = match &race.answer {
            Some(answer) => answer.parts.clone(),
            None => Parts::Nobodys,
        };
        let contributors = parts.iter().map(|part| part.attempt).collect();
        let plan = f.plan.clone();
        let judgement = self.judgements.insert(Judgement {
            fetch: id,
            parts,
            plan,
            late,
        });
        race.judgement = Some(judgement);
        let judgement = JudgementId(self.judgements.id(judgement));
        self.emit(Output::Judge {
            judgement,
            fetch: id,
            contributors,
            waiters,
        });
    }

    pub(crate) fn judged(&mut self, id: JudgementId, verdict: Verdict) {
        let Some(index) = self.judgements.find(id.0) else {
            return self.late();
        };
        let judgement = self.judgements.remove(index).expect("found");
        self.counters.verdicts[verdict as usize] += 1;
        self.event(Event::Verdict(judgement.fetch, verdict));
        if !judgement.late {
            self.rate(&judgement, verdict);
        }
        let Some(fetch) = self.fetches.find(judgement.fetch.0) else {
            return;
        };
        let Some(race) = self.fetches[fetch].race.as_mut() else {
            return;
        };
        if race.judgement != Some(index) && !planted!("stale-verdict-applied") {
            return;
        }
        race.judgement = None;
        match (judgement.late, verdict) {
            (false, Verdict::Valid) => self.accept(fetch),
            (false, Verdict::Invalid) if planted!("invalid-answer-accepted") => self.accept(fetch),
            (true, Verdict::Valid) => {
                self.ensure_commit(fetch);
                self.accept_waiters(fetch);
                self.settle(fetch);
            }
            (_, Verdict::Ignored) => {
                self.finish_all(fetch, &Outcome::failed(FetchError::Ignored));
                self.close(fetch);
            }
            (late, Verdict::GaveUp) => self.gave_up(fetch, late),
            (false, _) => {
                // Not the judgement's: after a judge gave up, nobody is credited or blamed for another,
                // and yet the answer is of those who brought it.
                let answer = race.answer.as_ref();
                let parts = answer.map_or(Parts::Nobodys, |answer| answer.parts.clone());
                self.rejected(fetch, &parts, verdict);
            }
            (true, _) => {
                // Good enough for others, not for these: fetch anew for them.
                self.silence_waiters(fetch);
                self.fetches[fetch].race.as_mut().expect("judged").restart = true;
                self.settle(fetch);
            }
        }
    }

    /// What the verdict does to those who brought the answer.
    fn rate(&mut self, judgement: &Judgement, verdict: Verdict) {
        match verdict {
            Verdict::Valid | Verdict::Partial => {
                for part in judgement.parts.iter() {
                    if part.stage == Stage::Hedge && verdict == Verdict::Valid && part.bytes > 0 {
                        self.counters.hedges_won += 1;
                    }
                    let Some(source) = self.find_source(part.source) else {
                        continue;
                    };
                    let units = match self.config.performance {
                        PerformanceUnit::Bytes => part.bytes,
                        PerformanceUnit::Answers => 1,
                    };
                    if part.bytes == 0 && judgement.parts.len() > 1 {
                        // It only agreed with what others had brought.
                    } else if part.charged {
                        self.sources[source].performance.earn(units);
                    } else {
                        self.charge(source, units, part.took);
                    }
                    self.source_answered(source, part.began);
                }
            }
            Verdict::Invalid => {
                if let [part] = &*judgement.parts {
                    self.blame(part, &judgement.plan);
                }
            }
            Verdict::Ambiguous | Verdict::Ignored | Verdict::GaveUp => {}
        }
    }

    fn blame(&mut self, part: &Part, plan: &Plan) {
        match plan.on_invalid {
            OnInvalid::Score => {
                if let Some(source) = self.find_source(part.source) {
                    self.charge(source, 0, part.took);
                    self.source_failed(source, part.began);
                }
            }
            OnInvalid::Block(pause) => {
                // Never shortens what somebody else has said.
                let standing = self
                    .find_source(part.source)
                    .map_or(Time::ZERO, |source| self.sources[source].blocked_until);
                let until = self.now.after(pause).max(standing);
                self.block(part.source, until);
                self.emit(Output::Blocked {
                    source: part.source,
                    until,
                });
            }
            OnInvalid::Host => {}
        }
    }

    /// The first valid answer.
    fn accept(&mut self, fetch: u32) {
        self.abort_all(fetch);
        let f = &mut self.fetches[fetch];
        let commit = f.commit;
        let race = f.race.as_mut().expect("judged");
        race.commit_fault = None;
        race.committed = false;
        race.commit_asked = false;
        let unused = std::mem::take(&mut race.answers);
        for answer in unused {
            self.discard(fetch, answer);
        }
        self.set_state(fetch, State::Accepted);
        // Under commit-before-finish this answers nobody yet; under commit-after-serve, everybody.
        if commit == Commit::AfterServe {
            self.accept_waiters(fetch);
            self.ensure_commit(fetch);
        } else {
            self.ensure_commit(fetch);
            self.accept_waiters(fetch);
        }
        self.settle(fetch);
    }

    /// Asks for the commit that the waiters so far demand: once for the answer, and once more if an
    /// earlier one failed and somebody came since who insists.
    fn ensure_commit(&mut self, fetch: u32) {
        let id = self.fetch_id(fetch);
        let f = &mut self.fetches[fetch];
        let race = f.race.as_mut().expect("accepted");
        let wanted = match f.commit {
            Commit::None => false,
            Commit::AfterServe => !race.commit_asked,
            Commit::BeforeFinish => !race.committed,
        };
        if wanted && !race.commit_pending {
            race.commit_pending = true;
            race.commit_asked = true;
            self.emit(Output::Commit { fetch: id });
        }
    }

    /// The judgement that was out speaks well for its waiters.
    fn accept_waiters(&mut self, fetch: u32) {
        let f = &self.fetches[fetch];
        let race = f.race.as_ref().expect("judged");
        let wait = f.commit == Commit::BeforeFinish
            && !race.committed
            && !planted!("commit-acknowledged-early");
        let mut next = f.first_waiter;
        let outcome = self.datum(fetch);
        while next != NONE {
            let waiter = &mut self.waiters[next];
            let (index, spoken) = (next, waiter.spoken);
            next = waiter.next;
            if planted!("lost-waiter") && waiter.id.0 % 8 == 5 {
                continue;
            }
            if !spoken && !planted!("joiner-not-judged") {
                continue;
            }
            if wait {
                waiter.accepted = true;
            } else {
                self.finish_waiter(index, outcome.clone());
            }
        }
        self.reclass_to_top(fetch);
    }

    fn datum(&self, fetch: u32) -> Outcome {
        let race = self.fetches[fetch].race.as_ref();
        let parts = race
            .and_then(|race| race.answer.as_ref())
            .map_or(&[][..], |a| &a.parts);
        if let [part] = parts {
            let sources = Sources::One(part.source);
            return Outcome::Datum { sources };
        }
        let mut sources: Vec<SourceId> = Vec::new();
        for part in parts {
            if sources.last() != Some(&part.source) {
                sources.push(part.source);
            }
        }
        let sources = match sources.as_slice() {
            [] => Sources::Unknown,
            [one] => Sources::One(*one),
            many => Sources::Many(many.into()),
        };
        Outcome::Datum { sources }
    }

    /// Not the datum, or not enough: tries on.
    fn rejected(&mut self, fetch: u32, parts: &[Part], verdict: Verdict) {
        let how = match verdict {
            Verdict::Partial => HowEnded::Partial,
            Verdict::Ambiguous => HowEnded::Ambiguous,
            _ => HowEnded::Invalid,
        };
        self.silence_waiters(fetch);
        let f = &mut self.fetches[fetch];
        let resume = f.plan.resume;
        let race = f.race.as_mut().expect("judged");
        if let [part] = parts {
            race.mark(part.attempt, how, part.took);
            race.last_failed = Some(part.source);
        } else if verdict == Verdict::Invalid {
            // Nobody can tell whose bytes were wrong: ask one alone, anyone.
            race.go_solo();
            race.tried
                .retain(|tried| !parts.iter().any(|part| part.attempt == tried.attempt));
        } else {
            for part in parts {
                race.mark(part.attempt, how, part.took);
            }
        }
        race.failures += 1;
        let answer = race.answer.take();
        if resume {
            self.discard_body(fetch);
        } else if let Some(answer) = answer {
            self.discard(fetch, answer);
        }
        if self.fetches[fetch].waiters == 0 && self.fetches[fetch].ceiling_at <= self.now {
            return self.close(fetch);
        }
        if self.judge_next(fetch) {
            return;
        }
        self.set_state(fetch, State::Racing);
        self.unreserve_idle(fetch);
        self.round_over(fetch);
    }

    /// No verdict: those it was asked for are out; others get the same answer judged.
    fn gave_up(&mut self, fetch: u32, late: bool) {
        let outcome = Outcome::failed(FetchError::Ignored);
        let mut next = self.fetches[fetch].first_waiter;
        while next != NONE {
            let waiter = &self.waiters[next];
            let (index, out) = (next, waiter.spoken && !waiter.accepted);
            next = waiter.next;
            if out {
                self.finish_waiter(index, outcome.clone());
            }
        }
        self.reclass_to_top(fetch);
        if late {
            return self.settle(fetch);
        }
        if self.fetches[fetch].waiters == 0 {
            return self.close(fetch);
        }
        self.ask_judge(fetch, true);
        // Their verdict decides over the key, as a first one does, but for credit and blame.
        let race = self.fetches[fetch].race.as_mut().expect("judged");
        let Some(judgement) = race.judgement else {
            return;
        };
        self.judgements[judgement].late = false;
        self.judgements[judgement].parts = Parts::Nobodys;
    }

    /// Waiters whose judgement came to nothing wait for the next.
    fn silence_waiters(&mut self, fetch: u32) {
        let mut unspoken = 0;
        let mut next = self.fetches[fetch].first_waiter;
        while next != NONE {
            let waiter = &mut self.waiters[next];
            waiter.spoken = waiter.accepted;
            unspoken += u32::from(!waiter.accepted);
            next = waiter.next;
        }
        self.fetches[fetch].unspoken = unspoken;
    }

    // ---- after acceptance ----

    /// Goes on with an accepted fetch: late judgements, then the end.
    pub(crate) fn settle(&mut self, fetch: u32) {
        let f = &self.fetches[fetch];
        if f.state != State::Accepted {
            return;
        }
        let race = f.race.as_ref().expect("accepted");
        if race.judgement.is_some() {
            return;
        }
        if f.unspoken > 0 && !race.restart {
            return self.ask_judge(fetch, true);
        }
        if race.commit_pending {
            return;
        }
        if f.waiters == 0 {
            return self.close(fetch);
        }
        // Late waiters for whom it was not good enough.
        self.anew(fetch);
    }

    /// Gives the accepted answer up and fetches again.
    fn anew(&mut self, fetch: u32) {
        let f = &mut self.fetches[fetch];
        let resume = f.plan.resume;
        let race = f.race.as_mut().expect("accepted");
        race.restart = false;
        let answer = race.answer.take();
        if resume {
            self.discard_body(fetch);
        } else if let Some(answer) = answer {
            self.discard(fetch, answer);
        }
        self.set_state(fetch, State::Racing);
        self.unreserve_idle(fetch);
        self.round_over(fetch);
    }

    pub(crate) fn committed(&mut self, id: FetchId, result: Result<(), CommitFault>) {
        let Some(fetch) = self.fetches.find(id.0) else {
            return self.late();
        };
        let pending = self.fetches[fetch]
            .race
            .as_mut()
            .map(|race| &mut race.commit_pending);
        match pending {
            Some(pending) if *pending => *pending = false,
            _ => return self.late(),
        }
        let result = match result {
            Err(_) if planted!("commit-fault-taken-for-success") => Ok(()),
            result => result,
        };
        match result {
            Ok(()) | Err(CommitFault::Exists) => {
                self.counters.committed += 1;
                self.fetches[fetch]
                    .race
                    .as_mut()
                    .expect("accepted")
                    .committed = true;
                self.finish_accepted(fetch);
            }
            Err(fault) => {
                self.counters.commit_faults += 1;
                if self.fetches[fetch].commit == Commit::BeforeFinish {
                    return self.uncommitted(fetch, fault);
                }
            }
        }
        self.settle(fetch);
    }

    fn finish_accepted(&mut self, fetch: u32) {
        let outcome = self.datum(fetch);
        let mut next = self.fetches[fetch].first_waiter;
        while next != NONE {
            let waiter = &self.waiters[next];
            let (index, accepted) = (next, waiter.accepted);
            next = waiter.next;
            if accepted {
                self.finish_waiter(index, outcome.clone());
            }
        }
        self.reclass_to_top(fetch);
    }

    /// The store failed, and nothing may be acknowledged: the key stays wanted.
    fn uncommitted(&mut self, fetch: u32, fault: CommitFault) {
        let mut next = self.fetches[fetch].first_waiter;
        while next != NONE {
            let waiter = &mut self.waiters[next];
            waiter.accepted = false;
            next = waiter.next;
        }
        self.silence_waiters(fetch);
        if self.fetches[fetch].waiters == 0 {
            return self.close(fetch);
        }
        let f = &mut self.fetches[fetch];
        let resume = f.plan.resume;
        let race = f.race.as_mut().expect("accepted");
        race.commit_fault = Some(fault);
        // A judgement of late waiters speaks of an answer that is given up.
        race.judgement = None;
        race.restart = false;
        let answer = race.answer.take();
        for part in answer.iter().flat_map(|answer| answer.parts.iter()) {
            race.mark(part.attempt, HowEnded::Uncommitted, part.took);
        }
        if resume {
            self.discard_body(fetch);
        } else if let Some(answer) = answer {
            self.discard(fetch, answer);
        }
        self.set_state(fetch, State::Racing);
        self.cycle_spent(fetch, FetchError::Commit(fault));
    }

    pub(crate) fn obtained(&mut self, key: &K, from: Option<SourceId>) {
        let Some(fetch) = self.find_fetch(key) else {
            return;
        };
        let sources = from.map_or(Sources::Unknown, Sources::One);
        self.finish_all(fetch, &Outcome::Datum { sources });
        self.close(fetch);
    }

    // ---- dropping ----

    fn discard(&mut self, fetch: u32, answer: Answer) {
        self.unreserve(fetch, answer.reserved);
        let fetch = self.fetch_id(fetch);
        for part in answer.parts.iter() {
            let attempt = part.attempt;
            self.emit(Output::Discard { fetch, attempt });
        }
    }

    /// The body starts anew. Attempts that were continuing it are stopped.
    pub(crate) fn discard_body(&mut self, fetch: u32) {
        self.abort_all(fetch);
        let race = self.fetches[fetch]
            .race
            .as_mut()
            .expect("a body has a race");
        race.other_identity = false;
        let body: Body = std::mem::take(&mut race.body);
        let fetch = self.fetch_id(fetch);
        for part in body.parts {
            let attempt = part.attempt;
            self.emit(Output::Discard { fetch, attempt });
        }
    }

    /// Nothing more can be tried.
    pub(crate) fn exhausted(&mut self, fetch: u32, error: FetchError) {
        let race = self.fetches[fetch].race.as_ref();
        let tried = race
            .map(|race| race.tried.as_slice())
            .unwrap_or_default()
            .into();
        let error = match error {
            FetchError::NoCandidates if race.is_some_and(|race| !race.tried.is_empty()) => {
                FetchError::Exhausted
            }
            other => other,
        };
        self.finish_all(fetch, &Outcome::Failed { error, tried });
        self.close(fetch);
    }

    /// The last waiter has left, or the ceiling of a detached fetch is reached.
    pub(crate) fn cancel(&mut self, fetch: u32) {
        match self.fetches[fetch].state {
            State::Racing if self.fetches[fetch].listed => {
                // Until its attempts have ended, a new want takes it up with what it has.
                self.abort_all(fetch);
                if self.fetches[fetch]
                    .race
                    .as_ref()
                    .is_some_and(|race| race.solo)
                {
                    // But not with what one source alone has begun: that is not for another to continue.
                    self.discard_body(fetch);
                }
                self.set_state(fetch, State::Draining);
                self.drained(fetch);
            }
            // The datum is valid. The store may be at it; a judge may be at it for those who came late,
            // but then they have left, and whoever comes next need not wait for that.
            State::Accepted => self.close(fetch),
            State::Draining => {}
            _ => self.close(fetch),
        }
    }

    /// Ends a fetch that has no waiters left. Its attempts, if any, drain.
    pub(crate) fn close(&mut self, fetch: u32) {
        let f = &mut self.fetches[fetch];
        debug_assert_eq!(f.waiters, 0, "every waiter has its outcome");
        if f.state == State::Accepted && f.race.as_ref().is_some_and(|race| race.commit_pending) {
            // Kept for the store's answer; a judgement of late waiters is not waited for.
            if let Some(race) = &mut f.race {
                race.judgement = None;
            }
            return;
        }
        match f.state {
            State::Queued => self.dequeue(fetch),
            State::Paused => self.unpause(fetch),
            _ => {}
        }
        self.unlist(fetch);
        self.abort_all(fetch);
        if let Some(race) = &mut self.fetches[fetch].race {
            race.judgement = None;
        }
        self.set_state(fetch, State::Draining);
        self.drained(fetch);
    }

    /// Forgets a draining fetch once its last attempt has ended.
    pub(crate) fn drained(&mut self, fetch: u32) {
        let f = &self.fetches[fetch];
        if f.race
            .as_ref()
            .is_some_and(|race| !race.attempts.is_empty())
        {
            return;
        }
        self.unlist(fetch);
        let id = self.fetch_id(fetch);
        let f = &mut self.fetches[fetch];
        let mut bytes = 0;
        if let Some(race) = &f.race {
            bytes += race.reserved;
            bytes += race
                .answers
                .iter()
                .chain(&race.answer)
                .map(|a| a.reserved)
                .sum::<u64>();
        }
        let mut wake = f.wake;
        self.timers
            .arm(crate::timers::Who::Fetch(fetch), &mut wake, Time::FAR);
        self.unreserve(fetch, bytes);
        let gone = self.fetches.remove(fetch);
        if let Some(mut race) = gone.and_then(|f| f.race)
            && self.races.len() < RACES_KEPT
        {
            race.recycle();
            self.races.push(race);
        }
        self.emit(Output::Retired { fetch: id });
    }
}

impl Outcome {
    pub(crate) fn failed(error: FetchError) -> Self {
        Self::Failed {
            error,
            tried: std::sync::Arc::from([]),
        }
    }
}
