//! Plans: the policy of a fetch, as plain data.

use crate::id::{SourceId, Time};
use std::{num::NonZeroU32, sync::Arc, time::Duration};

const fn nz(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).expect("a constant above zero")
}

/// What a caller asks for, beside the key.
///
/// Where the wants of one fetch differ, the strongest holds: the highest priority of the live
/// waiters, the longer lifetime, the stricter commit. Everything else is the plan of the first.
#[derive(Clone, Debug)]
pub struct Want {
    /// Which sources may serve it.
    pub targets: Targets,
    /// The weight of its class: a class of priority 20 gets twice the starts of one of 10 while both
    /// wait. Zero counts as one.
    pub priority: u8,
    /// Callers with the same number share their turns: tenants, clients, rooms.
    pub owner: u32,
    /// When this caller stops waiting, with [`FetchError::Expired`](crate::FetchError::Expired).
    pub deadline: Option<Time>,
    /// How to go about it.
    pub plan: Arc<Plan>,
}

/// Which sources may serve a fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// What the front end ranks; the engine asks with [`Output::Select`](crate::Output::Select).
    Ranked,
    /// Any source that is up, by measured performance.
    Any,
    /// These only, with no fallback. Later targeted wants of the same key add to them; a later
    /// [`Targets::Any`] lifts the restriction, and a restricted want never restricts an open fetch.
    Only(Vec<SourceId>),
}

/// The policy of a fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How many attempts each round adds.
    pub growth: FanoutGrowth,
    /// The most attempts that one round adds.
    pub width_max: Option<NonZeroU32>,
    /// The most rounds in one cycle over the candidates.
    pub rounds_max: Option<NonZeroU32>,
    /// The most attempts in one cycle over the candidates.
    pub attempts_max: Option<NonZeroU32>,
    /// When the next round joins one that has not answered yet; never, where `None`. Where nobody is
    /// free just then, after as long again.
    pub hedge: Option<Hedge>,
    /// From the start of an attempt to its first sign ([`Input::Opened`](crate::Input::Opened) or
    /// progress).
    pub first_byte_timeout: Duration,
    /// From one sign of progress to the next.
    pub idle_timeout: Duration,
    /// From the start of an attempt to its end.
    pub total_timeout: Duration,
    /// The least throughput once the answer has begun; an attempt below it is given up like a silent
    /// one, so that a drip does not hold a fetch until `total_timeout`.
    pub throughput_floor: Option<ThroughputFloor>,
    /// What a timeout says of the source.
    pub silence: Silence,
    /// What follows when every candidate has failed.
    pub retry: Retry,
    /// Whether attempts continue one body: a later attempt starts at the byte where an earlier one
    /// broke off, and whichever of several brings the next byte appends. Without it, each attempt
    /// is an answer of its own.
    pub resume: bool,
    /// The most bytes that the datum may have; reserved while the fetch is under way, until a source
    /// announces fewer. An attempt that claims or brings more ends with
    /// [`Fault::TooLarge`](crate::Fault::TooLarge).
    pub body_bytes_max: u64,
    /// What an invalid answer does to its source.
    pub on_invalid: OnInvalid,
    /// No attempt before this time.
    pub not_before: Option<Time>,
    /// When the datum is stored.
    pub commit: Commit,
    /// How long the fetch outlives its waiters.
    pub lifetime: Lifetime,
}

impl Default for Plan {
    /// One attempt at a time, each candidate once; 5 s to the first byte, 5 s idle, 60 s in all; no
    /// hedging, no retries, no resume; up to 1 MiB; invalid answers are scored; nothing is committed.
    fn default() -> Self {
        Self {
            growth: FanoutGrowth::Fixed(nz(1)),
            width_max: None,
            rounds_max: None,
            attempts_max: None,
            hedge: None,
            first_byte_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(5),
            total_timeout: Duration::from_secs(60),
            throughput_floor: None,
            silence: Silence::Fault,
            retry: Retry::No,
            resume: false,
            body_bytes_max: 1 << 20,
            on_invalid: OnInvalid::Score,
            not_before: None,
            commit: Commit::None,
            lifetime: Lifetime::WhileWanted,
        }
    }
}

impl Plan {
    /// Attempts that the given round (from 0) adds, before the operator's ceiling.
    pub fn width(&self, round: u32) -> u32 {
        let grown = match self.growth {
            FanoutGrowth::Fixed(n) => n.get(),
            FanoutGrowth::Linear { base, step } => {
                base.get().saturating_add(step.get().saturating_mul(round))
            }
            FanoutGrowth::Geometric { base, factor } => base
                .get()
                .saturating_mul(factor.get().saturating_pow(round)),
        };
        self.width_max.map_or(grown, |max| grown.min(max.get()))
    }
}

/// How the width of a round follows from its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FanoutGrowth {
    /// The same width in every round.
    Fixed(NonZeroU32),
    /// `base`, `base + step`, `base + 2 step`, ...
    Linear {
        /// Width of the first round.
        base: NonZeroU32,
        /// Added with each further round.
        step: NonZeroU32,
    },
    /// `base`, `base * factor`, `base * factor^2`, ...
    Geometric {
        /// Width of the first round.
        base: NonZeroU32,
        /// Multiplied with each further round.
        factor: NonZeroU32,
    },
}

