//! Traces, for those who ask for them: what a request waited for, at this member and at others, as
//! spans for an OpenTelemetry collector.
//!
//! ```text
//!   GET /{bucket}/{key}           a client's request, at member A
//!     fetch                       each chunk, or the metadata, that it needed
//!       attempt                   each attempt of the engine at a source
//!         ask                     each member that was asked            ---+
//!           serve                 what that one did about it, at member B  |  one trace
//!             fetch, attempt                                               |
//!               GET               the request to the origin             ---+
//!       commit                    what was fetched goes into the stores
//! ```
//!
//! Made here, and not of the log's spans: those are strings for people, are made for every request
//! whether or not anybody looks, and end with a function, not with the bytes of an answer. Off, a
//! request pays for the look at an `Option`. Nothing here ever waits: what does not fit into the queue
//! to the collector is dropped and counted.

mod attempt;
mod context;
mod encode;
mod export;
mod span;

pub(crate) use attempt::opened;
pub(crate) use context::Remote;
pub(crate) use export::Exporter;
pub use export::{TraceConfig, TraceConfigError};
pub use span::Parent;
pub(crate) use span::{Kind, Span};

use crate::edge::ids::mix;
use export::Counts;
use gannet::metrics::Page;
use span::Record;
use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};
use tokio::sync::mpsc;

/// Traces a second that clients may wish for, beyond those that are sampled: anybody can say that his
/// request is sampled.
const WISHES_PER_SECOND: f64 = 100.0;

/// Decides which requests are traced. Cheap to clone; by default, none are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tracer(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    queue: mpsc::Sender<Record>,
    counts: Arc<Counts>,
    /// A trace is taken if its number is below this.
    below: u64,
    seeds: [u64; 3],
    next: AtomicU64,
    wishes: Mutex<Wishes>,
}

/// A bucket of tokens for the traces that clients wish for.
#[derive(Debug)]
struct Wishes {
    left: f64,
    at: Instant,
}

impl Tracer {
    fn new(sample: f64, queue: mpsc::Sender<Record>, counts: Arc<Counts>) -> Self {
        Self(Some(Arc::new(Inner {
            queue,
            counts,
            // Saturates at both ends.
            below: (sample * u64::MAX as f64) as u64,
            // As good as std's entropy: they need to be different, not secret.
            seeds: std::array::from_fn(|n| RandomState::new().hash_one(n)),
            next: AtomicU64::new(0),
            wishes: Mutex::new(Wishes {
                left: WISHES_PER_SECOND,
                at: Instant::now(),
            }),
        })))
    }

    pub(crate) const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The span of a client's request, with the `traceparent` that it came with. Where the client says
    /// whether it is sampled, that holds, but for wishes that are too many.
    pub(crate) fn request(&self, traceparent: Option<&[u8]>) -> Span {
        let Some(inner) = &self.0 else {
            return Span::default();
        };
        let n = inner.next.fetch_add(1, Relaxed);
        let [low, high, _] = inner.seeds;
        let (low, high) = (mix(low.wrapping_add(n)), mix(high.wrapping_add(n)));
        let drawn = low < inner.below || inner.below == u64::MAX;
        let remote = traceparent.and_then(Remote::parse);
        let of = match remote {
            // Ids that a client has chosen decide nothing: it would choose what is taken.
            Some(remote) if !remote.sampled || !(drawn || inner.grants()) => {
                return Span::default();
            }
            Some(remote) => (remote.trace, Some(remote.span)),
            None if drawn => ((u128::from(high) << 64 | u128::from(low)).max(1), None),
            None => return Span::default(),
        };
        Span::first(inner, Kind::Server, "request", of)
    }

    /// The span of what another member asks for, where that member traces it.
    pub(crate) fn serve(&self, traceparent: Option<&str>) -> Span {
        let remote = traceparent.and_then(|text| Remote::parse(text.as_bytes()));
        match (&self.0, remote) {
            (Some(inner), Some(remote)) if remote.sampled => {
                let of = (remote.trace, Some(remote.span));
                Span::first(inner, Kind::Server, "serve", of)
            }
            _ => Span::default(),
        }
    }

    /// Writes what became of the spans.
    pub(crate) fn write(&self, page: &mut Page) {
        match &self.0 {
            Some(inner) => inner.counts.write(page),
            None => Counts::default().write(page),
        }
    }
}

impl Inner {
    fn span_id(&self) -> u64 {
        let n = self.next.fetch_add(1, Relaxed);
        mix(self.seeds[2].wrapping_add(n)).max(1)
    }

    /// Whether a client's wish for a trace is granted.
    fn grants(&self) -> bool {
        let mut wishes = self.wishes.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let gained = now.duration_since(wishes.at).as_secs_f64() * WISHES_PER_SECOND;
        wishes.left = (wishes.left + gained).min(WISHES_PER_SECOND);
        wishes.at = now;
        let granted = wishes.left >= 1.0;
        if granted {
            wishes.left -= 1.0;
        } else {
            self.counts.refused.fetch_add(1, Relaxed);
        }
        granted
    }

    fn send(&self, record: Record) {
        if self.queue.try_send(record).is_err() {
            self.counts.dropped_queue.fetch_add(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
