//! The engine's contract, points 1 to 6, each test named after the point it holds to.

mod rig;

use gannet_engine::*;
use rig::*;
use std::time::Duration;

// 1. Coalesce.

#[test]
fn c01_waiters_of_one_key_share_one_fetch() {
    let mut rig = Rig::with(&[1]);
    rig.want(1, 5, any(Plan::default()));
    rig.want(2, 5, any(Plan::default()));
    let start = rig.serve(Verdict::Valid);
    assert_eq!(rig.finished(), [(1, Ok(vec![1])), (2, Ok(vec![1]))]);
    assert_eq!(rig.retired(), [start.fetch]);
    assert_eq!(rig.engine.counters().coalesced, 1);
}

#[test]
fn c01_late_waiters_join_what_is_judged_and_committed() {
    let plan = Plan {
        commit: Commit::BeforeFinish,
        ..Plan::default()
    };
    let mut rig = Rig::with(&[1]);
    rig.want(1, 5, any(plan.clone()));
    let start = rig.start();
    rig.complete(start.attempt, 10);
    rig.want(2, 5, any(plan.clone()));
    let first = rig.judge();
    rig.judged(first.judgement, Verdict::Valid);
    for judge in rig.judges() {
        assert_eq!(judge.waiters, [2]);
        rig.judged(judge.judgement, Verdict::Valid);
    }
    rig.want(3, 5, any(plan));
    for judge in rig.judges() {
        rig.judged(judge.judgement, Verdict::Valid);
    }
    while let Some(fetch) = rig.commits().pop() {
        rig.committed(fetch, Ok(()));
        for judge in rig.judges() {
            rig.judged(judge.judgement, Verdict::Valid);
        }
    }
    let mut finished = rig.finished();
    finished.sort();
    assert_eq!(
        finished,
        [(1, Ok(vec![1])), (2, Ok(vec![1])), (3, Ok(vec![1]))]
    );
    rig.no_start();
}

#[test]
fn c01_late_waiters_join_what_is_parked() {
    let mut rig = Rig::with(&[1]);
    rig.want(1, 5, only(&[1], persistent()));
    let start = rig.start();
    rig.fail(start.attempt);
    assert_eq!(rig.view(5).phase, Phase::Parked);
    rig.want(2, 5, only(&[1], persistent()));
    assert_eq!(rig.view(5).waiters.len(), 2);
    assert_eq!(rig.engine.counters().fetches, 1);
}

#[test]
fn c01_the_highest_priority_of_the_live_waiters_holds() {
    let mut rig = Rig::with(&[1]);
    let with = |priority| Want {
        priority,
        ..any(Plan::default())
    };
    rig.want(1, 5, with(10));
    rig.want(2, 5, with(40));
    assert_eq!(rig.view(5).priority, 40);
    rig.release(2);
    assert_eq!(rig.view(5).priority, 10);
}

#[test]
fn c01_the_stricter_commit_holds() {
    let mut rig = Rig::with(&[1]);
    rig.want(1, 5, any(Plan::default()));
    let strict = Plan {
        commit: Commit::BeforeFinish,
        ..Plan::default()
    };
    rig.want(2, 5, any(strict));
    let start = rig.serve(Verdict::Valid);
    assert_eq!(rig.finished(), []);
    assert_eq!(rig.commits(), [start.fetch]);
    rig.committed(start.fetch, Ok(()));
    assert_eq!(rig.finished(), [(1, Ok(vec![1])), (2, Ok(vec![1]))]);
}

#[test]
fn c01_a_detached_ceiling_counts_from_the_last_departure() {
    let detached = |ceiling| Plan {
        lifetime: Lifetime::Detached {
            ceiling: secs(ceiling),
        },
        first_byte_timeout: secs(60),
        ..Plan::default()
    };
    let mut rig = Rig::with(&[1]);
    rig.want(1, 5, any(detached(1)));
    rig.want(2, 5, any(detached(3)));
    let start = rig.start();
    rig.release(2);
    rig.wait(secs(10));
    rig.release(1);
    rig.wait(ms(2999));
    assert_eq!(rig.aborts(), []);
    rig.wait(ms(2));
    assert_eq!(rig.aborts(), [start.attempt]);
}

// 2. Bound.

#[test]
fn c02_no_more_fetches_race_than_racing_max() {
    let config = Config {
        racing_max: 2,
        ..config()
    };
    let mut rig = Rig::up(config, &[1]);
    for key in 0..4 {
        rig.want(
            key,
            u32::try_from(key).expect("small"),
            any(Plan::default()),
        );
    }
    let starts = rig.starts();
    assert_eq!(starts.len(), 2);
    rig.complete(starts[0].attempt, 10);
    assert_eq!(
        rig.starts().len(),
        1,
        "a fetch that is judged holds no slot"
    );
}

