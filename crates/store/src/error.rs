//! What can go wrong in a store, and what to do about it.

use crate::Place;
use std::{io, path::PathBuf, sync::Arc};

/// Why a store could not do what it was asked.
///
/// That a blob is not held is no error: `open` answers `None`, and the caller refills. An error says
/// that the store does not know or cannot: refilling on one would turn a store's bad minute into a
/// load on the origin.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The blob was there when it was opened and is gone now. Refill.
    #[error("{0} is no longer there")]
    Gone(Place),
    /// The copy is not what was put: it has been dropped and counted. Refill.
    #[error("the copy of {place} is corrupt ({what}): it has been dropped")]
    Corrupt {
        /// The blob.
        place: Place,
        /// What was found.
        what: Arc<str>,
    },
    /// There is no room, and making some by eviction did not help. Serve without storing.
    #[error("no room for {need} bytes in {at}: free some, or lower the store's budget")]
    Full {
        /// The store.
        at: Arc<str>,
        /// What the blob would have taken.
        need: u64,
    },
    /// The blob alone exceeds what the store may hold.
    #[error("a blob of {need} bytes does not fit a store of {max}: raise the budget")]
    TooLarge {
        /// What the blob would take.
        need: u64,
        /// The store's budget.
        max: u64,
    },
    /// A passing fault: a time-out, throttling, too many open files. Try again later; not at once.
    #[error("the store failed for the moment: {0}")]
    Transient(Arc<str>),
    /// The store refused our credentials, or our user may not read or write there.
    #[error("access to the store was refused: {0}")]
    Auth(Arc<str>),
    /// The range lies outside the blob: a fault of the caller.
    #[error("the range {start}..{end} lies outside a blob of {len} bytes")]
    Range {
        /// Where the range begins.
        start: u64,
        /// Where it ends.
        end: u64,
        /// The blob's length.
        len: u64,
    },
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
    /// Another process uses the directory.
    #[error(
        "{} is in use by another process{}: stop that one, or give this one a directory of its own",
        dir.display(),
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// Who holds it, as far as it said.
        pid: Option<u32>,
    },
    /// The store cannot be used as it is configured, and why; nothing will change by retrying.
    #[error("{0}")]
    Unsuitable(Arc<str>),
}

impl StoreError {
    /// Whether asking again later may help, with nothing changed by anybody.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Transient(_) | Self::Full { .. })
    }

    /// Whether the blob is surely not there (any more): the caller may refill.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Gone(_) | Self::Corrupt { .. })
    }

    /// What `error`, met while doing `what`, means. No room is `Full` only where the caller says so:
    /// this is for all else.
    pub(crate) fn from_io(what: &str, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::Auth(
                format!("{what}: {error}: let the user that runs this read and write there").into(),
            ),
            io::ErrorKind::ReadOnlyFilesystem => Self::Auth(
                format!("{what}: {error}: mount it writable, or choose another directory").into(),
            ),
            _ => Self::Transient(format!("{what}: {error}").into()),
        }
    }
}
