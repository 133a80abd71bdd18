//! Why a caller gets nothing.

use crate::book::{Attempt, How};
use std::fmt;

/// Why a caller gets nothing, and what became of each request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FetchError {
    /// What kind of failure it is.
    pub kind: FetchErrorKind,
    /// The requests, in their order. Those of other callers of the same key are among them.
    pub attempts: Vec<Attempt>,
}

/// The kinds of [`FetchError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum FetchErrorKind {
    /// Nobody is known who could be asked. Name a server: a hint, members of the room, a pool.
    #[error("no server is known that could be asked; name some")]
    NoServers,
    /// Everybody who was asked does not have it, or does not let us see it.
    #[error("no server that was asked has it")]
    Missing,
    /// Answers came, but none that could be used: see what became of each.
    #[error("no answer could be verified")]
    Unverified,
    /// Every server was asked in vain.
    #[error("no server gave an answer")]
    Exhausted,
    /// The caller's patience was over.
    #[error("it took too long")]
    Expired,
    /// Too much is wanted at once. Try later.
    #[error("overloaded")]
    Overloaded,
    /// The fetcher was shut down.
    #[error("the fetcher is shut down")]
    Closed,
    /// A bug on our side: the log says more.
    #[error("the fetcher failed; this is a bug")]
    Broken,
}

impl FetchError {
    pub(crate) fn new(kind: FetchErrorKind, attempts: Vec<Attempt>) -> Self {
        Self { kind, attempts }
    }

    /// What an engine's failure means, given what became of each request.
    pub(crate) fn of(kind: gannet::ErrorKind, attempts: Vec<Attempt>) -> Self {
        use gannet::ErrorKind;
        let kind = match kind {
            ErrorKind::NoCandidates => FetchErrorKind::NoServers,
            ErrorKind::Exhausted => Self::exhausted(&attempts),
            ErrorKind::Expired => FetchErrorKind::Expired,
            ErrorKind::Overloaded => FetchErrorKind::Overloaded,
            ErrorKind::Cancelled | ErrorKind::Closed => FetchErrorKind::Closed,
            _ => FetchErrorKind::Broken,
        };
        Self::new(kind, attempts)
    }

    fn exhausted(attempts: &[Attempt]) -> FetchErrorKind {
        let any = |hows: &[How]| attempts.iter().any(|attempt| hows.contains(&attempt.how));
        let missing = [How::Missing, How::Forbidden, How::Empty];
        if any(&[How::Bad, How::Unproven, How::Cut]) {
            FetchErrorKind::Unverified
        } else if !attempts.is_empty() && attempts.iter().all(|a| missing.contains(&a.how)) {
            FetchErrorKind::Missing
        } else {
            FetchErrorKind::Exhausted
        }
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        for (n, attempt) in self.attempts.iter().enumerate() {
            f.write_str(if n == 0 { " (" } else { "; " })?;
            write!(f, "{}: {}", attempt.server, attempt.how.name())?;
            if !attempt.detail.is_empty() {
                write!(f, ": {}", attempt.detail)?;
            }
        }
        f.write_str(if self.attempts.is_empty() { "" } else { ")" })
    }
}

impl std::error::Error for FetchError {}

#[cfg(test)]
mod tests {
    use super::*;
    use ruma_common::owned_server_name;
    use std::time::Duration;

    fn attempt(how: How) -> Attempt {
        Attempt {
            server: owned_server_name!("a"),
            op: crate::Op::Event,
            how,
            took: Duration::ZERO,
            detail: "why".into(),
        }
    }

    #[test]
    fn a_failure_is_called_by_what_became_of_the_requests() {
        let check = |hows: &[How], kind| {
            let attempts = hows.iter().map(|how| attempt(*how)).collect();
            let error = FetchError::of(gannet::ErrorKind::Exhausted, attempts);
            assert_eq!(error.kind, kind, "{hows:?}");
        };
        check(
            &[How::Missing, How::Forbidden, How::Empty],
            FetchErrorKind::Missing,
        );
        check(&[How::Missing, How::Failed], FetchErrorKind::Exhausted);
        check(
            &[How::Missing, How::Bad, How::Failed],
            FetchErrorKind::Unverified,
        );
        check(&[], FetchErrorKind::Exhausted);
    }

    #[test]
    fn it_says_who_did_what() {
        let attempts = vec![attempt(How::Busy), attempt(How::Missing)];
        let error = FetchError::new(FetchErrorKind::Exhausted, attempts);
        assert_eq!(
            error.to_string(),
            "no server gave an answer (a: busy: why; a: missing: why)"
        );
    }
}
