//! Point 7 of the contract: judge.

use crate::rig::*;
use gannet_engine::*;

#[test]
fn c07_valid_ends_the_fetch_and_a_new_want_begins_another() {
    let mut rig = Rig::with(&[1]);
    rig.want(1, 5, any(Plan::default()));
    let first = rig.serve(Verdict::Valid);
    rig.want(2, 5, any(Plan::default()));
    let second = rig.start();
    assert_ne!(first.fetch, second.fetch);
}

#[test]
fn c07_other_verdicts_try_on_and_do_what_they_say_to_the_source() {
    // Verdict, what the plan does, faults of the source, blocked, how the source is said to have ended.
    let block = OnInvalid::Block(secs(60));
    let cases = [
        (
            Verdict::Partial,
            OnInvalid::Score,
            0,
            false,
            HowEnded::Partial,
        ),
        (
            Verdict::Ambiguous,
            OnInvalid::Score,
            0,
            false,
            HowEnded::Ambiguous,
        ),
        (
            Verdict::Invalid,
            OnInvalid::Score,
            1,
            false,
            HowEnded::Invalid,
        ),
        (Verdict::Invalid, block, 0, true, HowEnded::Invalid),
        (
            Verdict::Invalid,
            OnInvalid::Host,
            0,
            false,
            HowEnded::Invalid,
        ),
    ];
    for (verdict, on_invalid, faults, blocked, how) in cases {
        let plan = Plan {
            on_invalid,
            ..Plan::default()
        };
        let mut rig = Rig::with(&[1, 2]);
        rig.want(1, 5, only(&[1, 2], plan));
        let first = rig.serve(verdict);
        assert_eq!(rig.finished(), [], "{verdict:?}");
        let view = rig.source(first.source);
        if on_invalid == OnInvalid::Score {
            assert_eq!(view.faults, faults, "{verdict:?}");
        }
        let expected: &[(u64, Time)] = &[(first.source, rig.now.after(secs(60)))];
        assert_eq!(rig.blocked(), if blocked { expected } else { &[] });
        let second = rig.start();
        assert_ne!(second.source, first.source);
        rig.end(second.attempt, End::Missing);
        let tried = vec![(first.source, how), (second.source, HowEnded::Missing)];
        assert_eq!(rig.tried(), [(1, FetchError::Exhausted, tried)]);
    }
}

#[test]
fn c07_credit_is_given_for_what_is_useful_only() {
    for (verdict, credited) in [
        (Verdict::Valid, true),
        (Verdict::Partial, true),
        (Verdict::Ambiguous, false),
    ] {
        let mut rig = Rig::with(&[1]);
        let before = rig.source(1).performance;
        rig.want(1, 5, any(Plan::default()));
        let start = rig.start();
        rig.wait(ms(1));
        rig.complete(start.attempt, 1_000_000);
        let judge = rig.judge();
        rig.judged(judge.judgement, verdict);
        assert_eq!(rig.source(1).performance > before, credited, "{verdict:?}");
    }
}

#[test]
fn c07_ignored_retires_the_key_with_all_its_waiters() {
    let mut rig = Rig::with(&[1, 2]);
    rig.want(1, 5, any(persistent()));
    let start = rig.start();
    rig.complete(start.attempt, 10);
    let judge = rig.judge();
    rig.want(2, 5, any(persistent()));
    rig.judged(judge.judgement, Verdict::Ignored);
    let mut finished = rig.finished();
    finished.sort();
    assert_eq!(
        finished,
        [(1, Err(FetchError::Ignored)), (2, Err(FetchError::Ignored))]
    );
    rig.no_start();
    assert_eq!(rig.retired(), [start.fetch]);
}

