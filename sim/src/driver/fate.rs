//! Fate and the operator: what changes while all of that goes on, and ids that were never given.

use super::{Event, Sim};
use crate::{
    coverage::Mark,
    source::Act,
    truth::Key,
    world::{MS, limits},
};
use gannet_engine::{
    AttemptId, End, Fault, FetchId, GroupId, Input, JudgementId, Scope, SourceId, Time, Verdict,
    WaiterId,
};
use std::time::Duration;

impl Sim {
    pub(super) fn chaos(&mut self) {
        if self.calm {
            return;
        }
        let delay = self.rng.range(0, self.world.chaos);
        self.at(delay, Event::Chaos);
        let source = self.rng.pick(&self.world.sources).id;
        let group = self.rng.pick(&self.world.groups).id;
        let key = self.some_key();
        let soon = self
            .now
            .after(Duration::from_millis(self.rng.range(0, 3000)));
        match self.rng.range(0, 15) {
            0 | 1 => self.go(source),
            2 => self.come(source),
            3 | 4 => {
                let until = (!self.rng.permille(200)).then_some(soon);
                self.feed(Input::Block { source, until });
            }
            5 => self.feed(Input::Unblock { source }),
            6 => {
                let scope = self.scope(source, group);
                self.feed(Input::Pause { scope, until: soon });
            }
            7 => {
                let scope = self.scope(source, group);
                self.limit(scope);
            }
            8 => self.feed(Input::Forget { source }),
            9 => self.feed(Input::Withdraw { source }),
            10 => self.feed(Input::WithdrawFrom { key, source }),
            11 => self.announce(key, source),
            12 => {
                let from = self.rng.permille(500).then_some(source);
                self.feed(Input::Obtained { key, from });
            }
            13 => self.retain(),
            14 => {
                let version = self.rng.range32(0, self.world.versions);
                self.versions.insert(source, version);
            }
            _ => self.move_source(source, group),
        }
    }

    pub(super) fn some_key(&mut self) -> Key {
        let waited: Vec<Key> = self.ledger.waiters.values().map(|w| w.key).collect();
        if waited.is_empty() || self.rng.permille(100) {
            self.rng.range32(0, 1000)
        } else {
            *self.rng.pick(&waited)
        }
    }

    pub(super) fn scope(&mut self, source: SourceId, group: GroupId) -> Scope {
        match self.rng.range(0, 5) {
            0 => Scope::Whole,
            1 | 2 => Scope::Group(group),
            _ => Scope::Source(source),
        }
    }

    pub(super) fn limit(&mut self, scope: Scope) {
        let mut new = limits(&mut self.rng, 8);
        if let Scope::Group(group) = scope {
            // Who is nested in whom stays as it is.
            new.within = self
                .ledger
                .groups
                .get(&group)
                .and_then(|bound| bound.limits.within);
        }
        self.feed(Input::Limit { scope, limits: new });
    }

    pub(super) fn go(&mut self, source: SourceId) {
        if !self.ledger.sources.get(&source).is_some_and(|s| s.up) {
            return;
        }
        self.feed(Input::SourceDown { source });
        self.settle();
        // What was under way ends by itself, soon.
        let cut: Vec<AttemptId> = self
            .ledger
            .attempts
            .iter()
            .filter(|(_, a)| a.source == source && a.end.is_none() && a.acknowledged)
            .map(|(id, _)| *id)
            .collect();
        for id in cut {
            let attempt = self.ledger.attempts.get_mut(&id).expect("just seen");
            if let Some(script) = &mut attempt.script {
                script.acts.clear();
                let end = End::Failed(Fault::Unreachable);
                script.acts.push_back((0, Act::End(end)));
            }
            self.within((0, 200 * MS), Event::Act(id));
        }
        let back = self.rng.range(0, 6000) * MS;
        self.at(back, Event::Return(source));
    }

    pub(super) fn announce(&mut self, key: Key, source: SourceId) {
        self.settle();
        let attempts = self.engine.counters().attempts;
        self.feed_now(Input::Announced { key, source });
        if self.engine.counters().attempts > attempts {
            self.ledger.hit(Mark::AnnouncedWoke);
        }
    }

    pub(super) fn move_source(&mut self, source: SourceId, group: GroupId) {
        if self.ledger.sources.get(&source).is_some_and(|s| s.up) {
            self.feed(Input::SourceUp { source, group });
        }
    }

    /// Cancels about a third of all callers.
    pub(super) fn retain(&mut self) {
        self.settle();
        let salt = self.rng.draw();
        let drops = |waiter: WaiterId| crate::rng::mix(&[waiter.0, salt]).is_multiple_of(3);
        let dropped: Vec<WaiterId> = (self.ledger.waiters.keys().copied())
            .filter(|w| drops(*w))
            .collect();
        self.trace
            .line(self.now, "->", format_args!("retain, without {dropped:?}"));
        self.ledger.seq += 1;
        self.ledger.undrained += 1;
        self.ledger.cancelled.extend(&dropped);
        (self.ledger.owed).extend(dropped.iter().map(|w| (*w, "cancelled")));
        self.engine.retain(self.now, |_, waiter| !drops(waiter));
        self.steps += 1;
        self.settle();
    }

    /// Inputs that mean nothing: ended attempts, unknown ids, things said twice.
    pub(super) fn noise(&mut self) {
        self.settle();
        let ended: Vec<AttemptId> = (self.ledger.attempts.iter())
            .filter(|(_, a)| a.end.is_some() || a.declined)
            .map(|(id, _)| *id)
            .collect();
        let attempt = if ended.is_empty() || self.rng.permille(200) {
            AttemptId(self.rng.draw() | 1 << 60)
        } else {
            self.ledger.hit(Mark::LateInput);
            *self.rng.pick(&ended)
        };
        let before = self.engine.counters().late_inputs;
        let unknown = self.rng.draw() | 1 << 60;
        let input = match self.rng.range(0, 9) {
            0 => Input::Started { attempt },
            1 => Input::Progress {
                attempt,
                upto: u64::MAX,
            },
            2 => Input::Ended {
                attempt,
                end: End::Complete { upto: 3 },
            },
            3 => Input::Opened {
                attempt,
                identity: 1,
                total: Some(u64::MAX),
            },
            4 => Input::Declined {
                attempt,
                until: Time::FAR,
            },
            5 => Input::Heartbeat { attempt },
            6 => Input::Judged {
                judgement: JudgementId(unknown),
                verdict: Verdict::Valid,
            },
            7 => Input::Committed {
                fetch: FetchId(unknown),
                result: Ok(()),
            },
            8 => Input::Candidates {
                fetch: FetchId(unknown),
                ranked: vec![SourceId(0)],
            },
            _ => Input::Release {
                waiter: WaiterId(unknown),
            },
        };
        self.trace.line(self.now, "->", format_args!("{input:?}"));
        let due = self.engine.poll_timeout();
        // Not noted: the account does not change, and neither may the engine's.
        self.ledger.undrained += 1;
        self.engine.handle_input(self.now, input);
        self.steps += 1;
        // What time has made due may be done at any input: a token that has come, say.
        if due.is_none_or(|at| at > self.now) {
            let output = self.engine.poll_output();
            assert!(
                output.is_none(),
                "c4: a late input does something: {output:?}"
            );
        }
        let after = self.engine.counters().late_inputs;
        assert_eq!(after, before + 1, "c13: the counter `late_inputs`");
        self.settle();
    }
}
