//! Point 13 of the contract: explain.

use crate::rig::*;
use gannet_engine::*;

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
