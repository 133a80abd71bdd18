//! A map of bounded size that forgets what was not used for longest.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

/// See the module. Everything is O(log n).
#[derive(Debug)]
pub(crate) struct Lru<K, V> {
    entries: HashMap<K, (u64, V)>,
    /// When each was used last, as a number that grows with each use.
    uses: BTreeMap<u64, K>,
    next: u64,
    entries_max: usize,
}

impl<K: Clone + Eq + Hash, V> Lru<K, V> {
    pub(crate) fn new(entries_max: usize) -> Self {
        Self {
            entries: HashMap::new(),
            uses: BTreeMap::new(),
            next: 0,
            entries_max: entries_max.max(1),
        }
    }

    /// What is kept, which counts as a use.
    pub(crate) fn get<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let (used, value) = self.entries.get_mut(key)?;
        let key = self.uses.remove(used)?;
        *used = self.next;
        self.uses.insert(self.next, key);
        self.next += 1;
        Some(value)
    }

    /// Keeps a value; what had to go for it, if anything had to.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<(K, V)> {
        self.remove(&key);
        let is_full = self.entries.len() >= self.entries_max;
        let gone = if is_full { self.pop_oldest() } else { None };
        self.uses.insert(self.next, key.clone());
        self.entries.insert(key, (self.next, value));
        self.next += 1;
        gone
    }

    pub(crate) fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let (used, value) = self.entries.remove(key)?;
        self.uses.remove(&used);
        Some(value)
    }

    /// Takes out what was not used for longest.
    pub(crate) fn pop_oldest(&mut self) -> Option<(K, V)> {
        let (_, key) = self.uses.pop_first()?;
        let (_, value) = self.entries.remove(&key)?;
        Some((key, value))
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_like_a_list(ops in proptest::collection::vec((0u8..3, 0u8..8), 0..200), max in 1usize..6) {
            let mut lru = Lru::new(max);
            // The least used first.
            let mut model: Vec<(u8, usize)> = Vec::new();
            for (n, (op, key)) in ops.into_iter().enumerate() {
                let at = model.iter().position(|(k, _)| *k == key);
                match op {
                    0 => {
                        let found = at.map(|at| model.remove(at));
                        model.extend(found);
                        prop_assert_eq!(lru.get(&key).copied(), found.map(|(_, v)| v));
                    }
                    1 => {
                        if let Some(at) = at {
                            model.remove(at);
                        }
                        let gone = (model.len() == max).then(|| model.remove(0));
                        model.push((key, n));
                        prop_assert_eq!(lru.insert(key, n), gone);
                    }
                    _ => {
                        prop_assert_eq!(lru.remove(&key), at.map(|at| model.remove(at).1));
                    }
                }
                prop_assert_eq!(lru.len(), model.len());
                prop_assert_eq!(lru.uses.len(), model.len());
            }
        }
    }
}
