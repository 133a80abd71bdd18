//! Inputs: everything that the outside tells the engine.

use crate::{
    id::{AttemptId, FetchId, GroupId, JudgementId, SourceId, Time, WaiterId},
    plan::Want,
};
use std::{fmt, num::NonZeroU32, time::Duration};

/// One thing that happened outside.
///
/// Unknown and late ids are counted ([`Counters::late_inputs`](crate::Counters)) and ignored.
#[derive(Clone, Debug)]
pub enum Input<K> {
    /// A caller wants a datum. A waiter id that is alive already is ignored.
    Want {
        /// The caller; echoed in [`Output::Finish`](crate::Output::Finish).
        waiter: WaiterId,
        /// What it wants.
        key: K,
        /// Under which terms.
        want: Want,
    },
    /// A caller is gone, or wants no more. It gets no outcome.
    Release {
        /// The caller.
        waiter: WaiterId,
    },
    /// A caller's deadline moves.
    Deadline {
        /// The caller.
        waiter: WaiterId,
        /// The new deadline; none if `None`.
        deadline: Option<Time>,
    },
    /// The answer to [`Output::Select`](crate::Output::Select): best first. Beyond
    /// [`Config::candidates_max`](crate::Config) the rest is dropped.
    Candidates {
        /// The fetch that asked.
        fetch: FetchId,
        /// The sources that may serve it, best first; repeats are dropped.
        ranked: Vec<SourceId>,
    },
    /// The key was announced: the source has it, or soon will. Wakes a fetch that waits out a pause,
    /// if the source may serve it.
    Announced {
        /// What is to be had.
        key: K,
        /// Where.
        source: SourceId,
    },
    /// The host could not send ([quotas of its own](crate#declined-starts)): the attempt is undone at
    /// no cost, the source is parked for all keys until then. Stands in place of `Started` and
    /// `Ended`.
    Declined {
        /// The attempt, not yet acknowledged.
        attempt: AttemptId,
        /// When to try the source again.
        until: Time,
    },
    /// The attempt is under way. Until this comes, its source is given no other start.
    Started {
        /// The attempt.
        attempt: AttemptId,
    },
    /// What the source says it has. The driver must drain outputs before it uses a byte of it: an
    /// answer of another identity than the body so far is aborted.
    Opened {
        /// The attempt.
        attempt: AttemptId,
        /// Etag, hash, version: whatever must be equal for one answer to continue another.
        identity: u64,
        /// Bytes in all, if known.
        total: Option<u64>,
    },
    /// Bytes have arrived up to this absolute offset of the datum.
    Progress {
        /// The attempt.
        attempt: AttemptId,
        /// One past the last byte received.
        upto: u64,
    },
    /// A sign of life without bytes: the source is at work. Re-arms the idle and first-byte timers
    /// and the hedge.
    Heartbeat {
        /// The attempt.
        attempt: AttemptId,
    },
    /// The one end of every start, after an abort too.
    Ended {
        /// The attempt.
        attempt: AttemptId,
        /// How it ended.
        end: End,
    },
    /// The answer to [`Output::Judge`](crate::Output::Judge).
    Judged {
        /// The judgement.
        judgement: JudgementId,
        /// What the judge says.
        verdict: Verdict,
    },
    /// The answer to [`Output::Commit`](crate::Output::Commit).
    Committed {
        /// The fetch.
        fetch: FetchId,
        /// `Err(Exists)` is success: somebody else committed it.
        result: Result<(), CommitFault>,
    },
    /// The datum came by another way: pushed, unsolicited, with another answer. Its fetch ends well
    /// for all waiters.
    Obtained {
        /// What came.
        key: K,
        /// From whom, if known.
        from: Option<SourceId>,
    },
    /// A source is reachable. Also moves a known source to another group.
    SourceUp {
        /// The source.
        source: SourceId,
        /// The limits that it shares.
        group: GroupId,
    },
    /// A source is gone. Its health is remembered
    /// ([`Config::remembered_sources_max`](crate::Config)); attempts under way end by themselves.
    SourceDown {
        /// The source.
        source: SourceId,
    },
    /// All that is remembered of a source that is down, blocks included, is dropped.
    Forget {
        /// The source.
        source: SourceId,
    },
    /// The source is out of every target set. A targeted fetch that this leaves without a target
    /// waits if it is persistent, and is exhausted otherwise.
    Withdraw {
        /// The source.
        source: SourceId,
    },
    /// The source is out of one fetch's target set.
    WithdrawFrom {
        /// What is fetched.
        key: K,
        /// The source.
        source: SourceId,
    },
    /// No attempt goes to this source; those under way are aborted.
    Block {
        /// The source, known or not.
        source: SourceId,
        /// When the block ends; never by itself if `None`.
        until: Option<Time>,
    },
    /// The block ends.
    Unblock {
        /// The source.
        source: SourceId,
    },
    /// Sets the limits of a source or a group.
    Limit {
        /// Whose.
        scope: Scope,
        /// The limits.
        limits: Limits,
    },
    /// No new attempt in this scope until then: a server named a time (Retry-After, NOTICE).
    Pause {
        /// Whose.
        scope: Scope,
        /// Until when; an earlier time than now ends a pause.
        until: Time,
    },
}

