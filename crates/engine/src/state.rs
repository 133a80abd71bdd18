//! What the engine holds: fetches, waiters, attempts, judgements, sources, groups.
//!
//! Plain data. The transitions are in `waiters`, `schedule`, `attempts`, `verdicts`, `sources`.

use crate::{
    gate::Gate,
    health::SourceHealth,
    id::{AttemptId, FetchId, GroupId, SourceId, Time, WaiterId},
    input::CommitFault,
    latency::Latency,
    output::{HowEnded, Stage, Tried},
    plan::{Commit, Lifetime, Plan},
    turns::{Place, Queue, Turns},
    weights::Weights,
};
use std::{
    collections::{BTreeSet, VecDeque},
    num::NonZeroU64,
    sync::Arc,
    time::Duration,
};

/// No slot: the end of a list.
pub(crate) const NONE: u32 = u32::MAX;
/// The slot of the whole among the groups.
pub(crate) const WHOLE: u32 = 0;

/// Where a fetch stands.
///
/// ```text
///          want            candidates          turn                 complete
///   (new) ------> Selecting ---------> Queued ------> Racing ---------------> Judging
///     |              ^                  ^   ^           |  ^                   |   |
///     | any, targets |                  |   +-----------+  +-- more wanted ----+   | valid
///     +--------------|------------------+   all attempts failed                    v
///                    |  cycle spent                                            Accepted
///                 Paused <---------------- Queued, Racing, Judging     (commit, late judgements)
/// ```
///
/// `Draining` is reached from anywhere: nobody wants it, and its attempts are ending. It is either
/// still found by its key, and a new want revives it, or done for and forgotten with its last attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Selecting,
    Queued,
    Paused,
    Racing,
    Judging,
    Accepted,
    Draining,
}

/// Which sources may serve a fetch.
#[derive(Clone, Debug)]
pub(crate) enum Candidates {
    /// The front end has yet to say.
    Unranked,
    /// In this order.
    Ranked(Vec<SourceId>),
    /// Any source that is up.
    Any,
    /// These, by performance.
    Only(Vec<SourceId>),
}

/// In whose queues a fetch stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    Nowhere,
    Any,
    /// So many, sorted; the rest is [`NONE`].
    Few(u8, [u32; FEW]),
    /// Sorted.
    Many(Box<[u32]>),
}

/// How many sources a fetch waits for without an allocation: rankings are short.
const FEW: usize = 4;

impl Waits {
    /// In the queues of these; the list is put in order.
    pub(crate) fn of(sources: &mut Vec<u32>) -> Self {
        sources.sort_unstable();
        sources.dedup();
        if sources.is_empty() {
            return Self::Nowhere;
        }
        if sources.len() > FEW {
            return Self::Many(sources.as_slice().into());
        }
        let mut few = [NONE; FEW];
        few[..sources.len()].copy_from_slice(sources);
        Self::Few(sources.len() as u8, few)
    }

