//! The invariants that a single run can show; the simulator checks them all on every step.

use crate::rig::*;
use gannet_engine::*;

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
