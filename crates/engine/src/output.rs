//! Outputs: everything that the engine asks of the outside.

use crate::{
    id::{AttemptId, FetchId, JudgementId, SourceId, Time, WaiterId},
    input::{CommitFault, Fault},
    list::List,
};
use std::{fmt, sync::Arc, time::Duration};

/// One thing that the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output<K> {
    /// A fetch begins, by the want that was just fed. Comes before any other output that names it, and
    /// is the only one that carries the key.
    Opened {
        /// The fetch.
        fetch: FetchId,
        /// What it fetches.
        key: K,
    },
    /// Rank the sources of this fetch, and answer with
    /// [`Input::Candidates`](crate::Input::Candidates). Asked anew for each cycle.
    Select {
        /// The fetch.
        fetch: FetchId,
    },
    /// Send a request.
    Start {
        /// The attempt.
        attempt: AttemptId,
        /// The fetch that it is for.
        fetch: FetchId,
        /// Whom to ask.
        source: SourceId,
        /// The first byte to ask for.
        from_byte: u64,
        /// Why it is made.
        stage: Stage,
    },
    /// Stop this attempt, and answer with [`Input::Ended`](crate::Input::Ended).
    Abort {
        /// The attempt.
        attempt: AttemptId,
    },
    /// Judge an answer: the fetch's body under a resuming plan, the attempt's otherwise. Speaks for
    /// these waiters; those who join later get a judgement of their own on the same answer.
    Judge {
        /// The judgement.
        judgement: JudgementId,
        /// The fetch.
        fetch: FetchId,
        /// The attempts that brought the bytes, in the order of their bytes; the last completed it.
        contributors: List<AttemptId>,
        /// The waiters it speaks for; none, if all have gone meanwhile.
        waiters: List<WaiterId>,
    },
    /// Store the answer that was judged last.
    Commit {
        /// The fetch.
        fetch: FetchId,
    },
    /// The bytes of this attempt will not be used. Under a resuming plan: the body starts anew.
    Discard {
        /// The fetch that it was for.
        fetch: FetchId,
        /// The attempt.
        attempt: AttemptId,
    },
    /// The one outcome of a waiter.
    Finish {
        /// The waiter.
        waiter: WaiterId,
        /// Its fetch; none where the want was refused at once.
        fetch: Option<FetchId>,
        /// What it gets.
        outcome: Outcome,
    },
    /// The engine has forgotten the fetch: drop what is held for it.
    Retired {
        /// The fetch.
        fetch: FetchId,
    },
    /// The engine blocked a source by itself ([`OnInvalid::Block`](crate::OnInvalid::Block)).
    Blocked {
        /// The source.
        source: SourceId,
        /// When the block ends: not before one that stood already, and [`Time::FAR`] where that was for
        /// ever.
        until: Time,
    },
}

/// Why an attempt is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// The first of its fetch.
    First,
    /// One more of the same round.
    Fanout,
    /// A round went without news.
    Hedge,
    /// An earlier attempt failed before it brought a byte that counts.
    Retry,
    /// An earlier attempt broke off: continues its body.
    Resume,
}

/// What a waiter gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The datum, and who brought it.
    Datum {
        /// In the order of their bytes; empty where it came by another way from nobody known.
        sources: Sources,
    },
    /// It could not be had.
    Failed {
        /// Why.
        error: FetchError,
        /// Every source tried in the last cycle and how each ended, in the order of their starts.
        tried: Arc<[Tried]>,
    },
}

/// The sources of a datum: nearly always one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sources {
    /// Nobody known.
    Unknown,
    /// One source brought it all.
    One(SourceId),
    /// Several did, in the order of their bytes.
    Many(Arc<[SourceId]>),
}

impl Sources {
    /// The sources as a slice.
    pub fn as_slice(&self) -> &[SourceId] {
        match self {
            Self::Unknown => &[],
            Self::One(source) => std::slice::from_ref(source),
            Self::Many(sources) => sources,
        }
    }
}

/// A source that was tried, and how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tried {
    /// The source.
    pub source: SourceId,
    /// The attempt.
    pub attempt: AttemptId,
    /// How it ended.
    pub how: HowEnded,
    /// From start to end.
    pub took: Duration,
}

/// How an attempt that did not bring the datum ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HowEnded {
    /// Still under way when the fetch ended.
    Unfinished,
    /// The source did not have it.
    Missing,
    /// The source was busy.
    Busy,
    /// It failed.
    Failed(Fault),
    /// Stopped by us, for another was faster or none was wanted.
    Aborted,
    /// Its answer was useful, yet not enough.
    Partial,
    /// Nobody could tell whether its answer was right.
    Ambiguous,
    /// Its answer was wrong.
    Invalid,
    /// Its answer was right, but could not be stored.
    Uncommitted,
}

impl fmt::Display for HowEnded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unfinished => "it was still being asked",
            Self::Missing => "it does not have it",
            Self::Busy => "it is busy",
            Self::Failed(fault) => return fault.fmt(f),
            Self::Aborted => "it was not waited for",
            Self::Partial => "its answer was not enough",
            Self::Ambiguous => "nobody could tell whether its answer was right",
            Self::Invalid => "its answer was wrong",
            Self::Uncommitted => "its answer could not be stored",
        })
    }
}

/// Why a waiter does not get the datum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FetchError {
    /// No source may serve it: none was named, or all named are down or blocked.
    NoCandidates,
    /// Every candidate was tried, as often as the plan says.
    Exhausted,
    /// The judge says that nobody cares any more, or gave no verdict.
    Ignored,
    /// The driver cancelled it ([`Engine::retain`](crate::Engine::retain)).
    Cancelled,
    /// The waiter's deadline passed.
    Expired,
    /// A bound was reached: too many fetches or waiters, or larger than memory allows.
    Overloaded,
    /// It was fetched and could not be stored, and the plan allows no further try.
    Commit(CommitFault),
}
