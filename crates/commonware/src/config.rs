//! Settings: those of the stock engine, and what it has no settings for.

use crate::machine::{Backoff, FanoutGrowth, Hedge, Lifetime, OnInvalid, Plan, Retry, Silence};
use std::{
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

pub use commonware_resolver::p2p::Config;

/// What the stock engine has no settings for. The defaults behave as it does.
///
/// ```
/// use gannet_commonware::{Hedge, Tuning};
/// use std::time::Duration;
///
/// let tuning = Tuning {
///     hedge: Some(Hedge::AtQuantile { permille: 950, floor: Duration::from_millis(20) }),
///     ..Tuning::default()
/// };
/// # let _ = tuning;
/// ```
#[derive(Clone, Debug)]
pub struct Tuning {
    /// When a second peer is asked although the first has not answered yet \[never\]. Whichever
    /// answers first is judged; an answer that is not needed any more is dropped, at no cost to the
    /// peer that sent it.
    pub hedge: Option<Hedge>,
    /// Where there is a `hedge`: requests for one key that may follow each other, or race, before
    /// `fetch_retry_delay` is waited out \[2\]. Without a hedge it is always one.
    pub attempts_max: NonZeroU32,
    /// Requests of peers that wait for the `Producer` at once \[65,536\]. One beyond is answered
    /// at once as if the data were missing, so that the peer turns to another.
    pub serves_max: NonZeroUsize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            hedge: None,
            attempts_max: NonZeroU32::new(2).expect("a constant above zero"),
            serves_max: NonZeroUsize::new(65_536).expect("a constant above zero"),
        }
    }
}

/// How the engine goes about every fetch.
pub(crate) fn plan(timeout: Duration, retry_delay: Duration, tuning: &Tuning) -> Plan {
    let one = NonZeroU32::MIN;
    let attempts = match tuning.hedge {
        Some(_) => tuning.attempts_max,
        None => one,
    };
    Plan {
        growth: FanoutGrowth::Fixed(one),
        width_max: None,
        // One cycle is one attempt: after each, the retry delay; then any peer may be drawn again.
        rounds_max: Some(attempts),
        attempts_max: Some(attempts),
        hedge: tuning.hedge,
        first_byte_timeout: timeout,
        idle_timeout: timeout,
        total_timeout: timeout,
        throughput_floor: None,
        // What a silent peer costs is its standing in the draw, as with the stock engine.
        silence: Silence::Nothing,
        retry: Retry::UntilReleased {
            backoff: Backoff {
                base: retry_delay,
                growth_permille: 1000,
                cap: retry_delay,
                jitter_permille: 0,
            },
        },
        resume: false,
        body_bytes_max: u64::from(u32::MAX),
        // Blocks are the network's: asked for through `Blocker`, and learned from it.
        on_invalid: OnInvalid::Host,
        not_before: None,
        commit: crate::machine::Commit::None,
        lifetime: Lifetime::WhileWanted,
    }
}

/// Bounds of the engine. What limits requests is the network's quotas; we add no limits to them.
pub(crate) fn bounds(me: crate::machine::SourceId) -> crate::machine::Config {
    use crate::machine::{Choice, Limits, PerformanceUnit};
    let open = Limits {
        concurrent_max: NonZeroU32::MAX,
        rate: None,
        within: None,
    };
    crate::machine::Config {
        me: Some(me),
        racing_max: u32::MAX,
        fetches_max: u32::MAX - 1,
        waiters_max: u32::MAX - 1,
        candidates_max: u32::MAX,
        bytes_max: u64::MAX,
        source_limits: open,
        group_limits: open,
        whole_limits: open,
        choice: Choice::Sampled { scale: 4 },
        fresh_first: true,
        performance: PerformanceUnit::Bytes,
        ..crate::machine::Config::default()
    }
}
