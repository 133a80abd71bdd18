//! Plans: how the engine goes about each kind of fetch.

use gannet::engine::{
    Backoff, Commit, FanoutGrowth, Hedge, Lifetime, OnInvalid, Plan, Retry, Silence,
    ThroughputFloor,
};
use std::{num::NonZeroU32, sync::Arc, time::Duration};

/// Demand comes before read-ahead by a hundred to one; questions, which are short, before both.
pub(crate) const QUESTION: u8 = 250;
/// A chunk that a client waits for.
pub(crate) const DEMAND: u8 = 100;
/// A chunk that a client will probably want.
pub(crate) const AHEAD: u8 = 1;

/// A chunk outlives the clients that asked for it by so long.
const DETACHED: Duration = Duration::from_secs(300);

/// The plans of one cache.
#[derive(Clone, Debug)]
pub(crate) struct Plans {
    /// Metadata, buckets.
    pub(crate) question: Arc<Plan>,
    /// Listings, which take an origin longer.
    pub(crate) listing: Arc<Plan>,
    /// A chunk of full length.
    chunk: Arc<Plan>,
    /// The same, read ahead.
    ahead: Arc<Plan>,
}

impl Plans {
    /// Plans for chunks of this length from stores and origins; hedges come after this long without a
    /// sign, or after the source's 99th percentile, whichever is longer.
    ///
    /// `before` is how long a fetch may wait for its turn at the origin after it has asked somebody
    /// else in vain: its time for tries has begun by then.
    pub(crate) fn new(chunk_size: u64, hedge_after: Duration, before: Duration) -> Self {
        let hedge = Hedge::AtQuantile {
            permille: 990,
            floor: hedge_after,
        };
        Self::with(chunk_size, hedge, before)
    }

    /// The same from other members. One that waits for a slow origin says so, again and again: a silence
    /// is a member that is lost, however long answers take. What bounds the origin's slowness is the
    /// plan of whoever asks it, a little before these.
    pub(crate) fn of_members(chunk_size: u64, hedge_after: Duration, before: Duration) -> Self {
        let hedge = Hedge::After(hedge_after);
        let of_origin = Self::with(chunk_size, hedge, before);
        let later = |plan: &Plan| {
            let more = Duration::from_secs(5);
            Arc::new(Plan {
                hedge: Some(hedge),
                first_byte_timeout: plan.first_byte_timeout + more,
                idle_timeout: plan.idle_timeout + more,
                total_timeout: plan.total_timeout + more,
                throughput_floor: plan.throughput_floor.map(|floor| ThroughputFloor {
                    window: floor.window + more,
                    ..floor
                }),
                ..plan.clone()
            })
        };
        Self {
            question: later(&of_origin.question),
            listing: later(&of_origin.listing),
            chunk: later(&of_origin.chunk),
            ahead: later(&of_origin.ahead),
        }
    }

    fn with(chunk_size: u64, hedge: Hedge, before: Duration) -> Self {
        // Before the first byte, and with resumption after it too: 3 tries in 5 s.
        let retry = Retry::Budget {
            tries: 3,
            total: Duration::from_secs(5) + before,
            backoff: Backoff {
                base: Duration::from_millis(100),
                growth_permille: 2000,
                cap: Duration::from_secs(2),
                jitter_permille: 200,
            },
        };
        let chunk = Plan {
            growth: FanoutGrowth::Fixed(NonZeroU32::MIN),
            width_max: None,
            rounds_max: None,
            attempts_max: None,
            hedge: Some(hedge),
            first_byte_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(10),
            total_timeout: DETACHED,
            throughput_floor: Some(ThroughputFloor {
                bytes_min: 32 << 10,
                window: Duration::from_secs(10),
            }),
            silence: Silence::Fault,
            retry,
            resume: true,
            body_bytes_max: chunk_size,
            on_invalid: OnInvalid::Score,
            not_before: None,
            commit: Commit::AfterServe,
            lifetime: Lifetime::Detached { ceiling: DETACHED },
        };
        let question = Plan {
            first_byte_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(10),
            total_timeout: Duration::from_secs(15),
            throughput_floor: None,
            resume: false,
            body_bytes_max: 1,
            commit: Commit::BeforeFinish,
            lifetime: Lifetime::WhileWanted,
            ..chunk
        };
        let listing = Plan {
            first_byte_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(30),
            total_timeout: Duration::from_secs(60),
            // A large directory takes its time: a second question would take as long.
            hedge: None,
            ..question
        };
        let ahead = Plan {
            lifetime: Lifetime::WhileWanted,
            ..chunk
        };
        Self {
            question: Arc::new(question),
            listing: Arc::new(listing),
            chunk: Arc::new(chunk),
            ahead: Arc::new(ahead),
        }
    }

    /// For a chunk of this length that a client waits for.
    pub(crate) fn chunk(&self, len: u64) -> Arc<Plan> {
        of_len(&self.chunk, len)
    }

    /// For a chunk of this length that is read ahead: nobody's loss if it is not.
    pub(crate) fn ahead(&self, len: u64) -> Arc<Plan> {
        of_len(&self.ahead, len)
    }

    /// For a chunk of this length that is wanted in the store, not by a client.
    pub(crate) fn warm(&self, len: u64) -> Arc<Plan> {
        Arc::new(Plan {
            body_bytes_max: len,
            commit: Commit::BeforeFinish,
            lifetime: Lifetime::WhileWanted,
            ..(*self.chunk).clone()
        })
    }
}

fn of_len(plan: &Arc<Plan>, len: u64) -> Arc<Plan> {
    if plan.body_bytes_max == len {
        return Arc::clone(plan);
    }
    Arc::new(Plan {
        body_bytes_max: len,
        ..(**plan).clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_chunk_reserves_no_more_than_its_length() {
        let plans = Plans::new(8 << 20, Duration::from_secs(1), Duration::ZERO);
        assert!(Arc::ptr_eq(&plans.chunk(8 << 20), &plans.chunk(8 << 20)));
        assert_eq!(plans.chunk(7).body_bytes_max, 7);
        assert_eq!(plans.chunk(7).lifetime, plans.chunk(8 << 20).lifetime);
        assert_eq!(plans.ahead(7).lifetime, Lifetime::WhileWanted);
        assert_eq!(plans.warm(7).commit, Commit::BeforeFinish);
    }

    #[test]
    fn members_are_given_up_for_their_silence_and_after_the_origin() {
        let hedge = Duration::from_secs(1);
        let origin = Plans::new(8, hedge, Duration::ZERO);
        let member = Plans::of_members(8, hedge, Duration::ZERO);
        for (origin, member) in [
            (&origin.question, &member.question),
            (&origin.listing, &member.listing),
            (&origin.chunk, &member.chunk),
            (&origin.ahead, &member.ahead),
        ] {
            assert_eq!(member.hedge, Some(Hedge::After(hedge)));
            assert!(member.idle_timeout > origin.idle_timeout);
            assert!(member.total_timeout > origin.total_timeout);
            assert_eq!(member.lifetime, origin.lifetime);
        }
    }
}
