//! Answers of real homeservers: see `tests/fixtures/README.md`.

use bytes::Bytes;
use gannet_matrix::verify::{
    Verified,
    batch::{Answer, Batch, Limits, Salvage, StateIds, TimestampToEvent, verify_all},
    flaw::{Blame, Flaw},
    keys::KeyDocument,
    keyset::{KeyAt, KeySet, VerifyKey},
    pdu::{Expect, Pdu},
    rules::Rules,
};
use ruma_common::{
    EventId, RoomId, RoomVersionId, ServerName,
    serde::{Base64, base64::Standard},
};
use serde_json::Value;
use std::{collections::BTreeSet, fs, path::PathBuf};

fn file(name: &str) -> Bytes {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let path = folder.join(name);
    fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .into()
}

fn index() -> Value {
    serde_json::from_slice(&file("index.json")).unwrap()
}

fn known_keys(index: &Value) -> KeySet {
    let mut known = KeySet::new();
    for (server, of_server) in index["servers"].as_object().unwrap() {
        let server = <&ServerName>::try_from(server.as_str()).unwrap();
        for (list, until) in [
            ("verify_keys", None),
            ("old_verify_keys", Some("expired_ts")),
        ] {
            for (id, key) in of_server[list].as_object().unwrap() {
                let bytes = Base64::<Standard, [u8; 32]>::parse(key["key"].as_str().unwrap());
                let key = VerifyKey {
                    bytes: bytes.unwrap().into_inner(),
                    valid_until_ms: until.map_or(u64::MAX, |until| key[until].as_u64().unwrap()),
                };
                known.insert_key(server, id, key);
            }
        }
    }
    known
}

fn rules_of(answer: &Value) -> Rules {
    let version = answer["room_version"].as_str().unwrap();
    Rules::of(&RoomVersionId::try_from(version).unwrap()).unwrap()
}

fn verified(kind: Answer, answer: &Value, keys: &KeySet) -> (Bytes, Salvage) {
    let body = file(answer["file"].as_str().unwrap());
    let batch = Batch::split(kind, &body, &Limits::default()).unwrap();
    let expect = Expect {
        event: (kind == Answer::Event)
            .then(|| EventId::parse(answer["event_id"].as_str().unwrap()).unwrap()),
        room: Some(RoomId::parse(answer["room_id"].as_str().unwrap()).unwrap()),
    };
    (body, verify_all(batch, rules_of(answer), &expect, keys, 2))
}

#[test]
fn every_event_of_every_room_version_verifies() {
    let index = index();
    let keys = known_keys(&index);
    let mut seen = BTreeSet::new();
    for answer in index["answers"].as_array().unwrap() {
        let name = answer["file"].as_str().unwrap();
        let kind = match answer["op"].as_str().unwrap() {
            "event" => Answer::Event,
            "event_auth" => Answer::AuthChain,
            "backfill" => Answer::Backfill,
            "missing" => Answer::MissingEvents,
            _ => continue,
        };
        seen.insert((
            answer["op"].as_str().unwrap(),
            answer["room_version"].as_str().unwrap(),
        ));
        let (body, salvage) = verified(kind, answer, &keys);
        if answer["unverifiable"] == true {
            assert!(salvage.good.is_empty(), "{name}");
            let flaw = &salvage.bad[0].flaw;
            assert!(
                matches!(flaw, Flaw::NotCanonical { lax: true, .. }),
                "{name}: {flaw}"
            );
            assert_eq!(flaw.blame(), Blame::Nobody);
            continue;
        }
        let good = salvage
            .whole()
            .unwrap_or_else(|bad| panic!("{name}: {bad:?}"));
        let want = match answer["redacted"] == true || answer["cut"] == true {
            true => Verified::Signatures,
            false => Verified::All,
        };
        if kind == Answer::Event {
            assert_eq!(good[0].proof.verified, want, "{name}");
        }
        if let Some(ids) = answer["ids"].as_array() {
            let got: Vec<&str> = good
                .iter()
                .map(|good| good.pdu.event_id().as_str())
                .collect();
            let ids: Vec<&str> = ids.iter().map(|id| id.as_str().unwrap()).collect();
            assert_eq!(got, ids, "{name}");
        }
        for good in good {
            assert!(body.as_ptr_range().contains(&good.pdu.raw().as_ptr()));
            if good.proof.verified == Verified::Signatures {
                continue;
            }
            // Changed in what it says, it is no such event any more.
            let text = String::from_utf8(good.pdu.raw().to_vec()).unwrap();
            let changed = text.replacen("\"content\":{", "\"content\":{\"added\":1,", 1);
            let changed = changed.replace("\"added\":1,}", "\"added\":1}");
            let pdu = Pdu::parse(changed.into(), rules_of(answer)).unwrap();
            let creates = pdu.event_type() == "m.room.create";
            match pdu.check(&keys) {
                Ok(proof) => assert_eq!(proof.verified, Verified::Signatures, "{name}"),
                // From version 11 on, all of what creates a room is signed.
                Err(flaw) => assert!(
                    creates && matches!(flaw, Flaw::BadSignature { .. }),
                    "{flaw}"
                ),
            }
        }
    }
    for version in 1..=12 {
        let version = version.to_string();
        for op in ["event", "event_auth", "backfill", "missing"] {
            assert!(
                seen.contains(&(op, version.as_str())),
                "{op} of version {version}"
            );
        }
    }
}

