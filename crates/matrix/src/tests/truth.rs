//! The service with the examiner that it has, and events that are signed.

use super::fake::{Does, Fake, Lab, name, names};
use crate::{
    BoxFuture, Builder, Ceilings, Checks, Direction, FetchErrorKind, How, Key, KeySource, Matrix,
    Opts, Proof,
    verify::{
        keyset::{KeySet, KeysWanted, VerifyKey},
        rules::Rules,
        sign::SigningKey,
    },
};
use ruma_common::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedRoomId, RoomVersionId,
    canonical_json::redact,
};
use ruma_signatures::{hash_and_sign_event, reference_hash};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::time::Instant;

/// The keys of `room` and `other`; those of `slow` never come.
#[derive(Default)]
struct Ring {
    asked: AtomicUsize,
    wanted: Mutex<Vec<String>>,
}

fn key(server: &str) -> SigningKey {
    let seed = [server.len() as u8; 32];
    SigningKey::from_seed("1", &seed).expect("a key")
}

impl KeySource for Ring {
    fn keys(&self, wanted: KeysWanted, within: Duration) -> BoxFuture<'_, KeySet> {
        self.asked.fetch_add(1, SeqCst);
        let servers = wanted.keys().map(ToString::to_string);
        self.wanted.lock().unwrap().extend(servers);
        Box::pin(async move {
            if wanted.keys().any(|server| server == "slow") {
                tokio::time::sleep(within).await;
            }
            let mut keys = KeySet::new();
            for server in ["room", "other"] {
                let (key, valid_until_ms) = (key(server), 1 << 50);
                let known = VerifyKey {
                    bytes: key.public_key(),
                    valid_until_ms,
                };
                keys.insert_key(&name(server), key.id(), known);
            }
            keys
        })
    }
}

/// A room, and how events of it are made.
struct Room {
    rules: Rules,
    id: OwnedRoomId,
    create: (OwnedEventId, String),
}

impl Room {
    fn new(version: &RoomVersionId) -> Self {
        let rules = Rules::of(version).expect("known");
        let mut room = Self {
            rules,
            id: OwnedRoomId::try_from("!r:room").expect("an id"),
            create: (
                OwnedEventId::try_from("$none").expect("an id"),
                String::new(),
            ),
        };
        let content = json!({"creator": "@a:room", "room_version": version.as_str()});
        let more = json!({"type": "m.room.create", "state_key": "", "content": content});
        room.create = room.event(0, "room", more);
        if rules.room_is_hash() {
            let id = format!("!{}", room.create.0.localpart());
            room.id = OwnedRoomId::try_from(id).expect("an id");
        }
        room
    }

    /// An event of this server, signed: its id, and its bytes.
    fn event(&self, n: u64, server: &str, more: Value) -> (OwnedEventId, String) {
        let mut event = json!({
            "type": "m.room.message",
            "sender": format!("@a:{server}"),
            "content": {"msgtype": "m.text", "body": format!("number {n}")},
            "origin_server_ts": 1_700_000_000_000_u64 + n,
            "depth": n,
            "prev_events": [],
            "auth_events": [],
        });
        let fields = event.as_object_mut().expect("an object");
        if self.rules.event_says_id() {
            fields.insert("event_id".to_owned(), format!("$e{n}:{server}").into());
        }
        fields.extend(more.as_object().expect("an object").clone());
        if !(self.rules.room_is_hash() && fields["type"] == "m.room.create") {
            fields.insert("room_id".to_owned(), self.id.as_str().into());
        }
        let mut event = object(event);
        let redaction = &self.rules.ruma().redaction;
        hash_and_sign_event(server, key(server).pair(), &mut event, redaction).expect("signed");
        let id = match event.get("event_id") {
            Some(CanonicalJsonValue::String(id)) => id.clone(),
            _ => format!(
                "${}",
                reference_hash(&event, self.rules.ruma()).expect("a hash")
            ),
        };
        (OwnedEventId::try_from(id).expect("an id"), text(event))
    }

    fn message(&self, n: u64) -> (OwnedEventId, String) {
        self.event(n, "room", json!({}))
    }

    fn redacted(&self, raw: &str) -> String {
        let event = object(serde_json::from_str(raw).expect("JSON"));
        text(redact(event, &self.rules.ruma().redaction, None).expect("redacted"))
    }

    fn key(&self, event: &OwnedEventId) -> Key {
        Key::event(self.id.clone(), event.clone()).expect("a key")
    }

