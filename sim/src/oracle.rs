//! The oracle: every output is checked against the account before the driver acts on it.
//!
//! A violation panics with the number of the invariant first; [`run`](crate::run) catches it and
//! reports the seed. Outputs that may be older than the last input (inputs came between two polls) are
//! judged with the benefit of the doubt.

use crate::{
    coverage::Mark,
    ledger::{Attempt, Fetch, Judgement, Ledger, Valid, same_base},
    truth::{self, Key},
};
use gannet_engine::{
    AttemptId, Commit, End, FanoutGrowth, FetchError, FetchId, JudgementId, Lifetime, Outcome,
    Output, Plan, Retry, SourceId, Stage, Targets, Time, Tried, WaiterId, Want,
};
use std::{collections::BTreeSet, sync::Arc};

impl Ledger {
    /// Checks an output and notes it.
    pub fn check_output(&mut self, output: &Output<Key>) {
        match output {
            Output::Opened { fetch, key } => self.check_opened(*fetch, *key),
            Output::Select { fetch } => self.check_select(*fetch),
            Output::Start {
                attempt,
                fetch,
                source,
                from_byte,
                stage,
            } => self.check_start(*attempt, *fetch, *source, *from_byte, *stage),
            Output::Abort { attempt } => self.check_abort(*attempt),
            Output::Judge {
                judgement,
                fetch,
                contributors,
                waiters,
            } => self.check_judge(*judgement, *fetch, contributors, waiters),
            Output::Commit { fetch } => self.check_commit(*fetch),
            Output::Discard { attempt, .. } => self.check_discard(*attempt),
            Output::Finish {
                waiter,
                fetch,
                outcome,
            } => self.check_finish(*waiter, *fetch, outcome),
            Output::Retired { fetch } => self.check_retired(*fetch),
            Output::Blocked { source, until } => self.check_blocked(*source, *until),
        }
    }

    fn known(&mut self, id: FetchId, what: &str) -> &mut Fetch {
        self.fetches
            .get_mut(&id)
            .unwrap_or_else(|| panic!("I1: {what} names {id:?}, which is not open"))
    }

    fn check_opened(&mut self, id: FetchId, key: Key) {
        assert!(self.ids.0.insert(id), "I1: {id:?} is used again");
        self.tally.fetches += 1;
        self.undo_join();
        if let Some(old) = self.by_key.get(&key) {
            let waits = self.waiters.values().any(|w| w.fetch == Some(*old));
            let old = &self.fetches[old];
            let asks = |a: &&AttemptId| !self.attempts[*a].aborting;
            assert!(
                !waits && !old.live.iter().any(|a| asks(&a)),
                "I1: key {key} has two fetches at work"
            );
        }
        let waiter = self.pending.and_then(|w| self.waiters.get(&w));
        let Want { plan, targets, .. } = waiter
            .filter(|w| w.key == key)
            .map(|w| &w.want)
            .unwrap_or_else(|| panic!("I1: key {key} is fetched, and nobody wants it anew"));
        let fetch = Fetch {
            key,
            plan: Arc::clone(plan),
            uniform: true,
            commit: plan.commit,
            opened: self.seq,
            ceiling: None,
            deserted: None,
            revived: false,
            targets: targets.clone(),
            ranked: None,
            selecting: false,
            selects: 0,
            live: BTreeSet::new(),
            attempts: Vec::new(),
            attempts_in_cycle: 0,
            starts_in_cycle: 0,
            first_start: None,
            furthest: 0,
            news: Time::ZERO,
            refused_for_good: BTreeSet::new(),
            body: Vec::new(),
            bringers: Vec::new(),
            judged: Vec::new(),
            judging: 0,
            valid: None,
            committing: false,
            commit_fault: None,
            commit_faults: 0,
            given_up: 0,
            many_invalid: 0,
            obtained: None,
            ignored: false,
            idle_since: None,
            joinable_since: None,
            alone: false,
            starved: false,
            answered: false,
        };
        self.fetches.insert(id, fetch);
        self.by_key.insert(key, id);
    }

    /// The want did not join the fetch that was there.
    fn undo_join(&mut self) {
        if let Some((id, fetch)) = self.joined.take()
            && self.fetches.contains_key(&id)
        {
            self.fetches.insert(id, *fetch);
        }
    }