#[test]
fn the_create_event_says_its_room_s_version() {
    let index = index();
    for answer in index["answers"].as_array().unwrap() {
        if answer["file"].as_str().unwrap().ends_with("create.json") {
            let (_, salvage) = verified(Answer::Event, answer, &known_keys(&index));
            let pdu = &salvage.good[0].pdu;
            assert_eq!(Rules::of_create_event(pdu.raw()), Ok(rules_of(answer)));
            assert_eq!(pdu.room_id(), answer["room_id"].as_str().unwrap());
        }
    }
}

#[test]
fn lists_of_ids_and_times_are_read() {
    let index = index();
    let (mut lists, mut times) = (0, 0);
    for answer in index["answers"].as_array().unwrap() {
        let body = file(answer["file"].as_str().unwrap());
        let limits = Limits::default();
        match answer["op"].as_str().unwrap() {
            "state_ids" => {
                let ids = StateIds::parse(&body, Some(rules_of(answer)), &limits).unwrap();
                assert!(!ids.pdu_ids.is_empty() && !ids.auth_chain_ids.is_empty());
                let all = ids.pdu_ids.len() + ids.auth_chain_ids.len();
                assert_eq!(Answer::StateIds.shape(&body, &limits), Ok(all));
                lists += 1;
            }
            "at" => {
                let found = TimestampToEvent::parse(&body, &limits).unwrap();
                assert!(rules_of(answer).is_event_id(&found.event_id));
                times += 1;
            }
            _ => {}
        }
    }
    assert_eq!((lists, times), (12, 12));
}

#[test]
fn key_documents_are_believed() {
    // When they were fetched: within a day before they end.
    let index = index();
    let mut known = KeySet::new();
    for name in ["hs2.test", "hs3.test"] {
        let server = <&ServerName>::try_from(name).unwrap();
        let raw = file(&format!("keys/{}.json", name.trim_end_matches(".test")));
        let valid: Value = serde_json::from_slice(&raw).unwrap();
        let now_ms = valid["valid_until_ts"].as_u64().unwrap() - 3_600_000;
        let document = KeyDocument::parse_and_check(raw, server, now_ms).unwrap();
        assert_eq!(document.trusted_until_ms(), document.valid_until_ts());
        known.insert(&document);
        let of_index = known_keys(&index);
        for (id, key) in of_index.of(server) {
            assert!(
                matches!(known.key(server, id, None), KeyAt::Valid(known) if *known.bytes() == key.bytes),
                "{name} {id}"
            );
        }
    }
    // A notary's copies: each signed by its server and by the notary.
    let notary = <&ServerName>::try_from("hs2.test").unwrap();
    let (_, key) = known.of(notary).next().unwrap();
    let now_ms = key.valid_until_ms - 3_600_000;
    let body = file("keys/notary.json");
    let documents = KeyDocument::parse_query(&body, notary, &known, now_ms, 10).unwrap();
    let servers: Vec<&str> = documents
        .iter()
        .map(|document| document.as_ref().unwrap().server().as_str())
        .collect();
    assert_eq!(servers, ["hs1.test:8448", "hs3.test"]);
}
