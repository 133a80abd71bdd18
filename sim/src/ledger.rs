//! The ledger: an independent account of everything that was told to the engine and asked by it.
//!
//! It knows the contract and not the engine: what goes in is noted before the engine sees it, what
//! comes out is checked against the account ([`oracle`](crate::oracle)) and then noted too. Bodies are
//! kept as a real driver keeps them: one per fetch under a resuming plan, one per attempt otherwise.

use crate::{
    coverage::{Coverage, Mark},
    source::Script,
    truth::Key,
};
use gannet_engine::{
    AttemptId, Config, End, FetchError, FetchId, GroupId, HowEnded, Input, JudgementId, Lifetime,
    Limits, OnInvalid, Plan, Retry, Scope, Silence, SourceId, Stage, Targets, Time, Verdict,
    WaiterId, Want,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// A caller that waits.
#[derive(Clone, Debug)]
pub struct Waiter {
    /// What for.
    pub key: Key,
    /// Under which terms.
    pub want: Want,
    /// The number of the input that brought it.
    pub joined: u64,
    /// Its fetch, once the outputs of its want were drained.
    pub fetch: Option<FetchId>,
    /// Its deadline was moved after this one.
    pub old_deadline: Option<Time>,
}

/// An answer that was judged valid.
#[derive(Clone, Debug)]
pub struct Valid {
    /// Who brought it, in the order of their bytes.
    pub contributors: Vec<AttemptId>,
    /// Their sources.
    pub sources: Vec<SourceId>,
    /// Whom it was judged for.
    pub judged_for: BTreeSet<WaiterId>,
    /// The number of the input that said so first.
    pub at: u64,
    /// Whether it is stored.
    pub committed: bool,
    /// Whether it was handed to the store.
    pub commit_asked: bool,
    /// Whether its bytes are still there.
    pub held: bool,
}

/// A fetch, from its opening to its retirement.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// What is fetched.
    pub key: Key,
    /// The plan of its first want.
    pub plan: Arc<Plan>,
    /// Whether all wants had that plan, but for commit and lifetime.
    pub uniform: bool,
    /// The number of the input that opened it.
    pub opened: u64,
    /// How long it may outlive its waiters.
    pub ceiling: Option<Duration>,
    /// When the last waiter went, if none is left.
    pub deserted: Option<Time>,
    /// The strictest commit of its wants.
    pub commit: gannet_engine::Commit,
    /// Whether a want took it up when it was deserted.
    pub revived: bool,
    /// Which sources may serve it.
    pub targets: Targets,
    /// What the front end ranked last.
    pub ranked: Option<Vec<SourceId>>,
    /// Whether a ranking is asked for.
    pub selecting: bool,
    /// How many rankings were asked for.
    pub selects: u32,
    /// Attempts not ended.
    pub live: BTreeSet<AttemptId>,
    /// Every attempt, declined ones excluded.
    pub attempts: Vec<AttemptId>,
    /// Attempts since the last ranking, declined ones excluded.
    pub attempts_in_cycle: u32,
    /// Starts since the last ranking: there were no more rounds than that.
    pub starts_in_cycle: u32,
    /// The first start; or the last byte that went beyond all before.
    pub first_start: Option<Time>,
    /// The furthest that its body has come, also where it was given up since.
    pub furthest: u64,
    /// When one of its attempts last started, gave a sign, or ended.
    pub news: Time,
    /// Sources that said no for good.
    pub refused_for_good: BTreeSet<SourceId>,
    /// The body, under a resuming plan.
    pub body: Vec<u8>,
    /// Who brought it, in the order of their first bytes.
    pub bringers: Vec<AttemptId>,
    /// Answers judged so far, by contributors.
    pub judged: Vec<Vec<AttemptId>>,
    /// Judgements not answered.
    pub judging: u32,
    /// The valid answer.
    pub valid: Option<Valid>,
    /// Whether a commit is under way.
    pub committing: bool,
    /// How the last commit failed.
    pub commit_fault: Option<gannet_engine::CommitFault>,
    /// Commits that failed.
    pub commit_faults: u32,
    /// Of these, those that somebody insisted on: their answers were given up; and data that came by
    /// another way. What a judge was asked before is of no concern after.
    pub given_up: u32,
    /// A body of several contributors was wrong.
    pub many_invalid: u32,
    /// The datum came by another way, from here.
    pub obtained: Option<Option<SourceId>>,
    /// The judge retired the key.
    pub ignored: bool,
    /// Since when it stands in a queue while a source is idle.
    pub idle_since: Option<Time>,
    /// Since when a source could join its race.
    pub joinable_since: Option<Time>,
    /// Its sources disagreed: no attempt joins another any more.
    pub alone: bool,
    /// There was no source to ask at some time.
    pub starved: bool,
    /// Answered somebody.
    pub answered: bool,
}

