//! The limit on open files: each connection is one, and the usual soft limit of 1,024 is no limit
//! that anybody chose.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Fewer than this are too few for a busy cache.
const WANTED: u64 = 16_384;

/// Raises the soft limit to the hard one, and says so where that is still low.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    match getrlimit(Resource::Nofile).current {
        Some(files) if files < WANTED => tracing::warn!(
            files,
            "few files may be open at a time: connections beyond that will be refused; raise it with \
             ulimit -n, or LimitNOFILE= in a unit"
        ),
        files => tracing::debug!(?files, "limit of open files"),
    }
}
