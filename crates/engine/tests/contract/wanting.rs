//! Point 10 of the contract: persist in wanting.

use crate::rig::*;
use gannet_engine::*;

#[test]
fn c10_a_persistent_fetch_waits_and_wakes_for_a_source() {
    let source = SourceId(1);
    let mut rig = Rig::new(config());
    rig.want(1, 5, any(persistent()));
    rig.wait(secs(1000));
    assert_eq!(rig.finished(), []);
    assert_eq!(rig.view(5).phase, Phase::Parked);
    rig.feed(Input::Block {
        source,
        until: None,
    });
    rig.source_up(1);
    rig.no_start();
    rig.feed(Input::Unblock { source });
    let start = rig.start();
    rig.fail(start.attempt);
    rig.no_start();
    rig.feed(Input::SourceDown { source });
    rig.wait(secs(1000));
    rig.no_start();
    rig.source_up(1);
    let start = rig.start_within(secs(60));
    rig.end(start.attempt, End::Missing);
    rig.wait(ms(1));
    rig.no_start();
    rig.feed(Input::Announced { key: 5, source });
    rig.serve(Verdict::Valid);
    assert_eq!(rig.finished(), [(1, Ok(vec![1]))]);
}

#[test]
fn c10_a_block_that_runs_out_wakes() {
    let mut rig = Rig::with(&[1]);
    let until = Some(rig.now.after(secs(5)));
    rig.feed(Input::Block {
        source: SourceId(1),
        until,
    });
    rig.want(1, 5, any(persistent()));
    rig.wait(ms(4999));
    rig.no_start();
    rig.wait(ms(1));
    rig.start();
}

#[test]
fn c10_not_before_is_waited_for() {
    let mut rig = Rig::with(&[1]);
    let not_before = Some(rig.now.after(secs(5)));
    rig.want(
        1,
        5,
        any(Plan {
            not_before,
            ..Plan::default()
        }),
    );
    rig.wait(ms(4999));
    rig.no_start();
    rig.wait(ms(1));
    rig.start();
}

#[test]
fn c10_the_pauses_between_cycles_grow() {
    let mut rig = Rig::with(&[1]);
    let config = HealthConfig {
        faults_forgiven: 1000,
        dead_after: 1000,
        ..HealthConfig::default()
    };
    rig.engine = Engine::new(
        Config {
            health: config,
            ..crate::rig::config()
        },
        7,
    )
    .expect("a valid configuration");
    rig.source_up(1);
    rig.want(1, 5, any(persistent()));
    let mut at = Vec::new();
    let begin = rig.now;
    for _ in 0..200 {
        for start in rig.starts() {
            at.push(rig.now.since(begin).as_millis());
            rig.end(start.attempt, End::Missing);
        }
        rig.wait(ms(100));
    }
    assert_eq!(at, [0, 1000, 3000, 7000, 15_000]);
}

#[test]
fn c10_a_pause_of_nothing_is_none_where_somebody_answers() {
    let plan = Plan {
        rounds_max: Some(nz(1)),
        retry: Retry::UntilReleased {
            backoff: backoff(0),
        },
        ..Plan::default()
    };
    let mut rig = Rig::with(&[1, 2]);
    rig.want(1, 5, any(plan.clone()));
    // One attempt a cycle, one cycle after the other, and no time passes.
    for _ in 0..5 {
        let start = rig.start();
        rig.end(start.attempt, End::Missing);
    }
    let start = rig.start();
    rig.complete(start.attempt, 10);
    let judge = rig.judge();
    rig.judged(judge.judgement, Verdict::Ambiguous);
    rig.start();
    // With nobody to ask there is no answer to go by, and it must not spin.
    rig.want(2, 6, ranked(plan.clone()));
    let fetch = rig.engine.find(&6).expect("in flight");
    rig.rank(fetch, &[9]);
    rig.want(3, 7, only(&[9], plan));
    rig.no_start();
    rig.wait(ms(1));
}

#[test]
fn c10_a_deadline_can_be_moved() {
    let mut rig = Rig::new(config());
    let at = |rig: &Rig, n| Some(rig.now.after(secs(n)));
    let deadline = at(&rig, 5);
    for waiter in 1..=3 {
        let want = Want {
            deadline,
            ..any(persistent())
        };
        rig.want(waiter, 5, want);
    }
    let moves = [(1, at(&rig, 9)), (2, at(&rig, 1)), (3, None)];
    for (waiter, deadline) in moves {
        let waiter = WaiterId(waiter);
        rig.feed(Input::Deadline { waiter, deadline });
    }
    let expired = |n| vec![(n, Err(FetchError::Expired))];
    rig.wait(secs(1));
    assert_eq!(rig.finished(), expired(2));
    rig.wait(ms(7999));
    assert_eq!(rig.finished(), []);
    rig.wait(ms(1));
    assert_eq!(rig.finished(), expired(1));
    rig.wait(secs(1000));
    assert_eq!(rig.finished(), []);
}

