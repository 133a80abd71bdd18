//! Operations for the engine: each three bytes are one. The engine's own check of its invariants
//! runs after every one.

use gannet_engine::{
    AttemptId, Commit, CommitFault, Config, End, Engine, Fault, FetchId, GroupId, Input,
    JudgementId, Lifetime, Output, Plan, SourceId, Targets, Time, Verdict, WaiterId, Want,
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// More operations than this only repeat what fewer do.
const OPERATIONS_MAX: usize = 400;
const SOURCES: u64 = 4;

/// What the outside of an engine knows of it.
#[derive(Default)]
struct Outside {
    attempts: Vec<AttemptId>,
    selecting: Vec<FetchId>,
    judging: Vec<JudgementId>,
    committing: Vec<FetchId>,
    waiting: BTreeSet<WaiterId>,
    waiters: u64,
}

/// Runs the operations that the bytes name.
pub fn engine(bytes: &[u8]) {
    let config = Config {
        racing_max: 3,
        ..Config::default()
    };
    let mut engine = Engine::<u8>::new(config, 1).expect("the defaults are valid");
    let mut outside = Outside::default();
    let mut now = Time::default();
    for source in 0..SOURCES {
        let group = GroupId(source / 2);
        engine.handle_input(
            now,
            Input::SourceUp {
                source: SourceId(source),
                group,
            },
        );
    }
    for operation in bytes.chunks_exact(3).take(OPERATIONS_MAX) {
        let [what, which, how] = [operation[0], operation[1], operation[2]];
        now = now.after(Duration::from_millis(
            u64::from(how) * u64::from(what & 0x40),
        ));
        if what & 0x80 != 0 {
            engine.handle_timeout(now);
        } else if let Some(input) = outside.input(what & 0x1f, which, how, now) {
            engine.handle_input(now, input);
        }
        outside.take(&mut engine);
        engine.check();
    }
    // Everybody goes, and whatever is under way ends: then nothing is held.
    for waiter in std::mem::take(&mut outside.waiting) {
        engine.handle_input(now, Input::Release { waiter });
    }
    for _ in 0..100 {
        outside.take(&mut engine);
        if engine.snapshot().fetches.is_empty() {
            break;
        }
        outside.end_all(&mut engine, now);
        now = now.after(Duration::from_secs(60));
        engine.handle_timeout(now);
    }
    engine.check();
    let left = engine.snapshot();
    assert!(
        left.fetches.is_empty(),
        "without waiters, yet kept: {:?}",
        left.fetches
    );
    assert_eq!((left.waiters, left.attempts, left.bytes), (0, 0, 0));
}

impl Outside {
    fn input(&mut self, what: u8, which: u8, how: u8, now: Time) -> Option<Input<u8>> {
        let source = SourceId(u64::from(how) % SOURCES);
        // Mostly an attempt that runs; sometimes one that never was.
        let attempt = || {
            let at = usize::from(which) % self.attempts.len().max(1);
            self.attempts
                .get(at)
                .copied()
                .unwrap_or(AttemptId(u64::from(which)))
        };
        Some(match what {
            0..4 => {
                self.waiters += 1;
                let waiter = WaiterId(self.waiters);
                self.waiting.insert(waiter);
                Input::Want {
                    waiter,
                    key: which % 8,
                    want: want(how, now),
                }
            }
            4 => {
                let waiter = *self.waiting.iter().nth(usize::from(which))?;
                // It gets no outcome: one that comes all the same is one too many.
                self.waiting.remove(&waiter);
                Input::Release { waiter }
            }
            5 => {
                let waiter = *self.waiting.iter().nth(usize::from(which))?;
                let deadline = Some(now.after(Duration::from_millis(u64::from(how))));
                Input::Deadline { waiter, deadline }
            }
            6 | 7 => {
                let fetch = self.selecting.pop()?;
                let ranked = (0..u64::from(how) % (SOURCES + 1))
                    .map(|n| SourceId((u64::from(which) + n) % SOURCES));
                Input::Candidates {
                    fetch,
                    ranked: ranked.collect(),
                }
            }
            8 => Input::Announced {
                key: which % 8,
                source,
            },
            9 => Input::Declined {
                attempt: attempt(),
                until: now.after(Duration::from_millis(u64::from(how))),
            },
            10 | 11 => Input::Started { attempt: attempt() },
            12 => Input::Opened {
                attempt: attempt(),
                identity: u64::from(how & 3),
                total: (how & 4 != 0).then_some(u64::from(how)),
            },
            13 | 14 => Input::Progress {
                attempt: attempt(),
                upto: u64::from(how),
            },
            15 => Input::Heartbeat { attempt: attempt() },
            16..20 => Input::Ended {
                attempt: attempt(),
                end: end(how),
            },
            20..23 => Input::Judged {
                judgement: self.judging.pop()?,
                verdict: verdict(how),
            },
            23 | 24 => {
                let result = if how & 1 == 0 {
                    Ok(())
                } else {
                    Err(CommitFault::Io)
                };
                Input::Committed {
                    fetch: self.committing.pop()?,
                    result,
                }
            }
            25 => Input::Obtained {
                key: which % 8,
                from: (how & 1 == 0).then_some(source),
            },
            26 => Input::SourceDown { source },
            27 => Input::SourceUp {
                source,
                group: GroupId(u64::from(which & 1)),
            },
            28 => Input::Withdraw { source },
            29 => Input::WithdrawFrom {
                key: which % 8,
                source,
            },
            30 => Input::Block {
                source,
                until: Some(now.after(Duration::from_millis(u64::from(which)))),
            },
            _ => Input::Unblock { source },
        })
    }

    /// Ends what the engine waits for, as an outside does that is shutting down.
    fn end_all(&mut self, engine: &mut Engine<u8>, now: Time) {
        for fetch in std::mem::take(&mut self.selecting) {
            engine.handle_input(
                now,
                Input::Candidates {
                    fetch,
                    ranked: Vec::new(),
                },
            );
        }
        for attempt in std::mem::take(&mut self.attempts) {
            engine.handle_input(
                now,
                Input::Ended {
                    attempt,
                    end: End::Aborted,
                },
            );
        }
        for judgement in std::mem::take(&mut self.judging) {
            engine.handle_input(
                now,
                Input::Judged {
                    judgement,
                    verdict: Verdict::GaveUp,
                },
            );
        }
        for fetch in std::mem::take(&mut self.committing) {
            engine.handle_input(
                now,
                Input::Committed {
                    fetch,
                    result: Ok(()),
                },
            );
        }
    }

    fn take(&mut self, engine: &mut Engine<u8>) {
        while let Some(output) = engine.poll_output() {
            match output {
                Output::Start { attempt, .. } => self.attempts.push(attempt),
                Output::Select { fetch } => self.selecting.push(fetch),
                Output::Judge { judgement, .. } => self.judging.push(judgement),
                Output::Commit { fetch } => self.committing.push(fetch),
                Output::Finish { waiter, .. } => {
                    assert!(
                        self.waiting.remove(&waiter),
                        "{waiter:?} was answered twice"
                    );
                }
                _ => {}
            }
        }
        while engine.poll_event().is_some() {}
    }
}

fn want(how: u8, now: Time) -> Want {
    let plan = Plan {
        resume: how & 1 != 0,
        commit: [Commit::None, Commit::AfterServe, Commit::BeforeFinish][usize::from(how >> 1) % 3],
        lifetime: match how & 8 {
            0 => Lifetime::WhileWanted,
            _ => Lifetime::Detached {
                ceiling: Duration::from_secs(1),
            },
        },
        ..Plan::default()
    };
    let targets = match how & 0x24 {
        0x04 => Targets::Any,
        0x20 => Targets::Only(vec![SourceId(u64::from(how & 3))]),
        _ => Targets::Ranked,
    };
    let deadline = (how & 16 != 0).then(|| now.after(Duration::from_millis(100)));
    Want {
        targets,
        priority: how >> 6,
        owner: u32::from(how & 1),
        deadline,
        plan: Arc::new(plan),
    }
}

fn end(how: u8) -> End {
    match how % 6 {
        0 | 1 => End::Complete {
            upto: u64::from(how),
        },
        2 => End::Missing,
        3 => End::Busy {
            retry_after: (how & 8 != 0).then_some(Duration::from_secs(1)),
        },
        4 => End::Failed(Fault::Truncated),
        _ => End::Aborted,
    }
}

fn verdict(how: u8) -> Verdict {
    use Verdict::{Ambiguous, GaveUp, Ignored, Invalid, Partial, Valid};
    [Valid, Partial, Ambiguous, Invalid, Ignored, GaveUp][usize::from(how) % 6]
}