    /// After the outputs of a want were drained: it has joined a fetch, or was refused.
    pub fn settle_want(&mut self) {
        let Some(id) = self.pending.take() else {
            return;
        };
        let Some(waiter) = self.waiters.get_mut(&id) else {
            return;
        };
        let fetch_id = *(self.by_key.get(&waiter.key))
            .unwrap_or_else(|| panic!("I1: {id:?} waits for no fetch"));
        if let Some((old, _)) = self.joined.take() {
            assert_eq!(old, fetch_id, "I1: {id:?} joined another fetch");
            self.coverage.hit(Mark::Coalesced);
        }
        let fetch = (self.fetches.get_mut(&fetch_id))
            .unwrap_or_else(|| panic!("I1: {id:?} waits for a fetch that is gone"));
        waiter.fetch = Some(fetch_id);
        if fetch.opened == self.seq {
            join(fetch, &waiter.want, self.timers_served);
        }
    }

    fn check_select(&mut self, id: FetchId) {
        let fetch = self.known(id, "Select");
        assert!(
            fetch.targets == Targets::Ranked,
            "c3: {id:?} names its sources, and a ranking is asked for"
        );
        assert!(!fetch.selecting, "c3: {id:?} asks for two rankings at once");
        fetch.selecting = true;
        fetch.selects += 1;
        fetch.attempts_in_cycle = 0;
        fetch.starts_in_cycle = 0;
        let selects = fetch.selects;
        if selects > 1 {
            let (uniform, revived) = (fetch.uniform, fetch.revived);
            let extra = fetch.commit_faults + fetch.many_invalid;
            let tries = match fetch.plan.retry {
                Retry::No => 1,
                Retry::Budget { tries, .. } => tries.max(1),
                Retry::UntilReleased { .. } => u32::MAX,
            };
            assert!(
                !uniform || revived || selects <= tries.saturating_add(extra),
                "c5: {id:?} goes into cycle {selects} of {tries}"
            );
            self.hit(Mark::Recycled);
        }
    }

    fn check_start(
        &mut self,
        id: AttemptId,
        fetch_id: FetchId,
        source: SourceId,
        from_byte: u64,
        stage: Stage,
    ) {
        assert!(self.ids.1.insert(id), "c4: {id:?} is used again");
        self.tally.attempts += 1;
        let lenient = self.lenient();
        let now = self.now;
        self.known(fetch_id, "Start");
        let fetch = &self.fetches[&fetch_id];
        if !lenient {
            if let Some(why) = self.barred(source) {
                panic!("I5: {source:?} is asked, and {why}");
            }
            if let Some(why) = self.paused(source) {
                panic!("I5: {source:?} is asked, and {why}");
            }
            if let Some(why) = self.bound(source, true) {
                panic!("I2: {source:?} is asked, and there is {why}");
            }
            let may = match &fetch.targets {
                Targets::Any => true,
                Targets::Ranked => fetch.ranked.as_ref().is_some_and(|r| r.contains(&source)),
                Targets::Only(only) => only.contains(&source),
            };
            assert!(may, "I5: {source:?} may not serve {fetch_id:?}");
            self.check_start_is_wanted(fetch_id, fetch, source);
            self.check_start_fits_plan(fetch_id, fetch, stage);
            let backed_off = self.sources[&source].backed_off_until;
            assert!(
                self.config.try_backed_off || now >= backed_off,
                "c3: {source:?} is asked while it backs off"
            );
        }
        self.check_racing(fetch_id);
        let frontier = fetch.body.len() as u64;
        if fetch.plan.resume {
            assert!(
                from_byte == frontier || lenient && from_byte <= frontier,
                "c6: {id:?} starts at byte {from_byte}, the body has {frontier}"
            );
        } else {
            assert_eq!(from_byte, 0, "c6: a plan that does not resume resumes");
        }
        self.mark_start(fetch_id, source, stage);
        self.note_start(id, fetch_id, source, from_byte, stage);
    }

