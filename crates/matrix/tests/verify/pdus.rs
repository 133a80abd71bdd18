//! Single PDUs, of every room version.

use crate::events::*;
use bytes::Bytes;
use gannet_matrix::verify::{
    flaw::{Blame, Flaw, NotCanonical},
    json::DEPTH_MAX,
    keyset::{KeySet, KeysWanted, VerifyKey},
    pdu::{Expect, PDU_BYTES_MAX, PDU_RAW_BYTES_MAX, Pdu, Proof},
};
use ruma_common::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, RoomId, canonical_json::redact,
};
use ruma_signatures::{Verified, reference_hash};
use serde_json::json;

fn prove(version: &str, raw: &Bytes, keys: &KeySet) -> Result<Proof, Flaw> {
    Pdu::parse(raw.clone(), rules(version))?.check(keys)
}

fn verdict(version: &str, event: &CanonicalJsonObject, keys: &KeySet) -> Result<Verified, Flaw> {
    prove(version, &bytes(event), keys).map(|proof| proof.verified)
}

fn without(event: &CanonicalJsonObject, field: &str) -> CanonicalJsonObject {
    let mut event = event.clone();
    event.remove(field);
    event
}

#[test]
fn each_room_version_has_its_ids_and_its_proofs() {
    let a = server("a.example");
    for version in VERSIONS {
        let event = signed(version, json!({}), &[&a]);
        let raw = bytes(&event);
        let pdu = Pdu::parse(raw.clone(), rules(version)).unwrap();
        let proof = pdu.check(&keys(&[&a], LATE_MS)).unwrap();
        assert_eq!(proof.verified, Verified::All, "{version}");
        assert_eq!(proof.signers, [a.name.as_str()]);

        let want = match version {
            "1" | "2" => "$this:a.example".to_owned(),
            _ => format!(
                "${}",
                reference_hash(&event, rules(version).ruma()).unwrap()
            ),
        };
        assert_eq!(pdu.event_id().as_str(), want);
        assert!(rules(version).is_event_id(pdu.event_id()), "{want}");
        assert_eq!(Pdu::id_of(&raw, rules(version)).unwrap().as_str(), want);
        assert_eq!(pdu.raw(), &raw);
        assert_eq!(pdu.room_id(), "!room:a.example");
        assert_eq!(pdu.sender(), "@alice:a.example");
        assert_eq!(pdu.event_type(), "m.room.message");
        assert_eq!(pdu.state_key(), None);
        assert_eq!(pdu.origin_server_ts(), SENT_MS);
        assert_eq!(pdu.depth(), 7);
        assert_eq!(pdu.prev_events().len(), 1);
        assert_eq!(pdu.auth_events().len(), 1);
        assert_eq!(pdu.object(), event);
    }
}

#[test]
fn ids_of_version_3_are_of_the_other_alphabet() {
    let a = server("a.example");
    let mut differed = false;
    for depth in 0..20 {
        let id = |version| {
            let event = signed(version, json!({"depth": depth}), &[&a]);
            let pdu = Pdu::parse(bytes(&event), rules(version)).unwrap();
            pdu.event_id().as_str().to_owned()
        };
        let (third, fourth) = (id("3"), id("4"));
        assert_eq!(third.replace('+', "-").replace('/', "_"), fourth);
        differed |= third != fourth;
    }
    assert!(differed, "twenty ids without any of + and /");
}

#[test]
fn a_room_of_version_12_is_its_create_event() {
    let a = server("a.example");
    let patch = json!({
        "type": "m.room.create", "state_key": "", "room_id": null,
        "content": {"room_version": "12"}, "prev_events": [], "auth_events": [],
    });
    let create = signed("12", patch.clone(), &[&a]);
    let pdu = Pdu::parse(bytes(&create), rules("12")).unwrap();
    assert_eq!(pdu.room_id().strip_sigil(), pdu.event_id().localpart());
    assert_eq!(
        pdu.check(&keys(&[&a], LATE_MS)).unwrap().verified,
        Verified::All
    );

    // Of another type it needs a room; and with a room it is no create event of such a room.
    for (changed, version) in [
        (json!({"type": "m.room.topic"}), "12"),
        (json!({"state_key": "x"}), "12"),
        (json!({"room_id": "!room:a.example"}), "12"),
        (json!({}), "11"),
    ] {
        let mut patch = patch.clone();
        for (key, value) in changed.as_object().unwrap() {
            patch[key] = value.clone();
        }
        let event = signed(version, patch, &[&a]);
        assert!(
            matches!(
                Pdu::parse(bytes(&event), rules(version)),
                Err(Flaw::Format {
                    field: "room_id",
                    ..
                })
            ),
            "{changed}"
        );
    }
}

