//! What is counted of the cluster.

use gannet::metrics::Page;
use gannet_cluster::Ended;
use gannet_link::{LinksCounters, ServerCounters};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How asking a member ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Ok,
    NotCoordinator,
    NotHere,
    /// The origin's word on the object, or its trouble, passed on.
    Said,
    /// No connection, a broken one, or silence.
    Failed,
    /// A frame that did not fit.
    Corrupt,
    Lost,
}

const ASKED: [(Asked, &str); 7] = [
    (Asked::Ok, "ok"),
    (Asked::NotCoordinator, "not_coordinator"),
    (Asked::NotHere, "not_here"),
    (Asked::Said, "said"),
    (Asked::Failed, "failed"),
    (Asked::Corrupt, "corrupt"),
    (Asked::Lost, "lost"),
];

impl From<Ended> for Asked {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::NotCoordinator => Self::NotCoordinator,
            Ended::NotHere => Self::NotHere,
            Ended::Failed => Self::Failed,
            Ended::Lost => Self::Lost,
        }
    }
}

/// What a member that asked was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    Served,
    Referred,
    NotCoordinator,
    NotHere,
    /// What was sent was no question, or not one for us.
    Refused,
}

const ANSWERED: [(Answered, &str); 5] = [
    (Answered::Served, "served"),
    (Answered::Referred, "referred"),
    (Answered::NotCoordinator, "not_coordinator"),
    (Answered::NotHere, "not_here"),
    (Answered::Refused, "refused"),
];

/// Counts; all only grow.
#[derive(Debug, Default)]
pub(crate) struct ClusterMetrics {
    asked: [AtomicU64; ASKED.len()],
    answered: [AtomicU64; ANSWERED.len()],
    received: AtomicU64,
    sent: AtomicU64,
    looks: [AtomicU64; 2],
    /// Members seen so far, those that came back included.
    seen: AtomicU64,
}

impl ClusterMetrics {
    pub(super) fn asked(&self, how: Asked) {
        self.asked[how as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn answered(&self, how: Answered) {
        self.answered[how as usize].fetch_add(1, Relaxed);
    }

    /// Bytes came from a member, and were right.
    pub(super) fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Relaxed);
    }

    /// Bytes went to a member.
    pub(super) fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Relaxed);
    }

    pub(super) fn looked(&self, well: bool) {
        self.looks[usize::from(well)].fetch_add(1, Relaxed);
    }

    pub(super) fn next_member(&self) -> u64 {
        self.seen.fetch_add(1, Relaxed)
    }

    /// Writes what is counted here.
    pub(crate) fn write(&self, page: &mut Page) {
        let mut family = page.counter(
            "gannet_cluster_asks_total",
            "Questions to other members, by how they ended.",
        );
        for (how, name) in ASKED {
            family.sample(&[("outcome", name)], self.asked[how as usize].load(Relaxed));
        }
        let mut family = page.counter(
            "gannet_cluster_answers_total",
            "Questions of other members, by how they were answered.",
        );
        for (how, name) in ANSWERED {
            let count = self.answered[how as usize].load(Relaxed);
            family.sample(&[("answer", name)], count);
        }
        let mut family = page.counter(
            "gannet_cluster_bytes_total",
            "Bytes of chunks from and to other members.",
        );
        for (direction, count) in [("received", &self.received), ("sent", &self.sent)] {
            family.sample(&[("direction", direction)], count.load(Relaxed));
        }
        let mut family = page.counter(
            "gannet_cluster_looks_total",
            "Looks at who the members are.",
        );
        for (outcome, count) in [("failed", &self.looks[0]), ("ok", &self.looks[1])] {
            family.sample(&[("outcome", outcome)], count.load(Relaxed));
        }
    }
}

/// Writes what the internal listener and the connections to others count.
pub(super) fn write_links(page: &mut Page, server: &ServerCounters, links: &LinksCounters) {
    let mut family = page.gauge("gannet_cluster_connections", "Connections of members.");
    for (direction, count) in [("from", &server.open), ("to", &links.open)] {
        family.sample(&[("direction", direction)], count.load(Relaxed));
    }
    let mut family = page.counter(
        "gannet_cluster_refused_total",
        "Connections and requests on the internal listener that were refused, by why.",
    );
    for (why, count) in [
        ("full", &server.refused_full),
        ("foreign", &server.refused_foreign),
        ("tls", &server.refused_tls),
        ("certificate", &server.refused_certificate),
        ("protocol", &server.refused_protocol),
        ("slow", &server.refused_slow),
        ("crowded", &server.refused_crowded),
        ("unproved", &server.unproved),
        ("proof_malformed", &server.proofs_malformed),
        ("proof_wrong", &server.proofs_wrong),
        ("proof_clock", &server.proofs_clock),
        ("proof_forgotten", &server.proofs_forgotten),
        ("proof_replayed", &server.proofs_replayed),
        ("body_large", &server.bodies_large),
        ("body_slow", &server.bodies_slow),
    ] {
        family.sample(&[("why", why)], count.load(Relaxed));
    }
    let mut family = page.counter(
        "gannet_cluster_requests_total",
        "Requests between members, by direction; failed ones brought no answer.",
    );
    for (direction, count) in [
        ("from", &server.requests),
        ("to", &links.posts),
        ("to_failed", &links.failed),
    ] {
        family.sample(&[("direction", direction)], count.load(Relaxed));
    }
}
