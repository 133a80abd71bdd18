//! How much a peer is asked for at a time: ops in a message, and ops in flight.
//!
//! The sizes of ops are not known before they come, and a stock peer answers a request with one
//! message, however large. So requests start small and double as they are answered (slow start), up
//! to what the sizes seen so far allow.

use crate::{config::GannetFetchConfig, inbox::OP_OVERHEAD};

/// Ops in the first request to a peer.
const FIRST_BATCH: u32 = 16;
/// Ops in flight at a peer that has answered nothing yet.
const FIRST_WINDOW: u32 = 256;
/// Ops in flight that a peer is granted, whatever the size of its ops.
const LEAST_WINDOW: u32 = 16;

/// What one peer is asked for at a time.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    /// Ops in a message, as far as answers have shown that it works.
    batch: u32,
    /// Ops in flight, likewise.
    window: u32,
    /// The size of an op: a moving average that is quick to rise. Zero: none was seen.
    size: u64,
}

impl Pace {
    pub(crate) fn new(config: &GannetFetchConfig) -> Self {
        Self {
            batch: FIRST_BATCH.min(config.max_ops_per_request),
            window: FIRST_WINDOW.min(config.max_ops_in_flight_per_peer),
            size: 0,
        }
    }

    /// The most ops in a request, when they were asked for in vain so many times before: ever fewer,
    /// so that an op whose neighbours are the reason (too large together, or one that the peer's
    /// store fails on) is asked for alone in the end.
    pub(crate) fn batch(&self, tries: u8, config: &GannetFetchConfig) -> u32 {
        let allowed = u64::from(config.max_response_bytes) / self.size.max(1);
        let allowed = u32::try_from(allowed).unwrap_or(u32::MAX);
        let batch = self.batch.min(allowed).min(ops_max(config));
        (batch >> (3 * u32::from(tries)).min(31)).max(1)
    }

    /// The most ops in flight.
    pub(crate) fn window(&self, config: &GannetFetchConfig) -> u32 {
        let allowed = u64::from(config.max_bytes_in_flight_per_peer) / self.size.max(1);
        let allowed = u32::try_from(allowed).unwrap_or(u32::MAX);
        self.window
            .min(allowed.max(LEAST_WINDOW))
            .min(config.max_ops_in_flight_per_peer)
    }

    /// Ops came that were asked for.
    pub(crate) fn answered(&mut self, ops: u32, bytes: u64, config: &GannetFetchConfig) {
        if ops == 0 {
            return;
        }
        let size = (bytes / u64::from(ops)).max(1);
        self.size = if size > self.size {
            size
        } else {
            self.size - (self.size - size) / 8
        };
        self.window = self
            .window
            .saturating_add(ops)
            .min(config.max_ops_in_flight_per_peer);
    }

    /// A request of so many ops was answered in full.
    pub(crate) fn whole(&mut self, ops: u32, config: &GannetFetchConfig) {
        if ops >= self.batch {
            self.batch = self.batch.saturating_mul(2).min(config.max_ops_per_request);
        }
    }

    /// Answers come later than we were ready to wait: the peer has more on its hands than it can do.
    pub(crate) fn late(&mut self) {
        self.window = (self.window / 2).max(LEAST_WINDOW);
    }
}

/// The most ops that an answer may have to be read at all: it is no use to ask for more at once.
fn ops_max(config: &GannetFetchConfig) -> u32 {
    config.max_incoming_bytes / 4 / OP_OVERHEAD as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_while_answered_and_keeps_below_what_sizes_allow() {
        let config = GannetFetchConfig::default();
        let mut pace = Pace::new(&config);
        assert_eq!((pace.batch(0, &config), pace.window(&config)), (16, 256));
        for _ in 0..30 {
            let batch = pace.batch(0, &config);
            pace.answered(batch, u64::from(batch) * 256, &config);
            pace.whole(batch, &config);
        }
        assert_eq!(pace.batch(0, &config), 1_024);
        assert_eq!(pace.window(&config), 16_384);
        // One answer of large ops is enough to ask for less.
        pace.answered(4, 4 << 18, &config);
        assert_eq!((pace.batch(0, &config), pace.window(&config)), (4, 32));
        // An op larger than a response is asked for alone.
        pace.answered(1, 64 << 20, &config);
        assert_eq!((pace.batch(0, &config), pace.window(&config)), (1, 16));
    }

    #[test]
    fn no_more_is_asked_for_at_once_than_would_be_read() {
        for (bytes, ops) in [(1, 1), (8_191, 7), (8_192, 8), (64 << 20, 16)] {
            let config = GannetFetchConfig {
                max_incoming_bytes: bytes,
                ..Default::default()
            };
            assert_eq!(Pace::new(&config).batch(0, &config), ops, "{bytes}");
        }
    }

    #[test]
    fn what_was_asked_in_vain_is_asked_in_ever_smaller_company() {
        let config = GannetFetchConfig::default();
        let mut pace = Pace::new(&config);
        for _ in 0..20 {
            pace.whole(1_024, &config);
        }
        let batches = [0, 1, 2, 3, 4, 200].map(|tries| pace.batch(tries, &config));
        assert_eq!(batches, [1_024, 128, 16, 2, 1, 1]);
    }
}
