//! Bounds and tuning of an engine. Every bound ends in `_max` and is finite by default.

use crate::{id::SourceId, input::Limits, plan::Backoff};
use std::{fmt, num::NonZeroU32, time::Duration};

/// Bounds and tuning of an engine.
#[derive(Clone, Debug)]
pub struct Config {
    /// Ourselves: never asked.
    pub me: Option<SourceId>,
    /// Fetches that have attempts under way \[256\].
    pub racing_max: u32,
    /// Fetches in all \[4 Mi\]. A want beyond is answered with
    /// [`FetchError::Overloaded`](crate::FetchError::Overloaded).
    pub fetches_max: u32,
    /// Waiters in all \[16 Mi\]. A want beyond is answered the same way.
    pub waiters_max: u32,
    /// Sources known at once \[1 Mi\]; further ones are ignored and counted.
    pub sources_max: u32,
    /// Sources that are down and remembered for their health \[16 Ki\]; beyond, the longest gone is
    /// forgotten first. Blocked ones are not forgotten by this bound.
    pub remembered_sources_max: u32,
    /// Candidates of one fetch \[64\].
    pub candidates_max: u32,
    /// Bytes reserved ([`Plan::body_bytes_max`](crate::Plan::body_bytes_max)) by fetches that are
    /// under way, judged or being committed \[1 GiB\].
    pub bytes_max: u64,
    /// The operator's ceiling on the width of a round \[16\].
    pub width_max: u32,
    /// The operator's ceiling on rounds in a cycle \[64\].
    pub rounds_max: u32,
    /// The operator's ceiling on attempts in a cycle \[256\].
    pub attempts_max: u32,
    /// Debug events kept for [`Engine::poll_event`](crate::Engine::poll_event) \[0: none are made\];
    /// beyond, the oldest is dropped and counted.
    pub events_max: u32,
    /// Limits of a source that has none of its own \[256 at once, no rate\].
    pub source_limits: Limits,
    /// Limits of a group that has none of its own \[4,096 at once, no rate\].
    pub group_limits: Limits,
    /// Limits of everything together \[65,536 at once, no rate\].
    pub whole_limits: Limits,
    /// How sources of equal standing are chosen where any may serve.
    pub choice: Choice,
    /// Whether backed-off sources are tried when there is no other \[yes\].
    pub try_backed_off: bool,
    /// All fresh keys before retries \[no\]: exempts the engine from fairness (I7).
    pub fresh_first: bool,
    /// The health of sources.
    pub health: HealthConfig,
    /// What performance is measured in.
    pub performance: PerformanceUnit,
    /// Time to first byte is known once so many answers were seen \[16\].
    pub latency_samples_min: u32,
}

/// How sources of equal standing are chosen where any may serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The best first.
    Best,
    /// In proportion to performance, mixed with a uniform share that grows with the retries `r` of
    /// the fetch: the weighted share is `scale / (r + scale)`.
    Sampled {
        /// The larger, the slower the uniform share grows \[4\].
        scale: u32,
    },
}

/// What performance is measured in, per second charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PerformanceUnit {
    /// Bytes.
    Bytes,
    /// Useful answers.
    Answers,
}

/// The state machine that every source's health runs through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthConfig {
    /// The pause after the n-th fault in a row \[500 ms, doubling to 60 s, +-20 %\].
    pub backoff: Backoff,
    /// Faults in a row that are forgiven before the first pause \[0\].
    pub faults_forgiven: u32,
    /// Without a fault for so long after a success, a source is healthy again \[10 s\].
    pub stability: Duration,
    /// Faults in a row from which a source counts as dead \[8\].
    pub dead_after: u32,
    /// How often a dead source is probed \[2 min\].
    pub probe_interval: Duration,
    /// The pause after a busy answer that names no time; later ones in a row grow like `backoff`
    /// \[1 s\].
    pub busy_pause: Duration,
    /// The longest pause that a source can impose by naming a time \[1 h\].
    pub pause_max: Duration,
    /// A source is in doubt while the last that was heard of it is a fault, also after its back-off. Where
    /// all that a fetch has asked are in doubt and give no sign for so long, the next round joins, if the
    /// plan hedges at all; so whoever happens to try a lost source again does not wait for it as long as
    /// for a sound one. As the plan says, where `None` \[`None`\].
    pub doubt: Option<Duration>,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            backoff: Backoff {
                base: Duration::from_millis(500),
                growth_permille: 2000,
                cap: Duration::from_secs(60),
                jitter_permille: 200,
            },
            faults_forgiven: 0,
            stability: Duration::from_secs(10),
            dead_after: 8,
            probe_interval: Duration::from_secs(120),
            busy_pause: Duration::from_secs(1),
            pause_max: Duration::from_secs(3600),
            doubt: None,
        }
    }
}

const fn limits(concurrent_max: u32) -> Limits {
    Limits {
        concurrent_max: NonZeroU32::new(concurrent_max).expect("a constant above zero"),
        rate: None,
        within: None,
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            me: None,
            racing_max: 256,
            fetches_max: 4 << 20,
            waiters_max: 16 << 20,
            sources_max: 1 << 20,
            remembered_sources_max: 16 << 10,
            candidates_max: 64,
            bytes_max: 1 << 30,
            width_max: 16,
            rounds_max: 64,
            attempts_max: 256,
            events_max: 0,
            source_limits: limits(256),
            group_limits: limits(4096),
            whole_limits: limits(65_536),
            choice: Choice::Sampled { scale: 4 },
            try_backed_off: true,
            fresh_first: false,
            health: HealthConfig::default(),
            performance: PerformanceUnit::Bytes,
            latency_samples_min: 16,
        }
    }
}

/// A configuration that no engine can run with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The field at fault.
    pub field: &'static str,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "engine config: `{}` must be above zero", self.field)
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Checks that every bound admits at least something.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let fields = [
            ("racing_max", u64::from(self.racing_max)),
            ("fetches_max", u64::from(self.fetches_max)),
            ("waiters_max", u64::from(self.waiters_max)),
            ("sources_max", u64::from(self.sources_max)),
            ("candidates_max", u64::from(self.candidates_max)),
            ("bytes_max", self.bytes_max),
            ("width_max", u64::from(self.width_max)),
            ("rounds_max", u64::from(self.rounds_max)),
            ("attempts_max", u64::from(self.attempts_max)),
            ("health.dead_after", u64::from(self.health.dead_after)),
        ];
        match fields.into_iter().find(|(_, value)| *value == 0) {
            Some((field, _)) => Err(ConfigError { field }),
            None => Ok(()),
        }
    }
}
