//! Serving peers: their requests in order, a turn for each, and answers of bounded size.

use crate::{
    actor::send, config::GannetFetchConfig, guard::guarded, metrics::FetchStats, shared::Shared,
};
use bytes::Bytes;
use kitsune2_api::{
    DynOpStore, MetaOp, OpId, SpaceId, Url, WeakDynTransport, serialize_response_message,
};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::{sync::Notify, task::JoinSet};

/// Ops read from the store at a time, while nothing is known of their sizes.
const FIRST_READ: usize = 64;
/// The most ops read at a time.
const READ_MAX: usize = 1_024;
/// Bytes of ops that one read is expected to bring.
const READ_BYTES: u64 = 4 << 20;
/// What a request costs beside its bytes.
const REQUEST_OVERHEAD: usize = 64;
/// What an id costs beside its bytes.
const ID_OVERHEAD: usize = 32;

/// Requests of peers that wait to be served.
#[derive(Debug)]
pub(crate) struct Serving {
    lines: Mutex<Lines>,
    wake: Notify,
    bytes_max: usize,
    response_bytes_max: usize,
    concurrency: usize,
    /// A moving average of the sizes of ops; zero: none was seen.
    op_size: AtomicU64,
    received: AtomicU64,
    dropped: AtomicU64,
    sent: AtomicU64,
    failed: AtomicU64,
    ops: AtomicU64,
    bytes: AtomicU64,
    not_held: AtomicU64,
}

#[derive(Debug, Default)]
struct Lines {
    by_peer: HashMap<Url, Line>,
    /// Peers that wait for their turn.
    turns: VecDeque<Url>,
    bytes: usize,
}

/// The requests of one peer.
#[derive(Debug, Default)]
struct Line {
    requests: VecDeque<(VecDeque<Bytes>, usize)>,
    bytes: usize,
}