    fn via(&self, servers: &[&str]) -> Opts {
        Opts::new()
            .pool(names(servers))
            .version(self.rules.version().clone())
    }
}

fn object(value: Value) -> CanonicalJsonObject {
    match CanonicalJsonValue::try_from(value).expect("canonical") {
        CanonicalJsonValue::Object(object) => object,
        _ => panic!("no object"),
    }
}

fn text(object: CanonicalJsonObject) -> String {
    CanonicalJsonValue::Object(object).to_string()
}

fn pdus(field: &str, events: &[&str]) -> Does {
    Does::ok(format!(
        "{{\"origin\":\"x\",\"{field}\":[{}]}}",
        events.join(",")
    ))
}

fn lab() -> (Fake, Matrix, Arc<Ring>) {
    let (fake, ring) = (Fake::new(), Arc::new(Ring::default()));
    let builder = Builder::new(
        name("me"),
        Arc::new(fake.clone()),
        ring.clone(),
        Ceilings::default(),
    );
    (fake, builder.build().expect("it can run"), ring)
}

fn versions() -> [RoomVersionId; 7] {
    use RoomVersionId::{V1, V2, V3, V6, V10, V11, V12};
    [V1, V2, V3, V6, V10, V11, V12]
}

#[tokio::test(start_paused = true)]
async fn what_is_signed_is_whole_in_every_version() {
    for version in versions() {
        let (fake, matrix, _) = lab();
        let room = Room::new(&version);
        let (id, raw) = room.message(1);
        fake.server("a", pdus("pdus", &[&raw]));
        let outcome = matrix
            .fetch(room.key(&id), room.via(&["a"]))
            .await
            .expect("whole");
        assert_eq!(outcome.proof(), Proof::Whole);
        assert_eq!(outcome.version.as_ref(), Some(&version));
        let event = &outcome.events[0];
        assert_eq!(event.event_id.as_ref(), Some(&id));
        assert_eq!(outcome.raw(event), raw, "byte by byte");
    }
}

