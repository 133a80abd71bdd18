//! The scenes at scale, small: their bounds, and that a scene is a run.

use gannet_sim_cluster::scale::{Load, Outcome, Scene};

fn run(load: Load, die: usize) -> Outcome {
    let scene = Scene {
        members: 150,
        chunk: 8 << 20,
        load,
        die,
        sends_max: 2,
    };
    let (outcome, again) = (scene.run(), scene.run());
    assert_eq!(outcome.last.to_bits(), again.last.to_bits());
    assert_eq!(outcome.failed, 0);
    outcome
}

#[test]
fn a_cold_start_costs_the_origin_one_read() {
    for chunks in [1, 60] {
        let outcome = run(Load::InOrder(chunks), 0);
        assert!((outcome.origin - 1.0).abs() < 1e-9, "{outcome:?}");
        assert!(outcome.busiest <= 2.1, "{outcome:?}");
        assert!(outcome.last <= 4.0 * outcome.ideal, "{outcome:?}");
    }
    let outcome = run(Load::Zipf(40, 500), 0);
    assert!((outcome.origin - 1.0).abs() < 1e-9, "{outcome:?}");
}

#[test]
fn members_that_die_cost_little_more_and_fail_nobody() {
    let outcome = run(Load::InOrder(60), 3);
    assert!(outcome.again > 0, "{outcome:?}");
    assert!(outcome.origin <= 1.1, "{outcome:?}");
    // Two members on the way may be lost one after the other.
    assert!(outcome.longest <= 3.0, "{outcome:?}");
}
