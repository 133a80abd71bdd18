//! Point 12 of the contract: health.

use crate::rig::*;
use gannet_engine::*;

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
        retry_after: Some(crate::rig::secs(secs)),
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
