//! The key ring as a source of keys.

use crate::{
    BoxFuture, KeySource,
    net::KeyRing,
    verify::keyset::{KeySet, KeysWanted},
};
use futures_util::{StreamExt, stream};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Servers whose keys one answer waits for at once.
const SERVERS_MAX: usize = 64;

impl KeySource for KeyRing {
    /// Server by server, so that those that do not answer in time take nothing away from the others.
    fn keys(&self, wanted: KeysWanted, within: Duration) -> BoxFuture<'_, KeySet> {
        let until = Instant::now() + within;
        Box::pin(async move {
            let all = wanted.into_iter().map(|wanted| async move {
                let server = wanted.0.clone();
                let keys = timeout_at(until, self.get(&KeysWanted::from([wanted]))).await;
                (server, keys)
            });
            let mut coming = stream::iter(all).buffer_unordered(SERVERS_MAX);
            let mut set = KeySet::new();
            while let Some((server, keys)) = coming.next().await {
                let Ok(keys) = keys else { continue };
                for (id, key) in keys.set.of(&server) {
                    set.insert_key(&server, id, key);
                }
            }
            set
        })
    }
}
