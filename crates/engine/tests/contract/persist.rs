//! Point 8 of the contract: persist.

use crate::rig::*;
use gannet_engine::*;

pub(crate) fn committing(commit: Commit) -> Plan {
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
