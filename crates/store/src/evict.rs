//! A map that knows what to evict: S3-FIFO, for the stores that have a budget.
//!
//! Yang, Zhang, Qiu, Yue, Vinayak: "FIFO queues are all you need for cache eviction", SOSP 2023.
//! A newcomer enters a small queue (10 % of the budget). If it was asked for at least twice by the
//! time it reaches the end, it moves to the main queue, else it is evicted and its hash remembered
//! in a ghost queue; what returns while it is remembered enters the main queue at once. The main
//! queue gives what was asked for another round, once per hit, at most three. A scan thus passes
//! through the small queue and leaves the rest alone.
//!
//! Differences from the paper: entries have weights, so the queues are bounded by weight, and the
//! ghost queue holds as many hashes as there are entries.
//!
//! Cost: O(1) for each operation, amortised for [`evict`](S3Fifo::evict) (an entry is passed over
//! at most three times per three hits). A hit needs only `&self` and writes one byte, so that
//! readers share a read lock.
//!
//! Not for: deciding when to evict. The caller compares [`weight`](S3Fifo::weight) with its budget.

use hashbrown::{HashTable, hash_table};
use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, Hash, RandomState},
    sync::atomic::{AtomicU8, Ordering::Relaxed},
};

/// Most hits that are remembered of an entry.
const HITS_MAX: u8 = 3;
/// Hits by which an entry of the small queue moves to the main one.
const HITS_TO_MAIN: u8 = 2;
/// The small queue's part of the whole weight.
const SMALL_DIVISOR: u64 = 10;
/// No slot.
const NIL: u32 = u32::MAX;

/// A map from `K` to `V` with weights, in S3-FIFO order.
#[derive(Debug)]
pub(crate) struct S3Fifo<K, V> {
    table: HashTable<u32>,
    slots: Vec<Slot<K, V>>,
    free: u32,
    small: Queue,
    main: Queue,
    ghosts: Ghosts,
    hasher: RandomState,
}

#[derive(Debug)]
struct Slot<K, V> {
    entry: Option<(K, V)>,
    weight: u64,
    hits: AtomicU8,
    in_main: bool,
    /// Towards the newest; the next free slot where `entry` is none.
    newer: u32,
    older: u32,
}

/// A doubly linked list through the slots.
#[derive(Debug)]
struct Queue {
    newest: u32,
    oldest: u32,
    weight: u64,
}

impl Queue {
    const EMPTY: Self = Self {
        newest: NIL,
        oldest: NIL,
        weight: 0,
    };
}

impl<K: Hash + Eq, V> S3Fifo<K, V> {
    pub(crate) fn new() -> Self {
        Self {
            table: HashTable::new(),
            slots: Vec::new(),
            free: NIL,
            small: Queue::EMPTY,
            main: Queue::EMPTY,
            ghosts: Ghosts::default(),
            hasher: RandomState::new(),
        }
    }

    /// Entries.
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Their weight.
    pub(crate) fn weight(&self) -> u64 {
        self.small.weight + self.main.weight
    }

    /// The entry, without counting a hit.
    pub(crate) fn peek(&self, key: &K) -> Option<&V> {
        Some(&self.slots[self.find(key)? as usize].entry.as_ref()?.1)
    }

    /// The entry, counting a hit.
    pub(crate) fn hit(&self, key: &K) -> Option<&V> {
        let slot = &self.slots[self.find(key)? as usize];
        let hits = slot.hits.load(Relaxed);
        if hits < HITS_MAX {
            // A hit lost to a race is one of several at the same moment: no harm.
            slot.hits.store(hits + 1, Relaxed);
        }
        Some(&slot.entry.as_ref()?.1)
    }

    /// The entry for writing, without counting a hit.
    pub(crate) fn peek_mut(&mut self, key: &K) -> Option<&mut V> {
        let slot = self.find(key)?;
        Some(&mut self.slots[slot as usize].entry.as_mut()?.1)
    }

