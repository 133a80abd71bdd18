//! What is counted of a fetcher of federation events, beside what the engine counts.
//!
//! No label holds the name of a server: anybody can make us hear of any number of them.

use crate::{
    Op,
    book::How,
    judge::{Event, Proof},
};
use gannet::{
    engine::{Health, SourceView},
    metrics::{Histogram, Page, SECONDS},
};
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

const HOWS: [How; 12] = [
    How::Answered,
    How::Salvaged,
    How::Missing,
    How::Forbidden,
    How::Busy,
    How::Failed,
    How::TimedOut,
    How::Bad,
    How::Unproven,
    How::Cut,
    How::Empty,
    How::Dropped,
];

/// How a fetch ended for a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With what was stored.
    Stored,
    /// With an answer.
    Answered,
    /// Nobody has it.
    Missing,
    /// Otherwise.
    Failed,
}

const ENDS: [(End, &str); 4] = [
    (End::Stored, "stored"),
    (End::Answered, "answered"),
    (End::Missing, "missing"),
    (End::Failed, "failed"),
];

/// What is counted.
#[derive(Debug)]
pub(crate) struct Metrics {
    attempts: [[AtomicU64; HOWS.len()]; Op::ALL.len()],
    fetches: [[AtomicU64; ENDS.len()]; Op::ALL.len()],
    seconds: Histogram,
    bytes: AtomicU64,
    /// By proof, and the bad ones.
    events: [AtomicU64; 4],
    store_faults: AtomicU64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            attempts: Default::default(),
            fetches: Default::default(),
            seconds: Histogram::new(SECONDS),
            bytes: AtomicU64::default(),
            events: Default::default(),
            store_faults: AtomicU64::default(),
        }
    }
}

impl Metrics {
    /// A request ended.
    pub(crate) fn attempt(&self, op: Op, how: How) {
        self.attempts[op as usize][how as usize].fetch_add(1, Relaxed);
    }

    /// A caller has its outcome.
    pub(crate) fn fetch(&self, op: Op, end: End, took: Duration) {
        self.fetches[op as usize][end as usize].fetch_add(1, Relaxed);
        self.seconds.observe(took.as_secs_f64());
    }

    /// Bytes of an answer have come.
    pub(crate) fn bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// An answer was taken.
    pub(crate) fn events(&self, events: &[Event], bad: usize) {
        let mut counts = [0, 0, 0, bad as u64];
        for event in events {
            counts[event.proof as usize] += 1;
        }
        for (all, count) in self.events.iter().zip(counts) {
            all.fetch_add(count, Relaxed);
        }
    }

    /// The store failed to answer, or to take an event.
    pub(crate) fn store_fault(&self) {
        self.store_faults.fetch_add(1, Relaxed);
    }

    /// Writes what is counted here.
    pub(crate) fn write(&self, page: &mut Page) {
        let mut attempts = page.counter(
            "gannet_matrix_attempts_total",
            "Requests to servers, by how they ended.",
        );
        for (op, counts) in Op::ALL.into_iter().zip(&self.attempts) {
            for (how, count) in HOWS.into_iter().zip(counts) {
                let count = count.load(Relaxed);
                if count > 0 || how == How::Answered {
                    attempts.sample(&[("op", op.name()), ("how", how.name())], count);
                }
            }
        }
        let mut fetches = page.counter("gannet_matrix_fetches_total", "Outcomes given to callers.");
        for (op, counts) in Op::ALL.into_iter().zip(&self.fetches) {
            for ((_, end), count) in ENDS.into_iter().zip(counts) {
                fetches.sample(&[("op", op.name()), ("end", end)], count.load(Relaxed));
            }
        }
        page.histogram(
            "gannet_matrix_fetch_seconds",
            "From a caller's want to its outcome.",
        )
        .samples(&[], &self.seconds);
        let mut events = page.counter(
            "gannet_matrix_events_total",
            "Events in answers that were taken, by what was proved of them.",
        );
        let proofs = [Proof::Form, Proof::Redacted, Proof::Whole].map(Proof::name);
        for (proof, count) in proofs.into_iter().chain(["bad"]).zip(&self.events) {
            events.sample(&[("proof", proof)], count.load(Relaxed));
        }
        for (name, help, count) in [
            (
                "gannet_matrix_bytes_total",
                "Bytes of answers, those included that were not taken.",
                &self.bytes,
            ),
            (
                "gannet_matrix_store_faults_total",
                "Times that the store failed to answer, or to take an event.",
                &self.store_faults,
            ),
        ] {
            page.counter(name, help).sample(&[], count.load(Relaxed));
        }
    }
}

/// Writes how many servers are in which state.
pub(crate) fn write_servers(page: &mut Page, servers: &[SourceView]) {
    let mut family = page.gauge("gannet_matrix_servers", "Servers that are known, by state.");
    for (state, name) in [
        (Health::Healthy, "healthy"),
        (Health::Degraded, "degraded"),
        (Health::Dead, "dead"),
        (Health::Throttled, "throttled"),
        (Health::Disconnected, "forgotten"),
    ] {
        let count = servers.iter().filter(|server| server.health == state);
        family.sample(&[("state", name)], count.count() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_where_their_numbers_say() {
        for (n, op) in Op::ALL.into_iter().enumerate() {
            assert_eq!(op as usize, n);
        }
        for (n, how) in HOWS.into_iter().enumerate() {
            assert_eq!(how as usize, n);
        }
        for (n, (end, _)) in ENDS.into_iter().enumerate() {
            assert_eq!(end as usize, n);
        }
        for (n, proof) in [Proof::Form, Proof::Redacted, Proof::Whole]
            .into_iter()
            .enumerate()
        {
            assert_eq!(proof as usize, n);
        }
    }

    #[test]
    fn counts_where_it_should() {
        let metrics = Metrics::default();
        metrics.attempt(Op::Backfill, How::Busy);
        metrics.fetch(Op::Event, End::Missing, Duration::from_millis(3));
        metrics.bytes(7);
        metrics.events(&[], 2);
        metrics.store_fault();
        let mut page = Page::new();
        metrics.write(&mut page);
        write_servers(&mut page, &[]);
        let text = page.into_text();
        for line in [
            "gannet_matrix_attempts_total{op=\"backfill\",how=\"busy\"} 1\n",
            "gannet_matrix_attempts_total{op=\"event\",how=\"answered\"} 0\n",
            "gannet_matrix_fetches_total{op=\"event\",end=\"missing\"} 1\n",
            "gannet_matrix_fetch_seconds_count 1\n",
            "gannet_matrix_bytes_total 7\n",
            "gannet_matrix_events_total{proof=\"bad\"} 2\n",
            "gannet_matrix_store_faults_total 1\n",
            "gannet_matrix_servers{state=\"healthy\"} 0\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
