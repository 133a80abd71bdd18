//! The engine's front: construction, inputs, outputs, time.

use crate::{
    config::{Config, ConfigError},
    gate::Gate,
    hash::{KeyTable, Mixed, Seeded},
    id::{AttemptId, FetchId, GroupId, Key, SourceId, Time, WaiterId},
    input::Input,
    output::{FetchError, Outcome, Output},
    rng::Rng,
    schedule::Shares,
    slab::Slab,
    snapshot::{Counters, Event},
    state::{Attempt, Fetch, Judgement, NONE, Node, Race, Source, WHOLE, Waiter},
    survey::Scratch,
    timers::{Timers, Who},
    turns::{Place, Queue},
};
use std::collections::{BTreeSet, VecDeque};

/// The fetch engine: a plain state machine without I/O, clock, locks or tasks.
///
/// Drive it like this, from one thread:
///
/// 1. Feed what happened: [`handle_input`](Self::handle_input), answers and verdicts before new wants.
/// 2. When the time of [`poll_timeout`](Self::poll_timeout) has come, call
///    [`handle_timeout`](Self::handle_timeout). Doing so early or late is harmless.
/// 3. Drain [`poll_output`](Self::poll_output) to `None` and do what it says. Inputs may come between
///    polls; an output that an input has overtaken is still to be done.
/// 4. Read [`poll_timeout`](Self::poll_timeout), and sleep until then or the next event.
///
/// `now` never goes back; a time earlier than one seen before counts as that one.
///
/// Given the same configuration, seed and timed inputs, the engine does the same thing. It never
/// panics, whatever the outside says: unknown and late ids are counted and ignored.
///
/// Every step costs O(log n) in fetches, waiters, sources and groups, but for what the step itself
/// names: the candidates and waiters of the fetch it concerns.
///
/// ```
/// use gannet_engine::*;
/// use std::sync::Arc;
///
/// let mut engine = Engine::<&str>::new(Config::default(), 42)?;
/// let now = Time::ZERO;
/// engine.handle_input(now, Input::SourceUp { source: SourceId(1), group: GroupId(1) });
/// engine.handle_input(now, Input::Want {
///     waiter: WaiterId(1),
///     key: "greeting",
///     want: Want {
///         targets: Targets::Any,
///         priority: 1,
///         owner: 0,
///         deadline: None,
///         plan: Arc::new(Plan::default()),
///     },
/// });
/// assert!(matches!(engine.poll_output(), Some(Output::Opened { key: "greeting", .. })));
/// let Some(Output::Start { attempt, source, .. }) = engine.poll_output() else { panic!() };
/// assert_eq!(source, SourceId(1));
/// engine.handle_input(now, Input::Started { attempt });
/// engine.handle_input(now, Input::Ended { attempt, end: End::Complete { upto: 5 } });
/// let Some(Output::Judge { judgement, .. }) = engine.poll_output() else { panic!() };
/// engine.handle_input(now, Input::Judged { judgement, verdict: Verdict::Valid });
/// let Some(Output::Finish { waiter, outcome, .. }) = engine.poll_output() else { panic!() };
/// assert_eq!(waiter, WaiterId(1));
/// assert!(matches!(outcome, Outcome::Datum { .. }));
/// # Ok::<(), ConfigError>(())
/// ```
pub struct Engine<K: Key> {
    pub(crate) config: Config,
    pub(crate) rng: Rng,
    pub(crate) now: Time,
    pub(crate) outputs: VecDeque<Output<K>>,
    pub(crate) events: VecDeque<Event>,
    pub(crate) counters: Counters,
    pub(crate) timers: Timers,

    pub(crate) fetches: Slab<Fetch<K>>,
    pub(crate) by_key: KeyTable<Seeded>,
    pub(crate) waiters: Slab<Waiter>,
    pub(crate) by_waiter: KeyTable<Mixed>,
    pub(crate) attempts: Slab<Attempt>,
    pub(crate) judgements: Slab<Judgement>,
    /// Races of fetches that are no more, for those to come: starting one allocates nothing.
    #[expect(clippy::vec_box, reason = "they go into fetches as boxes")]
    pub(crate) races: Vec<Box<Race>>,
    /// Lists that a survey needs while it lasts.
    pub(crate) scratch: Scratch,
    pub(crate) sources: Slab<Source>,
    pub(crate) by_source: hashbrown::HashMap<SourceId, u32, Mixed>,
    pub(crate) nodes: Slab<Node>,
    pub(crate) by_group: hashbrown::HashMap<GroupId, u32, Mixed>,

