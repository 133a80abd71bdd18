//! What is being received from other members, and the signs that somebody upstream is at work.
//!
//! A relay passes on a sign only when it hears one: two members that wait for each other would
//! otherwise keep each other waiting for ever.

use crate::key::CacheKey;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What is being received.
#[derive(Clone, Debug, Default)]
pub(crate) struct Receiving(Arc<Mutex<HashMap<CacheKey, Entry>>>);

#[derive(Debug, Default)]
struct Entry {
    attempts: u32,
    signs: u64,
}

impl Receiving {
    /// An attempt at this key is under way until what is returned is dropped.
    pub(super) fn enter(&self, key: &CacheKey) -> Entered {
        self.lock().entry(key.clone()).or_default().attempts += 1;
        Entered {
            receiving: self.clone(),
            key: key.clone(),
        }
    }

    /// Whether an attempt at this key is under way.
    pub(crate) fn has(&self, key: &CacheKey) -> bool {
        self.lock().contains_key(key)
    }

    /// Signs heard for this key so far.
    pub(super) fn signs(&self, key: &CacheKey) -> u64 {
        self.lock().get(key).map_or(0, |entry| entry.signs)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CacheKey, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An attempt under way.
#[derive(Debug)]
pub(super) struct Entered {
    receiving: Receiving,
    key: CacheKey,
}

impl Entered {
    /// Somebody upstream is at work.
    pub(super) fn sign(&self) {
        if let Some(entry) = self.receiving.lock().get_mut(&self.key) {
            entry.signs += 1;
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut map = self.receiving.lock();
        if let Some(entry) = map.get_mut(&self.key) {
            entry.attempts -= 1;
            if entry.attempts == 0 {
                map.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_there_as_long_as_its_last_attempt() {
        let receiving = Receiving::default();
        let key = CacheKey::Buckets;
        let one = receiving.enter(&key);
        let two = receiving.enter(&key);
        one.sign();
        assert_eq!(receiving.signs(&key), 1);
        drop(one);
        assert!(receiving.has(&key));
        drop(two);
        assert!(!receiving.has(&key) && receiving.lock().is_empty());
        assert_eq!(receiving.signs(&key), 0);
    }
}
