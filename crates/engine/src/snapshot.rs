//! What the engine tells of itself: counters, a snapshot of everything in flight, debug events.

use crate::{
    id::{AttemptId, FetchId, GroupId, SourceId, Time, WaiterId},
    input::Verdict,
    output::{FetchError, HowEnded, Stage},
};
use std::time::Duration;

/// Counts since the engine was made. All only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Wants taken (refused ones included).
    pub wants: u64,
    /// Wants that joined a fetch in flight.
    pub coalesced: u64,
    /// Wants refused because a bound was reached.
    pub overloaded: u64,
    /// Waiters that released their interest.
    pub released: u64,
    /// Waiters whose deadline passed.
    pub expired: u64,
    /// Waiters answered with the datum.
    pub answered: u64,
    /// Waiters answered with an error.
    pub failed: u64,
    /// Fetches begun.
    pub fetches: u64,
    /// Cancelled fetches that a new want took up again.
    pub revived: u64,
    /// Attempts started.
    pub attempts: u64,
    /// Attempts started because a round went without news.
    pub hedges: u64,
    /// Hedges that contributed to the datum.
    pub hedges_won: u64,
    /// Attempts that continued a body that broke off.
    pub resumes: u64,
    /// Attempts started after an earlier one failed without progress.
    pub retries: u64,
    /// Starts that the host declined.
    pub declined: u64,
    /// Attempts that we aborted.
    pub aborted: u64,
    /// Attempts that ran into one of their timers.
    pub timeouts: u64,
    /// Attempts that ended with a fault.
    pub faults: u64,
    /// Judgements by verdict: valid, partial, ambiguous, invalid, ignored, gave up.
    pub verdicts: [u64; 6],
    /// Commits that went through, by us or by somebody else before us.
    pub committed: u64,
    /// Commits that failed.
    pub commit_faults: u64,
    /// Inputs with unknown or late ids.
    pub late_inputs: u64,
    /// Inputs refused because they break a rule (a repeated waiter id, a source beyond the bound).
    pub refused_inputs: u64,
    /// Debug events dropped because nobody took them.
    pub events_dropped: u64,
}

/// Everything in flight, for people and for tests.
#[derive(Clone, Debug)]
pub struct Snapshot<K> {
    /// Every fetch, in the order of keys.
    pub fetches: Vec<FetchView<K>>,
    /// Every source known, in the order of ids.
    pub sources: Vec<SourceView>,
    /// Every group known, in the order of ids; the whole is not among them.
    pub groups: Vec<GroupView>,
    /// Fetches that hold a racing slot.
    pub racing: u32,
    /// Waiters in all.
    pub waiters: u32,
    /// Bytes reserved.
    pub bytes: u64,
    /// Attempts started and not ended.
    pub attempts: u32,
}

/// One fetch.
#[derive(Clone, Debug)]
pub struct FetchView<K> {
    /// What is fetched.
    pub key: K,
    /// Its id.
    pub fetch: FetchId,
    /// What it is doing.
    pub phase: Phase,
    /// Its priority class.
    pub priority: u8,
    /// Who waits.
    pub waiters: Vec<WaiterId>,
    /// Attempts not ended.
    pub attempts: Vec<AttemptView>,
    /// The byte up to which the body has come, under a resuming plan.
    pub frontier: u64,
    /// Cycles over the candidates that have failed.
    pub cycles: u32,
    /// When it acts by itself next.
    pub wakes: Option<Time>,
    /// The sources in whose queues it stands; none where any source may serve it.
    pub waits_for: Vec<SourceId>,
}

/// What a fetch is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Waits for the front end to rank its sources.
    Selecting,
    /// Waits for a free source, a racing slot, bytes or a token.
    Queued,
    /// Waits out a pause, or for a source to appear.
    Parked,
    /// Has attempts under way.
    Racing,
    /// Waits for a verdict.
    Judging,
    /// Waits for the store.
    Committing,
    /// Nobody wants it; its attempts are ending.
    Draining,
}

/// One attempt.
#[derive(Clone, Copy, Debug)]
pub struct AttemptView {
    /// Its id.
    pub attempt: AttemptId,
    /// Whom it asks.
    pub source: SourceId,
    /// Why it was made.
    pub stage: Stage,
    /// The first byte it asked for.
    pub from_byte: u64,
    /// The byte up to which it has come.
    pub upto: u64,
    /// When it started.
    pub since: Time,
    /// Whether the host has acknowledged it.
    pub acknowledged: bool,
    /// Whether it was told to stop.
    pub aborting: bool,
}

/// One source.
#[derive(Clone, Copy, Debug)]
pub struct SourceView {
    /// Its id.
    pub source: SourceId,
    /// Its group.
    pub group: GroupId,
    /// Its health.
    pub health: Health,
    /// Whether it is reachable.
    pub up: bool,
    /// Whether it is blocked, and until when.
    pub blocked: Option<Option<Time>>,
    /// No new attempt before this time.
    pub parked_until: Option<Time>,
    /// Attempts under way.
    pub attempts: u32,
    /// Fetches that wait for it by name.
    pub queued: u32,
    /// Units (bytes or answers) per second charged.
    pub performance: u64,
    /// Mean time to first byte.
    pub latency_mean: Option<Duration>,
    /// 99th percentile of the time to first byte.
    pub latency_p99: Option<Duration>,
    /// Faults in a row.
    pub faults: u32,
}

/// The health of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Health {
    /// Nothing against it.
    Healthy,
    /// Not reachable.
    Disconnected,
    /// Failed lately: backs off, or has yet to prove itself stable.
    Degraded,
    /// Failed for long: probed rarely.
    Dead,
    /// Asked to be left alone for a while.
    Throttled,
}

/// One group.
#[derive(Clone, Copy, Debug)]
pub struct GroupView {
    /// Its id.
    pub group: GroupId,
    /// Attempts under way in it.
    pub attempts: u32,
    /// Sources in it.
    pub sources: u32,
    /// No new attempt before this time.
    pub parked_until: Option<Time>,
}

/// A decision, for debug logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A want joined a fetch in flight.
    Joined(FetchId, WaiterId),
    /// A fetch changed its phase.
    Phase(FetchId, Phase),
    /// An attempt was started.
    Start(FetchId, AttemptId, SourceId, Stage),
    /// An attempt ended without bringing the datum.
    End(FetchId, AttemptId, SourceId, HowEnded),
    /// A timer of an attempt ran out.
    Timeout(FetchId, AttemptId, Timer),
    /// A round went without news.
    Hedge(FetchId),
    /// A verdict came.
    Verdict(FetchId, Verdict),
    /// All candidates failed; the next cycle begins then.
    Pause(FetchId, Time),
    /// A waiter got an error.
    Failed(FetchId, WaiterId, FetchError),
    /// A source's health changed.
    Health(SourceId, Health),
}

/// The timers of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// No sign since the start.
    FirstByte,
    /// No sign since the last one.
    Idle,
    /// Too long in all.
    Total,
    /// Too few bytes in a window.
    Throughput,
}
