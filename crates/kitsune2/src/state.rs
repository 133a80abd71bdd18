//! The state of a fetch module: the engine, the book of wants, and what is under way. No I/O.
//!
//! What happens outside comes in as calls that name the time; what is to be done is taken out with
//! [`State::next_request`] and [`State::next_store_call`]. Everything here is quick: it runs under a
//! lock that is never held across a send or a call to the store.

use crate::{
    answers::{Answer, Item},
    ask::Batch,
    book::{Added, Asked, Book},
    config::{GannetFetchConfig, millis},
    machine::{
        AttemptId, Backoff, Choice, Commit, Config, End, Engine, FanoutGrowth, Fault, GroupId,
        HealthConfig, Hedge, Input, Lifetime, Limits, OnInvalid, PerformanceUnit, Plan, Retry,
        Scope, Silence, Targets, Time, WaiterId, Want,
    },
    number::Numbered,
    stats::FetchStats,
};
use bytes::Bytes;
use futures_channel::oneshot;
use kitsune2_api::{FetchStateSummary, OpId, Url};
use slab::Slab;
use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap, VecDeque},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

/// Set in the id of a waiter that only brings another offer.
const OFFER: u64 = 1 << 63;

/// Ops read in one piece for a summary.
const SUMMARY_PIECE: usize = 4_096;

/// What may be taken of a call to `request_ops`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// So many.
    For(usize),
    /// None until others are done with.
    Wait,
    /// None: as many as one peer may have, and it is silent.
    Silent,
}

