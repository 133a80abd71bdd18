//! Whether an attempt may start: who is asked, in whose turn, within which bounds.

use super::widest;
use crate::{
    coverage::Mark,
    ledger::{Attempt, Fetch, Ledger},
};
use gannet_engine::{AttemptId, End, FetchId, Retry, SourceId, Stage, Targets};

impl Ledger {
    pub(super) fn check_start(
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

    pub(super) fn check_start_is_wanted(&self, id: FetchId, fetch: &Fetch, source: SourceId) {
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

    pub(super) fn check_start_fits_plan(&self, id: FetchId, fetch: &Fetch, stage: Stage) {
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
    pub(super) fn check_racing(&self, id: FetchId) {
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
    pub(super) fn bytes_held(&self, fetch: &Fetch) -> u64 {
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

    pub(super) fn mark_start(&mut self, fetch_id: FetchId, source: SourceId, stage: Stage) {
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

    pub(super) fn note_start(
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

    pub(super) fn check_abort(&mut self, id: AttemptId) {
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
}
