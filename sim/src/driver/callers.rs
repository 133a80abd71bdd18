//! Callers: who wants what, and until when.

use super::{Event, Sim};
use crate::{
    truth::Key,
    world::{KeySpec, MS, Naming},
};
use gannet_engine::{Input, Plan, SourceId, Targets, WaiterId, Want};
use std::{sync::Arc, time::Duration};

impl Sim {
    pub(super) fn arrive(&mut self) {
        if self.calm {
            return;
        }
        let index = self.rng.index(self.world.keys.len());
        let key = Key::try_from(index).expect("a few keys");
        let spec = self.world.keys[index].clone();
        let want = self.want(&spec);
        let waiter = WaiterId(self.waiters);
        self.waiters += 1;
        if self.rng.permille(self.world.odds.release) {
            let delay = self.rng.range(0, 4000) * MS;
            self.at(delay, Event::Leave(waiter));
        }
        if want.deadline.is_some() && self.rng.permille(self.world.odds.deadline_moves) {
            let delay = self.rng.range(0, 3000) * MS;
            self.at(delay, Event::MoveDeadline(waiter));
        }
        self.feed(Input::Want { waiter, key, want });
        let delay = self.rng.range(0, self.world.arrival);
        self.at(delay, Event::Arrival);
    }

    pub(super) fn want(&mut self, spec: &KeySpec) -> Want {
        let rng = &mut self.rng;
        let world = &self.world;
        let mut plan = Plan {
            commit: *rng.pick(&world.commits),
            lifetime: *rng.pick(&world.lifetimes),
            ..spec.plan.clone()
        };
        if rng.permille(world.odds.changed_plan) {
            // Whether it resumes, and how large it may be, belong to the datum.
            let other = &world.keys[rng.index(world.keys.len())].plan;
            plan.hedge = other.hedge;
            plan.retry = other.retry;
            plan.growth = other.growth;
            plan.first_byte_timeout = other.first_byte_timeout;
            plan.not_before = Some(self.now.after(Duration::from_millis(rng.range(0, 2000))));
        }
        let targets = match spec.naming {
            Naming::Ranked => Targets::Ranked,
            Naming::Any => Targets::Any,
            Naming::Only if rng.permille(world.odds.only_lifted) => Targets::Any,
            Naming::Only => {
                let mut only: Vec<SourceId> = (world.sources.iter())
                    .map(|s| s.id)
                    .filter(|_| rng.permille(400))
                    .collect();
                if only.is_empty() && rng.permille(900) {
                    only.push(rng.pick(&world.sources).id);
                }
                Targets::Only(only)
            }
        };
        let deadline = rng
            .permille(world.odds.deadline)
            .then(|| self.now.after(Duration::from_millis(rng.range(0, 6000))));
        Want {
            targets,
            priority: *rng.pick(&world.priorities),
            owner: rng.range32(1, world.owners),
            deadline,
            plan: Arc::new(plan),
        }
    }

    pub(super) fn move_deadline(&mut self, waiter: WaiterId) {
        if !self.ledger.waiters.contains_key(&waiter) {
            return;
        }
        let deadline = (!self.rng.permille(200)).then(|| {
            let ahead = self.rng.range(0, 6000);
            self.now.after(Duration::from_millis(ahead))
        });
        self.feed(Input::Deadline { waiter, deadline });
    }
}
