//! Random inputs, every kind of them, with the invariants recomputed after each step.
//!
//! Quick and blunt: it knows nothing of what should happen, only that nothing may break. What should
//! happen is the simulator's business.

use crate::rng::Rng;
use crate::*;
use std::{num::NonZeroU32, sync::Arc, time::Duration};

fn nz(n: u64) -> NonZeroU32 {
    NonZeroU32::new(n as u32).expect("above zero")
}

fn plan(rng: &mut Rng) -> Plan {
    let backoff = Backoff {
        base: Duration::from_millis(10),
        growth_permille: 2000,
        cap: Duration::from_millis(200),
        jitter_permille: 100,
    };
    Plan {
        growth: match rng.below(3) {
            0 => FanoutGrowth::Fixed(nz(1 + rng.below(3))),
            1 => FanoutGrowth::Linear {
                base: nz(1),
                step: nz(1),
            },
            _ => FanoutGrowth::Geometric {
                base: nz(1),
                factor: nz(2),
            },
        },
        attempts_max: (rng.below(3) == 0).then(|| nz(1 + rng.below(4))),
        rounds_max: (rng.below(3) == 0).then(|| nz(1 + rng.below(3))),
        hedge: match rng.below(3) {
            0 => None,
            1 => Some(Hedge::After(Duration::from_millis(5))),
            _ => Some(Hedge::AtQuantile {
                permille: 990,
                floor: Duration::from_millis(3),
            }),
        },
        first_byte_timeout: Duration::from_millis(20),
        idle_timeout: Duration::from_millis(20),
        total_timeout: Duration::from_millis(100),
        throughput_floor: (rng.below(4) == 0).then_some(ThroughputFloor {
            bytes_min: 10,
            window: Duration::from_millis(10),
        }),
        silence: if rng.below(2) == 0 {
            Silence::Fault
        } else {
            Silence::Nothing
        },
        retry: match rng.below(3) {
            0 => Retry::No,
            1 => Retry::Budget {
                tries: 3,
                total: Duration::from_millis(300),
                backoff,
            },
            _ => Retry::UntilReleased { backoff },
        },
        resume: rng.below(2) == 0,
        body_bytes_max: 100,
        on_invalid: match rng.below(3) {
            0 => OnInvalid::Score,
            1 => OnInvalid::Block(Duration::from_millis(30)),
            _ => OnInvalid::Host,
        },
        commit: [Commit::None, Commit::AfterServe, Commit::BeforeFinish][rng.below(3) as usize],
        lifetime: if rng.below(3) == 0 {
            Lifetime::Detached {
                ceiling: Duration::from_millis(50),
            }
        } else {
            Lifetime::WhileWanted
        },
        ..Plan::default()
    }
}

#[derive(Default)]
struct Driver {
    attempts: Vec<(AttemptId, u64)>,
    selects: Vec<FetchId>,
    judgements: Vec<JudgementId>,
    commits: Vec<FetchId>,
    outcomes: std::collections::BTreeMap<u64, u32>,
}

impl Driver {
    fn drain(&mut self, engine: &mut Engine<u64>) {
        while let Some(output) = engine.poll_output() {
            match output {
                Output::Start {
                    attempt, from_byte, ..
                } => self.attempts.push((attempt, from_byte)),
                Output::Select { fetch } => self.selects.push(fetch),
                Output::Judge { judgement, .. } => self.judgements.push(judgement),
                Output::Commit { fetch } => self.commits.push(fetch),
                Output::Finish { waiter, .. } => *self.outcomes.entry(waiter.0).or_default() += 1,
                _ => {}
            }
        }
    }
}

fn pick<T>(rng: &mut Rng, list: &mut Vec<T>) -> Option<T> {
    if list.is_empty() {
        return None;
    }
    let i = rng.below(list.len() as u64) as usize;
    Some(list.swap_remove(i))
}

fn sources(rng: &mut Rng) -> Vec<SourceId> {
    (0..rng.below(4)).map(|_| SourceId(rng.below(6))).collect()
}