    pub(crate) fn sources(&self) -> &[u32] {
        match self {
            Self::Nowhere | Self::Any => &[],
            Self::Few(len, few) => &few[..usize::from(*len)],
            Self::Many(sources) => sources,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Fetch<K> {
    pub(crate) key: K,
    pub(crate) plan: Arc<Plan>,
    pub(crate) state: State,
    /// Found by its key.
    pub(crate) listed: bool,
    /// The strictest of all waiters so far.
    pub(crate) commit: Commit,
    /// The highest of the waiters'; and how many have it.
    pub(crate) priority: u8,
    pub(crate) at_top: u32,
    /// Where it stands in queues, or stood last.
    pub(crate) place: Place,
    pub(crate) candidates: Candidates,
    pub(crate) waits: Waits,
    /// Reserves next to nothing; decided when it begins.
    pub(crate) question: bool,
    /// Counted as having more candidates than one, where it stands.
    pub(crate) flexible: bool,
    pub(crate) first_waiter: u32,
    pub(crate) last_waiter: u32,
    pub(crate) waiters: u32,
    /// Waiters that no judgement speaks for yet.
    pub(crate) unspoken: u32,
    /// Cycles over the candidates that have failed.
    pub(crate) cycles: u32,
    /// For how many nanoseconds it outlives its waiters, if at all.
    pub(crate) outlives: Option<NonZeroU64>,
    pub(crate) not_before: Time,
    pub(crate) paused_until: Time,
    /// When it is cancelled for want of waiters.
    pub(crate) ceiling_at: Time,
    /// When its timer is armed.
    pub(crate) wake: Time,
    /// All that only fetches under way need; made with the first attempt.
    pub(crate) race: Option<Box<Race>>,
}

/// The part of a fetch that exists from its first attempt on.
#[derive(Debug, Default)]
pub(crate) struct Race {
    /// Attempts not ended, those told to stop included.
    pub(crate) attempts: Vec<u32>,
    /// Of these, not told to stop.
    pub(crate) live: u32,
    /// In the current cycle; from an earlier one until the first attempt of this one.
    pub(crate) tried: Vec<Tried>,
    pub(crate) tried_cycle: u32,
    /// Sources that a plan with a retry budget does not ask again.
    pub(crate) hopeless: Vec<SourceId>,
    pub(crate) round: u32,
    pub(crate) started: u32,
    pub(crate) failures: u32,
    pub(crate) last_failed: Option<SourceId>,
    pub(crate) first_start: Option<Time>,
    /// What a retry budget counts from: the first start, or the last byte that the body gained; and
    /// the cycles that have failed since.
    pub(crate) budget_from: Option<Time>,
    pub(crate) fruitless: u32,
    /// The furthest that any body of this fetch has come.
    pub(crate) furthest: u64,
    pub(crate) last_news: Time,
    /// The body, under a resuming plan.
    pub(crate) body: Body,
    /// From one source only: an earlier body of several turned out wrong.
    pub(crate) solo: bool,
    /// A source offered another identity than the body's.
    pub(crate) other_identity: bool,
    /// Bytes reserved for the body; of these, counted as held while it is not under way.
    pub(crate) reserved: u64,
    pub(crate) parked: u64,
    /// The judgement that is out.
    pub(crate) judgement: Option<u32>,
    /// Complete answers that wait for the judge.
    pub(crate) answers: VecDeque<Answer>,
    /// The answer under judgement, or accepted.
    pub(crate) answer: Option<Answer>,
    pub(crate) commit_pending: bool,
    /// A commit of the accepted answer was asked for; and went through.
    pub(crate) commit_asked: bool,
    pub(crate) committed: bool,
    /// A judgement of late waiters failed while the commit was pending: fetch anew after it.
    pub(crate) restart: bool,
    pub(crate) commit_fault: Option<CommitFault>,
}

/// The shared body of a resuming plan.
#[derive(Debug, Default)]
pub(crate) struct Body {
    pub(crate) identity: Option<u64>,
    pub(crate) total: Option<u64>,
    pub(crate) frontier: u64,
    pub(crate) parts: Vec<Part>,
}

/// What one attempt contributed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) attempt: AttemptId,
    pub(crate) source: SourceId,
    pub(crate) stage: Stage,
    pub(crate) bytes: u64,
    pub(crate) began: Time,
    pub(crate) took: Duration,
    /// Its time has been charged already.
    pub(crate) charged: bool,
}

/// What a complete answer is made of: nearly always one part.
#[derive(Clone, Debug)]
pub(crate) enum Parts {
    Nobodys,
    One(Part),
    Many(Arc<[Part]>),
}

impl std::ops::Deref for Parts {
    type Target = [Part];
    fn deref(&self) -> &[Part] {
        match self {
            Self::Nobodys => &[],
            Self::One(part) => std::slice::from_ref(part),
            Self::Many(parts) => parts,
        }
    }
}

/// A complete answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) parts: Parts,
    pub(crate) reserved: u64,
}

#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) id: WaiterId,
    pub(crate) fetch: u32,
    pub(crate) previous: u32,
    pub(crate) next: u32,
    pub(crate) priority: u8,
    /// A judgement speaks, or spoke, for it.
    pub(crate) spoken: bool,
    /// Its answer is valid and waits to be stored.
    pub(crate) accepted: bool,
    /// Its deadline; the timer is armed for it.
    pub(crate) deadline: Time,
}