    fn check_start_is_wanted(&self, id: FetchId, fetch: &Fetch, source: SourceId) {
        let plan = &fetch.plan;
        if !self
            .waiters
            .values()
            .any(|w| w.fetch == Some(id) || w.key == fetch.key)
        {
            let until = fetch
                .ceiling
                .zip(fetch.deserted)
                .map(|(ceiling, since)| since.after(ceiling));
            assert!(
                until.is_some_and(|until| self.now <= until),
                "c9: {id:?} goes on, and nobody wants it"
            );
        }
        assert!(
            fetch.obtained.is_none() && !fetch.ignored,
            "c9: {id:?} goes on when it is over"
        );
        let not_before = plan.not_before.filter(|_| fetch.uniform);
        assert!(
            not_before.is_none_or(|t| self.now >= t),
            "c10: {id:?} starts before its time"
        );
        if let Retry::Budget { total, .. } = plan.retry
            && fetch.uniform
            && !fetch.revived
        {
            assert!(
                fetch.first_start.is_none_or(|t| self.now <= t.after(total)),
                "c5: {id:?} starts after its budget of time"
            );
            assert!(
                !fetch.refused_for_good.contains(&source) || fetch.many_invalid > 0,
                "c3: {source:?} is asked again by {id:?}, which it refused for good"
            );
        }
    }

    fn check_start_fits_plan(&self, id: FetchId, fetch: &Fetch, stage: Stage) {
        if !fetch.uniform || fetch.revived {
            return;
        }
        let plan = &fetch.plan;
        let joins = fetch.live.iter().any(|a| !self.attempts[a].aborting);
        assert!(
            !joins || fetch.many_invalid == 0,
            "c6: {id:?} asks several again, and together they were wrong"
        );
        assert!(
            stage != Stage::Hedge || plan.hedge.is_some(),
            "c5: {id:?} hedges without a plan to"
        );
        assert!(
            stage != Stage::First || fetch.attempts.is_empty(),
            "c5: {id:?} has a second first attempt"
        );
        let asking = fetch
            .live
            .iter()
            .filter(|a| !self.attempts[*a].aborting)
            .count() as u64;
        let begun = u64::from(fetch.attempts_in_cycle) + 1;
        let widest = widest(
            plan,
            self.config.width_max,
            u32::try_from(begun).unwrap_or(u32::MAX),
        );
        assert!(
            plan.hedge.is_some() || asking < widest,
            "I2: {id:?} has {asking} attempts, and no round is wider than {widest}"
        );
        let most = plan
            .attempts_max
            .map_or(u32::MAX, |n| n.get())
            .min(self.config.attempts_max);
        assert!(
            fetch.targets != Targets::Ranked || fetch.attempts_in_cycle < most,
            "I2: {id:?} starts more than {most} attempts in a cycle"
        );
    }

    /// A fetch takes its racing slot and its bytes with its first attempt.
    fn check_racing(&self, id: FetchId) {
        let racing = self.fetches.values().filter(|f| !f.live.is_empty()).count();
        let mine = !self.fetches[&id].live.is_empty();
        assert!(
            mine || racing < self.config.racing_max as usize,
            "I2: {id:?} makes {} racing fetches",
            racing + 1
        );
        let held: u64 = self.fetches.values().map(|f| self.bytes_held(f)).sum();
        assert!(
            self.lenient() || held <= self.config.bytes_max,
            "I2: {held} bytes in memory"
        );
    }

    /// The bytes in memory for a fetch: what was promised, where somebody did, else what there is.
    /// (The engine has to reserve at least that much, and may reserve what the plan allows.)
    fn bytes_held(&self, fetch: &Fetch) -> u64 {
        if fetch.plan.resume {
            return fetch.body.len() as u64;
        }
        let of = |a: &AttemptId| {
            let attempt = &self.attempts[a];
            let whole = matches!(attempt.end, Some(End::Complete { .. })) && !attempt.aborting;
            match attempt.end {
                // More than the plan allows is not kept, whoever promises it.
                None => attempt
                    .total
                    .unwrap_or(attempt.body.len() as u64)
                    .min(fetch.plan.body_bytes_max),
                Some(_) if whole => attempt.body.len() as u64,
                _ => 0,
            }
        };
        fetch.attempts.iter().map(of).sum()
    }

