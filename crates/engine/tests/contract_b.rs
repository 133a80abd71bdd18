//! The engine's contract, points 7 to 13, each test named after the point it holds to.

mod rig;

use gannet_engine::*;
use rig::*;

// 7. Judge.

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

// 8. Persist.

fn committing(commit: Commit) -> Plan {
    Plan {
        commit,
        ..Plan::default()
    }
}

#[test]
fn c08_before_finish_acknowledges_nothing_unstored() {
    for result in [Ok(()), Err(CommitFault::Exists)] {
        let mut rig = Rig::with(&[1]);
        rig.want(1, 5, any(committing(Commit::BeforeFinish)));
        let start = rig.serve(Verdict::Valid);
        assert_eq!(rig.finished(), []);
        assert_eq!(rig.view(5).phase, Phase::Committing);
        assert_eq!(rig.commits(), [start.fetch]);
        rig.committed(start.fetch, result);
        assert_eq!(rig.finished(), [(1, Ok(vec![1]))]);
        assert_eq!(rig.retired(), [start.fetch]);
        assert_eq!(rig.engine.counters().committed, 1);
    }
}

#[test]
fn c08_a_failed_commit_leaves_the_key_wanted() {
    let plan = Plan {
        commit: Commit::BeforeFinish,
        ..persistent()
    };
    let mut rig = Rig::with(&[1]);
    rig.want(1, 5, any(plan));
    let mut start = rig.serve(Verdict::Valid);
    for _ in 0..3 {
        assert_eq!(rig.commits(), [start.fetch]);
        rig.committed(start.fetch, Err(CommitFault::Io));
        assert_eq!(rig.finished(), []);
        start = rig.start_within(secs(60));
        rig.complete(start.attempt, 10);
        let judge = rig.judge();
        rig.judged(judge.judgement, Verdict::Valid);
    }
    assert_eq!(rig.commits(), [start.fetch]);
    rig.committed(start.fetch, Ok(()));
    assert_eq!(rig.finished(), [(1, Ok(vec![1]))]);
    assert_eq!(rig.engine.counters().commit_faults, 3);
    assert_eq!(
        rig.source(1).faults,
        0,
        "the store's fault is not the source's"
    );
}

#[test]
fn c08_a_plan_without_another_try_names_the_fault_of_the_commit() {
    let mut rig = Rig::with(&[1]);
    rig.want(1, 5, any(committing(Commit::BeforeFinish)));
    let start = rig.serve(Verdict::Valid);
    rig.committed(start.fetch, Err(CommitFault::Full));
    let error = FetchError::Commit(CommitFault::Full);
    assert_eq!(rig.finished(), [(1, Err(error))]);
}

#[test]
fn c08_after_serve_serves_first_and_newcomers_until_the_commit_ends() {
    for result in [Ok(()), Err(CommitFault::Full)] {
        let mut rig = Rig::with(&[1]);
        rig.want(1, 5, any(committing(Commit::AfterServe)));
        let start = rig.serve(Verdict::Valid);
        assert_eq!(rig.finished(), [(1, Ok(vec![1]))]);
        assert_eq!(rig.commits(), [start.fetch]);
        rig.want(2, 5, any(committing(Commit::AfterServe)));
        for judge in rig.judges() {
            rig.judged(judge.judgement, Verdict::Valid);
        }
        assert_eq!(rig.finished(), [(2, Ok(vec![1]))]);
        rig.no_start();
        rig.committed(start.fetch, result);
        assert_eq!(rig.retired(), [start.fetch]);
        rig.want(3, 5, any(committing(Commit::AfterServe)));
        assert_ne!(rig.start().fetch, start.fetch);
    }
}

// 9. End.

