//! The ledger: an independent account of everything that was told to the engine and asked by it.
//!
//! It knows the contract and not the engine: what goes in is noted before the engine sees it, what
//! comes out is checked against the account ([`oracle`](crate::oracle)) and then noted too. Bodies are
//! kept as a real driver keeps them: one per fetch under a resuming plan, one per attempt otherwise.

mod attempts;
mod entries;
mod lookups;
mod notes;

pub use entries::{Attempt, Bound, Fetch, Judgement, Source, Valid, Waiter};

use crate::{
    coverage::{Coverage, Mark},
    truth::Key,
};
use gannet_engine::{
    AttemptId, Config, FetchId, GroupId, JudgementId, Lifetime, Plan, SourceId, Time, WaiterId,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// The account.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// The time of the last input.
    pub now: Time,
    /// The time of the last `handle_timeout`.
    pub timers_served: Time,
    /// The engine's configuration.
    pub config: Config,
    /// The longest body and the number of versions, for the judge.
    pub len_max: u64,
    /// The highest version.
    pub versions: u32,
    /// Inputs so far.
    pub seq: u64,
    /// Inputs since the outputs were last drained.
    pub undrained: u32,
    /// The bound of everything.
    pub whole: Bound,
    /// The bounds of groups.
    pub groups: BTreeMap<GroupId, Bound>,
    /// Sources mentioned.
    pub sources: BTreeMap<SourceId, Source>,
    /// Callers that wait.
    pub waiters: BTreeMap<WaiterId, Waiter>,
    /// Callers that left since the outputs were last drained.
    pub just_left: BTreeMap<WaiterId, Waiter>,
    /// Callers that the driver cancels.
    pub cancelled: BTreeSet<WaiterId>,
    /// Callers for whom a judge gave up.
    pub given_up: BTreeSet<WaiterId>,
    /// Fetches not retired.
    pub fetches: BTreeMap<FetchId, Fetch>,
    /// The latest fetch of each key.
    pub by_key: BTreeMap<Key, FetchId>,
    /// Attempts of fetches not retired, and those not ended.
    pub attempts: BTreeMap<AttemptId, Attempt>,
    /// Judgements not answered.
    pub judgements: BTreeMap<JudgementId, Judgement>,
    /// The want that is being handed in.
    pub pending: Option<WaiterId>,
    /// The fetch that it seems to join, as it was before.
    pub joined: Option<(FetchId, Box<Fetch>)>,
    /// Waiters that the last inputs must have answered, and why.
    pub owed: Vec<(WaiterId, &'static str)>,
    /// Fetches whose attempts the last inputs must have ended, and why.
    pub over: Vec<(FetchId, &'static str)>,
    /// Sources that the last inputs may have blamed.
    pub blamed: BTreeSet<SourceId>,
    /// Attempts that the last inputs must have ended for their size.
    pub too_large: Vec<AttemptId>,
    /// Blocks that the engine must announce.
    pub blocks_owed: Vec<(SourceId, Time)>,
    /// All ids seen, to prove that none is used again.
    pub ids: (
        BTreeSet<FetchId>,
        BTreeSet<AttemptId>,
        BTreeSet<JudgementId>,
    ),
    /// Starts, data, errors: what the engine's counters must say.
    pub tally: Tally,
    /// States reached.
    pub coverage: Coverage,
}

/// What the engine's counters must say.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)] // Named after the counters.
pub struct Tally {
    pub wants: u64,
    pub released: u64,
    pub answered: u64,
    pub failed: u64,
    pub expired: u64,
    pub attempts: u64,
    pub declined: u64,
    pub verdicts: [u64; 6],
    pub committed: u64,
    pub commit_faults: u64,
    pub fetches: u64,
}

/// Two plans, but for what later wants may raise.
pub fn same_base(a: &Plan, b: &Plan) -> bool {
    let base = |plan: &Plan| Plan {
        commit: gannet_engine::Commit::None,
        lifetime: Lifetime::WhileWanted,
        ..plan.clone()
    };
    base(a) == base(b)
}

impl Ledger {
    /// An empty account.
    pub fn new(config: Config, len_max: u64, versions: u32, now: Time) -> Self {
        Self {
            now,
            timers_served: Time::ZERO,
            len_max,
            versions,
            seq: 0,
            undrained: 0,
            whole: Bound::new(config.whole_limits, now),
            config,
            groups: BTreeMap::new(),
            sources: BTreeMap::new(),
            waiters: BTreeMap::new(),
            just_left: BTreeMap::new(),
            cancelled: BTreeSet::new(),
            given_up: BTreeSet::new(),
            fetches: BTreeMap::new(),
            by_key: BTreeMap::new(),
            attempts: BTreeMap::new(),
            judgements: BTreeMap::new(),
            pending: None,
            joined: None,
            owed: Vec::new(),
            over: Vec::new(),
            blamed: BTreeSet::new(),
            too_large: Vec::new(),
            blocks_owed: Vec::new(),
            ids: <_>::default(),
            tally: Tally::default(),
            coverage: Coverage::default(),
        }
    }

    /// Counts a state.
    pub fn hit(&mut self, mark: Mark) {
        self.coverage.hit(mark);
    }

    /// Whether outputs may be older than the last input.
    pub const fn lenient(&self) -> bool {
        self.undrained > 1
    }

    /// The source's entry; made on its first mention.
    pub fn source(&mut self, id: SourceId) -> &mut Source {
        let (limits, now) = (self.config.source_limits, self.now);
        self.sources.entry(id).or_insert_with(|| Source {
            up: false,
            group: GroupId(0),
            bound: Bound::new(limits, now),
            blocked: None,
            declined_until: Time::ZERO,
            busy_until: Time::ZERO,
            doubtful_until: Time::ZERO,
            unacknowledged: None,
            steady_since: 0,
            faults: 0,
            health: None,
            probed: false,
            block_ran_out: false,
            was_declined: false,
            backed_off_until: Time::ZERO,
            last_fault: Time::ZERO,
        })
    }

    /// The group's bound; made on its first mention.
    pub fn group(&mut self, id: GroupId) -> &mut Bound {
        let (limits, now) = (self.config.group_limits, self.now);
        self.groups
            .entry(id)
            .or_insert_with(|| Bound::new(limits, now))
    }

    /// Notes that the source could not be asked at this input.
    pub fn unsteady(&mut self, id: SourceId) {
        let seq = self.seq + 1;
        self.source(id).steady_since = seq;
    }

    fn unsteady_all(&mut self) {
        let ids: Vec<SourceId> = self.sources.keys().copied().collect();
        for id in ids {
            self.unsteady(id);
        }
    }

    /// A waiter is gone or answered.
    pub fn part(&mut self, id: WaiterId) -> Option<Waiter> {
        let waiter = self.waiters.remove(&id)?;
        let of_key = self.by_key.get(&waiter.key).copied();
        let fetch_id = waiter.fetch.or(of_key);
        let more = self.waiters.values().any(|w| w.fetch == fetch_id);
        if let Some(fetch) = fetch_id.and_then(|id| self.fetches.get_mut(&id))
            && !more
        {
            fetch.deserted = Some(self.now);
        }
        Some(waiter)
    }
}

/// The least that is left of a pause after jitter.
pub fn least(pause: Duration, jitter_permille: u16) -> Duration {
    pause * (1000 - u32::from(jitter_permille).min(1000)) / 1000
}
