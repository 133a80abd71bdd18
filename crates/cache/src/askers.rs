//! On whose behalf a key is asked for: what joins a client's request, in logs and at the origin, to
//! the one fetch that it began or joined.
//!
//! Kept for as long as somebody waits for the key, and a while for each fetch, since a body may be
//! resumed after everybody has had the first byte. Nothing but logs and a header hangs on it.

use crate::{
    key::CacheKey,
    traces::{Parent, Span},
    ttl::TtlMap,
};
use gannet::engine::FetchId;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Fetches whose first asker is remembered, and for how long.
const FETCHES_MAX: usize = 4096;
const FETCH_TTL: Duration = Duration::from_secs(300);

/// Who waits for what.
#[derive(Debug)]
pub(crate) struct Askers {
    waiting: Arc<Mutex<HashMap<CacheKey, Waiting>>>,
    fetches: TtlMap<(Side, FetchId), Asker>,
}

/// Which fetcher a fetch is one of: each counts its own from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    Home,
    Peer,
}

/// For whom something is fetched.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    /// The client's request.
    pub(crate) request: Arc<str>,
    /// The span that waits for it; that of the first who is traced, where the first is not.
    pub(crate) trace: Parent,
}

impl Asker {
    /// The same with what is done from here on under this span.
    pub(crate) fn within(asker: Option<Self>, trace: Parent) -> Self {
        let request = asker.map(|asker| asker.request);
        Self {
            request: request.unwrap_or_else(|| "-".into()),
            trace,
        }
    }
}

#[derive(Debug)]
struct Waiting {
    first: Asker,
    waiting: u32,
    /// The fetch under way for the key, once an attempt of it has begun.
    fetch: Option<(Side, FetchId)>,
}

impl Askers {
    pub(crate) fn new() -> Self {
        Self {
            waiting: Arc::default(),
            fetches: TtlMap::new(FETCHES_MAX, usize::MAX),
        }
    }

    /// Notes that a request waits for a key, until what is returned is dropped.
    ///
    /// What is done for the key hangs under the span of the first who waits and is traced; those of
    /// others are linked to it.
    pub(crate) fn enter(&self, key: &CacheKey, request: &Arc<str>, span: &mut Span) -> Asking {
        let mut map = lock(&self.waiting);
        let asker = map.entry(key.clone()).or_insert_with(|| Waiting {
            first: Asker {
                request: Arc::clone(request),
                trace: span.parent(),
            },
            waiting: 0,
            fetch: None,
        });
        asker.waiting += 1;
        if asker.waiting > 1 {
            let fetch = asker.fetch.map(|(_, fetch)| fetch.0);
            tracing::debug!(%request, first = %asker.first.request, fetch, ?key, "waits with another");
            span.set("gannet.coalesced", true);
            if asker.first.trace.is_on() {
                span.link(&asker.first.trace);
            } else {
                asker.first.trace = span.parent();
            }
        }
        Asking {
            waiting: Arc::clone(&self.waiting),
            key: key.clone(),
        }
    }

    /// For whom this fetch is: the first that asked for its key.
    pub(crate) fn of(&self, side: Side, fetch: FetchId, key: &CacheKey) -> Option<Asker> {
        let fetch = (side, fetch);
        if let Some(known) = self.fetches.get(&fetch) {
            return Some(known.value);
        }
        let first = {
            let mut map = lock(&self.waiting);
            let asker = map.get_mut(key)?;
            asker.fetch = Some(fetch);
            asker.first.clone()
        };
        self.fetches.insert(fetch, first.clone(), 1, FETCH_TTL);
        Some(first)
    }
}

/// A request that waits.
#[derive(Debug)]
pub(crate) struct Asking {
    waiting: Arc<Mutex<HashMap<CacheKey, Waiting>>>,
    key: CacheKey,
}

impl Drop for Asking {
    fn drop(&mut self) {
        let mut map = lock(&self.waiting);
        if let Some(asker) = map.get_mut(&self.key) {
            asker.waiting -= 1;
            if asker.waiting == 0 {
                map.remove(&self.key);
            }
        }
    }
}

fn lock(
    map: &Mutex<HashMap<CacheKey, Waiting>>,
) -> std::sync::MutexGuard<'_, HashMap<CacheKey, Waiting>> {
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(asker: Option<Asker>) -> Option<String> {
        asker.map(|asker| asker.request.as_ref().to_owned())
    }

    #[tokio::test]
    async fn the_first_asker_stands_for_the_fetch() {
        let askers = Askers::new();
        let key = CacheKey::Bucket("b".into());
        assert_eq!(request(askers.of(Side::Home, FetchId(1), &key)), None);
        let one = askers.enter(&key, &"one".into(), &mut Span::default());
        let two = askers.enter(&key, &"two".into(), &mut Span::default());
        assert_eq!(
            request(askers.of(Side::Home, FetchId(1), &key)).as_deref(),
            Some("one")
        );
        drop(one);
        assert_eq!(
            request(askers.of(Side::Home, FetchId(2), &key)).as_deref(),
            Some("one")
        );
        drop(two);
        assert!(lock(&askers.waiting).is_empty());
        assert_eq!(
            request(askers.of(Side::Home, FetchId(1), &key)).as_deref(),
            Some("one"),
            "resumed"
        );
        assert_eq!(request(askers.of(Side::Home, FetchId(3), &key)), None);
    }
    #[tokio::test]
    async fn two_fetchers_count_alike_and_are_told_apart() {
        let askers = Askers::new();
        let (a, b) = (CacheKey::Bucket("a".into()), CacheKey::Bucket("b".into()));
        let _one = askers.enter(&a, &"one".into(), &mut Span::default());
        let _two = askers.enter(&b, &"two".into(), &mut Span::default());
        let of = |side, key| request(askers.of(side, FetchId(1), key));
        assert_eq!(of(Side::Peer, &a).as_deref(), Some("one"));
        assert_eq!(of(Side::Home, &b).as_deref(), Some("two"));
    }
}