#[test]
fn c09_exhausted_names_every_source_and_why() {
    let mut rig = Rig::with(&[1, 2, 3, 4]);
    rig.want(1, 5, ranked(Plan::default()));
    let fetch = rig.selects()[0];
    rig.rank(fetch, &[1, 2, 3, 4]);
    let ends = [
        End::Missing,
        End::Busy { retry_after: None },
        End::Failed(Fault::Forbidden),
        End::Failed(Fault::Truncated),
    ];
    for end in ends {
        let start = rig.start();
        rig.end(start.attempt, end);
    }
    let tried = vec![
        (1, HowEnded::Missing),
        (2, HowEnded::Busy),
        (3, HowEnded::Failed(Fault::Forbidden)),
        (4, HowEnded::Failed(Fault::Truncated)),
    ];
    assert_eq!(rig.tried(), [(1, FetchError::Exhausted, tried)]);
}

#[test]
fn c09_no_candidates_is_said_at_once() {
    let no_candidates = [(1, Err(FetchError::NoCandidates))];
    let mut rig = Rig::new(config());
    rig.want(1, 5, any(Plan::default()));
    assert_eq!(rig.finished(), no_candidates);

    let mut rig = Rig::with(&[1]);
    rig.want(1, 5, only(&[2], Plan::default()));
    assert_eq!(rig.finished(), no_candidates);

    let mut rig = Rig::with(&[1]);
    rig.want(1, 5, ranked(Plan::default()));
    let fetch = rig.selects()[0];
    rig.rank(fetch, &[]);
    assert_eq!(rig.finished(), no_candidates);

    let mut rig = Rig::with(&[1]);
    rig.feed(Input::Block {
        source: SourceId(1),
        until: None,
    });
    rig.want(1, 5, any(Plan::default()));
    assert_eq!(rig.finished(), no_candidates);
}

#[test]
fn c09_a_deserted_fetch_is_cancelled_at_once() {
    let mut rig = Rig::with(&[1, 2]);
    let plan = Plan {
        growth: FanoutGrowth::Fixed(nz(2)),
        ..Plan::default()
    };
    rig.want(1, 5, any(plan));
    let starts = rig.starts();
    rig.release(1);
    assert_eq!(rig.aborts().len(), 2);
    assert_eq!(rig.finished(), [], "who leaves gets no outcome");
    assert_eq!(rig.retired(), []);
    rig.end(starts[0].attempt, End::Aborted);
    assert_eq!(rig.retired(), []);
    rig.end(starts[1].attempt, End::Complete { upto: 3 });
    assert_eq!(rig.retired(), [starts[0].fetch]);
    assert_eq!(rig.judges(), []);
}

#[test]
fn c09_a_want_revives_a_draining_fetch_with_what_it_had() {
    let plan = Plan {
        resume: true,
        ..Plan::default()
    };
    let mut rig = Rig::with(&[1, 2]);
    rig.want(1, 5, only(&[1, 2], plan.clone()));
    let first = rig.start();
    rig.open(first.attempt, 7);
    rig.progress(first.attempt, 4);
    rig.release(1);
    assert_eq!(rig.aborts(), [first.attempt]);
    rig.want(2, 5, only(&[1, 2], plan));
    assert_eq!(rig.engine.counters().revived, 1);
    let second = match rig.starts().pop() {
        Some(start) => start,
        None => {
            rig.end(first.attempt, End::Aborted);
            rig.start()
        }
    };
    assert_eq!((second.fetch, second.from_byte), (first.fetch, 4));
    rig.end(first.attempt, End::Aborted);
    rig.open(second.attempt, 7);
    rig.end(second.attempt, End::Complete { upto: 10 });
    let judge = rig.judge();
    assert_eq!(judge.waiters, [2]);
    rig.judged(judge.judgement, Verdict::Valid);
    assert_eq!(rig.finished().len(), 1);
}