#[tokio::test(start_paused = true)]
async fn every_lie_about_an_event_is_found_and_the_liar_named() {
    for version in versions() {
        let (fake, matrix, _) = lab();
        let room = Room::new(&version);
        let (id, raw) = room.message(1);
        let flipped = raw.replace("number 1", "number 2");
        let (_, other) = room.message(2);
        let (_, stranger) = room.event(1, "slow", json!({}));
        let elsewhere = {
            let id = OwnedRoomId::try_from("!s:room").expect("an id");
            let create = room.create.clone();
            let rules = room.rules;
            Room { rules, id, create }.message(1).1
        };
        // The signature of another key by the same name.
        let forged = {
            let mut event = object(serde_json::from_str(&raw).expect("JSON"));
            event.remove("signatures");
            let redaction = &room.rules.ruma().redaction;
            hash_and_sign_event("room", key("other").pair(), &mut event, redaction)
                .expect("signed");
            text(event)
        };
        let liars = [
            ("garbage", Does::ok("}{"), How::Bad),
            ("flipped", pdus("pdus", &[&flipped]), How::Bad),
            ("other-event", pdus("pdus", &[&other]), How::Bad),
            ("two", pdus("pdus", &[&raw, &other]), How::Bad),
            ("elsewhere", pdus("pdus", &[&elsewhere]), How::Bad),
            ("stranger", pdus("pdus", &[&stranger]), How::Bad),
            ("forged", pdus("pdus", &[&forged]), How::Bad),
            ("redacted", pdus("pdus", &[&room.redacted(&raw)]), How::Cut),
        ];
        let mut pool = Vec::new();
        for (server, does, _) in &liars {
            fake.server(server, does.clone());
            pool.push(*server);
        }
        fake.server("honest", pdus("pdus", &[&raw]));
        pool.push("honest");
        let outcome = matrix
            .fetch(room.key(&id), room.via(&pool))
            .await
            .expect("one is honest");
        assert_eq!(outcome.server, Some(name("honest")));
        for (attempt, (server, _, how)) in outcome.attempts.iter().zip(&liars) {
            // In rooms where servers choose the ids, what a stranger signed may have this one.
            let says_id = room.rules.event_says_id() && *server == "stranger";
            assert!(
                attempt.how == *how || says_id && attempt.how == How::Unproven,
                "{version}: {attempt:?}"
            );
        }
        let cut = room.via(&["redacted"]).checks(Checks::REDACTED_TOO);
        let outcome = matrix
            .fetch(room.key(&id), cut)
            .await
            .expect("cut, and right");
        assert_eq!(outcome.proof(), Proof::Redacted);
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_checked_is_nobodys_fault_and_not_handed_out() {
    let (fake, matrix, _) = lab();
    let room = Room::new(&RoomVersionId::V11);
    let (id, raw) = room.event(1, "slow", json!({}));
    fake.server("a", pdus("pdus", &[&raw]));
    let begun = Instant::now();
    let error = matrix
        .fetch(room.key(&id), room.via(&["a"]))
        .await
        .expect_err("no key");
    assert_eq!(error.kind, FetchErrorKind::Unverified);
    assert_eq!(error.attempts[0].how, How::Unproven);
    assert!(
        error.attempts[0].detail.contains("no key of slow"),
        "{error}"
    );
    assert!(begun.elapsed() <= Duration::from_secs(11), "bounded");
    // Numbers that canonical JSON does not have were let through once, and are not any more.
    for (version, how) in [
        (RoomVersionId::V1, How::Unproven),
        (RoomVersionId::V6, How::Bad),
    ] {
        let room = Room::new(&version);
        let (id, raw) = room.message(7);
        fake.server(
            "float",
            pdus("pdus", &[&raw.replace("\"depth\":7", "\"depth\":7.5")]),
        );
        let error = matrix
            .fetch(room.key(&id), room.via(&["float"]))
            .await
            .expect_err("a float");
        assert_eq!(error.attempts[0].how, how, "{version}");
        assert!(error.attempts[0].detail.contains("cannot be verified"));
    }
}

/// It is the caller who errs, and all servers would be at fault for it, for everybody.
#[tokio::test(start_paused = true)]
async fn a_version_that_is_said_wrongly_is_nobody_s_forgery() {
    for (is, said) in [
        ("10", "3"),
        ("10", "12"),
        ("11", "1"),
        ("11", "10"),
        ("3", "10"),
        ("1", "10"),
    ] {
        let version = |text: &str| RoomVersionId::try_from(text).expect("a version");
        let (fake, matrix, _) = lab();
        let room = Room::new(&version(is));
        // What redaction leaves differs from version 10 to 11, and the hash with it.
        let more = json!({"type": "m.room.redaction", "redacts": "$x:room", "content": {"redacts": "$x:room"}});
        let (id, raw) = room.event(1, "room", more);
        fake.server("a", pdus("pdus", &[&raw]));
        let asked = Opts::new().pool(names(&["a"])).version(version(said));
        let error = matrix.fetch(room.key(&id), asked).await.expect_err("wrong");
        assert_eq!(error.kind, FetchErrorKind::Unverified);
        let attempt = &error.attempts[0];
        assert_eq!(
            attempt.how,
            How::Unproven,
            "{is} {said}: {}",
            attempt.detail
        );
        // Another event is another event.
        let (other, _) = room.message(2);
        let asked = Opts::new().pool(names(&["a"])).version(version(is));
        let error = matrix
            .fetch(room.key(&other), asked)
            .await
            .expect_err("wrong");
        assert_eq!(error.attempts[0].how, How::Bad, "{is}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_chain_proves_its_version_and_each_of_its_events_is_checked() {
    for version in versions() {
        let (fake, matrix, ring) = lab();
        let room = Room::new(&version);
        let good: Vec<_> = (1..400).map(|n| room.message(n).1).collect();
        let (bad_id, _) = room.message(400);
        let bad = room.message(400).1.replace("number 400", "number 0");
        let (slow_id, slow) = room.event(401, "slow", json!({}));
        let cut = room.redacted(&room.message(402).1);
        let mut all: Vec<&str> = good.iter().map(String::as_str).collect();
        all.extend([&*bad, &*slow, &*room.create.1, &*cut, &*good[0]]);
        fake.server("a", pdus("auth_chain", &all));
        let chain = Key::auth_chain(room.id.clone(), bad_id.clone()).expect("a key");
        let asked = Opts::new().pool(names(&["a"]));
        let outcome = matrix.fetch(chain, asked).await.expect("most is good");
        assert_eq!(outcome.version.as_ref(), Some(&version), "nobody said so");
        assert_eq!(outcome.events.len(), 401);
        let proofs = |proof| outcome.events.iter().filter(|e| e.proof == proof).count();
        assert_eq!((proofs(Proof::Whole), proofs(Proof::Redacted)), (400, 1));
        for (event, raw) in outcome.events.iter().zip(&good) {
            assert_eq!(outcome.raw(event), *raw);
        }
        let bad: Vec<_> = (outcome.bad.iter())
            .map(|bad| (bad.index, bad.event_id.clone(), bad.reason.forged))
            .collect();
        let first = room.message(1).0;
        assert_eq!(
            bad,
            [
                (399, Some(bad_id), true),
                (400, Some(slow_id), false),
                // Needless, and no forgery.
                (403, Some(first), false)
            ]
        );
        assert!(ring.asked.load(SeqCst) <= 3, "together, not one by one");
        // From now on it is known.
        assert_eq!(matrix.version_of(&room.id), Some(version));
    }
}

#[tokio::test(start_paused = true)]
async fn no_version_is_assumed() {
    let (fake, matrix, _) = lab();
    let room = Room::new(&RoomVersionId::V11);
    let (id, raw) = room.message(1);
    // The same room, as somebody else would have it.
    let lie = room
        .create
        .1
        .replace("\"room_version\":\"11\"", "\"room_version\":\"6\"");
    let both = format!("{{\"auth_chain\":[{lie}],\"pdus\":[{raw}]}}");
    fake.server("a", Does::ok(both));
    let ask = || Opts::new().pool(names(&["a"]));
    let error = matrix
        .fetch(room.key(&id), ask())
        .await
        .expect_err("who knows");
    assert_eq!(error.kind, FetchErrorKind::Unverified);
    assert_eq!(matrix.version_of(&room.id), None);
    // The event that creates the room says it by itself.
    for version in versions() {
        let (fake, matrix, _) = lab();
        let room = Room::new(&version);
        let both = format!("{{\"auth_chain\":[],\"pdus\":[{}]}}", room.create.1);
        fake.server("a", Does::ok(both));
        let outcome = matrix
            .fetch(room.key(&room.create.0), ask())
            .await
            .expect("proved");
        assert_eq!(
            (outcome.proof(), outcome.version),
            (Proof::Whole, Some(version))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn fewer_checks_where_the_caller_says_so() {
    let (fake, matrix, ring) = lab();
    let room = Room::new(&RoomVersionId::V11);
    let (id, raw) = room.event(1, "slow", json!({}));
    fake.server("a", pdus("pdus", &[&raw]));
    let unsigned = Checks {
        signatures: false,
        ..Checks::ALL
    };
    let opts = || room.via(&["a"]).checks(unsigned);
    let outcome = matrix
        .fetch(room.key(&id), opts())
        .await
        .expect("it hashes");
    assert_eq!(outcome.proof(), Proof::Form, "and no more is said of it");
    assert_eq!(ring.asked.load(SeqCst), 0);
    fake.server("a", pdus("pdus", &[&raw.replace("number 1", "number 2")]));
    matrix
        .fetch(room.key(&id), opts())
        .await
        .expect_err("it does not");
    let none = room.via(&["a"]).checks(Checks::NONE);
    matrix
        .fetch(room.key(&id), none)
        .await
        .expect("one server's word");
}

#[tokio::test(start_paused = true)]
async fn answers_without_events_have_to_be_of_their_form() {
    let (fake, matrix, _) = lab();
    let room = Room::new(&RoomVersionId::V11);
    let state = Key::state_ids(room.id.clone(), room.create.0.clone()).expect("a key");
    fake.server("a", Does::ok(r#"{"pdu_ids":["$a",7],"auth_chain_ids":[]}"#));
    fake.server(
        "b",
        Does::ok(r#"{"pdu_ids":["$a"],"auth_chain_ids":["$b"]}"#),
    );
    let outcome = matrix
        .fetch(state, room.via(&["a", "b"]))
        .await
        .expect("b answers");
    assert_eq!(outcome.attempts[0].how, How::Bad);
    let at = |ts| Key::timestamp_to_event(room.id.clone(), ts, Direction::Forward).expect("a key");
    fake.server("a", Does::ok(r#"{"event_id":"$a","origin_server_ts":17}"#));
    matrix
        .fetch(at(17), room.via(&["a"]))
        .await
        .expect("it is at that time");
    let error = matrix
        .fetch(at(18), room.via(&["a"]))
        .await
        .expect_err("it is before");
    assert_eq!(Lab::told(&error.attempts), [("a".to_owned(), "bad")]);
}
