//! How many requests an origin bears at once: additive increase, multiplicative decrease.
//!
//! An answer that asks us to slow down (429, 503) halves the limit, at most once per round trip of
//! answers (answers to requests sent before the cut say nothing new); every full window of good
//! answers at the limit raises it by one, up to the configured cap. The rule of TCP Reno's congestion
//! avoidance (RFC 5681), counted in requests. Whoever holds the other end of the channel applies it.

use crate::metrics::OriginOutcome;
use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU32, Ordering::Relaxed},
};
use tokio::sync::mpsc;

/// An origin's new limit: which origin, and how many requests at once.
pub(crate) type NewLimit = (usize, u32);

/// Watches the answers of one origin, and says when its limit is to change.
#[derive(Debug)]
pub(crate) struct Throttle {
    origin: usize,
    aimd: Mutex<Aimd>,
    under_way: AtomicU32,
    changes: mpsc::UnboundedSender<NewLimit>,
}

impl Throttle {
    pub(crate) fn new(origin: usize, cap: u32, changes: mpsc::UnboundedSender<NewLimit>) -> Self {
        Self {
            origin,
            aimd: Mutex::new(Aimd::new(cap)),
            under_way: AtomicU32::new(0),
            changes,
        }
    }

    /// A request was sent.
    pub(crate) fn begin(&self) {
        self.under_way.fetch_add(1, Relaxed);
    }

    /// It has ended.
    pub(crate) fn end(&self, outcome: OriginOutcome) {
        let under_way = self.under_way.fetch_sub(1, Relaxed);
        let mut aimd = self.aimd.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = match outcome {
            OriginOutcome::Throttled => aimd.throttled(under_way),
            OriginOutcome::Aborted => None, // It says nothing.
            _ => aimd.answered(),
        };
        if let Some(limit) = changed {
            tracing::info!(origin = self.origin, limit, "requests at once");
            // Nobody listens only while the cache shuts down.
            let _ = self.changes.send((self.origin, limit));
        }
    }

    /// The origin is shared with more members than before, or with fewer.
    pub(crate) fn set_cap(&self, cap: u32) {
        let mut aimd = self.aimd.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(limit) = aimd.set_cap(cap) {
            tracing::info!(origin = self.origin, limit, cap, "requests at once");
            let _ = self.changes.send((self.origin, limit));
        }
    }

    /// Requests under way, and how many may be.
    pub(crate) fn load(&self) -> (u32, u32) {
        let limit = self
            .aimd
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .limit();
        (self.under_way.load(Relaxed), limit)
    }
}

/// The adaptive limit of one origin.
#[derive(Debug)]
struct Aimd {
    limit: u32,
    cap: u32,
    /// Good answers since the last change.
    good: u32,
    /// Answers to wait for before another cut counts.
    deaf: u32,
}

impl Aimd {
    /// Starts at the cap.
    fn new(cap: u32) -> Self {
        let cap = cap.max(1);
        Self {
            limit: cap,
            cap,
            good: 0,
            deaf: 0,
        }
    }

    /// Requests that may be under way at once.
    fn limit(&self) -> u32 {
        self.limit
    }

    /// Sets the cap; a limit that stood at the old one follows it. Returns the new limit if that
    /// changes it.
    fn set_cap(&mut self, cap: u32) -> Option<u32> {
        let cap = cap.max(1);
        let at_cap = self.limit == self.cap;
        self.cap = cap;
        let limit = if at_cap { cap } else { self.limit.min(cap) };
        (std::mem::replace(&mut self.limit, limit) != limit).then_some(limit)
    }

    /// A request was answered well, or with an error that says nothing of load. Returns the new limit
    /// if that changes it.
    fn answered(&mut self) -> Option<u32> {
        self.deaf = self.deaf.saturating_sub(1);
        if self.limit == self.cap {
            return None;
        }
        self.good += 1;
        if self.good < self.limit {
            return None;
        }
        self.good = 0;
        self.limit += 1;
        Some(self.limit)
    }

    /// The origin asked us to slow down, while so many requests were under way. Returns the new limit
    /// if that changes it.
    fn throttled(&mut self, under_way: u32) -> Option<u32> {
        if self.deaf > 0 {
            self.deaf -= 1;
            return None;
        }
        // What was under way is what it could not bear, not a cap that we never reached.
        let halved = (self.limit.min(under_way.max(1)) / 2).max(1);
        self.good = 0;
        self.deaf = under_way.saturating_sub(1);
        if halved == self.limit {
            return None;
        }
        self.limit = halved;
        Some(halved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_refusals_cuts_once() {
        let mut aimd = Aimd::new(192);
        assert_eq!(aimd.throttled(100), Some(50));
        for _ in 0..99 {
            assert_eq!(aimd.throttled(50), None, "sent before the cut");
        }
        assert_eq!(aimd.throttled(50), Some(25));
    }

    #[test]
    fn recovers_one_window_at_a_time_up_to_the_cap() {
        let mut aimd = Aimd::new(4);
        assert_eq!(aimd.throttled(4), Some(2));
        let mut seen = Vec::new();
        for _ in 0..100 {
            seen.extend(aimd.answered());
        }
        assert_eq!(seen, [3, 4]);
        assert_eq!(aimd.limit(), 4);
    }

    #[test]
    fn follows_its_cap_unless_the_origin_asked_for_less() {
        let mut aimd = Aimd::new(192);
        assert_eq!(aimd.set_cap(64), Some(64), "three members");
        assert_eq!(aimd.set_cap(64), None);
        assert_eq!(aimd.set_cap(96), Some(96), "one has left");
        assert_eq!(aimd.throttled(96), Some(48));
        assert_eq!(aimd.set_cap(192), None, "the origin's word stands");
        assert_eq!(aimd.set_cap(32), Some(32));
        assert_eq!(aimd.set_cap(0), Some(1));
    }

    #[test]
    fn never_below_one() {
        let mut aimd = Aimd::new(0);
        for _ in 0..10 {
            aimd.throttled(0);
        }
        assert_eq!(aimd.limit(), 1);
    }
}