    /// Sources that are up, not blocked, not ourselves.
    pub(crate) eligible: Vec<u32>,
    /// Of these, how many neither back off nor are throttled.
    pub(crate) sound: u32,
    /// Sources that are down and nothing else keeps, by when they went.
    pub(crate) remembered: BTreeSet<(u64, u32)>,
    pub(crate) departures: u64,
    /// Sources whose groups are to be told something before the next turn.
    pub(crate) untold: Vec<u32>,
    /// Sources that are drawn from although they have yet to acknowledge a start; and the last one that
    /// has done so.
    pub(crate) busy: Vec<u32>,
    pub(crate) idle: u32,
    /// What a new source is assumed to do: the mean of all samples.
    pub(crate) typical: u64,

    /// Fetches that stand in queues.
    pub(crate) standing: u32,
    /// Of these, the ones that reserve next to nothing.
    pub(crate) questions: Queue,
    /// Fetches that any source may serve.
    pub(crate) any: Queue,
    /// Fetches that any source may serve and that wait out a pause.
    pub(crate) any_paused: BTreeSet<u32>,
    pub(crate) shares: Shares,
    pub(crate) arrivals: u64,
    /// Fetches with attempts not ended.
    pub(crate) racing: u32,
    pub(crate) bytes: u64,
    /// Of these, reserved by questions.
    pub(crate) bytes_asked: u64,
    /// Of all, held by fetches that are not under way; and which those are.
    pub(crate) bytes_parked: u64,
    pub(crate) holders: BTreeSet<u32>,
    /// The fetch whose turn it is, but whose bytes do not fit yet.
    pub(crate) stalled: Option<FetchId>,
    /// There were more turns than one step may take.
    pub(crate) unfinished: bool,
    /// Queues to be looked through anew, in pieces: of a source, or (`NONE`) of any source.
    pub(crate) sweeps: VecDeque<(u32, Option<Place>)>,
    /// Fetches whose hedge fell due, then, and found no source but such as have yet to acknowledge a
    /// start, or not the bytes that it may need.
    pub(crate) hedges: VecDeque<(FetchId, Time)>,
    /// A survey has met such a source.
    pub(crate) met_unacknowledged: bool,
    /// A round has met the bound on bytes.
    pub(crate) met_short: bool,
    /// Bytes that were reserved at the end of the last step.
    pub(crate) bytes_before: u64,
}

/// Queue entries looked at in one step, so that no step takes long.
const SWEEP_STEP: u32 = 512;
/// Timers served in one step; the rest is due at once, and [`Engine::poll_timeout`] says so.
const TIMERS_STEP: u32 = 1024;

impl<K: Key> Engine<K> {
    /// An engine with nothing in it.
    ///
    /// # Errors
    ///
    /// When a bound of the configuration is zero.
    pub fn new(config: Config, seed: u64) -> Result<Self, ConfigError> {
        config.validate()?;
        let mut rng = Rng::new(seed);
        let mixed = Mixed::new(rng.next());
        let mut nodes = Slab::new();
        let whole = Self::node(None, NONE, 0, Gate::new(config.whole_limits, Time::ZERO));
        assert_eq!(nodes.insert(whole), WHOLE, "the whole comes first");
        Ok(Self {
            config,
            now: Time::ZERO,
            outputs: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
            timers: Timers::default(),
            fetches: Slab::new(),
            by_key: KeyTable::new(Seeded::new(rng.next())),
            waiters: Slab::new(),
            by_waiter: KeyTable::new(Mixed::new(rng.next())),
            attempts: Slab::new(),
            judgements: Slab::new(),
            races: Vec::new(),
            scratch: Scratch::default(),
            sources: Slab::new(),
            by_source: hashbrown::HashMap::with_hasher(mixed),
            nodes,
            by_group: hashbrown::HashMap::with_hasher(mixed),
            eligible: Vec::new(),
            sound: 0,
            remembered: BTreeSet::new(),
            departures: 0,
            untold: Vec::new(),
            busy: Vec::new(),
            idle: NONE,
            typical: 1 << 20,
            standing: 0,
            questions: Queue::default(),
            any: Queue::default(),
            any_paused: BTreeSet::new(),
            shares: Shares::new(),
            arrivals: 0,
            racing: 0,
            bytes: 0,
            bytes_asked: 0,
            bytes_parked: 0,
            holders: BTreeSet::new(),
            stalled: None,
            unfinished: false,
            sweeps: VecDeque::new(),
            hedges: VecDeque::new(),
            met_unacknowledged: false,
            met_short: false,
            bytes_before: 0,
            rng,
        })
    }

