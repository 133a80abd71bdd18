//! Point 3 of the contract: choose.

use crate::rig::*;
use gannet_engine::*;

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
