//! The audit: what must hold whenever the outputs have been drained.
//!
//! The engine's own `check()` is not trusted alone; its snapshot is compared with the account, and
//! every open fetch must have a reason to be open: a live attempt, a question to the outside, a
//! timer, or a bound that the account finds full as well.

use crate::{
    coverage::Mark,
    ledger::{Fetch, Ledger},
    truth::Key,
};
use gannet_engine::{
    Counters, FetchView, Health, Hedge, Phase, Retry, Snapshot, SourceId, Targets, Time, WaiterId,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// How long a fetch may stand in a queue while a source that it has not asked is idle.
const IDLE_MAX: Duration = Duration::from_secs(2);

impl Ledger {
    /// Checks the engine at rest against the account.
    pub fn audit(&mut self, snapshot: &Snapshot<Key>, counters: &Counters, wakes: Option<Time>) {
        self.audit_obligations();
        self.audit_counts(snapshot, counters);
        self.audit_fetches(snapshot, wakes);
        self.audit_sources(snapshot);
        self.audit_deadlines(wakes);
        self.audit_deserted();
        self.undrained = 0;
        self.just_left.clear();
        let sources = self.sources.values_mut().map(|source| &mut source.bound);
        for bound in sources
            .chain(self.groups.values_mut())
            .chain([&mut self.whole])
        {
            bound.unsettled = false;
        }
        self.blamed.clear();
    }

    fn audit_obligations(&mut self) {
        for (waiter, why) in std::mem::take(&mut self.owed) {
            assert!(
                !self.waiters.contains_key(&waiter),
                "I1: {waiter:?} has no outcome: {why}"
            );
        }
        for (fetch, why) in std::mem::take(&mut self.over) {
            let Some(fetch) = self.fetches.get(&fetch) else {
                continue;
            };
            // A late joiner whose verdict differs may set it to work again at once.
            let at_work = fetch.live.iter().find(|a| !self.attempts[*a].aborting);
            assert!(
                at_work.is_none() || self.lenient(),
                "c5: {at_work:?} goes on after {why}"
            );
        }
        for attempt in std::mem::take(&mut self.too_large) {
            let Some(attempt) = self.attempts.get(&attempt) else {
                continue;
            };
            assert!(
                attempt.aborting || attempt.end.is_some(),
                "I2: an attempt of {:?} goes on beyond its plan's bytes",
                attempt.source
            );
        }
        assert!(
            self.blocks_owed.is_empty(),
            "c7: {:?} should have been blocked",
            self.blocks_owed
        );
        let blocked = |s: &SourceId| {
            self.sources[s]
                .blocked
                .is_some_and(|t| t.is_none_or(|t| t > self.now))
        };
        for (id, attempt) in &self.attempts {
            let live = attempt.end.is_none() && !attempt.declined;
            assert!(
                !live || attempt.aborting || !blocked(&attempt.source),
                "I5: {id:?} goes on at {:?}, which is blocked",
                attempt.source
            );
        }
    }

    fn audit_counts(&self, snapshot: &Snapshot<Key>, counters: &Counters) {
        let live = self.live().count();
        assert_eq!(snapshot.attempts as usize, live, "I2: attempts under way");
        assert_eq!(snapshot.waiters as usize, self.waiters.len(), "I1: waiters");
        assert!(snapshot.racing <= self.config.racing_max, "I2: racing");
        assert!(snapshot.bytes <= self.config.bytes_max, "I2: bytes");
        assert!(
            snapshot.fetches.len() <= self.config.fetches_max as usize,
            "I2: fetches"
        );
        assert!(
            snapshot.waiters <= self.config.waiters_max,
            "I2: waiters beyond the bound"
        );
        let tally = &self.tally;
        let pairs = [
            ("wants", counters.wants, tally.wants),
            ("released", counters.released, tally.released),
            ("answered", counters.answered, tally.answered),
            ("failed", counters.failed, tally.failed),
            ("expired", counters.expired, tally.expired),
            ("attempts", counters.attempts, tally.attempts),
            ("declined", counters.declined, tally.declined),
            ("committed", counters.committed, tally.committed),
            ("commit_faults", counters.commit_faults, tally.commit_faults),
            ("fetches", counters.fetches, tally.fetches),
        ];
        for (name, theirs, ours) in pairs {
            assert_eq!(theirs, ours, "c13: the counter `{name}`");
        }
        assert_eq!(
            counters.verdicts, tally.verdicts,
            "c13: the counter `verdicts`"
        );
    }

    fn audit_fetches(&mut self, snapshot: &Snapshot<Key>, wakes: Option<Time>) {
        let mut waiting: BTreeMap<_, BTreeSet<WaiterId>> = BTreeMap::new();
        for (id, waiter) in &self.waiters {
            let fetch = waiter.fetch.expect("settled with its want");
            waiting.entry(fetch).or_default().insert(*id);
        }
        let mut asking: BTreeSet<Key> = BTreeSet::new();
        let mut seen = BTreeSet::new();
        for view in &snapshot.fetches {
            seen.insert(view.fetch);
            let fetch = (self.fetches.get(&view.fetch))
                .unwrap_or_else(|| panic!("I9: {:?} is held, and was never opened", view.fetch));
            let theirs: BTreeSet<WaiterId> = view.waiters.iter().copied().collect();
            assert_eq!(
                theirs.len(),
                view.waiters.len(),
                "I1: a waiter is listed twice"
            );
            let ours = waiting.remove(&view.fetch).unwrap_or_default();
            assert_eq!(theirs, ours, "I1: waiters of {:?}", view.fetch);
            if !ours.is_empty() {
                assert!(
                    asking.insert(view.key),
                    "I1: key {} is fetched twice",
                    view.key
                );
            }
            self.audit_attempts(view, fetch);
            let marks = self.audit_phase(view, fetch, snapshot, wakes);
            let idle = marks.contains(&Mark::LooksAgain);
            let joinable = view.phase == Phase::Racing && self.audit_hedge(fetch, view, wakes);
            for mark in marks {
                self.hit(mark);
            }
            let now = self.now;
            let fetch = self.fetches.get_mut(&view.fetch).expect("just seen");
            fetch.idle_since = idle.then(|| fetch.idle_since.unwrap_or(now));
            fetch.joinable_since = joinable.then(|| fetch.joinable_since.unwrap_or(now));
            if view.phase == Phase::Parked && view.wakes.is_none() {
                let fetch = self.fetches.get_mut(&view.fetch).expect("just seen");
                fetch.starved = true;
            }
        }
        assert!(waiting.is_empty(), "I1: forgotten: {waiting:?}");
        for id in self.fetches.keys() {
            assert!(
                seen.contains(id),
                "I9: {id:?} is gone without being retired"
            );
        }
    }

    fn audit_attempts(&self, view: &FetchView<Key>, fetch: &Fetch) {
        let theirs: BTreeSet<_> = view.attempts.iter().map(|a| a.attempt).collect();
        assert_eq!(theirs, fetch.live, "I2: attempts of {:?}", view.fetch);
        for attempt in &view.attempts {
            let ours = &self.attempts[&attempt.attempt];
            assert_eq!(
                attempt.source, ours.source,
                "c13: whom {:?} asks",
                attempt.attempt
            );
            assert_eq!(
                (attempt.acknowledged, attempt.aborting),
                (ours.acknowledged, ours.aborting),
                "c4: {:?} acknowledged, aborting",
                attempt.attempt
            );
        }
        if fetch.plan.resume && view.phase != Phase::Draining {
            let under_way = fetch.live.iter().filter(|a| !self.attempts[*a].aborting);
            let identities: BTreeSet<u64> = under_way
                .chain(&fetch.bringers)
                .filter_map(|a| self.attempts[a].identity)
                .collect();
            assert!(
                identities.len() <= 1,
                "c6: {:?} goes on with {} identities",
                view.fetch,
                identities.len()
            );
            assert_eq!(
                view.frontier,
                fetch.body.len() as u64,
                "c6: the frontier of {:?}",
                view.fetch
            );
        }
    }

    fn audit_phase(
        &self,
        view: &FetchView<Key>,
        fetch: &Fetch,
        snapshot: &Snapshot<Key>,
        wakes: Option<Time>,
    ) -> Vec<Mark> {
        let id = view.fetch;
        let mut marks = Vec::new();
        if let Some(at) = view.wakes {
            assert!(
                wakes.is_some_and(|wakes| wakes <= at),
                "I6: {id:?} wakes at {at:?}, and no timer is set for it"
            );
        }
        match view.phase {
            Phase::Selecting => {
                assert!(
                    fetch.selecting,
                    "I6: {id:?} waits for a ranking not asked for"
                );
            }
            Phase::Racing => {
                assert!(!view.attempts.is_empty(), "I6: {id:?} races nobody");
            }
            Phase::Judging => {
                assert!(
                    fetch.judging > 0,
                    "I6: {id:?} waits for a verdict not asked for"
                );
            }
            Phase::Committing => {
                assert!(
                    fetch.committing,
                    "I6: {id:?} waits for a commit not asked for"
                );
            }
            Phase::Draining => {
                let busy = !view.attempts.is_empty() || fetch.judging > 0 || fetch.committing;
                assert!(busy, "I9: {id:?} drains, and nothing is left to drain");
                assert!(
                    view.waiters.is_empty(),
                    "I1: {id:?} drains, and somebody waits"
                );
            }
            Phase::Parked => {
                if view.wakes.is_none() {
                    let open = self.startable(fetch, |_| true);
                    // What is due and not yet served may be what ends it: a block that has run out.
                    assert!(
                        open.is_none() || wakes.is_some_and(|at| at <= self.now),
                        "I6: {id:?} is parked for ever, and {open:?} may serve it"
                    );
                }
            }
            Phase::Queued => marks = self.audit_queued(view, fetch, snapshot, wakes),
        }
        marks
    }

    /// A race without news for longer than its plan says is joined by the next round, where nothing
    /// bounds it. Where nobody is free just then, it looks again after the same delay: so no source may
    /// be free for longer than that without joining. Says whether one could join.
    fn audit_hedge(&self, fetch: &Fetch, view: &FetchView<Key>, wakes: Option<Time>) -> bool {
        let plan = &fetch.plan;
        let Some(Hedge::After(delay)) = plan.hedge else {
            return false;
        };
        let begun = fetch.starts_in_cycle;
        let unbounded = plan.rounds_max.is_none_or(|max| begun < max.get())
            && plan.attempts_max.is_none_or(|max| begun < max.get())
            && begun < self.config.rounds_max.min(self.config.attempts_max)
            && self.config.bytes_max >= 1 << 20;
        let plain = fetch.uniform && !fetch.revived && !fetch.alone;
        // Nothing starts once the retry budget's time is over.
        let over = match (plan.retry, fetch.first_start) {
            (Retry::Budget { total, .. }, Some(first)) => first.after(total) <= self.now,
            _ => false,
        };
        let asking = fetch.live.iter().any(|a| !self.attempts[a].aborting);
        if !unbounded || !plain || over || !asking {
            return false;
        }
        let ready = self.startable(fetch, |s| {
            self.sources[&s].health == Some(Health::Healthy)
                && self.paused(s).is_none()
                && self.bound(s, false).is_none()
        });
        let since = ready.and(fetch.joinable_since);
        let late = since.map(|since| {
            let since = since.max(fetch.news);
            since.after(delay.max(Duration::from_millis(1)) + Duration::from_millis(50))
        });
        assert!(
            late.is_none_or(|late| self.timers_served < late)
                || wakes.is_some_and(|at| at <= self.now),
            "c5: {:?} has had no news since {:?}, and {ready:?} does not join the race",
            view.fetch,
            fetch.news
        );
        ready.is_some()
    }

    /// A queued fetch waits for something that is really missing.
    fn audit_queued(
        &self,
        view: &FetchView<Key>,
        fetch: &Fetch,
        snapshot: &Snapshot<Key>,
        wakes: Option<Time>,
    ) -> Vec<Mark> {
        if snapshot.racing >= self.config.racing_max {
            return vec![Mark::RacingFull];
        }
        let short = |f: &FetchView<Key>| {
            let plan = &self.fetches[&f.fetch].plan;
            f.phase == Phase::Queued && snapshot.bytes + plan.body_bytes_max > self.config.bytes_max
        };
        // One that waits for bytes may hold up those behind it.
        if snapshot.fetches.iter().any(short) {
            return vec![Mark::BytesFull];
        }
        // Where any source may serve, a fetch that has tried some waits for a few others by name.
        let named = fetch.targets == Targets::Any && !fetch.attempts.is_empty();
        // A source that has just recovered may have to stand back for one that is busy.
        let busy = self.startable(fetch, |s| {
            self.sources[&s].health == Some(Health::Healthy)
                && self.paused(s).is_none()
                && self.bound(s, true).is_some()
        });
        // One that has failed lately may have to stand back for one that is busy.
        let ready = self.startable(fetch, |s| {
            self.sources[&s].health == Some(Health::Healthy)
                && self.paused(s).is_none()
                && self.bound(s, false).is_none()
        });
        let missed =
            ready.is_some() && !named && busy.is_none() && wakes.is_none_or(|at| at > self.now);
        // A moment may pass before it looks again; a wake-up that was missed lasts.
        let since = fetch.idle_since.filter(|_| missed);
        assert!(
            since.is_none_or(|since| self.now.since(since) < IDLE_MAX),
            "I6: {:?} is queued since {since:?}, and {ready:?} could be asked at once",
            view.fetch
        );
        let rate = |s: SourceId| self.bound(s, true).is_some_and(|why| why.contains("token"));
        let room = |s: SourceId| {
            self.bound(s, true)
                .is_some_and(|why| why.contains("attempts"))
        };
        let mut marks = Vec::new();
        if missed {
            marks.push(Mark::LooksAgain);
        }
        if self.startable(fetch, rate).is_some() {
            marks.push(Mark::RateWaited);
        }
        if self.startable(fetch, room).is_some() {
            marks.push(Mark::ConcurrencyFull);
        }
        marks
    }

    /// A source that this fetch has not asked yet, and that may serve it, for all that is known.
    fn startable(&self, fetch: &Fetch, also: impl Fn(SourceId) -> bool) -> Option<SourceId> {
        if fetch.plan.not_before.is_some_and(|t| self.now < t) {
            return None;
        }
        let candidates = self.candidates(fetch);
        if candidates.len() > self.config.candidates_max as usize {
            // Which of them it considers is left open.
            return None;
        }
        let asked: BTreeSet<SourceId> = fetch
            .attempts
            .iter()
            .map(|a| self.attempts[a].source)
            .collect();
        candidates
            .into_iter()
            .filter(|s| self.barred(*s).is_none())
            .filter(|s| self.now >= self.sources[s].doubtful_until)
            .find(|s| {
                let backs_off = !self.config.try_backed_off
                    && !matches!(self.sources[s].health, None | Some(Health::Healthy));
                !asked.contains(s) && !backs_off && also(*s)
            })
    }

    fn audit_sources(&mut self, snapshot: &Snapshot<Key>) {
        let now = self.now;
        let mut recovered = 0;
        for view in &snapshot.sources {
            let id = view.source;
            // Rankings and target sets may name sources that were never up.
            let Some(ours) = self.sources.get(&id) else {
                assert!(!view.up, "c12: {id:?} is up, and nobody said so");
                continue;
            };
            assert_eq!(view.up, ours.up, "c12: {id:?} is up");
            let blocked = ours.blocked.filter(|until| until.is_none_or(|t| t > now));
            let theirs = view.blocked.filter(|until| until.is_none_or(|t| t > now));
            assert_eq!(theirs, blocked, "c12: {id:?} is blocked");
            let live = self.live().filter(|a| a.source == id).count();
            assert_eq!(view.attempts as usize, live, "I2: attempts at {id:?}");
            assert!(
                view.faults <= ours.faults || self.blamed.contains(&id),
                "c12: {id:?} has {} faults in a row after {}, without cause",
                view.faults,
                ours.faults
            );
            let ours = self.sources.get_mut(&id).expect("just seen");
            ours.faults = view.faults;
            if ours.probed && view.health == Health::Healthy {
                ours.probed = false;
                recovered += 1;
            }
            ours.health = Some(view.health);
        }
        for _ in 0..recovered {
            self.hit(Mark::Recovered);
        }
        for (id, source) in &mut self.sources {
            let held = snapshot.sources.iter().any(|view| view.source == *id);
            assert!(held || !source.up, "c12: {id:?} is up and forgotten");
            if !held {
                source.faults = 0;
            }
        }
    }

    fn audit_deadlines(&self, wakes: Option<Time>) {
        for (id, waiter) in &self.waiters {
            let Some(deadline) = waiter.want.deadline else {
                continue;
            };
            assert!(
                wakes.is_some_and(|at| at <= deadline),
                "I1: no timer for the deadline of {id:?}"
            );
            assert!(
                deadline > self.timers_served,
                "I1: {id:?} outlives its deadline {deadline:?}"
            );
        }
    }

    fn audit_deserted(&self) {
        for (id, fetch) in &self.fetches {
            let Some(deserted) = fetch.deserted else {
                continue;
            };
            let until = fetch.ceiling.map_or(deserted, |c| deserted.after(c));
            if until > self.timers_served && fetch.ceiling.is_some() {
                continue;
            }
            let at_work = fetch.live.iter().find(|a| !self.attempts[*a].aborting);
            assert!(
                at_work.is_none(),
                "c9: {at_work:?} of {id:?} goes on, and nobody has wanted it since {deserted:?}"
            );
        }
    }
}
