//! Point 5 of the contract: escalate.

use crate::rig::*;
use gannet_engine::*;
use std::time::Duration;

#[test]
fn c05_escalates_in_the_widths_of_its_plan() {
    let linear = FanoutGrowth::Linear {
        base: nz(1),
        step: nz(2),
    };
    let geometric = FanoutGrowth::Geometric {
        base: nz(1),
        factor: nz(3),
    };
    let plan = |growth| Plan {
        growth,
        ..Plan::default()
    };
    let cases = [
        (plan(FanoutGrowth::Fixed(nz(1))), vec![1; 10]),
        (plan(FanoutGrowth::Fixed(nz(4))), vec![4, 4, 2]),
        (plan(linear), vec![1, 3, 5, 1]),
        (plan(geometric), vec![1, 3, 6]),
        (
            Plan {
                width_max: Some(nz(2)),
                ..plan(geometric)
            },
            vec![1, 2, 2, 2, 2, 1],
        ),
        (
            Plan {
                rounds_max: Some(nz(2)),
                ..plan(linear)
            },
            vec![1, 3],
        ),
        (
            Plan {
                attempts_max: Some(nz(5)),
                ..plan(linear)
            },
            vec![1, 3, 1],
        ),
    ];
    for (plan, widths) in cases {
        let mut rig = Rig::with(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        rig.want(1, 5, any(plan.clone()));
        let mut seen = Vec::new();
        loop {
            let round = rig.starts();
            if round.is_empty() {
                break;
            }
            seen.push(round.len());
            for start in round {
                rig.fail(start.attempt);
            }
        }
        assert_eq!(seen, widths, "{plan:?}");
        assert_eq!(rig.finished(), [(1, Err(FetchError::Exhausted))]);
    }
}

#[test]
fn c05_the_operators_ceilings_hold_too() {
    let cases = [
        (
            Config {
                width_max: 2,
                ..config()
            },
            vec![2, 2, 2],
        ),
        (
            Config {
                rounds_max: 1,
                ..config()
            },
            vec![4],
        ),
        (
            Config {
                attempts_max: 5,
                ..config()
            },
            vec![4, 1],
        ),
    ];
    for (config, widths) in cases {
        let mut rig = Rig::up(config, &[1, 2, 3, 4, 5, 6]);
        let growth = FanoutGrowth::Fixed(nz(4));
        rig.want(
            1,
            5,
            any(Plan {
                growth,
                ..Plan::default()
            }),
        );
        let mut seen = Vec::new();
        loop {
            let round = rig.starts();
            if round.is_empty() {
                break;
            }
            seen.push(round.len());
            for start in round {
                rig.fail(start.attempt);
            }
        }
        assert_eq!(seen, widths);
    }
}

#[test]
fn c05_a_late_round_is_joined_by_the_next_and_the_loser_costs_nothing() {
    let plan = Plan {
        hedge: Some(Hedge::After(ms(200))),
        ..Plan::default()
    };
    let mut rig = Rig::with(&[1, 2]);
    rig.want(1, 5, any(plan));
    let first = rig.start();
    assert_eq!(first.stage, Stage::First);
    rig.wait(ms(199));
    rig.no_start();
    rig.wait(ms(2));
    let hedge = rig.start();
    assert_eq!(hedge.stage, Stage::Hedge);
    assert_ne!(hedge.source, first.source);
    assert_eq!(rig.aborts(), []);
    rig.complete(hedge.attempt, 10);
    let judge = rig.judge();
    rig.judged(judge.judgement, Verdict::Valid);
    assert_eq!(rig.finished(), [(1, Ok(vec![hedge.source]))]);
    assert_eq!(rig.aborts(), [first.attempt]);
    rig.end(first.attempt, End::Aborted);
    assert_eq!(rig.source(first.source).faults, 0);
    assert_eq!(rig.source(first.source).health, Health::Healthy);
    let counters = rig.engine.counters();
    assert_eq!((counters.hedges, counters.hedges_won), (1, 1));
}

#[test]
fn c05_whoever_was_last_heard_of_by_a_fault_is_joined_sooner_until_it_gives_a_sign() {
    let plan = || Plan {
        hedge: Some(Hedge::After(ms(200))),
        ..Plan::default()
    };
    let check = |doubt: Option<Duration>, answers: bool, expected: u64| {
        let mut rig = Rig::new(Config {
            health: HealthConfig {
                doubt,
                ..config().health
            },
            ..config()
        });
        for n in [1, 2] {
            rig.source_up(n);
        }
        let ask = |rig: &mut Rig, waiter: u64| {
            rig.want(waiter, waiter as u32, ranked(plan()));
            let fetch = rig.selects()[0];
            rig.rank(fetch, &[1, 2]);
            rig.start()
        };
        let failed = ask(&mut rig, 1);
        assert_eq!(failed.source, 1);
        rig.fail(failed.attempt);
        let other = rig.start();
        rig.complete(other.attempt, 10);
        rig.wait(secs(60));
        let again = ask(&mut rig, 2);
        assert_eq!(again.source, 1, "its back-off is over");
        if answers {
            rig.wait(ms(1));
            rig.feed(Input::Heartbeat {
                attempt: again.attempt,
            });
        }
        rig.wait(ms(expected - 1));
        rig.no_start();
        rig.wait(ms(2));
        let joined = rig.start();
        assert_eq!((joined.source, joined.stage), (2, Stage::Hedge));
    };
    check(None, false, 200);
    check(Some(ms(20)), false, 20);
    check(Some(ms(20)), true, 200);
    check(Some(ms(300)), false, 200);
}

#[test]
fn c05_many_hedges_that_fall_due_at_once_follow_each_other_without_another_delay() {
    let plan = Plan {
        hedge: Some(Hedge::After(ms(200))),
        ..Plan::default()
    };
    let mut rig = Rig::with(&[1]);
    for n in 0..5 {
        rig.want(u64::from(n), n, only(&[1, 2], plan.clone()));
    }
    let first = rig.starts();
    assert_eq!(first.len(), 5);
    rig.source_up(2);
    rig.wait(ms(200));
    // Each start is acknowledged before the next is made.
    let hedges = rig.starts();
    assert_eq!(hedges.len(), 5);
    assert!(
        hedges
            .iter()
            .all(|hedge| hedge.stage == Stage::Hedge && hedge.source == 2)
    );
}

#[test]
fn c05_hedges_that_wait_for_bytes_have_them_as_soon_as_they_are_given_back() {
    let plan = Plan {
        hedge: Some(Hedge::After(ms(200))),
        body_bytes_max: 100,
        ..Plan::default()
    };
    let config = Config {
        bytes_max: 350,
        ..config()
    };
    let mut rig = Rig::up(config, &[1, 2]);
    for n in 1..=3 {
        rig.want(u64::from(n), n, only(&[1, 2], plan.clone()));
    }
    let firsts = rig.starts();
    assert_eq!(firsts.len(), 3);
    rig.want(4, 4, any(plan));
    rig.wait(ms(200));
    rig.no_start();
    // Half of the next delay: what comes now comes for the bytes, and to whoever is under way.
    rig.wait(ms(100));
    rig.complete(firsts[0].attempt, 10);
    rig.no_start();
    let judge = rig.judge();
    rig.judged(judge.judgement, Verdict::Valid);
    let hedge = rig.start();
    assert_eq!((hedge.fetch, hedge.stage), (firsts[1].fetch, Stage::Hedge));
    rig.no_start();
}

#[test]
fn regression_ranked_hedges_that_fall_due_at_once_all_go_to_the_next_best() {
    let plan = Plan {
        hedge: Some(Hedge::After(ms(200))),
        ..Plan::default()
    };
    let mut rig = Rig::with(&[1, 2, 3]);
    for n in 0..5 {
        rig.want(u64::from(n), n, ranked(plan.clone()));
        for fetch in rig.selects() {
            rig.rank(fetch, &[1, 2, 3]);
        }
    }
    assert!(rig.starts().iter().all(|start| start.source == 1));
    rig.wait(ms(200));
    // The second has yet to acknowledge a start each time: no reason to go on to the third.
    let hedges = rig.starts();
    assert_eq!(hedges.len(), 5);
    assert!(hedges.iter().all(|hedge| hedge.source == 2), "{hedges:?}");
}

#[test]
fn c05_progress_puts_the_hedge_off_and_a_stall_in_the_middle_brings_it() {
    let plan = Plan {
        hedge: Some(Hedge::After(ms(200))),
        ..Plan::default()
    };
    let mut rig = Rig::with(&[1, 2]);
    rig.want(1, 5, any(plan));
    let first = rig.start();
    rig.open(first.attempt, 1);
    for step in 1..10 {
        rig.wait(ms(150));
        rig.progress(first.attempt, step);
        rig.no_start();
    }
    rig.wait(ms(150));
    rig.feed(Input::Heartbeat {
        attempt: first.attempt,
    });
    rig.wait(ms(150));
    rig.no_start();
    rig.wait(ms(60));
    assert_eq!(rig.start().stage, Stage::Hedge);
}

#[test]
fn c05_a_quantile_hedge_waits_for_its_floor_and_then_for_the_quantile() {
    let config = Config {
        latency_samples_min: 4,
        ..config()
    };
    let plan = Plan {
        hedge: Some(Hedge::AtQuantile {
            permille: 990,
            floor: ms(50),
        }),
        ..Plan::default()
    };
    let mut rig = Rig::up(config, &[1, 2]);
    for key in 0..20 {
        let waiter = u64::from(key);
        rig.want(waiter, key, only(&[1], plan.clone()));
        let start = rig.start();
        rig.wait(ms(30));
        rig.complete(start.attempt, 10);
        let judge = rig.judge();
        rig.judged(judge.judgement, Verdict::Valid);
    }
    rig.want(100, 100, ranked(plan.clone()));
    let fetch = rig.selects()[0];
    rig.rank(fetch, &[1, 2]);
    assert_eq!(rig.start().source, 1);
    rig.wait(ms(49));
    rig.no_start();
    rig.wait(ms(2));
    assert_eq!(rig.start().source, 2, "the floor is above the p99");
    let mut rig = {
        let config = Config {
            latency_samples_min: 4,
            ..crate::rig::config()
        };
        Rig::up(config, &[1, 2])
    };
    for key in 0..20 {
        let waiter = u64::from(key);
        rig.want(waiter, key, only(&[1], Plan::default()));
        let start = rig.start();
        rig.wait(ms(400));
        rig.complete(start.attempt, 10);
        let judge = rig.judge();
        rig.judged(judge.judgement, Verdict::Valid);
    }
    rig.want(100, 100, ranked(plan));
    let fetch = rig.selects()[0];
    rig.rank(fetch, &[1, 2]);
    assert_eq!(rig.start().source, 1);
    rig.wait(ms(300));
    rig.no_start();
    rig.wait(ms(300));
    assert_eq!(rig.start().source, 2, "the p99 is about 400 ms");
}