    fn mark_start(&mut self, fetch_id: FetchId, source: SourceId, stage: Stage) {
        match stage {
            Stage::Fanout => self.hit(Mark::Fanout),
            Stage::Resume => self.hit(Mark::Resumed),
            _ => {}
        }
        let fetch = &self.fetches[&fetch_id];
        if fetch.many_invalid > 0 && fetch.live.is_empty() {
            self.hit(Mark::RefetchedSolo);
        }
        let now = self.now;
        let dead = |s: &crate::ledger::Source| s.health == Some(gannet_engine::Health::Dead);
        let Some(entry) = self.sources.get_mut(&source) else {
            return;
        };
        let probes = dead(entry);
        entry.probed = probes;
        let declined = std::mem::take(&mut entry.was_declined);
        let ran_out = entry.block_ran_out && matches!(entry.blocked, Some(Some(t)) if t <= now);
        if ran_out {
            entry.block_ran_out = false;
        }
        for (mark, seen) in [
            (Mark::DeadProbed, probes),
            (Mark::AskedAfterDecline, declined),
            (Mark::BlockExpired, ran_out),
        ] {
            if seen {
                self.hit(mark);
            }
        }
    }

    fn note_start(
        &mut self,
        id: AttemptId,
        fetch_id: FetchId,
        source: SourceId,
        from_byte: u64,
        stage: Stage,
    ) {
        let (now, older) = (self.now, self.lenient());
        let group = self.source(source).group;
        for group in self.chain(group) {
            if let Some(bound) = self.groups.get_mut(&group) {
                bound.take(now, older);
            }
        }
        self.whole.take(now, older);
        let entry = self.source(source);
        assert!(
            entry.unacknowledged.is_none(),
            "c4: {source:?} has two starts that are not acknowledged"
        );
        entry.unacknowledged = Some(id);
        entry.bound.take(now, older);
        let fetch = self.known(fetch_id, "Start");
        fetch.live.insert(id);
        fetch.attempts.push(id);
        fetch.attempts_in_cycle += 1;
        fetch.starts_in_cycle += 1;
        fetch.first_start.get_or_insert(now);
        fetch.news = now;
        let attempt = Attempt {
            fetch: fetch_id,
            source,
            group,
            from_byte,
            stage,
            since: now,
            acknowledged: false,
            end: None,
            declined: false,
            aborting: false,
            identity: None,
            total: None,
            sign: None,
            upto: from_byte,
            body: Vec::new(),
            discarded: false,
            verdict: None,
            script: None,
        };
        self.attempts.insert(id, attempt);
    }

    fn check_abort(&mut self, id: AttemptId) {
        let lenient = self.lenient();
        let Some(attempt) = self.attempts.get_mut(&id) else {
            assert!(lenient, "c4: {id:?} is aborted, and was never started");
            return;
        };
        let ended = attempt.end.is_some() || attempt.declined;
        assert!(!ended || lenient, "c4: {id:?} is aborted after its end");
        assert!(!attempt.aborting, "c4: {id:?} is aborted twice");
        attempt.aborting = true;
        let (stage, fetch, identity) = (attempt.stage, attempt.fetch, attempt.identity);
        if stage == Stage::Hedge {
            self.hit(Mark::HedgeLost);
        }
        let fetch = &self.fetches[&fetch];
        let first = fetch.bringers.first().map(|b| self.attempts[b].identity);
        if first.is_some_and(|first| identity.is_some() && first != identity) {
            self.hit(Mark::OtherIdentityAborted);
        }
    }

    /// The driver has bytes of an attempt. Under a resuming plan, whichever brings the next byte
    /// appends.
    ///
    /// What is more than the plan or the source itself allows is told to the engine and not used.
    pub fn append(&mut self, id: AttemptId, upto: u64) {
        let attempt = &self.attempts[&id];
        let plan_max = self.fetches[&attempt.fetch].plan.body_bytes_max;
        if upto > plan_max.min(attempt.total.unwrap_or(plan_max)) {
            return;
        }
        let script = attempt
            .script
            .as_ref()
            .expect("an attempt that sends has a script");
        let fetch = &self.fetches[&attempt.fetch];
        // Beyond the length that another of its identity has named, nothing is certain any more.
        let others = fetch.bringers.iter().chain(&fetch.live);
        let beyond = others.map(|a| &self.attempts[a]).any(|other| {
            other.identity == attempt.identity && other.total.is_some_and(|total| total < upto)
        });
        let fetch = self
            .fetches
            .get_mut(&attempt.fetch)
            .expect("attempts go before fetches");
        let key = fetch.key;
        if fetch.plan.resume {
            let have = fetch.body.len() as u64;
            if upto > have {
                fetch
                    .body
                    .extend((have..upto).map(|at| script.byte(key, at)));
                // Progress: the retry budget counts from here. Bytes fetched again, of a body that was
                // given up, are none.
                if upto > fetch.furthest && !beyond {
                    fetch.furthest = upto;
                    fetch.first_start = Some(self.now);
                    fetch.selects = fetch.selects.min(1);
                }
                if !fetch.bringers.contains(&id) {
                    fetch.bringers.push(id);
                }
            }
        } else {
            let have = attempt.body.len() as u64;
            let more: Vec<u8> = (have..upto).map(|at| script.byte(key, at)).collect();
            self.attempts
                .get_mut(&id)
                .expect("just seen")
                .body
                .extend(more);
        }
    }

