//! What a failure at an origin means: to the engine, and to the client.
//!
//! An origin's error says one of three things. *Of the object*: it is not there, it may not be read,
//! it has no etag; where the primary origin says so, that is the answer, and no mirror is asked.
//! *Of the version*: the origin has another by now. *Of the way*: it could not be reached or did not
//! answer well; another source, or another try, may do better.

use crate::{origin::OriginError, types::ObjectError};
use gannet::{
    AttemptError, ErrorKind, FetchError,
    engine::{CommitFault, End, Fault, HowEnded, SourceId},
};
use gannet_store::StoreError;
use std::sync::Arc;

/// What the engine is told.
pub(crate) fn attempt_error(error: &OriginError) -> AttemptError {
    let fault = match error {
        OriginError::NoSuchKey | OriginError::NoSuchBucket => {
            return AttemptError {
                end: End::Missing,
                detail: error.to_string().into(),
            };
        }
        OriginError::Throttled { retry_after } => return AttemptError::busy(*retry_after),
        OriginError::Denied(_) | OriginError::Invalid(_) | OriginError::Unsupported(_) => {
            Fault::Forbidden
        }
        OriginError::Changed => Fault::Changed,
        OriginError::MissingEtag | OriginError::Malformed(_) => Fault::Malformed,
        OriginError::Server(_) => Fault::Internal,
        OriginError::Connect(_) => Fault::Unreachable,
        OriginError::Truncated(_) => Fault::Truncated,
        OriginError::Local(_) => Fault::Local,
    };
    AttemptError::failed(fault, error.to_string())
}

/// What an origin's error says of the object itself, if that is what it speaks of.
pub(crate) fn of_the_object(error: &OriginError) -> Option<ObjectError> {
    Some(match error {
        OriginError::NoSuchKey => ObjectError::NoSuchKey,
        OriginError::NoSuchBucket => ObjectError::NoSuchBucket,
        OriginError::Denied(_) => ObjectError::AccessDenied,
        OriginError::MissingEtag => ObjectError::MissingEtag,
        OriginError::Unsupported(what) => ObjectError::Unsupported(Arc::clone(what)),
        OriginError::Invalid(what) => ObjectError::Invalid(Arc::clone(what)),
        OriginError::Changed
        | OriginError::Throttled { .. }
        | OriginError::Server(_)
        | OriginError::Connect(_)
        | OriginError::Truncated(_)
        | OriginError::Malformed(_)
        | OriginError::Local(_) => return None,
    })
}

/// What the client is told when a fetch failed. `primary` says which sources are the origin itself,
/// whose word on the object counts; a mirror may be behind.
pub(crate) fn object_error(error: &FetchError, primary: impl Fn(SourceId) -> bool) -> ObjectError {
    match error.kind {
        ErrorKind::Exhausted => {}
        ErrorKind::NoCandidates => {
            return ObjectError::Unavailable("no source may serve it".into());
        }
        ErrorKind::Overloaded => return ObjectError::SlowDown("too much under way".into()),
        ErrorKind::Expired => return ObjectError::SlowDown("the origin's queue is full".into()),
        ErrorKind::Cancelled | ErrorKind::Closed => {
            return ObjectError::Unavailable("shutting down".into());
        }
        _ => return ObjectError::Internal(error.kind.to_string().into()),
    }
    let by_primary = |how: HowEnded| {
        error
            .tried
            .iter()
            .any(|tried| tried.how == how && primary(tried.source))
    };
    if by_primary(HowEnded::Missing) {
        return ObjectError::NoSuchKey;
    }
    if by_primary(HowEnded::Failed(Fault::Changed)) {
        return ObjectError::EtagChanged;
    }
    if by_primary(HowEnded::Failed(Fault::Forbidden)) {
        return ObjectError::AccessDenied;
    }
    if by_primary(HowEnded::Busy) {
        return ObjectError::SlowDown("the origin asks for it".into());
    }
    let last = error.tried.iter().rev().find(|tried| primary(tried.source));
    let text = match last {
        Some(tried) if !tried.detail.is_empty() => tried.detail.clone().into_owned(),
        Some(tried) => tried.how.to_string(),
        None => "it was not asked, for it has failed too often of late".to_owned(),
    };
    ObjectError::Unavailable(text.into())
}

/// What the engine is told when a shared store fails to answer.
pub(crate) fn store_attempt_error(error: &StoreError) -> AttemptError {
    let fault = match error {
        StoreError::Gone(_) | StoreError::Corrupt { .. } => {
            return AttemptError {
                end: End::Missing,
                detail: error.to_string().into(),
            };
        }
        StoreError::Auth(_) => Fault::Forbidden,
        StoreError::Transient(_) => Fault::Unreachable,
        _ => Fault::Local,
    };
    AttemptError::failed(fault, error.to_string())
}

/// What the engine is told when a commit fails.
pub(crate) fn commit_fault(error: &StoreError) -> CommitFault {
    match error {
        StoreError::Full { .. } | StoreError::TooLarge { .. } => CommitFault::Full,
        StoreError::Closed => CommitFault::Closed,
        _ => CommitFault::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gannet::Tried;
    use std::time::Duration;

    fn exhausted(tried: &[(u64, HowEnded)]) -> FetchError {
        let tried = tried.iter().map(|&(source, how)| Tried {
            source: SourceId(source),
            how,
            took: Duration::ZERO,
            detail: "said so".into(),
        });
        FetchError {
            kind: ErrorKind::Exhausted,
            tried: tried.collect(),
        }
    }

    #[test]
    fn the_primary_has_the_last_word() {
        let failed = HowEnded::Failed;
        let check = |tried: &[(u64, HowEnded)], expected: &str| {
            let error = object_error(&exhausted(tried), |source| source.0 == 1);
            assert!(
                format!("{error:?}").starts_with(expected),
                "{tried:?}: {error:?}"
            );
        };
        check(
            &[(1, HowEnded::Missing), (2, failed(Fault::Unreachable))],
            "NoSuchKey",
        );
        check(
            &[(1, failed(Fault::Unreachable)), (2, HowEnded::Missing)],
            "Unavailable(\"said so\")",
        );
        check(
            &[(1, failed(Fault::Changed)), (2, HowEnded::Missing)],
            "EtagChanged",
        );
        check(
            &[(1, failed(Fault::Internal)), (2, failed(Fault::Changed))],
            "Unavailable",
        );
        check(&[(1, failed(Fault::Forbidden))], "AccessDenied");
        check(
            &[(1, HowEnded::Busy), (1, failed(Fault::Unreachable))],
            "SlowDown",
        );
        check(
            &[(2, failed(Fault::Unreachable))],
            "Unavailable(\"it was not asked",
        );
        check(&[], "Unavailable");
    }

    #[test]
    fn a_passing_fault_is_never_an_answer_about_the_object() {
        let text = || Arc::<str>::from("x");
        for passing in [
            OriginError::Changed,
            OriginError::Throttled { retry_after: None },
            OriginError::Server(text()),
            OriginError::Connect(text()),
            OriginError::Truncated(text()),
            OriginError::Malformed(text()),
            OriginError::Local(text()),
        ] {
            assert!(of_the_object(&passing).is_none(), "{passing:?}");
            assert!(attempt_error(&passing).end != End::Missing, "{passing:?}");
        }
        for lasting in [
            OriginError::NoSuchKey,
            OriginError::MissingEtag,
            OriginError::Denied(text()),
        ] {
            assert!(of_the_object(&lasting).is_some(), "{lasting:?}");
        }
    }
}