#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) fetch: u32,
    pub(crate) source: u32,
    pub(crate) source_id: SourceId,
    /// Its place among the attempts of the source.
    pub(crate) at_source: u32,
    pub(crate) stage: Stage,
    pub(crate) from: u64,
    pub(crate) upto: u64,
    pub(crate) began: Time,
    pub(crate) acknowledged: bool,
    /// First sign seen.
    pub(crate) opened: bool,
    pub(crate) total: Option<u64>,
    /// Told to stop, or given up: its end changes nothing but the slot it holds.
    pub(crate) aborting: bool,
    pub(crate) last_sign: Time,
    /// Start of the current throughput window, and the offset then.
    pub(crate) window: (Time, u64),
    pub(crate) reserved: u64,
    pub(crate) wake: Time,
}

#[derive(Debug)]
pub(crate) struct Judgement {
    /// May be gone meanwhile.
    pub(crate) fetch: FetchId,
    pub(crate) parts: Parts,
    pub(crate) plan: Arc<Plan>,
    /// For waiters who joined after the first: without credit or blame.
    pub(crate) late: bool,
}

#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) id: SourceId,
    pub(crate) up: bool,
    /// [`Time::FAR`]: for ever.
    pub(crate) blocked_until: Time,
    /// The group, and the place in it.
    pub(crate) node: u32,
    pub(crate) slot: u32,
    pub(crate) gate: Gate,
    pub(crate) own_limits: bool,
    /// A start that the host has not acknowledged.
    pub(crate) unacknowledged: Option<u32>,
    /// The group whose token that start took, where the source has moved to another since.
    pub(crate) paid: Option<GroupId>,
    pub(crate) attempts: Vec<u32>,
    pub(crate) health: SourceHealth,
    pub(crate) latency: Latency,
    pub(crate) performance: Performance,
    pub(crate) queue: Queue,
    /// Of those in the queue, how many have other candidates too.
    pub(crate) flexible: u32,
    /// Fetches that name it as a target.
    pub(crate) targeted: BTreeSet<u32>,
    /// Fetches that wait out a pause and may use it.
    pub(crate) paused: BTreeSet<u32>,
    /// Its place among the eligible; [`NONE`] where it is not.
    pub(crate) eligible_at: u32,
    /// What its group was last told: tier, weight, and whether its queue may start something.
    pub(crate) posted: (usize, u64, bool),
    /// Counted among the eligible that do not back off.
    pub(crate) counted_sound: bool,
    /// Something has changed that its group is not told yet: it is among the engine's `untold`.
    pub(crate) untold: bool,
    /// Its place among the engine's `busy`; [`NONE`] where it is not one of them.
    pub(crate) busy_at: u32,
    /// When it went down, as a count of such events.
    pub(crate) gone: u64,
    pub(crate) wake: Time,
}

impl Source {
    pub(crate) fn is_blocked(&self, now: Time) -> bool {
        self.blocked_until > now
    }

    /// Backs off, or was asked to be left alone.
    pub(crate) fn is_unsound(&self, now: Time) -> bool {
        self.health.backs_off(now) || self.health.throttled_until > now
    }
}

/// Units (bytes or answers) per second charged, as two sums that decay together.
#[derive(Clone, Debug)]
pub(crate) struct Performance {
    units: f64,
    seconds: f64,
    samples: u32,
    /// Assumed until there is a sample.
    prior: u64,
}

impl Performance {
    pub(crate) const fn new(prior: u64) -> Self {
        Self {
            units: 0.0,
            seconds: 0.0,
            samples: 0,
            prior,
        }
    }

    pub(crate) fn charge(&mut self, units: u64, took: Duration) {
        const KEEP: f64 = 0.875;
        self.units = self.units * KEEP + units as f64;
        // No answer is free: below a tenth of a millisecond a clock says little.
        self.seconds = self.seconds * KEEP + took.as_secs_f64().max(1e-4);
        self.samples = self.samples.saturating_add(1);
    }