    /// The bytes of an answer, as the driver holds them.
    fn body_of(&self, fetch: &Fetch, last: AttemptId) -> Vec<u8> {
        if fetch.plan.resume {
            fetch.body.clone()
        } else {
            self.attempts[&last].body.clone()
        }
    }

    fn check_judge(
        &mut self,
        id: JudgementId,
        fetch_id: FetchId,
        contributors: &[AttemptId],
        waiters: &[WaiterId],
    ) {
        assert!(self.ids.2.insert(id), "c7: {id:?} is used again");
        let lenient = self.lenient();
        let fetch = self.known(fetch_id, "Judge").clone();
        let last = *contributors
            .last()
            .expect("c6: an answer has a contributor");
        for contributor in contributors {
            let attempt = self
                .attempts
                .get(contributor)
                .unwrap_or_else(|| panic!("c6: {contributor:?} contributes and is unknown"));
            assert_eq!(
                attempt.fetch, fetch_id,
                "c6: {contributor:?} is of another fetch"
            );
            assert!(!attempt.discarded, "I3: {contributor:?} was discarded");
            assert!(
                attempt.identity == self.attempts[&last].identity || contributors.len() == 1,
                "c6: {contributor:?} is of another identity"
            );
        }
        let completed = matches!(self.attempts[&last].end, Some(End::Complete { .. }));
        assert!(completed, "c6: {last:?} is judged and not complete");
        if fetch.plan.resume {
            let brought: BTreeSet<_> = fetch.bringers.iter().chain([&last]).collect();
            let named: BTreeSet<_> = contributors.iter().collect();
            assert!(
                brought == named || lenient && brought.is_superset(&named),
                "c6: {fetch_id:?} was brought by {brought:?} and not {named:?}"
            );
        } else {
            assert_eq!(
                contributors.len(),
                1,
                "c6: an answer of its own has one contributor"
            );
        }
        for waiter in waiters {
            let here = self.waiters.get(waiter).is_some_and(|w| w.key == fetch.key);
            assert!(
                here || self.just_left.contains_key(waiter),
                "c7: {id:?} speaks for {waiter:?}, who does not wait for it"
            );
        }
        let body = self.body_of(&fetch, last);
        let again = fetch.judged.iter().any(|j| j == contributors);
        self.check_honest_body(&fetch, contributors, &body);
        let sources: Vec<SourceId> = contributors
            .iter()
            .map(|a| self.attempts[a].source)
            .collect();
        if again && !waiters.is_empty() {
            self.hit(Mark::LateJoinerJudged);
        }
        if sources.iter().collect::<BTreeSet<_>>().len() > 1 {
            self.hit(Mark::ManySources);
        }
        let fetch = self.known(fetch_id, "Judge");
        fetch.judging += 1;
        fetch.judged.push(contributors.to_vec());
        let (on_invalid, given_up) = (fetch.plan.on_invalid, fetch.given_up);
        let judgement = Judgement {
            fetch: fetch_id,
            contributors: contributors.to_vec(),
            sources,
            waiters: waiters.to_vec(),
            body,
            again,
            given_up,
            on_invalid,
        };
        self.judgements.insert(id, judgement);
    }

    /// If everybody told the truth, the body must be right: else the engine mixed it.
    fn check_honest_body(&self, fetch: &Fetch, contributors: &[AttemptId], body: &[u8]) {
        let honest = |a: &AttemptId| {
            let attempt = &self.attempts[a];
            attempt.script.as_ref().is_some_and(|s| s.honest)
        };
        if contributors.iter().all(honest) {
            let version = truth::version_of(fetch.key, body, self.versions, self.len_max);
            assert!(
                version.is_some(),
                "c6: honest sources brought {} bytes of key {} that are no version of it",
                body.len(),
                fetch.key
            );
        }
    }

