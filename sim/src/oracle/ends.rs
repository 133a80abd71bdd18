//! Whether callers get what is due to them, and fetches and sources end as they must.

use super::capacity;
use crate::{
    coverage::Mark,
    ledger::{Attempt, Ledger},
};
use gannet_engine::{
    Commit, FetchError, FetchId, Outcome, Retry, SourceId, Stage, Time, Tried, WaiterId, Want,
};
use std::{collections::BTreeSet, sync::Arc};

impl Ledger {
    pub(super) fn check_finish(&mut self, id: WaiterId, fetch: Option<FetchId>, outcome: &Outcome) {
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

    pub(super) fn check_datum(
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

    pub(super) fn check_tried(
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

    pub(super) fn mark_error(&mut self, error: FetchError) {
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

    pub(super) fn check_retired(&mut self, id: FetchId) {
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

    pub(super) fn check_blocked(&mut self, source: SourceId, until: Time) {
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