#[test]
fn c07_a_judge_that_gives_up_retires_only_those_it_was_asked_for() {
    let mut rig = Rig::with(&[1, 2]);
    rig.want(1, 5, any(Plan::default()));
    let start = rig.start();
    rig.complete(start.attempt, 10);
    let judge = rig.judge();
    assert_eq!(judge.waiters, [1]);
    rig.want(2, 5, any(Plan::default()));
    assert_eq!(rig.judges(), []);
    rig.judged(judge.judgement, Verdict::GaveUp);
    assert_eq!(rig.finished(), [(1, Err(FetchError::Ignored))]);
    let judge = rig.judge();
    assert_eq!(judge.waiters, [2]);
    assert_eq!(judge.contributors, [start.attempt]);
    rig.judged(judge.judgement, Verdict::Valid);
    assert_eq!(rig.finished(), [(2, Ok(vec![1]))]);
    assert_eq!(rig.source(1).faults, 0);
    rig.no_start();
}

#[test]
fn c07_late_waiters_get_a_judgement_of_their_own_without_credit_or_blame() {
    for verdict in [Verdict::Valid, Verdict::Invalid] {
        let mut rig = Rig::with(&[1]);
        rig.want(1, 5, any(Plan::default()));
        let start = rig.start();
        rig.wait(ms(1));
        rig.complete(start.attempt, 1_000_000);
        let first = rig.judge();
        rig.want(2, 5, any(Plan::default()));
        rig.judged(first.judgement, Verdict::Valid);
        assert_eq!(rig.finished(), [(1, Ok(vec![1]))]);
        let before = rig.source(1);
        let second = rig.judge();
        assert_eq!(second.waiters, [2]);
        rig.judged(second.judgement, verdict);
        let after = rig.source(1);
        assert_eq!(after.performance, before.performance, "{verdict:?}");
        assert_eq!(after.faults, 0, "{verdict:?}");
        if verdict == Verdict::Valid {
            assert_eq!(rig.finished(), [(2, Ok(vec![1]))]);
            rig.no_start();
        }
    }
}

#[test]
fn c07_a_judgement_outlives_its_fetch_and_counts() {
    let plan = Plan {
        on_invalid: OnInvalid::Block(secs(60)),
        ..Plan::default()
    };
    let mut rig = Rig::with(&[1]);
    rig.want(1, 5, any(plan));
    let start = rig.start();
    rig.complete(start.attempt, 10);
    let judge = rig.judge();
    rig.release(1);
    rig.judged(judge.judgement, Verdict::Invalid);
    assert_eq!(rig.blocked(), [(1, rig.now.after(secs(60)))]);
    assert_eq!(rig.engine.counters().verdicts[Verdict::Invalid as usize], 1);
    assert_eq!(rig.finished(), []);
    rig.no_start();
}

/// An operator's word stands: what an invalid answer costs is never less than that.
#[test]
fn regression_c07_an_invalid_answer_does_not_shorten_a_block() {
    let plan = Plan {
        on_invalid: OnInvalid::Block(secs(60)),
        ..Plan::default()
    };
    let mut rig = Rig::with(&[1]);
    rig.want(1, 5, any(plan));
    let start = rig.start();
    rig.complete(start.attempt, 10);
    let judge = rig.judge();
    rig.feed(Input::Block {
        source: SourceId(1),
        until: None,
    });
    rig.judged(judge.judgement, Verdict::Invalid);
    rig.want(2, 6, any(persistent()));
    rig.wait(secs(120));
    rig.no_start();
}

#[test]
fn c07_a_verdict_of_a_cancelled_fetch_ends_no_later_one() {
    let mut rig = Rig::with(&[1, 2]);
    rig.want(1, 5, only(&[1], Plan::default()));
    let start = rig.start();
    rig.complete(start.attempt, 10);
    let judge = rig.judge();
    rig.release(1);
    rig.want(2, 5, only(&[2], Plan::default()));
    rig.judged(judge.judgement, Verdict::Ignored);
    // The new caller either was judged for anew or is served by its own attempt; it is not ignored
    // on behalf of somebody who left.
    for judge in rig.judges() {
        rig.judged(judge.judgement, Verdict::Valid);
    }
    for start in rig.starts() {
        rig.complete(start.attempt, 10);
    }
    for judge in rig.judges() {
        rig.judged(judge.judgement, Verdict::Valid);
    }
    let finished = rig.finished();
    assert!(
        matches!(&finished[..], [(2, Ok(_) | Err(FetchError::Ignored))]),
        "{finished:?}"
    );
}