    fn check_commit(&mut self, id: FetchId) {
        let fetch = self.known(id, "Commit");
        assert!(!fetch.committing, "c8: {id:?} is committed twice at once");
        let valid = fetch
            .valid
            .clone()
            .unwrap_or_else(|| panic!("I3: {id:?} is committed, and no answer of it is valid"));
        self.check_valid_bytes(id, &valid);
        let fetch = self.known(id, "Commit");
        fetch.committing = true;
        fetch.valid.as_mut().expect("just seen").commit_asked = true;
    }

    /// The bytes that the driver holds for a valid answer are those that were judged.
    fn check_valid_bytes(&self, id: FetchId, valid: &Valid) {
        let fetch = &self.fetches[&id];
        assert!(valid.held, "I3: the answer of {id:?} was discarded");
        let last = *valid
            .contributors
            .last()
            .expect("an answer has a contributor");
        let body = self.body_of(fetch, last);
        assert!(
            truth::version_of(fetch.key, &body, self.versions, self.len_max).is_some(),
            "I3: {id:?} gives out bytes that are no version of key {}",
            fetch.key
        );
    }

    fn check_discard(&mut self, id: AttemptId) {
        let lenient = self.lenient();
        let Some(attempt) = self.attempts.get_mut(&id) else {
            assert!(lenient, "c6: {id:?} is discarded, and unknown");
            return;
        };
        attempt.discarded = true;
        attempt.body.clear();
        let fetch_id = attempt.fetch;
        let mut mark = false;
        if let Some(fetch) = self.fetches.get_mut(&fetch_id) {
            let gone = |valid: &mut Valid| {
                valid.held &= !(valid.contributors.contains(&id) || fetch.plan.resume);
            };
            if let Some(valid) = &mut fetch.valid {
                gone(valid);
            }
            if fetch.plan.resume {
                mark = !fetch.body.is_empty();
                // Where sources disagree, the cycle begins anew with one alone.
                fetch.attempts_in_cycle = 0;
                fetch.body.clear();
                fetch.bringers.clear();
            }
        }
        if mark {
            self.hit(Mark::BodyDiscarded);
        }
    }

    fn check_finish(&mut self, id: WaiterId, fetch: Option<FetchId>, outcome: &Outcome) {
        if let Some(left) = self.just_left.remove(&id).filter(|_| self.lenient()) {
            // The outcome was there when it left, and had not been read: it left nothing. Where the
            // engine did take it for released, its count of them says so.
            self.tally.released -= 1;
            self.waiters.insert(id, left);
        }
        let waiter = (self.waiters.get(&id).cloned())
            .unwrap_or_else(|| panic!("I1: {id:?} gets an outcome and does not wait"));
        if let Some(fetch) = fetch {
            let key = self.known(fetch, "Finish").key;
            assert_eq!(
                key, waiter.key,
                "I1: {id:?} gets the outcome of another key"
            );
        }
        if fetch.is_none() {
            self.undo_join();
        }
        match outcome {
            Outcome::Datum { sources } => {
                let fetch = fetch.expect("I1: a datum comes from a fetch");
                self.check_datum(id, &waiter.want, waiter.joined, fetch, sources.as_slice());
                self.tally.answered += 1;
            }
            Outcome::Failed { error, tried } => {
                if let Err(why) = self.error_expected(id, fetch, *error) {
                    panic!("I1: {why}");
                }
                self.check_tried(id, waiter.joined, fetch, *error, tried);
                self.mark_error(*error);
                // Counted apart from other errors, as the engine does.
                if *error == FetchError::Expired {
                    self.tally.expired += 1;
                }
                self.tally.failed += 1;
            }
        }
        if waiter.old_deadline.is_some_and(|old| old <= self.now) {
            self.hit(Mark::OutlivedDeadline);
        }
        self.cancelled.remove(&id);
        self.given_up.remove(&id);
        self.part(id);
    }

