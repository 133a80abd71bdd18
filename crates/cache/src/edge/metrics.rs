//! What the edge counts: plain atomics, read by whoever exports them.

use http::Method;
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// The methods told apart in counts.
pub const METHODS: [&str; 4] = ["GET", "HEAD", "OPTIONS", "other"];

/// Upper bounds of the first-byte histogram's buckets, in microseconds; one more bucket above them.
pub const FIRST_BYTE_BOUNDS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

const CODE_MIN: u16 = 100;
const CODES: usize = 500;

/// Counts of one edge since it started. All are monotonic but `connections`.
#[derive(Debug)]
pub struct EdgeMetrics {
    requests: [Box<[AtomicU64]>; METHODS.len()],
    first_byte: [AtomicU64; FIRST_BYTE_BOUNDS_US.len() + 1],
    first_byte_sum_us: AtomicU64,
    /// Bytes of bodies sent.
    pub bytes: AtomicU64,
    /// Requests answered on the lean path (contained in `requests`).
    pub lean: AtomicU64,
    /// Connections open now.
    pub connections: AtomicU64,
    /// Connections taken since start.
    pub accepted: AtomicU64,
    /// Calls of `accept` that failed (too many open files, say) and were tried again.
    pub accept_errors: AtomicU64,
    /// Connections turned away because too many were open.
    pub refused: AtomicU64,
    /// Connections cut because their reader made no progress.
    pub stalled: AtomicU64,
    /// Responses broken off because the object could not be read to its end.
    pub aborted: AtomicU64,
}

impl Default for EdgeMetrics {
    fn default() -> Self {
        Self {
            requests: std::array::from_fn(|_| (0..CODES).map(|_| AtomicU64::new(0)).collect()),
            first_byte: Default::default(),
            first_byte_sum_us: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            lean: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            accept_errors: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            stalled: AtomicU64::new(0),
            aborted: AtomicU64::new(0),
        }
    }
}

impl EdgeMetrics {
    /// Counts a refusal of what could not be read as a request.
    pub(crate) fn refused_request(&self, code: u16) {
        self.request(&Method::CONNECT, code);
    }

    /// Counts an answered request.
    pub(crate) fn request(&self, method: &Method, code: u16) {
        let row = match *method {
            Method::GET => 0,
            Method::HEAD => 1,
            Method::OPTIONS => 2,
            _ => 3,
        };
        if let Some(cell) = self.requests[row].get(usize::from(code.saturating_sub(CODE_MIN))) {
            cell.fetch_add(1, Relaxed);
        }
    }

    /// Counts the time from a complete request to its response's head, for successful GETs of objects.
    pub(crate) fn first_byte(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = FIRST_BYTE_BOUNDS_US.partition_point(|&bound| bound < us);
        self.first_byte[bucket].fetch_add(1, Relaxed);
        self.first_byte_sum_us.fetch_add(us, Relaxed);
    }

    /// Requests by method and status code: those that occurred.
    pub fn requests(&self) -> impl Iterator<Item = (&'static str, u16, u64)> {
        self.requests.iter().zip(METHODS).flat_map(|(row, method)| {
            row.iter()
                .zip(CODE_MIN..)
                .map(move |(cell, code)| (method, code, cell.load(Relaxed)))
                .filter(|&(_, _, count)| count > 0)
        })
    }

    /// The first-byte histogram: counts per bucket (not cumulative), and the sum in microseconds.
    pub fn first_byte_histogram(&self) -> ([u64; FIRST_BYTE_BOUNDS_US.len() + 1], u64) {
        let counts = std::array::from_fn(|i| self.first_byte[i].load(Relaxed));
        (counts, self.first_byte_sum_us.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        let metrics = EdgeMetrics::default();
        metrics.request(&Method::GET, 200);
        metrics.request(&Method::GET, 200);
        metrics.request(&Method::PUT, 405);
        metrics.request(&Method::GET, 65_535);
        let seen: Vec<_> = metrics.requests().collect();
        assert_eq!(seen, [("GET", 200, 2), ("other", 405, 1)]);
        metrics.first_byte(Duration::from_micros(100));
        metrics.first_byte(Duration::from_micros(101));
        metrics.first_byte(Duration::from_secs(60));
        let (counts, sum) = metrics.first_byte_histogram();
        assert_eq!(
            (counts[0], counts[1], counts[16], sum),
            (1, 1, 1, 60_000_201)
        );
    }
}
