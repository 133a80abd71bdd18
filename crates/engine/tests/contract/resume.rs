//! Point 6 of the contract: stream, stall, resume.

use crate::rig::*;
use gannet_engine::*;

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
