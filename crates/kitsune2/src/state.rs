//! The state of a fetch module: the engine, the book of wants, and what is under way. No I/O.
//!
//! What happens outside comes in as calls that name the time; what is to be done is taken out with
//! [`State::next_request`] and [`State::next_store_call`]. Everything here is quick: it runs under a
//! lock that is never held across a send or a call to the store.

use crate::{
    config::{GannetFetchConfig, millis},
    judge::{Answer, Failing, Lines},
    machine::{
        AttemptId, Backoff, Choice, Commit, Config, Engine, FanoutGrowth, HealthConfig, Hedge,
        Input, Lifetime, Limits, OnInvalid, PerformanceUnit, Plan, Retry, Scope, Silence, Time,
    },
    metrics::FetchStats,
    number::Numbered,
    select::Book,
    transport::Batch,
    want::Meanwhile,
};
use futures_channel::oneshot;
use kitsune2_api::FetchStateSummary;
use slab::Slab;
use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, VecDeque},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

/// Set in the id of a waiter that only brings another offer.
/// Ops read in one piece for a summary.
const SUMMARY_PIECE: usize = 4_096;

/// See the module's description.
pub(crate) struct State {
    pub(crate) config: GannetFetchConfig,
    pub(crate) machine: Engine<u64>,
    pub(crate) plan: Arc<Plan>,
    /// From the first request for a want to the last: all pauses.
    pub(crate) patience: Duration,
    pub(crate) book: Book,
    /// The want of each attempt that has not ended.
    pub(crate) attempts: Numbered<AttemptId, u32>,
    /// Answers that the engine has not asked to be judged yet.
    pub(crate) answers: Numbered<AttemptId, Answer>,
    pub(crate) batches: Slab<Batch>,
    pub(crate) batch_serial: u32,
    /// When to look after which batch.
    pub(crate) deadlines: BinaryHeap<Reverse<(Time, u32, u32)>>,
    /// Peers with something in their outbox, and no request on its way.
    pub(crate) ready: VecDeque<u32>,
    /// Peers that cannot be sent to just now: until when.
    pub(crate) held: VecDeque<(Time, u32)>,
    pub(crate) to_store: Lines,
    pub(crate) failing: Failing,
    pub(crate) unsolicited_bytes: u64,
    /// Calls that look up what is held already, by when they began, and what was stored meanwhile.
    pub(crate) lookups: BTreeSet<u64>,
    pub(crate) meanwhile: Meanwhile,
    waiting_for_drained: Vec<oneshot::Sender<()>>,
    /// Wants have left since this was asked last.
    pub(crate) left: bool,
    pub(crate) stats: FetchStats,
}

impl State {
    pub(crate) fn new(config: GannetFetchConfig, seed: u64) -> Self {
        let machine = Engine::new(bounds(), seed).expect("no bound of ours is zero");
        let plan = Arc::new(plan(&config));
        let backoff = backoff(&config);
        let pauses = 0..u32::from(config.num_back_off_intervals);
        let patience = pauses.map(|n| backoff.pause(n)).sum();
        Self {
            config,
            machine,
            plan,
            patience,
            book: Book::default(),
            attempts: Numbered::default(),
            answers: Numbered::default(),
            batches: Slab::new(),
            batch_serial: 0,
            deadlines: BinaryHeap::new(),
            ready: VecDeque::new(),
            held: VecDeque::new(),
            to_store: Lines::default(),
            failing: Failing::default(),
            unsolicited_bytes: 0,
            lookups: BTreeSet::new(),
            meanwhile: Meanwhile::default(),
            waiting_for_drained: Vec::new(),
            left: false,
            stats: FetchStats::default(),
        }
    }

    pub(crate) fn input(&mut self, now: Time, input: Input<u64>) {
        self.machine.handle_input(now, input);
    }

    /// Tells the engine how much a peer may have in flight.
    pub(crate) fn limit(&mut self, now: Time, peer: u32) {
        let limits = Limits {
            concurrent_max: NonZeroU32::new(self.book.peer(peer).window).unwrap_or(NonZeroU32::MIN),
            rate: None,
            within: None,
        };
        let scope = Scope::Source(self.book.source_of(peer));
        self.input(now, Input::Limit { scope, limits });
    }

