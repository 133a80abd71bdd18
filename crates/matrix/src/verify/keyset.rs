//! The keys that signatures are checked with: of each server, with the time until which each is valid.

use super::{keys::KeyDocument, pdu::Pdu};
use ruma_common::{OwnedServerName, ServerName, serde::Base64};
use ruma_signatures::PublicKeyMap;
use std::collections::BTreeMap;

/// A public key of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyKey {
    /// The key itself.
    pub bytes: [u8; 32],
    /// Until when what was signed with it counts, in milliseconds since 1970. For a key in use: what
    /// its server said, but no more than seven days after the server was asked. For one no longer in
    /// use: when it was retired.
    pub valid_until_ms: u64,
}

/// What is known of a key at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyAt<'k> {
    /// It is valid then.
    Valid(&'k [u8; 32]),
    /// It is known, and not known to be valid so late.
    Over {
        /// Until when it is, in milliseconds since 1970.
        valid_until_ms: u64,
    },
    /// It is not known.
    Unknown,
}

/// Keys by server and key id. Looking one up copies nothing, and takes O(log n).
///
/// It is not bounded by itself: whoever fills it decides whose keys are worth keeping.
#[derive(Debug, Clone, Default)]
pub struct KeySet {
    servers: BTreeMap<OwnedServerName, BTreeMap<Box<str>, VerifyKey>>,
}

/// The keys that are lacking: of each server the ids of keys, one of which would do, with the time at
/// which they have to be valid (milliseconds since 1970; 0 if any time will do).
pub type KeysWanted = BTreeMap<OwnedServerName, BTreeMap<String, u64>>;

impl KeySet {
    /// Without any.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what `document` says of its server's keys. What it says of a key replaces what was
    /// known of it, so of several documents the newest goes in last; keys that it does not speak of
    /// stay as they were, for servers forget to list old ones.
    pub fn insert(&mut self, document: &KeyDocument) {
        let keys = self
            .servers
            .entry(document.server().to_owned())
            .or_default();
        for (id, key) in document.keys() {
            keys.insert(id.into(), key);
        }
    }

    /// Takes in one key, `id` being `ed25519:` and its name.
    pub fn insert_key(&mut self, server: &ServerName, id: &str, key: VerifyKey) {
        let keys = self.servers.entry(server.to_owned()).or_default();
        keys.insert(id.into(), key);
    }

    /// Forgets all keys of `server`.
    pub fn remove(&mut self, server: &ServerName) {
        self.servers.remove(server);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    /// What is known of the key `id` of `server` at `at_ms`, or at any time if that is `None`.
    pub fn key(&self, server: &ServerName, id: &str, at_ms: Option<i64>) -> KeyAt<'_> {
        match self.servers.get(server).and_then(|keys| keys.get(id)) {
            None => KeyAt::Unknown,
            Some(key) => {
                // What claims to be older than 1970 is older than any key.
                let at_ms = at_ms.and_then(|at| u64::try_from(at).ok()).unwrap_or(0);
                if key.valid_until_ms >= at_ms {
                    KeyAt::Valid(&key.bytes)
                } else {
                    KeyAt::Over {
                        valid_until_ms: key.valid_until_ms,
                    }
                }
            }
        }
    }

    /// All keys of `server`, by id.
    pub fn of(&self, server: &ServerName) -> impl Iterator<Item = (&str, &VerifyKey)> {
        let keys = self.servers.get(server).into_iter().flatten();
        keys.map(|(id, key)| (&**id, key))
    }

    /// The keys that `pdu` may be checked with, as `ruma` takes them, for those who go on with it.
    /// Those that are not valid for the event are left out.
    pub fn public_key_map(&self, pdu: &Pdu) -> PublicKeyMap {
        let mut map = PublicKeyMap::new();
        for (server, ids) in pdu.required_keys() {
            for id in ids {
                if let KeyAt::Valid(bytes) = self.key(server, id, pdu.keys_at_ms()) {
                    map.entry(server.to_string())
                        .or_default()
                        .insert(id.to_owned(), Base64::new(bytes.to_vec()));
                }
            }
        }
        map
    }

    /// Adds to `wanted` what `pdu` cannot be checked without: nothing, if each server that has to
    /// sign did so with one key at least that is known, and valid (or one server did, where any will
    /// do).
    pub fn lacking(&self, pdu: &Pdu, wanted: &mut KeysWanted) {
        let at_ms = pdu.keys_at_ms();
        let known = |server: &ServerName, ids: &[&str]| {
            ids.iter()
                .any(|id| matches!(self.key(server, id, at_ms), KeyAt::Valid(_)))
        };
        let required: Vec<(&ServerName, Vec<&str>)> = pdu
            .required_keys()
            .map(|(server, ids)| (server, ids.collect()))
            .collect();
        if pdu.any_will_do() && required.iter().any(|(server, ids)| known(server, ids)) {
            return;
        }
        let wanted_ms = at_ms.and_then(|at| u64::try_from(at).ok()).unwrap_or(0);
        for (server, ids) in required {
            if known(server, &ids) {
                continue;
            }
            // Not by the entry: that would copy the name of a server that is there already.
            if !wanted.contains_key(server) {
                wanted.insert(server.to_owned(), BTreeMap::new());
            }
            let keys = wanted.get_mut(server).expect("inserted above");
            for id in ids {
                match keys.get_mut(id) {
                    Some(at) => *at = wanted_ms.max(*at),
                    None => {
                        keys.insert(id.to_owned(), wanted_ms);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validity_ends_after_its_last_millisecond() {
        let server = <&ServerName>::try_from("a.example").unwrap();
        let key = VerifyKey {
            bytes: [7; 32],
            valid_until_ms: 1000,
        };
        let mut keys = KeySet::new();
        assert!(keys.is_empty());
        keys.insert_key(server, "ed25519:1", key);
        let over = KeyAt::Over {
            valid_until_ms: 1000,
        };
        for (id, at_ms, want) in [
            ("ed25519:1", None, KeyAt::Valid(&[7; 32])),
            ("ed25519:1", Some(1000), KeyAt::Valid(&[7; 32])),
            ("ed25519:1", Some(-5), KeyAt::Valid(&[7; 32])),
            ("ed25519:1", Some(1001), over),
            ("ed25519:2", None, KeyAt::Unknown),
        ] {
            assert_eq!(keys.key(server, id, at_ms), want, "{id} {at_ms:?}");
        }
        assert_eq!(keys.of(server).collect::<Vec<_>>(), [("ed25519:1", &key)]);
        keys.remove(server);
        assert_eq!(keys.key(server, "ed25519:1", None), KeyAt::Unknown);
    }
}