/// What limits and pauses apply to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// One source.
    Source(SourceId),
    /// One group; it exists from its first mention on.
    Group(GroupId),
    /// Everything.
    Whole,
}

/// Bounds on the attempts of a source, a group or the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Attempts under way at once.
    pub concurrent_max: NonZeroU32,
    /// Attempts started: a token bucket; unlimited if `None`.
    pub rate: Option<Rate>,
    /// The group that this group's limits are nested in, in place of the whole; ignored on sources
    /// and where it would close a circle.
    pub within: Option<GroupId>,
}

/// A token bucket: so many starts a minute, and so many at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens added each minute.
    pub per_minute_max: NonZeroU32,
    /// Tokens that the bucket holds.
    pub burst_max: NonZeroU32,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The answer is whole.
    Complete {
        /// Its end as an absolute offset of the datum (the length, where the answer began at 0).
        upto: u64,
    },
    /// The source does not have it: an answer, which costs the source nothing.
    Missing,
    /// The source asks to be left alone for a while.
    Busy {
        /// For how long, if it said so.
        retry_after: Option<Duration>,
    },
    /// It failed.
    Failed(Fault),
    /// The driver stopped it, on [`Output::Abort`](crate::Output::Abort) or by its own decision.
    Aborted,
}

/// Why an attempt failed. Who is to blame, and whether trying again helps, is part of the kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The source refused the connection or the request.
    Refused,
    /// No way to the source.
    Unreachable,
    /// No sign in time.
    TimedOut,
    /// The answer broke off.
    Truncated,
    /// The answer is malformed, or not what was asked.
    Malformed,
    /// The answer is larger than the plan allows.
    TooLarge,
    /// The source is not the one to ask (a cluster member with another view).
    NotCoordinator,
    /// The source has another version by now.
    Changed,
    /// The source does not let us.
    Forbidden,
    /// The source failed on its side (a 5xx answer).
    Internal,
    /// Our own side failed: no blame.
    Local,
}

impl Fault {
    /// Whether the source is to blame, so that its health suffers.
    pub const fn blames_source(self) -> bool {
        !matches!(
            self,
            Self::NotCoordinator | Self::Changed | Self::Forbidden | Self::Local
        )
    }

    /// Whether the same request to the same source may succeed later. Where not, a plan with a retry
    /// budget does not ask that source again for that fetch.
    pub const fn may_pass(self) -> bool {
        !matches!(
            self,
            Self::TooLarge | Self::NotCoordinator | Self::Changed | Self::Forbidden
        )
    }
}

/// What the judge says of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It is the datum. Goes on to commit.
    Valid,
    /// Useful, yet not enough: credits the source and tries on.
    Partial,
    /// Cannot be told: tries on, without credit or penalty.
    Ambiguous,
    /// Wrong: tries elsewhere, and does to the source what the plan says.
    Invalid,
    /// Nobody cares any more: retires the key with all its waiters.
    Ignored,
    /// The judge gave no verdict: retires the waiters it was asked for, and only them.
    GaveUp,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "it refused",
            Self::Unreachable => "it cannot be reached",
            Self::TimedOut => "no sign of it in time",
            Self::Truncated => "its answer broke off",
            Self::Malformed => "its answer was malformed",
            Self::TooLarge => "its answer was too large",
            Self::NotCoordinator => "it is not the one to ask",
            Self::Changed => "it has another version by now",
            Self::Forbidden => "it does not let us",
            Self::Internal => "it failed",
            Self::Local => "our own side failed",
        })
    }
}

/// Why a commit failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CommitFault {
    /// Somebody else committed it before: success.
    Exists,
    /// No room.
    Full,
    /// The store failed.
    Io,
    /// The store is shut.
    Closed,
}

impl fmt::Display for CommitFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exists => "somebody else stored it before",
            Self::Full => "the store is full",
            Self::Io => "the store failed",
            Self::Closed => "the store is shut",
        })
    }
}
