//! The health of a source: one state machine for every kind.
//!
//! ```text
//!             fault                    dead_after faults in a row
//!  Healthy ----------> Degraded --------------------------------------> Dead
//!     ^                 |  ^  \  success, then `stability`               |
//!     |                 |  |   \ without a fault                         |
//!     +-----------------+  +----\----------------------------------------+
//!                                              success (a probe)
//!  any --busy--> Throttled --its time is over--> what it was
//!  any --down--> Disconnected --up--> what it was
//! ```
//!
//! A degraded source backs off exponentially with jitter. Faults of attempts that began before the
//! last fault belong to the same incident and do not lengthen the back-off: a source that drops two
//! hundred connections at once has failed once.

use crate::{config::HealthConfig, id::Time, rng::Rng, snapshot::Health};
use std::time::Duration;

#[derive(Clone, Debug)]
pub(crate) struct SourceHealth {
    /// Faults since the source was last stable.
    pub(crate) faults: u32,
    /// Busy answers in a row.
    busy: u32,
    last_fault: Time,
    /// No attempt before this time, if there is another source.
    pub(crate) backoff_until: Time,
    /// No attempt at all before this time.
    pub(crate) throttled_until: Time,
    /// When a source that answered after faults counts as healthy again.
    pub(crate) stable_at: Time,
}

impl SourceHealth {
    pub(crate) const fn new() -> Self {
        Self {
            faults: 0,
            busy: 0,
            last_fault: Time::ZERO,
            backoff_until: Time::ZERO,
            throttled_until: Time::ZERO,
            stable_at: Time::FAR,
        }
    }

    /// Nothing that would be lost by forgetting it.
    pub(crate) fn is_blank(&self, now: Time) -> bool {
        self.faults == 0 && self.throttled_until <= now
    }

    pub(crate) fn backs_off(&self, now: Time) -> bool {
        self.backoff_until > now
    }

    /// The last that was heard of it is a fault.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.faults > 0 && self.stable_at == Time::FAR
    }

    pub(crate) fn state(&self, up: bool, now: Time, config: &HealthConfig) -> Health {
        if !up {
            Health::Disconnected
        } else if self.throttled_until > now {
            Health::Throttled
        } else if self.faults >= config.dead_after {
            Health::Dead
        } else if self.faults > 0 {
            Health::Degraded
        } else {
            Health::Healthy
        }
    }

    /// The source answered an attempt that began at `began`. Returns whether this is a recovery: an
    /// answer to what was asked before the last fault proves nothing.
    pub(crate) fn succeeded(&mut self, began: Time, now: Time, config: &HealthConfig) -> bool {
        self.busy = 0;
        if self.faults == 0 || began < self.last_fault {
            return false;
        }
        self.backoff_until = Time::ZERO;
        // Dead no more, and yet to prove itself; a further fault resumes the back-off where it was.
        self.faults = self.faults.min(config.dead_after.saturating_sub(1)).max(1);
        let recovered = self.stable_at == Time::FAR;
        if recovered {
            self.stable_at = now.after(config.stability);
        }
        recovered
    }

    /// An attempt that began at `began` failed through the source's fault.
    pub(crate) fn failed(&mut self, began: Time, now: Time, config: &HealthConfig, rng: &mut Rng) {
        self.stable_at = Time::FAR;
        let same_incident = self.faults > 0 && began < self.last_fault;
        if same_incident {
            return;
        }
        self.last_fault = now;
        self.faults = self.faults.saturating_add(1);
        if self.faults >= config.dead_after {
            self.backoff_until = now.after(config.probe_interval);
        } else if self.faults > config.faults_forgiven {
            let n = self.faults - config.faults_forgiven - 1;
            let pause = jittered(config.backoff.pause(n), config.backoff.jitter_permille, rng);
            self.backoff_until = now.after(pause);
        }
    }

    /// The source asked to be left alone. Returns until when.
    pub(crate) fn throttled(
        &mut self,
        retry_after: Option<Duration>,
        now: Time,
        config: &HealthConfig,
    ) -> Time {
        let own = config
            .busy_pause
            .saturating_mul(1 << self.busy.min(16))
            .min(config.backoff.cap);
        let pause = retry_after.unwrap_or(own).min(config.pause_max);
        if self.throttled_until <= now {
            self.busy = self.busy.saturating_add(1);
        }
        self.throttled_until = self.throttled_until.max(now.after(pause));
        self.throttled_until
    }

    /// Time has passed. Returns whether the source has become healthy by it.
    pub(crate) fn settle(&mut self, now: Time) -> bool {
        if self.stable_at > now {
            return false;
        }
        self.stable_at = Time::FAR;
        self.faults = 0;
        true
    }

    /// When time alone changes something next.
    pub(crate) fn changes_at(&self, now: Time) -> Time {
        [self.backoff_until, self.throttled_until, self.stable_at]
            .into_iter()
            .filter(|at| *at > now)
            .min()
            .unwrap_or(Time::FAR)
    }
}

