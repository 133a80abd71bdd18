//! What holds of any event: `ruma`'s verdict, and that nothing changed passes for whole.

use crate::events::*;
use bytes::Bytes;
use gannet_matrix::verify::{
    flaw::Flaw,
    keyset::KeySet,
    pdu::{Pdu, Proof},
};
use proptest::prelude::*;
use ruma_common::{CanonicalJsonObject, CanonicalJsonValue};
use ruma_signatures::{Verified, verify_event};
use serde_json::json;
use std::collections::BTreeMap;

/// Events of each sort: who must sign differs, and what redaction leaves.
fn event(version: &str, sort: usize) -> CanonicalJsonObject {
    let (a, b) = (server("a.example"), server("b.example"));
    let member =
        |content| json!({"type": "m.room.member", "state_key": "@x:b.example", "content": content});
    let (patch, signers): (_, Vec<&Server>) = match sort {
        0 => (json!({}), vec![&a]),
        1 => (
            json!({"type": "m.room.power_levels", "state_key": "", "content":
                {"users": {"@alice:a.example": 100}, "invite": 0, "other": [1, {"a": -3}]}}),
            vec![&a],
        ),
        2 => (
            member(json!({"membership": "join", "displayname": "x",
                "join_authorised_via_users_server": "@bob:b.example"})),
            vec![&a, &b],
        ),
        3 => (
            member(json!({"membership": "invite", "third_party_invite":
                {"display_name": "b...", "signed": {"token": "t"}}})),
            vec![&b],
        ),
        4 => (
            json!({"type": "m.room.aliases", "state_key": "a.example", "origin": "a.example",
                "content": {"aliases": ["#x:a.example"]}}),
            vec![&a],
        ),
        _ => (
            json!({"type": "m.room.redaction", "redacts": "$r", "content":
                {"redacts": "$r", "reason": "spam\u{1f4a9}\u{7}"}}),
            vec![&a],
        ),
    };
    // In versions 1 and 2 the id's server signs as well, which is the sender's.
    let mut signers = signers;
    if sort == 3 && matches!(version, "1" | "2") {
        signers.push(&a);
    }
    signed(version, patch, &signers)
}

/// Valid at any time, for `ruma` does not look at that.
fn all_keys() -> KeySet {
    keys(&[&server("a.example"), &server("b.example")], u64::MAX)
}

fn ours(version: &str, raw: &[u8]) -> Result<Proof, Flaw> {
    Pdu::parse(Bytes::copy_from_slice(raw), rules(version))?.check(&all_keys())
}

/// What `ruma` says of the same bytes, with the same keys.
fn rumas(version: &str, raw: &[u8]) -> Option<Verified> {
    let object: CanonicalJsonObject = serde_json::from_slice(raw).ok()?;
    let mut keys = BTreeMap::new();
    for server in [server("a.example"), server("b.example")] {
        let key = ruma_common::serde::Base64::new(server.key.public_key().to_vec());
        let of_server = BTreeMap::from([(server.key.id().to_owned(), key)]);
        keys.insert(server.name.to_string(), of_server);
    }
    verify_event(&keys, &object, rules(version).ruma()).ok()
}

/// Whether an event that is no join says who allowed it.
fn allowed_no_join(raw: &[u8]) -> bool {
    let event: serde_json::Value = serde_json::from_slice(raw).unwrap();
    let content = &event["content"];
    content.get("join_authorised_via_users_server").is_some()
        && (event["type"] != "m.room.member" || content["membership"] != "join")
}

/// Where the two may differ: we refuse what `ruma` does not look at, and ask a signature of somebody;
/// `ruma` asks one of whoever is said to have allowed a join, where no join is.
fn compare(version: &str, raw: &[u8]) -> Result<(), TestCaseError> {
    match (ours(version, raw), rumas(version, raw)) {
        (Ok(_), None) if allowed_no_join(raw) => {}
        (Ok(proof), rumas) => prop_assert_eq!(Some(proof.verified), rumas),
        (Err(_), None) => {}
        (Err(flaw), Some(verdict)) => {
            let third_party =
                str::from_utf8(raw).is_ok_and(|text| text.contains("third_party_invite"));
            let stricter = match &flaw {
                Flaw::Format { .. } | Flaw::TooMany { .. } | Flaw::DuplicateKey { .. } => true,
                Flaw::TooManySignatures { .. } => third_party,
                Flaw::BadSignature { .. } | Flaw::NoKey { .. } | Flaw::MissingSignature { .. } => {
                    third_party
                }
                _ => false,
            };
            prop_assert!(stricter, "{} where ruma says {:?}", flaw, verdict);
        }
    }
    Ok(())
}

fn version() -> impl Strategy<Value = &'static str> {
    prop::sample::select(VERSIONS.to_vec())
}

/// What is put in place of a value.
fn value() -> impl Strategy<Value = serde_json::Value> {
    prop_oneof![
        Just(json!(null)),
        Just(json!({})),
        Just(json!([])),
        Just(json!(5)),
        Just(json!("")),
        Just(json!("@carol:c.example")),
        Just(json!("@bob:b.example")),
        Just(json!("invite")),
        Just(json!({"sha256": "abc"})),
    ]
}