#[test]
fn content_that_was_cut_is_not_passed_off_as_whole() {
    let a = server("a.example");
    let keys = keys(&[&a], LATE_MS);
    for version in VERSIONS {
        let whole = signed(version, json!({}), &[&a]);
        // As servers do it where the history is not to be seen, as redaction leaves it, and a forger.
        let mut empty = whole.clone();
        empty.insert("content".to_owned(), CanonicalJsonObject::new().into());
        let redacted = redact(whole.clone(), &rules(version).ruma().redaction, None).unwrap();
        let mut forged = whole.clone();
        let body = object(json!({"body": "I owe you", "msgtype": "m.text"}));
        forged.insert("content".to_owned(), body.into());
        let id = Pdu::parse(bytes(&whole), rules(version)).unwrap();
        for event in [empty, redacted.clone(), forged] {
            let pdu = Pdu::parse(bytes(&event), rules(version)).unwrap();
            assert_eq!(pdu.event_id(), id.event_id(), "{version}");
            assert!(!pdu.content_fits());
            assert_eq!(pdu.check(&keys).unwrap().verified, Verified::Signatures);
            assert_eq!(pdu.redacted(), redacted, "{version}");
        }
    }
}

#[test]
fn what_is_not_signed_may_change() {
    let a = server("a.example");
    let keys = keys(&[&a], LATE_MS);
    let mut event = signed("10", json!({}), &[&a]);
    event.insert("unsigned".to_owned(), object(json!({"age": 1})).into());
    assert_eq!(verdict("10", &event, &keys), Ok(Verified::All));
    assert_eq!(
        verdict("10", &without(&event, "unsigned"), &keys),
        Ok(Verified::All)
    );
    // A field that is not known is part of the content's hash.
    event.insert("org.example.x".to_owned(), CanonicalJsonValue::Null);
    assert_eq!(verdict("10", &event, &keys), Ok(Verified::Signatures));
}

#[test]
fn who_must_sign_is_up_to_the_version() {
    let (a, b, c) = (
        server("a.example"),
        server("b.example"),
        server("c.example"),
    );
    let all = keys(&[&a, &b, &c], LATE_MS);
    let missing = |server: &Server| {
        Err(Flaw::MissingSignature {
            server: server.name.clone(),
        })
    };
    // The server of the id, in versions 1 and 2.
    for version in ["1", "2"] {
        let other_id = json!({"event_id": "$this:b.example"});
        let event = signed(version, other_id.clone(), &[&a]);
        assert_eq!(verdict(version, &event, &all), missing(&b));
        let event = signed(version, other_id.clone(), &[&b]);
        assert_eq!(verdict(version, &event, &all), missing(&a));
        let event = signed(version, other_id, &[&a, &b]);
        assert_eq!(verdict(version, &event, &all), Ok(Verified::All));
        let event = signed(version, json!({"event_id": "$hash"}), &[&a]);
        assert!(matches!(
            verdict(version, &event, &all),
            Err(Flaw::Format {
                field: "event_id",
                ..
            })
        ));
    }
    // The server of the user who let somebody in, from version 8 on.
    for version in VERSIONS {
        let join = json!({"type": "m.room.member", "state_key": "@alice:a.example", "content":
            {"membership": "join", "join_authorised_via_users_server": "@carol:c.example"}});
        let event = signed(version, join.clone(), &[&a]);
        let needed = !matches!(version, "1" | "2" | "3" | "4" | "5" | "6" | "7");
        let want = if needed {
            missing(&c)
        } else {
            Ok(Verified::All)
        };
        assert_eq!(verdict(version, &event, &all), want, "{version}");
        let event = signed(version, join, &[&a, &c]);
        let proof = prove(version, &bytes(&event), &all).unwrap();
        assert_eq!(proof.verified, Verified::All);
        assert_eq!(proof.signers.len(), 1 + usize::from(needed));
    }
}

