//! Servers that sign events as homeservers do, with keys that are the same in each run.

use bytes::Bytes;
use gannet_matrix::verify::{
    keyset::{KeySet, VerifyKey},
    rules::Rules,
    sign::SigningKey,
};
use ruma_common::{CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, RoomVersionId};
use ruma_signatures::hash_and_sign_event;
use serde_json::json;

/// When the events were sent, in milliseconds since 1970.
pub(crate) const SENT_MS: i64 = 1_700_000_000_000;

/// Until when keys are valid, where a test says nothing else.
pub(crate) const LATE_MS: u64 = 2_000_000_000_000;

pub(crate) struct Server {
    pub(crate) name: OwnedServerName,
    pub(crate) key: SigningKey,
}

pub(crate) fn server(name: &str) -> Server {
    let mut seed = [0; 32];
    for (place, byte) in seed.iter_mut().zip(name.bytes()) {
        *place = byte;
    }
    Server {
        name: OwnedServerName::try_from(name).unwrap(),
        key: SigningKey::from_seed("a_1", &seed).unwrap(),
    }
}

impl Server {
    /// Adds the hash of the content, if there is none, and a signature.
    pub(crate) fn sign(&self, event: &mut CanonicalJsonObject, rules: Rules) {
        let (name, key) = (self.name.as_str(), self.key.pair());
        let redaction = &rules.ruma().redaction;
        hash_and_sign_event(name, key, event, redaction).unwrap();
    }
}

pub(crate) fn keys(servers: &[&Server], valid_until_ms: u64) -> KeySet {
    let mut keys = KeySet::new();
    for server in servers {
        let key = VerifyKey {
            bytes: server.key.public_key(),
            valid_until_ms,
        };
        keys.insert_key(&server.name, server.key.id(), key);
    }
    keys
}

pub(crate) fn rules(version: &str) -> Rules {
    Rules::of(&RoomVersionId::try_from(version).unwrap()).unwrap()
}

pub(crate) fn object(value: serde_json::Value) -> CanonicalJsonObject {
    match CanonicalJsonValue::try_from(value).unwrap() {
        CanonicalJsonValue::Object(object) => object,
        other => panic!("{other:?} is not an object"),
    }
}

pub(crate) fn bytes(object: &CanonicalJsonObject) -> Bytes {
    serde_json::to_vec(object).unwrap().into()
}

/// A message in `version`'s format that nobody has signed; `patch` replaces its fields, and takes away
/// those that it has as null.
pub(crate) fn unsigned(version: &str, patch: serde_json::Value) -> CanonicalJsonObject {
    let rules = rules(version);
    let mut event = json!({
        "type": "m.room.message",
        "room_id": "!room:a.example",
        "sender": "@alice:a.example",
        "origin_server_ts": SENT_MS,
        "depth": 7,
        "content": {"msgtype": "m.text", "body": "the quick brown fox, \"quoted\", and 日本語"},
        "prev_events": ["$Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg"],
        "auth_events": ["$Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg"],
        "unsigned": {"age": 4612},
    });
    if rules.event_says_id() {
        let reference = json!([["$before:b.example", {"sha256": "abc"}]]);
        event["prev_events"] = reference.clone();
        event["auth_events"] = reference;
        event["event_id"] = json!("$this:a.example");
    }
    for (key, value) in patch.as_object().unwrap() {
        event[key] = value.clone();
    }
    let event = event.as_object_mut().unwrap();
    event.retain(|_, value| !value.is_null());
    object(event.clone().into())
}

/// The same, signed by `signers`.
pub(crate) fn signed(
    version: &str,
    patch: serde_json::Value,
    signers: &[&Server],
) -> CanonicalJsonObject {
    let mut event = unsigned(version, patch);
    for server in signers {
        server.sign(&mut event, rules(version));
    }
    event
}

pub(crate) const VERSIONS: [&str; 12] = [
    "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12",
];