    /// Units earned by time that was charged before.
    pub(crate) fn earn(&mut self, units: u64) {
        self.units += units as f64;
        self.samples = self.samples.max(1);
    }

    /// At least 1, so that nobody is never drawn; bounded, so that sums cannot overflow.
    pub(crate) fn rate(&self) -> u64 {
        if self.samples == 0 || self.seconds <= 0.0 {
            return self.prior;
        }
        ((self.units / self.seconds) as u64).clamp(1, 1 << 40)
    }
}

/// A group, or the whole.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: Option<GroupId>,
    /// [`NONE`] for the whole.
    pub(crate) parent: u32,
    pub(crate) slot: u32,
    pub(crate) gate: Gate,
    pub(crate) own_limits: bool,
    pub(crate) children: Vec<Option<Child>>,
    pub(crate) free: Vec<u32>,
    /// For each class, the children in which a fetch can start.
    pub(crate) turns: Vec<(u16, Turns)>,
    /// Sources that can take any fetch: sound ones, and those that back off.
    pub(crate) ready: [Weights; 2],
    pub(crate) sources: u32,
    pub(crate) wake: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Child {
    Node(u32),
    Source(u32),
}

impl Node {
    pub(crate) fn turns_mut(&mut self, class: u16) -> &mut Turns {
        let i = match self.turns.iter().position(|(c, _)| *c == class) {
            Some(i) => i,
            None => {
                self.turns.push((class, Turns::default()));
                self.turns.len() - 1
            }
        };
        &mut self.turns[i].1
    }

    pub(crate) fn has_turn(&self, class: u16) -> bool {
        self.turns
            .iter()
            .any(|(c, turns)| *c == class && !turns.is_empty())
    }

    pub(crate) fn adopt(&mut self, child: Child) -> u32 {
        if let Some(slot) = self.free.pop() {
            self.children[slot as usize] = Some(child);
            return slot;
        }
        self.children.push(Some(child));
        self.children.len() as u32 - 1
    }
}

impl Race {
    /// From one source alone from now on, and anyone: what came of several proves nothing, and does
    /// not count against the bounds of the cycle. Happens once in the life of a fetch.
    pub(crate) fn go_solo(&mut self) {
        self.solo = true;
        self.round = 0;
        self.started = 0;
    }

    /// Ready for another fetch, with the room that its lists have taken.
    pub(crate) fn recycle(&mut self) {
        let old = std::mem::take(self);
        self.attempts = emptied(old.attempts);
        self.tried = emptied(old.tried);
        self.body.parts = emptied(old.body.parts);
    }

    pub(crate) fn tried_mut(&mut self, attempt: AttemptId) -> Option<&mut Tried> {
        self.tried
            .iter_mut()
            .rev()
            .find(|tried| tried.attempt == attempt)
    }

    pub(crate) fn mark(&mut self, attempt: AttemptId, how: HowEnded, took: Duration) {
        if let Some(tried) = self.tried_mut(attempt) {
            tried.how = how;
            tried.took = took;
        }
    }

    pub(crate) fn has_tried(&self, source: SourceId, cycle: u32) -> bool {
        (self.tried_cycle == cycle && self.tried.iter().any(|tried| tried.source == source))
            || self.hopeless.contains(&source)
    }
}

/// How long a fetch of this lifetime outlives its waiters, in nanoseconds. The longer is the greater.
pub(crate) fn outlives(lifetime: Lifetime) -> Option<NonZeroU64> {
    match lifetime {
        Lifetime::WhileWanted => None,
        Lifetime::Detached { ceiling } => {
            let nanos = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX);
            Some(NonZeroU64::new(nanos).unwrap_or(NonZeroU64::MIN))
        }
    }
}

/// An empty list that keeps what room it has, within reason.
fn emptied<T>(mut list: Vec<T>) -> Vec<T> {
    const ROOM_MAX: usize = 32;
    list.clear();
    list.shrink_to(ROOM_MAX);
    list
}