    /// Whether wants have left since this was asked last.
    pub(crate) fn take_left(&mut self) -> bool {
        std::mem::take(&mut self.left)
    }

    /// To be told when nothing is wanted; given back where nothing is.
    pub(crate) fn when_drained(
        &mut self,
        notify: oneshot::Sender<()>,
    ) -> Option<oneshot::Sender<()>> {
        if self.book.is_empty() {
            return Some(notify);
        }
        // Of those who asked, some may have gone.
        self.waiting_for_drained
            .retain(|waiting| !waiting.is_canceled());
        self.waiting_for_drained.push(notify);
        None
    }

    /// Those who are to be told now that nothing is wanted.
    pub(crate) fn take_drained(&mut self) -> Vec<oneshot::Sender<()>> {
        if self.book.is_empty() {
            std::mem::take(&mut self.waiting_for_drained)
        } else {
            Vec::new()
        }
    }

    /// Adds what is wanted to a summary, from this slot on. Returns where to go on.
    pub(crate) fn summarize(&self, from: u32, into: &mut FetchStateSummary) -> Option<u32> {
        for (n, (op, held)) in self.book.ops_from(from).enumerate() {
            if n == SUMMARY_PIECE {
                return Some(op);
            }
            let url = |want| self.book.want(want).map(|want| want.peer);
            let urls = self.book.offers(op).filter_map(url);
            let urls = urls.map(|peer| self.book.peer(peer).url.clone()).collect();
            into.pending_requests.insert(held.key.to_id(), urls);
        }
        None
    }

    pub(crate) fn stats(&self) -> FetchStats {
        FetchStats {
            pending: self.book.len() as u64,
            pending_ops: self.book.ops_len() as u64,
            peers: self.book.peers_len() as u64,
            in_flight: self.attempts.len() as u64,
            storing: self.to_store.len() as u64,
            ..self.stats
        }
    }
}

/// The pauses between requests for an op.
fn backoff(config: &GannetFetchConfig) -> Backoff {
    Backoff::between(
        millis(config.first_back_off_interval_ms),
        millis(config.last_back_off_interval_ms),
        config.num_back_off_intervals.into(),
    )
}

/// How the engine goes about every op.
fn plan(config: &GannetFetchConfig) -> Plan {
    Plan {
        growth: FanoutGrowth::Fixed(NonZeroU32::MIN),
        hedge: (config.hedge_ms > 0).then(|| Hedge::After(millis(config.hedge_ms))),
        // Requests are timed whole, and by what else their peer does (`patience`).
        first_byte_timeout: Duration::MAX,
        idle_timeout: Duration::MAX,
        total_timeout: Duration::MAX,
        silence: Silence::Nothing,
        retry: Retry::UntilReleased {
            backoff: backoff(config),
        },
        body_bytes_max: u64::from(u32::MAX),
        on_invalid: OnInvalid::Score,
        // The op store is the judge: what it has taken is stored when it is found valid.
        commit: Commit::None,
        lifetime: Lifetime::WhileWanted,
        ..Plan::default()
    }
}

/// Bounds of the engine. What is pending is bounded before it gets there.
fn bounds() -> Config {
    let open = Limits {
        concurrent_max: NonZeroU32::MAX,
        rate: None,
        within: None,
    };
    Config {
        // What is in flight is bounded for each peer, so that none can use up what is there for all.
        racing_max: u32::MAX,
        sources_max: u32::MAX - 1,
        fetches_max: u32::MAX - 1,
        waiters_max: u32::MAX - 1,
        candidates_max: u32::MAX,
        bytes_max: u64::MAX,
        source_limits: open,
        group_limits: open,
        whole_limits: open,
        choice: Choice::Sampled { scale: 4 },
        performance: PerformanceUnit::Bytes,
        health: HealthConfig {
            // A silent peer comes after others that offer an op, and is asked when there are none:
            // it may be silent because it holds nothing of what it was asked for.
            dead_after: u32::MAX,
            ..HealthConfig::default()
        },
        ..Config::default()
    }
}
