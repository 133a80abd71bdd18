//! A member of a cluster.

use std::{fmt, num::NonZeroU16, sync::Arc};

/// A member: where the others reach it, and how much of the work is its share.
///
/// The address is its identity: members that write it differently (a name here, a number there)
/// disagree on who coordinates what, at the cost of fetching some data twice.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    address: Arc<str>,
    weight: NonZeroU16,
}

impl Member {
    /// A member with the usual share of the work.
    pub fn new(address: &str) -> Self {
        Self::weighted(address, NonZeroU16::MIN)
    }

    /// A member whose share is so many times that of one with a weight of one.
    pub fn weighted(address: &str, weight: NonZeroU16) -> Self {
        Self {
            address: address.into(),
            weight,
        }
    }

    /// Where the others reach it.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its share of the work.
    pub const fn weight(&self) -> NonZeroU16 {
        self.weight
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.weight.get() {
            1 => f.write_str(&self.address),
            weight => write!(f, "{}*{weight}", self.address),
        }
    }
}
