//! Bounds of a fetcher.

use crate::engine;

/// Bounds of a [`Fetcher`](crate::Fetcher), beside those of its engine.
///
/// ```
/// use gannet::Config;
///
/// let mut config = Config::default();
/// config.engine.racing_max = 64;
/// config.window_bytes_max = 16 << 20;
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    /// The engine's bounds and tuning; `bytes_max` in there admits fills.
    pub engine: engine::Config,
    /// Wants that wait for the worker \[1,024\]; beyond, callers wait to be let in.
    pub wants_max: usize,
    /// The newest bytes of a body that are kept \[64 MiB\]. A larger datum can be streamed by readers
    /// that keep up, but not be fetched as a whole, judged by its bytes, or committed.
    pub window_bytes_max: u64,
    /// Bytes in bodies whose fetches have ended and that slow readers keep \[256 MiB\]; beyond, the
    /// readers of the oldest are told that they lag.
    pub lingering_bytes_max: u64,
    /// Decides the engine's random choices; drawn anew for each fetcher where `None`.
    pub seed: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            engine: engine::Config::default(),
            wants_max: 1024,
            window_bytes_max: 64 << 20,
            lingering_bytes_max: 256 << 20,
            seed: None,
        }
    }
}