impl Serving {
    pub(crate) fn new(config: &GannetFetchConfig) -> Self {
        Self {
            lines: Mutex::default(),
            wake: Notify::new(),
            bytes_max: config.max_incoming_request_bytes as usize,
            response_bytes_max: config.max_response_bytes as usize,
            concurrency: config.serve_concurrency.into(),
            op_size: AtomicU64::new(0),
            received: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            ops: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            not_held: AtomicU64::new(0),
        }
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request for so many ids may be decoded at all. An id may take two bytes in it, and
    /// many times that here.
    pub(crate) fn may_have(&self, ids: usize) -> bool {
        let fits = ids <= 1 || ids.saturating_mul(ID_OVERHEAD) <= self.bytes_max / 4;
        if !fits {
            self.dropped.fetch_add(1, Relaxed);
        }
        fits
    }

    /// Takes a request whose message has so many bytes. Whether there was room for it.
    pub(crate) fn request(&self, url: &Url, mut ids: Vec<Bytes>, message: usize) -> bool {
        // Asked for twice is sent once, or a short request could draw a long answer.
        let mut seen = HashSet::with_capacity(ids.len());
        ids.retain(|id| seen.insert(id.clone()));
        if ids.is_empty() {
            return true;
        }
        // The ids share the buffer of the message.
        let cost = message + REQUEST_OVERHEAD + ids.len() * ID_OVERHEAD;
        let lines = &mut *self.lines();
        let own = lines.by_peer.get(url).map_or(0, |line| line.bytes);
        // A message larger than a bound is let in where nothing else waits.
        let full = |held: usize, most: usize| held > 0 && held + cost > most;
        if full(own, self.bytes_max / 4) || full(lines.bytes, self.bytes_max) {
            self.dropped.fetch_add(1, Relaxed);
            return false;
        }
        self.received.fetch_add(1, Relaxed);
        lines.bytes += cost;
        let line = lines.by_peer.entry(url.clone()).or_insert_with(|| {
            lines.turns.push_back(url.clone());
            Line::default()
        });
        line.bytes += cost;
        line.requests.push_back((ids.into(), cost));
        self.wake.notify_one();
        true
    }

    /// The next peer's turn, and ids that it asks for. To be followed by [`Serving::done`].
    fn next(&self) -> Option<(Url, Vec<Bytes>)> {
        let most = match self.op_size.load(Relaxed) {
            0 => FIRST_READ,
            size => usize::try_from(READ_BYTES / size)
                .unwrap_or(READ_MAX)
                .clamp(1, READ_MAX),
        };
        let lines = &mut *self.lines();
        let url = lines.turns.pop_front()?;
        let line = lines.by_peer.get_mut(&url)?;
        let mut ids = Vec::new();
        while let Some((request, cost)) = line.requests.front_mut() {
            let left = most - ids.len();
            ids.extend(request.drain(..left.min(request.len())));
            if !request.is_empty() {
                break;
            }
            line.bytes -= *cost;
            lines.bytes -= *cost;
            line.requests.pop_front();
        }
        Some((url, ids))
    }

    /// The peer's turn is over: what it still asks for waits for the next.
    fn done(&self, url: Url) {
        let lines = &mut *self.lines();
        if lines
            .by_peer
            .get(&url)
            .is_some_and(|line| line.requests.is_empty())
        {
            lines.by_peer.remove(&url);
        } else {
            lines.turns.push_back(url);
        }
    }

    pub(crate) fn add_to(&self, stats: &mut FetchStats) {
        stats.serving_bytes = self.lines().bytes as u64;
        stats.requests_received = self.received.load(Relaxed);
        stats.requests_dropped = self.dropped.load(Relaxed);
        stats.responses_sent = self.sent.load(Relaxed);
        stats.responses_failed = self.failed.load(Relaxed);
        stats.ops_served = self.ops.load(Relaxed);
        stats.bytes_served = self.bytes.load(Relaxed);
        stats.not_held = self.not_held.load(Relaxed);
    }
}

/// A peer's turn, which ends however serving it does.
struct Turn<'a> {
    serving: &'a Serving,
    url: &'a Url,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.serving.done(self.url.clone());
        self.serving.wake.notify_one();
    }
}

/// What serving needs of its node.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) shared: Arc<Shared>,
    pub(crate) op_store: DynOpStore,
    pub(crate) transport: WeakDynTransport,
    pub(crate) space_id: SpaceId,
}

impl Server {
    /// Serves until it is dropped.
    pub(crate) async fn run(self) {
        let serving = &self.shared.serving;
        let mut turns = JoinSet::new();
        loop {
            while turns.len() < serving.concurrency
                && let Some((url, ids)) = serving.next()
            {
                turns.spawn(self.clone().turn(url, ids));
            }
            // In this order, so that the same happens on every run of a simulation.
            tokio::select! {
                biased;
                Some(_) = turns.join_next() => {}
                () = serving.wake.notified() => {}
            }
        }
    }

    async fn turn(self, url: Url, ids: Vec<Bytes>) {
        let turn = Turn {
            serving: &self.shared.serving,
            url: &url,
        };
        self.serve(&url, ids).await;
        drop(turn);
    }

