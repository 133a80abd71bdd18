//! Point 9 of the contract: end.

use crate::{persist::committing, rig::*};
use gannet_engine::*;

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
