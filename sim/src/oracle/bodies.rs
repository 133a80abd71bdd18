//! Whether bytes are taken, judged, committed and put aside as they must be.

use crate::{
    coverage::Mark,
    ledger::{Fetch, Judgement, Ledger, Valid},
    truth,
};
use gannet_engine::{AttemptId, End, FetchId, JudgementId, SourceId, WaiterId};
use std::collections::BTreeSet;

impl Ledger {
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
    pub(super) fn body_of(&self, fetch: &Fetch, last: AttemptId) -> Vec<u8> {
        if fetch.plan.resume {
            fetch.body.clone()
        } else {
            self.attempts[&last].body.clone()
        }
    }

    pub(super) fn check_judge(
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
    pub(super) fn check_honest_body(&self, fetch: &Fetch, contributors: &[AttemptId], body: &[u8]) {
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

    pub(super) fn check_commit(&mut self, id: FetchId) {
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
    pub(super) fn check_valid_bytes(&self, id: FetchId, valid: &Valid) {
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

    pub(super) fn check_discard(&mut self, id: AttemptId) {
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
}