/// An attempt, from its start to the retirement of its fetch.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Its fetch.
    pub fetch: FetchId,
    /// Whom it asks.
    pub source: SourceId,
    /// The source's group at the start.
    pub group: GroupId,
    /// The first byte asked for.
    pub from_byte: u64,
    /// Why it was made.
    pub stage: Stage,
    /// When.
    pub since: Time,
    /// Whether it was acknowledged.
    pub acknowledged: bool,
    /// How it ended.
    pub end: Option<End>,
    /// Whether the host declined it.
    pub declined: bool,
    /// Whether it was told to stop.
    pub aborting: bool,
    /// What it says it has.
    pub identity: Option<u64>,
    /// How many bytes it says that has.
    pub total: Option<u64>,
    /// When it last gave a sign.
    pub sign: Option<Time>,
    /// The byte up to which it has come.
    pub upto: u64,
    /// Its bytes, under a plan that does not resume.
    pub body: Vec<u8>,
    /// Whether its bytes will not be used.
    pub discarded: bool,
    /// Its verdict, if judged alone.
    pub verdict: Option<Verdict>,
    /// What the source will do.
    pub script: Option<Script>,
}

/// A judgement that is asked for.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// The fetch.
    pub fetch: FetchId,
    /// Who brought the bytes.
    pub contributors: Vec<AttemptId>,
    /// Their sources.
    pub sources: Vec<SourceId>,
    /// For whom.
    pub waiters: Vec<WaiterId>,
    /// The bytes.
    pub body: Vec<u8>,
    /// Whether the same answer was judged before.
    pub again: bool,
    /// Answers of the fetch that were given up when it was asked for.
    pub given_up: u32,
    /// What the plan does to liars.
    pub on_invalid: OnInvalid,
}

/// Limits and a token bucket, kept in units of a billionth of a token's minute.
///
/// What a change of limits does to a bucket is the engine's business: it then holds between nothing
/// and its burst, and so both bounds are kept.
#[derive(Clone, Debug)]
pub struct Bound {
    /// The limits.
    pub limits: Limits,
    most: u128,
    least: u128,
    at: Time,
    /// No start before.
    pub paused_until: Time,
    /// Changed since the outputs were last drained: a start may be older than that.
    pub unsettled: bool,
}

/// One token of a [`Bound`].
const TOKEN: u128 = 60_000_000_000;

impl Bound {
    /// A full bucket.
    pub fn new(limits: Limits, now: Time) -> Self {
        let mut bound = Self {
            limits,
            most: 0,
            least: 0,
            at: now,
            paused_until: Time::ZERO,
            unsettled: false,
        };
        bound.limit(limits, now);
        bound.least = bound.most;
        bound.unsettled = false;
        bound
    }

    fn burst(&self) -> u128 {
        let burst = self.limits.rate.map_or(0, |rate| rate.burst_max.get());
        u128::from(burst) * TOKEN
    }

    /// Sets the limits.
    pub fn limit(&mut self, limits: Limits, now: Time) {
        self.limits = limits;
        self.at = now;
        self.most = self.burst();
        self.least = 0;
        self.unsettled = true;
    }

    /// The bucket's content after the time that has passed, at least and at most.
    fn refilled(&self, now: Time) -> (u128, u128) {
        let per_minute = self.limits.rate.map_or(0, |rate| rate.per_minute_max.get());
        let gained = now.since(self.at).as_nanos() * u128::from(per_minute);
        let full = self.burst();
        (
            (self.least + gained).min(full),
            (self.most + gained).min(full),
        )
    }

    /// Whether a token may be there (`slack`) or must be, give or take the rounding of whole
    /// nanoseconds.
    pub fn has_token(&self, now: Time, slack: bool) -> bool {
        let rounding = TOKEN / 500;
        let (least, most) = self.refilled(now);
        self.limits.rate.is_none()
            || if slack {
                most + rounding >= TOKEN
            } else {
                least >= TOKEN + rounding
            }
    }

    /// Takes a token; where the start may be `older` than the limits, perhaps not of theirs.
    pub fn take(&mut self, now: Time, older: bool) {
        let (least, most) = self.refilled(now);
        self.least = least.saturating_sub(TOKEN);
        self.most = if older && self.unsettled {
            most
        } else {
            most.saturating_sub(TOKEN)
        };
        self.at = now;
    }

    /// May give one back.
    pub fn refund(&mut self, now: Time) {
        let (least, most) = self.refilled(now);
        (self.least, self.most) = (least, most + TOKEN);
        self.at = now;
    }
}