#[test]
fn c02_a_parked_fetch_holds_no_slot() {
    let config = Config {
        racing_max: 1,
        ..config()
    };
    let mut rig = Rig::up(config, &[1, 2]);
    rig.want(1, 5, only(&[1], persistent()));
    rig.want(2, 6, only(&[2], Plan::default()));
    rig.want(3, 7, only(&[9], persistent()));
    let start = rig.start();
    assert_eq!(start.source, 1);
    rig.fail(start.attempt);
    assert_eq!(rig.start().source, 2);
}

#[test]
fn c02_an_aborted_attempt_holds_its_slot_until_its_end() {
    let config = Config {
        racing_max: 1,
        source_limits: limits(1),
        ..config()
    };
    let mut rig = Rig::up(config, &[1]);
    rig.want(1, 5, any(Plan::default()));
    let start = rig.start();
    rig.want(2, 6, any(Plan::default()));
    rig.release(1);
    assert_eq!(rig.aborts(), [start.attempt]);
    rig.no_start();
    rig.end(start.attempt, End::Aborted);
    assert_eq!(rig.start().source, 1);
}

#[test]
fn c02_limits_hold_at_source_group_and_whole() {
    let group = |n| Scope::Group(GroupId(n));
    let nested = Limits {
        within: Some(GroupId(100)),
        ..limits(9)
    };
    let cases: [(&str, Vec<(Scope, Limits)>); 4] = [
        ("source", vec![(Scope::Source(SourceId(1)), limits(3))]),
        ("group", vec![(group(1), limits(3))]),
        ("nested", vec![(group(1), nested), (group(100), limits(3))]),
        ("whole", vec![(Scope::Whole, limits(3))]),
    ];
    for (name, case) in cases {
        let mut rig = Rig::with(&[1]);
        for (scope, limits) in case {
            rig.feed(Input::Limit { scope, limits });
        }
        for key in 0..6 {
            rig.want(
                key,
                u32::try_from(key).expect("small"),
                any(Plan::default()),
            );
        }
        let starts = rig.starts();
        assert_eq!(starts.len(), 3, "{name}");
        rig.fail(starts[1].attempt);
        assert_eq!(rig.starts().len(), 1, "{name}");
    }
}

#[test]
fn c02_groups_that_nest_in_a_circle_do_no_harm() {
    let mut rig = Rig::with(&[1]);
    for (inner, outer) in [(1, 2), (2, 3), (3, 1), (4, 4)] {
        rig.feed(Input::Limit {
            scope: Scope::Group(GroupId(inner)),
            limits: Limits {
                within: Some(GroupId(outer)),
                ..limits(1)
            },
        });
    }
    rig.want(1, 5, any(Plan::default()));
    rig.serve(Verdict::Valid);
    assert_eq!(rig.finished(), [(1, Ok(vec![1]))]);
}

#[test]
fn c02_tokens_come_at_their_rate() {
    for scope in [
        Scope::Source(SourceId(1)),
        Scope::Group(GroupId(1)),
        Scope::Whole,
    ] {
        let mut rig = Rig::with(&[1]);
        rig.feed(Input::Limit {
            scope,
            limits: Limits {
                rate: Some(Rate {
                    per_minute_max: nz(60),
                    burst_max: nz(2),
                }),
                ..limits(100)
            },
        });
        for key in 0..6 {
            rig.want(
                key,
                u32::try_from(key).expect("small"),
                any(Plan::default()),
            );
        }
        assert_eq!(rig.starts().len(), 2, "{scope:?}: the burst");
        rig.wait(ms(900));
        assert_eq!(rig.starts().len(), 0, "{scope:?}");
        rig.wait(ms(101));
        assert_eq!(rig.starts().len(), 1, "{scope:?}");
        rig.wait(ms(1001));
        assert_eq!(rig.starts().len(), 1, "{scope:?}");
    }
}

fn sized(bytes: u64) -> Want {
    any(Plan {
        body_bytes_max: bytes,
        ..Plan::default()
    })
}

#[test]
fn c02_questions_go_past_who_waits_for_bytes() {
    let config = Config {
        bytes_max: 1 << 20,
        ..config()
    };
    let mut rig = Rig::up(config, &[1]);
    rig.want(1, 1, sized(600 << 10));
    let first = rig.start();
    rig.want(2, 2, sized(600 << 10));
    rig.no_start();
    for key in 3..10 {
        rig.want(u64::from(key), key, sized(1));
        assert_ne!(
            rig.start().fetch,
            first.fetch,
            "a question is asked at once"
        );
    }
    rig.want(10, 10, sized(100 << 10));
    rig.no_start();
    rig.fail(first.attempt);
    assert_eq!(rig.starts().len(), 2, "the bodies in their turns");
}

