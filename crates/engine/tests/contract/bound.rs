//! Point 2 of the contract: bound.

use crate::rig::*;
use gannet_engine::*;

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
fn c02_what_is_announced_is_all_that_stays_reserved() {
    let config = Config {
        bytes_max: 150,
        ..config()
    };
    let plan = |resume| Plan {
        body_bytes_max: 100,
        resume,
        ..Plan::default()
    };
    for resume in [false, true] {
        let mut rig = Rig::up(config.clone(), &[1]);
        rig.want(1, 1, any(plan(resume)));
        rig.want(2, 2, any(plan(resume)));
        let first = rig.start();
        rig.no_start();
        rig.feed(Input::Opened {
            attempt: first.attempt,
            identity: 1,
            total: Some(50),
        });
        assert_eq!(rig.engine.snapshot().bytes, 150, "resume: {resume}");
        rig.start();
        // It is held to that.
        rig.progress(first.attempt, 51);
        assert_eq!(rig.aborts(), [first.attempt]);
    }
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
