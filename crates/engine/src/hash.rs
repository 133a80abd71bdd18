//! Seeded hashing. Nothing that is hashed is ever iterated, so no decision depends on hash order.

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

/// Finds slots by a key that the slot itself holds: eight bytes an entry.
///
/// Linear probing, and removal by shifting back: what is found is found in one cache line nearly
/// always, and however long keys come and go there is nothing to clean up. (A table with tombstones
/// rehashes in place every so often, which looks at the key of every entry there is.)
#[derive(Debug)]
pub(crate) struct KeyTable<S> {
    entries: Vec<Entry>,
    len: usize,
    seeded: S,
}

/// The half of a key's hash that decides over its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag(u32);

#[derive(Clone, Copy, Debug)]
struct Entry {
    tag: Tag,
    slot: u32,
}

const VACANT: Entry = Entry {
    tag: Tag(0),
    slot: u32::MAX,
};
const ENTRIES_MIN: usize = 8;

impl<S: BuildHasher + Copy> KeyTable<S> {
    pub(crate) const fn new(seeded: S) -> Self {
        Self {
            entries: Vec::new(),
            len: 0,
            seeded,
        }
    }

    pub(crate) fn tag<Q: Hash>(&self, key: &Q) -> Tag {
        Tag((self.seeded.hash_one(key) >> 32) as u32)
    }

    pub(crate) fn find(&self, tag: Tag, is: impl Fn(u32) -> bool) -> Option<u32> {
        if self.len == 0 {
            return None;
        }
        let mut at = self.home(tag);
        loop {
            let entry = self.entries[at];
            if entry.slot == VACANT.slot {
                return None;
            }
            if entry.tag == tag && is(entry.slot) {
                return Some(entry.slot);
            }
            at = self.after(at);
        }
    }

    /// The slot must not be there yet.
    pub(crate) fn insert(&mut self, tag: Tag, slot: u32) {
        // At most four fifths full.
        if (self.len + 1) * 5 > self.entries.len() * 4 {
            self.grow();
        }
        self.len += 1;
        self.place(Entry { tag, slot });
    }

    pub(crate) fn remove(&mut self, tag: Tag, slot: u32) {
        if self.len == 0 {
            return;
        }
        let mut hole = self.home(tag);
        while self.entries[hole].slot != slot {
            if self.entries[hole].slot == VACANT.slot {
                return;
            }
            hole = self.after(hole);
        }
        self.len -= 1;
        // Whoever stands further on and not yet at home moves up, as long as the run lasts.
        let mut at = self.after(hole);
        loop {
            let entry = self.entries[at];
            if entry.slot == VACANT.slot {
                break;
            }
            if self.distance(self.home(entry.tag), at) >= self.distance(hole, at) {
                self.entries[hole] = entry;
                hole = at;
            }
            at = self.after(at);
        }
        self.entries[hole] = VACANT;
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// By the leading bits: growth keeps the order of entries, and so reads and writes in order.
    fn home(&self, tag: Tag) -> usize {
        ((u64::from(tag.0) * self.entries.len() as u64) >> 32) as usize
    }

    const fn after(&self, at: usize) -> usize {
        if at + 1 == self.entries.len() {
            0
        } else {
            at + 1
        }
    }

    /// Steps from one place to another.
    const fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from {
            to - from
        } else {
            to + self.entries.len() - from
        }
    }

    fn place(&mut self, entry: Entry) {
        let mut at = self.home(entry.tag);
        while self.entries[at].slot != VACANT.slot {
            at = self.after(at);
        }
        self.entries[at] = entry;
    }

    fn grow(&mut self) {
        let room = (self.entries.len() / 2 * 3).max(ENTRIES_MIN);
        let old = std::mem::replace(&mut self.entries, vec![VACANT; room]);
        for entry in old {
            if entry.slot != VACANT.slot {
                self.place(entry);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use std::collections::BTreeMap;

    /// So coarse that runs are long and wrap around the end.
    #[derive(Clone, Copy)]
    struct Coarse;
    struct Coarsely(u64);

    impl BuildHasher for Coarse {
        type Hasher = Coarsely;
        fn build_hasher(&self) -> Coarsely {
            Coarsely(0)
        }
    }

    impl Hasher for Coarsely {
        fn write(&mut self, bytes: &[u8]) {
            self.0 = u64::from(bytes[0] | 0x8f) << 56;
        }
        fn finish(&self) -> u64 {
            self.0
        }
    }

    fn is_a_map<S: BuildHasher + Copy>(seeded: S) {
        let (mut table, mut model) = (KeyTable::new(seeded), BTreeMap::new());
        // The key of slot n.
        let key = |slot: u32| u64::from(slot) * 3;
        let mut rng = Rng::new(5);
        for _ in 0..20_000 {
            let slot = rng.below(200) as u32;
            let tag = table.tag(&key(slot));
            if rng.below(2) == 0 {
                table.remove(tag, slot);
                model.remove(&slot);
            } else if model.insert(slot, ()).is_none() {
                table.insert(tag, slot);
            }
            assert_eq!(table.len(), model.len());
            let asked = rng.below(200) as u32;
            let found = table.find(table.tag(&key(asked)), |slot| key(slot) == key(asked));
            assert_eq!(found, model.contains_key(&asked).then_some(asked));
        }
    }

    #[test]
    fn finds_what_is_there() {
        is_a_map(Coarse);
        is_a_map(Mixed::new(3));
        is_a_map(Seeded::new(3));
    }
}
