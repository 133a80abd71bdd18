//! What goes into the engine is noted: wants, declines, operators' doings, pauses, timeouts.

use super::{Ledger, Waiter};
use crate::{coverage::Mark, truth::Key};
use gannet_engine::{FetchId, Input, Scope, Silence, SourceId, Targets, Time, WaiterId, Want};
use std::collections::BTreeSet;

impl Ledger {
    /// Notes an input before the engine gets it.
    pub fn note(&mut self, input: &Input<Key>) {
        self.seq += 1;
        self.undrained += 1;
        match input {
            Input::Want { waiter, key, want } => self.note_want(*waiter, *key, want),
            Input::Release { waiter } => {
                // Who has its outcome already, and only has not read it, leaves nothing.
                let told = self.owed.iter().any(|(owed, _)| owed == waiter);
                if !told && let Some(left) = self.part(*waiter) {
                    self.tally.released += 1;
                    self.just_left.insert(*waiter, left);
                }
            }
            Input::Deadline { waiter, deadline } => {
                if let Some(waiter) = self.waiters.get_mut(waiter) {
                    let later = |old: Time| deadline.is_none_or(|new| new > old);
                    waiter.old_deadline = waiter.want.deadline.filter(|old| later(*old));
                    waiter.want.deadline = *deadline;
                }
            }
            Input::Candidates { fetch, ranked } => {
                let max = self.config.candidates_max as usize;
                if let Some(fetch) = self.fetches.get_mut(fetch) {
                    let mut seen = BTreeSet::new();
                    let ranked = ranked.iter().copied().filter(|s| seen.insert(*s));
                    fetch.ranked = Some(ranked.take(max).collect());
                    fetch.selecting = false;
                }
            }
            Input::Announced { key, source } => {
                // Who says that it has the key takes back that it will never serve it.
                if let Some(id) = self.by_key.get(key)
                    && let Some(fetch) = self.fetches.get_mut(id)
                {
                    fetch.refused_for_good.remove(source);
                }
            }
            Input::Heartbeat { attempt } => self.sign(*attempt),
            Input::Declined { attempt, until } => self.note_declined(*attempt, *until),
            Input::Started { attempt } => self.acknowledge(*attempt),
            Input::Opened {
                attempt,
                identity,
                total,
            } => self.note_opened(*attempt, *identity, *total),
            Input::Progress { attempt, upto } => {
                self.sign(*attempt);
                self.note_upto(*attempt, *upto);
            }
            Input::Ended { attempt, end } => self.note_ended(*attempt, *end),
            Input::Judged { judgement, verdict } => self.note_judged(*judgement, *verdict),
            Input::Committed { fetch, result } => self.note_committed(*fetch, *result),
            Input::Obtained { key, from } => self.note_obtained(*key, *from),
            _ => self.note_operator(input),
        }
    }

    pub(super) fn note_want(&mut self, id: WaiterId, key: Key, want: &Want) {
        if self.waiters.contains_key(&id) {
            return;
        }
        self.tally.wants += 1;
        self.pending = Some(id);
        if let Some(id) = self.by_key.get(&key)
            && let Some(fetch) = self.fetches.get_mut(id)
        {
            self.joined = Some((*id, Box::new(fetch.clone())));
            if fetch.deserted.is_some() {
                self.coverage.hit(Mark::Revived);
            }
            if matches!(
                (&fetch.targets, &want.targets),
                (Targets::Only(_), Targets::Any)
            ) {
                self.coverage.hit(Mark::RestrictionLifted);
            }
            crate::oracle::join(fetch, want, self.timers_served);
        }
        let joined = self.seq;
        self.waiters.insert(
            id,
            Waiter {
                key,
                want: want.clone(),
                joined,
                fetch: None,
                old_deadline: None,
            },
        );
    }

