//! A trip: an [`Errand`] and the connection that it is at.

use crate::{time::nanos, wire::Stream};
use gannet_cluster::{Errand, Pace, Role};

/// An [`Errand`] and the connection that it is at.
#[derive(Debug)]
pub struct Trip {
    /// The way.
    pub errand: Errand,
    /// As what its first member is asked.
    pub role: Role,
    /// The connection, while there is one.
    pub stream: Option<Stream>,
    /// The place of the frame that comes next.
    pub place: u32,
    /// The byte that comes next.
    pub at: u64,
    /// When there was a sign last.
    pub heard: u64,
    /// Whether this connection has brought bytes.
    pub gained: bool,
}

impl Trip {
    /// Until when the member that was asked last may be silent; the engine's own timers bound the rest.
    pub fn patience_ends(&self, pace: Pace) -> Option<u64> {
        let patience = if self.role == Role::Holder {
            pace.holder_patience()
        } else if self.errand.is_referred() {
            pace.relay_patience()
        } else {
            return None;
        };
        Some(self.heard + nanos(patience))
    }
}
