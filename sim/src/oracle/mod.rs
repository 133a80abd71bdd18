//! The oracle: every output is checked against the account before the driver acts on it.
//!
//! A violation panics with the number of the invariant first; [`run`](crate::run) catches it and
//! reports the seed. Outputs that may be older than the last input (inputs came between two polls) are
//! judged with the benefit of the doubt.

mod bodies;
mod ends;
mod starts;

use crate::{
    coverage::Mark,
    ledger::{Fetch, Ledger, same_base},
    truth::Key,
};
use gannet_engine::{
    AttemptId, FanoutGrowth, FetchId, Lifetime, Output, Plan, Retry, Targets, Time, Want,
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