#[test]
fn c07_a_pending_verdict_holds_up_nobody_else_and_the_deadline_bounds_it() {
    let config = Config {
        racing_max: 1,
        ..config()
    };
    let mut rig = Rig::up(config, &[1]);
    let deadline = Some(rig.now.after(secs(1)));
    rig.want(
        1,
        5,
        Want {
            deadline,
            ..any(Plan::default())
        },
    );
    let start = rig.start();
    rig.complete(start.attempt, 10);
    rig.want(2, 6, any(Plan::default()));
    let other = rig.start();
    rig.wait(secs(1));
    assert_eq!(rig.finished(), [(1, Err(FetchError::Expired))]);
    rig.complete(other.attempt, 10);
}

#[test]
fn regression_an_answer_of_one_source_that_is_judged_twice_does_not_end_hedging() {
    let plan = Plan {
        hedge: Some(Hedge::After(secs(1))),
        ..Plan::default()
    };
    let mut rig = Rig::with(&[1, 2, 3]);
    rig.want(1, 5, any(plan.clone()));
    let first = rig.start();
    rig.complete(first.attempt, 3);
    let judge = rig.judge();
    rig.want(2, 5, any(plan));
    rig.judged(judge.judgement, Verdict::GaveUp);
    assert_eq!(rig.finished(), [(1, Err(FetchError::Ignored))]);
    let judge = rig.judge();
    assert_eq!(judge.waiters, [2]);
    rig.judged(judge.judgement, Verdict::Invalid);
    assert_ne!(rig.start().source, first.source);
    rig.wait(secs(1));
    assert_eq!(rig.start().stage, Stage::Hedge);
}

#[test]
fn regression_targets_of_a_late_joiner_count_when_it_is_fetched_anew_for_it() {
    let plan = Plan {
        commit: Commit::BeforeFinish,
        ..persistent()
    };
    let mut rig = Rig::with(&[1, 2]);
    rig.want(1, 1, only(&[1], plan.clone()));
    let start = rig.start();
    rig.complete(start.attempt, 1);
    let first = rig.judge();
    rig.judged(first.judgement, Verdict::Valid);
    assert_eq!(rig.commits(), [start.fetch]);
    rig.want(2, 1, only(&[2], plan));
    let late = rig.judge();
    assert_eq!(late.waiters, [2]);
    rig.judged(late.judgement, Verdict::Partial);
    rig.committed(start.fetch, Ok(()));
    assert_eq!(rig.finished(), [(1, Ok(vec![1]))]);
    assert_eq!(rig.start().source, 2, "who may serve the late one is asked");
}

#[test]
fn regression_nobody_waits_for_the_judgement_of_a_late_waiter_that_has_left() {
    for commit in [Commit::None, Commit::AfterServe] {
        let plan = Plan {
            commit,
            ..Plan::default()
        };
        let mut rig = Rig::with(&[1]);
        rig.want(1, 5, any(plan.clone()));
        let first = rig.start();
        rig.complete(first.attempt, 3);
        let judge = rig.judge();
        rig.want(2, 5, any(plan.clone()));
        rig.judged(judge.judgement, Verdict::Valid);
        let late = rig.judge();
        assert_eq!(late.waiters, [2]);
        if commit != Commit::None {
            assert_eq!(rig.commits(), [first.fetch]);
            rig.committed(first.fetch, Ok(()));
        }
        rig.release(2);
        assert_eq!(rig.retired(), [first.fetch], "{commit:?}");
        // Who comes now need not wait for a judge who has been told to stop.
        rig.want(3, 5, any(plan));
        assert_ne!(rig.start().fetch, first.fetch);
        rig.judged(late.judgement, Verdict::Valid);
        let finished: Vec<u64> = rig.finished().iter().map(|(waiter, _)| *waiter).collect();
        assert_eq!(finished, [1]);
    }
}