    pub(super) fn note_operator(&mut self, input: &Input<Key>) {
        let now = self.now;
        match *input {
            Input::SourceUp { source, group } => {
                self.group(group);
                let seq = self.seq;
                let source = self.source(source);
                if !source.up {
                    source.up = true;
                    source.steady_since = seq;
                }
                source.group = group;
                source.backed_off_until = Time::ZERO;
            }
            Input::SourceDown { source } => {
                let forgetful = self.config.remembered_sources_max < 64;
                self.unsteady(source);
                let entry = self.source(source);
                entry.up = false;
                if forgetful {
                    // Whether it is forgotten is left open: somebody may wait for it.
                    // Limits of its own are no memory of it, and stay.
                    entry.doubtful_until = (entry.doubtful_until)
                        .max(entry.bound.paused_until)
                        .max(entry.declined_until)
                        .max(entry.busy_until);
                    entry.bound.limit(entry.bound.limits, now);
                    entry.bound.paused_until = Time::ZERO;
                    entry.declined_until = Time::ZERO;
                    entry.busy_until = Time::ZERO;
                    entry.backed_off_until = Time::ZERO;
                }
            }
            Input::Forget { source } => {
                if self.sources.get(&source).is_some_and(|s| !s.up) {
                    self.coverage.hit(Mark::Forgotten);
                    let limits = self.config.source_limits;
                    let entry = self.source(source);
                    // Its bucket stays where somebody still refers to it.
                    entry.bound.limit(limits, now);
                    entry.bound.paused_until = Time::ZERO;
                    entry.doubtful_until = Time::ZERO;
                    entry.declined_until = Time::ZERO;
                    entry.busy_until = Time::ZERO;
                    entry.blocked = None;
                    entry.backed_off_until = Time::ZERO;
                }
            }
            Input::Withdraw { source } => {
                let ids: Vec<FetchId> = self.fetches.keys().copied().collect();
                for id in ids {
                    self.withdraw(id, source);
                }
            }
            Input::WithdrawFrom { key, source } => {
                if let Some(id) = self.by_key.get(&key).copied() {
                    self.withdraw(id, source);
                }
            }
            Input::Block { source, until } => {
                if self.live().any(|a| a.source == source) {
                    self.hit(Mark::BlockedUnderWay);
                }
                self.note_block(source, until);
            }
            Input::Unblock { source } => {
                let entry = self.source(source);
                entry.blocked = None;
                entry.block_ran_out = false;
            }
            Input::Limit { scope, limits } => match scope {
                Scope::Source(source) => {
                    let entry = self.source(source);
                    entry.bound.limit(limits, now);
                }
                Scope::Group(group) => {
                    self.group(group).limit(limits, now);
                    // The outer one is there from now on, with the bounds of any group.
                    if let Some(outer) = limits.within {
                        self.group(outer);
                    }
                }
                Scope::Whole => self.whole.limit(limits, now),
            },
            Input::Pause { scope, until } => self.note_pause(scope, until),
            _ => unreachable!("noted elsewhere"),
        }
    }

    pub(super) fn note_pause(&mut self, scope: Scope, until: Time) {
        self.hit(Mark::Paused);
        self.unsteady_all();
        let now = self.now;
        // Whether the longest pause that a source can impose holds here too is left open.
        let until = until.min(now.after(self.config.health.pause_max));
        match scope {
            Scope::Source(source) => {
                let forgetful = self.config.remembered_sources_max < 64;
                let entry = self.source(source);
                // The operator's word goes before what the source or its host said.
                entry.declined_until = Time::ZERO;
                entry.busy_until = Time::ZERO;
                // Where little is remembered, the pause of one that is down may be forgotten at once, or
                // kept as long as somebody waits for it.
                let held = entry.up || !forgetful;
                entry.bound.paused_until = if held { until } else { Time::ZERO };
                entry.doubtful_until = if held { Time::ZERO } else { until };
            }
            Scope::Group(group) => self.group(group).paused_until = until,
            Scope::Whole => self.whole.paused_until = until,
        }
    }

    /// A source is blocked, by the driver or by the engine.
    pub fn note_block(&mut self, source: SourceId, until: Option<Time>) {
        self.unsteady(source);
        let entry = self.source(source);
        entry.blocked = Some(until);
        entry.block_ran_out = until.is_some();
    }

