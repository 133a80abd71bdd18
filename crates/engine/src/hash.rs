//! Seeded hashing. Nothing that is hashed is ever iterated, so no decision depends on hash order.

use hashbrown::HashTable;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher};

/// SipHash with the seed as a prefix: whoever chooses keys cannot choose collisions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seeded(u64);

impl Seeded {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }
}

impl BuildHasher for Seeded {
    type Hasher = DefaultHasher;
    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher
    }
}

/// For ids that the driver chooses: a keyed multiply-and-fold, cheap and good enough for numbers that
/// no enemy picks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mixed(u64);

impl Mixed {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }
}

impl BuildHasher for Mixed {
    type Hasher = Mix;
    fn build_hasher(&self) -> Mix {
        Mix(self.0)
    }
}

pub(crate) struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product as u64) ^ ((product >> 64) as u64).rotate_left(23);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Finds slots by a key that the slot itself holds: four bytes an entry beside the control byte.
#[derive(Debug)]
pub(crate) struct KeyTable<S> {
    table: HashTable<u32>,
    seeded: S,
}

impl<S: BuildHasher + Copy> KeyTable<S> {
    pub(crate) const fn new(seeded: S) -> Self {
        Self {
            table: HashTable::new(),
            seeded,
        }
    }

    pub(crate) fn find<Q: Hash>(&self, key: &Q, is: impl Fn(u32) -> bool) -> Option<u32> {
        self.table
            .find(self.seeded.hash_one(key), |slot| is(*slot))
            .copied()
    }

    /// `hash_of` gives the key of another slot, when the table grows.
    pub(crate) fn insert<Q: Hash>(
        &mut self,
        key: &Q,
        slot: u32,
        rehash: impl Fn(u32, &dyn Fn(&Q) -> u64) -> u64,
    ) {
        let seeded = self.seeded;
        let hash = |key: &Q| seeded.hash_one(key);
        self.table
            .insert_unique(hash(key), slot, |slot| rehash(*slot, &hash));
    }

    pub(crate) fn remove<Q: Hash>(&mut self, key: &Q, slot: u32) {
        let hash = self.seeded.hash_one(key);
        if let Ok(entry) = self.table.find_entry(hash, |s| *s == slot) {
            entry.remove();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }
}