    /// Adds an entry as the newest: of the main queue if it was evicted not long ago. Whether it was
    /// added: a key that is there already keeps its value.
    pub(crate) fn insert(&mut self, key: K, value: V, weight: u64) -> bool {
        let hash = self.hasher.hash_one(Some(&key));
        if self.find_hashed(hash, &key).is_some() {
            return false;
        }
        let in_main = self.ghosts.take(hash);
        self.insert_new(hash, key, value, weight, in_main);
        true
    }

    fn insert_new(&mut self, hash: u64, key: K, value: V, weight: u64, in_main: bool) {
        let slot = Slot {
            entry: Some((key, value)),
            weight,
            hits: AtomicU8::new(0),
            in_main,
            newer: NIL,
            older: NIL,
        };
        let at = if self.free == NIL {
            self.slots.push(slot);
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 entries fit in memory")
        } else {
            let at = self.free;
            self.free = self.slots[at as usize].newer;
            self.slots[at as usize] = slot;
            at
        };
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.table.insert_unique(hash, at, |&slot| {
            hasher.hash_one(slots[slot as usize].entry.as_ref().map(|entry| &entry.0))
        });
        self.link(at);
    }

    /// Removes an entry; nothing remembers it.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let at = self.find(key)?;
        self.take(at).map(|(_, value)| value)
    }

    /// Takes out the entry that is worth least, as of a cache of `budget`; none if it is empty.
    pub(crate) fn evict(&mut self, budget: u64) -> Option<(K, V, u64)> {
        loop {
            let small_over = self.small.weight >= budget / SMALL_DIVISOR;
            let at = if self.small.oldest != NIL && (small_over || self.main.oldest == NIL) {
                self.small.oldest
            } else {
                self.main.oldest
            };
            let slot = self.slots.get_mut(at as usize)?;
            let hits = slot.hits.get_mut();
            let stays = if slot.in_main {
                *hits > 0
            } else {
                *hits >= HITS_TO_MAIN
            };
            if stays {
                *hits = if slot.in_main { *hits - 1 } else { 0 };
                self.unlink(at);
                self.slots[at as usize].in_main = true;
                self.link(at);
                continue;
            }
            let (in_main, weight) = (slot.in_main, slot.weight);
            let (key, value) = self.take(at)?;
            if !in_main {
                self.ghosts
                    .add(self.hasher.hash_one(Some(&key)), self.table.len());
            }
            return Some((key, value, weight));
        }
    }

    /// All entries.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.slots
            .iter()
            .filter_map(|slot| slot.entry.as_ref())
            .map(|(key, value)| (key, value))
    }

    /// The first entry at or after position `from`, and the position after it: to walk over all of
    /// them bit by bit. One that is added meanwhile may be missed.
    pub(crate) fn walk(&self, from: usize) -> Option<(&K, &V, usize)> {
        let rest = self.slots.get(from..)?.iter().enumerate();
        rest.filter_map(|(at, slot)| slot.entry.as_ref().map(|(key, value)| (key, value, at)))
            .map(|(key, value, at)| (key, value, from + at + 1))
            .next()
    }

    fn find(&self, key: &K) -> Option<u32> {
        self.find_hashed(self.hasher.hash_one(Some(key)), key)
    }

    fn find_hashed(&self, hash: u64, key: &K) -> Option<u32> {
        self.table
            .find(hash, |&slot| {
                self.slots[slot as usize]
                    .entry
                    .as_ref()
                    .is_some_and(|entry| entry.0 == *key)
            })
            .copied()
    }

    fn take(&mut self, at: u32) -> Option<(K, V)> {
        self.unlink(at);
        let slot = &mut self.slots[at as usize];
        let entry = slot.entry.take()?;
        slot.newer = self.free;
        self.free = at;
        let hash = self.hasher.hash_one(Some(&entry.0));
        if let Ok(found) = self.table.find_entry(hash, |&slot| slot == at) {
            let _: (u32, hash_table::VacantEntry<'_, u32>) = found.remove();
        }
        Some(entry)
    }

    fn link(&mut self, at: u32) {
        let slot = &mut self.slots[at as usize];
        let queue = if slot.in_main {
            &mut self.main
        } else {
            &mut self.small
        };
        slot.newer = NIL;
        slot.older = queue.newest;
        queue.weight += slot.weight;
        match std::mem::replace(&mut queue.newest, at) {
            NIL => queue.oldest = at,
            older => self.slots[older as usize].newer = at,
        }
    }

    fn unlink(&mut self, at: u32) {
        let slot = &self.slots[at as usize];
        let (newer, older, weight, in_main) = (slot.newer, slot.older, slot.weight, slot.in_main);
        let queue = if in_main {
            &mut self.main
        } else {
            &mut self.small
        };
        queue.weight -= weight;
        match newer {
            NIL => queue.newest = older,
            newer => self.slots[newer as usize].older = older,
        }
        let queue = if in_main {
            &mut self.main
        } else {
            &mut self.small
        };
        match older {
            NIL => queue.oldest = newer,
            older => self.slots[older as usize].newer = newer,
        }
    }

    /// Checks what must always hold.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        let mut seen = 0;
        for (queue, in_main) in [(&self.small, false), (&self.main, true)] {
            let (mut at, mut newer, mut weight) = (queue.newest, NIL, 0);
            while at != NIL {
                let slot = &self.slots[at as usize];
                assert_eq!((slot.newer, slot.in_main), (newer, in_main));
                assert_eq!(self.find(&slot.entry.as_ref().unwrap().0), Some(at));
                weight += slot.weight;
                seen += 1;
                (newer, at) = (at, slot.older);
            }
            assert_eq!((queue.oldest, queue.weight), (newer, weight));
        }
        assert_eq!(seen, self.len());
        assert_eq!(seen, self.iter().count());
        let mut walked = 0;
        let mut from = 0;
        while let Some((_, _, next)) = self.walk(from) {
            (from, walked) = (next, walked + 1);
        }
        assert_eq!(walked, seen);
    }
}

