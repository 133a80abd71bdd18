//! Request ids: unique in this process and very likely across processes, at the cost of one atomic
//! add. Not secrets, and not to be used as such.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};

/// Makes request ids. One per edge.
#[derive(Debug)]
pub(crate) struct IdMint {
    seed: u64,
    next: AtomicU64,
    host: String,
}

/// The id of one request: what `x-amz-request-id` carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RequestId(u64);

impl IdMint {
    /// A mint with a random seed.
    pub(crate) fn new() -> Self {
        // The only entropy that std offers: the keys of its hasher, fresh for each `RandomState`.
        let seed = RandomState::new().hash_one(std::process::id());
        let host = RandomState::new().hash_one(seed);
        Self {
            seed,
            next: AtomicU64::new(0),
            host: format!("gannet-{host:016x}"),
        }
    }

    /// A new id. Ids of one mint never repeat within 2^64 calls.
    pub(crate) fn mint(&self) -> RequestId {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        RequestId(mix(self.seed.wrapping_add(n)))
    }

    /// What `x-amz-id-2` carries: names this process, so that logs of several can be told apart.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }
}

impl RequestId {
    /// Sixteen upper-case hexadecimal digits, as AWS has it.
    pub(crate) fn digits(self) -> [u8; 16] {
        const HEX: &[u8; 16] = b"0123456789ABCDEF";
        std::array::from_fn(|i| HEX[(self.0 >> (60 - 4 * i)) as usize & 15])
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", self.0)
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection, so that distinct counters stay
/// distinct.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_are_unique_and_print_as_their_digits() {
        let mint = IdMint::new();
        let ids: HashSet<_> = (0..10_000).map(|_| mint.mint()).collect();
        assert_eq!(ids.len(), 10_000);
        for id in ids {
            assert_eq!(id.to_string().as_bytes(), id.digits());
        }
    }
}
