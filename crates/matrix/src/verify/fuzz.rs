//! Doors for the fuzz targets: each takes whatever bytes, and panics where a promise is broken.
//!
//! The corpora are signed by servers whose keys are known here, so that what is proved is met as well.

use super::{
    batch::{Answer, Batch, Limits, StateIds, TimestampToEvent},
    keys::KeyDocument,
    keyset::{KeySet, VerifyKey},
    pdu::{Expect, Pdu},
    rules::Rules,
    sign::SigningKey,
    xmatrix::XMatrix,
};
use bytes::Bytes;
use ruma_common::ServerName;

const ANSWERS: [Answer; 4] = [
    Answer::Event,
    Answer::AuthChain,
    Answer::Backfill,
    Answer::MissingEvents,
];

/// An answer to any operation, and a PDU by itself. The first byte says of which room version.
pub fn pdus(bytes: &[u8]) {
    let Some((version, body)) = bytes.split_first() else {
        return;
    };
    let version = usize::from(version.wrapping_sub(b'a')) % 12;
    let rules = Rules::all().nth(version).expect("one of twelve");
    let body = Bytes::copy_from_slice(body);
    let limits = Limits {
        body_bytes_max: 1 << 20,
        pdus_max: 20,
        ids_max: 50,
    };
    let keys = known_keys();
    for answer in ANSWERS {
        let Ok(batch) = Batch::split(answer, &body, &limits) else {
            assert!(answer.shape(&body, &limits).is_err());
            continue;
        };
        let len = batch.len();
        assert_eq!(answer.shape(&body, &limits), Ok(len));
        assert!(len <= limits.pdus_max);
        let parsed = batch.parse(rules, &Expect::default(), 2);
        assert!(parsed.lacking(&keys).len() <= 20 * len);
        let salvage = parsed.check(&keys, 2);
        assert_eq!(salvage.good.len() + salvage.bad.len(), len);
        for good in &salvage.good {
            let raw = good.pdu.raw();
            assert!(body.as_ptr_range().contains(&raw.as_ptr()));
        }
        for bad in &salvage.bad {
            assert!(bad.flaw.to_string().len() < 8_000);
        }
    }
    let _ = StateIds::parse(&body, Some(rules), &limits);
    let _ = TimestampToEvent::parse(&body, &limits);
    let _ = Rules::of_create_event(&body);
    pdu(body, rules, &keys);
}

fn pdu(raw: Bytes, rules: Rules, keys: &KeySet) {
    let id = Pdu::id_of(&raw, rules);
    let Ok(pdu) = Pdu::parse(raw, rules) else {
        return;
    };
    assert_eq!(id.as_deref(), Some(pdu.event_id()));
    // In canonical form it is the same event with the same verdict.
    let again = serde_json::to_vec(&pdu.object()).expect("canonical");
    let again = Pdu::parse(again.into(), rules).expect("the same event");
    assert_eq!(again.event_id(), pdu.event_id());
    assert_eq!(again.check(keys), pdu.check(keys));
    // What redaction leaves of it is the same event, too. (Who must sign may differ: redaction takes
    // away that it was an invitation by way of a third party.)
    if let Ok(proof) = pdu.check(keys) {
        assert!(!proof.signers.is_empty());
        let redacted = serde_json::to_vec(&pdu.redacted()).expect("canonical");
        if let Ok(redacted) = Pdu::parse(redacted.into(), rules) {
            assert_eq!(redacted.event_id(), pdu.event_id());
        }
    }
}

/// A key document, and a notary's answer.
pub fn keys(bytes: &[u8]) {
    const NOW_MS: u64 = 1_700_000_000_000;
    let raw = Bytes::copy_from_slice(bytes);
    let a = known_server("a.example");
    if let Ok(document) = KeyDocument::parse_and_check(raw.clone(), a, NOW_MS) {
        assert_eq!(document.server(), a);
        assert!(document.trusted_until_ms() <= document.valid_until_ts());
        let mut keys = KeySet::new();
        keys.insert(&document);
        assert_eq!(keys.of(a).count(), document.keys().count());
        // It is kept as it came, and read again from there.
        assert!(KeyDocument::parse_and_check(document.raw().clone(), a, NOW_MS).is_ok());
    }
    let notary = known_server("b.example");
    if let Ok(documents) = KeyDocument::parse_query(&raw, notary, &known_keys(), NOW_MS, 8) {
        assert!(documents.len() <= 8);
        for document in documents.into_iter().flatten() {
            let server = document.server();
            let again = KeyDocument::parse_and_check(document.raw().clone(), server, NOW_MS);
            assert!(again.is_ok());
        }
    }
    let _ = SigningKey::parse_file(&String::from_utf8_lossy(bytes));
}

/// The value of the header `Authorization`.
pub fn xmatrix(bytes: &[u8]) {
    if let Ok(header) = XMatrix::parse(bytes) {
        let shown = header.to_string();
        assert_eq!(XMatrix::parse(shown.as_bytes()), Ok(header), "{shown}");
    }
}

fn known_server(name: &str) -> &ServerName {
    <&ServerName>::try_from(name).expect("the name of a server")
}

/// The keys of the servers that signed the corpora: their seeds are their names.
fn known_keys() -> KeySet {
    let mut keys = KeySet::new();
    for name in ["a.example", "b.example"] {
        let mut seed = [0; 32];
        seed[..name.len()].copy_from_slice(name.as_bytes());
        let key = SigningKey::from_seed("a_1", &seed).expect("any seed makes a key");
        let bytes = key.public_key();
        let valid_until_ms = u64::MAX;
        let key_of = VerifyKey {
            bytes,
            valid_until_ms,
        };
        keys.insert_key(known_server(name), key.id(), key_of);
    }
    keys
}