/// Servers hand such events out, for their rules say nothing against them: whoever asked a signature
/// of them would call all those servers forgers.
#[test]
fn nobody_has_to_have_allowed_what_is_no_join() {
    let a = server("a.example");
    let keys = keys(&[&a], LATE_MS);
    for version in VERSIONS {
        for user in [json!("@carol:c.example"), json!("nobody"), json!(5)] {
            let message =
                json!({"content": {"body": "x", "join_authorised_via_users_server": user}});
            let leave = json!({"type": "m.room.member", "state_key": "@alice:a.example", "content":
                {"membership": "leave", "join_authorised_via_users_server": user}});
            for event in [message, leave] {
                let event = signed(version, event, &[&a]);
                let proof = prove(version, &bytes(&event), &keys).unwrap();
                assert_eq!(proof.verified, Verified::All, "{version} {user}");
                assert_eq!(proof.signers, std::slice::from_ref(&a.name));
            }
        }
    }
}

#[test]
fn an_invitation_by_a_third_party_needs_some_signature() {
    let (a, b) = (server("a.example"), server("b.example"));
    let invite = json!({"type": "m.room.member", "state_key": "@bob:b.example", "content":
        {"membership": "invite", "third_party_invite": {"signed": {}}}});
    for version in ["6", "11", "12"] {
        // Whoever brought it has signed it, not the server of its sender.
        let event = signed(version, invite.clone(), &[&b]);
        let proof = prove(version, &bytes(&event), &keys(&[&b], LATE_MS)).unwrap();
        assert_eq!(proof.verified, Verified::All);
        assert_eq!(proof.signers, [b.name.as_str()]);
        assert_eq!(
            verdict(version, &event, &keys(&[&a], LATE_MS)),
            Err(Flaw::NoKey {
                server: b.name.clone(),
                keys: vec!["ed25519:a_1".to_owned()]
            })
        );
        // Of two, one that is known will do.
        let event = signed(version, invite.clone(), &[&a, &b]);
        let pdu = Pdu::parse(bytes(&event), rules(version)).unwrap();
        for known in [&a, &b] {
            let keys = keys(&[known], LATE_MS);
            assert_eq!(pdu.check(&keys).unwrap().signers, [known.name.as_str()]);
            let mut lacking = KeysWanted::new();
            keys.lacking(&pdu, &mut lacking);
            assert!(lacking.is_empty());
            KeySet::new().lacking(&pdu, &mut lacking);
            assert_eq!(lacking.len(), 2);
        }
        // Nobody's word is none.
        let mut event = event;
        event.insert("signatures".to_owned(), CanonicalJsonObject::new().into());
        assert_eq!(
            verdict(version, &event, &keys(&[&a, &b], LATE_MS)),
            Err(Flaw::MissingSignature {
                server: a.name.clone()
            })
        );
    }
}

#[test]
fn keys_count_while_they_are_valid_from_version_5_on() {
    let a = server("a.example");
    let sent = u64::try_from(SENT_MS).unwrap();
    for version in VERSIONS {
        let event = signed(version, json!({}), &[&a]);
        let expired = keys(&[&a], sent - 1);
        let ignores = matches!(version, "1" | "2" | "3" | "4");
        let want = match ignores {
            true => Ok(Verified::All),
            false => Err(Flaw::KeyNotValid {
                server: a.name.clone(),
                key: "ed25519:a_1".to_owned(),
                valid_until_ms: sent - 1,
                at_ms: SENT_MS,
            }),
        };
        assert_eq!(verdict(version, &event, &expired), want, "{version}");
        assert_eq!(
            verdict(version, &event, &keys(&[&a], sent)),
            Ok(Verified::All)
        );
    }
}

