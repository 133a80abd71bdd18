//! Point 1 of the contract: coalesce.

use crate::rig::*;
use gannet_engine::*;

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
