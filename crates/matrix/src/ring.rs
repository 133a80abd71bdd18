//! The key ring as a source of keys, and keys that need not be asked for.

use crate::{
    BoxFuture, KeySource,
    net::KeyRing,
    verify::keyset::{KeyAt, KeySet, KeysWanted},
};
use futures_util::{StreamExt, stream};
use std::{fmt, sync::Arc, time::Duration};
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

/// Keys that are known beforehand, and a source for all others.
///
/// For one's own keys, above all: events of one's own users are in every room, and one's own homeserver
/// may not be reachable by its name from where one is.
pub struct GivenKeys {
    given: KeySet,
    others: Arc<dyn KeySource>,
}

impl fmt::Debug for GivenKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GivenKeys")
            .field("given", &self.given)
            .finish_non_exhaustive()
    }
}

impl GivenKeys {
    /// These keys are taken as they are; whatever else is wanted is asked of that source.
    pub fn new(given: KeySet, others: Arc<dyn KeySource>) -> Self {
        Self { given, others }
    }
}

impl KeySource for GivenKeys {
    fn keys(&self, mut wanted: KeysWanted, within: Duration) -> BoxFuture<'_, KeySet> {
        let servers: Vec<_> = wanted.keys().cloned().collect();
        wanted.retain(|server, ids| {
            let will_do = |(id, at_ms): (&String, &u64)| {
                let at_ms = i64::try_from(*at_ms).unwrap_or(i64::MAX);
                matches!(self.given.key(server, id, Some(at_ms)), KeyAt::Valid(_))
            };
            !ids.iter().any(will_do)
        });
        Box::pin(async move {
            let mut keys = match wanted.is_empty() {
                true => KeySet::new(),
                false => self.others.keys(wanted, within).await,
            };
            for server in servers {
                for (id, key) in self.given.of(&server) {
                    keys.insert_key(&server, id, key);
                }
            }
            keys
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::keyset::VerifyKey;
    use futures_util::FutureExt;
    use ruma_common::{OwnedServerName, ServerName, server_name};
    use std::sync::Mutex;

    const WITHIN: Duration = Duration::from_secs(1);

    fn key(first: u8) -> VerifyKey {
        let mut bytes = [0; 32];
        bytes[0] = first;
        VerifyKey {
            bytes,
            valid_until_ms: 1000,
        }
    }

    /// Has a key of everybody by the id `ed25519:other`, and tells of whom it was asked.
    #[derive(Default)]
    struct Others(Mutex<Vec<OwnedServerName>>);

    impl KeySource for Others {
        fn keys(&self, wanted: KeysWanted, _: Duration) -> BoxFuture<'_, KeySet> {
            let mut keys = KeySet::new();
            for server in wanted.keys() {
                keys.insert_key(server, "ed25519:other", key(2));
            }
            self.0.lock().unwrap().extend(wanted.into_keys());
            Box::pin(std::future::ready(keys))
        }
    }

    #[test]
    fn what_is_given_is_not_asked_for() {
        let (me, other) = (server_name!("me"), server_name!("other"));
        let mut given = KeySet::new();
        given.insert_key(me, "ed25519:own", key(1));
        let others = Arc::new(Others::default());
        let source = GivenKeys::new(given, others.clone());
        let check = |wanted: &[(&ServerName, &str, u64)], asked: &[&ServerName]| {
            let of = |(server, id, at): &(&ServerName, &str, u64)| {
                ((*server).to_owned(), [((*id).to_owned(), *at)].into())
            };
            let wanted = wanted.iter().map(of).collect();
            let keys = source.keys(wanted, WITHIN).now_or_never().expect("ready");
            let was_asked: Vec<_> = std::mem::take(&mut *others.0.lock().unwrap());
            assert_eq!(was_asked, asked);
            keys
        };
        let known =
            |keys: &KeySet, server, id| !matches!(keys.key(server, id, None), KeyAt::Unknown);
        let keys = check(&[(me, "ed25519:own", 1000)], &[]);
        assert!(known(&keys, me, "ed25519:own"));
        let wanted = [(me, "ed25519:own", 0), (other, "ed25519:other", 0)];
        let keys = check(&wanted, &[other]);
        assert!(known(&keys, me, "ed25519:own") && known(&keys, other, "ed25519:other"));
        // One that is over, or another one of the same server: the source may know more.
        for (id, at) in [("ed25519:own", 1001), ("ed25519:other", 0)] {
            let keys = check(&[(me, id, at)], &[me]);
            assert!(known(&keys, me, "ed25519:own") && known(&keys, me, "ed25519:other"));
        }
    }
}
