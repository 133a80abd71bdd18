//! Work that several want at once and that is done once.
//!
//! Not for what may come from several sources: that is what [`gannet::Fetcher`] is for.

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

type Flight<T> = WeakShared<BoxFuture<'static, T>>;
type Map<K, T> = Mutex<HashMap<K, (u64, Flight<T>)>>;

/// What is being done, by key.
pub(crate) struct Flights<K, T: Clone> {
    map: Arc<Map<K, T>>,
}

impl<K, T: Clone> Default for Flights<K, T> {
    fn default() -> Self {
        Self {
            map: Arc::default(),
        }
    }
}

impl<K, T: Clone> fmt::Debug for Flights<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").finish_non_exhaustive()
    }
}

/// Takes a flight off the map when its work is done, or nobody wants it any more.
struct Landing<K: Eq + Hash, T: Clone> {
    map: Arc<Map<K, T>>,
    key: K,
    number: u64,
}

impl<K: Eq + Hash, T: Clone> Drop for Landing<K, T> {
    fn drop(&mut self) {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        if map
            .get(&self.key)
            .is_some_and(|(number, _)| *number == self.number)
        {
            map.remove(&self.key);
        }
    }
}

impl<K, T> Flights<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// The work under way for a key, begun if there is none. It goes on while anybody awaits it, and is
    /// cancelled with the last.
    pub(crate) fn join(
        &self,
        key: K,
        begin: impl FnOnce() -> BoxFuture<'static, T>,
    ) -> Shared<BoxFuture<'static, T>> {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        let before = map.get(&key);
        if let Some(flight) = before.and_then(|(_, flight)| flight.upgrade()) {
            return flight;
        }
        // One that was given up and is not off the map yet must not take this one off.
        let number = before.map_or(0, |(number, _)| number + 1);
        let landing = Landing {
            map: self.map.clone(),
            key: key.clone(),
            number,
        };
        let work = begin();
        let work = async move {
            let _landing = landing;
            work.await
        };
        let flight = work.boxed().shared();
        let weak = flight.downgrade().expect("it was just made and not polled");
        map.insert(key, (number, weak));
        flight
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.map
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn done_once_and_cancelled_with_the_last() {
        let flights = Flights::<u8, u32>::default();
        let count = Arc::new(AtomicU32::new(0));
        let (go, gate) = oneshot::channel::<()>();
        let begin = |gate: oneshot::Receiver<()>| {
            let count = count.clone();
            move || {
                async move {
                    let _ = gate.await;
                    count.fetch_add(1, Relaxed) + 1
                }
                .boxed()
            }
        };
        let first = flights.join(1, begin(gate));
        let all: Vec<_> = (0..100)
            .map(|_| flights.join(1, || unreachable!("it is under way")))
            .collect();
        assert_eq!(flights.len(), 1);
        go.send(()).unwrap();
        assert_eq!(first.await, 1);
        assert_eq!(futures_util::future::join_all(all).await, [1; 100]);
        assert_eq!(flights.len(), 0);
        // Given up: gone, and begun anew.
        let (_never, gate) = oneshot::channel();
        let given_up = flights.join(1, begin(gate));
        assert!(given_up.clone().now_or_never().is_none());
        drop(given_up);
        assert_eq!(flights.len(), 0);
        let (go, gate) = oneshot::channel();
        go.send(()).unwrap();
        assert_eq!(flights.join(1, begin(gate)).await, 2);
    }
}