    pub(super) fn withdraw(&mut self, fetch: FetchId, source: SourceId) {
        let Some(fetch) = self.fetches.get_mut(&fetch) else {
            return;
        };
        if let Targets::Only(only) = &mut fetch.targets
            && only.contains(&source)
        {
            only.retain(|s| *s != source);
            self.coverage.hit(Mark::TargetWithdrawn);
        }
    }

    /// Notes that the engine is told the time: sources whose attempts have run out may be blamed.
    pub fn note_timeout(&mut self) {
        self.undrained += 1;
        self.timers_served = self.now;
        let late: Vec<(SourceId, Silence, [bool; 3])> = self
            .live()
            .filter(|a| !a.aborting)
            .filter_map(|a| {
                let due = self.timers_due(a);
                let plan = &self.fetches.get(&a.fetch)?.plan;
                // By whose plan one goes that nobody wanted for a while is the engine's business.
                let revived = self.fetches.get(&a.fetch)?.revived;
                let silence = if revived {
                    Silence::Fault
                } else {
                    plan.silence
                };
                // When a window of throughput begins is the engine's business.
                let drips = plan.throughput_floor.is_some() && a.sign.is_some();
                (drips || revived || due.contains(&true)).then_some((a.source, silence, due))
            })
            .collect();
        for (source, silence, due) in late {
            let marks = [
                Mark::FirstByteTimeout,
                Mark::IdleTimeout,
                Mark::TotalTimeout,
            ];
            for mark in marks.iter().zip(due).filter(|(_, due)| *due) {
                self.hit(*mark.0);
            }
            if silence == Silence::Fault {
                self.blame(source);
                self.unsteady(source);
            }
        }
    }

    pub(super) fn note_committed(
        &mut self,
        id: FetchId,
        result: Result<(), gannet_engine::CommitFault>,
    ) {
        use gannet_engine::CommitFault;
        let Some(fetch) = self.fetches.get_mut(&id) else {
            return;
        };
        if !fetch.committing {
            return;
        }
        fetch.committing = false;
        match result {
            Ok(()) | Err(CommitFault::Exists) => {
                self.tally.committed += 1;
                self.coverage.hit(if result.is_ok() {
                    Mark::Committed
                } else {
                    Mark::CommitExists
                });
                if fetch.commit_faults > 0 {
                    self.coverage.hit(Mark::CommittedAfterFailure);
                }
                if let Some(valid) = &mut fetch.valid {
                    valid.committed = true;
                    let judged: Vec<WaiterId> = valid.judged_for.iter().copied().collect();
                    let owed = judged
                        .into_iter()
                        .filter(|w| self.waiters.get(w).is_some_and(|w| w.fetch == Some(id)));
                    self.owed.extend(owed.map(|w| (w, "committed")));
                }
            }
            Err(fault) => {
                self.tally.commit_faults += 1;
                self.coverage.hit(Mark::CommitFailed);
                fetch.commit_fault = Some(fault);
                fetch.commit_faults += 1;
                if fetch.commit == gannet_engine::Commit::BeforeFinish {
                    fetch.given_up += 1;
                }
            }
        }
    }

    pub(super) fn note_obtained(&mut self, key: Key, from: Option<SourceId>) {
        let Some(id) = self.by_key.get(&key).copied() else {
            return;
        };
        // Whoever comes while its commit goes on has the answer judged anew: what is still to be said
        // for those who have the datum now is no concern of theirs.
        if let Some(fetch) = self.fetches.get_mut(&id) {
            fetch.given_up += 1;
        }
        let alive: Vec<WaiterId> = (self.waiters.iter())
            .filter(|(_, waiter)| waiter.key == key)
            .map(|(id, _)| *id)
            .collect();
        if alive.is_empty() {
            return;
        }
        let Some(fetch) = self.fetches.get_mut(&id) else {
            return;
        };
        fetch.obtained = Some(from);
        self.coverage.hit(Mark::Obtained);
        if fetch.judging > 0 {
            self.coverage.hit(Mark::ObtainedWhileJudging);
        }
        self.owed.extend(alive.iter().map(|w| (*w, "obtained")));
        self.over.push((id, "obtained"));
    }
}
