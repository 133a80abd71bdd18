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
    ///
    /// A question goes on when nobody waits for its answer any more, within the ring's own bounds: only one
    /// that comes to its end is remembered, and a silent server would else cost every answer that it has
    /// signed anything in all of this time.
    fn keys(&self, wanted: KeysWanted, within: Duration) -> BoxFuture<'_, KeySet> {
        let until = Instant::now() + within;
        Box::pin(async move {
            let all = wanted.into_iter().map(|wanted| async move {
                let server = wanted.0.clone();
                let (ring, wanted) = (self.clone(), KeysWanted::from([wanted]));
                let keys = if Instant::now() < until {
                    let asked = tokio::spawn(async move { ring.get(&wanted).await });
                    timeout_at(until, asked).await.ok().and_then(Result::ok)
                } else {
                    // What is known already.
                    timeout_at(until, ring.get(&wanted)).await.ok()
                };
                (server, keys)
            });
            let mut coming = stream::iter(all).buffer_unordered(SERVERS_MAX);
            let mut set = KeySet::new();
            while let Some((server, keys)) = coming.next().await {
                let Some(keys) = keys else { continue };
                for (id, key) in keys.set.of(&server) {
                    set.insert_key(&server, id, key);
                }
            }
            set
        })
    }
}
