//! Simulated time: nanoseconds since the run began.

use gannet_engine::Time;
use std::time::Duration;

/// A microsecond.
pub const US: u64 = 1_000;
/// A millisecond.
pub const MS: u64 = 1_000 * US;
/// A second.
pub const SEC: u64 = 1_000 * MS;

/// As the engine has it.
pub const fn time(nanos: u64) -> Time {
    Time::from_nanos(nanos)
}

/// As `gannet_cluster` has it: since the beginning.
pub const fn span(nanos: u64) -> Duration {
    Duration::from_nanos(nanos)
}

/// Back from a duration.
pub fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
