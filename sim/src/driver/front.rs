//! The front end: who may serve, whether an answer is right, and whether it could be stored.

use super::Sim;
use crate::truth;
use gannet_engine::{CommitFault, FetchId, Input, JudgementId, SourceId, Verdict};

impl Sim {
    pub(super) fn rank(&mut self, fetch: FetchId) {
        let mut ranked: Vec<SourceId> = self.world.sources.iter().map(|s| s.id).collect();
        self.rng.shuffle(&mut ranked);
        if !self.calm {
            let keep = self.rng.range(1, ranked.len() as u64);
            ranked.truncate(usize::try_from(keep).expect("a few sources"));
            if self.rng.permille(100) {
                ranked.push(SourceId(999));
                ranked.push(ranked[0]);
            }
            if self.rng.permille(self.world.odds.empty_ranking) {
                ranked.clear();
            }
        } else if let Some(me) = self.world.config.me {
            // A ranking cut short must not be all ourselves.
            ranked.retain(|s| *s != me);
        }
        self.feed(Input::Candidates { fetch, ranked });
    }

    pub(super) fn judge(&mut self, id: JudgementId) {
        let Some(judgement) = self.ledger.judgements.get(&id) else {
            return;
        };
        let key = self.ledger.fetches.get(&judgement.fetch).map(|f| f.key);
        let right = match key {
            Some(key) => truth::version_of(
                key,
                &judgement.body,
                self.world.versions,
                self.world.len_max,
            )
            .is_some(),
            // The fetch is gone, and so is anybody who could serve the bytes.
            None => true,
        };
        let odds = &self.world.odds;
        let fuzzy = [
            (odds.judge_partial, Verdict::Partial),
            (odds.judge_ambiguous, Verdict::Ambiguous),
            (odds.judge_ignored, Verdict::Ignored),
            (odds.judge_gives_up, Verdict::GaveUp),
        ];
        let mut verdict = if right {
            Verdict::Valid
        } else {
            Verdict::Invalid
        };
        for (odds, other) in fuzzy {
            if !self.calm && self.rng.permille(odds) {
                verdict = other;
            }
        }
        self.feed(Input::Judged {
            judgement: id,
            verdict,
        });
    }

    pub(super) fn stored(&mut self, fetch: FetchId) {
        let odds = &self.world.odds;
        let (exists, fails) = (odds.commit_exists, odds.commit_fails);
        let result = if self.calm {
            Ok(())
        } else if self.rng.permille(fails) {
            Err(*self
                .rng
                .pick(&[CommitFault::Full, CommitFault::Io, CommitFault::Closed]))
        } else if self.rng.permille(exists) {
            Err(CommitFault::Exists)
        } else {
            Ok(())
        };
        self.feed(Input::Committed { fetch, result });
    }
}
