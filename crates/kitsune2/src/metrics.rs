//! What a fetch module counts, and how a host gets to see it.

use crate::shared::Shared;
use kitsune2_api::SpaceId;
use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    sync::{Arc, Mutex, PoisonError, Weak},
};

macro_rules! stats {
    ($($(#[doc = $doc:literal])+ $kind:ident $name:ident,)*) => {
        /// What is outstanding in one space, and what has been counted since it began.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct FetchStats {
            $($(#[doc = $doc])+ pub $name: u64,)*
        }

        /// Name, type and description of each, for Prometheus.
        type Row = (&'static str, &'static str, &'static str, fn(&FetchStats) -> u64);
        const ROWS: &[Row] = &[
            $((stringify!($name), stringify!($kind), concat!($($doc),+), |stats| stats.$name),)*
        ];
    };
}

stats! {
    /// Pairs of an op and a peer that are pending.
    gauge pending,
    /// Ops that are pending.
    gauge pending_ops,
    /// Peers of which something is wanted.
    gauge peers,
    /// Ops asked for and not answered yet.
    gauge in_flight,
    /// Ops that wait for the op store.
    gauge storing,
    /// Bytes of responses that are held, most of them for the op store.
    gauge held_bytes,
    /// Bytes of requests of peers that wait to be served.
    gauge serving_bytes,
    /// Requests sent.
    counter requests_sent,
    /// Ops asked for in them.
    counter ops_asked,
    /// Requests that could not be sent, or were not, for their peer is unresponsive.
    counter sends_failed,
    /// Ops asked for in vain.
    counter unanswered,
    /// Ops that came after they counted as not answered.
    counter late,
    /// Ops that came again while they were being stored, or twice in one response.
    counter repeated,
    /// Pairs that were dropped because the peer never answered.
    counter given_up,
    /// Ops stored.
    counter ops_stored,
    /// Bytes stored.
    counter bytes_stored,
    /// Ops that the op store did not take.
    counter refused,
    /// Ops in calls to the op store that failed.
    counter store_failures,
    /// Ops taken that were not asked of the peer that sent them.
    counter unsolicited,
    /// Such ops refused, by configuration.
    counter unsolicited_refused,
    /// Such ops dropped for want of room.
    counter unsolicited_dropped,
    /// Responses dropped for want of room; what is wanted of them is asked for again.
    counter responses_dropped,
    /// Messages that could not be decoded.
    counter malformed,
    /// Requests of peers taken.
    counter requests_received,
    /// Requests of peers dropped for want of room; it is for the peer to ask again.
    counter requests_dropped,
    /// Responses sent.
    counter responses_sent,
    /// Responses that could not be sent.
    counter responses_failed,
    /// Ops sent.
    counter ops_served,
    /// Bytes of ops sent.
    counter bytes_served,
    /// Ops that peers asked for and that we do not hold.
    counter not_held,
}

/// Sees every fetch module that its factory makes.
///
/// ```
/// use gannet_kitsune2::{GannetFetchFactory, Monitor};
///
/// let monitor = Monitor::default();
/// let fetch = GannetFetchFactory::monitored(&monitor);
/// // Builder { fetch, ..default_builder() }, and then, when Prometheus asks:
/// let text = monitor.prometheus();
/// # drop((fetch, text));
/// ```
#[derive(Clone, Default)]
pub struct Monitor(Arc<Mutex<Vec<Module>>>);

/// A space, and its module for as long as it lives.
type Module = (SpaceId, Weak<Shared>);

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Monitor").field(&self.stats()).finish()
    }
}

impl Monitor {
    pub(crate) fn add(&self, space: SpaceId, shared: &Arc<Shared>) {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|(_, shared)| shared.strong_count() > 0);
        list.push((space, Arc::downgrade(shared)));
    }

    /// The stats of every space that is alive.
    pub fn stats(&self) -> Vec<(SpaceId, FetchStats)> {
        let list = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        list.into_iter()
            .filter_map(|(space, shared)| Some((space, shared.upgrade()?.stats())))
            .collect()
    }

    /// All of it as Prometheus reads it. Modules of one space (two nodes in a process) are added up.
    pub fn prometheus(&self) -> String {
        let mut spaces: BTreeMap<String, Vec<FetchStats>> = BTreeMap::new();
        for (space, stats) in self.stats() {
            // How an id is written is the host's to say.
            let space = space.to_string().replace('\\', r"\\").replace('"', "\\\"");
            spaces
                .entry(space.replace('\n', r"\n"))
                .or_default()
                .push(stats);
        }
        let mut text = String::new();
        for (name, kind, help, value) in ROWS {
            let total = if *kind == "counter" { "_total" } else { "" };
            let name = format!("gannet_kitsune2_{name}{total}");
            let _ = writeln!(text, "# HELP {name}{help}\n# TYPE {name} {kind}");
            for (space, stats) in &spaces {
                let sum: u64 = stats.iter().map(value).sum();
                let _ = writeln!(text, "{name}{{space=\"{space}\"}} {sum}");
            }
        }
        text
    }
}
