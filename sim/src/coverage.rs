//! "Sometimes" properties: the states that a run over many seeds must have reached.
//!
//! A simulation that never sees a hedge lose says nothing about hedges that lose. Each mark counts
//! how often its state was reached; a run over enough seeds fails if one never was.

use std::fmt;

macro_rules! marks {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// A state worth reaching.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mark { $($(#[$doc])* $name),* }
        impl Mark {
            /// Every mark.
            pub const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

marks! {
    /// A want joined a fetch in flight.
    Coalesced,
    /// A hedge brought bytes of the datum.
    HedgeWon,
    /// A hedge was aborted, for another was faster.
    HedgeLost,
    /// An attempt continued a body that broke off.
    Resumed,
    /// A body was brought by several sources.
    ManySources,
    /// An attempt of another identity than the body so far was aborted.
    OtherIdentityAborted,
    /// A body was started anew.
    BodyDiscarded,
    /// A wrong body of several contributors was found out.
    ManyContributorsInvalid,
    /// ... and came from one source afterwards.
    RefetchedSolo,
    /// A want took a draining fetch up again.
    Revived,
    /// An input for an attempt that has ended.
    LateInput,
    /// An answer crossed the abort of its attempt.
    CompleteAfterAbort,
    /// A host declined a start.
    Declined,
    /// A source was asked again after it had declined.
    AskedAfterDecline,
    /// An answer was right.
    Valid,
    /// An answer was useful, yet not enough.
    Partial,
    /// Nobody could tell whether an answer was right.
    Ambiguous,
    /// An answer was wrong.
    Invalid,
    /// The judge retired a key.
    Ignored,
    /// The judge gave no verdict.
    GaveUp,
    /// A verdict came when nobody waited any more.
    VerdictAfterCancel,
    /// A waiter who joined while the judge thought was judged for on its own.
    LateJoinerJudged,
    /// The datum came by another way while the judge thought.
    ObtainedWhileJudging,
    /// The datum came by another way.
    Obtained,
    /// A commit went through.
    Committed,
    /// Somebody else had committed before.
    CommitExists,
    /// A commit failed.
    CommitFailed,
    /// ... and the datum was fetched again, and stored.
    CommittedAfterFailure,
    /// A newcomer was served while the commit of data already served went on.
    ServedDuringCommit,
    /// The engine blocked a source by itself.
    EngineBlocked,
    /// The driver blocked a source that had attempts under way.
    BlockedUnderWay,
    /// A source was asked after its block had run out.
    BlockExpired,
    /// A source asked to be left alone, and was.
    Throttled,
    /// A dead source was asked all the same.
    DeadProbed,
    /// A source that was dead became healthy.
    Recovered,
    /// The driver paused a source, a group or everything.
    Paused,
    /// A fetch stood in a queue while a source that it had not asked was idle, for a moment.
    LooksAgain,
    /// A fetch waited for a racing slot.
    RacingFull,
    /// A fetch waited for bytes.
    BytesFull,
    /// A fetch waited for a source, a group or the whole to have room.
    ConcurrencyFull,
    /// A fetch waited for a token.
    RateWaited,
    /// A want was refused for a bound.
    Overloaded,
    /// A deadline passed.
    Expired,
    /// A deadline was moved, and the waiter outlived the old one.
    OutlivedDeadline,
    /// A waiter was cancelled by the driver.
    Cancelled,
    /// A fetch that nobody waited for went on to its end.
    DetachedFinished,
    /// A fetch that nobody waited for reached its ceiling.
    DetachedCeiling,
    /// A target was withdrawn from a fetch in flight.
    TargetWithdrawn,
    /// A restriction was lifted by a later want.
    RestrictionLifted,
    /// An announcement woke a fetch.
    AnnouncedWoke,
    /// A fetch without an eligible source waited, and was answered.
    WaitedForSource,
    /// A fetch had no candidates.
    NoCandidates,
    /// Every candidate had failed.
    Exhausted,
    /// A fetch went into another cycle.
    Recycled,
    /// A waiter got the fault of a commit.
    CommitError,
    /// The first-byte timer ran out.
    FirstByteTimeout,
    /// The idle timer ran out.
    IdleTimeout,
    /// The total timer ran out.
    TotalTimeout,
    /// Too few bytes came in a window.
    ThroughputTimeout,
    /// An answer larger than the plan allows was stopped.
    TooLarge,
    /// A round of several attempts.
    Fanout,
    /// An empty datum.
    EmptyDatum,
    /// Several inputs came between two polls.
    InputsBetweenPolls,
    /// A source came back while it was wanted.
    SourceReturned,
    /// A remembered source was forgotten.
    Forgotten,
    /// Shares under saturation followed the weights of priorities.
    FairPriorities,
    /// ... and owners took turns.
    FairOwners,
    /// ... and groups took turns.
    FairGroups,
}

/// How often each mark was reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage(Vec<u64>);

impl Default for Coverage {
    fn default() -> Self {
        Self(vec![0; Mark::ALL.len()])
    }
}

impl Coverage {
    /// Counts one.
    pub fn hit(&mut self, mark: Mark) {
        self.0[mark as usize] += 1;
    }

    /// Adds another run's counts.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine += theirs;
        }
    }

    /// Every mark and its count.
    pub fn iter(&self) -> impl Iterator<Item = (Mark, u64)> {
        Mark::ALL.iter().copied().zip(self.0.iter().copied())
    }

    /// The marks never reached.
    pub fn missing(&self) -> Vec<Mark> {
        self.iter()
            .filter(|(_, count)| *count == 0)
            .map(|(mark, _)| mark)
            .collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (mark, count)) in self.iter().enumerate() {
            let gap = if n == 0 { "" } else { " " };
            write!(f, "{gap}{mark:?}={count}")?;
        }
        Ok(())
    }
}