/// Replaces, adds or takes away one field, at any depth.
fn change(
    event: &mut CanonicalJsonObject,
    path: &[usize],
    what: &Option<serde_json::Value>,
    name: &str,
) {
    let Some((first, rest)) = path.split_first() else {
        return;
    };
    let keys: Vec<String> = event.keys().cloned().collect();
    if keys.is_empty() {
        return;
    }
    let key = &keys[first % keys.len()];
    if let (Some(CanonicalJsonValue::Object(inner)), false) = (event.get_mut(key), rest.is_empty())
    {
        return change(inner, rest, what, name);
    }
    match what {
        Some(value) if first % 3 == 0 => {
            event.insert(name.to_owned(), value.clone().try_into().unwrap());
        }
        Some(value) => {
            event.insert(key.clone(), value.clone().try_into().unwrap());
        }
        None => {
            event.remove(key);
        }
    }
}

/// The same value in other words: keys in another order, white space, escapes.
fn rewrite(value: &CanonicalJsonValue, dice: &mut impl FnMut() -> usize, out: &mut String) {
    let space = |dice: &mut dyn FnMut() -> usize| [" ", "", "\n", "\t\r "][dice() % 4];
    let text = |text: &str, dice: &mut dyn FnMut() -> usize, out: &mut String| {
        let plain = serde_json::to_string(text).unwrap();
        match dice() % 3 {
            0 => {
                out.push('"');
                for unit in text.encode_utf16() {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
                out.push('"');
            }
            1 => out.push_str(&plain.replace('/', "\\/")),
            _ => out.push_str(&plain),
        }
    };
    out.push_str(space(dice));
    match value {
        CanonicalJsonValue::Object(object) => {
            let mut fields: Vec<_> = object.iter().collect();
            for n in (1..fields.len()).rev() {
                fields.swap(n, dice() % (n + 1));
            }
            out.push('{');
            for (n, (key, value)) in fields.into_iter().enumerate() {
                out.push_str(if n > 0 { "," } else { "" });
                out.push_str(space(dice));
                text(key, dice, out);
                out.push_str(space(dice));
                out.push(':');
                rewrite(value, dice, out);
            }
            out.push('}');
        }
        CanonicalJsonValue::Array(values) => {
            out.push('[');
            for (n, value) in values.iter().enumerate() {
                out.push_str(if n > 0 { "," } else { "" });
                rewrite(value, dice, out);
            }
            out.push(']');
        }
        CanonicalJsonValue::String(value) => text(value, dice, out),
        other => out.push_str(&other.to_string()),
    }
    out.push_str(space(dice));
}

#[test]
fn every_sort_of_event_verifies_in_every_version() {
    for version in VERSIONS {
        for sort in 0..6 {
            let raw = bytes(&event(version, sort));
            let proof = ours(version, &raw).unwrap();
            assert_eq!(proof.verified, Verified::All, "{version} {sort}");
            assert_eq!(rumas(version, &raw), Some(Verified::All));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Flipping bits of one byte leaves the event what it was, or it is not whole any more.
    #[test]
    fn no_changed_byte_passes_for_whole(
        version in version(), sort in 0..6usize, at in any::<prop::sample::Index>(), flip in 1..=255u8,
    ) {
        let before = event(version, sort);
        let mut raw = bytes(&before).to_vec();
        let at = at.index(raw.len());
        raw[at] ^= flip;
        compare(version, &raw)?;
        if let Ok(Proof { verified: Verified::All, .. }) = ours(version, &raw) {
            let mut after: CanonicalJsonObject = serde_json::from_slice(&raw).unwrap();
            let mut before = before;
            for event in [&mut before, &mut after] {
                event.remove("unsigned");
                event.remove("signatures");
            }
            prop_assert_eq!(before, after);
        }
    }

    /// The verdict is `ruma`'s, whatever field was changed.
    #[test]
    fn the_verdict_is_rumas(
        version in version(), sort in 0..6usize, path in prop::collection::vec(0..20usize, 1..4),
        what in prop::option::of(value()),
        name in prop::sample::select(vec!["third_party_invite", "membership", "event_id", "x",
            "join_authorised_via_users_server", "b.example", "ed25519:a_1", "ed25519:2", "origin"]),
        sign_again in any::<bool>(),
    ) {
        let mut event = event(version, sort);
        change(&mut event, &path, &what, name);
        if sign_again {
            let a = server("a.example");
            let redaction = &rules(version).ruma().redaction;
            let _ = ruma_signatures::sign_event(a.name.as_str(), a.key.pair(), &mut event, redaction);
        }
        compare(version, &bytes(&event))?;
    }

    /// An event is the same in whatever words it comes.
    #[test]
    fn other_words_for_the_same_are_the_same_event(
        version in version(), sort in 0..6usize, rolls in prop::collection::vec(any::<u16>(), 64),
    ) {
        let event = event(version, sort);
        let mut n = 0;
        let mut dice = || {
            n += 1;
            usize::from(rolls[n % rolls.len()])
        };
        let mut text = String::new();
        rewrite(&event.clone().into(), &mut dice, &mut text);
        let plain = Pdu::parse(bytes(&event), rules(version)).unwrap();
        let other = Pdu::parse(text.clone().into(), rules(version)).unwrap();
        prop_assert_eq!(plain.event_id(), other.event_id());
        prop_assert_eq!(other.raw().as_ref(), text.as_bytes());
        prop_assert_eq!(other.check(&all_keys()).unwrap().verified, Verified::All);
    }

    /// Whatever comes, there is an answer.
    #[test]
    fn garbage_is_refused_and_no_more(raw in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(ours("10", &raw).is_err());
    }
}
