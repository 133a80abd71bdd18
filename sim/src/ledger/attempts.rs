//! What becomes of attempts and answers is noted.

use super::{Attempt, Ledger, Valid, least};
use crate::coverage::Mark;
use gannet_engine::{
    AttemptId, End, JudgementId, OnInvalid, Silence, SourceId, Time, Verdict, WaiterId,
};

impl Ledger {
    pub(super) fn note_declined(&mut self, id: AttemptId, until: Time) {
        let now = self.now;
        let Some(attempt) = self.attempts.get_mut(&id) else {
            return;
        };
        if attempt.end.is_some() || attempt.declined || attempt.acknowledged {
            return;
        }
        attempt.declined = true;
        let (source_id, fetch) = (attempt.source, attempt.fetch);
        let group = attempt.group;
        self.tally.declined += 1;
        self.coverage.hit(Mark::Declined);
        for group in self.chain(group) {
            if let Some(bound) = self.groups.get_mut(&group) {
                bound.refund(now);
            }
        }
        self.whole.refund(now);
        self.unsteady(source_id);
        let source = self.source(source_id);
        source.unacknowledged = None;
        source.declined_until = source.declined_until.max(until);
        source.was_declined = true;
        source.bound.refund(now);
        if let Some(fetch) = self.fetches.get_mut(&fetch) {
            fetch.live.remove(&id);
            fetch.attempts.retain(|a| *a != id);
            fetch.attempts_in_cycle = fetch.attempts_in_cycle.saturating_sub(1);
            if fetch.attempts.is_empty() {
                fetch.first_start = None;
            }
        }
    }

    pub(super) fn acknowledge(&mut self, id: AttemptId) {
        let Some(attempt) = self.attempts.get_mut(&id) else {
            return;
        };
        attempt.acknowledged = true;
        let source = attempt.source;
        let source = self.source(source);
        if source.unacknowledged == Some(id) {
            source.unacknowledged = None;
        }
    }

    pub(super) fn sign(&mut self, id: AttemptId) {
        let now = self.now;
        if let Some(attempt) = self.attempts.get_mut(&id)
            && attempt.end.is_none()
        {
            attempt.sign = Some(now);
            if let Some(fetch) = self.fetches.get_mut(&attempt.fetch) {
                fetch.news = now;
            }
        }
    }

    pub(super) fn note_opened(&mut self, id: AttemptId, identity: u64, total: Option<u64>) {
        self.sign(id);
        let Some(attempt) = self.attempts.get_mut(&id) else {
            return;
        };
        attempt.identity = Some(identity);
        attempt.total = total;
        if let Some(total) = total {
            self.note_length(id, total, true);
            self.note_size(id, total);
        }
    }

    /// An attempt of a shared body says, or shows, how long that is at least, or (`whole`) in all.
    ///
    /// Where sources disagree about it nobody is blamed, and the cycle begins anew with one alone;
    /// also before the first byte, when there is nothing to discard, and also where the attempt that
    /// said otherwise has ended.
    pub(super) fn note_length(&mut self, id: AttemptId, length: u64, whole: bool) {
        let attempt = &self.attempts[&id];
        let (fetch_id, identity) = (attempt.fetch, attempt.identity);
        let differs = |(other, a): (&AttemptId, &Attempt)| {
            let showed = match a.end {
                Some(End::Complete { upto }) => Some(upto),
                _ => None,
            };
            let mut says = [a.total, showed].into_iter().flatten();
            let otherwise = if whole {
                says.any(|says| says != length) || a.upto > length
            } else {
                says.any(|says| says < length)
            };
            *other != id && a.fetch == fetch_id && a.identity == identity && otherwise
        };
        let disagreed = self.attempts.iter().any(differs);
        if let Some(fetch) = self.fetches.get_mut(&fetch_id)
            && fetch.plan.resume
            && (disagreed || whole && (fetch.body.len() as u64) > length)
        {
            fetch.attempts_in_cycle = 0;
            fetch.alone = true;
        }
    }