#[test]
fn a_missing_key_is_told_from_a_forgery() {
    let (a, b) = (server("a.example"), server("b.example"));
    let event = signed("10", json!({}), &[&a]);
    let flaw = verdict("10", &event, &keys(&[&b], LATE_MS)).unwrap_err();
    assert_eq!(
        flaw,
        Flaw::NoKey {
            server: a.name.clone(),
            keys: vec!["ed25519:a_1".to_owned()]
        }
    );
    assert_eq!(flaw.blame(), Blame::Nobody);

    // Signed by b in the name of a.
    let mut forged = signed("10", json!({}), &[&b]);
    let signatures = forged
        .get_mut("signatures")
        .unwrap()
        .as_object_mut()
        .unwrap();
    let of_b = signatures.remove("b.example").unwrap();
    signatures.insert("a.example".to_owned(), of_b);
    let flaw = verdict("10", &forged, &keys(&[&a, &b], LATE_MS)).unwrap_err();
    assert_eq!(
        flaw,
        Flaw::BadSignature {
            server: a.name,
            key: "ed25519:a_1".to_owned()
        }
    );
    assert_eq!(flaw.blame(), Blame::Answerer);
}

#[test]
fn every_signature_that_can_be_checked_must_fit() {
    let a = server("a.example");
    let other = VerifyKey {
        bytes: server("b.example").key.public_key(),
        valid_until_ms: LATE_MS,
    };
    let mut event = signed("10", json!({}), &[&a]);
    let of_a = event
        .get_mut("signatures")
        .unwrap()
        .as_object_mut()
        .unwrap();
    let of_a = of_a.get_mut("a.example").unwrap().as_object_mut().unwrap();
    let fits = of_a.get("ed25519:a_1").unwrap().clone();
    of_a.insert("ed25519:other".to_owned(), fits);
    of_a.insert("rot13:x".to_owned(), CanonicalJsonValue::Null);
    let mut keys = keys(&[&a], LATE_MS);
    assert_eq!(verdict("10", &event, &keys), Ok(Verified::All));
    keys.insert_key(&a.name, "ed25519:other", other);
    assert!(matches!(
        verdict("10", &event, &keys),
        Err(Flaw::BadSignature { key, .. }) if key == "ed25519:other"
    ));
}

#[test]
fn an_event_does_not_cost_what_its_maker_likes() {
    let a = server("a.example");
    let many = |n: usize| {
        let signature = json!("x");
        let ids = (0..n).map(|n| (format!("ed25519:{n}"), signature.clone()));
        serde_json::Value::Object(ids.collect())
    };
    let mut event = unsigned("10", json!({"signatures": {"a.example": many(8)}}));
    a.sign(&mut event, rules("10"));
    let flaw = verdict("10", &event, &keys(&[&a], LATE_MS)).unwrap_err();
    assert_eq!(
        flaw.to_string(),
        "cannot be verified: more than 8 signatures of one server"
    );
    assert_eq!(flaw.blame(), Blame::Nobody);
    let servers: serde_json::Map<String, serde_json::Value> =
        (0..5).map(|n| (format!("s{n}.example"), many(1))).collect();
    let patch = json!({"type": "m.room.member", "signatures": servers, "content":
        {"membership": "invite", "third_party_invite": {}}});
    let flaw = verdict("10", &signed("10", patch, &[&a]), &KeySet::new()).unwrap_err();
    assert_eq!(
        flaw.to_string(),
        "cannot be verified: more than 4 servers that signed where any will do"
    );
}

