//! The id of an op, as it is kept for long.

use bytes::Bytes;
use kitsune2_api::OpId;
use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

/// Ids up to this length are kept in place. A hash has 32 bytes; some hosts add a prefix.
const SHORT_MAX: usize = 38;

/// An op's id with its bytes in place. The one that came in a message shares the buffer of the whole
/// message, and would keep it for as long as the op is wanted.
#[derive(Clone)]
pub(crate) struct OpKey(Repr);

#[derive(Clone)]
enum Repr {
    Short(u8, [u8; SHORT_MAX]),
    Long(Arc<[u8]>),
}

impl OpKey {
    pub(crate) fn new(id: &[u8]) -> Self {
        if id.len() > SHORT_MAX {
            return Self(Repr::Long(id.into()));
        }
        let mut bytes = [0; SHORT_MAX];
        bytes[..id.len()].copy_from_slice(id);
        Self(Repr::Short(id.len() as u8, bytes))
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Repr::Short(len, bytes) => &bytes[..usize::from(*len)],
            Repr::Long(bytes) => bytes,
        }
    }

    pub(crate) fn to_id(&self) -> OpId {
        OpId::from(Bytes::copy_from_slice(self.as_slice()))
    }
}

impl PartialEq for OpKey {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for OpKey {}

impl Hash for OpKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_slice().hash(state);
    }
}

impl fmt::Debug for OpKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_id().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_every_length_apart() {
        let ids: Vec<Vec<u8>> = (0..100).map(|len| vec![7; len]).collect();
        for (n, id) in ids.iter().enumerate() {
            let key = OpKey::new(id);
            assert_eq!(key.as_slice(), &id[..]);
            assert!(
                ids.iter()
                    .enumerate()
                    .all(|(m, other)| (OpKey::new(other) == key) == (m == n))
            );
        }
        assert_eq!(size_of::<OpKey>(), 40);
    }
}
