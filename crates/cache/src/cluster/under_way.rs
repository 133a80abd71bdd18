//! What is being received from other members, and the signs that somebody upstream is at work.
//!
//! A relay passes on a sign only when it hears one, and not for ever (`gannet_cluster::Passed`): two
//! members that wait for each other would otherwise keep each other waiting.

use crate::key::CacheKey;
use gannet_cluster::{Pace, Passed};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// What is being received.
#[derive(Clone, Debug, Default)]
pub(crate) struct Receiving(Arc<Mutex<HashMap<CacheKey, Entry>>>);

#[derive(Debug, Default)]
struct Entry {
    attempts: u32,
    passed: Passed,
    sign: Sign,
}

/// When something was heard of a member last, in milliseconds of the desk's time.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard(Arc<AtomicU64>);

impl Heard {
    /// Something was heard.
    pub(super) fn note(&self, now: Duration) {
        self.0.fetch_max(millis(now), Relaxed);
    }

    /// Whether something was heard since then.
    pub(super) fn since(&self, then: Duration) -> bool {
        self.0.load(Relaxed) > millis(then)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The last sign to be passed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sign {
    /// How many there have been.
    number: u64,
    /// How often it will have been passed on.
    pub(super) hops: u8,
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

    /// The last sign heard for this key that is to be passed on.
    pub(super) fn sign(&self, key: &CacheKey) -> Sign {
        self.lock()
            .get(key)
            .map(|entry| entry.sign)
            .unwrap_or_default()
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
    /// Somebody upstream is at work, as a sign says that was passed on so often. Times are those of
    /// the desk.
    pub(super) fn sign(&self, now: Duration, hops: u8, pace: Pace) {
        if let Some(entry) = self.receiving.lock().get_mut(&self.key)
            && let Some(hops) = entry.passed.on(now, hops, pace)
        {
            entry.sign = Sign {
                number: entry.sign.number + 1,
                hops,
            };
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
        let pace = Pace::new(Duration::from_secs(1));
        one.sign(Duration::ZERO, 3, pace);
        one.sign(Duration::ZERO, 0, pace);
        assert_eq!(receiving.sign(&key), Sign { number: 1, hops: 4 });
        drop(one);
        assert!(receiving.has(&key));
        drop(two);
        assert!(!receiving.has(&key) && receiving.lock().is_empty());
        assert_eq!(receiving.sign(&key), Sign::default());
    }
}