#[test]
fn what_is_malformed_says_where() {
    let a = server("a.example");
    let long = "x".repeat(256);
    let check = |version: &str, patch: serde_json::Value, want: &str| {
        let event = signed(version, patch.clone(), &[&a]);
        let flaw = Pdu::parse(bytes(&event), rules(version)).unwrap_err();
        assert_eq!(flaw.to_string(), want, "{version} {patch}");
        let blame = match flaw {
            // They are in rooms from before there was a bound.
            Flaw::TooMany { .. } => Blame::Nobody,
            _ => Blame::Answerer,
        };
        assert_eq!(flaw.blame(), blame);
    };
    let ids = |n: usize| -> Vec<String> { (0..n).map(|n| format!("${n}")).collect() };
    check(
        "10",
        json!({"sender": null}),
        "sender: not the id of a user",
    );
    check(
        "10",
        json!({"sender": "alice"}),
        "sender: not the id of a user",
    );
    check(
        "10",
        json!({"sender": format!("@{long}:a.example")}),
        "sender: not the id of a user",
    );
    check(
        "10",
        json!({"room_id": null}),
        "room_id: not the id of a room",
    );
    check(
        "10",
        json!({"room_id": "#x:a.example"}),
        "room_id: not the id of a room",
    );
    check("10", json!({"state_key": 1}), "state_key: not text");
    check(
        "10",
        json!({"state_key": long}),
        "state_key: longer than 255 characters",
    );
    check(
        "10",
        json!({"type": long}),
        "type: longer than 255 characters",
    );
    check("10", json!({"content": "x"}), "content: not an object");
    check("10", json!({"content": null}), "content: not an object");
    check("10", json!({"depth": -1}), "depth: below zero");
    check("10", json!({"depth": "1"}), "depth: not an integer");
    check(
        "10",
        json!({"origin_server_ts": null}),
        "origin_server_ts: not an integer",
    );
    check(
        "10",
        json!({"prev_events": null}),
        "prev_events: not a list",
    );
    check(
        "10",
        json!({"prev_events": ids(21)}),
        "more than 20 prev_events",
    );
    check(
        "10",
        json!({"auth_events": ids(11)}),
        "more than 10 auth_events",
    );
    check(
        "10",
        json!({"auth_events": [format!("${long}")]}),
        "auth_events: does not name events",
    );
    check(
        "10",
        json!({"auth_events": [["$x:y", {}]]}),
        "auth_events: does not name events",
    );
    check(
        "1",
        json!({"auth_events": ["$x:y"]}),
        "auth_events: does not name events",
    );
    check(
        "1",
        json!({"auth_events": [[]]}),
        "auth_events: does not name events",
    );
    check(
        "1",
        json!({"event_id": null}),
        "event_id: not the id of an event with a server",
    );
    let member = json!({"type": "m.room.member", "content": {}});
    check("10", member, "membership: is missing");
    let fine = signed(
        "10",
        json!({"prev_events": ids(20), "auth_events": ids(10)}),
        &[&a],
    );
    assert_eq!(
        verdict("10", &fine, &keys(&[&a], LATE_MS)),
        Ok(Verified::All)
    );
    for (field, want) in [
        ("hashes", "hashes: has no sha256"),
        ("signatures", "signatures: not an object"),
        ("type", "type: is missing"),
    ] {
        let event = without(&signed("10", json!({}), &[&a]), field);
        let flaw = Pdu::parse(bytes(&event), rules("10")).unwrap_err();
        assert_eq!(flaw.to_string(), want);
    }
}

#[test]
fn events_that_canonical_json_cannot_say_cannot_be_verified() {
    let a = server("a.example");
    let text = String::from_utf8(bytes(&signed("5", json!({}), &[&a])).to_vec()).unwrap();
    for version in VERSIONS {
        for (number, why) in [
            ("7.5", NotCanonical::Float),
            ("7e3", NotCanonical::Float),
            ("9007199254740992", NotCanonical::LargeInteger),
        ] {
            let text = text.replace("\"depth\":7", &format!("\"depth\":{number}"));
            let flaw = Pdu::parse(text.into(), rules(version)).unwrap_err();
            let lax = matches!(version, "1" | "2" | "3" | "4" | "5");
            assert_eq!(flaw, Flaw::NotCanonical { why, lax });
            assert!(flaw.to_string().starts_with("cannot be verified: "));
            let blame = if lax { Blame::Nobody } else { Blame::Answerer };
            assert_eq!(flaw.blame(), blame);
        }
    }
}

#[test]
fn two_keys_of_one_name_are_refused() {
    let a = server("a.example");
    let text = String::from_utf8(bytes(&signed("10", json!({}), &[&a])).to_vec()).unwrap();
    for (key, text) in [
        ("depth", text.replacen('{', "{\"depth\":9,", 1)),
        (
            "body",
            text.replace("\"content\":{", "\"content\":{\"b\\u006fdy\":\"forged\","),
        ),
        (
            "a.example",
            text.replace("\"signatures\":{", "\"signatures\":{\"a.example\":{},"),
        ),
        (
            "age",
            text.replace("\"unsigned\":{", "\"unsigned\":{\"age\":0,"),
        ),
    ] {
        assert_eq!(
            Pdu::parse(text.into(), rules("10")).unwrap_err(),
            Flaw::DuplicateKey {
                key: key.to_owned()
            }
        );
    }
}

