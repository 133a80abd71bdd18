//! Point 4 of the contract: start and end.

use crate::rig::*;
use gannet_engine::*;

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
