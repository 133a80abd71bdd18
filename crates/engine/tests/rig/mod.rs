//! A rig around one engine for tests: virtual time, outputs drained and kept, `check()` after every
//! step. It answers nothing by itself.
#![allow(dead_code, unreachable_pub)] // Each test file uses a part of it.

use gannet_engine::*;
use std::{num::NonZeroU32, sync::Arc, time::Duration};

/// A start, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    pub attempt: AttemptId,
    pub fetch: FetchId,
    pub source: u64,
    pub from_byte: u64,
    pub stage: Stage,
}

/// A judgement asked for, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judge {
    pub judgement: JudgementId,
    pub fetch: FetchId,
    pub contributors: Vec<AttemptId>,
    pub waiters: Vec<u64>,
}

/// A failed waiter, its error, and the sources tried.
pub type Failure = (u64, FetchError, Vec<(u64, HowEnded)>);

pub struct Rig {
    pub engine: Engine<u32>,
    pub now: Time,
    /// Outputs not yet looked at.
    pub outputs: Vec<Output<u32>>,
}

pub const fn nz(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).expect("above zero")
}

pub const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// No jitter, so that tests can name times.
pub const fn backoff(base: u64) -> Backoff {
    Backoff {
        base: ms(base),
        growth_permille: 2000,
        cap: secs(60),
        jitter_permille: 0,
    }
}

pub fn config() -> Config {
    Config {
        choice: Choice::Best,
        events_max: 1000,
        health: HealthConfig {
            backoff: backoff(500),
            ..HealthConfig::default()
        },
        ..Config::default()
    }
}

pub fn limits(concurrent_max: u32) -> Limits {
    Limits {
        concurrent_max: nz(concurrent_max),
        rate: None,
        within: None,
    }
}

pub fn persistent() -> Plan {
    Plan {
        retry: Retry::UntilReleased {
            backoff: backoff(1000),
        },
        ..Plan::default()
    }
}

pub fn want(targets: Targets, plan: Plan) -> Want {
    Want {
        targets,
        priority: 10,
        owner: 0,
        deadline: None,
        plan: Arc::new(plan),
    }
}

pub fn any(plan: Plan) -> Want {
    want(Targets::Any, plan)
}

pub fn only(sources: &[u64], plan: Plan) -> Want {
    want(
        Targets::Only(sources.iter().map(|s| SourceId(*s)).collect()),
        plan,
    )
}

pub fn ranked(plan: Plan) -> Want {
    want(Targets::Ranked, plan)
}

impl Rig {
    pub fn new(config: Config) -> Self {
        Self {
            engine: Engine::new(config, 7).expect("a valid configuration"),
            now: Time::from_nanos(1_000_000_000),
            outputs: Vec::new(),
        }
    }

    /// The default configuration, and these sources up, each in a group of its own number.
    pub fn with(sources: &[u64]) -> Self {
        Self::up(config(), sources)
    }

    pub fn up(config: Config, sources: &[u64]) -> Self {
        let mut rig = Self::new(config);
        for source in sources {
            rig.source_up(*source);
        }
        rig
    }

    pub fn source_up(&mut self, n: u64) {
        self.feed(Input::SourceUp {
            source: SourceId(n),
            group: GroupId(n),
        });
    }

    pub fn feed(&mut self, input: Input<u32>) {
        self.engine.handle_input(self.now, input);
        self.drain();
    }