#[test]
fn i07_questions_starve_nobody_who_waits_for_bytes() {
    let config = Config {
        bytes_max: 1 << 20,
        ..config()
    };
    let mut rig = Rig::up(config, &[1]);
    rig.want(1, 1, sized(1));
    let earlier = rig.start();
    rig.want(2, 2, sized(1 << 19));
    let body = rig.start();
    // Needs all the memory there is.
    rig.want(3, 3, sized(1 << 20));
    rig.no_start();
    rig.want(4, 4, sized(1));
    let question = rig.start();
    rig.fail(body.attempt);
    // Only questions are in its way now: no more of them, or there would be one always.
    rig.want(5, 5, sized(1));
    rig.no_start();
    rig.fail(earlier.attempt);
    rig.no_start();
    rig.fail(question.attempt);
    let large = rig.start();
    assert_eq!(rig.engine.key(large.fetch), Some(&3));
    rig.no_start();
    rig.fail(large.attempt);
    let waited = rig.start();
    assert_eq!(rig.engine.key(waited.fetch), Some(&5));
}

#[test]
fn regression_bytes_beyond_the_length_that_another_source_named_are_discarded() {
    let plan = Plan {
        growth: FanoutGrowth::Fixed(nz(2)),
        resume: true,
        ..Plan::default()
    };
    let mut rig = Rig::with(&[1, 2]);
    rig.want(1, 1, any(plan));
    let starts = rig.starts();
    for (start, total) in [(&starts[0], None), (&starts[1], Some(2))] {
        rig.feed(Input::Opened {
            attempt: start.attempt,
            identity: 1,
            total,
        });
    }
    // By now the driver has appended them: whichever brings the next byte appends.
    rig.progress(starts[0].attempt, 4);
    assert_eq!(rig.discards(), [starts[0].attempt]);
    assert_eq!(rig.aborts().len(), 2);
    assert_eq!(rig.start().from_byte, 0, "the body starts anew");
}

#[test]
fn regression_a_group_that_was_left_has_no_tokens_back() {
    let config = Config {
        group_limits: Limits {
            rate: Some(Rate {
                per_minute_max: nz(1),
                burst_max: nz(1),
            }),
            ..limits(9)
        },
        ..config()
    };
    let mut rig = Rig::up(config, &[1]);
    rig.want(1, 5, any(persistent()));
    rig.serve(Verdict::Valid);
    rig.feed(Input::SourceUp {
        source: SourceId(1),
        group: GroupId(2),
    });
    rig.source_up(1);
    rig.want(2, 6, any(persistent()));
    rig.no_start();
    rig.wait(ms(59_999));
    rig.no_start();
    rig.wait(ms(1));
    assert_eq!(rig.start().source, 1);
}

#[test]
fn c02_bytes_are_reserved() {
    let config = Config {
        bytes_max: 250,
        ..config()
    };
    let plan = Plan {
        body_bytes_max: 100,
        ..Plan::default()
    };
    let mut rig = Rig::up(config, &[1]);
    for key in 0..4 {
        rig.want(key, u32::try_from(key).expect("small"), any(plan.clone()));
    }
    let starts = rig.starts();
    assert_eq!(starts.len(), 2);
    assert_eq!(rig.engine.snapshot().bytes, 200);
    rig.complete(starts[0].attempt, 10);
    rig.no_start();
    let judge = rig.judge();
    rig.judged(judge.judgement, Verdict::Valid);
    assert_eq!(
        rig.starts().len(),
        1,
        "what was judged gives its bytes back"
    );
    let large = Plan {
        body_bytes_max: 251,
        ..Plan::default()
    };
    rig.outputs.clear();
    rig.want(9, 9, any(large));
    assert_eq!(rig.finished(), [(9, Err(FetchError::Overloaded))]);
}

#[test]
fn c02_wants_beyond_the_bounds_are_refused_at_once() {
    let config = Config {
        fetches_max: 2,
        waiters_max: 3,
        ..config()
    };
    let mut rig = Rig::new(config);
    rig.want(1, 1, any(persistent()));
    rig.want(2, 2, any(persistent()));
    rig.want(3, 3, any(persistent()));
    assert_eq!(rig.finished(), [(3, Err(FetchError::Overloaded))]);
    rig.want(4, 1, any(persistent()));
    assert_eq!(rig.finished(), []);
    rig.want(5, 1, any(persistent()));
    assert_eq!(rig.finished(), [(5, Err(FetchError::Overloaded))]);
    assert_eq!(rig.engine.counters().overloaded, 2);
}

