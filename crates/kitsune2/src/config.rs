//! Settings: what a host may set, its defaults, and what no node can run with.

use kitsune2_api::{Config, K2Error, K2Result};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The module's part of a Kitsune2 configuration.
///
/// ```
/// use gannet_kitsune2::{GannetFetchConfig, GannetFetchModConfig};
/// use kitsune2_api::Config;
///
/// let config = Config::default();
/// config.set_module_config(&GannetFetchModConfig {
///     gannet_fetch: GannetFetchConfig { accept_unsolicited: false, ..Default::default() },
///     ..Default::default()
/// })?;
/// # Ok::<(), kitsune2_api::K2Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GannetFetchModConfig {
    /// The stock module's settings, so that a configuration written for it stays valid.
    pub core_fetch: CoreFetchConfig,
    /// Ours.
    pub gannet_fetch: GannetFetchConfig,
}

/// The stock module's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CoreFetchConfig {
    /// Taken and not used: how many requests the stock module sends at a time. Here a send to one
    /// peer never waits for a send to another, so there is nothing to set \[2\].
    pub parallel_request_count: u8,
}

impl Default for CoreFetchConfig {
    fn default() -> Self {
        Self {
            parallel_request_count: 2,
        }
    }
}

/// What the stock module has no settings for. Times are in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GannetFetchConfig {
    /// How long a peer may be silent before an op that it was asked for counts as not answered: the
    /// op is then asked of another peer that offers it, or of the same one after a back-off. An
    /// answer that comes later than that is as welcome as any \[2,000\].
    pub answer_timeout_ms: u32,
    /// The first pause before an op that nobody answered for is asked for again \[20,000\].
    pub first_back_off_interval_ms: u32,
    /// The longest such pause \[600,000\].
    pub last_back_off_interval_ms: u32,
    /// How many pauses there are, the first and the last among them. When the request after the last
    /// goes without an answer too, the want is dropped; if the peer answered nothing at all
    /// meanwhile, so is everything that is wanted of it \[4\].
    pub num_back_off_intervals: u8,
    /// When a second peer that offers an op is asked although the first has not answered
    /// \[0: not before it counts as silent\].
    pub hedge_ms: u32,
    /// The most op ids in one request \[1,024\]. What is sent grows up to that as a peer answers.
    pub max_ops_per_request: u32,
    /// The most bytes of op ids in one request \[65,536\].
    pub max_request_bytes: u32,
    /// How large we let a response grow: what we send is split at this size, and what we ask for in
    /// one request is expected to stay below it \[1,048,576\]. A single op may be larger.
    pub max_response_bytes: u32,
    /// The most ops asked of one peer and not answered \[16,384\].
    pub max_ops_in_flight_per_peer: u32,
    /// The most bytes expected from one peer at a time \[8,388,608\].
    pub max_bytes_in_flight_per_peer: u32,
    /// The most pairs of an op and a peer that offers it \[1,048,576\]. At the bound,
    /// `request_ops` waits.
    pub max_pending: u32,
    /// The most of these pairs for one peer, so that none takes all the room \[131,072\]. At the
    /// bound, `request_ops` for this peer waits, or fails at once where the peer is silent.
    pub max_pending_per_peer: u32,
    /// How long `request_ops` may wait at a bound, before it fails; and a millisecond more for each of
    /// its ops \[10,000\].
    pub request_wait_ms: u32,
    /// Whether ops that were not asked of the peer that sends them are stored, as the stock module
    /// does, or refused and counted \[yes\].
    pub accept_unsolicited: bool,
    /// The most bytes of responses that wait for the op store, with what keeping them takes
    /// \[67,108,864\]; a quarter of it for one peer, and a quarter for ops not asked for. What does not
    /// fit is dropped and counted; what is wanted of it is asked for again.
    pub max_incoming_bytes: u32,
    /// The most bytes of requests of peers that wait to be served \[16,777,216\]; a quarter of it
    /// for one peer. What does not fit is dropped and counted; it is for the asker to repeat.
    pub max_incoming_request_bytes: u32,
    /// Calls to `process_incoming_ops` at a time \[4\].
    pub store_concurrency: u8,
    /// The most ops in one call to the op store \[1,024\].
    pub max_ops_per_store_call: u32,
    /// Peers served at a time \[16\].
    pub serve_concurrency: u8,
}

impl Default for GannetFetchConfig {
    fn default() -> Self {
        Self {
            answer_timeout_ms: 2_000,
            first_back_off_interval_ms: 20_000,
            last_back_off_interval_ms: 600_000,
            num_back_off_intervals: 4,
            hedge_ms: 0,
            max_ops_per_request: 1_024,
            max_request_bytes: 64 << 10,
            max_response_bytes: 1 << 20,
            max_ops_in_flight_per_peer: 16_384,
            max_bytes_in_flight_per_peer: 8 << 20,
            max_pending: 1 << 20,
            max_pending_per_peer: 1 << 17,
            request_wait_ms: 10_000,
            accept_unsolicited: true,
            max_incoming_bytes: 64 << 20,
            max_incoming_request_bytes: 16 << 20,
            store_concurrency: 4,
            max_ops_per_store_call: 1_024,
            serve_concurrency: 16,
        }
    }
}

impl GannetFetchConfig {
    /// Reads our part of a configuration, and refuses what no node can run with.
    pub(crate) fn read(config: &Config) -> K2Result<Self> {
        let config: GannetFetchModConfig = config.get_module_config()?;
        config.gannet_fetch.validate()?;
        Ok(config.gannet_fetch)
    }

    fn validate(&self) -> K2Result<()> {
        let above_zero = [
            ("answerTimeoutMs", self.answer_timeout_ms),
            ("firstBackOffIntervalMs", self.first_back_off_interval_ms),
            ("maxOpsPerRequest", self.max_ops_per_request),
            ("maxRequestBytes", self.max_request_bytes),
            ("maxResponseBytes", self.max_response_bytes),
            ("maxOpsInFlightPerPeer", self.max_ops_in_flight_per_peer),
            ("maxBytesInFlightPerPeer", self.max_bytes_in_flight_per_peer),
            ("maxPending", self.max_pending),
            ("maxPendingPerPeer", self.max_pending_per_peer),
            ("maxIncomingBytes", self.max_incoming_bytes),
            ("maxIncomingRequestBytes", self.max_incoming_request_bytes),
            ("storeConcurrency", self.store_concurrency.into()),
            ("maxOpsPerStoreCall", self.max_ops_per_store_call),
            ("serveConcurrency", self.serve_concurrency.into()),
        ];
        if let Some((name, _)) = above_zero.iter().find(|(_, value)| *value == 0) {
            return Err(K2Error::other(format!(
                "gannetFetch.{name} must be above zero"
            )));
        }
        if self.num_back_off_intervals > 64 {
            return Err(K2Error::other(
                "gannetFetch.numBackOffIntervals must not be above 64",
            ));
        }
        if self.last_back_off_interval_ms < self.first_back_off_interval_ms {
            return Err(K2Error::other(
                "gannetFetch.lastBackOffIntervalMs must not be below firstBackOffIntervalMs",
            ));
        }
        Ok(())
    }

    pub(crate) fn answer_timeout(&self) -> Duration {
        millis(self.answer_timeout_ms)
    }

    /// How long a call with so many ops may wait.
    pub(crate) fn request_wait(&self, ops: usize) -> Duration {
        millis(self.request_wait_ms) + Duration::from_millis(ops as u64)
    }
}

pub(crate) fn millis(millis: u32) -> Duration {
    Duration::from_millis(millis.into())
}
