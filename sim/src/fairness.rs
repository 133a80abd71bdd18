//! A saturated engine, and who gets how many starts (I7).
//!
//! One bottleneck, several classes with more to do than it admits: the shares of priorities follow
//! their weights, owners take turns, groups take turns. Sources are quick and honest here.

use crate::{
    coverage::{Coverage, Mark},
    rng::Rng,
    trace::Trace,
    truth::Key,
};
use gannet_engine::{
    AttemptId, Config, End, Engine, FetchId, GroupId, Input, Limits, Output, Plan, SourceId,
    Targets, Time, Verdict, WaiterId, Want,
};
use std::{
    collections::{BTreeMap, VecDeque},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

/// What classes differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Their priority.
    Priority,
    /// Whom they belong to.
    Owner,
    /// The group of the only source that may serve them.
    Group,
}

/// Starts counted after the warm-up.
const STARTS: u32 = 600;
/// Starts before counting.
const WARM_UP: u32 = 60;

struct Saturated {
    engine: Engine<Key>,
    now: Time,
    class: Class,
    weights: Vec<u8>,
    backlog: Vec<u32>,
    class_of: BTreeMap<Key, usize>,
    keys: BTreeMap<FetchId, Key>,
    under_way: VecDeque<AttemptId>,
    next: Key,
    starts: Vec<u32>,
    started: u32,
    trace: Trace,
}

/// Saturates an engine as the seed says; panics where shares are unfair. Gives the trace's digest and
/// the steps taken.
pub fn run(seed: u64, coverage: &mut Coverage) -> ((u64, u64), u64) {
    let rng = &mut Rng::new(seed, 3);
    let class = *rng.pick(&[Class::Priority, Class::Owner, Class::Group]);
    let classes = rng.range(2, 4);
    let mut priorities = [1, 5, 10, 20, 40];
    rng.shuffle(&mut priorities);
    let weights: Vec<u8> = (0..)
        .zip(priorities)
        .take_while(|(n, _)| *n < classes)
        .map(|(_, priority)| match class {
            Class::Priority => priority,
            _ => 10,
        })
        .collect();
    // One class hoards, the others have just enough to be always waiting.
    let backlog: Vec<u32> = (0..classes)
        .map(|n| if n == 0 { 400 } else { rng.range32(8, 40) })
        .collect();
    let narrow = NonZeroU32::new(rng.range32(1, 4)).expect("at least one");
    let mut config = Config::default();
    if rng.permille(500) {
        config.racing_max = narrow.get();
    } else {
        config.whole_limits = Limits {
            concurrent_max: narrow,
            rate: None,
            within: None,
        };
    }
    let mut world = Saturated {
        engine: Engine::new(config, seed).expect("valid bounds"),
        now: Time::ZERO,
        class,
        weights,
        backlog,
        class_of: BTreeMap::new(),
        keys: BTreeMap::new(),
        under_way: VecDeque::new(),
        next: 0,
        starts: vec![0; usize::try_from(classes).expect("a few classes")],
        started: 0,
        trace: Trace::new(false),
    };
    let steps = world.run();
    coverage.hit(match class {
        Class::Priority => Mark::FairPriorities,
        Class::Owner => Mark::FairOwners,
        Class::Group => Mark::FairGroups,
    });
    (world.trace.digest(), steps)
}

impl Saturated {
    fn run(&mut self) -> u64 {
        for n in 0..self.weights.len() as u64 {
            let (source, group) = (SourceId(n), GroupId(n));
            self.feed(Input::SourceUp { source, group });
        }
        for class in 0..self.weights.len() {
            for _ in 0..self.backlog[class] {
                self.want(class);
            }
        }
        let mut steps = 0;
        while self.started < WARM_UP + STARTS {
            steps += 1;
            let attempt = self.under_way.pop_front();
            let attempt = attempt.expect("I7: there is a backlog, and nothing is under way");
            self.now = self.now.after(Duration::from_millis(1));
            self.feed(Input::Opened {
                attempt,
                identity: 1,
                total: Some(1),
            });
            let end = End::Complete { upto: 1 };
            self.feed(Input::Ended { attempt, end });
        }
        self.check_shares();
        steps
    }

    fn want(&mut self, class: usize) {
        let key = self.next;
        self.next += 1;
        self.class_of.insert(key, class);
        let of = |kind: Class, n: u32, other: u32| if self.class == kind { n } else { other };
        let index = u32::try_from(class).expect("a few classes");
        let want = Want {
            targets: match self.class {
                Class::Group => Targets::Only(vec![SourceId(index.into())]),
                _ => Targets::Any,
            },
            priority: match self.class {
                Class::Priority => self.weights[class],
                _ => 10,
            },
            owner: of(Class::Owner, index, 0),
            deadline: None,
            plan: Arc::new(Plan::default()),
        };
        let waiter = WaiterId(key.into());
        self.feed(Input::Want { waiter, key, want });
    }

    fn feed(&mut self, input: Input<Key>) {
        self.engine.handle_input(self.now, input);
        while let Some(output) = self.engine.poll_output() {
            self.trace.line(self.now, "<-", format_args!("{output:?}"));
            match output {
                Output::Opened { fetch, key } => {
                    self.keys.insert(fetch, key);
                }
                Output::Start { attempt, fetch, .. } => self.start(attempt, fetch),
                Output::Judge { judgement, .. } => {
                    let verdict = Verdict::Valid;
                    self.engine
                        .handle_input(self.now, Input::Judged { judgement, verdict });
                }
                Output::Finish { waiter, .. } => {
                    // Whoever is served comes back for more.
                    let key = Key::try_from(waiter.0).expect("waiters are keys here");
                    let class = self.class_of[&key];
                    self.want(class);
                }
                _ => {}
            }
        }
    }

    fn start(&mut self, attempt: AttemptId, fetch: FetchId) {
        self.engine
            .handle_input(self.now, Input::Started { attempt });
        self.under_way.push_back(attempt);
        self.started += 1;
        if self.started > WARM_UP {
            let class = self.class_of[&self.keys[&fetch]];
            self.starts[class] += 1;
        }
    }

    /// Shares within a fifth of the weights, and no class without any.
    fn check_shares(&self) {
        let sum: f64 = self.weights.iter().map(|w| f64::from(*w)).sum();
        let all: u32 = self.starts.iter().sum();
        for (class, starts) in self.starts.iter().enumerate() {
            let due = f64::from(self.weights[class]) / sum * f64::from(all);
            let got = f64::from(*starts);
            assert!(
                (got - due).abs() <= due * 0.2 + 4.0,
                "I7: {:?} {class} got {got} starts of {all}, {due:.0} were due; weights {:?}",
                self.class,
                self.weights
            );
        }
    }
}
