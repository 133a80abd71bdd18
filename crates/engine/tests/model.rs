//! Random sequences of what may happen, against the naive model. Operands are indices into what is
//! possible, so that sequences shrink well.

#[allow(dead_code, unreachable_pub)] // Each test file uses a part of it.
mod naive;

use gannet_engine::*;
use naive::{Menu, Model, backoff, nz, want};
use proptest::{collection::vec, prelude::*};
use std::time::Duration;

fn menu(choice: u8) -> Menu {
    let bit = |n: u8| choice & (1 << n) != 0;
    let plan = Plan {
        resume: bit(0),
        growth: FanoutGrowth::Fixed(nz(if bit(1) { 2 } else { 1 })),
        hedge: bit(2).then_some(Hedge::After(Duration::from_millis(40))),
        retry: if bit(3) {
            Retry::UntilReleased { backoff: backoff() }
        } else {
            Retry::Budget {
                tries: 2,
                total: Duration::from_secs(5),
                backoff: backoff(),
            }
        },
        on_invalid: if bit(4) {
            OnInvalid::Block(Duration::from_millis(70))
        } else {
            OnInvalid::Score
        },
        ..Plan::default()
    };
    let detached = Lifetime::Detached {
        ceiling: Duration::from_millis(60),
    };
    Menu {
        keys: 3,
        sources: 3,
        waiters: 12,
        wants: vec![
            want(Targets::Any, plan.clone()),
            want(
                Targets::Ranked,
                Plan {
                    commit: Commit::BeforeFinish,
                    ..plan.clone()
                },
            ),
            want(
                Targets::Any,
                Plan {
                    commit: Commit::AfterServe,
                    lifetime: detached,
                    ..plan
                },
            ),
        ],
        config: Config {
            racing_max: 2,
            ..Config::default()
        },
        ends: vec![
            End::Complete { upto: 0 },
            End::Missing,
            End::Busy { retry_after: None },
            End::Failed(Fault::Internal),
            End::Failed(Fault::Changed),
        ],
        verdicts: vec![
            Verdict::Valid,
            Verdict::Partial,
            Verdict::Ambiguous,
            Verdict::Invalid,
            Verdict::Ignored,
            Verdict::GaveUp,
        ],
        commits: vec![Ok(()), Err(CommitFault::Exists), Err(CommitFault::Io)],
        streams: true,
        operates: bit(5),
        declines: bit(6),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_sequence_keeps_the_contract(choice in any::<u8>(), picks in vec(any::<u16>(), 0..160)) {
        let mut model = Model::new(menu(choice));
        for pick in picks {
            let actions = model.actions();
            if actions.is_empty() {
                break;
            }
            model.apply(&actions[usize::from(pick) % actions.len()]);
        }
        model.finish();
    }
}