#[test]
fn c10_a_budget_ends_by_tries_and_by_time() {
    let budget = |tries, total| Plan {
        retry: Retry::Budget {
            tries,
            total: secs(total),
            backoff: backoff(1000),
        },
        ..Plan::default()
    };
    for (plan, attempts) in [(budget(3, 1000), 3), (budget(100, 4), 3)] {
        let mut rig = Rig::with(&[1]);
        rig.want(1, 5, any(plan));
        let mut count = 0;
        for _ in 0..400 {
            for start in rig.starts() {
                count += 1;
                rig.end(start.attempt, End::Failed(Fault::Local));
            }
            rig.wait(ms(100));
        }
        // Failures at 0, 1 and 3 s; the fourth would come at 7 s.
        assert_eq!(count, attempts);
        assert_eq!(rig.finished(), [(1, Err(FetchError::Exhausted))]);
    }
}

#[test]
fn regression_no_hedge_joins_after_the_budget_of_time() {
    let plan = Plan {
        retry: Retry::Budget {
            tries: 9,
            total: secs(3),
            backoff: backoff(100),
        },
        hedge: Some(Hedge::After(secs(2))),
        first_byte_timeout: secs(60),
        total_timeout: secs(60),
        ..Plan::default()
    };
    let mut rig = Rig::with(&[1, 2, 3]);
    rig.want(1, 5, any(plan));
    let first = rig.start();
    rig.wait(secs(2));
    assert_eq!(rig.start().stage, Stage::Hedge);
    rig.wait(secs(2));
    rig.no_start();
    // What is under way may still answer.
    rig.complete(first.attempt, 3);
    let judge = rig.judge();
    rig.judged(judge.judgement, Verdict::Valid);
    assert_eq!(rig.finished(), [(1, Ok(vec![first.source]))]);
}

#[test]
fn regression_what_is_over_in_time_starts_nothing_before_its_timer_is_served() {
    let config = Config {
        source_limits: limits(1),
        ..config()
    };
    let mut rig = Rig::up(config, &[1]);
    let budget = Plan {
        retry: Retry::Budget {
            tries: 9,
            total: secs(3),
            backoff: backoff(100),
        },
        ..Plan::default()
    };
    rig.want(1, 5, any(budget));
    let first = rig.start();
    rig.want(2, 6, any(Plan::default()));
    rig.end(first.attempt, End::Failed(Fault::Local));
    let other = rig.start();
    rig.wait(ms(500));
    let detached = Plan {
        lifetime: Lifetime::Detached { ceiling: secs(3) },
        ..Plan::default()
    };
    rig.want(3, 7, any(detached));
    let deserted = rig.view(7).fetch;
    rig.release(3);
    assert_eq!(rig.view(5).phase, Phase::Queued);
    assert_eq!(rig.view(7).phase, Phase::Queued);
    // The source is free again, and the driver late with its timers.
    rig.now = rig.now.after(secs(4));
    rig.complete(other.attempt, 3);
    rig.no_start();
    assert_eq!(rig.finished(), [(1, Err(FetchError::Exhausted))]);
    assert_eq!(rig.retired(), [first.fetch, deserted]);
}

#[test]
fn regression_targets_that_are_not_there_cost_a_paused_fetch_nothing() {
    let plan = Plan {
        retry: Retry::Budget {
            tries: 2,
            total: secs(1000),
            backoff: backoff(10_000),
        },
        ..Plan::default()
    };
    let mut rig = Rig::with(&[1]);
    rig.want(1, 5, only(&[1], plan.clone()));
    let first = rig.start();
    rig.end(first.attempt, End::Failed(Fault::Local));
    // It waits out the back-off, whoever comes with targets that are down.
    rig.want(2, 5, only(&[2], plan.clone()));
    rig.no_start();
    rig.feed(Input::SourceDown {
        source: SourceId(1),
    });
    rig.want(3, 5, only(&[3], plan.clone()));
    assert_eq!(rig.finished(), []);
    // One that is there is asked at once, in the cycle that is left.
    rig.source_up(4);
    rig.want(4, 5, only(&[4], plan));
    assert_eq!(rig.start().source, 4);
}