/// A source.
#[derive(Clone, Debug)]
pub struct Source {
    /// Whether it is reachable.
    pub up: bool,
    /// Its group.
    pub group: GroupId,
    /// Its bounds.
    pub bound: Bound,
    /// Whether it is blocked, and until when.
    pub blocked: Option<Option<Time>>,
    /// Declined until then.
    pub declined_until: Time,
    /// Asked to be left alone until then.
    pub busy_until: Time,
    /// No duty to start before: a pause may have been forgotten, or not.
    pub doubtful_until: Time,
    /// The start not acknowledged.
    pub unacknowledged: Option<AttemptId>,
    /// Since this input, it could be asked at any time.
    pub steady_since: u64,
    /// Faults in a row, as the engine showed last.
    pub faults: u32,
    /// Its health, as the engine showed last.
    pub health: Option<gannet_engine::Health>,
    /// It was dead when it was asked last.
    pub probed: bool,
    /// A block that ran out, not asked since.
    pub block_ran_out: bool,
    /// Declined, not asked since.
    pub was_declined: bool,
    /// The last fault of an attempt.
    pub last_fault: Time,
    /// After a fault: not asked before, where backed-off sources are not tried.
    pub backed_off_until: Time,
}

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

    /// A group and those that it is nested in.
    pub fn chain(&self, group: GroupId) -> Vec<GroupId> {
        let mut chain = vec![group];
        while let Some(outer) = self.groups[&chain[chain.len() - 1]].limits.within {
            if chain.contains(&outer) {
                break;
            }
            chain.push(outer);
            if !self.groups.contains_key(&outer) {
                break;
            }
        }
        chain
    }

    /// Attempts not ended.
    pub fn live(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts
            .values()
            .filter(|a| a.end.is_none() && !a.declined)
    }

    /// Why a source cannot be asked whatever the bounds: it is not there, or out of bounds for all.
    pub fn barred(&self, id: SourceId) -> Option<&'static str> {
        if self.config.me == Some(id) {
            return Some("it is ourselves");
        }
        let Some(source) = self.sources.get(&id) else {
            return Some("it was never up");
        };
        match source.blocked {
            _ if !source.up => Some("it is down"),
            Some(None) => Some("it is blocked"),
            Some(Some(until)) if self.now < until => Some("it is blocked for a while"),
            _ => None,
        }
    }

    /// Why a source cannot be asked just now: a pause of its own, its groups' or everybody's.
    pub fn paused(&self, id: SourceId) -> Option<&'static str> {
        let source = &self.sources[&id];
        let source_pause = source.bound.paused_until;
        if self.now < source.declined_until {
            return Some("its host declined until later");
        }
        if self.now < source.busy_until {
            return Some("it asked to be left alone");
        }
        if self.now < source_pause {
            return Some("it is paused");
        }
        if self.now < self.whole.paused_until {
            return Some("everything is paused");
        }
        let group_paused = |g: &GroupId| {
            self.groups
                .get(g)
                .is_some_and(|bound| self.now < bound.paused_until)
        };
        if self.chain(source.group).iter().any(group_paused) {
            return Some("its group is paused");
        }
        None
    }

    /// Which bound, if any, another start at this source would exceed. The attempt that is being
    /// checked is not yet counted. With `slack`, doubts are decided for the engine.
    pub fn bound(&self, id: SourceId, slack: bool) -> Option<String> {
        let source = &self.sources[&id];
        if source.unacknowledged.is_some() {
            return Some("a start not acknowledged".into());
        }
        let at_source = self.live().filter(|a| a.source == id).count();
        if at_source >= source.bound.limits.concurrent_max.get() as usize {
            return Some(format!("{at_source} attempts at the source"));
        }
        if !source.bound.has_token(self.now, slack) {
            return Some("no token of the source".into());
        }
        for group in self.chain(source.group) {
            let Some(bound) = self.groups.get(&group) else {
                continue;
            };
            // An attempt whose source has moved since may count where it was or where it is.
            let counts = |a: &&Attempt| {
                let is = self.sources[&a.source].group;
                let among = |of: GroupId| self.chain(of).contains(&group);
                if slack {
                    is == a.group && among(is)
                } else {
                    among(is) || among(a.group)
                }
            };
            let count = self.live().filter(counts).count();
            if count >= bound.limits.concurrent_max.get() as usize {
                return Some(format!("{count} attempts in {group:?}"));
            }
            if !bound.has_token(self.now, slack) {
                return Some(format!("no token of {group:?}"));
            }
        }
        let all = self.live().count();
        if all >= self.whole.limits.concurrent_max.get() as usize {
            return Some(format!("{all} attempts in all"));
        }
        if !self.whole.has_token(self.now, slack) {
            return Some("no token of the whole".into());
        }
        None
    }

    /// The sources that a fetch may be served by, as far as is known.
    pub fn candidates(&self, fetch: &Fetch) -> Vec<SourceId> {
        match &fetch.targets {
            Targets::Ranked => fetch.ranked.clone().unwrap_or_default(),
            Targets::Any => self.sources.keys().copied().collect(),
            Targets::Only(only) => only.clone(),
        }
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

    /// Notes an input before the engine gets it.
    pub fn note(&mut self, input: &Input<Key>) {
        self.seq += 1;
        self.undrained += 1;
        match input {
            Input::Want { waiter, key, want } => self.note_want(*waiter, *key, want),
            Input::Release { waiter } => {
                // Who has its outcome already, and only has not read it, leaves nothing.
                let told = self.owed.iter().any(|(owed, _)| owed == waiter);
                if !told && let Some(left) = self.part(*waiter) {
                    self.tally.released += 1;
                    self.just_left.insert(*waiter, left);
                }
            }
            Input::Deadline { waiter, deadline } => {
                if let Some(waiter) = self.waiters.get_mut(waiter) {
                    let later = |old: Time| deadline.is_none_or(|new| new > old);
                    waiter.old_deadline = waiter.want.deadline.filter(|old| later(*old));
                    waiter.want.deadline = *deadline;
                }
            }
            Input::Candidates { fetch, ranked } => {
                let max = self.config.candidates_max as usize;
                if let Some(fetch) = self.fetches.get_mut(fetch) {
                    let mut seen = BTreeSet::new();
                    let ranked = ranked.iter().copied().filter(|s| seen.insert(*s));
                    fetch.ranked = Some(ranked.take(max).collect());
                    fetch.selecting = false;
                }
            }
            Input::Announced { key, source } => {
                // Who says that it has the key takes back that it will never serve it.
                if let Some(id) = self.by_key.get(key)
                    && let Some(fetch) = self.fetches.get_mut(id)
                {
                    fetch.refused_for_good.remove(source);
                }
            }
            Input::Heartbeat { attempt } => self.sign(*attempt),
            Input::Declined { attempt, until } => self.note_declined(*attempt, *until),
            Input::Started { attempt } => self.acknowledge(*attempt),
            Input::Opened {
                attempt,
                identity,
                total,
            } => self.note_opened(*attempt, *identity, *total),
            Input::Progress { attempt, upto } => {
                self.sign(*attempt);
                self.note_upto(*attempt, *upto);
            }
            Input::Ended { attempt, end } => self.note_ended(*attempt, *end),
            Input::Judged { judgement, verdict } => self.note_judged(*judgement, *verdict),
            Input::Committed { fetch, result } => self.note_committed(*fetch, *result),
            Input::Obtained { key, from } => self.note_obtained(*key, *from),
            _ => self.note_operator(input),
        }
    }

    fn note_want(&mut self, id: WaiterId, key: Key, want: &Want) {
        if self.waiters.contains_key(&id) {
            return;
        }
        self.tally.wants += 1;
        self.pending = Some(id);
        if let Some(id) = self.by_key.get(&key)
            && let Some(fetch) = self.fetches.get_mut(id)
        {
            self.joined = Some((*id, Box::new(fetch.clone())));
            if fetch.deserted.is_some() {
                self.coverage.hit(Mark::Revived);
            }
            if matches!(
                (&fetch.targets, &want.targets),
                (Targets::Only(_), Targets::Any)
            ) {
                self.coverage.hit(Mark::RestrictionLifted);
            }
            crate::oracle::join(fetch, want, self.timers_served);
        }
        let joined = self.seq;
        self.waiters.insert(
            id,
            Waiter {
                key,
                want: want.clone(),
                joined,
                fetch: None,
                old_deadline: None,
            },
        );
    }

    fn note_declined(&mut self, id: AttemptId, until: Time) {
        let now = self.now;
        let Some(attempt) = self.attempts.get_mut(&id) else {
            return;
        };
        if attempt.end.is_some() || attempt.declined || attempt.acknowledged {
            return;
        }
        attempt.declined = true;
        let (source_id, fetch) = (attempt.source, attempt.fetch);
        let group = attempt.group;
        self.tally.declined += 1;
        self.coverage.hit(Mark::Declined);
        for group in self.chain(group) {
            if let Some(bound) = self.groups.get_mut(&group) {
                bound.refund(now);
            }
        }
        self.whole.refund(now);
        self.unsteady(source_id);
        let source = self.source(source_id);
        source.unacknowledged = None;
        source.declined_until = source.declined_until.max(until);
        source.was_declined = true;
        source.bound.refund(now);
        if let Some(fetch) = self.fetches.get_mut(&fetch) {
            fetch.live.remove(&id);
            fetch.attempts.retain(|a| *a != id);
            fetch.attempts_in_cycle = fetch.attempts_in_cycle.saturating_sub(1);
            if fetch.attempts.is_empty() {
                fetch.first_start = None;
            }
        }
    }

    fn acknowledge(&mut self, id: AttemptId) {
        let Some(attempt) = self.attempts.get_mut(&id) else {
            return;
        };
        attempt.acknowledged = true;
        let source = attempt.source;
        let source = self.source(source);
        if source.unacknowledged == Some(id) {
            source.unacknowledged = None;
        }
    }

    fn sign(&mut self, id: AttemptId) {
        let now = self.now;
        if let Some(attempt) = self.attempts.get_mut(&id)
            && attempt.end.is_none()
        {
            attempt.sign = Some(now);
            if let Some(fetch) = self.fetches.get_mut(&attempt.fetch) {
                fetch.news = now;
            }
        }
    }

    fn note_opened(&mut self, id: AttemptId, identity: u64, total: Option<u64>) {
        self.sign(id);
        let Some(attempt) = self.attempts.get_mut(&id) else {
            return;
        };
        attempt.identity = Some(identity);
        attempt.total = total;
        if let Some(total) = total {
            self.note_length(id, total, true);
            self.note_size(id, total);
        }
    }

    /// An attempt of a shared body says, or shows, how long that is at least, or (`whole`) in all.
    ///
    /// Where sources disagree about it nobody is blamed, and the cycle begins anew with one alone;
    /// also before the first byte, when there is nothing to discard, and also where the attempt that
    /// said otherwise has ended.
    fn note_length(&mut self, id: AttemptId, length: u64, whole: bool) {
        let attempt = &self.attempts[&id];
        let (fetch_id, identity) = (attempt.fetch, attempt.identity);
        let differs = |(other, a): (&AttemptId, &Attempt)| {
            let showed = match a.end {
                Some(End::Complete { upto }) => Some(upto),
                _ => None,
            };
            let mut says = [a.total, showed].into_iter().flatten();
            let otherwise = if whole {
                says.any(|says| says != length) || a.upto > length
            } else {
                says.any(|says| says < length)
            };
            *other != id && a.fetch == fetch_id && a.identity == identity && otherwise
        };
        let disagreed = self.attempts.iter().any(differs);
        if let Some(fetch) = self.fetches.get_mut(&fetch_id)
            && fetch.plan.resume
            && (disagreed || whole && (fetch.body.len() as u64) > length)
        {
            fetch.attempts_in_cycle = 0;
            fetch.alone = true;
        }
    }

    fn note_upto(&mut self, id: AttemptId, upto: u64) {
        if let Some(attempt) = self.attempts.get_mut(&id) {
            attempt.upto = attempt.upto.max(upto);
            self.note_length(id, upto, false);
        }
        self.note_size(id, upto);
    }

    /// Whoever claims or brings more than the plan allows may be blamed for it.
    fn note_size(&mut self, id: AttemptId, size: u64) {
        let attempt = &self.attempts[&id];
        if let Some(fetch) = self.fetches.get(&attempt.fetch)
            && (size > fetch.plan.body_bytes_max || attempt.total.is_some_and(|t| size > t))
            && !attempt.aborting
            && attempt.end.is_none()
        {
            let source = attempt.source;
            self.blame(source);
            self.coverage.hit(Mark::TooLarge);
            self.too_large.push(id);
        }
    }

    fn note_ended(&mut self, id: AttemptId, end: End) {
        let now = self.now;
        self.acknowledge(id);
        let Some(attempt) = self.attempts.get_mut(&id) else {
            return;
        };
        if attempt.end.is_some() || attempt.declined {
            return;
        }
        attempt.end = Some(end);
        let (source_id, fetch_id, aborting) = (attempt.source, attempt.fetch, attempt.aborting);
        let began = attempt.since;
        if let End::Complete { upto } = end {
            if aborting {
                self.coverage.hit(Mark::CompleteAfterAbort);
            }
            self.note_length(id, upto, true);
            self.note_size_of_end(id, upto);
        }
        if let Some(fetch) = self.fetches.get_mut(&fetch_id) {
            fetch.live.remove(&id);
            fetch.news = now;
            if let End::Failed(fault) = end
                && !fault.may_pass()
                && !aborting
            {
                fetch.refused_for_good.insert(source_id);
            }
        }
        let health = self.config.health;
        // A timeout that the host reports is silence like any other; whose plan counts after a revival
        // is open.
        let excused = end == End::Failed(gannet_engine::Fault::TimedOut)
            && self
                .fetches
                .get(&fetch_id)
                .is_none_or(|f| f.revived || f.plan.silence == Silence::Nothing);
        match end {
            End::Complete { .. } | End::Missing => {
                self.source(source_id).backed_off_until = Time::ZERO;
            }
            End::Failed(fault) if fault.blames_source() => {
                self.blamed.insert(source_id);
                if !aborting && !excused {
                    let until =
                        now.after(least(health.backoff.base, health.backoff.jitter_permille));
                    let forgiven = health.faults_forgiven > 0;
                    let source = self.source(source_id);
                    // What began before the last fault is part of it.
                    let anew = began >= source.last_fault;
                    source.last_fault = now;
                    if !forgiven && anew {
                        source.backed_off_until = source.backed_off_until.max(until);
                    }
                    self.unsteady(source_id);
                }
            }
            End::Busy { retry_after } => {
                self.blamed.insert(source_id);
                self.unsteady(source_id);
                if !aborting {
                    let jitter = health.backoff.jitter_permille;
                    let pause = retry_after.map_or_else(
                        || least(health.busy_pause.min(health.backoff.cap), jitter),
                        |named| named.min(health.pause_max),
                    );
                    let until = now.after(pause.min(health.pause_max));
                    let source = self.source(source_id);
                    source.busy_until = source.busy_until.max(until);
                    self.coverage.hit(Mark::Throttled);
                }
            }
            _ => {}
        }
    }

    fn note_size_of_end(&mut self, id: AttemptId, upto: u64) {
        let attempt = &self.attempts[&id];
        if let Some(fetch) = self.fetches.get(&attempt.fetch)
            && upto > fetch.plan.body_bytes_max
        {
            let source = attempt.source;
            self.blame(source);
        }
    }

    /// A source may have a fault more. What it was asked before that is part of the same incident.
    fn blame(&mut self, source: SourceId) {
        let now = self.now;
        self.blamed.insert(source);
        self.source(source).last_fault = now;
    }

    fn note_judged(&mut self, id: JudgementId, verdict: Verdict) {
        let Some(judgement) = self.judgements.remove(&id) else {
            return;
        };
        self.tally.verdicts[verdict as usize] += 1;
        let seq = self.seq;
        let alone = judgement.contributors.len() == 1;
        for contributor in &judgement.contributors {
            // What a judge says later, of an accepted answer for late waiters, does not change that it
            // was accepted.
            if let Some(attempt) = self.attempts.get_mut(contributor)
                && attempt.verdict != Some(Verdict::Valid)
            {
                attempt.verdict = Some(verdict);
            }
        }
        if matches!(verdict, Verdict::Valid | Verdict::Partial) {
            for source in &judgement.sources {
                self.source(*source).backed_off_until = Time::ZERO;
            }
        }
        if verdict == Verdict::Invalid && alone && !judgement.again {
            match judgement.on_invalid {
                OnInvalid::Score => {
                    self.blame(judgement.sources[0]);
                    self.unsteady(judgement.sources[0]);
                }
                OnInvalid::Block(period) => {
                    // A longer block that stands already is not shortened.
                    let source = judgement.sources[0];
                    let standing = match self.source(source).blocked {
                        Some(until) => until.unwrap_or(Time::FAR),
                        None => Time::ZERO,
                    };
                    let until = self.now.after(period).max(standing);
                    self.blocks_owed.push((source, until));
                }
                OnInvalid::Host => {}
            }
        }
        self.hit(match verdict {
            Verdict::Valid => Mark::Valid,
            Verdict::Partial => Mark::Partial,
            Verdict::Ambiguous => Mark::Ambiguous,
            Verdict::Invalid => Mark::Invalid,
            Verdict::Ignored => Mark::Ignored,
            Verdict::GaveUp => Mark::GaveUp,
        });
        let Some(fetch) = self.fetches.get_mut(&judgement.fetch) else {
            self.hit(Mark::VerdictAfterCancel);
            return;
        };
        fetch.judging -= 1;
        if fetch.deserted.is_some() {
            self.coverage.hit(Mark::VerdictAfterCancel);
        }
        // Once its commit has failed, an answer is given up: nobody is served from it, and what a judge
        // says of it for late waiters is of no concern to the fetch, which brings another.
        // Where nobody insisted on the commit, it stands.
        let current = judgement.given_up == fetch.given_up;
        // Whether those who had left insisted still counts for who takes the fetch up is left open.
        let maybe = current || fetch.revived;
        if verdict == Verdict::Invalid && !alone {
            fetch.alone = true;
            fetch.many_invalid += 1;
            self.coverage.hit(Mark::ManyContributorsInvalid);
        }
        let alive: Vec<WaiterId> = (self.waiters.iter())
            .filter(|(_, waiter)| waiter.fetch == Some(judgement.fetch))
            .map(|(id, _)| *id)
            .collect();
        let named = || judgement.waiters.iter().filter(|w| alive.contains(w));
        match verdict {
            Verdict::Valid => {
                let same = |valid: &Valid| valid.contributors == judgement.contributors;
                if fetch.valid.as_ref().is_some_and(same) {
                    let valid = fetch.valid.as_mut().expect("just seen");
                    valid.judged_for.extend(&judgement.waiters);
                } else if current {
                    fetch.valid = Some(Valid {
                        contributors: judgement.contributors.clone(),
                        sources: judgement.sources.clone(),
                        judged_for: judgement.waiters.iter().copied().collect(),
                        at: seq,
                        committed: false,
                        commit_asked: false,
                        held: true,
                    });
                    if !fetch.live.is_empty() {
                        self.over.push((judgement.fetch, "a valid answer"));
                    }
                }
            }
            Verdict::Ignored if maybe && !alive.is_empty() => {
                self.given_up.extend(&alive);
                if current {
                    fetch.ignored = true;
                    self.owed.extend(alive.iter().map(|w| (*w, "ignored")));
                    self.over.push((judgement.fetch, "an ignored key"));
                }
            }
            Verdict::GaveUp if maybe => {
                self.given_up.extend(named());
                if current {
                    self.owed.extend(named().map(|w| (*w, "the judge gave up")));
                }
            }
            _ => {}
        }
    }

    fn note_committed(&mut self, id: FetchId, result: Result<(), gannet_engine::CommitFault>) {
        use gannet_engine::CommitFault;
        let Some(fetch) = self.fetches.get_mut(&id) else {
            return;
        };
        if !fetch.committing {
            return;
        }
        fetch.committing = false;
        match result {
            Ok(()) | Err(CommitFault::Exists) => {
                self.tally.committed += 1;
                self.coverage.hit(if result.is_ok() {
                    Mark::Committed
                } else {
                    Mark::CommitExists
                });
                if fetch.commit_faults > 0 {
                    self.coverage.hit(Mark::CommittedAfterFailure);
                }
                if let Some(valid) = &mut fetch.valid {
                    valid.committed = true;
                    let judged: Vec<WaiterId> = valid.judged_for.iter().copied().collect();
                    let owed = judged
                        .into_iter()
                        .filter(|w| self.waiters.get(w).is_some_and(|w| w.fetch == Some(id)));
                    self.owed.extend(owed.map(|w| (w, "committed")));
                }
            }
            Err(fault) => {
                self.tally.commit_faults += 1;
                self.coverage.hit(Mark::CommitFailed);
                fetch.commit_fault = Some(fault);
                fetch.commit_faults += 1;
                if fetch.commit == gannet_engine::Commit::BeforeFinish {
                    fetch.given_up += 1;
                }
            }
        }
    }

    fn note_obtained(&mut self, key: Key, from: Option<SourceId>) {
        let Some(id) = self.by_key.get(&key).copied() else {
            return;
        };
        // Whoever comes while its commit goes on has the answer judged anew: what is still to be said
        // for those who have the datum now is no concern of theirs.
        if let Some(fetch) = self.fetches.get_mut(&id) {
            fetch.given_up += 1;
        }
        let alive: Vec<WaiterId> = (self.waiters.iter())
            .filter(|(_, waiter)| waiter.key == key)
            .map(|(id, _)| *id)
            .collect();
        if alive.is_empty() {
            return;
        }
        let Some(fetch) = self.fetches.get_mut(&id) else {
            return;
        };
        fetch.obtained = Some(from);
        self.coverage.hit(Mark::Obtained);
        if fetch.judging > 0 {
            self.coverage.hit(Mark::ObtainedWhileJudging);
        }
        self.owed.extend(alive.iter().map(|w| (*w, "obtained")));
        self.over.push((id, "obtained"));
    }

    fn note_operator(&mut self, input: &Input<Key>) {
        let now = self.now;
        match *input {
            Input::SourceUp { source, group } => {
                self.group(group);
                let seq = self.seq;
                let source = self.source(source);
                if !source.up {
                    source.up = true;
                    source.steady_since = seq;
                }
                source.group = group;
                source.backed_off_until = Time::ZERO;
            }
            Input::SourceDown { source } => {
                let forgetful = self.config.remembered_sources_max < 64;
                self.unsteady(source);
                let entry = self.source(source);
                entry.up = false;
                if forgetful {
                    // Whether it is forgotten is left open: somebody may wait for it.
                    // Limits of its own are no memory of it, and stay.
                    entry.doubtful_until = (entry.doubtful_until)
                        .max(entry.bound.paused_until)
                        .max(entry.declined_until)
                        .max(entry.busy_until);
                    entry.bound.limit(entry.bound.limits, now);
                    entry.bound.paused_until = Time::ZERO;
                    entry.declined_until = Time::ZERO;
                    entry.busy_until = Time::ZERO;
                    entry.backed_off_until = Time::ZERO;
                }
            }
            Input::Forget { source } => {
                if self.sources.get(&source).is_some_and(|s| !s.up) {
                    self.coverage.hit(Mark::Forgotten);
                    let limits = self.config.source_limits;
                    let entry = self.source(source);
                    // Its bucket stays where somebody still refers to it.
                    entry.bound.limit(limits, now);
                    entry.bound.paused_until = Time::ZERO;
                    entry.doubtful_until = Time::ZERO;
                    entry.declined_until = Time::ZERO;
                    entry.busy_until = Time::ZERO;
                    entry.blocked = None;
                    entry.backed_off_until = Time::ZERO;
                }
            }
            Input::Withdraw { source } => {
                let ids: Vec<FetchId> = self.fetches.keys().copied().collect();
                for id in ids {
                    self.withdraw(id, source);
                }
            }
            Input::WithdrawFrom { key, source } => {
                if let Some(id) = self.by_key.get(&key).copied() {
                    self.withdraw(id, source);
                }
            }
            Input::Block { source, until } => {
                if self.live().any(|a| a.source == source) {
                    self.hit(Mark::BlockedUnderWay);
                }
                self.note_block(source, until);
            }
            Input::Unblock { source } => {
                let entry = self.source(source);
                entry.blocked = None;
                entry.block_ran_out = false;
            }
            Input::Limit { scope, limits } => match scope {
                Scope::Source(source) => {
                    let entry = self.source(source);
                    entry.bound.limit(limits, now);
                }
                Scope::Group(group) => {
                    self.group(group).limit(limits, now);
                    // The outer one is there from now on, with the bounds of any group.
                    if let Some(outer) = limits.within {
                        self.group(outer);
                    }
                }
                Scope::Whole => self.whole.limit(limits, now),
            },
            Input::Pause { scope, until } => self.note_pause(scope, until),
            _ => unreachable!("noted elsewhere"),
        }
    }

    fn note_pause(&mut self, scope: Scope, until: Time) {
        self.hit(Mark::Paused);
        self.unsteady_all();
        let now = self.now;
        // Whether the longest pause that a source can impose holds here too is left open.
        let until = until.min(now.after(self.config.health.pause_max));
        match scope {
            Scope::Source(source) => {
                let forgetful = self.config.remembered_sources_max < 64;
                let entry = self.source(source);
                // The operator's word goes before what the source or its host said.
                entry.declined_until = Time::ZERO;
                entry.busy_until = Time::ZERO;
                // Where little is remembered, the pause of one that is down may be forgotten at once, or
                // kept as long as somebody waits for it.
                let held = entry.up || !forgetful;
                entry.bound.paused_until = if held { until } else { Time::ZERO };
                entry.doubtful_until = if held { Time::ZERO } else { until };
            }
            Scope::Group(group) => self.group(group).paused_until = until,
            Scope::Whole => self.whole.paused_until = until,
        }
    }

    /// A source is blocked, by the driver or by the engine.
    pub fn note_block(&mut self, source: SourceId, until: Option<Time>) {
        self.unsteady(source);
        let entry = self.source(source);
        entry.blocked = Some(until);
        entry.block_ran_out = until.is_some();
    }

    fn withdraw(&mut self, fetch: FetchId, source: SourceId) {
        let Some(fetch) = self.fetches.get_mut(&fetch) else {
            return;
        };
        if let Targets::Only(only) = &mut fetch.targets
            && only.contains(&source)
        {
            only.retain(|s| *s != source);
            self.coverage.hit(Mark::TargetWithdrawn);
        }
    }

    /// Which timer of an attempt has run out by now.
    pub fn timers_due(&self, attempt: &Attempt) -> [bool; 3] {
        let Some(fetch) = self.fetches.get(&attempt.fetch) else {
            return [false; 3];
        };
        let plan = &fetch.plan;
        let due = |from: Time, period: Duration| from.after(period) <= self.now;
        [
            attempt.sign.is_none() && due(attempt.since, plan.first_byte_timeout),
            attempt
                .sign
                .is_some_and(|sign| due(sign, plan.idle_timeout)),
            due(attempt.since, plan.total_timeout),
        ]
    }

    /// Notes that the engine is told the time: sources whose attempts have run out may be blamed.
    pub fn note_timeout(&mut self) {
        self.undrained += 1;
        self.timers_served = self.now;
        let late: Vec<(SourceId, Silence, [bool; 3])> = self
            .live()
            .filter(|a| !a.aborting)
            .filter_map(|a| {
                let due = self.timers_due(a);
                let plan = &self.fetches.get(&a.fetch)?.plan;
                // By whose plan one goes that nobody wanted for a while is the engine's business.
                let revived = self.fetches.get(&a.fetch)?.revived;
                let silence = if revived {
                    Silence::Fault
                } else {
                    plan.silence
                };
                // When a window of throughput begins is the engine's business.
                let drips = plan.throughput_floor.is_some() && a.sign.is_some();
                (drips || revived || due.contains(&true)).then_some((a.source, silence, due))
            })
            .collect();
        for (source, silence, due) in late {
            let marks = [
                Mark::FirstByteTimeout,
                Mark::IdleTimeout,
                Mark::TotalTimeout,
            ];
            for mark in marks.iter().zip(due).filter(|(_, due)| *due) {
                self.hit(*mark.0);
            }
            if silence == Silence::Fault {
                self.blame(source);
                self.unsteady(source);
            }
        }
    }

    /// Whether a plan ends only with success or the last waiter.
    pub fn persistent(fetch: &Fetch) -> bool {
        matches!(fetch.plan.retry, Retry::UntilReleased { .. })
    }

    /// Whether a way of ending in a list of tried sources fits the account.
    pub fn fits(attempt: &Attempt, how: HowEnded) -> bool {
        let judged = match how {
            HowEnded::Partial => Some(Verdict::Partial),
            HowEnded::Ambiguous => Some(Verdict::Ambiguous),
            HowEnded::Invalid => Some(Verdict::Invalid),
            HowEnded::Uncommitted => Some(Verdict::Valid),
            _ => None,
        };
        if judged.is_some() {
            // Whoever brought a part of the answer shares its verdict.
            return attempt.verdict == judged;
        }
        match (attempt.end, how) {
            (_, HowEnded::Aborted | HowEnded::Failed(_)) if attempt.aborting => true,
            (None, HowEnded::Unfinished) => true,
            (Some(End::Missing), HowEnded::Missing)
            | (Some(End::Busy { .. }), HowEnded::Busy)
            | (Some(End::Aborted), HowEnded::Aborted) => true,
            (Some(End::Failed(fault)), HowEnded::Failed(said)) => fault == said,
            (Some(End::Complete { .. }), HowEnded::Unfinished | HowEnded::Aborted) => true,
            _ => false,
        }
    }

    /// Whether an error was to be expected for a waiter, and if not, why not.
    ///
    /// Its fetch is the one that the outcome names: who joins and fails at once was not seen joining.
    pub fn error_expected(
        &self,
        waiter: WaiterId,
        named: Option<FetchId>,
        error: FetchError,
    ) -> Result<(), String> {
        let entry = &self.waiters[&waiter];
        let fetch = named.or(entry.fetch).and_then(|id| self.fetches.get(&id));
        let persistent = fetch.is_some_and(|f| f.uniform && Self::persistent(f));
        let fits = match error {
            FetchError::Expired => entry.want.deadline.is_some_and(|d| d <= self.now),
            FetchError::Cancelled => self.cancelled.contains(&waiter),
            FetchError::Ignored => {
                self.given_up.contains(&waiter) || fetch.is_some_and(|f| f.ignored)
            }
            FetchError::Commit(fault) => {
                !persistent && fetch.is_some_and(|f| f.commit_fault == Some(fault))
            }
            FetchError::NoCandidates => {
                !persistent
                    && fetch.is_none_or(|f| {
                        // A driver serves timers before wants: until then, a block that has run out
                        // is one.
                        let served = |s: &SourceId| {
                            let until = self.sources[s].blocked.flatten();
                            until.is_none_or(|until| until <= self.timers_served)
                        };
                        let open = |s: &SourceId| self.barred(*s).is_none() && served(s);
                        let candidates = self.candidates(f);
                        // Which of too many it considers is left open.
                        self.lenient()
                            || candidates.len() > self.config.candidates_max as usize
                            || !candidates.iter().any(open)
                            // Whose last waiter had left may be bound to the newcomer's targets alone.
                            || f.revived
                                && matches!(&entry.want.targets, Targets::Only(only) if !only.iter().any(open))
                    })
            }
            FetchError::Exhausted => !persistent,
            FetchError::Overloaded => {
                self.waiters.len() > self.config.waiters_max as usize
                    || self.fetches.len() >= self.config.fetches_max as usize
                    || entry.want.plan.body_bytes_max > self.config.bytes_max
            }
        };
        if fits {
            return Ok(());
        }
        Err(format!(
            "{waiter:?} of key {} got {error:?} without cause",
            entry.key
        ))
    }
}

/// The least that is left of a pause after jitter.
pub fn least(pause: Duration, jitter_permille: u16) -> Duration {
    pause * (1000 - u32::from(jitter_permille).min(1000)) / 1000
}
