//! What servers and notaries say of keys.

use crate::events::*;
use bytes::Bytes;
use gannet_matrix::verify::{
    flaw::Flaw,
    keys::{KEY_DOCUMENT_BYTES_MAX, KEYS_MAX, KeyDocument, VALIDITY_MAX_MS},
    keyset::{KeyAt, KeySet, PublicKey},
};
use ruma_common::{
    CanonicalJsonObject,
    serde::{Base64, base64::Standard},
};
use serde_json::{Value, json};

const NOW_MS: u64 = 1_700_000_000_000;
const DAY_MS: u64 = 24 * 3600 * 1000;

fn base64(bytes: [u8; 32]) -> String {
    Base64::<Standard, _>::new(bytes).encode()
}

/// The document of `server`, valid for a day; `patch` replaces its fields.
fn document(server: &Server, patch: Value) -> CanonicalJsonObject {
    let mut document = json!({
        "server_name": server.name,
        "valid_until_ts": NOW_MS + DAY_MS,
        "verify_keys": {server.key.id(): {"key": base64(server.key.public_key())}},
        "old_verify_keys": {"ed25519:old": {"key": base64([9; 32]), "expired_ts": 1000}},
    });
    for (key, value) in patch.as_object().unwrap() {
        document[key] = value.clone();
    }
    document
        .as_object_mut()
        .unwrap()
        .retain(|_, value| !value.is_null());
    object(document)
}

fn signed_by(mut document: CanonicalJsonObject, servers: &[&Server]) -> Bytes {
    for server in servers {
        server.key.sign_object(&server.name, &mut document).unwrap();
    }
    bytes(&document)
}

fn check(raw: Bytes) -> Result<KeyDocument, Flaw> {
    KeyDocument::parse_and_check(raw, &server("a.example").name, NOW_MS)
}

#[test]
fn a_document_says_which_keys_are_valid_until_when() {
    let a = server("a.example");
    let raw = signed_by(document(&a, json!({})), &[&a]);
    let document = check(raw.clone()).unwrap();
    assert_eq!(document.raw(), &raw);
    assert_eq!(document.server(), &*a.name);
    assert_eq!(document.valid_until_ts(), NOW_MS + DAY_MS);
    let mut keys = KeySet::new();
    keys.insert(&document);
    let at = |id: &str, at: u64| keys.key(&a.name, id, Some(i64::try_from(at).unwrap()));
    let own = a.key.public_key();
    assert_eq!(
        at("ed25519:a_1", NOW_MS + DAY_MS),
        KeyAt::Valid(&PublicKey::new(own))
    );
    assert!(matches!(
        at("ed25519:a_1", NOW_MS + DAY_MS + 1),
        KeyAt::Over { .. }
    ));
    assert_eq!(
        at("ed25519:old", 1000),
        KeyAt::Valid(&PublicKey::new([9; 32]))
    );
    assert_eq!(
        at("ed25519:old", 1001),
        KeyAt::Over {
            valid_until_ms: 1000
        }
    );

    // One that is retired later is known as that from then on; one that is forgotten stays.
    let retired = json!({
        "verify_keys": {"ed25519:a_1": {"key": base64(own)}, "ed25519:new": {"key": base64([8; 32])}},
        "old_verify_keys": null,
    });
    keys.insert(&check(signed_by(super::keys::document(&a, retired), &[&a])).unwrap());
    assert_eq!(keys.of(&a.name).count(), 3);
}

#[test]
fn a_server_is_believed_for_seven_days() {
    let a = server("a.example");
    let last = NOW_MS + VALIDITY_MAX_MS;
    for (until, trusted) in [
        (last, last),
        (last + 1, last),
        (9_007_199_254_740_991, last),
        (NOW_MS - 1, NOW_MS - 1),
        (0, 0),
    ] {
        let document = document(&a, json!({"valid_until_ts": until}));
        let document = check(signed_by(document, &[&a])).unwrap();
        assert_eq!(document.trusted_until_ms(), trusted, "{until}");
        let (_, key) = document.keys().next().unwrap();
        assert_eq!(key.valid_until_ms, trusted);
    }
}

