//! What the cache counts, and the page that Prometheus reads.
//!
//! Plain atomics, raised where things happen, and one function that writes the page. Labels are
//! taken from fixed sets, never from what clients send, so that no client can grow the page. Every
//! name is described in `docs/METRICS.md`.

use crate::origin::OriginError;
use gannet::metrics::Page;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Where a chunk is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tier {
    Memory,
    Disk,
    Shared,
}

impl Tier {
    pub(crate) const ALL: [Self; 3] = [Self::Memory, Self::Disk, Self::Shared];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Shared => "shared",
        }
    }
}

/// What an origin was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OriginOp {
    Head,
    Read,
    List,
    Buckets,
    Bucket,
}

const OPS: [(OriginOp, &str); 5] = [
    (OriginOp::Head, "head"),
    (OriginOp::Read, "read"),
    (OriginOp::List, "list"),
    (OriginOp::Buckets, "buckets"),
    (OriginOp::Bucket, "bucket"),
];

/// How an origin answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OriginOutcome {
    Ok,
    Missing,
    Changed,
    Denied,
    Unsupported,
    Throttled,
    Failed,
    Unreachable,
    Truncated,
    Malformed,
    /// We ended the request: another was faster, or nobody wanted it any more.
    Aborted,
    /// Our own side failed.
    Local,
}

const OUTCOMES: [(OriginOutcome, &str); 12] = [
    (OriginOutcome::Ok, "ok"),
    (OriginOutcome::Missing, "missing"),
    (OriginOutcome::Changed, "changed"),
    (OriginOutcome::Denied, "denied"),
    (OriginOutcome::Unsupported, "unsupported"),
    (OriginOutcome::Throttled, "throttled"),
    (OriginOutcome::Failed, "failed"),
    (OriginOutcome::Unreachable, "unreachable"),
    (OriginOutcome::Truncated, "truncated"),
    (OriginOutcome::Malformed, "malformed"),
    (OriginOutcome::Aborted, "aborted"),
    (OriginOutcome::Local, "local"),
];

impl OriginOutcome {
    /// How this error ended a request.
    pub(crate) fn of(error: &OriginError) -> Self {
        match error {
            OriginError::NoSuchKey | OriginError::NoSuchBucket => Self::Missing,
            OriginError::Denied(_) => Self::Denied,
            OriginError::Changed => Self::Changed,
            OriginError::MissingEtag | OriginError::Unsupported(_) | OriginError::Invalid(_) => {
                Self::Unsupported
            }
            OriginError::Throttled { .. } => Self::Throttled,
            OriginError::Server(_) => Self::Failed,
            OriginError::Connect(_) => Self::Unreachable,
            OriginError::Truncated(_) => Self::Truncated,
            OriginError::Malformed(_) => Self::Malformed,
            OriginError::Local(_) => Self::Local,
        }
    }
}

/// Which cache of answers was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AnswerCache {
    Head,
    List,
}

/// What the read path counts. All of it only grows.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    origin_requests: [[AtomicU64; OUTCOMES.len()]; OPS.len()],
    origin_bytes: AtomicU64,
    hits: [AtomicU64; 3],
    misses: AtomicU64,
    errors: [AtomicU64; 3],
    answers: [[AtomicU64; 2]; 2],
    changed: AtomicU64,
    read_ahead: AtomicU64,
    queue_timeouts: AtomicU64,
}