    async fn serve(&self, url: &Url, ids: Vec<Bytes>) {
        let serving = &self.shared.serving;
        // Requests that say the same share an answer.
        let mut seen = HashSet::new();
        let ids: Vec<OpId> = ids
            .into_iter()
            .filter(|id| seen.insert(id.clone()))
            .map(OpId::from)
            .collect();
        let asked = ids.len();
        let store = &self.op_store;
        let ops = match guarded(async || store.retrieve_ops(ids).await).await {
            Ok(ops) => ops,
            Err(err) => {
                tracing::error!(%url, asked, "could not read ops from the store: {err}");
                return;
            }
        };
        let missing = asked.saturating_sub(ops.len());
        if missing > 0 {
            serving.not_held.fetch_add(missing as u64, Relaxed);
            tracing::info!(%url, asked, missing, "a peer asks for ops that are not in the store");
        }
        self.learn_size(&ops);
        for response in split(ops, serving.response_bytes_max) {
            let count = response.len() as u64;
            let bytes: usize = response.iter().map(|op| op.op_data.len()).sum();
            let Some(transport) = self.transport.upgrade() else {
                return;
            };
            let message = serialize_response_message(response);
            let sent = send(transport, url.clone(), self.space_id.clone(), message).await;
            if let Err(err) = sent {
                serving.failed.fetch_add(1, Relaxed);
                tracing::warn!(%url, "could not send ops to the peer that asked for them: {err}");
                return;
            }
            serving.sent.fetch_add(1, Relaxed);
            serving.ops.fetch_add(count, Relaxed);
            serving.bytes.fetch_add(bytes as u64, Relaxed);
        }
    }

    fn learn_size(&self, ops: &[MetaOp]) {
        let bytes: usize = ops.iter().map(|op| op.op_data.len()).sum();
        let Some(mean) = bytes.checked_div(ops.len()) else {
            return;
        };
        let (mean, size) = (mean.max(1) as u64, &self.shared.serving.op_size);
        // Quick to rise. Whoever writes last is right enough.
        let known = size.load(Relaxed);
        let next = if mean > known {
            mean
        } else {
            known - (known - mean) / 8
        };
        size.store(next, Relaxed);
    }
}

/// Cuts ops into responses of at most so many bytes; a larger op goes alone.
fn split(ops: Vec<MetaOp>, most: usize) -> impl Iterator<Item = Vec<MetaOp>> {
    let mut ops = ops.into_iter().peekable();
    std::iter::from_fn(move || {
        let mut response = Vec::new();
        let mut bytes = 0;
        while let Some(op) = ops.next_if(|op| {
            let size = op.op_data.len() + op.op_id.len() + ID_OVERHEAD;
            bytes += size;
            response.is_empty() || bytes <= most
        }) {
            response.push(op);
        }
        (!response.is_empty()).then_some(response)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_cut_at_their_size_and_large_ops_go_alone() {
        let op = |len: usize| MetaOp {
            op_id: OpId::from(Bytes::from_static(b"12345678")),
            op_data: Bytes::from(vec![0; len]),
        };
        let ops = [10, 10, 500, 10, 200, 10, 10].map(op).to_vec();
        let cut: Vec<Vec<usize>> = split(ops, 150)
            .map(|response| response.iter().map(|op| op.op_data.len()).collect())
            .collect();
        assert_eq!(
            cut,
            [vec![10, 10], vec![500], vec![10], vec![200], vec![10, 10]]
        );
    }

    #[test]
    fn peers_take_turns_and_none_takes_all_the_room() {
        let config = GannetFetchConfig {
            max_incoming_request_bytes: 80_000,
            ..GannetFetchConfig::default()
        };
        let serving = Serving::new(&config);
        let peer = |n: u32| Url::from_str(format!("ws://test:80/{n}")).unwrap();
        let ids = |n: usize| {
            let ids = (0..n).map(|n| Bytes::copy_from_slice(&n.to_be_bytes()));
            ids.collect()
        };
        let taken = (0..100)
            .filter(|_| serving.request(&peer(1), ids(100), 400))
            .count();
        assert!(taken > 1 && taken < 10, "{taken}");
        assert!(serving.request(&peer(2), ids(1), 10));
        let first = serving.next().unwrap();
        assert_eq!((first.0.clone(), first.1.len()), (peer(1), 64));
        assert_eq!(
            serving.next().map(|(url, ids)| (url, ids.len())),
            Some((peer(2), 1))
        );
        // One turn at a time for each.
        assert!(serving.next().is_none());
        serving.done(first.0);
        serving.done(peer(2));
        assert!(serving.next().is_some_and(|(url, _)| url == peer(1)));
    }
}
