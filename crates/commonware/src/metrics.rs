//! Metrics, under the names that the stock engine has, and a few of ours.

use commonware_cryptography::PublicKey;
use commonware_runtime::{
    Metrics as Registry,
    telemetry::metrics::{
        Counter, EncodeStruct, Gauge, GaugeExt as _, GaugeFamily, Histogram, MetricsExt as _,
        histogram::Buckets, status,
    },
};

/// The label of what is counted by peer.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeStruct)]
pub(crate) struct Peer<P: PublicKey> {
    peer: P,
}

/// What an engine counts.
pub(crate) struct Metrics<P: PublicKey> {
    pub(crate) fetch_pending: Gauge,
    pub(crate) fetch_active: Gauge,
    pub(crate) serve_processing: Gauge,
    pub(crate) fetch: status::Counter,
    pub(crate) cancel: status::Counter,
    pub(crate) serve: status::Counter,
    pub(crate) serve_duration: Histogram,
    pub(crate) fetch_duration: Histogram,
    pub(crate) requests_created: status::Counter,
    pub(crate) requests_sent: status::Counter,
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
            fetch: context.family("fetch", "Answers, and requests without one, by status"),
            cancel: context.family("cancel", "Keys cancelled, by status"),
            serve: context.family("serve", "Requests of peers, by status"),
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
            requests_created: fetcher.family("requests_created", "Requests decided on, by status"),
            requests_sent: fetcher.family("requests_sent", "Requests sent, by status"),
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

    pub(crate) fn performance(&self, peer: &P, weight: u64) {
        // A gauge holds less than a weight may be; what does not fit is not shown.
        let _ = self.performance.get_or_create_by(peer).try_set(weight);
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