#[test]
fn c09_what_came_by_another_way_ends_the_fetch() {
    for (from, sources) in [(None, vec![]), (Some(SourceId(9)), vec![9])] {
        let mut rig = Rig::with(&[1]);
        rig.want(1, 5, any(committing(Commit::BeforeFinish)));
        rig.want(2, 5, any(persistent()));
        let start = rig.start();
        rig.feed(Input::Obtained { key: 5, from });
        let mut finished = rig.finished();
        finished.sort();
        assert_eq!(finished, [(1, Ok(sources.clone())), (2, Ok(sources))]);
        assert_eq!(rig.aborts(), [start.attempt]);
        rig.end(start.attempt, End::Aborted);
        assert_eq!(rig.retired(), [start.fetch]);
        assert_eq!(rig.source(1).faults, 0);
    }
}

#[test]
fn c09_retain_cancels_by_key_and_waiter() {
    let mut rig = Rig::with(&[1, 2]);
    rig.want(1, 5, any(persistent()));
    rig.want(2, 5, any(persistent()));
    rig.want(3, 6, any(persistent()));
    let starts = rig.starts();
    let now = rig.now;
    rig.engine
        .retain(now, |key, waiter| *key != 6 && waiter != WaiterId(1));
    rig.drain();
    let mut finished = rig.finished();
    finished.sort();
    let cancelled = Err(FetchError::Cancelled);
    assert_eq!(finished, [(1, cancelled.clone()), (3, cancelled)]);
    let of_key_6 = starts.iter().find(|s| s.fetch != starts[0].fetch);
    assert_eq!(rig.aborts(), [of_key_6.expect("two fetches").attempt]);
}

#[test]
fn c09_a_deadline_expires_one_waiter_and_not_the_other() {
    let mut rig = Rig::with(&[1]);
    let deadline = Some(rig.now.after(ms(100)));
    rig.want(
        1,
        5,
        Want {
            deadline,
            ..any(Plan::default())
        },
    );
    rig.want(2, 5, any(Plan::default()));
    let start = rig.start();
    rig.wait(ms(99));
    assert_eq!(rig.finished(), []);
    rig.wait(ms(1));
    assert_eq!(rig.finished(), [(1, Err(FetchError::Expired))]);
    rig.complete(start.attempt, 10);
    let judge = rig.judge();
    assert_eq!(judge.waiters, [2]);
    rig.judged(judge.judgement, Verdict::Valid);
    assert_eq!(rig.finished(), [(2, Ok(vec![1]))]);
}

// 10. Persist in wanting.

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
            ..rig::config()
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

// 11. Be fair. (Shares under saturation are the simulator's business: `sim/src/fairness.rs`.)

#[test]
fn c11_arrival_decides_within_a_class() {
    let config = Config {
        racing_max: 1,
        ..config()
    };
    let mut rig = Rig::up(config, &[1]);
    for key in 0..5 {
        rig.want(
            key,
            u32::try_from(key).expect("small"),
            any(Plan::default()),
        );
    }
    for key in 0..5 {
        rig.serve(Verdict::Valid);
        assert_eq!(rig.finished(), [(key, Ok(vec![1]))]);
    }
}

#[test]
fn c11_fresh_keys_go_before_retries_in_strict_mode() {
    for fresh_first in [true, false] {
        let config = Config {
            racing_max: 1,
            fresh_first,
            health: HealthConfig {
                faults_forgiven: 100,
                ..HealthConfig::default()
            },
            ..config()
        };
        let mut rig = Rig::up(config, &[1]);
        let plan = Plan {
            retry: Retry::UntilReleased {
                backoff: backoff(1),
            },
            ..Plan::default()
        };
        rig.want(1, 1, any(plan));
        let start = rig.start();
        rig.end(start.attempt, End::Missing);
        // The slot is taken while the retry falls due and fresh keys arrive.
        rig.want(2, 2, any(Plan::default()));
        let busy = rig.start();
        rig.wait(ms(50));
        for key in 3..6 {
            rig.want(
                key,
                u32::try_from(key).expect("small"),
                any(Plan::default()),
            );
        }
        rig.complete(busy.attempt, 10);
        let next = rig.start();
        assert_eq!(next.fetch != start.fetch, fresh_first);
    }
}

