//! Metrics, under the names that the stock engine has, and a few of ours.

use commonware_cryptography::PublicKey;
use commonware_runtime::{
    Metrics as Registry,
    telemetry::metrics::{
        Counter, EncodeStruct, Gauge, GaugeExt as _, GaugeFamily, Histogram, MetricsExt as _,
        histogram::Buckets,
        raw,
        status::{self, Status},
    },
};
use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

/// The label of what is counted by peer. Shared, for a key may be large.
#[derive(Clone, Debug, PartialEq, Eq, EncodeStruct)]
pub(crate) struct Peer<P: PublicKey> {
    peer: Arc<P>,
}

impl<P: PublicKey> Hash for Peer<P> {
    /// By the end of the key, which is as good as random: a label is hashed several times before its
    /// peer is shown, and there may be thousands of them.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let key: &[u8] = self.peer.as_ref().as_ref();
        match key.last_chunk() {
            Some(end) => state.write_u64(u64::from_le_bytes(*end)),
            None => key.hash(state),
        }
    }
}

/// What an engine counts.
pub(crate) struct Metrics<P: PublicKey> {
    pub(crate) fetch_pending: Gauge,
    pub(crate) fetch_active: Gauge,
    pub(crate) serve_processing: Gauge,
    pub(crate) fetch: Tally,
    pub(crate) cancel: Tally,
    pub(crate) serve: Tally,
    pub(crate) serve_duration: Histogram,
    pub(crate) fetch_duration: Histogram,
    pub(crate) requests_created: Tally,
    pub(crate) requests_sent: Tally,
    pub(crate) resolves: Histogram,
    pub(crate) malformed: Counter,
    pub(crate) unsolicited: Counter,
    performance: GaugeFamily<Peer<P>>,
}

impl<P: PublicKey> Metrics<P> {
    pub(crate) fn new<E: Registry>(context: &E) -> Self {
        let fetcher = context.child("fetcher");
        Self {
            fetch_pending: context.gauge("fetch_pending", "Keys wanted and not asked for just now"),
            fetch_active: context.gauge("fetch_active", "Requests under way"),
            serve_processing: context.gauge("serve_processing", "Requests of peers being served"),
            fetch: Tally::new(
                context.family("fetch", "Answers, and requests without one, by status"),
            ),
            cancel: Tally::new(context.family("cancel", "Keys cancelled, by status")),
            serve: Tally::new(context.family("serve", "Requests of peers, by status")),
            serve_duration: context.histogram(
                "serve_duration",
                "Time from a peer's request to the producer's answer",
                Buckets::LOCAL,
            ),
            fetch_duration: context.histogram(
                "fetch_duration",
                "Time from the first want of a key to its first complete resolution",
                Buckets::NETWORK,
            ),
            malformed: context.counter("malformed", "Messages of peers that make no sense"),
            unsolicited: context.counter("unsolicited", "Answers to nothing that was asked"),
            requests_created: Tally::new(
                fetcher.family("requests_created", "Requests decided on, by status"),
            ),
            requests_sent: Tally::new(fetcher.family("requests_sent", "Requests sent, by status")),
            resolves: fetcher.histogram(
                "resolves",
                "Time from a request to its answer, of answers that were of use",
                Buckets::NETWORK,
            ),
            performance: fetcher.family(
                "peer_performance",
                "Useful bytes per second of a peer: its weight in the draw",
            ),
        }
    }

    /// Where the performance of a peer is shown.
    pub(crate) fn performance(&self, peer: &Arc<P>) -> raw::Gauge {
        let peer = peer.clone();
        self.performance.get_or_create(&Peer { peer }).clone()
    }

    /// Shows what was counted since the last time.
    pub(crate) fn flush(&mut self) {
        for tally in [
            &mut self.fetch,
            &mut self.cancel,
            &mut self.serve,
            &mut self.requests_created,
            &mut self.requests_sent,
        ] {
            tally.flush();
        }
    }

    pub(crate) fn sizes(&self, pending: usize, active: usize, serving: usize) {
        for (gauge, value) in [
            (&self.fetch_pending, pending),
            (&self.fetch_active, active),
            (&self.serve_processing, serving),
        ] {
            let _ = gauge.try_set(value);
        }
    }
}

/// Counts by status. To find a counter by its label costs more than to count, so what is counted is
/// shown from time to time: before the task waits for anything.
pub(crate) struct Tally {
    counter: status::Counter,
    /// Not shown yet; hardly ever more than two.
    counts: Vec<(Status, u64)>,
}

impl Tally {
    const fn new(counter: status::Counter) -> Self {
        Self {
            counter,
            counts: Vec::new(),
        }
    }

    pub(crate) fn inc(&mut self, status: Status) {
        self.inc_by(status, 1);
    }

    pub(crate) fn inc_by(&mut self, status: Status, n: u64) {
        match self.counts.iter_mut().find(|(known, _)| *known == status) {
            Some((_, count)) => *count += n,
            None => self.counts.push((status, n)),
        }
    }

    fn flush(&mut self) {
        for (status, count) in self.counts.drain(..) {
            self.counter.inc_by(status, count);
        }
    }
}