/// How long a round may go without news before the next joins it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hedge {
    /// A fixed delay.
    After(Duration),
    /// A quantile of the slowest racing source's time to first byte, or the floor if that is longer
    /// or too few answers were seen ([`Config::latency_samples_min`](crate::Config)).
    AtQuantile {
        /// The quantile in thousandths: 990 is the p99.
        permille: u16,
        /// The least delay.
        floor: Duration,
    },
}

/// The least throughput of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThroughputFloor {
    /// Bytes that each window must bring.
    pub bytes_min: u64,
    /// The length of a window; the first begins with the first sign of the answer.
    pub window: Duration,
}

/// What a timeout says of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// A fault: the source backs off and its performance is charged for the time.
    Fault,
    /// Nothing beyond the time it cost: performance is charged, health is not.
    Nothing,
}

/// What follows when every candidate has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The fetch is exhausted.
    No,
    /// Some more cycles over the candidates whose last fault may pass (see
    /// [`Fault::may_pass`](crate::Fault::may_pass)), with pauses between them.
    Budget {
        /// Cycles in all, the first included. Under a resuming plan those count that brought the body
        /// no further: an answer that breaks off again and again, and is continued, is progress.
        tries: u32,
        /// From the first attempt, or the last byte that brought a body further than any
        /// before, to the last attempt that may still be started.
        total: Duration,
        /// The pause between cycles.
        backoff: Backoff,
    },
    /// A persistent fetch: it ends when satisfied, released or expired, and not before.
    UntilReleased {
        /// The pause between cycles.
        backoff: Backoff,
    },
}

/// Exponential back-off: `base * (growth / 1000)^n`, at most `cap`, plus or minus jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first pause; zero: the next cycle follows at once on the answers of the last.
    pub base: Duration,
    /// The growth from one pause to the next in thousandths: 2,000 doubles. Below 1,000 counts as
    /// 1,000, which keeps the pause as it is.
    pub growth_permille: u32,
    /// The longest pause.
    pub cap: Duration,
    /// Up to so many thousandths are added or taken, drawn anew each time.
    pub jitter_permille: u16,
}

impl Backoff {
    /// Pauses that grow evenly from `first` to `last`, which is the `count`-th, and stay there. One
    /// pause is all there is where `count` is below two.
    ///
    /// ```
    /// use gannet_engine::Backoff;
    /// use std::time::Duration;
    ///
    /// let backoff = Backoff::between(Duration::from_secs(20), Duration::from_secs(600), 4);
    /// let pauses = [0, 1, 2, 3, 4].map(|n| backoff.pause(n).as_secs());
    /// assert_eq!(pauses, [20, 62, 193, 600, 600]);
    /// ```
    pub fn between(first: Duration, last: Duration, count: u32) -> Self {
        let cap = last.max(first);
        let mut backoff = Self {
            base: if count < 2 { cap } else { first },
            growth_permille: 1000,
            cap,
            jitter_permille: 0,
        };
        // The least growth that gets there: found by halving, in whole numbers, so that it is the
        // same everywhere. A first pause of nothing cannot grow.
        let (mut low, mut high) = (1000, u32::MAX);
        while count >= 2 && low < high {
            let middle = low + (high - low) / 2;
            backoff.growth_permille = middle;
            if backoff.pause(count - 1) < cap {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        backoff.growth_permille = low;
        backoff
    }

    /// The pause before try `n` (the first pause is `n == 0`), without jitter. O(log n).
    pub fn pause(&self, n: u32) -> Duration {
        // Fixed point with 20 bits behind it; by squaring.
        const ONE: u128 = 1 << 20;
        const MOST: u128 = 1 << 60;
        let mut power = u128::from(self.growth_permille.max(1000)) * ONE / 1000;
        let (mut scale, mut n) = (ONE, n);
        while n > 0 {
            if n & 1 == 1 {
                scale = (scale * power / ONE).min(MOST);
            }
            power = (power * power / ONE).min(MOST);
            n >>= 1;
        }
        let nanos = self.base.as_nanos().saturating_mul(scale) / ONE;
        if nanos >= self.cap.as_nanos() {
            return self.cap;
        }
        // Below the cap, which is a duration.
        Duration::new(
            (nanos / 1_000_000_000) as u64,
            (nanos % 1_000_000_000) as u32,
        )
    }
}

/// What an invalid answer does to its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnInvalid {
    /// Its health suffers as from any fault.
    Score,
    /// It is blocked for so long.
    Block(Duration),
    /// Nothing: the host sees the verdict and acts.
    Host,
}

/// When the datum is stored. Ordered by strictness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Commit {
    /// Not at all.
    None,
    /// Waiters are answered first; newcomers are served from the same bytes until the commit ends.
    AfterServe,
    /// Waiters are answered when it is stored, and a failed commit leaves the key wanted.
    BeforeFinish,
}

/// How long a fetch outlives its waiters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// It is cancelled with the last of them.
    WhileWanted,
    /// It goes on for so long after the last departure.
    Detached {
        /// From the last departure to the cancellation.
        ceiling: Duration,
    },
}

impl Lifetime {
    /// The longer of two lifetimes.
    #[must_use]
    pub fn longer(self, other: Self) -> Self {
        match (self, other) {
            (Self::Detached { ceiling: a }, Self::Detached { ceiling: b }) => {
                Self::Detached { ceiling: a.max(b) }
            }
            (Self::Detached { .. }, Self::WhileWanted) => self,
            (Self::WhileWanted, _) => other,
        }
    }
}
