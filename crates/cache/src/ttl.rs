//! A bounded map whose entries expire: metadata, negative answers, listings, readers.
//!
//! Bounded in entries and in bytes. What goes first when it is full: expired entries as they come up,
//! then whatever was not looked at since its last turn (a clock over insertion order, so that a scan
//! of cold names does not push out the hot ones). Reads take one short lock on one of sixteen shards
//! and never wait for anything else. Not a store: nothing in here survives a restart.

use std::{
    borrow::Borrow,
    collections::{HashMap, VecDeque},
    fmt,
    hash::{BuildHasher, Hash, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

const SHARDS: usize = 16;

/// A bounded, sharded map with an expiry for each entry.
pub(crate) struct TtlMap<K, V> {
    shards: [Mutex<Shard<K, V>>; SHARDS],
    hasher: RandomState,
}

/// What is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found<V> {
    /// The value.
    pub(crate) value: V,
    /// Whether most of its time is over (four fifths), so that a caller may refresh it ahead. Said
    /// once for each entry.
    pub(crate) ageing: bool,
}

struct Shard<K, V> {
    map: HashMap<K, Entry<V>, RandomState>,
    /// Each entry once, oldest first; stale pairs (replaced or removed since) are skipped.
    turns: VecDeque<(K, u64)>,
    serial: u64,
    bytes: usize,
    entries_max: usize,
    bytes_max: usize,
}

struct Entry<V> {
    value: V,
    weight: usize,
    ages: Instant,
    expires: Instant,
    serial: u64,
    visited: bool,
    told: bool,
}

impl<K: Clone + Eq + Hash, V: Clone> TtlMap<K, V> {
    /// An empty map with these bounds (each shard has a sixteenth of them, and at least one entry).
    pub(crate) fn new(entries_max: usize, bytes_max: usize) -> Self {
        let shard = || {
            Mutex::new(Shard {
                map: HashMap::default(),
                turns: VecDeque::new(),
                serial: 0,
                bytes: 0,
                entries_max: entries_max.div_ceil(SHARDS).max(1),
                bytes_max: bytes_max.div_ceil(SHARDS).max(1),
            })
        };
        Self {
            shards: std::array::from_fn(|_| shard()),
            hasher: RandomState::new(),
        }
    }

    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> MutexGuard<'_, Shard<K, V>> {
        let hash = self.hasher.hash_one(key);
        lock(&self.shards[(hash >> 60) as usize])
    }

    /// The value of a key that has not expired.
    pub(crate) fn get<Q>(&self, key: &Q) -> Option<Found<V>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let now = Instant::now();
        let mut shard = self.shard(key);
        let entry = shard.map.get_mut(key)?;
        if entry.expires <= now {
            shard.remove(key);
            return None;
        }
        entry.visited = true;
        let ageing = entry.ages <= now && !std::mem::replace(&mut entry.told, entry.ages <= now);
        Some(Found {
            value: entry.value.clone(),
            ageing,
        })
    }

    /// The value of a key that has most of its time before it.
    pub(crate) fn young<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let shard = self.shard(key);
        let entry = shard.map.get(key)?;
        (entry.ages > Instant::now()).then(|| entry.value.clone())
    }

    /// How much of its time a key has before it.
    pub(crate) fn left<Q>(&self, key: &Q) -> Option<Duration>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let expires = self.shard(key).map.get(key)?.expires;
        expires.checked_duration_since(Instant::now())
    }

    /// Puts a value in, for so long; `weight` is its share of the bytes. One that is heavier than a
    /// shard may hold is not kept.
    pub(crate) fn insert(&self, key: K, value: V, weight: usize, ttl: Duration) {
        let now = Instant::now();
        let mut shard = self.shard(&key);
        shard.remove(&key);
        if weight > shard.bytes_max || ttl.is_zero() {
            return;
        }
        shard.serial += 1;
        let serial = shard.serial;
        shard.bytes += weight;
        shard.turns.push_back((key.clone(), serial));
        shard.map.insert(
            key,
            Entry {
                value,
                weight,
                ages: now + ttl.mul_f32(0.8),
                expires: now + ttl,
                serial,
                visited: false,
                told: false,
            },
        );
        shard.shrink(now);
    }

    /// Takes a value out, expired or not.
    pub(crate) fn remove<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.shard(key).remove(key)
    }

    /// Takes a value out if it is the one meant.
    pub(crate) fn remove_if<Q>(&self, key: &Q, meant: impl FnOnce(&V) -> bool) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let mut shard = self.shard(key);
        shard.map.get(key).is_some_and(|entry| meant(&entry.value)) && shard.remove(key).is_some()
    }

    /// Takes out all whose key is matched. Walks everything: for administration only.
    pub(crate) fn drain(&self, matches: impl Fn(&K) -> bool) -> Vec<(K, V)> {
        let mut drained = Vec::new();
        for shard in &self.shards {
            let mut shard = lock(shard);
            let keys: Vec<K> = shard
                .map
                .keys()
                .filter(|key| matches(key))
                .cloned()
                .collect();
            for key in keys {
                if let Some(value) = shard.remove(&key) {
                    drained.push((key, value));
                }
            }
        }
        drained
    }

    /// All keys. Walks everything: for administration only.
    pub(crate) fn keys(&self) -> Vec<K> {
        let mut keys = Vec::new();
        for shard in &self.shards {
            keys.extend(lock(shard).map.keys().cloned());
        }
        keys
    }

    /// Entries held, expired ones included until they are met.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).map.len()).sum()
    }
}

