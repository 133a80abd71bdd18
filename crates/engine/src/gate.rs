//! A gate: what lets attempts through at a source, a group or the whole. Concurrency, a token
//! bucket, and a time before which nothing passes.

use crate::planted::planted;
use crate::{
    id::Time,
    input::{Limits, Rate},
};

const MINUTE: u64 = 60_000_000_000;

#[derive(Clone, Debug)]
pub(crate) struct Gate {
    pub(crate) limits: Limits,
    /// Attempts under way.
    pub(crate) running: u32,
    /// Nothing passes before this time.
    pub(crate) closed_until: Time,
    bucket: Bucket,
}

/// Tokens in units of 1 / [`MINUTE`], so that the refill of any whole rate over any whole number of
/// nanoseconds is exact.
#[derive(Clone, Debug)]
struct Bucket {
    level: u128,
    as_of: Time,
}

impl Gate {
    pub(crate) fn new(limits: Limits, now: Time) -> Self {
        let bucket = Bucket {
            level: full(limits.rate),
            as_of: now,
        };
        Self {
            limits,
            running: 0,
            closed_until: Time::ZERO,
            bucket,
        }
    }

    /// New limits: what has been spent stays spent.
    pub(crate) fn set_limits(&mut self, limits: Limits, now: Time) {
        self.refill(now);
        let was = self.limits.rate;
        self.limits = limits;
        self.bucket.level = match was {
            None => full(limits.rate),
            Some(_) => self.bucket.level.min(full(limits.rate)),
        };
        self.bucket.as_of = now;
    }

    #[inline]
    fn refill(&mut self, now: Time) {
        if let Some(rate) = self.limits.rate {
            self.refill_at(rate, now);
        }
    }

    fn refill_at(&mut self, rate: Rate, now: Time) {
        let passed = u128::from(now.as_nanos().saturating_sub(self.bucket.as_of.as_nanos()));
        let mut added = passed * u128::from(rate.per_minute_max.get());
        if planted!("tokens-refill-too-fast") {
            added *= 2;
        }
        self.bucket.level = (self.bucket.level + added).min(full(Some(rate)));
        self.bucket.as_of = self.bucket.as_of.max(now);
    }

    /// Whether an attempt may pass now.
    #[inline]
    pub(crate) fn is_open(&mut self, now: Time) -> bool {
        self.refill(now);
        let extra = u32::from(planted!("cap-off-by-one"));
        self.running < self.limits.concurrent_max.get() + extra
            && self.closed_until <= now
            && (self.limits.rate.is_none() || self.bucket.level >= u128::from(MINUTE))
    }

    /// When time alone may open it: the end of the pause, or the next token.
    pub(crate) fn opens_at(&self, now: Time) -> Time {
        let mut at = Time::FAR;
        if self.closed_until > now {
            at = self.closed_until;
        }
        if let Some(rate) = self.limits.rate {
            let missing = u128::from(MINUTE).saturating_sub(self.bucket.level);
            if missing > 0 {
                let wait = missing.div_ceil(u128::from(rate.per_minute_max.get()));
                let as_of = self.bucket.as_of.as_nanos();
                let refilled = as_of.saturating_add(u64::try_from(wait).unwrap_or(u64::MAX));
                at = at.min(Time::from_nanos(refilled).max(Time::from_nanos(1)));
            }
        }
        at
    }

    /// When nothing of what was spent is missing any more.
    pub(crate) fn full_at(&self) -> Time {
        let Some(rate) = self.limits.rate else {
            return Time::ZERO;
        };
        let missing = full(Some(rate)).saturating_sub(self.bucket.level);
        let wait = missing.div_ceil(u128::from(rate.per_minute_max.get()));
        let wait = u64::try_from(wait).unwrap_or(u64::MAX);
        Time::from_nanos(self.bucket.as_of.as_nanos().saturating_add(wait))
    }

    /// An attempt passes: it holds a place until [`Gate::leave`], and a token is gone.
    pub(crate) fn enter(&mut self, now: Time) {
        self.refill(now);
        self.running += 1;
        if self.limits.rate.is_some() {
            self.bucket.level = self.bucket.level.saturating_sub(u128::from(MINUTE));
        }
    }

    pub(crate) fn leave(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// An attempt that passed was undone: its token comes back.
    pub(crate) fn refund(&mut self) {
        if self.limits.rate.is_some() {
            self.bucket.level =
                (self.bucket.level + u128::from(MINUTE)).min(full(self.limits.rate));
        }
    }
}

fn full(rate: Option<Rate>) -> u128 {
    rate.map_or(0, |rate| {
        u128::from(rate.burst_max.get()) * u128::from(MINUTE)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{num::NonZeroU32, time::Duration};

    fn gate(concurrent: u32, per_minute: u32, burst: u32) -> Gate {
        let nz = |n| NonZeroU32::new(n).expect("above zero");
        let rate = Rate {
            per_minute_max: nz(per_minute),
            burst_max: nz(burst),
        };
        let limits = Limits {
            concurrent_max: nz(concurrent),
            rate: Some(rate),
            within: None,
        };
        Gate::new(limits, Time::ZERO)
    }

    fn at(seconds: u64) -> Time {
        Time::ZERO.after(Duration::from_secs(seconds))
    }

    #[test]
    fn a_token_every_so_often() {
        let mut gate = gate(100, 6, 2);
        for _ in 0..2 {
            assert!(gate.is_open(Time::ZERO));
            gate.enter(Time::ZERO);
        }
        assert!(!gate.is_open(Time::ZERO));
        assert_eq!(gate.opens_at(Time::ZERO), at(10));
        assert!(!gate.is_open(Time::from_nanos(at(10).as_nanos() - 1)));
        assert!(gate.is_open(at(10)));
        gate.enter(at(10));
        gate.refund();
        assert!(gate.is_open(at(10)));
        assert!(gate.is_open(at(1000)));
        gate.enter(at(1000));
        gate.enter(at(1000));
        assert!(
            !gate.is_open(at(1000)),
            "no more than the burst is saved up"
        );
    }

    #[test]
    fn places_and_pauses() {
        let mut gate = gate(1, 600, 10);
        gate.enter(Time::ZERO);
        assert!(!gate.is_open(at(1)));
        gate.leave();
        assert!(gate.is_open(at(1)));
        gate.closed_until = at(5);
        assert!(!gate.is_open(at(4)));
        assert_eq!(gate.opens_at(at(4)), at(5));
        assert!(gate.is_open(at(5)));
    }
}