// 12. Health.

#[test]
fn regression_limits_of_a_source_are_kept_whatever_is_remembered() {
    let config = Config {
        remembered_sources_max: 1,
        ..config()
    };
    let mut rig = Rig::up(config, &[1, 2]);
    for n in [1, 2] {
        rig.want(n, 5, only(&[n], Plan::default()));
        let start = rig.start();
        rig.end(start.attempt, End::Failed(Fault::Refused));
        rig.feed(Input::SourceDown {
            source: SourceId(n),
        });
        // The first is set while it is remembered for its fault; the second drives it out.
        if n == 1 {
            let (scope, limits) = (Scope::Source(SourceId(1)), limits(1));
            rig.feed(Input::Limit { scope, limits });
        }
    }
    rig.source_up(1);
    for key in [6, 7] {
        rig.want(u64::from(key), key, only(&[1], Plan::default()));
    }
    let start = rig.start();
    rig.started(start.attempt);
    rig.no_start();
}

#[test]
fn c12_pauses_grow_until_the_source_is_dead_and_is_probed() {
    let config = Config {
        try_backed_off: false,
        health: HealthConfig {
            backoff: backoff(100),
            dead_after: 4,
            probe_interval: secs(30),
            ..HealthConfig::default()
        },
        ..config()
    };
    let mut rig = Rig::up(config, &[1]);
    let plan = Plan {
        retry: Retry::UntilReleased {
            backoff: backoff(1),
        },
        ..Plan::default()
    };
    rig.want(1, 5, any(plan));
    let mut at = Vec::new();
    let begin = rig.now;
    for _ in 0..4000 {
        for start in rig.starts() {
            at.push(rig.now.since(begin).as_millis());
            rig.fail(start.attempt);
        }
        rig.wait(ms(20));
    }
    let gaps: Vec<u128> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.len() >= 4, "{gaps:?}");
    for (gap, least) in gaps.iter().zip([100, 200, 400, 30_000, 30_000]) {
        assert!(*gap >= least, "{gaps:?}");
    }
    assert!(gaps[0] <= 300 && gaps[2] <= 800, "{gaps:?}");
    assert_eq!(rig.source(1).health, Health::Dead);
}

#[test]
fn c12_a_source_recovers_after_a_stable_while() {
    let mut rig = Rig::with(&[1]);
    rig.want(1, 5, any(Plan::default()));
    let start = rig.start();
    rig.fail(start.attempt);
    assert_eq!(rig.source(1).health, Health::Degraded);
    rig.want(2, 5, any(Plan::default()));
    rig.serve(Verdict::Valid);
    assert_eq!(rig.source(1).health, Health::Degraded, "not yet stable");
    rig.wait(secs(11));
    assert_eq!(rig.source(1).health, Health::Healthy);
}

#[test]
fn c12_times_named_by_a_server_are_honoured_up_to_a_bound() {
    let busy = |secs| End::Busy {
        retry_after: Some(rig::secs(secs)),
    };
    for (end, pause) in [
        (End::Busy { retry_after: None }, 1),
        (busy(7), 7),
        (busy(100_000), 3600),
    ] {
        let config = Config {
            health: HealthConfig {
                backoff: backoff(500),
                ..HealthConfig::default()
            },
            ..config()
        };
        let mut rig = Rig::up(config, &[1]);
        rig.want(1, 5, only(&[1], Plan::default()));
        let start = rig.start();
        rig.end(start.attempt, end);
        assert_eq!(rig.source(1).health, Health::Throttled, "{end:?}");
        assert_eq!(rig.source(1).faults, 0, "{end:?}");
        rig.outputs.clear();
        rig.want(2, 6, only(&[1], persistent()));
        rig.wait(ms(pause * 1000 - 1));
        rig.no_start();
        rig.wait(ms(1));
        assert_eq!(rig.starts().len(), 1, "{end:?}");
    }
}