    fn check_datum(
        &mut self,
        id: WaiterId,
        want: &Want,
        joined: u64,
        fetch_id: FetchId,
        sources: &[SourceId],
    ) {
        let fetch = &self.fetches[&fetch_id];
        let starved = fetch.starved;
        if let Some(from) = fetch.obtained {
            let brought: Vec<SourceId> = from.into_iter().collect();
            // It may have been answered just before that.
            if sources == brought || !self.lenient() || fetch.valid.is_none() {
                assert_eq!(sources, brought, "c9: obtained from somebody else");
                return;
            }
        }
        let Some(valid) = fetch.valid.clone() else {
            panic!("I3: {id:?} gets a datum that nobody found valid");
        };
        // Who came after the verdict may be served without one of its own while the commit goes on.
        let late = joined > valid.at && fetch.committing;
        assert!(
            valid.judged_for.contains(&id) || late,
            "c7: {id:?} gets a datum that was not judged for it"
        );
        if want.plan.commit == Commit::BeforeFinish {
            assert!(valid.committed, "I4: {id:?} is told before the commit");
        }
        self.check_valid_bytes(fetch_id, &valid);
        let expected: BTreeSet<_> = valid.sources.iter().collect();
        let told: BTreeSet<_> = sources.iter().collect();
        assert_eq!(told, expected, "c9: the datum came from somebody else");
        let hedged = valid
            .contributors
            .iter()
            .any(|a| self.attempts[a].stage == Stage::Hedge);
        let last = valid.contributors[valid.contributors.len() - 1];
        let empty = self.body_of(&self.fetches[&fetch_id], last).is_empty();
        let newcomer = late && self.fetches[&fetch_id].committing;
        for (mark, seen) in [
            (Mark::HedgeWon, hedged),
            (Mark::EmptyDatum, empty),
            (Mark::WaitedForSource, starved),
            (Mark::ServedDuringCommit, newcomer),
        ] {
            if seen {
                self.hit(mark);
            }
        }
        self.known(fetch_id, "Finish").answered = true;
    }

    fn check_tried(
        &self,
        id: WaiterId,
        joined: u64,
        fetch: Option<FetchId>,
        error: FetchError,
        tried: &Arc<[Tried]>,
    ) {
        let Some(fetch) = fetch.map(|f| &self.fetches[&f]) else {
            assert!(tried.is_empty(), "c9: a want refused at once tried nobody");
            return;
        };
        for one in tried.iter() {
            let attempt = (self.attempts.get(&one.attempt))
                .unwrap_or_else(|| panic!("c9: {id:?} is told of {:?}, unknown", one.attempt));
            assert!(
                self.fetches[&attempt.fetch].key == fetch.key && attempt.source == one.source,
                "c9: {id:?} is told of {one:?}, which was not so"
            );
            assert!(
                self.lenient() || Self::fits(attempt, one.how),
                "c9: {id:?} is told of {one:?}, and it ended with {:?}",
                attempt.end
            );
        }
        let everybody = fetch.plan.retry == Retry::No
            && error == FetchError::Exhausted
            && fetch.uniform
            && !fetch.revived
            && fetch.commit_faults == 0
            && self.config.try_backed_off
            && !self.lenient();
        if !everybody {
            return;
        }
        let candidates = self.candidates(fetch);
        let steady: Vec<SourceId> = candidates
            .into_iter()
            .filter(|s| self.barred(*s).is_none() && self.paused(*s).is_none())
            .filter(|s| self.sources[s].steady_since < fetch.opened.min(joined))
            .collect();
        let room = capacity(&fetch.plan, &self.config);
        // Those that are no candidates any more took up room as well.
        let mut asked: BTreeSet<SourceId> = self.candidates(fetch).into_iter().collect();
        asked.extend(tried.iter().map(|t| t.source));
        if (asked.len() as u64) <= room.min(self.config.candidates_max.into()) {
            for source in steady {
                assert!(
                    tried.iter().any(|t| t.source == source),
                    "c9: {id:?} is told that all was tried, and {source:?} was not"
                );
            }
        }
    }

    fn mark_error(&mut self, error: FetchError) {
        self.hit(match error {
            FetchError::NoCandidates => Mark::NoCandidates,
            FetchError::Exhausted => Mark::Exhausted,
            FetchError::Ignored => return,
            FetchError::Cancelled => Mark::Cancelled,
            FetchError::Expired => Mark::Expired,
            FetchError::Overloaded => Mark::Overloaded,
            FetchError::Commit(_) => Mark::CommitError,
        });
    }