#[test]
fn documents_that_are_not_to_be_believed() {
    let (a, b) = (server("a.example"), server("b.example"));
    let refuse = |raw: Bytes, want: &str| {
        let flaw = check(raw).unwrap_err();
        assert_eq!(flaw.to_string(), want);
    };
    let mine = |patch: Value| signed_by(document(&a, patch), &[&a]);
    refuse(
        signed_by(document(&b, json!({})), &[&b]),
        "b.example where a.example was asked for",
    );
    refuse(bytes(&document(&a, json!({}))), "signatures: not an object");
    refuse(
        signed_by(document(&a, json!({})), &[&b]),
        "no signature of a.example",
    );
    // Signed, but after that changed.
    let text = String::from_utf8(mine(json!({})).to_vec()).unwrap();
    refuse(
        text.replace("\"expired_ts\":1000", "\"expired_ts\":2000")
            .into(),
        "the signature of a.example with ed25519:a_1 does not fit",
    );
    // Signed with a key that it does not name as in use.
    let others = json!({"verify_keys": {"ed25519:x": {"key": base64([7; 32])}}});
    refuse(
        mine(others),
        "cannot be verified: no key of a.example is known (signed with ed25519:a_1)",
    );
    let retired = json!({
        "verify_keys": {"ed25519:x": {"key": base64([7; 32])}},
        "old_verify_keys": {"ed25519:a_1": {"key": base64(a.key.public_key()), "expired_ts": 1}},
    });
    refuse(
        mine(retired),
        "cannot be verified: no key of a.example is known (signed with ed25519:a_1)",
    );
    let twice =
        json!({"old_verify_keys": {"ed25519:a_1": {"key": base64([7; 32]), "expired_ts": 1}}});
    refuse(
        mine(twice),
        "old_verify_keys: has another key by the id of one in use",
    );
    for (patch, want) in [
        (json!({"server_name": null}), "server_name: not text"),
        (
            json!({"server_name": "not a name"}),
            "server_name: not the name of a server",
        ),
        (
            json!({"valid_until_ts": null}),
            "valid_until_ts: not a time in milliseconds",
        ),
        (
            json!({"valid_until_ts": -1}),
            "valid_until_ts: not a time in milliseconds",
        ),
        (
            json!({"valid_until_ts": "1"}),
            "valid_until_ts: not a time in milliseconds",
        ),
        (json!({"verify_keys": null}), "verify_keys: is missing"),
        (json!({"verify_keys": []}), "verify_keys: not an object"),
        (
            json!({"verify_keys": {}}),
            "verify_keys: has no ed25519 key",
        ),
        (
            json!({"verify_keys": {"rot13:1": {"key": "x"}}}),
            "verify_keys: has no ed25519 key",
        ),
        (
            json!({"verify_keys": {"ed25519:1": {"key": "abcd"}}}),
            "verify_keys: has a key that is not 32 bytes in base64",
        ),
        (
            json!({"old_verify_keys": {"ed25519:1": {"key": base64([1; 32])}}}),
            "expired_ts: not a time in milliseconds",
        ),
        (
            json!({"old_verify_keys": {"ed25519:1": 7}}),
            "old_verify_keys: not an object",
        ),
    ] {
        refuse(mine(patch), want);
    }
    let many: serde_json::Map<String, Value> = (0..=KEYS_MAX)
        .map(|n| (format!("ed25519:{n}"), json!({"key": base64([1; 32])})))
        .collect();
    refuse(mine(json!({"verify_keys": many})), "more than 256 keys");
    refuse(
        " ".repeat(KEY_DOCUMENT_BYTES_MAX + 1).into(),
        "key document: 65537 bytes are more than 65536",
    );
    for text in ["", "[]", "{", "<html>"] {
        let flaw = check(text.into()).unwrap_err();
        assert!(matches!(flaw, Flaw::NotJson { .. }), "{text}");
    }
    let text = String::from_utf8(mine(json!({})).to_vec()).unwrap();
    let doubled = text.replacen('{', "{\"server_name\":\"b.example\",", 1);
    assert!(matches!(
        check(doubled.into()),
        Err(Flaw::DuplicateKey { .. })
    ));
}

#[test]
fn a_notary_answers_for_many_and_signs_each() {
    let (a, b, n) = (
        server("a.example"),
        server("b.example"),
        server("notary.example"),
    );
    let good = signed_by(document(&a, json!({})), &[&a, &n]);
    let bad = [
        signed_by(document(&b, json!({})), &[&b]),
        signed_by(document(&b, json!({})), &[&n]),
        signed_by(document(&b, json!({})), &[&a, &n]),
    ];
    let own = signed_by(document(&n, json!({})), &[&n]);
    let list: Vec<&str> = [&good, &bad[0], &bad[1], &bad[2], &own]
        .map(|raw| str::from_utf8(raw).unwrap())
        .to_vec();
    let body: Bytes = format!("{{\"server_keys\":[{}]}}", list.join(",")).into();
    let notary_keys = keys(&[&n], LATE_MS);
    let query = |keys: &KeySet, max| KeyDocument::parse_query(&body, &n.name, keys, NOW_MS, max);
    let documents = query(&notary_keys, 10).unwrap();
    let servers: Vec<Result<&str, String>> = documents
        .iter()
        .map(|document| match document {
            Ok(document) => Ok(document.server().as_str()),
            Err(flaw) => Err(flaw.to_string()),
        })
        .collect();
    assert_eq!(
        servers,
        [
            Ok("a.example"),
            Err("no signature of notary.example".to_owned()),
            Err("no signature of b.example".to_owned()),
            Err("no signature of b.example".to_owned()),
            Ok("notary.example"),
        ]
    );
    // A notary whose key is not known, or is over, proves nothing.
    for keys in [KeySet::new(), keys(&[&n], NOW_MS - 1)] {
        let documents = query(&keys, 10).unwrap();
        assert!(documents[0].as_ref().is_err_and(Flaw::wants_keys));
    }
    assert!(matches!(query(&notary_keys, 4), Err(Flaw::TooMany { .. })));
    let empty = Bytes::from_static(b"{}");
    assert!(KeyDocument::parse_query(&empty, &n.name, &notary_keys, NOW_MS, 1).is_err());
}