fn step(rng: &mut Rng, driver: &mut Driver, waiter: &mut u64, now: Time) -> Option<Input<u64>> {
    let soon = |rng: &mut Rng| now.after(Duration::from_millis(rng.below(60)));
    Some(match rng.below(34) {
        0..=5 => {
            *waiter += 1;
            let targets = match rng.below(3) {
                0 => Targets::Ranked,
                1 => Targets::Any,
                _ => Targets::Only(sources(rng)),
            };
            let want = Want {
                targets,
                priority: rng.below(4) as u8,
                owner: rng.below(3) as u32,
                deadline: (rng.below(3) == 0).then(|| soon(rng)),
                plan: Arc::new(plan(rng)),
            };
            Input::Want {
                waiter: WaiterId(*waiter),
                key: rng.below(8),
                want,
            }
        }
        6 => Input::Release {
            waiter: WaiterId(rng.below(*waiter + 1)),
        },
        7 => Input::Deadline {
            waiter: WaiterId(rng.below(*waiter + 1)),
            deadline: Some(soon(rng)),
        },
        8..=9 => Input::Candidates {
            fetch: pick(rng, &mut driver.selects)?,
            ranked: sources(rng),
        },
        10 => Input::Announced {
            key: rng.below(8),
            source: SourceId(rng.below(6)),
        },
        11 => {
            // Refused where it is acknowledged already; then its end is still to come.
            let (attempt, _) = *driver.attempts.get(rng.below(8) as usize)?;
            Input::Declined {
                attempt,
                until: soon(rng),
            }
        }
        12..=13 => {
            let (attempt, _) = *driver.attempts.get(rng.below(8) as usize)?;
            Input::Started { attempt }
        }
        14..=15 => {
            let (attempt, _) = *driver.attempts.get(rng.below(8) as usize)?;
            let total = (rng.below(2) == 0).then(|| 50 + rng.below(60));
            Input::Opened {
                attempt,
                identity: rng.below(2),
                total,
            }
        }
        16..=17 => {
            let attempt = driver.attempts.get_mut(rng.below(8) as usize)?;
            attempt.1 += rng.below(30);
            Input::Progress {
                attempt: attempt.0,
                upto: attempt.1,
            }
        }
        18..=22 => {
            let (attempt, upto) = pick(rng, &mut driver.attempts)?;
            let end = match rng.below(7) {
                0 => End::Missing,
                1 => End::Busy {
                    retry_after: Some(Duration::from_millis(rng.below(50))),
                },
                2 => End::Failed(Fault::Refused),
                3 => End::Failed(Fault::Changed),
                4 => End::Aborted,
                _ => End::Complete {
                    upto: upto + rng.below(60),
                },
            };
            Input::Ended { attempt, end }
        }
        23..=24 => {
            let verdicts = [
                Verdict::Valid,
                Verdict::Valid,
                Verdict::Partial,
                Verdict::Ambiguous,
                Verdict::Invalid,
                Verdict::Ignored,
                Verdict::GaveUp,
            ];
            let verdict = verdicts[rng.below(7) as usize];
            Input::Judged {
                judgement: pick(rng, &mut driver.judgements)?,
                verdict,
            }
        }
        25 => {
            let results = [
                Ok(()),
                Ok(()),
                Err(CommitFault::Exists),
                Err(CommitFault::Full),
            ];
            let result = results[rng.below(4) as usize];
            Input::Committed {
                fetch: pick(rng, &mut driver.commits)?,
                result,
            }
        }
        26 => Input::Obtained {
            key: rng.below(8),
            from: None,
        },
        27..=28 => Input::SourceUp {
            source: SourceId(rng.below(6)),
            group: GroupId(rng.below(3)),
        },
        29 => match rng.below(3) {
            0 => Input::SourceDown {
                source: SourceId(rng.below(6)),
            },
            1 => Input::Forget {
                source: SourceId(rng.below(6)),
            },
            _ => Input::Heartbeat {
                attempt: driver.attempts.first()?.0,
            },
        },
        30 => match rng.below(2) {
            0 => Input::Withdraw {
                source: SourceId(rng.below(6)),
            },
            _ => Input::WithdrawFrom {
                key: rng.below(8),
                source: SourceId(rng.below(6)),
            },
        },
        31 => match rng.below(2) {
            0 => Input::Block {
                source: SourceId(rng.below(6)),
                until: Some(soon(rng)),
            },
            _ => Input::Unblock {
                source: SourceId(rng.below(6)),
            },
        },
        32 => {
            let limits = Limits {
                concurrent_max: nz(1 + rng.below(5)),
                rate: (rng.below(2) == 0).then(|| Rate {
                    per_minute_max: nz(6000),
                    burst_max: nz(1 + rng.below(5)),
                }),
                within: (rng.below(2) == 0).then(|| GroupId(rng.below(3))),
            };
            Input::Limit {
                scope: scope(rng),
                limits,
            }
        }
        _ => Input::Pause {
            scope: scope(rng),
            until: soon(rng),
        },
    })
}