/// Hashes of what the small queue evicted, oldest first; bounded.
#[derive(Debug, Default)]
struct Ghosts {
    /// When each was added.
    added: HashMap<u64, u64>,
    /// In the order of adding; one that has been taken (or added anew) since is stale.
    order: VecDeque<(u64, u64)>,
    clock: u64,
}

impl Ghosts {
    /// How many are remembered even of a tiny cache.
    const FEW: usize = 16;

    fn add(&mut self, hash: u64, entries: usize) {
        self.clock += 1;
        self.added.insert(hash, self.clock);
        self.order.push_back((hash, self.clock));
        while self.order.len() > entries.max(Self::FEW) {
            if let Some((hash, clock)) = self.order.pop_front()
                && self.added.get(&hash) == Some(&clock)
            {
                self.added.remove(&hash);
            }
        }
    }

    fn take(&mut self, hash: u64) -> bool {
        self.added.remove(&hash).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Adds `key` as a cache of `budget` would. Returns what it evicted.
    fn add(fifo: &mut S3Fifo<u64, ()>, key: u64, budget: u64) -> Vec<u64> {
        let mut evicted = Vec::new();
        while fifo.weight() + 1 > budget {
            evicted.extend(fifo.evict(budget).map(|(key, ..)| key));
        }
        fifo.insert(key, (), 1);
        if key.is_multiple_of(64) {
            fifo.check();
        }
        evicted
    }

    #[test]
    fn a_scan_leaves_the_working_set_alone() {
        let mut fifo = S3Fifo::new();
        for key in 0..80 {
            add(&mut fifo, key, 100);
            fifo.hit(&key);
            fifo.hit(&key);
        }
        for key in 1_000..11_000 {
            add(&mut fifo, key, 100);
            fifo.hit(&key);
        }
        let kept = (0..80).filter(|key| fifo.peek(key).is_some()).count();
        assert_eq!(kept, 80);
    }

    #[test]
    fn what_returns_soon_enters_main() {
        let mut fifo = S3Fifo::new();
        for key in 0..10 {
            add(&mut fifo, key, 10);
        }
        assert_eq!(add(&mut fifo, 10, 10), [0]);
        // 0 is remembered: it enters main, and outlives what came with it.
        add(&mut fifo, 0, 10);
        for key in 100..109 {
            add(&mut fifo, key, 10);
        }
        assert!(fifo.peek(&0).is_some());
        assert!(fifo.peek(&9).is_none());
    }

    #[test]
    fn an_old_working_set_gives_way() {
        let mut fifo = S3Fifo::new();
        for round in 0..20 {
            for key in round * 100..round * 100 + 50 {
                add(&mut fifo, key, 60);
                (0..3).for_each(|_| _ = fifo.hit(&key));
            }
        }
        assert!((0..1_000).all(|key| fifo.peek(&key).is_none()));
    }

    #[test]
    fn beats_plain_fifo_on_a_skewed_load_with_scans() {
        // Zipf-like: key = 1000^u for uniform u; every tenth request is of a scan.
        let mut seed = 7_u64;
        let mut unit = || {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (seed >> 11) as f64 / (1_u64 << 53) as f64
        };
        let (mut fifo, mut plain) = (S3Fifo::new(), VecDeque::new());
        let (mut hits, mut plain_hits, mut scan) = (0, 0, 1_000_000);
        for _ in 0..50_000 {
            let key = if unit() < 0.1 {
                scan += 1;
                scan
            } else {
                1000_f64.powf(unit()) as u64
            };
            match fifo.hit(&key) {
                Some(()) => hits += 1,
                None => _ = add(&mut fifo, key, 100),
            }
            if plain.contains(&key) {
                plain_hits += 1;
            } else {
                plain.push_back(key);
                if plain.len() > 100 {
                    plain.pop_front();
                }
            }
        }
        assert!(hits * 10 > plain_hits * 11, "{hits} against {plain_hits}");
    }

    #[derive(Clone, Debug)]
    enum Op {
        Add(u8, u64),
        Hit(u8),
        Remove(u8),
        Evict,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (any::<u8>(), 1_u64..20).prop_map(|(key, weight)| Op::Add(key % 32, weight)),
            4 => any::<u8>().prop_map(|key| Op::Hit(key % 32)),
            1 => any::<u8>().prop_map(|key| Op::Remove(key % 32)),
            2 => Just(Op::Evict),
        ]
    }

    proptest! {
        #[test]
        fn is_a_map(ops in prop::collection::vec(op(), 0..200)) {
            let mut fifo = S3Fifo::new();
            let mut model = BTreeMap::new();
            for (value, op) in ops.into_iter().enumerate() {
                match op {
                    Op::Add(key, weight) => {
                        let new = !model.contains_key(&key);
                        prop_assert_eq!(fifo.insert(key, value, weight), new);
                        model.entry(key).or_insert((value, weight));
                    }
                    Op::Hit(key) => {
                        prop_assert_eq!(fifo.hit(&key), model.get(&key).map(|(value, _)| value));
                    }
                    Op::Remove(key) => {
                        prop_assert_eq!(fifo.remove(&key), model.remove(&key).map(|(value, _)| value));
                    }
                    Op::Evict => match fifo.evict(40) {
                        Some((key, value, weight)) => {
                            prop_assert_eq!(model.remove(&key), Some((value, weight)));
                        }
                        None => prop_assert!(model.is_empty()),
                    },
                }
                fifo.check();
                prop_assert_eq!(fifo.weight(), model.values().map(|(_, weight)| weight).sum::<u64>());
            }
        }
    }
}