/// See the module's description.
pub(crate) struct State {
    pub(crate) config: GannetFetchConfig,
    pub(crate) machine: Engine<u64>,
    plan: Arc<Plan>,
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
    pub(crate) to_store: VecDeque<Item>,
    pub(crate) unsolicited_bytes: u64,
    /// Calls that look up what is held already, by when they began, and what was stored meanwhile.
    lookups: BTreeSet<u64>,
    meanwhile: Meanwhile,
    waiting_for_drained: Vec<oneshot::Sender<()>>,
    /// Wants have left since this was asked last.
    left: bool,
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
            to_store: VecDeque::new(),
            unsolicited_bytes: 0,
            lookups: BTreeSet::new(),
            meanwhile: Meanwhile::default(),
            waiting_for_drained: Vec::new(),
            left: false,
            stats: FetchStats::default(),
        }
    }

    // ---- wants come ----

    /// A call begins to look up which ops are held already. Returns its number.
    pub(crate) fn begin_lookup(&mut self) -> u64 {
        self.meanwhile.clock += 1;
        self.lookups.insert(self.meanwhile.clock);
        self.meanwhile.clock
    }

    /// This call has told what it wants, or was dropped.
    pub(crate) fn end_lookup(&mut self, lookup: u64) {
        self.lookups.remove(&lookup);
        let oldest = self.lookups.first().copied().unwrap_or(u64::MAX);
        self.meanwhile.forget_before(oldest);
    }

    /// Notes an op that was stored, for the lookups under way: they may have looked before it was.
    pub(crate) fn note_stored(&mut self, id: &[u8]) {
        if !self.lookups.is_empty() {
            self.meanwhile.note(id);
        }
    }

    /// How many more wants of this peer there is room for.
    pub(crate) fn room(&self, url: &Url) -> Room {
        let whole = (self.config.max_pending as usize).saturating_sub(self.book.len());
        let peer = self.book.peer_at(url).map(|peer| self.book.peer(peer));
        let (wants, silent) = peer.map_or((0, false), |peer| (peer.wants, peer.silent));
        let own = self.config.max_pending_per_peer.saturating_sub(wants) as usize;
        match whole.min(own) {
            0 if own == 0 && silent => Room::Silent,
            0 => Room::Wait,
            room => Room::For(room),
        }
    }

    /// Ops are offered by a peer, and wanted, as this lookup has found. Calls with the same `owner`
    /// share their turns.
    pub(crate) fn want(
        &mut self,
        now: Time,
        url: &Url,
        ops: impl IntoIterator<Item = (OpId, Option<Bytes>)>,
        (owner, lookup): (u32, u64),
    ) {
        let (peer, new) = self.book.meet(url, &self.config);
        let source = self.book.source_of(peer);
        if new {
            let group = GroupId(0);
            self.input(now, Input::SourceUp { source, group });
            self.limit(now, peer);
        }
        for (id, metadata) in ops {
            if self.meanwhile.since(lookup, &id) {
                continue;
            }
            let added = self.book.add(&id, peer, metadata);
            let key = match added {
                Added::Op(op) | Added::Offer(op) | Added::Again(op) => self.book.name_of_op(op),
            };
            let waiter = match added {
                Added::Op(_) => WaiterId(key),
                Added::Offer(_) => WaiterId(key | OFFER),
                Added::Again(op) => {
                    self.again(now, op, peer);
                    continue;
                }
            };
            let want = Want {
                targets: Targets::Only(vec![source]),
                priority: 1,
                owner,
                deadline: None,
                plan: self.plan.clone(),
            };
            self.input(now, Input::Want { waiter, key, want });
            if let Added::Offer(_) = added {
                // The op has its waiter. This one was for its word on whom to ask.
                self.input(now, Input::Release { waiter });
            }
        }
        // It may be that none of them was taken.
        self.rest(now, peer);
        self.drive(now);
    }

    /// A peer says again that it has an op: no reason to wait out a long pause. But one that is asked
    /// in vain is asked no sooner for repeating itself.
    fn again(&mut self, now: Time, op: u32, peer: u32) {
        let want = self
            .book
            .between(op, peer)
            .and_then(|want| self.book.want(want));
        let last = want.and_then(|want| want.last);
        let first_pause = millis(self.config.first_back_off_interval_ms);
        if last.is_none_or(|last| last.after(first_pause) <= now) {
            let (key, source) = (self.book.name_of_op(op), self.book.source_of(peer));
            self.input(now, Input::Announced { key, source });
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

    // ---- wants go ----

    /// Nothing more is wanted of this peer.
    pub(crate) fn drop_peer(&mut self, now: Time, peer: u32) {
        self.book.peer_mut(peer).outbox = Default::default();
        while let Some(want) = self.book.first_of(peer) {
            self.drop_want(now, want);
        }
    }

    /// This op is not wanted of this peer any more.
    pub(crate) fn drop_want(&mut self, now: Time, want: u32) {
        let (source, key) = {
            let want = self.book.want(want).expect("a want that is in the book");
            (
                self.book.source_of(want.peer),
                self.book.name_of_op(want.op),
            )
        };
        let (gone, offered) = self.book.remove(want);
        if offered {
            self.input(now, Input::WithdrawFrom { key, source });
        } else {
            let waiter = WaiterId(key);
            self.input(now, Input::Release { waiter });
        }
        let end = End::Failed(Fault::Unreachable);
        self.end_asking(now, gone.asked, end);
        self.gone(now, gone.peer);
    }

    /// An op came: nobody is asked for it any more.
    pub(crate) fn op_is_here(&mut self, now: Time, op: u32) {
        let wants: Vec<u32> = self.book.offers(op).collect();
        for want in wants {
            let (gone, _) = self.book.remove(want);
            self.end_asking(now, gone.asked, End::Aborted);
            self.gone(now, gone.peer);
        }
    }

    fn end_asking(&mut self, now: Time, asked: Asked, end: End) {
        let (Asked::Soon(attempt) | Asked::In(attempt, _)) = asked else {
            return;
        };
        if let Asked::In(_, batch) = asked {
            self.close_in_batch(batch);
        }
        if self.attempts.remove(&attempt).is_some() {
            self.input(now, Input::Ended { attempt, end });
        }
    }

    fn gone(&mut self, now: Time, peer: u32) {
        self.left = true;
        self.rest(now, peer);
    }

    /// Forgets a peer, if there are too many of which nothing is wanted.
    fn rest(&mut self, now: Time, peer: u32) {
        if let Some(source) = self.book.rest(peer) {
            self.input(now, Input::SourceDown { source });
            self.input(now, Input::Forget { source });
        }
    }

    /// Nothing can be sent or stored any more: nothing is wanted.
    pub(crate) fn close(&mut self, now: Time) {
        let mut next = self.book.first_op(0);
        while let Some(op) = next {
            while let Some(want) = self.book.first_offer(op) {
                self.drop_want(now, want);
            }
            next = self.book.first_op(op);
        }
        self.drive(now);
    }

    // ---- what is asked of it ----

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

/// Ops that were stored while calls looked up what is held.
#[derive(Debug, Default)]
struct Meanwhile {
    clock: u64,
    when: HashMap<Bytes, u64>,
    order: VecDeque<(u64, Bytes)>,
}

impl Meanwhile {
    fn note(&mut self, id: &[u8]) {
        self.clock += 1;
        let id = Bytes::copy_from_slice(id);
        self.when.insert(id.clone(), self.clock);
        self.order.push_back((self.clock, id));
    }

    /// Whether an op was stored since then.
    fn since(&self, then: u64, id: &[u8]) -> bool {
        self.when.get(id).is_some_and(|at| *at > then)
    }

    fn forget_before(&mut self, then: u64) {
        while let Some((at, id)) = self.order.front()
            && *at < then
        {
            if self.when.get(id) == Some(at) {
                self.when.remove(id);
            }
            self.order.pop_front();
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
        // Requests are timed whole, and by what else their peer does (`ask`).
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