/// A panic while a shard was locked cannot leave it inconsistent in a way that matters: it is a
/// cache, and every read checks what it finds.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K: Clone + Eq + Hash, V> Shard<K, V> {
    fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let entry = self.map.remove(key)?;
        self.bytes -= entry.weight;
        Some(entry.value)
    }

    fn shrink(&mut self, now: Instant) {
        while self.map.len() > self.entries_max || self.bytes > self.bytes_max {
            let Some((key, serial)) = self.turns.pop_front() else {
                return;
            };
            let Some(entry) = self.map.get_mut(&key).filter(|e| e.serial == serial) else {
                continue;
            };
            if entry.visited && entry.expires > now {
                entry.visited = false;
                self.turns.push_back((key, serial));
            } else {
                self.remove(&key);
            }
        }
        // Replaced and removed entries leave stale turns behind: once they are the majority, they go.
        if self.turns.len() > 2 * self.map.len() + 16 {
            let map = &self.map;
            self.turns
                .retain(|(key, serial)| map.get(key).is_some_and(|e| e.serial == *serial));
        }
    }
}

impl<K, V> fmt::Debug for TtlMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TtlMap").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn expires_and_tells_its_age_once() {
        let map = TtlMap::new(100, 1000);
        map.insert("a", 1, 1, TTL);
        assert_eq!(map.get("a").map(|f| (f.value, f.ageing)), Some((1, false)));
        assert_eq!(map.young("a"), Some(1));
        tokio::time::advance(TTL.mul_f32(0.85)).await;
        assert_eq!(map.young("a"), None);
        assert_eq!(map.get("a").map(|f| f.ageing), Some(true));
        assert_eq!(map.get("a").map(|f| f.ageing), Some(false));
        tokio::time::advance(TTL).await;
        assert_eq!(map.get("a"), None);
        assert_eq!(map.len(), 0);
        map.insert("z", 1, 1, Duration::ZERO);
        assert_eq!(map.get("z"), None, "a TTL of zero keeps nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn bounds_hold_whatever_comes() {
        let map: TtlMap<u32, u32> = TtlMap::new(160, 1600);
        for i in 0..10_000 {
            map.insert(i % 700, i, (i % 20) as usize, TTL);
            if i % 3 == 0 {
                map.get(&(i % 50));
            }
            if i % 7 == 0 {
                map.remove(&(i % 90));
            }
        }
        for shard in &map.shards {
            let shard = lock(shard);
            assert!(shard.map.len() <= 10 && shard.bytes <= 100);
            assert_eq!(
                shard.bytes,
                shard.map.values().map(|e| e.weight).sum::<usize>()
            );
            assert!(shard.turns.len() <= 2 * shard.map.len() + 17);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_looked_at_outlives_a_scan() {
        let map: TtlMap<u32, u32> = TtlMap::new(64 * SHARDS, usize::MAX / 2);
        for hot in 0..16 {
            map.insert(hot, hot, 1, TTL);
        }
        for cold in 1000..6000 {
            for hot in 0..16 {
                map.get(&hot);
            }
            map.insert(cold, cold, 1, TTL);
        }
        assert!((0..16).all(|hot| map.get(&hot).is_some()));
    }

    #[tokio::test(start_paused = true)]
    async fn too_heavy_is_not_kept_and_drain_takes_matches() {
        let map: TtlMap<u32, u32> = TtlMap::new(1000, 16 * 10);
        map.insert(1, 1, 11, TTL);
        assert_eq!(map.len(), 0);
        for i in 0..20 {
            map.insert(i, i, 1, TTL);
        }
        let mut drained = map.drain(|k| k % 2 == 0);
        drained.sort_unstable();
        assert_eq!(drained.len(), 10);
        assert!(map.get(&1).is_some() && map.get(&2).is_none());
    }
}
