//! The keys that signatures are checked with: of each server, with the time until which each is valid.

use super::{keys::KeyDocument, pdu::Pdu};
use ed25519_dalek::{Signature, Verifier as _, VerifyingKey};
use ruma_common::{OwnedServerName, ServerName, serde::Base64};
use ruma_signatures::PublicKeyMap;
use std::{collections::BTreeMap, fmt};

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

/// A public key that is ready to check signatures with.
///
/// What a key is on the curve is computed when it becomes known, and not for each signature, where it
/// would be a tenth of the work. The check itself is that of `ruma_signatures`.
#[derive(Clone)]
pub struct PublicKey {
    bytes: [u8; 32],
    /// Nothing if it is no point of the curve; then no signature fits.
    point: Option<VerifyingKey>,
}

impl PublicKey {
    /// The key that is written as `bytes`. Costs some 5 µs.
    pub fn new(bytes: [u8; 32]) -> Self {
        let point = VerifyingKey::from_bytes(&bytes).ok();
        Self { bytes, point }
    }

    /// As it is written.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// Whether `signature` is its signature under `message`. Costs some 40 µs.
    pub fn fits(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        let signature = Signature::from_bytes(signature);
        let point = self.point.as_ref();
        point.is_some_and(|point| point.verify(message, &signature).is_ok())
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "PublicKey({})",
            Base64::<ruma_common::serde::base64::Standard, _>::new(self.bytes)
        )
    }
}

/// What is known of a key at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyAt<'k> {
    /// It is valid then.
    Valid(&'k PublicKey),
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
    servers: BTreeMap<OwnedServerName, BTreeMap<Box<str>, Known>>,
}

#[derive(Debug, Clone)]
struct Known {
    key: PublicKey,
    valid_until_ms: u64,
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
        for (id, key) in document.keys() {
            self.insert_key(document.server(), id, key);
        }
    }

    /// Takes in one key, `id` being `ed25519:` and its name.
    pub fn insert_key(&mut self, server: &ServerName, id: &str, key: VerifyKey) {
        let keys = match self.servers.get_mut(server) {
            Some(keys) => keys,
            None => self.servers.entry(server.to_owned()).or_default(),
        };
        let valid_until_ms = key.valid_until_ms;
        match keys.get_mut(id) {
            Some(known) if known.key.bytes == key.bytes => known.valid_until_ms = valid_until_ms,
            _ => {
                let key = PublicKey::new(key.bytes);
                let known = Known {
                    key,
                    valid_until_ms,
                };
                keys.insert(id.into(), known);
            }
        }
    }

    /// Takes over all keys of `server` from another set, ready for use as they are.
    pub fn take_over(&mut self, server: &ServerName, other: &Self) {
        if let Some(keys) = other.servers.get(server) {
            self.servers.insert(server.to_owned(), keys.clone());
        }
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
            Some(known) => {
                // What claims to be older than 1970 is older than any key.
                let at_ms = at_ms.and_then(|at| u64::try_from(at).ok()).unwrap_or(0);
                let valid_until_ms = known.valid_until_ms;
                if valid_until_ms >= at_ms {
                    KeyAt::Valid(&known.key)
                } else {
                    KeyAt::Over { valid_until_ms }
                }
            }
        }
    }

    /// All keys of `server`, by id.
    pub fn of(&self, server: &ServerName) -> impl Iterator<Item = (&str, VerifyKey)> {
        let keys = self.servers.get(server).into_iter().flatten();
        keys.map(|(id, known)| {
            let key = VerifyKey {
                bytes: known.key.bytes,
                valid_until_ms: known.valid_until_ms,
            };
            (&**id, key)
        })
    }

    /// The keys that `pdu` may be checked with, as `ruma` takes them, for those who go on with it.
    /// Those that are not valid for the event are left out.
    pub fn public_key_map(&self, pdu: &Pdu) -> PublicKeyMap {
        let mut map = PublicKeyMap::new();
        for (server, ids) in pdu.required_keys() {
            for id in ids {
                if let KeyAt::Valid(key) = self.key(server, id, pdu.keys_at_ms()) {
                    map.entry(server.to_string())
                        .or_default()
                        .insert(id.to_owned(), Base64::new(key.bytes.to_vec()));
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
    fn no_signature_fits_what_is_no_key() {
        // Two is not the y of any point.
        let mut bytes = [0; 32];
        bytes[0] = 2;
        let key = PublicKey::new(bytes);
        assert!(key.point.is_none());
        assert!(!key.fits(b"", &[0; 64]));
    }

    #[test]
    fn validity_ends_after_its_last_millisecond() {
        let server = <&ServerName>::try_from("a.example").unwrap();
        let key = VerifyKey {
            bytes: [7; 32],
            valid_until_ms: 1000,
        };
        let seven = PublicKey::new([7; 32]);
        let mut keys = KeySet::new();
        assert!(keys.is_empty());
        keys.insert_key(server, "ed25519:1", key);
        let over = KeyAt::Over {
            valid_until_ms: 1000,
        };
        for (id, at_ms, want) in [
            ("ed25519:1", None, KeyAt::Valid(&seven)),
            ("ed25519:1", Some(1000), KeyAt::Valid(&seven)),
            ("ed25519:1", Some(-5), KeyAt::Valid(&seven)),
            ("ed25519:1", Some(1001), over),
            ("ed25519:2", None, KeyAt::Unknown),
        ] {
            assert_eq!(keys.key(server, id, at_ms), want, "{id} {at_ms:?}");
        }
        assert_eq!(keys.of(server).collect::<Vec<_>>(), [("ed25519:1", key)]);
        keys.remove(server);
        assert_eq!(keys.key(server, "ed25519:1", None), KeyAt::Unknown);
    }
}
