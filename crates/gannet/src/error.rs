//! Why a caller does not get its datum.

use crate::{
    body::ReadError,
    engine::{self, CommitFault, HowEnded, SourceId},
};
use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

/// Why a caller does not get its datum, with every source that was tried and what it said.
#[derive(Clone, Debug)]
pub struct FetchError {
    /// What kind of failure it is.
    pub kind: ErrorKind,
    /// The sources tried in the last cycle, in the order of their starts.
    pub tried: Arc<[Tried]>,
}

/// The kinds of [`FetchError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No source may serve the key: none was ranked, or all that were are down or blocked.
    #[error("no source may serve it")]
    NoCandidates,
    /// Every candidate was tried as often as the plan allows; [`FetchError::tried`] says what each
    /// answered.
    #[error("every source was tried in vain")]
    Exhausted,
    /// The judge said that nobody cares any more, or gave no verdict.
    #[error("the judge lost interest")]
    Ignored,
    /// Cancelled by [`Fetcher::retain`](crate::Fetcher::retain), or by a shutdown.
    #[error("cancelled")]
    Cancelled,
    /// The caller's deadline passed.
    #[error("the deadline passed")]
    Expired,
    /// A bound was reached: too many fetches or callers, or larger than memory allows. Try later.
    #[error("overloaded")]
    Overloaded,
    /// It was fetched and could not be stored, and the plan allows no further try.
    #[error("it could not be stored: {0}")]
    Uncommitted(CommitFault),
    /// It is there, but not as a whole in memory: it came by another way and the store does not hold
    /// it, or it is larger than the window ([`Config::window_bytes_max`](crate::Config)). Stream it,
    /// or ask the store.
    #[error("it is not held as a whole")]
    NotHeld,
    /// A stream's bytes were good enough for others, but not for this caller, and another answer was
    /// fetched: ask again from the start. Streams report it as [`StreamError::Cut`].
    #[error("the bytes read so far were superseded")]
    Superseded,
    /// The fetcher was shut down.
    #[error("the fetcher is shut down")]
    Closed,
    /// The fetcher's worker panicked: a bug. The fetcher is of no more use.
    #[error("the fetcher failed; this is a bug")]
    Broken,
}

/// A source that was tried.
#[derive(Clone, Debug)]
pub struct Tried {
    /// The source.
    pub source: SourceId,
    /// How the attempt ended.
    pub how: HowEnded,
    /// From its start to its end.
    pub took: Duration,
    /// What the transport had to say about it; empty where it said nothing.
    pub detail: Cow<'static, str>,
}

impl FetchError {
    pub(crate) fn new(kind: ErrorKind) -> Self {
        Self {
            kind,
            tried: Arc::default(),
        }
    }

    /// Whether every source that was tried says that it does not have the datum: it does not exist,
    /// as far as anybody knows.
    pub fn is_missing(&self) -> bool {
        self.kind == ErrorKind::Exhausted
            && !self.tried.is_empty()
            && self
                .tried
                .iter()
                .all(|tried| tried.how == HowEnded::Missing)
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        for (n, tried) in self.tried.iter().enumerate() {
            f.write_str(if n == 0 { " (" } else { "; " })?;
            write!(f, "source {}: {}", tried.source.0, tried.how)?;
            if !tried.detail.is_empty() {
                write!(f, ": {}", tried.detail)?;
            }
        }
        f.write_str(if self.tried.is_empty() { "" } else { ")" })
    }
}

impl std::error::Error for FetchError {}

impl From<engine::FetchError> for ErrorKind {
    fn from(error: engine::FetchError) -> Self {
        match error {
            engine::FetchError::NoCandidates => Self::NoCandidates,
            engine::FetchError::Exhausted => Self::Exhausted,
            engine::FetchError::Ignored => Self::Ignored,
            engine::FetchError::Cancelled => Self::Cancelled,
            engine::FetchError::Expired => Self::Expired,
            engine::FetchError::Overloaded => Self::Overloaded,
            engine::FetchError::Commit(fault) => Self::Uncommitted(fault),
        }
    }
}

/// Why a stream ended before its last byte.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StreamError {
    /// The rest cannot be had. What was read so far is right as far as the transport can vouch for
    /// it, but was never judged as a whole.
    #[error(transparent)]
    Failed(#[from] FetchError),
    /// The body starts anew with other bytes than those already read: what was read so far is of no
    /// use. Ask again from the start.
    #[error("the bytes read so far turned out to be of another version")]
    Cut,
    /// The reader was too slow for the window: continue from the store, or by a fetch of the rest.
    #[error("lagged behind the window at byte {position}")]
    Lagged {
        /// The next byte that the reader wants.
        position: u64,
    },
}

impl StreamError {
    /// What a reader's error means where the fetch itself has not failed.
    pub(crate) fn from_read(error: ReadError) -> Self {
        match error {
            ReadError::Cut => Self::Cut,
            ReadError::Lagged { position } => Self::Lagged { position },
            // The worker ends a body only after it has told every waiter.
            ReadError::Broken { .. } => Self::Failed(FetchError::new(ErrorKind::Broken)),
        }
    }
}
