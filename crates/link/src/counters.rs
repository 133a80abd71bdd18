//! What both ends count. Plain numbers that only grow, but for those that say how many there are now.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a server counts.
#[derive(Debug, Default)]
pub struct ServerCounters {
    /// Connections that are open now.
    pub open: AtomicU64,
    /// Connections taken on.
    pub accepted: AtomicU64,
    /// Connections refused: there were too many.
    pub refused_full: AtomicU64,
    /// Connections refused: not from loopback, and members prove nothing.
    pub refused_foreign: AtomicU64,
    /// Connections refused: no TLS, or not what we speak of it.
    pub refused_tls: AtomicU64,
    /// Connections refused: no certificate, or not a member's.
    pub refused_certificate: AtomicU64,
    /// Connections refused: they would not speak HTTP/2.
    pub refused_protocol: AtomicU64,
    /// Connections cut: no handshake, or no right request, within the time for it.
    pub refused_slow: AtomicU64,
    /// Connections cut that had not proved anything yet, for newer ones.
    pub refused_crowded: AtomicU64,
    /// Connections ended after having been idle for long.
    pub ended_idle: AtomicU64,
    /// Calls of `accept` that failed.
    pub accept_errors: AtomicU64,
    /// Requests that came.
    pub requests: AtomicU64,
    /// Requests that are being answered now.
    pub in_flight: AtomicU64,
    /// Requests refused: no proof.
    pub unproved: AtomicU64,
    /// Requests refused: what should be a proof is none.
    pub proofs_malformed: AtomicU64,
    /// Requests refused: a proof with another secret, for another request or for another body.
    pub proofs_wrong: AtomicU64,
    /// Requests refused: made too long ago, or in our future.
    pub proofs_clock: AtomicU64,
    /// Requests refused: made before our start, or before what is remembered.
    pub proofs_forgotten: AtomicU64,
    /// Requests refused: seen before.
    pub proofs_replayed: AtomicU64,
    /// Requests refused: the body is larger than allowed.
    pub bodies_large: AtomicU64,
    /// Requests refused: the body took too long, or broke off.
    pub bodies_slow: AtomicU64,
}

/// What the clients count.
#[derive(Debug, Default)]
pub struct LinksCounters {
    /// Connections that are open now.
    pub open: AtomicU64,
    /// Connections that were sought.
    pub dialled: AtomicU64,
    /// Connections that did not come about.
    pub dials_failed: AtomicU64,
    /// Requests.
    pub posts: AtomicU64,
    /// Requests sent again because they were surely not processed.
    pub resent: AtomicU64,
    /// Requests that brought an error and no response.
    pub failed: AtomicU64,
}

pub(crate) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// Counts itself while it lives. Made by whoever checked the bound.
#[derive(Debug)]
pub(crate) struct Gauge<C: AsRef<AtomicU64>>(C);

impl<C: AsRef<AtomicU64>> Gauge<C> {
    pub(crate) fn new(counter: C) -> Self {
        counter.as_ref().fetch_add(1, Relaxed);
        Self(counter)
    }
}

impl<C: AsRef<AtomicU64>> Drop for Gauge<C> {
    fn drop(&mut self) {
        self.0.as_ref().fetch_sub(1, Relaxed);
    }
}