/// A duration plus or minus up to so many thousandths of itself.
pub(crate) fn jittered(base: Duration, permille: u16, rng: &mut Rng) -> Duration {
    let span = u64::from(permille.min(1000));
    let factor = 1000 - span + rng.below(2 * span + 1);
    let nanos = u64::try_from(base.as_nanos()).unwrap_or(u64::MAX / 2000);
    Duration::from_nanos((u128::from(nanos) * u128::from(factor) / 1000) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::ZERO.after(Duration::from_secs(seconds))
    }

    #[test]
    fn degrades_dies_recovers_and_settles() {
        let config = HealthConfig {
            dead_after: 3,
            ..HealthConfig::default()
        };
        let mut rng = Rng::new(1);
        let mut health = SourceHealth::new();
        assert_eq!(health.state(true, at(0), &config), Health::Healthy);
        health.failed(at(1), at(2), &config, &mut rng);
        assert_eq!(health.state(true, at(2), &config), Health::Degraded);
        assert!(health.backs_off(at(2)) && !health.backs_off(at(3)));
        assert!(health.is_in_doubt() && !SourceHealth::new().is_in_doubt());
        health.failed(at(1), at(2), &config, &mut rng);
        assert_eq!(health.faults, 1, "the same incident");
        health.failed(at(4), at(5), &config, &mut rng);
        health.failed(at(7), at(8), &config, &mut rng);
        assert_eq!(health.state(true, at(8), &config), Health::Dead);
        assert!(health.backs_off(at(8 + 119)) && !health.backs_off(at(8 + 120)));
        assert!(
            !health.succeeded(at(7), at(9), &config),
            "asked before it fell ill"
        );
        assert!(health.is_in_doubt());
        assert!(health.succeeded(at(199), at(200), &config));
        assert!(!health.is_in_doubt());
        assert_eq!(health.state(true, at(200), &config), Health::Degraded);
        assert!(!health.backs_off(at(200)));
        assert!(!health.settle(at(209)) && health.settle(at(210)));
        assert_eq!(health.state(true, at(210), &config), Health::Healthy);
        assert_eq!(health.state(false, at(210), &config), Health::Disconnected);
    }

    #[test]
    fn honours_the_named_time_within_bounds() {
        let config = HealthConfig::default();
        let mut health = SourceHealth::new();
        assert_eq!(
            health.throttled(Some(Duration::from_secs(7)), at(0), &config),
            at(7)
        );
        assert_eq!(health.state(true, at(6), &config), Health::Throttled);
        assert_eq!(health.state(true, at(7), &config), Health::Healthy);
        let long = health.throttled(Some(Duration::from_secs(1 << 40)), at(10), &config);
        assert_eq!(long, at(10 + 3600));
    }

    #[test]
    fn jitter_stays_in_its_span() {
        let mut rng = Rng::new(3);
        for _ in 0..1000 {
            let got = jittered(Duration::from_secs(10), 200, &mut rng).as_millis();
            assert!((8000..=12_000).contains(&got), "{got}");
        }
    }
}
