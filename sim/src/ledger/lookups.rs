//! What the account says when it is asked.

use super::{Attempt, Fetch, Ledger};
use gannet_engine::{
    End, FetchError, FetchId, GroupId, HowEnded, Retry, SourceId, Targets, Time, Verdict, WaiterId,
};
use std::time::Duration;

impl Ledger {
    /// A group and those that it is nested in.
    pub fn chain(&self, group: GroupId) -> Vec<GroupId> {
        let mut chain = vec![group];
        while let Some(outer) = self.groups[&chain[chain.len() - 1]].limits.within {
            if chain.contains(&outer) {
                break;
            }
            chain.push(outer);
            if !self.groups.contains_key(&outer) {
                break;
            }
        }
        chain
    }

    /// Attempts not ended.
    pub fn live(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts
            .values()
            .filter(|a| a.end.is_none() && !a.declined)
    }

    /// Why a source cannot be asked whatever the bounds: it is not there, or out of bounds for all.
    pub fn barred(&self, id: SourceId) -> Option<&'static str> {
        if self.config.me == Some(id) {
            return Some("it is ourselves");
        }
        let Some(source) = self.sources.get(&id) else {
            return Some("it was never up");
        };
        match source.blocked {
            _ if !source.up => Some("it is down"),
            Some(None) => Some("it is blocked"),
            Some(Some(until)) if self.now < until => Some("it is blocked for a while"),
            _ => None,
        }
    }

    /// Why a source cannot be asked just now: a pause of its own, its groups' or everybody's.
    pub fn paused(&self, id: SourceId) -> Option<&'static str> {
        let source = &self.sources[&id];
        let source_pause = source.bound.paused_until;
        if self.now < source.declined_until {
            return Some("its host declined until later");
        }
        if self.now < source.busy_until {
            return Some("it asked to be left alone");
        }
        if self.now < source_pause {
            return Some("it is paused");
        }
        if self.now < self.whole.paused_until {
            return Some("everything is paused");
        }
        let group_paused = |g: &GroupId| {
            self.groups
                .get(g)
                .is_some_and(|bound| self.now < bound.paused_until)
        };
        if self.chain(source.group).iter().any(group_paused) {
            return Some("its group is paused");
        }
        None
    }

    /// Which bound, if any, another start at this source would exceed. The attempt that is being
    /// checked is not yet counted. With `slack`, doubts are decided for the engine.
    pub fn bound(&self, id: SourceId, slack: bool) -> Option<String> {
        let source = &self.sources[&id];
        if source.unacknowledged.is_some() {
            return Some("a start not acknowledged".into());
        }
        let at_source = self.live().filter(|a| a.source == id).count();
        if at_source >= source.bound.limits.concurrent_max.get() as usize {
            return Some(format!("{at_source} attempts at the source"));
        }
        if !source.bound.has_token(self.now, slack) {
            return Some("no token of the source".into());
        }
        for group in self.chain(source.group) {
            let Some(bound) = self.groups.get(&group) else {
                continue;
            };
            // An attempt whose source has moved since may count where it was or where it is.
            let counts = |a: &&Attempt| {
                let is = self.sources[&a.source].group;
                let among = |of: GroupId| self.chain(of).contains(&group);
                if slack {
                    is == a.group && among(is)
                } else {
                    among(is) || among(a.group)
                }
            };
            let count = self.live().filter(counts).count();
            if count >= bound.limits.concurrent_max.get() as usize {
                return Some(format!("{count} attempts in {group:?}"));
            }
            if !bound.has_token(self.now, slack) {
                return Some(format!("no token of {group:?}"));
            }
        }
        let all = self.live().count();
        if all >= self.whole.limits.concurrent_max.get() as usize {
            return Some(format!("{all} attempts in all"));
        }
        if !self.whole.has_token(self.now, slack) {
            return Some("no token of the whole".into());
        }
        None
    }

    /// The sources that a fetch may be served by, as far as is known.
    pub fn candidates(&self, fetch: &Fetch) -> Vec<SourceId> {
        match &fetch.targets {
            Targets::Ranked => fetch.ranked.clone().unwrap_or_default(),
            Targets::Any => self.sources.keys().copied().collect(),
            Targets::Only(only) => only.clone(),
        }
    }

    /// Which timer of an attempt has run out by now.
    pub fn timers_due(&self, attempt: &Attempt) -> [bool; 3] {
        let Some(fetch) = self.fetches.get(&attempt.fetch) else {
            return [false; 3];
        };
        let plan = &fetch.plan;
        let due = |from: Time, period: Duration| from.after(period) <= self.now;
        [
            attempt.sign.is_none() && due(attempt.since, plan.first_byte_timeout),
            attempt
                .sign
                .is_some_and(|sign| due(sign, plan.idle_timeout)),
            due(attempt.since, plan.total_timeout),
        ]
    }

    /// Whether a plan ends only with success or the last waiter.
    pub fn persistent(fetch: &Fetch) -> bool {
        matches!(fetch.plan.retry, Retry::UntilReleased { .. })
    }

    /// Whether a way of ending in a list of tried sources fits the account.
    pub fn fits(attempt: &Attempt, how: HowEnded) -> bool {
        let judged = match how {
            HowEnded::Partial => Some(Verdict::Partial),
            HowEnded::Ambiguous => Some(Verdict::Ambiguous),
            HowEnded::Invalid => Some(Verdict::Invalid),
            HowEnded::Uncommitted => Some(Verdict::Valid),
            _ => None,
        };
        if judged.is_some() {
            // Whoever brought a part of the answer shares its verdict.
            return attempt.verdict == judged;
        }
        match (attempt.end, how) {
            (_, HowEnded::Aborted | HowEnded::Failed(_)) if attempt.aborting => true,
            (None, HowEnded::Unfinished) => true,
            (Some(End::Missing), HowEnded::Missing)
            | (Some(End::Busy { .. }), HowEnded::Busy)
            | (Some(End::Aborted), HowEnded::Aborted) => true,
            (Some(End::Failed(fault)), HowEnded::Failed(said)) => fault == said,
            (Some(End::Complete { .. }), HowEnded::Unfinished | HowEnded::Aborted) => true,
            _ => false,
        }
    }

    /// Whether an error was to be expected for a waiter, and if not, why not.
    ///
    /// Its fetch is the one that the outcome names: who joins and fails at once was not seen joining.
    pub fn error_expected(
        &self,
        waiter: WaiterId,
        named: Option<FetchId>,
        error: FetchError,
    ) -> Result<(), String> {
        let entry = &self.waiters[&waiter];
        let fetch = named.or(entry.fetch).and_then(|id| self.fetches.get(&id));
        let persistent = fetch.is_some_and(|f| f.uniform && Self::persistent(f));
        let fits = match error {
            FetchError::Expired => entry.want.deadline.is_some_and(|d| d <= self.now),
            FetchError::Cancelled => self.cancelled.contains(&waiter),
            FetchError::Ignored => {
                self.given_up.contains(&waiter) || fetch.is_some_and(|f| f.ignored)
            }
            FetchError::Commit(fault) => {
                !persistent && fetch.is_some_and(|f| f.commit_fault == Some(fault))
            }
            FetchError::NoCandidates => {
                !persistent
                    && fetch.is_none_or(|f| {
                        // A driver serves timers before wants: until then, a block that has run out
                        // is one.
                        let served = |s: &SourceId| {
                            let until = self.sources[s].blocked.flatten();
                            until.is_none_or(|until| until <= self.timers_served)
                        };
                        let open = |s: &SourceId| self.barred(*s).is_none() && served(s);
                        let candidates = self.candidates(f);
                        // Which of too many it considers is left open.
                        self.lenient()
                            || candidates.len() > self.config.candidates_max as usize
                            || !candidates.iter().any(open)
                            // Whose last waiter had left may be bound to the newcomer's targets alone.
                            || f.revived
                                && matches!(&entry.want.targets, Targets::Only(only) if !only.iter().any(open))
                    })
            }
            FetchError::Exhausted => !persistent,
            FetchError::Overloaded => {
                self.waiters.len() > self.config.waiters_max as usize
                    || self.fetches.len() >= self.config.fetches_max as usize
                    || entry.want.plan.body_bytes_max > self.config.bytes_max
            }
        };
        if fits {
            return Ok(());
        }
        Err(format!(
            "{waiter:?} of key {} got {error:?} without cause",
            entry.key
        ))
    }
}