    pub(super) fn note_upto(&mut self, id: AttemptId, upto: u64) {
        if let Some(attempt) = self.attempts.get_mut(&id) {
            attempt.upto = attempt.upto.max(upto);
            self.note_length(id, upto, false);
        }
        self.note_size(id, upto);
    }

    /// Whoever claims or brings more than the plan allows may be blamed for it.
    pub(super) fn note_size(&mut self, id: AttemptId, size: u64) {
        let attempt = &self.attempts[&id];
        if let Some(fetch) = self.fetches.get(&attempt.fetch)
            && (size > fetch.plan.body_bytes_max || attempt.total.is_some_and(|t| size > t))
            && !attempt.aborting
            && attempt.end.is_none()
        {
            let source = attempt.source;
            self.blame(source);
            self.coverage.hit(Mark::TooLarge);
            self.too_large.push(id);
        }
    }

    pub(super) fn note_ended(&mut self, id: AttemptId, end: End) {
        let now = self.now;
        self.acknowledge(id);
        let Some(attempt) = self.attempts.get_mut(&id) else {
            return;
        };
        if attempt.end.is_some() || attempt.declined {
            return;
        }
        attempt.end = Some(end);
        let (source_id, fetch_id, aborting) = (attempt.source, attempt.fetch, attempt.aborting);
        let began = attempt.since;
        if let End::Complete { upto } = end {
            if aborting {
                self.coverage.hit(Mark::CompleteAfterAbort);
            }
            self.note_length(id, upto, true);
            self.note_size_of_end(id, upto);
        }
        if let Some(fetch) = self.fetches.get_mut(&fetch_id) {
            fetch.live.remove(&id);
            fetch.news = now;
            if let End::Failed(fault) = end
                && !fault.may_pass()
                && !aborting
            {
                fetch.refused_for_good.insert(source_id);
            }
        }
        let health = self.config.health;
        // A timeout that the host reports is silence like any other; whose plan counts after a revival
        // is open.
        let excused = end == End::Failed(gannet_engine::Fault::TimedOut)
            && self
                .fetches
                .get(&fetch_id)
                .is_none_or(|f| f.revived || f.plan.silence == Silence::Nothing);
        match end {
            End::Complete { .. } | End::Missing => {
                self.source(source_id).backed_off_until = Time::ZERO;
            }
            End::Failed(fault) if fault.blames_source() => {
                self.blamed.insert(source_id);
                if !aborting && !excused {
                    let until =
                        now.after(least(health.backoff.base, health.backoff.jitter_permille));
                    let forgiven = health.faults_forgiven > 0;
                    let source = self.source(source_id);
                    // What began before the last fault is part of it.
                    let anew = began >= source.last_fault;
                    source.last_fault = now;
                    if !forgiven && anew {
                        source.backed_off_until = source.backed_off_until.max(until);
                    }
                    self.unsteady(source_id);
                }
            }
            End::Busy { retry_after } => {
                self.blamed.insert(source_id);
                self.unsteady(source_id);
                if !aborting {
                    let jitter = health.backoff.jitter_permille;
                    let pause = retry_after.map_or_else(
                        || least(health.busy_pause.min(health.backoff.cap), jitter),
                        |named| named.min(health.pause_max),
                    );
                    let until = now.after(pause.min(health.pause_max));
                    let source = self.source(source_id);
                    source.busy_until = source.busy_until.max(until);
                    self.coverage.hit(Mark::Throttled);
                }
            }
            _ => {}
        }
    }

    pub(super) fn note_size_of_end(&mut self, id: AttemptId, upto: u64) {
        let attempt = &self.attempts[&id];
        if let Some(fetch) = self.fetches.get(&attempt.fetch)
            && upto > fetch.plan.body_bytes_max
        {
            let source = attempt.source;
            self.blame(source);
        }
    }

    /// A source may have a fault more. What it was asked before that is part of the same incident.
    pub(super) fn blame(&mut self, source: SourceId) {
        let now = self.now;
        self.blamed.insert(source);
        self.source(source).last_fault = now;
    }