fn scope(rng: &mut Rng) -> Scope {
    match rng.below(5) {
        0 => Scope::Whole,
        1..=2 => Scope::Group(GroupId(rng.below(3))),
        _ => Scope::Source(SourceId(rng.below(6))),
    }
}

fn run(seed: u64, steps: u32) {
    let mut rng = Rng::new(seed);
    let config = Config {
        racing_max: 1 + rng.below(4) as u32,
        bytes_max: 100 + rng.below(400),
        me: Some(SourceId(5)),
        remembered_sources_max: 2,
        candidates_max: 3,
        try_backed_off: rng.below(2) == 0,
        fresh_first: rng.below(4) == 0,
        choice: if rng.below(2) == 0 {
            Choice::Best
        } else {
            Choice::Sampled { scale: 4 }
        },
        events_max: 8,
        ..Config::default()
    };
    let mut engine = Engine::new(config, seed).expect("valid");
    let mut driver = Driver::default();
    let mut now = Time::ZERO;
    let mut waiter = 0;
    for _ in 0..steps {
        if rng.below(3) == 0 {
            now = now.after(Duration::from_micros(rng.below(20_000)));
            engine.handle_timeout(now);
        }
        if let Some(input) = step(&mut rng, &mut driver, &mut waiter, now) {
            engine.handle_input(now, input);
        }
        engine.check();
        if rng.below(4) > 0 {
            driver.drain(&mut engine);
        }
    }
    // Everything is let go: nothing may be left.
    engine.retain(now, |_, _| false);
    for round in 0..200 {
        driver.drain(&mut engine);
        for (attempt, _) in driver.attempts.drain(..) {
            engine.handle_input(
                now,
                Input::Ended {
                    attempt,
                    end: End::Aborted,
                },
            );
        }
        for judgement in driver.judgements.drain(..) {
            engine.handle_input(
                now,
                Input::Judged {
                    judgement,
                    verdict: Verdict::Valid,
                },
            );
        }
        for fetch in driver.commits.drain(..) {
            engine.handle_input(
                now,
                Input::Committed {
                    fetch,
                    result: Ok(()),
                },
            );
        }
        now = now.after(Duration::from_millis(100));
        engine.handle_timeout(now);
        engine.check();
        if round > 100 {
            for source in 0..6 {
                engine.handle_input(
                    now,
                    Input::SourceDown {
                        source: SourceId(source),
                    },
                );
                engine.handle_input(
                    now,
                    Input::Forget {
                        source: SourceId(source),
                    },
                );
            }
        }
    }
    driver.drain(&mut engine);
    assert!(engine.is_empty(), "I9 seed {seed}: {:?}", engine.snapshot());
    assert!(
        (1..=waiter).all(|w| driver.outcomes.get(&w).copied().unwrap_or(0) <= 1),
        "I1 one outcome"
    );
}

#[test]
fn random_inputs_break_nothing() {
    for seed in 0..150 {
        let done = std::panic::catch_unwind(|| run(seed, 800));
        assert!(done.is_ok(), "seed {seed}");
    }
}