// 3. Choose.

#[test]
fn c03_ranked_sources_are_asked_in_their_order() {
    let mut rig = Rig::with(&[1, 2, 3]);
    rig.want(1, 5, ranked(Plan::default()));
    let fetch = rig.selects()[0];
    rig.rank(fetch, &[3, 1, 3, 9, 2]);
    let mut asked = Vec::new();
    while let Some(start) = rig.starts().pop() {
        asked.push(start.source);
        rig.fail(start.attempt);
    }
    assert_eq!(asked, [3, 1, 2]);
    assert_eq!(rig.finished(), [(1, Err(FetchError::Exhausted))]);
}

#[test]
fn c03_targets_are_not_exceeded() {
    let mut rig = Rig::with(&[1, 2, 3]);
    rig.want(1, 5, only(&[2], Plan::default()));
    let start = rig.start();
    assert_eq!(start.source, 2);
    rig.end(start.attempt, End::Missing);
    assert_eq!(
        rig.tried(),
        [(1, FetchError::Exhausted, vec![(2, HowEnded::Missing)])]
    );
}

#[test]
fn c03_later_targets_add_and_any_lifts() {
    let mut rig = Rig::with(&[1, 2, 3]);
    rig.want(1, 5, only(&[1], persistent()));
    let start = rig.start();
    rig.want(2, 5, only(&[2], persistent()));
    rig.fail(start.attempt);
    let start = rig.start();
    assert_eq!(start.source, 2);
    rig.want(3, 5, any(persistent()));
    rig.fail(start.attempt);
    let start = rig.start();
    assert_eq!(start.source, 3);
    rig.want(4, 5, only(&[1], persistent()));
    rig.fail(start.attempt);
    rig.start_within(secs(30));
}

#[test]
fn c03_backed_off_sources_go_last() {
    let mut rig = Rig::with(&[1, 2]);
    rig.want(1, 5, only(&[1], Plan::default()));
    let start = rig.start();
    rig.fail(start.attempt);
    for (waiter, sources) in [(2, [1, 2]), (3, [2, 1])] {
        rig.want(waiter, 5, only(&sources, Plan::default()));
        let start = rig.start();
        assert_eq!(start.source, 2);
        rig.complete(start.attempt, 10);
        let judge = rig.judge();
        rig.judged(judge.judgement, Verdict::Valid);
    }
}

#[test]
fn c03_backed_off_sources_are_tried_if_there_is_no_other() {
    for try_backed_off in [true, false] {
        let config = Config {
            try_backed_off,
            ..config()
        };
        let mut rig = Rig::up(config, &[1]);
        rig.want(1, 5, only(&[1], Plan::default()));
        let start = rig.start();
        rig.fail(start.attempt);
        rig.want(2, 6, only(&[1], persistent()));
        assert_eq!(!rig.starts().is_empty(), try_backed_off);
        rig.wait(ms(501));
        assert_eq!(!rig.starts().is_empty(), !try_backed_off);
    }
}

#[test]
fn regression_who_stands_at_one_source_looks_for_others_when_it_backs_off() {
    let config = Config {
        racing_max: 1,
        try_backed_off: false,
        ..config()
    };
    let mut rig = Rig::up(config, &[1, 2]);
    rig.want(1, 5, only(&[2], Plan::default()));
    let start = rig.start();
    rig.fail(start.attempt);
    rig.want(2, 6, only(&[1], Plan::default()));
    let start = rig.start();
    // Source 1 could serve it, and 2 backs off: it waits for its turn at 1.
    rig.want(3, 7, only(&[1, 2], persistent()));
    rig.wait(ms(300));
    rig.fail(start.attempt);
    rig.no_start();
    rig.wait(ms(201));
    assert_eq!(rig.start().source, 2);
}

#[test]
fn c03_the_best_source_comes_first() {
    let mut rig = Rig::with(&[1, 2, 3]);
    for (n, took) in [(1, 900), (2, 20), (3, 400)] {
        rig.want(n, 5, only(&[n], Plan::default()));
        let start = rig.start();
        rig.open(start.attempt, 1);
        rig.wait(ms(took));
        rig.end(start.attempt, End::Complete { upto: 100_000 });
        let judge = rig.judge();
        rig.judged(judge.judgement, Verdict::Valid);
    }
    rig.want(9, 9, any(Plan::default()));
    assert_eq!(rig.start().source, 2);
}