    /// Takes one input. Never panics, whatever the outside said.
    pub fn handle_input(&mut self, now: Time, input: Input<K>) {
        self.now = self.now.max(now);
        match input {
            Input::Want { waiter, key, want } => self.want(waiter, key, want),
            Input::Release { waiter } => self.release(waiter),
            Input::Deadline { waiter, deadline } => self.move_deadline(waiter, deadline),
            Input::Candidates { fetch, ranked } => self.ranked(fetch, ranked),
            Input::Announced { key, source } => self.announced(&key, source),
            Input::Declined { attempt, until } => self.declined(attempt, until),
            Input::Started { attempt } => {
                self.acknowledged(attempt);
                self.hedge_on(false);
            }
            Input::Opened {
                attempt,
                identity,
                total,
            } => self.opened(attempt, identity, total),
            Input::Progress { attempt, upto } => self.progress(attempt, upto),
            Input::Heartbeat { attempt } => self.heartbeat(attempt),
            Input::Ended { attempt, end } => self.ended(attempt, end),
            Input::Judged { judgement, verdict } => self.judged(judgement, verdict),
            Input::Committed { fetch, result } => self.committed(fetch, result),
            Input::Obtained { key, from } => self.obtained(&key, from),
            Input::SourceUp { source, group } => self.source_up(source, group),
            Input::SourceDown { source } => self.source_down(source),
            Input::Forget { source } => self.forget(source),
            Input::Withdraw { source } => self.withdraw(source),
            Input::WithdrawFrom { key, source } => self.withdraw_from(&key, source),
            Input::Block { source, until } => self.block(source, until.unwrap_or(Time::FAR)),
            Input::Unblock { source } => self.unblock(source),
            Input::Limit { scope, limits } => self.limit(scope, limits),
            Input::Pause { scope, until } => self.pause_scope(scope, until),
        }
        self.pump();
        self.tidy_timers();
    }

    /// Does what time has made due. Spurious calls do nothing. Where very much is due, it does a part;
    /// [`poll_timeout`](Self::poll_timeout) says that the rest is due now.
    pub fn handle_timeout(&mut self, now: Time) {
        self.now = self.now.max(now);
        for _ in 0..TIMERS_STEP {
            self.tidy_timers();
            let Some(who) = self.timers.due(self.now) else {
                break;
            };
            match who {
                Who::Waiter(waiter) => self.waiter_timer(waiter),
                Who::Fetch(fetch) => self.fetch_timer(fetch),
                Who::Attempt(attempt) => self.attempt_timer(attempt),
                Who::Source(source) => self.source_timer(source),
                Who::Node(node) => self.node_timer(node),
            }
        }
        self.pump();
        self.tidy_timers();
    }

    /// Cancels the waiters for whom `keep` says no; each gets [`FetchError::Cancelled`]. Walks over
    /// all waiters, in an order that follows from the inputs alone.
    pub fn retain(&mut self, now: Time, mut keep: impl FnMut(&K, WaiterId) -> bool) {
        self.now = self.now.max(now);
        for index in 0..self.waiters.bound() {
            let Some(waiter) = self.waiters.get(index) else {
                continue;
            };
            let fetch = waiter.fetch;
            if keep(&self.fetches[fetch].key, waiter.id) {
                continue;
            }
            self.finish_waiter(index, Outcome::failed(FetchError::Cancelled));
            self.departed(fetch);
        }
        self.pump();
        self.tidy_timers();
    }

