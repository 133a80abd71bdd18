//! Documents in which servers publish their keys: `/_matrix/key/v2/server` of the server itself, and
//! `/_matrix/key/v2/query` of a notary, who signs what it passes on.

use super::{
    flaw::{Flaw, shown},
    json::parse_object,
    keyset::{KeySet, VerifyKey},
    signature,
};
use bytes::Bytes;
use ruma_common::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName,
    serde::{Base64, base64::Standard},
};
use ruma_signatures::to_canonical_json_string_for_signing;
use std::collections::BTreeMap;

/// How large a key document may be, in bytes. Synapse's is below one KiB.
pub const KEY_DOCUMENT_BYTES_MAX: usize = 64 << 10;

/// How many keys a document may name, old ones among them.
pub const KEYS_MAX: usize = 256;

/// How long after it was asked a server's word on its keys counts at most, in milliseconds: seven days.
pub const VALIDITY_MAX_MS: u64 = 7 * 24 * 3600 * 1000;

/// What a server says of its keys, signed with one of them.
#[derive(Debug, Clone)]
pub struct KeyDocument {
    raw: Bytes,
    server: OwnedServerName,
    keys: BTreeMap<String, VerifyKey>,
    valid_until_ts: u64,
    trusted_until_ms: u64,
}

impl KeyDocument {
    /// Reads the document `raw` that is said to be `server`'s, and checks that it says so too and is
    /// signed with one key at least of those it names as in use (and wrongly with none).
    ///
    /// `now_ms` is when it came, in milliseconds since 1970: its keys are trusted for seven days from
    /// then at most. So what is read from disk is to be given the time when it was fetched.
    ///
    /// A document that is over is no flaw: its keys prove older events. Keys of other kinds than
    /// ed25519 are passed over.
    ///
    /// Costs one signature check for each of its own signatures, besides the parse.
    pub fn parse_and_check(raw: Bytes, server: &ServerName, now_ms: u64) -> Result<Self, Flaw> {
        let (document, object) = Self::parse(raw, now_ms)?;
        document.check_server(server)?;
        document.check_self(&object)?;
        Ok(document)
    }

    /// Reads the answer of `notary` to a query for keys: each document in it must be signed by the
    /// server it is of, as [`KeyDocument::parse_and_check`] asks, and by the notary with one of
    /// `notary_keys` that is valid at `now_ms`.
    ///
    /// Bad documents stand in the result by themselves and do not spoil others. Whoever asked must
    /// drop what it did not ask for. The answer as a whole has a flaw if it is not of that shape, or
    /// has more than `documents_max` documents.
    pub fn parse_query(
        raw: &Bytes,
        notary: &ServerName,
        notary_keys: &KeySet,
        now_ms: u64,
        documents_max: usize,
    ) -> Result<Vec<Result<Self, Flaw>>, Flaw> {
        let documents = super::split::array_of_objects(raw, "server_keys", documents_max)?;
        let check = |raw: Bytes| {
            let (document, object) = Self::parse(raw, now_ms)?;
            document.check_self(&object)?;
            if document.server != notary {
                document.check_notary(&object, notary, notary_keys, now_ms)?;
            }
            Ok(document)
        };
        Ok(documents.into_iter().map(check).collect())
    }

    /// The document as it came.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// Whose keys they are.
    pub fn server(&self) -> &ServerName {
        &self.server
    }

    /// The keys by id (`ed25519:` and a name), with the time until which each counts.
    pub fn keys(&self) -> impl Iterator<Item = (&str, VerifyKey)> {
        self.keys.iter().map(|(id, key)| (id.as_str(), *key))
    }

    /// Until when the server says that its keys are valid, in milliseconds since 1970.
    pub fn valid_until_ts(&self) -> u64 {
        self.valid_until_ts
    }

    /// Until when the keys in use are trusted, in milliseconds since 1970: what the server says, but
    /// no more than seven days from when it was asked. Past half of that time a server may be asked
    /// anew.
    pub fn trusted_until_ms(&self) -> u64 {
        self.trusted_until_ms
    }

    fn parse(raw: Bytes, now_ms: u64) -> Result<(Self, CanonicalJsonObject), Flaw> {
        if raw.len() > KEY_DOCUMENT_BYTES_MAX {
            return Err(Flaw::TooLarge {
                what: "key document",
                bytes: raw.len(),
                max: KEY_DOCUMENT_BYTES_MAX,
            });
        }
        let object = parse_object(&raw, false)?;
        let Some(CanonicalJsonValue::String(server)) = object.get("server_name") else {
            return Err(Flaw::format("server_name", "not text"));
        };
        let server = ServerName::parse(server.as_str())
            .map_err(|_| Flaw::format("server_name", "not the name of a server"))?;
        let valid_until_ts = millis(&object, "valid_until_ts")?;
        let trusted_until_ms = valid_until_ts.min(now_ms.saturating_add(VALIDITY_MAX_MS));
        let mut document = Self {
            raw,
            server,
            keys: BTreeMap::new(),
            valid_until_ts,
            trusted_until_ms,
        };
        document.read_keys(&object)?;
        Ok((document, object))
    }

