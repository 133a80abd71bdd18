//! Identifiers and time.
//!
//! The engine holds ids and lengths; payloads, addresses and clocks stay with the driver.

use std::{fmt, hash::Hash, time::Duration};

/// Nanoseconds since an epoch of the driver's choice. The engine never asks what time it is.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The driver's epoch.
    pub const ZERO: Self = Self(0);
    /// Later than any deadline.
    pub const FAR: Self = Self(u64::MAX);

    /// A time so many nanoseconds after the driver's epoch.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the driver's epoch.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time that has passed since `earlier`; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This time plus a duration, saturating at [`Time::FAR`].
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t+{:?}", Duration::from_nanos(self.0))
    }
}

/// The identity of a datum: two equal keys are the same fetch.
///
/// `Ord` is for snapshots, so that they read the same on every run; `Hash` finds the fetch of a key
/// (seeded, and never iterated, so that no decision depends on hash order).
pub trait Key: Clone + Ord + Hash + fmt::Debug {}
impl<T: Clone + Ord + Hash + fmt::Debug> Key for T {}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);
    )*};
}

ids! {
    /// One caller's interest in a key; chosen by the driver, never reused by it while alive.
    WaiterId,
    /// One coalesced fetch; chosen by the engine, never reused.
    FetchId,
    /// One request to one source; chosen by the engine, never reused, so that a late answer cannot
    /// be misattributed.
    AttemptId,
    /// An origin, replica, peer, homeserver, relay; the driver maps it to an address.
    SourceId,
    /// One judgement asked of the front end; chosen by the engine, never reused.
    JudgementId,
    /// Sources that share limits: a domain, an origin, an account; chosen by the driver.
    GroupId,
}

macro_rules! slots {
    ($($name:ident),*) => {$(
        impl $name {
            /// A number that no other one alive has, and never more than the most that were alive at
            /// once: the place for what a driver holds for it, in a table. It is used again after
            /// this one has ended, so a table has to keep the id as well.
            pub const fn slot(self) -> usize {
                self.0 as u32 as usize
            }
        }
    )*};
}

slots!(FetchId, AttemptId);