#[test]
fn c12_pauses_hold_for_source_group_and_whole() {
    for scope in [
        Scope::Source(SourceId(1)),
        Scope::Group(GroupId(1)),
        Scope::Whole,
    ] {
        let mut rig = Rig::with(&[1]);
        let until = rig.now.after(secs(5));
        rig.feed(Input::Pause { scope, until });
        rig.want(1, 5, any(persistent()));
        rig.wait(ms(4999));
        rig.no_start();
        rig.wait(ms(1));
        rig.start();
        let until = rig.now.after(secs(5));
        rig.feed(Input::Pause { scope, until });
        rig.want(2, 6, any(persistent()));
        rig.no_start();
        let until = rig.now;
        rig.feed(Input::Pause { scope, until });
        rig.start();
    }
}

#[test]
fn c12_health_is_remembered_and_forgotten() {
    let mut rig = Rig::with(&[1]);
    let source = SourceId(1);
    rig.want(1, 5, any(Plan::default()));
    let start = rig.start();
    rig.fail(start.attempt);
    rig.feed(Input::SourceDown { source });
    assert_eq!(rig.source(1).health, Health::Disconnected);
    rig.source_up(1);
    assert_eq!(rig.source(1).faults, 1);
    rig.feed(Input::Forget { source });
    assert_eq!(rig.source(1).faults, 1, "only who is down is forgotten");
    rig.feed(Input::SourceDown { source });
    rig.feed(Input::Forget { source });
    assert!(rig.engine.is_empty());
    rig.source_up(1);
    assert_eq!(rig.source(1).faults, 0);
}

#[test]
fn c12_the_longest_gone_is_forgotten_first_but_a_blocked_one_is_not() {
    let config = Config {
        remembered_sources_max: 2,
        ..config()
    };
    let mut rig = Rig::up(config, &[1, 2, 3, 4]);
    rig.feed(Input::Block {
        source: SourceId(1),
        until: None,
    });
    // There is something to remember of each.
    for n in 2..=4 {
        rig.want(n, 5, only(&[n], Plan::default()));
        let start = rig.start();
        rig.fail(start.attempt);
    }
    for n in 1..=4 {
        rig.wait(secs(1));
        rig.feed(Input::SourceDown {
            source: SourceId(n),
        });
    }
    let held: Vec<u64> = (rig.engine.snapshot().sources.iter())
        .map(|s| s.source.0)
        .collect();
    assert_eq!(held, [1, 3, 4]);
}

// 13. Explain.

#[test]
fn c13_a_snapshot_shows_what_is_in_flight() {
    let mut rig = Rig::with(&[1]);
    rig.want(1, 5, any(Plan::default()));
    rig.want(2, 3, ranked(Plan::default()));
    let start = rig.start();
    rig.progress(start.attempt, 4);
    let snapshot = rig.engine.snapshot();
    let keys: Vec<u32> = snapshot.fetches.iter().map(|f| f.key).collect();
    assert_eq!(keys, [3, 5]);
    assert_eq!(snapshot.fetches[0].phase, Phase::Selecting);
    let view = &snapshot.fetches[1];
    assert_eq!(view.phase, Phase::Racing);
    assert_eq!(view.waiters, [WaiterId(1)]);
    let attempt = view.attempts[0];
    assert_eq!(
        (attempt.source, attempt.upto, attempt.acknowledged),
        (SourceId(1), 4, true)
    );
    assert_eq!(
        (snapshot.racing, snapshot.attempts, snapshot.waiters),
        (1, 1, 2)
    );
    assert_eq!(rig.engine.key(view.fetch), Some(&5));
}

