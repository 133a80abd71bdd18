//! Every short sequence of what may happen in a tiny world: two keys, two sources.

#[allow(dead_code, unreachable_pub)] // Each test file uses a part of it.
mod naive;

use gannet_engine::*;
use naive::{Menu, Model, backoff, want};

/// Walks all sequences of choices, each by replaying it from the start: the last choice that can be
/// raised is raised, and what follows it begins at zero (as TigerBeetle's `exhaustigen` does).
struct Walk {
    choices: Vec<(usize, usize)>,
    at: usize,
}

impl Walk {
    fn choose(&mut self, count: usize) -> usize {
        if self.at == self.choices.len() {
            self.choices.push((0, count));
        }
        let (choice, bound) = self.choices[self.at];
        assert_eq!(bound, count, "the same choices give the same world");
        self.at += 1;
        choice
    }

    fn next(&mut self) -> bool {
        self.at = 0;
        while let Some((choice, bound)) = self.choices.pop() {
            if choice + 1 < bound {
                self.choices.push((choice + 1, bound));
                return true;
            }
        }
        false
    }
}

fn check(menu: &Menu, depth: usize) -> u64 {
    let mut walk = Walk {
        choices: Vec::new(),
        at: 0,
    };
    let mut sequences = 0;
    loop {
        let mut model = Model::new(menu.clone());
        for _ in 0..depth {
            let actions = model.actions();
            if actions.is_empty() {
                break;
            }
            model.apply(&actions[walk.choose(actions.len())]);
        }
        model.finish();
        sequences += 1;
        if !walk.next() {
            return sequences;
        }
    }
}

fn tiny(plan: Plan) -> Menu {
    let plan = Plan {
        retry: Retry::UntilReleased { backoff: backoff() },
        ..plan
    };
    Menu {
        keys: 2,
        sources: 2,
        waiters: 3,
        wants: vec![want(Targets::Any, plan)],
        config: Config {
            racing_max: 1,
            choice: Choice::Best,
            ..Config::default()
        },
        ends: vec![End::Complete { upto: 0 }, End::Failed(Fault::Internal)],
        verdicts: vec![Verdict::Valid, Verdict::Invalid],
        commits: vec![Ok(()), Err(CommitFault::Io)],
        streams: false,
        operates: false,
        declines: false,
    }
}

#[test]
fn every_short_sequence_without_faults_of_the_world() {
    let menu = tiny(Plan {
        commit: Commit::BeforeFinish,
        ..Plan::default()
    });
    let sequences = check(&menu, 7);
    assert!(sequences > 5_000, "{sequences}");
}

#[test]
fn every_short_sequence_of_a_resuming_plan() {
    let mut menu = tiny(Plan {
        resume: true,
        ..Plan::default()
    });
    menu.keys = 1;
    menu.waiters = 2;
    menu.streams = true;
    menu.ends = vec![End::Complete { upto: 0 }, End::Failed(Fault::Truncated)];
    let sequences = check(&menu, 8);
    assert!(sequences > 5_000, "{sequences}");
}

#[test]
fn every_short_sequence_with_an_operator_at_work() {
    let mut menu = tiny(Plan::default());
    menu.operates = true;
    menu.declines = true;
    menu.keys = 1;
    menu.waiters = 2;
    menu.ends = vec![End::Complete { upto: 0 }];
    menu.verdicts = vec![Verdict::Valid, Verdict::GaveUp];
    let sequences = check(&menu, 5);
    assert!(sequences > 5_000, "{sequences}");
}