    pub(super) fn note_judged(&mut self, id: JudgementId, verdict: Verdict) {
        let Some(judgement) = self.judgements.remove(&id) else {
            return;
        };
        self.tally.verdicts[verdict as usize] += 1;
        let seq = self.seq;
        let alone = judgement.contributors.len() == 1;
        for contributor in &judgement.contributors {
            // What a judge says later, of an accepted answer for late waiters, does not change that it
            // was accepted.
            if let Some(attempt) = self.attempts.get_mut(contributor)
                && attempt.verdict != Some(Verdict::Valid)
            {
                attempt.verdict = Some(verdict);
            }
        }
        if matches!(verdict, Verdict::Valid | Verdict::Partial) {
            for source in &judgement.sources {
                self.source(*source).backed_off_until = Time::ZERO;
            }
        }
        if verdict == Verdict::Invalid && alone && !judgement.again {
            match judgement.on_invalid {
                OnInvalid::Score => {
                    self.blame(judgement.sources[0]);
                    self.unsteady(judgement.sources[0]);
                }
                OnInvalid::Block(period) => {
                    // A longer block that stands already is not shortened.
                    let source = judgement.sources[0];
                    let standing = match self.source(source).blocked {
                        Some(until) => until.unwrap_or(Time::FAR),
                        None => Time::ZERO,
                    };
                    let until = self.now.after(period).max(standing);
                    self.blocks_owed.push((source, until));
                }
                OnInvalid::Host => {}
            }
        }
        self.hit(match verdict {
            Verdict::Valid => Mark::Valid,
            Verdict::Partial => Mark::Partial,
            Verdict::Ambiguous => Mark::Ambiguous,
            Verdict::Invalid => Mark::Invalid,
            Verdict::Ignored => Mark::Ignored,
            Verdict::GaveUp => Mark::GaveUp,
        });
        let Some(fetch) = self.fetches.get_mut(&judgement.fetch) else {
            self.hit(Mark::VerdictAfterCancel);
            return;
        };
        fetch.judging -= 1;
        if fetch.deserted.is_some() {
            self.coverage.hit(Mark::VerdictAfterCancel);
        }
        // Once its commit has failed, an answer is given up: nobody is served from it, and what a judge
        // says of it for late waiters is of no concern to the fetch, which brings another.
        // Where nobody insisted on the commit, it stands.
        let current = judgement.given_up == fetch.given_up;
        // Whether those who had left insisted still counts for who takes the fetch up is left open.
        let maybe = current || fetch.revived;
        if verdict == Verdict::Invalid && !alone {
            fetch.alone = true;
            fetch.many_invalid += 1;
            self.coverage.hit(Mark::ManyContributorsInvalid);
        }
        let alive: Vec<WaiterId> = (self.waiters.iter())
            .filter(|(_, waiter)| waiter.fetch == Some(judgement.fetch))
            .map(|(id, _)| *id)
            .collect();
        let named = || judgement.waiters.iter().filter(|w| alive.contains(w));
        match verdict {
            Verdict::Valid => {
                let same = |valid: &Valid| valid.contributors == judgement.contributors;
                if fetch.valid.as_ref().is_some_and(same) {
                    let valid = fetch.valid.as_mut().expect("just seen");
                    valid.judged_for.extend(&judgement.waiters);
                } else if current {
                    fetch.valid = Some(Valid {
                        contributors: judgement.contributors.clone(),
                        sources: judgement.sources.clone(),
                        judged_for: judgement.waiters.iter().copied().collect(),
                        at: seq,
                        committed: false,
                        commit_asked: false,
                        held: true,
                    });
                    if !fetch.live.is_empty() {
                        self.over.push((judgement.fetch, "a valid answer"));
                    }
                }
            }
            Verdict::Ignored if maybe && !alive.is_empty() => {
                self.given_up.extend(&alive);
                if current {
                    fetch.ignored = true;
                    self.owed.extend(alive.iter().map(|w| (*w, "ignored")));
                    self.over.push((judgement.fetch, "an ignored key"));
                }
            }
            Verdict::GaveUp if maybe => {
                self.given_up.extend(named());
                if current {
                    self.owed.extend(named().map(|w| (*w, "the judge gave up")));
                }
            }
            _ => {}
        }
    }
}