#[test]
fn c03_a_retry_prefers_another_source() {
    let mut rig = Rig::with(&[1, 2]);
    rig.want(1, 5, any(persistent()));
    let first = rig.start();
    rig.fail(first.attempt);
    let second = rig.start();
    assert_ne!(second.source, first.source);
    assert_eq!(second.stage, Stage::Retry);
}

#[test]
fn c03_targets_survive_failures_and_are_withdrawn() {
    let mut rig = Rig::with(&[1, 2]);
    rig.want(1, 5, only(&[1], persistent()));
    for end in [
        End::Missing,
        End::Failed(Fault::TimedOut),
        End::Failed(Fault::Unreachable),
    ] {
        let start = rig.start_within(secs(60));
        assert_eq!(start.source, 1);
        rig.end(start.attempt, end);
    }
    let start = rig.start_within(secs(60));
    rig.feed(Input::WithdrawFrom {
        key: 5,
        source: SourceId(1),
    });
    rig.fail(start.attempt);
    rig.wait(secs(600));
    rig.no_start();
    assert_eq!(rig.finished(), []);
    rig.want(2, 5, only(&[2], persistent()));
    assert_eq!(rig.start().source, 2);
}

#[test]
fn c03_without_a_target_a_fetch_that_is_not_persistent_is_exhausted() {
    let mut rig = Rig::with(&[1]);
    rig.want(1, 5, only(&[1], Plan::default()));
    let start = rig.start();
    rig.feed(Input::Withdraw {
        source: SourceId(1),
    });
    rig.fail(start.attempt);
    assert_eq!(rig.finished(), [(1, Err(FetchError::Exhausted))]);
}

#[test]
fn c03_a_refusal_for_good_is_not_repeated() {
    let plan = Plan {
        retry: Retry::Budget {
            tries: 3,
            total: secs(60),
            backoff: backoff(100),
        },
        ..Plan::default()
    };
    let mut rig = Rig::with(&[1, 2]);
    rig.want(1, 5, only(&[1, 2], plan));
    let mut asked = Vec::new();
    for _ in 0..20 {
        for start in rig.starts() {
            asked.push(start.source);
            let fault = match start.source {
                1 => Fault::Forbidden,
                _ => Fault::Internal,
            };
            rig.end(start.attempt, End::Failed(fault));
        }
        rig.wait(secs(1));
    }
    asked.sort_unstable();
    assert_eq!(asked, [1, 2, 2, 2]);
    assert_eq!(rig.finished(), [(1, Err(FetchError::Exhausted))]);
}

// 4. Start and end.

#[test]
fn c04_one_start_of_a_source_is_unacknowledged() {
    let mut rig = Rig::with(&[1]);
    rig.want(1, 5, any(Plan::default()));
    rig.want(2, 6, any(Plan::default()));
    let starts = rig.unacknowledged();
    assert_eq!(starts.len(), 1);
    rig.started(starts[0].attempt);
    assert_eq!(rig.unacknowledged().len(), 1);
}

/// A start that is undone gives its token back to who gave it, wherever its source is by then.
#[test]
fn regression_c04_a_token_goes_back_to_the_group_that_it_came_from() {
    let mut rig = Rig::with(&[1, 2]);
    for group in [1, 2] {
        rig.feed(Input::Limit {
            scope: Scope::Group(GroupId(group)),
            limits: Limits {
                rate: Some(Rate {
                    per_minute_max: nz(1),
                    burst_max: nz(1),
                }),
                ..limits(9)
            },
        });
    }
    // Both groups have spent what they had.
    rig.want(1, 5, only(&[2], Plan::default()));
    rig.start();
    rig.want(2, 6, only(&[1], Plan::default()));
    let attempt = rig.unacknowledged()[0].attempt;
    rig.feed(Input::SourceUp {
        source: SourceId(1),
        group: GroupId(2),
    });
    let until = rig.now;
    rig.feed(Input::Declined { attempt, until });
    rig.want(3, 7, only(&[2], persistent()));
    rig.no_start();
    // Group 1 has its token again.
    rig.feed(Input::SourceUp {
        source: SourceId(3),
        group: GroupId(1),
    });
    rig.want(4, 8, only(&[3], Plan::default()));
    rig.start();
}

#[test]
fn c04_a_declined_start_is_undone_at_no_cost() {
    let mut rig = Rig::with(&[1, 2]);
    rig.want(1, 5, only(&[1], Plan::default()));
    rig.want(2, 6, only(&[1], Plan::default()));
    let start = rig.unacknowledged()[0];
    let before = rig.source(1);
    rig.feed(Input::Declined {
        attempt: start.attempt,
        until: rig.now.after(secs(2)),
    });
    let after = rig.source(1);
    assert_eq!((after.faults, after.attempts), (0, 0));
    assert_eq!(after.performance, before.performance);
    assert_eq!(rig.finished(), []);
    rig.wait(ms(1999));
    rig.no_start();
    rig.wait(ms(2));
    assert_eq!(
        rig.starts().len(),
        2,
        "both keys were parked, and both go on"
    );
    assert_eq!(rig.engine.counters().declined, 1);
}