#[test]
fn c13_fetches_and_performance_can_be_looked_up() {
    let mut rig = Rig::with(&[1]);
    assert_eq!(rig.engine.find(&5), None);
    assert_eq!(rig.engine.performance(SourceId(9)), None);
    rig.want(1, 5, any(Plan::default()));
    let start = rig.start();
    assert_eq!(rig.engine.find(&5), Some(start.fetch));
    assert_eq!(rig.engine.fetch_of(WaiterId(1)), Some(start.fetch));
    rig.wait(secs(1));
    rig.complete(start.attempt, 1000);
    let judge = rig.judge();
    rig.judged(judge.judgement, Verdict::Valid);
    assert_eq!(rig.engine.performance(SourceId(1)), Some(1000));
    assert_eq!(rig.engine.find(&5), None, "it is over");
}

#[test]
fn c13_events_tell_of_decisions_and_are_bounded() {
    let config = Config {
        events_max: 3,
        ..config()
    };
    let mut rig = Rig::up(config, &[1]);
    rig.want(1, 5, any(Plan::default()));
    rig.serve(Verdict::Valid);
    let mut events = Vec::new();
    while let Some(event) = rig.engine.poll_event() {
        events.push(event);
    }
    assert_eq!(events.len(), 3);
    assert!(rig.engine.counters().events_dropped > 0);
}

// The invariants that a single run can show; the simulator checks them all on every step.

#[test]
fn i5_we_never_ask_ourselves_nor_who_is_blocked() {
    let config = Config {
        me: Some(SourceId(1)),
        ..config()
    };
    let mut rig = Rig::up(config, &[1, 2, 3]);
    rig.feed(Input::Block {
        source: SourceId(2),
        until: None,
    });
    let growth = FanoutGrowth::Fixed(nz(3));
    let plan = Plan {
        growth,
        ..Plan::default()
    };
    for (waiter, want) in [(1, any(plan.clone())), (2, only(&[1, 2, 3], plan))] {
        rig.want(waiter, u32::try_from(waiter).expect("small"), want);
        let start = rig.start();
        assert_eq!(start.source, 3);
    }
}

#[test]
fn i5_a_block_aborts_what_is_under_way() {
    let mut rig = Rig::with(&[1, 2]);
    rig.want(1, 5, only(&[1, 2], Plan::default()));
    let start = rig.start();
    rig.feed(Input::Block {
        source: SourceId(start.source),
        until: None,
    });
    assert_eq!(rig.aborts(), [start.attempt]);
    rig.end(start.attempt, End::Aborted);
    let next = rig.start();
    assert_ne!(next.source, start.source);
}

#[test]
fn i8_the_same_seed_and_inputs_give_the_same_outputs() {
    let run = |seed| {
        let config = Config {
            choice: Choice::Sampled { scale: 4 },
            ..Config::default()
        };
        let mut rig = Rig::up(config.clone(), &[]);
        rig.engine = Engine::new(config, seed).expect("a valid configuration");
        for n in 0..20 {
            rig.source_up(n);
        }
        let mut sources = Vec::new();
        for key in 0..50 {
            rig.want(u64::from(key), key, any(persistent()));
        }
        for _ in 0..200 {
            for start in rig.starts() {
                sources.push(start.source);
                rig.fail(start.attempt);
            }
            rig.wait(ms(100));
        }
        sources
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn i9_nothing_is_left_when_everybody_has_gone() {
    let mut rig = Rig::with(&[1, 2]);
    assert!(!rig.engine.is_empty());
    rig.want(1, 5, any(persistent()));
    rig.want(2, 6, ranked(persistent()));
    let start = rig.start();
    rig.release(1);
    rig.release(2);
    rig.end(start.attempt, End::Aborted);
    for source in [1, 2].map(SourceId) {
        rig.feed(Input::SourceDown { source });
        rig.feed(Input::Forget { source });
    }
    assert!(rig.engine.is_empty());
    assert_eq!(rig.engine.poll_timeout(), None);
}

#[test]
fn a_configuration_without_room_is_refused() {
    let config = Config {
        racing_max: 0,
        ..Config::default()
    };
    let error = Engine::<u32>::new(config, 0).expect_err("no fetch could ever start");
    assert_eq!(error.field, "racing_max");
}