    fn check_retired(&mut self, id: FetchId) {
        let lenient = self.lenient();
        self.known(id, "Retired");
        let fetch = self.fetches.remove(&id).expect("just seen");
        assert!(
            fetch.live.is_empty(),
            "I2: {id:?} is forgotten before {:?} ended",
            fetch.live
        );
        let waits = self.waiters.iter().find(|(_, w)| w.fetch == Some(id));
        assert!(
            waits.is_none() || lenient,
            "I1: {id:?} is forgotten, and {:?} waits for it",
            waits.map(|w| w.0)
        );
        assert!(
            !fetch.committing,
            "c8: {id:?} is forgotten while it is committed"
        );
        if let Some((deserted, ceiling)) = fetch.deserted.zip(fetch.ceiling) {
            if fetch.valid.is_some() && !fetch.answered {
                self.hit(Mark::DetachedFinished);
            } else if fetch.valid.is_none() && deserted.after(ceiling) <= self.now {
                self.hit(Mark::DetachedCeiling);
            }
        }
        for attempt in &fetch.attempts {
            self.attempts.remove(attempt);
        }
        let declined = |a: &Attempt| a.fetch == id;
        self.attempts.retain(|_, a| !declined(a));
        if self.by_key.get(&fetch.key) == Some(&id) {
            self.by_key.remove(&fetch.key);
        }
    }

    fn check_blocked(&mut self, source: SourceId, until: Time) {
        let owed = self.blocks_owed.iter().position(|(s, _)| *s == source);
        let owed = owed.unwrap_or_else(|| panic!("c7: {source:?} is blocked without cause"));
        let (_, expected) = self.blocks_owed.remove(owed);
        assert!(
            until == expected || self.lenient(),
            "c7: {source:?} is blocked until {until:?} and not {expected:?}"
        );
        self.hit(Mark::EngineBlocked);
        // One for ever was the operator's, and stays that.
        self.note_block(source, (until != Time::FAR).then_some(until));
    }
}

/// What a want adds to its fetch.
pub(crate) fn join(fetch: &mut Fetch, want: &Want, timers_served: Time) {
    let outlived =
        |since: Time| (fetch.ceiling).is_none_or(|ceiling| since.after(ceiling) <= timers_served);
    let cancelled = fetch.deserted.is_some_and(outlived) && fetch.valid.is_none();
    fetch.uniform &= same_base(&want.plan, &fetch.plan);
    fetch.commit = fetch.commit.max(want.plan.commit);
    if let Lifetime::Detached { ceiling } = want.plan.lifetime {
        fetch.ceiling = Some(fetch.ceiling.map_or(ceiling, |old| old.max(ceiling)));
    }
    match (&mut fetch.targets, &want.targets) {
        (Targets::Only(only), Targets::Only(more)) => {
            only.extend(more);
            only.sort_unstable();
            only.dedup();
        }
        (targets @ Targets::Only(_), Targets::Any) => *targets = Targets::Any,
        _ => {}
    }
    if cancelled {
        // It is the newcomer's alone: nobody is left who allowed it another source.
        fetch.targets = want.targets.clone();
    }
    if fetch.deserted.take().is_some() {
        fetch.revived = true;
        if want.plan.resume == fetch.plan.resume {
            fetch.plan = Arc::clone(&want.plan);
        }
        // What ended it for others does not end it for the newcomer.
        fetch.obtained = None;
        fetch.ignored = false;
    }
}

/// Attempts that one round may add at most, if so many rounds may have begun.
fn widest(plan: &Plan, ceiling: u32, rounds: u32) -> u64 {
    let last = match plan.growth {
        FanoutGrowth::Fixed(_) => 0,
        _ => rounds,
    };
    plan.width(last).min(ceiling).into()
}

/// Attempts that one cycle makes at least, while there are sources to ask.
fn capacity(plan: &Plan, config: &gannet_engine::Config) -> u64 {
    let rounds = plan
        .rounds_max
        .map_or(u32::MAX, |n| n.get())
        .min(config.rounds_max);
    let attempts = plan
        .attempts_max
        .map_or(u32::MAX, |n| n.get())
        .min(config.attempts_max);
    // A round starts what it can at once, and that may be one attempt only.
    rounds.min(attempts).into()
}