#[test]
fn c04_late_and_unknown_ids_are_counted_and_dropped() {
    let mut rig = Rig::with(&[1]);
    rig.want(1, 5, any(Plan::default()));
    let Start { attempt, fetch, .. } = rig.start();
    rig.complete(attempt, 10);
    let judgement = rig.judge().judgement;
    rig.judged(judgement, Verdict::Valid);
    rig.outputs.clear();
    let before = rig.engine.counters().late_inputs;
    let late = [
        Input::Started { attempt },
        Input::Progress { attempt, upto: 99 },
        Input::Heartbeat { attempt },
        Input::Opened {
            attempt,
            identity: 3,
            total: Some(1),
        },
        Input::Ended {
            attempt,
            end: End::Missing,
        },
        Input::Declined {
            attempt,
            until: Time::FAR,
        },
        Input::Judged {
            judgement,
            verdict: Verdict::Ignored,
        },
        Input::Committed {
            fetch,
            result: Ok(()),
        },
        Input::Candidates {
            fetch,
            ranked: vec![SourceId(1)],
        },
        Input::Release {
            waiter: WaiterId(1),
        },
    ];
    let count = late.len() as u64;
    for input in late {
        rig.feed(input);
        assert_eq!(rig.outputs, []);
    }
    assert_eq!(rig.engine.counters().late_inputs, before + count);
}

#[test]
fn c04_a_repeated_waiter_is_refused() {
    let mut rig = Rig::new(config());
    rig.want(1, 5, any(persistent()));
    rig.outputs.clear();
    rig.want(1, 6, any(persistent()));
    assert_eq!(rig.outputs, []);
    assert_eq!(rig.engine.counters().refused_inputs, 1);
    assert_eq!(rig.engine.snapshot().waiters, 1);
}

