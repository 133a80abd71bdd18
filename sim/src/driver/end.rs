//! The end: nothing is wrong any more, everybody is answered, and nothing is left.

use super::{Event, Sim, persistent};
use crate::{
    truth::Key,
    world::{KeySpec, Naming},
};
use gannet_engine::{Input, Retry, Scope, SourceId, Targets, WaiterId, Want};
use std::{cmp::Reverse, sync::Arc, time::Duration};

impl Sim {
    /// Faults stop: all sources are up, honest, in one version, and nobody blocks or pauses them.
    pub(super) fn heal(&mut self) {
        self.settle();
        self.calm = true;
        self.trace.line(self.now, "..", format_args!("faults stop"));
        self.queue = self
            .queue
            .drain()
            .filter(|Reverse((_, _, event))| !matches!(event, Event::Leave(_)))
            .collect();
        let loosen = self.rng.permille(500);
        for spec in self.world.sources.clone() {
            self.versions.insert(spec.id, self.world.versions);
            let source = spec.id;
            self.feed(Input::Unblock { source });
            self.come(source);
            let scope = Scope::Source(source);
            self.unbind(scope, loosen);
        }
        for group in self.world.groups.clone() {
            self.unbind(Scope::Group(group.id), loosen);
        }
        self.unbind(Scope::Whole, loosen);
        self.settle();
    }

    pub(super) fn unbind(&mut self, scope: Scope, loosen: bool) {
        let until = self.now;
        self.feed(Input::Pause { scope, until });
        if loosen {
            self.limit(scope);
        }
    }

    /// How long everybody may have to wait once nothing is wrong: the longest pauses that a world
    /// can have, and a token a second for everybody who waits.
    pub(super) fn patience(&self) -> Duration {
        Duration::from_secs(120) + Duration::from_secs(4) * self.waiters_len()
    }

    pub(super) fn waiters_len(&self) -> u32 {
        u32::try_from(self.ledger.waiters.len()).expect("a few waiters")
    }

    /// Those who wait and could be served.
    pub(super) fn waiting(&self) -> Vec<WaiterId> {
        self.ledger
            .waiters
            .iter()
            .filter(|(_, waiter)| {
                let fetch = waiter.fetch.and_then(|id| self.ledger.fetches.get(&id));
                let hopeless = fetch.is_some_and(|f| match &f.targets {
                    Targets::Only(only) => only.iter().all(|s| self.ledger.barred(*s).is_some()),
                    _ => self.helpless(),
                });
                !hopeless
            })
            .map(|(id, _)| *id)
            .collect()
    }

    /// Whether we are the only source.
    pub(super) fn helpless(&self) -> bool {
        let me = self.world.config.me;
        self.world.sources.iter().all(|s| Some(s.id) == me)
    }

    pub(super) fn release_all(&mut self) {
        let waiting: Vec<WaiterId> = self.ledger.waiters.keys().copied().collect();
        for waiter in waiting {
            self.feed(Input::Release { waiter });
        }
        self.settle();
    }

    /// Lets everything under way come to its end.
    pub(super) fn quiet(&mut self) {
        let bound = self.now.after(Duration::from_secs(60));
        self.run_until(bound, |sim| sim.ledger.fetches.is_empty());
        assert!(
            self.ledger.fetches.is_empty(),
            "I9: fetches that nobody wants are not gone after a minute: {:#?}",
            self.engine.snapshot().fetches
        );
    }

    /// With healthy sources, each key is fetched once more, and must come.
    pub(super) fn last_wave(&mut self) {
        if self.helpless() {
            return;
        }
        // The last lies were found out after everybody was unblocked.
        for spec in self.world.sources.clone() {
            self.feed(Input::Unblock { source: spec.id });
        }
        let waves = self
            .world
            .config
            .fetches_max
            .min(self.world.config.waiters_max) as usize;
        let keys: Vec<(Key, KeySpec)> = (0..).zip(self.world.keys.clone()).collect();
        for wave in keys.chunks(waves) {
            // Those before it may still be at the store, and take up room.
            let bound = self.now.after(self.patience());
            self.run_until(bound, |sim| sim.engine.snapshot().fetches.is_empty());
            let answered = self.ledger.tally.answered;
            for (key, spec) in wave {
                let mut plan = spec.plan.clone();
                if plan.retry == Retry::No && !self.world.config.try_backed_off {
                    plan.retry = persistent();
                }
                let targets = match spec.naming {
                    Naming::Ranked => Targets::Ranked,
                    _ => Targets::Any,
                };
                let want = Want {
                    targets,
                    priority: 1,
                    owner: 1,
                    deadline: None,
                    plan: Arc::new(plan),
                };
                let waiter = WaiterId(self.waiters);
                self.waiters += 1;
                let key = *key;
                self.feed(Input::Want { waiter, key, want });
            }
            let bound = self.now.after(self.patience());
            self.run_until(bound, |sim| sim.ledger.waiters.is_empty());
            assert_eq!(
                self.ledger.tally.answered - answered,
                wave.len() as u64,
                "I6: with healthy sources, some keys could not be had: {:#?}",
                self.engine.snapshot().fetches
            );
        }
    }

    /// Everybody leaves, every source goes and is forgotten: nothing may be left.
    pub(super) fn finish(&mut self) {
        self.calm = true;
        self.release_all();
        self.quiet();
        self.run_until(self.now.after(Duration::from_secs(60)), |sim| {
            sim.ledger.judgements.is_empty()
        });
        let sources: Vec<SourceId> = self.ledger.sources.keys().copied().collect();
        for source in sources {
            self.feed(Input::SourceDown { source });
            self.feed(Input::Forget { source });
        }
        self.settle();
        let snapshot = self.engine.snapshot();
        assert!(
            self.engine.is_empty(),
            "I9: something is left: {snapshot:#?}"
        );
        assert_eq!(
            (
                snapshot.racing,
                snapshot.waiters,
                snapshot.bytes,
                snapshot.attempts
            ),
            (0, 0, 0, 0),
            "I9: gauges are not at zero"
        );
        assert_eq!(self.engine.poll_timeout(), None, "I9: a timer is left");
    }
}