impl Metrics {
    pub(crate) fn origin_request(&self, op: OriginOp, outcome: OriginOutcome) {
        self.origin_requests[op as usize][outcome as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn origin_bytes(&self, bytes: u64) {
        self.origin_bytes.fetch_add(bytes, Relaxed);
    }

    /// A chunk was found in a tier.
    pub(crate) fn hit(&self, tier: Tier) {
        self.hits[tier as usize].fetch_add(1, Relaxed);
    }

    /// A chunk was found in no tier of this node.
    pub(crate) fn miss(&self) {
        self.misses.fetch_add(1, Relaxed);
    }

    /// A store failed to answer or to commit.
    pub(crate) fn store_error(&self, tier: Tier) {
        self.errors[tier as usize].fetch_add(1, Relaxed);
    }

    /// An answer of the origin was at hand, or not.
    pub(crate) fn answer(&self, cache: AnswerCache, hit: bool) {
        self.answers[cache as usize][usize::from(hit)].fetch_add(1, Relaxed);
    }

    /// A read found another version at the origin than it was promised.
    pub(crate) fn changed(&self) {
        self.changed.fetch_add(1, Relaxed);
    }

    /// A chunk is fetched before it was asked for.
    pub(crate) fn read_ahead(&self) {
        self.read_ahead.fetch_add(1, Relaxed);
    }

    /// A request waited too long for its turn at the origin.
    pub(crate) fn queue_timeout(&self) {
        self.queue_timeouts.fetch_add(1, Relaxed);
    }

    /// Writes what is counted here.
    pub(crate) fn write(&self, page: &mut Page) {
        let mut requests = page.counter("gannet_origin_requests_total", "Requests to origins.");
        for (op, op_name) in OPS {
            for (outcome, outcome_name) in OUTCOMES {
                let count = self.origin_requests[op as usize][outcome as usize].load(Relaxed);
                if count > 0 || outcome == OriginOutcome::Ok {
                    requests.sample(&[("op", op_name), ("outcome", outcome_name)], count);
                }
            }
        }
        let mut answers = page.counter("gannet_answers_total", "Cached answers of the origin.");
        for (cache, name) in [(AnswerCache::Head, "head"), (AnswerCache::List, "list")] {
            for (hit, found) in [(true, "hit"), (false, "miss")] {
                let count = self.answers[cache as usize][usize::from(hit)].load(Relaxed);
                answers.sample(&[("cache", name), ("found", found)], count);
            }
        }
        for (name, help, counts) in [
            (
                "gannet_store_hits_total",
                "Chunks found, by tier.",
                &self.hits,
            ),
            (
                "gannet_store_errors_total",
                "Stores that failed to answer or commit.",
                &self.errors,
            ),
        ] {
            let mut family = page.counter(name, help);
            for tier in Tier::ALL {
                family.sample(
                    &[("tier", tier.name())],
                    counts[tier as usize].load(Relaxed),
                );
            }
        }
        for (name, help, count) in [
            (
                "gannet_origin_bytes_total",
                "Bytes of objects from origins.",
                &self.origin_bytes,
            ),
            (
                "gannet_origin_queue_timeouts_total",
                "Requests that waited too long for their turn at the origin.",
                &self.queue_timeouts,
            ),
            (
                "gannet_store_misses_total",
                "Chunks found neither in memory nor on disk.",
                &self.misses,
            ),
            (
                "gannet_read_changed_total",
                "Reads that met another version.",
                &self.changed,
            ),
            (
                "gannet_read_ahead_total",
                "Chunks fetched before being asked for.",
                &self.read_ahead,
            ),
        ] {
            page.counter(name, help).sample(&[], count.load(Relaxed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_where_their_numbers_say() {
        for (n, (op, _)) in OPS.into_iter().enumerate() {
            assert_eq!(op as usize, n);
        }
        for (n, (outcome, _)) in OUTCOMES.into_iter().enumerate() {
            assert_eq!(outcome as usize, n);
        }
        for (n, tier) in Tier::ALL.into_iter().enumerate() {
            assert_eq!(tier as usize, n);
        }
    }

    #[test]
    fn counts_where_it_should() {
        let metrics = Metrics::default();
        metrics.origin_request(OriginOp::Read, OriginOutcome::of(&OriginError::Changed));
        metrics.origin_bytes(7);
        metrics.hit(Tier::Disk);
        metrics.miss();
        let mut page = Page::new();
        metrics.write(&mut page);
        let text = page.into_text();
        for line in [
            "gannet_origin_requests_total{op=\"read\",outcome=\"changed\"} 1\n",
            "gannet_origin_requests_total{op=\"head\",outcome=\"ok\"} 0\n",
            "gannet_origin_bytes_total 7\n",
            "gannet_store_hits_total{tier=\"disk\"} 1\n",
            "gannet_store_hits_total{tier=\"memory\"} 0\n",
            "gannet_store_misses_total 1\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