#[test]
fn the_size_is_that_of_the_canonical_form() {
    let a = server("a.example");
    let of = |n: usize| {
        let body = "x".repeat(n);
        let event = signed("10", json!({"content": {"body": body}}), &[&a]);
        without(&event, "unsigned")
    };
    let frame = bytes(&of(0)).len();
    let keys = keys(&[&a], LATE_MS);
    let largest = of(PDU_BYTES_MAX - frame);
    assert_eq!(bytes(&largest).len(), PDU_BYTES_MAX);
    assert_eq!(verdict("10", &largest, &keys), Ok(Verified::All));
    // What servers add does not count.
    let mut served = largest.clone();
    let added = json!({"age": 1, "redacted_because": {"content": {"reason": "y".repeat(1000)}}});
    served.insert("unsigned".to_owned(), added.try_into().unwrap());
    assert_eq!(verdict("10", &served, &keys), Ok(Verified::All));
    // White space and escapes do not count.
    let text = String::from_utf8(bytes(&largest).to_vec()).unwrap();
    let text = text
        .replace(',', ",\n\t ")
        .replacen("xxx", "\\u0078x\\u0078", 1000);
    assert!(text.len() > PDU_BYTES_MAX);
    let proof = prove("10", &text.into(), &keys).unwrap();
    assert_eq!(proof.verified, Verified::All);

    for (bytes, size, max) in [
        (
            bytes(&of(PDU_BYTES_MAX - frame + 1)),
            PDU_BYTES_MAX + 1,
            PDU_BYTES_MAX,
        ),
        (
            " ".repeat(PDU_RAW_BYTES_MAX + 1).into(),
            PDU_RAW_BYTES_MAX + 1,
            PDU_RAW_BYTES_MAX,
        ),
    ] {
        assert_eq!(
            Pdu::parse(bytes, rules("10")).unwrap_err(),
            Flaw::TooLarge {
                what: "PDU",
                bytes: size,
                max
            }
        );
    }
}

#[test]
fn depth_is_bounded() {
    let nested = |n: usize| format!("{{\"content\":{}{}}}", "[".repeat(n), "]".repeat(n));
    for n in [DEPTH_MAX, PDU_RAW_BYTES_MAX / 2 - 10] {
        assert_eq!(
            Pdu::parse(nested(n).into(), rules("1")).unwrap_err(),
            Flaw::TooDeep { max: DEPTH_MAX }
        );
    }
}

#[test]
fn another_event_or_room_than_was_asked_for_is_told() {
    let a = server("a.example");
    let event = signed("1", json!({}), &[&a]);
    let pdu = Pdu::parse(bytes(&event), rules("1")).unwrap();
    let event = |id: &str| Some(EventId::parse(id).unwrap());
    let room = |id: &str| Some(RoomId::parse(id).unwrap());
    for (asked, want) in [
        (Expect::default(), None),
        (
            Expect {
                event: event("$this:a.example"),
                room: room("!room:a.example"),
            },
            None,
        ),
        (
            Expect {
                event: event("$that:a.example"),
                room: None,
            },
            Some("event $this:a.example where $that:a.example was asked for"),
        ),
        (
            Expect {
                event: None,
                room: room("!hall:a.example"),
            },
            Some("an event of room !room:a.example where !hall:a.example was asked for"),
        ),
    ] {
        let got = pdu.expect(&asked).err().map(|flaw| flaw.to_string());
        assert_eq!(got.as_deref(), want);
    }
}

#[test]
fn nothing_of_the_content_is_shown_for_debugging() {
    let a = server("a.example");
    let event = signed("1", json!({}), &[&a]);
    let text = format!("{:?}", Pdu::parse(bytes(&event), rules("1")).unwrap());
    assert!(
        text.contains("$this:a.example") && !text.contains("fox"),
        "{text}"
    );
}
