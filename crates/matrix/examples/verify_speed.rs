//! How fast events are verified, beside `ruma`'s `verify_event` alone, and over several threads.
//!
//! ```text
//! cargo run --release -p gannet-matrix --example verify_speed [threads]
//! ```
//!
//! Ours reads the bytes, checks the format, computes the event id and checks hashes and signatures;
//! `verify_event` is given events that were parsed beforehand, and computes no id.

use bytes::Bytes;
use gannet_matrix::verify::{
    batch::{Answer, Batch, Limits, verify_all},
    keyset::{KeySet, VerifyKey},
    pdu::{Expect, Pdu},
    rules::Rules,
    sign::SigningKey,
};
use ruma_common::{
    CanonicalJsonObject, CanonicalJsonValue, RoomVersionId, ServerName, serde::Base64,
};
use ruma_signatures::{PublicKeyMap, PublicKeySet, Verified, hash_and_sign_event, verify_event};
use serde_json::json;
use std::{hint::black_box, time::Instant};

const EVENTS: usize = 2_000;
const ROUNDS: usize = 7;

fn event(n: usize, rules: Rules, key: &SigningKey) -> CanonicalJsonObject {
    let event = json!({
        "type": if n.is_multiple_of(3) { "m.room.member" } else { "m.room.message" },
        "state_key": if n.is_multiple_of(3) { "@alice:a.example" } else { "" },
        "room_id": "!room:a.example",
        "sender": "@alice:a.example",
        "origin_server_ts": 1_700_000_000_000i64 + n as i64,
        "depth": n,
        "content": {
            "membership": "join", "msgtype": "m.text", "displayname": "Alice",
            "body": "the quick brown fox jumps over the lazy dog, again and again and again",
            "m.mentions": {"user_ids": ["@bob:b.example"]},
        },
        "prev_events": ["$Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg"],
        "auth_events": [
            "$Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg",
            "$acR1l0raoZnm60CBwAVgqbZqoO-mYU81xysh1u7XcJk",
            "$zQ0F5jYz8xC2rD0N2f8yTqfQ2p8vVbYt8k3rN0oJm1w",
        ],
        "unsigned": {"age": 4612},
    });
    let CanonicalJsonValue::Object(mut event) = event.try_into().expect("canonical") else {
        unreachable!("it is an object");
    };
    let redaction = &rules.ruma().redaction;
    hash_and_sign_event("a.example", key.pair(), &mut event, redaction).expect("an event");
    event
}

/// The shortest of several rounds, in events per second.
fn rate(what: &str, mut round: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        round();
        best = best.min(start.elapsed().as_secs_f64());
    }
    let rate = EVENTS as f64 / best;
    println!("{what:<44} {rate:>9.0} events/s  {:>6.1} us", 1e6 / rate);
    rate
}

fn main() {
    let threads = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let threads = threads.unwrap_or(2);
    let rules = Rules::of(&RoomVersionId::V10).expect("known");
    let key = SigningKey::from_seed("a_1", &[7; 32]).expect("a key");
    let server = <&ServerName>::try_from("a.example").expect("a name");
    let mut keys = KeySet::new();
    let (bytes, valid_until_ms) = (key.public_key(), u64::MAX);
    keys.insert_key(
        server,
        key.id(),
        VerifyKey {
            bytes,
            valid_until_ms,
        },
    );
    let public = Base64::new(bytes.to_vec());
    let public = PublicKeyMap::from([(
        server.to_string(),
        PublicKeySet::from([(key.id().to_owned(), public)]),
    )]);

    let objects: Vec<_> = (0..EVENTS).map(|n| event(n, rules, &key)).collect();
    let raws: Vec<Bytes> = objects
        .iter()
        .map(|object| serde_json::to_vec(object).expect("canonical").into())
        .collect();
    let list: Vec<&str> = raws
        .iter()
        .map(|raw| str::from_utf8(raw).expect("text"))
        .collect();
    let body: Bytes = format!("{{\"pdus\":[{}]}}", list.join(",")).into();
    println!("{EVENTS} events of {} bytes", body.len() / EVENTS);

    let ruma = rate("ruma: verify_event of parsed events", || {
        for object in &objects {
            let verified = verify_event(&public, object, rules.ruma()).expect("it fits");
            assert_eq!(black_box(verified), Verified::All);
        }
    });
    let parsed: Vec<Pdu> = raws
        .iter()
        .map(|raw| Pdu::parse(raw.clone(), rules).expect("well-formed"))
        .collect();
    rate("ours: parse, id and hashes", || {
        for raw in &raws {
            black_box(Pdu::parse(raw.clone(), rules).expect("well-formed"));
        }
    });
    rate("ours: signatures", || {
        for pdu in &parsed {
            black_box(pdu.check(&keys).expect("it fits"));
        }
    });
    let whole = rate("ours: from bytes to proof", || {
        for raw in &raws {
            let pdu = Pdu::parse(raw.clone(), rules).expect("well-formed");
            assert_eq!(pdu.check(&keys).expect("it fits").verified, Verified::All);
        }
    });
    let limits = Limits::default();
    rate("ours: shape of the answer only", || {
        black_box(Answer::Backfill.shape(&body, &limits).expect("an answer"));
    });
    let batch = |threads| {
        let batch = Batch::split(Answer::Backfill, &body, &limits).expect("an answer");
        let salvage = verify_all(batch, rules, &Expect::default(), &keys, threads);
        assert_eq!(salvage.good.len(), EVENTS);
    };
    let one = rate("ours: the answer, on one thread", || batch(1));
    let many = rate(&format!("ours: the answer, on {threads} threads"), || {
        batch(threads)
    });
    println!("bytes to proof / verify_event alone: {:.2}", whole / ruma);
    println!("{threads} threads / 1 thread: {:.2}", many / one);
}