// 5. Escalate.

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
        let mut ask = |rig: &mut Rig, waiter: u64| {
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
            ..rig::config()
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

// 6. Stream, stall, resume.

fn resuming() -> Plan {
    Plan {
        resume: true,
        ..Plan::default()
    }
}

#[test]
fn c06_timers_run_out() {
    let plan = Plan {
        first_byte_timeout: ms(100),
        idle_timeout: ms(200),
        total_timeout: ms(1000),
        ..Plan::default()
    };
    // When the attempt is expected to be stopped, given when it gives signs.
    let cases: [(&[u64], u64); 4] = [
        (&[], 100),
        (&[50], 250),
        (&[50, 240], 440),
        (&[90, 280, 470, 660, 850, 950], 1000),
    ];
    for (signs, expected) in cases {
        let mut rig = Rig::with(&[1]);
        rig.want(1, 5, any(plan.clone()));
        let start = rig.start();
        let mut at = 0;
        for (sign, n) in signs.iter().zip(1..) {
            rig.wait(ms(sign - at));
            at = *sign;
            assert_eq!(rig.aborts(), [], "{signs:?} at {at}");
            rig.progress(start.attempt, n);
        }
        rig.wait(ms(expected - at - 1));
        assert_eq!(rig.aborts(), [], "{signs:?} before {expected}");
        rig.wait(ms(1));
        assert_eq!(rig.aborts(), [start.attempt], "{signs:?} at {expected}");
        assert_eq!(rig.engine.counters().timeouts, 1);
        rig.end(start.attempt, End::Aborted);
        let tried = rig.tried();
        let timed_out = HowEnded::Failed(Fault::TimedOut);
        assert_eq!(tried, [(1, FetchError::Exhausted, vec![(1, timed_out)])]);
    }
}

#[test]
fn c06_silence_means_what_the_plan_says() {
    for (silence, faults) in [(Silence::Fault, 1), (Silence::Nothing, 0)] {
        let plan = Plan {
            silence,
            first_byte_timeout: ms(100),
            ..Plan::default()
        };
        let mut rig = Rig::with(&[1]);
        rig.want(1, 5, any(plan));
        let start = rig.start();
        rig.wait(ms(101));
        rig.end(start.attempt, End::Aborted);
        assert_eq!(rig.source(1).faults, faults, "{silence:?}");
    }
}

#[test]
fn c06_another_source_goes_on_where_one_broke_off() {
    let mut rig = Rig::with(&[1, 2]);
    rig.want(1, 5, only(&[1, 2], resuming()));
    let first = rig.start();
    rig.open(first.attempt, 7);
    rig.progress(first.attempt, 4);
    rig.end(first.attempt, End::Failed(Fault::Truncated));
    let second = rig.start();
    assert_eq!((second.from_byte, second.stage), (4, Stage::Resume));
    rig.open(second.attempt, 7);
    rig.end(second.attempt, End::Complete { upto: 10 });
    let judge = rig.judge();
    assert_eq!(judge.contributors, [first.attempt, second.attempt]);
    rig.judged(judge.judgement, Verdict::Valid);
    assert_eq!(rig.finished(), [(1, Ok(vec![first.source, second.source]))]);
    assert_eq!(rig.engine.counters().resumes, 1);
}

#[test]
fn c06_an_answer_of_another_identity_does_not_continue_the_body() {
    let mut rig = Rig::with(&[1, 2, 3]);
    rig.want(1, 5, only(&[1, 2, 3], resuming()));
    let first = rig.start();
    rig.open(first.attempt, 7);
    rig.progress(first.attempt, 4);
    rig.end(first.attempt, End::Failed(Fault::Truncated));
    let second = rig.start();
    assert_eq!(second.from_byte, 4);
    rig.open(second.attempt, 8);
    assert_eq!(rig.aborts(), [second.attempt]);
    rig.progress(second.attempt, 9);
    rig.end(second.attempt, End::Aborted);
    assert_eq!(rig.source(second.source).faults, 0, "a change is no fault");
    let third = rig.start();
    if third.from_byte == 4 {
        assert_eq!(rig.view(5).frontier, 4);
    }
}

#[test]
fn regression_a_body_whose_version_is_gone_is_started_anew() {
    let plan = Plan {
        retry: Retry::UntilReleased {
            backoff: backoff(100),
        },
        ..resuming()
    };
    let mut rig = Rig::with(&[1, 2]);
    rig.want(1, 5, only(&[1, 2], plan));
    let first = rig.start();
    rig.open(first.attempt, 7);
    rig.progress(first.attempt, 4);
    rig.end(first.attempt, End::Failed(Fault::Truncated));
    // From now on both have another version, and who is asked for the old one says no more than that.
    for _ in 0..20 {
        rig.wait(secs(60));
        for start in rig.starts() {
            if start.from_byte > 0 {
                rig.end(start.attempt, End::Failed(Fault::Changed));
            } else {
                rig.complete(start.attempt, 10);
            }
        }
        for judge in rig.judges() {
            rig.judged(judge.judgement, Verdict::Valid);
        }
    }
    assert_eq!(rig.finished().len(), 1);
}

#[test]
fn c06_a_body_that_nobody_can_continue_is_started_anew() {
    let plan = Plan {
        retry: Retry::UntilReleased {
            backoff: backoff(100),
        },
        ..resuming()
    };
    let mut rig = Rig::with(&[1]);
    rig.want(1, 5, only(&[1], plan));
    let first = rig.start();
    rig.open(first.attempt, 7);
    rig.progress(first.attempt, 4);
    rig.end(first.attempt, End::Failed(Fault::Truncated));
    // The source has another version from now on.
    for _ in 0..20 {
        rig.wait(secs(60));
        for start in rig.starts() {
            rig.open(start.attempt, 8);
            if rig.aborts().contains(&start.attempt) {
                rig.end(start.attempt, End::Aborted);
            } else {
                assert_eq!(start.from_byte, 0);
                rig.end(start.attempt, End::Complete { upto: 10 });
            }
        }
        for judge in rig.judges() {
            assert_eq!(judge.contributors.len(), 1);
            rig.judged(judge.judgement, Verdict::Valid);
        }
    }
    assert_eq!(rig.finished(), [(1, Ok(vec![1]))]);
}

#[test]
fn c06_of_several_under_way_whichever_brings_the_next_byte_appends() {
    let plan = Plan {
        hedge: Some(Hedge::After(ms(100))),
        ..resuming()
    };
    let mut rig = Rig::with(&[1, 2]);
    rig.want(1, 5, only(&[1, 2], plan));
    let first = rig.start();
    rig.open(first.attempt, 7);
    rig.progress(first.attempt, 4);
    rig.wait(ms(101));
    let hedge = rig.start();
    assert_eq!(hedge.from_byte, 4);
    rig.open(hedge.attempt, 7);
    rig.progress(hedge.attempt, 6);
    rig.progress(first.attempt, 5);
    assert_eq!(rig.view(5).frontier, 6);
    rig.progress(first.attempt, 8);
    assert_eq!(rig.view(5).frontier, 8);
    rig.progress(hedge.attempt, 8);
    rig.end(hedge.attempt, End::Complete { upto: 9 });
    let judge = rig.judge();
    assert_eq!(judge.contributors.last(), Some(&hedge.attempt));
    assert_eq!(judge.contributors.len(), 2);
}

#[test]
fn regression_what_one_alone_has_begun_is_not_taken_up_by_another() {
    let mut rig = Rig::with(&[1, 2]);
    rig.want(1, 5, any(resuming()));
    let first = rig.start();
    rig.open(first.attempt, 7);
    rig.progress(first.attempt, 4);
    rig.end(first.attempt, End::Failed(Fault::Local));
    let second = rig.start();
    rig.open(second.attempt, 7);
    rig.end(second.attempt, End::Complete { upto: 10 });
    let judge = rig.judge();
    rig.judged(judge.judgement, Verdict::Invalid);
    let solo = rig.start();
    rig.open(solo.attempt, 7);
    rig.progress(solo.attempt, 6);
    rig.discards();
    // Nobody wants it for a moment.
    rig.release(1);
    assert_eq!(rig.aborts(), [solo.attempt]);
    assert_eq!(rig.discards(), [solo.attempt]);
    rig.want(2, 5, any(resuming()));
    rig.end(solo.attempt, End::Aborted);
    let anew = rig.start();
    assert_eq!((anew.fetch, anew.from_byte), (solo.fetch, 0));
    rig.open(anew.attempt, 7);
    rig.end(anew.attempt, End::Complete { upto: 10 });
    assert_eq!(rig.judge().contributors, [anew.attempt]);
}

#[test]
fn c06_a_wrong_body_of_several_is_fetched_anew_from_one_and_nobody_is_blamed() {
    let plan = Plan {
        on_invalid: OnInvalid::Block(secs(60)),
        ..resuming()
    };
    let mut rig = Rig::with(&[1, 2]);
    rig.want(1, 5, only(&[1, 2], plan));
    let first = rig.start();
    rig.open(first.attempt, 7);
    rig.progress(first.attempt, 4);
    rig.end(first.attempt, End::Failed(Fault::Local));
    let second = rig.start();
    rig.open(second.attempt, 7);
    rig.end(second.attempt, End::Complete { upto: 10 });
    let judge = rig.judge();
    assert_eq!(judge.contributors.len(), 2);
    rig.judged(judge.judgement, Verdict::Invalid);
    assert_eq!(rig.blocked(), []);
    assert_eq!((rig.source(1).faults, rig.source(2).faults), (0, 0));
    assert!(!rig.discards().is_empty());
    let solo = rig.start();
    assert_eq!(solo.from_byte, 0);
    rig.complete(solo.attempt, 10);
    let judge = rig.judge();
    assert_eq!(judge.contributors, [solo.attempt]);
    rig.judged(judge.judgement, Verdict::Valid);
    assert_eq!(rig.finished(), [(1, Ok(vec![solo.source]))]);
}

#[test]
fn c06_an_answer_larger_than_the_plan_allows_is_stopped() {
    let plan = Plan {
        body_bytes_max: 100,
        ..Plan::default()
    };
    let claims: [fn(AttemptId) -> Input<u32>; 2] = [
        |attempt| Input::Opened {
            attempt,
            identity: 1,
            total: Some(101),
        },
        |attempt| Input::Progress { attempt, upto: 101 },
    ];
    for claim in claims {
        let mut rig = Rig::with(&[1]);
        rig.want(1, 5, any(plan.clone()));
        let start = rig.start();
        rig.feed(claim(start.attempt));
        assert_eq!(rig.aborts(), [start.attempt]);
        rig.end(start.attempt, End::Aborted);
        let how = HowEnded::Failed(Fault::TooLarge);
        assert_eq!(rig.tried(), [(1, FetchError::Exhausted, vec![(1, how)])]);
    }
    let mut rig = Rig::with(&[1]);
    rig.want(1, 5, any(plan));
    let start = rig.start();
    rig.end(start.attempt, End::Complete { upto: 101 });
    let how = HowEnded::Failed(Fault::TooLarge);
    assert_eq!(rig.tried(), [(1, FetchError::Exhausted, vec![(1, how)])]);
}

#[test]
fn c06_an_empty_datum_is_a_datum() {
    for plan in [Plan::default(), resuming()] {
        let mut rig = Rig::with(&[1]);
        rig.want(1, 5, any(plan));
        let start = rig.start();
        rig.complete(start.attempt, 0);
        let judge = rig.judge();
        rig.judged(judge.judgement, Verdict::Valid);
        assert_eq!(rig.finished(), [(1, Ok(vec![1]))]);
    }
}