    fn read_keys(&mut self, object: &CanonicalJsonObject) -> Result<(), Flaw> {
        let current = key_objects(object, "verify_keys")?
            .ok_or_else(|| Flaw::format("verify_keys", "is missing"))?;
        let old = key_objects(object, "old_verify_keys")?;
        if current.len() + old.map_or(0, |old| old.len()) > KEYS_MAX {
            return Err(Flaw::TooMany {
                what: "keys",
                max: KEYS_MAX,
            });
        }
        for (id, key) in current.iter().filter(|(id, _)| is_ed25519(id)) {
            let key = VerifyKey {
                bytes: key_bytes(key, "verify_keys")?,
                valid_until_ms: self.trusted_until_ms,
            };
            self.keys.insert(id.clone(), key);
        }
        if self.keys.is_empty() {
            return Err(Flaw::format("verify_keys", "has no ed25519 key"));
        }
        for (id, key) in old.into_iter().flatten().filter(|(id, _)| is_ed25519(id)) {
            let fields = key
                .as_object()
                .ok_or_else(|| Flaw::format("old_verify_keys", "not an object"))?;
            let key = VerifyKey {
                bytes: key_bytes(key, "old_verify_keys")?,
                valid_until_ms: millis(fields, "expired_ts")?,
            };
            // A server that forgot to take a key off the other list says that it is in use. But one id
            // for two keys proves nothing of either.
            match self.keys.get(id) {
                None => {
                    self.keys.insert(id.clone(), key);
                }
                Some(current) if current.bytes == key.bytes => {}
                Some(_) => {
                    return Err(Flaw::format(
                        "old_verify_keys",
                        "has another key by the id of one in use",
                    ));
                }
            }
        }
        Ok(())
    }

    fn check_server(&self, asked: &ServerName) -> Result<(), Flaw> {
        if self.server != asked {
            return Err(Flaw::WrongServer {
                asked: asked.to_owned(),
                got: shown(self.server.as_str()),
            });
        }
        Ok(())
    }

    /// Signed by the server itself, with a key that it names as in use.
    fn check_self(&self, object: &CanonicalJsonObject) -> Result<(), Flaw> {
        let current = key_objects(object, "verify_keys")?.into_iter().flatten();
        let mut own = KeySet::new();
        for (id, _) in current {
            if let Some(key) = self.keys.get(id) {
                own.insert_key(&self.server, id, *key);
            }
        }
        check_object(object, &self.server, &own, None)
    }

    fn check_notary(
        &self,
        object: &CanonicalJsonObject,
        notary: &ServerName,
        keys: &KeySet,
        now_ms: u64,
    ) -> Result<(), Flaw> {
        check_object(object, notary, keys, i64::try_from(now_ms).ok())
    }
}

/// Checks that `server` signed `object`, with one key at least of `keys` that is valid at `at_ms` (or
/// ever was), and wrongly with none of them.
pub fn check_object(
    object: &CanonicalJsonObject,
    server: &ServerName,
    keys: &KeySet,
    at_ms: Option<i64>,
) -> Result<(), Flaw> {
    let signed = to_canonical_json_string_for_signing(object)
        .map_err(|_| Flaw::format("document", "has no canonical form"))?;
    let signatures = signature::Signatures::of(object, server.to_owned())?;
    signatures.check(|id| keys.key(server, id, at_ms), signed.as_bytes(), at_ms)
}

fn is_ed25519(id: &str) -> bool {
    id.starts_with("ed25519:")
}

fn key_objects<'o>(
    object: &'o CanonicalJsonObject,
    field: &'static str,
) -> Result<Option<&'o CanonicalJsonObject>, Flaw> {
    match object.get(field) {
        None => Ok(None),
        Some(CanonicalJsonValue::Object(keys)) => Ok(Some(keys)),
        Some(_) => Err(Flaw::format(field, "not an object")),
    }
}

fn key_bytes(key: &CanonicalJsonValue, field: &'static str) -> Result<[u8; 32], Flaw> {
    let text = key.as_object().and_then(|key| key.get("key"));
    let text = text.and_then(CanonicalJsonValue::as_str);
    text.and_then(|text| Base64::<Standard, [u8; 32]>::parse(text).ok())
        .map(Base64::into_inner)
        .ok_or_else(|| Flaw::format(field, "has a key that is not 32 bytes in base64"))
}

fn millis(object: &CanonicalJsonObject, field: &'static str) -> Result<u64, Flaw> {
    object
        .get(field)
        .and_then(CanonicalJsonValue::as_integer)
        .and_then(|ms| u64::try_from(i64::from(ms)).ok())
        .ok_or_else(|| Flaw::format(field, "not a time in milliseconds"))
}