    /// The next thing to do. Drain to `None` before sleeping; inputs may come between polls.
    pub fn poll_output(&mut self) -> Option<Output<K>> {
        self.outputs.pop_front()
    }

    /// The oldest debug event, where [`Config::events_max`] is above zero.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do. Read after draining outputs.
    pub fn poll_timeout(&self) -> Option<Time> {
        if self.unfinished || !self.sweeps.is_empty() {
            Some(self.now)
        } else if self.is_empty() {
            // What is left are the tokens of groups, and nobody waits for them.
            None
        } else {
            self.timers.next()
        }
    }

    /// Counts since the start.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The configuration.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The key of a fetch in flight.
    pub fn key(&self, fetch: FetchId) -> Option<&K> {
        Some(&self.fetches[self.fetches.find(fetch.0)?].key)
    }

    /// The fetch that a want of this key would join. O(1).
    pub fn find(&self, key: &K) -> Option<FetchId> {
        Some(self.fetch_id(self.find_fetch(key)?))
    }

    /// What a source is known to do: units (bytes or answers) per second charged, which is also its
    /// weight in a draw. O(1).
    pub fn performance(&self, source: SourceId) -> Option<u64> {
        Some(self.sources[self.find_source(source)?].performance.rate())
    }

    /// The fetch that a live waiter has joined. O(1).
    pub fn fetch_of(&self, waiter: WaiterId) -> Option<FetchId> {
        Some(self.fetch_id(self.waiters[self.find_waiter(waiter)?].fetch))
    }

    /// Whether nothing at all is held: no fetch, waiter, attempt, judgement, source or output. Groups
    /// that were given limits or a pause are configuration, and do not count.
    pub fn is_empty(&self) -> bool {
        self.fetches.is_empty()
            && self.waiters.is_empty()
            && self.attempts.is_empty()
            && self.judgements.is_empty()
            && self.sources.is_empty()
            && self.outputs.is_empty()
    }

    pub(crate) fn emit(&mut self, output: Output<K>) {
        self.outputs.push_back(output);
    }

    pub(crate) fn event(&mut self, event: Event) {
        let max = self.config.events_max as usize;
        if max == 0 {
            return;
        }
        if self.events.len() >= max {
            self.events.pop_front();
            self.counters.events_dropped += 1;
        }
        self.events.push_back(event);
    }

    pub(crate) fn late(&mut self) {
        self.counters.late_inputs += 1;
    }

    pub(crate) fn fetch_id(&self, fetch: u32) -> FetchId {
        FetchId(self.fetches.id(fetch))
    }

    pub(crate) fn attempt_id(&self, attempt: u32) -> AttemptId {
        AttemptId(self.attempts.id(attempt))
    }

    /// Looks at a piece of the queues that an event has put in doubt.
    pub(crate) fn sweep(&mut self) {
        let mut budget = SWEEP_STEP;
        while budget > 0 {
            let Some((source, from)) = self.sweeps.pop_front() else {
                return;
            };
            let queue = if source == NONE {
                &self.any
            } else {
                match self.sources.get(source) {
                    Some(source) => &source.queue,
                    None => continue,
                }
            };
            let Some((place, fetch)) = queue.after(from) else {
                continue;
            };
            self.sweeps.push_front((source, Some(place)));
            budget -= 1;
            self.requeue(fetch);
        }
    }

    pub(crate) fn start_sweep(&mut self, queue: u32) {
        match self.sweeps.iter_mut().find(|(q, _)| *q == queue) {
            Some(sweep) => sweep.1 = None,
            None => self.sweeps.push_back((queue, None)),
        }
    }
}

impl<K: Key> std::fmt::Debug for Engine<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("now", &self.now)
            .field("fetches", &self.fetches.len())
            .field("waiters", &self.waiters.len())
            .field("attempts", &self.attempts.len())
            .field("sources", &self.sources.len())
            .finish_non_exhaustive()
    }
}
