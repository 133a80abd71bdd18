//! Point 11 of the contract: be fair.
//! Shares under saturation are the simulator's business: `sim/src/fairness.rs`.

use crate::rig::*;
use gannet_engine::*;

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