    pub fn drain(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            self.outputs.push(output);
        }
        self.engine.check();
    }

    /// Lets time pass, timer by timer.
    pub fn wait(&mut self, period: Duration) {
        let end = self.now.after(period);
        let mut spins = 0;
        while let Some(due) = self.engine.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.engine.handle_timeout(self.now);
            self.drain();
            spins += 1;
            assert!(spins < 10_000, "timers that never stop");
        }
        self.now = end;
    }

    pub fn want(&mut self, waiter: u64, key: u32, want: Want) {
        self.feed(Input::Want {
            waiter: WaiterId(waiter),
            key,
            want,
        });
    }

    pub fn release(&mut self, waiter: u64) {
        self.feed(Input::Release {
            waiter: WaiterId(waiter),
        });
    }

    pub fn started(&mut self, attempt: AttemptId) {
        self.feed(Input::Started { attempt });
    }

    pub fn end(&mut self, attempt: AttemptId, end: End) {
        self.feed(Input::Ended { attempt, end });
    }

    pub fn fail(&mut self, attempt: AttemptId) {
        self.end(attempt, End::Failed(Fault::Refused));
    }

    /// Opens and completes an attempt with so many bytes of identity 1.
    pub fn complete(&mut self, attempt: AttemptId, upto: u64) {
        self.open(attempt, 1);
        self.end(attempt, End::Complete { upto });
    }

    pub fn open(&mut self, attempt: AttemptId, identity: u64) {
        self.feed(Input::Opened {
            attempt,
            identity,
            total: None,
        });
    }

    pub fn progress(&mut self, attempt: AttemptId, upto: u64) {
        self.feed(Input::Progress { attempt, upto });
    }

    pub fn judged(&mut self, judgement: JudgementId, verdict: Verdict) {
        self.feed(Input::Judged { judgement, verdict });
    }

    pub fn committed(&mut self, fetch: FetchId, result: Result<(), CommitFault>) {
        self.feed(Input::Committed { fetch, result });
    }

    pub fn rank(&mut self, fetch: FetchId, sources: &[u64]) {
        self.feed(Input::Candidates {
            fetch,
            ranked: sources.iter().map(|s| SourceId(*s)).collect(),
        });
    }

    fn take<T>(&mut self, pick: impl Fn(&Output<u32>) -> Option<T>) -> Vec<T> {
        let mut taken = Vec::new();
        self.outputs.retain(|output| match pick(output) {
            Some(one) => {
                taken.push(one);
                false
            }
            None => true,
        });
        taken
    }

    /// The starts since the last look, each acknowledged, and those that this brings too.
    pub fn starts(&mut self) -> Vec<Start> {
        let mut all = Vec::new();
        loop {
            let more = self.unacknowledged();
            if more.is_empty() {
                return all;
            }
            for start in &more {
                self.started(start.attempt);
            }
            all.extend(more);
        }
    }

    /// The starts since the last look.
    pub fn unacknowledged(&mut self) -> Vec<Start> {
        self.take(|output| match *output {
            Output::Start {
                attempt,
                fetch,
                source,
                from_byte,
                stage,
            } => Some(Start {
                attempt,
                fetch,
                source: source.0,
                from_byte,
                stage,
            }),
            _ => None,
        })
    }

    /// The one start since the last look, acknowledged.
    #[track_caller]
    pub fn start(&mut self) -> Start {
        let starts = self.starts();
        assert_eq!(starts.len(), 1, "one start: {starts:?}");
        starts[0]
    }

    /// The next start within this time, acknowledged; nothing else happens while it waits.
    #[track_caller]
    pub fn start_within(&mut self, period: Duration) -> Start {
        let end = self.now.after(period);
        loop {
            let starts = self.starts();
            assert!(starts.len() <= 1, "one start: {starts:?}");
            if let Some(start) = starts.first() {
                return *start;
            }
            assert!(self.now < end, "no start in {period:?}");
            self.wait(ms(10));
        }
    }

    #[track_caller]
    pub fn no_start(&mut self) {
        let starts = self.starts();
        assert!(starts.is_empty(), "no start: {starts:?}");
    }

    pub fn judges(&mut self) -> Vec<Judge> {
        self.take(|output| match output {
            Output::Judge {
                judgement,
                fetch,
                contributors,
                waiters,
            } => Some(Judge {
                judgement: *judgement,
                fetch: *fetch,
                contributors: contributors.to_vec(),
                waiters: waiters.iter().map(|w| w.0).collect(),
            }),
            _ => None,
        })
    }

    #[track_caller]
    pub fn judge(&mut self) -> Judge {
        let judges = self.judges();
        assert_eq!(judges.len(), 1, "one judgement: {judges:?}");
        judges.into_iter().next().expect("just counted")
    }

    pub fn aborts(&mut self) -> Vec<AttemptId> {
        self.take(|output| match output {
            Output::Abort { attempt } => Some(*attempt),
            _ => None,
        })
    }

    pub fn selects(&mut self) -> Vec<FetchId> {
        self.take(|output| match output {
            Output::Select { fetch } => Some(*fetch),
            _ => None,
        })
    }

    pub fn commits(&mut self) -> Vec<FetchId> {
        self.take(|output| match output {
            Output::Commit { fetch } => Some(*fetch),
            _ => None,
        })
    }

    pub fn discards(&mut self) -> Vec<AttemptId> {
        self.take(|output| match output {
            Output::Discard { attempt, .. } => Some(*attempt),
            _ => None,
        })
    }

    pub fn retired(&mut self) -> Vec<FetchId> {
        self.take(|output| match output {
            Output::Retired { fetch } => Some(*fetch),
            _ => None,
        })
    }

    pub fn blocked(&mut self) -> Vec<(u64, Time)> {
        self.take(|output| match output {
            Output::Blocked { source, until } => Some((source.0, *until)),
            _ => None,
        })
    }

    /// Outcomes since the last look: the waiter, and its sources or its error.
    pub fn finished(&mut self) -> Vec<(u64, Result<Vec<u64>, FetchError>)> {
        self.take(|output| match output {
            Output::Finish {
                waiter, outcome, ..
            } => Some((
                waiter.0,
                match outcome {
                    Outcome::Datum { sources } => {
                        Ok(sources.as_slice().iter().map(|s| s.0).collect())
                    }
                    Outcome::Failed { error, .. } => Err(*error),
                },
            )),
            _ => None,
        })
    }

    /// What the failed waiters were told of the sources tried.
    pub fn tried(&mut self) -> Vec<Failure> {
        self.take(|output| match output {
            Output::Finish {
                waiter,
                outcome: Outcome::Failed { error, tried },
                ..
            } => Some((
                waiter.0,
                *error,
                tried.iter().map(|t| (t.source.0, t.how)).collect(),
            )),
            _ => None,
        })
    }

    /// From the one start on to the verdict.
    #[track_caller]
    pub fn serve(&mut self, verdict: Verdict) -> Start {
        let start = self.start();
        self.complete(start.attempt, 10);
        let judge = self.judge();
        self.judged(judge.judgement, verdict);
        start
    }

    pub fn view(&self, key: u32) -> FetchView<u32> {
        let snapshot = self.engine.snapshot();
        let mut views = snapshot.fetches.into_iter().filter(|f| f.key == key);
        views.next().expect("the key is fetched")
    }

    pub fn source(&self, n: u64) -> SourceView {
        let snapshot = self.engine.snapshot();
        let mut views = snapshot.sources.into_iter();
        views
            .find(|s| s.source == SourceId(n))
            .expect("the source is known")
    }
}
