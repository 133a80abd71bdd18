//! Answers to each operation.

use crate::events::*;
use bytes::Bytes;
use gannet_matrix::verify::{
    batch::{Answer, Bad, Batch, Limits, Salvage, StateIds, TimestampToEvent, verify_all},
    flaw::{Blame, Flaw},
    keyset::{KeyAt, KeySet},
    pdu::{Expect, Pdu},
};
use ruma_common::{EventId, OwnedEventId, RoomId};
use ruma_signatures::Verified;
use serde_json::json;

const LISTS: [(Answer, &str); 4] = [
    (Answer::Event, "pdus"),
    (Answer::AuthChain, "auth_chain"),
    (Answer::Backfill, "pdus"),
    (Answer::MissingEvents, "events"),
];

fn body(field: &str, pdus: &[Bytes]) -> Bytes {
    let pdus: Vec<&str> = pdus
        .iter()
        .map(|raw| str::from_utf8(raw).unwrap())
        .collect();
    let list = pdus.join(" , ");
    format!("{{\"origin\":\"a.example\",\"{field}\":[{list}],\"x\":{{}}}}").into()
}

fn id(raw: &Bytes) -> OwnedEventId {
    Pdu::id_of(raw, rules("10")).unwrap()
}

/// Events that differ, of a and b in turn.
fn events(n: usize) -> Vec<Bytes> {
    let (a, b) = (server("a.example"), server("b.example"));
    (0..n)
        .map(|n| {
            let (sender, server) = match n % 2 {
                0 => ("@alice:a.example", &a),
                _ => ("@bob:b.example", &b),
            };
            let patch = json!({"depth": n, "sender": sender});
            bytes(&signed("10", patch, &[server]))
        })
        .collect()
}

fn all_keys() -> KeySet {
    keys(&[&server("a.example"), &server("b.example")], LATE_MS)
}

fn salvage(pdus: &[Bytes], expect: &Expect, keys: &KeySet, threads: usize) -> Salvage {
    let body = body("pdus", pdus);
    let batch = Batch::split(Answer::Backfill, &body, &Limits::default()).unwrap();
    verify_all(batch, rules("10"), expect, keys, threads)
}

#[test]
fn every_answer_with_pdus_is_cut_and_proved() {
    let event = events(1);
    for (answer, field) in LISTS {
        let body = body(field, &event);
        let limits = Limits::default();
        assert_eq!(answer.shape(&body, &limits), Ok(1));
        let batch = Batch::split(answer, &body, &limits).unwrap();
        let expect = Expect {
            event: (answer == Answer::Event).then(|| id(&event[0])),
            room: Some(RoomId::parse("!room:a.example").unwrap()),
        };
        let salvage = verify_all(batch, rules("10"), &expect, &all_keys(), 1);
        let good = salvage.whole().unwrap();
        assert_eq!(good.len(), 1);
        assert_eq!(good[0].proof.verified, Verified::All);
        // The bytes of the answer, not a copy of them.
        let raw = good[0].pdu.raw();
        assert_eq!(raw, &event[0]);
        assert!(body.as_ptr_range().contains(&raw.as_ptr()));
    }
    let none = body("pdus", &[]);
    assert_eq!(Answer::Backfill.shape(&none, &Limits::default()), Ok(0));
    assert_eq!(
        Answer::Event.shape(&none, &Limits::default()),
        Err(Flaw::Shape("no event in it"))
    );
    assert!(
        Answer::Event
            .shape(&body("pdus", &events(2)), &Limits::default())
            .is_err()
    );
    for answer in [Answer::StateIds, Answer::TimestampToEvent] {
        assert!(Batch::split(answer, &none, &Limits::default()).is_err());
    }
}

#[test]
fn good_pdus_are_kept_and_bad_ones_named() {
    let good = events(40);
    let mut pdus = good.clone();
    let tampered = String::from_utf8(pdus[3].to_vec()).unwrap();
    pdus[3] = tampered.replace("\"depth\":3", "\"depth\":4000").into();
    pdus[7] = Bytes::from_static(b"{\"x\":[1.5]}");
    pdus[11] = pdus[10].clone();
    pdus[13] = bytes(&signed(
        "10",
        json!({"room_id": "!other:a.example"}),
        &[&server("a.example")],
    ));
    pdus[17] = bytes(&signed(
        "10",
        json!({"sender": "@eve:e.example"}),
        &[&server("e.example")],
    ));
    pdus[19] = bytes(&unsigned("10", json!({"hashes": {"sha256": ""}})));
    let expect = Expect {
        event: None,
        room: Some(RoomId::parse("!room:a.example").unwrap()),
    };
    for threads in [1, 2, 5] {
        let salvage = salvage(&pdus, &expect, &all_keys(), threads);
        let places: Vec<usize> = salvage.good.iter().map(|good| good.index).collect();
        let want: Vec<usize> = (0..40)
            .filter(|n| ![3, 7, 11, 13, 17, 19].contains(n))
            .collect();
        assert_eq!(places, want);
        for checked in &salvage.good {
            assert_eq!(checked.pdu.raw(), &good[checked.index]);
        }
        let bad: Vec<(usize, Option<OwnedEventId>, Blame)> = salvage
            .bad
            .iter()
            .map(|bad| (bad.index, bad.id.clone(), bad.flaw.blame()))
            .collect();
        assert_eq!(
            bad,
            [
                (3, Some(id(&pdus[3])), Blame::Answerer),
                (7, None, Blame::Answerer),
                (11, Some(id(&pdus[10])), Blame::Nobody),
                (13, Some(id(&pdus[13])), Blame::Answerer),
                (17, Some(id(&pdus[17])), Blame::Nobody),
                (19, Some(id(&pdus[19])), Blame::Answerer),
            ]
        );
        assert!(matches!(salvage.bad[0].flaw, Flaw::BadSignature { .. }));
        assert!(matches!(salvage.bad[1].flaw, Flaw::NotCanonical { .. }));
        assert!(matches!(
            salvage.bad[2].flaw,
            Flaw::Duplicate { first: 10, .. }
        ));
        assert!(matches!(salvage.bad[3].flaw, Flaw::WrongRoom { .. }));
        assert!(matches!(salvage.bad[4].flaw, Flaw::NoKey { .. }));
        assert!(matches!(
            salvage.bad[5].flaw,
            Flaw::Format {
                field: "signatures",
                ..
            }
        ));
        // Whoever refuses an answer as a whole hears of the first.
        let bad = salvage.whole().unwrap_err();
        assert_eq!(bad.index, 3);
    }
}

#[test]
fn one_event_is_the_one_that_was_asked_for() {
    let events = events(2);
    let expect = Expect {
        event: Some(id(&events[1])),
        room: None,
    };
    let good = salvage(&events[1..], &expect, &all_keys(), 1).whole();
    assert_eq!(good.unwrap().len(), 1);
    let Bad { flaw, .. } = salvage(&events[..1], &expect, &all_keys(), 1)
        .whole()
        .unwrap_err();
    assert_eq!(
        flaw,
        Flaw::WrongEventId {
            asked: id(&events[1]),
            got: id(&events[0])
        }
    );
}

#[test]
fn the_keys_that_are_lacking_are_told() {
    let parsed = |events: Vec<Bytes>| {
        let body = body("pdus", &events);
        Batch::split(Answer::Backfill, &body, &Limits::default())
            .unwrap()
            .parse(rules("10"), &Expect::default(), 2)
    };
    let parsed = parsed(events(20));
    assert_eq!(parsed.pdus().count(), 20);
    assert!(parsed.bad().is_empty());
    assert!(parsed.lacking(&all_keys()).is_empty());
    let sent = u64::try_from(SENT_MS).unwrap();
    let a = server("a.example");
    // One that is there but was not valid is lacking as well.
    for has in [keys(&[&a], LATE_MS), KeySet::new(), keys(&[&a], sent - 1)] {
        let lacking = parsed.lacking(&has);
        let servers: Vec<&str> = lacking.keys().map(|server| server.as_str()).collect();
        if matches!(has.key(&a.name, a.key.id(), Some(SENT_MS)), KeyAt::Valid(_)) {
            assert_eq!(servers, ["b.example"]);
        } else {
            assert_eq!(servers, ["a.example", "b.example"]);
        }
        let of_b = &lacking["b.example"];
        assert_eq!(
            of_b.iter().collect::<Vec<_>>(),
            [(&"ed25519:a_1".to_owned(), &sent)]
        );
    }
}

#[test]
fn what_is_too_much_or_no_answer_is_refused_as_a_whole() {
    let limits = Limits {
        body_bytes_max: 1000,
        pdus_max: 3,
        ids_max: 2,
    };
    let shape = |answer: Answer, body: &str| {
        answer.shape(&Bytes::copy_from_slice(body.as_bytes()), &limits)
    };
    assert_eq!(
        shape(Answer::AuthChain, r#"{"auth_chain":[{},{},{}]}"#),
        Ok(3)
    );
    assert_eq!(
        shape(Answer::AuthChain, r#"{"auth_chain":[{},{},{},{}]}"#),
        Err(Flaw::TooMany {
            what: "elements in a list",
            max: 3
        })
    );
    assert_eq!(
        shape(
            Answer::StateIds,
            r#"{"pdu_ids":["a","b"],"auth_chain_ids":["c"]}"#
        ),
        Ok(3)
    );
    assert!(
        shape(
            Answer::StateIds,
            r#"{"pdu_ids":["a","b","c"],"auth_chain_ids":[]}"#
        )
        .is_err()
    );
    assert!(shape(Answer::StateIds, r#"{"pdu_ids":["a"]}"#).is_err());
    assert!(shape(Answer::StateIds, r#"{"pdu_ids":[1],"auth_chain_ids":[]}"#).is_err());
    assert!(matches!(
        shape(Answer::Backfill, &" ".repeat(1001)),
        Err(Flaw::TooLarge { what: "answer", .. })
    ));
    for body in [
        "",
        "null",
        "<html>",
        "{\"pdus\":",
        "{\"pdus\":[{}]",
        "\u{0}",
    ] {
        assert!(
            matches!(shape(Answer::Backfill, body), Err(Flaw::NotJson { .. })),
            "{body}"
        );
    }
    // Much of nothing takes no memory before it is refused.
    let zeros = format!("{{\"pdus\":[{}0]}}", "{},".repeat(1_000_000));
    assert!(matches!(
        Answer::Backfill.shape(&zeros.into(), &Limits::default()),
        Err(Flaw::TooMany { .. })
    ));
    let nested: Bytes = "[".repeat(10_000_000).into();
    assert!(matches!(
        Answer::Backfill.shape(&nested, &Limits::default()),
        Err(Flaw::Shape(_))
    ));
}

#[test]
fn one_event_that_is_nested_too_deep_spoils_no_other() {
    let mut pdus = events(3);
    let nested = format!(
        "{{\"content\":{}{}}}",
        "[".repeat(30_000),
        "]".repeat(30_000)
    );
    pdus[1] = nested.into();
    let salvage = salvage(&pdus, &Expect::default(), &all_keys(), 1);
    assert_eq!(salvage.good.len(), 2);
    assert!(matches!(salvage.bad[0].flaw, Flaw::TooDeep { .. }));
    // Nor does it speak against whoever holds it.
    assert_eq!(salvage.bad[0].flaw.blame(), Blame::Nobody);
}

#[test]
fn ids_of_the_state_are_of_the_room_s_version() {
    const HASH: &str = "$Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg";
    let parse = |ids: &str, version: Option<&str>| {
        let body = format!("{{\"pdu_ids\":{ids},\"auth_chain_ids\":[]}}");
        StateIds::parse(&body.into(), version.map(rules), &Limits::default())
    };
    let both = format!("[\"{HASH}\",\"\\u0024old:a.example\"]");
    let ids = parse(&both, None).unwrap();
    assert_eq!(ids.pdu_ids[0], HASH);
    assert_eq!(ids.pdu_ids[1], "$old:a.example");
    assert!(ids.auth_chain_ids.is_empty());
    assert!(parse(&both, Some("10")).is_err());
    assert!(parse(&both, Some("1")).is_err());
    assert!(parse(&format!("[\"{HASH}\"]"), Some("10")).is_ok());
    assert!(parse("[\"$old:a.example\"]", Some("2")).is_ok());
    let long = format!("[\"${}\"]", "x".repeat(300));
    for bad in ["[\"nothing\"]", "[\"\"]", "[\"$x:y z\"]", &long] {
        assert!(
            matches!(
                parse(bad, None),
                Err(Flaw::Format {
                    field: "pdu_ids",
                    ..
                })
            ),
            "{bad}"
        );
    }
}

#[test]
fn the_event_nearest_to_a_time_is_an_id_and_a_time() {
    let parse = |text: &str| TimestampToEvent::parse(text.as_bytes(), &Limits::default());
    assert_eq!(
        parse(r#"{"event_id":"$x:a.example","origin_server_ts":5,"more":null}"#),
        Ok(TimestampToEvent {
            event_id: EventId::parse("$x:a.example").unwrap(),
            origin_server_ts: 5
        })
    );
    for bad in [
        "{}",
        r#"{"event_id":"x","origin_server_ts":5}"#,
        r#"{"event_id":"$x:a.example"}"#,
        r#"{"event_id":"$x:a.example","origin_server_ts":"5"}"#,
        r#"{"event_id":"$x:a.example","origin_server_ts":5.5}"#,
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
    assert!(parse(&" ".repeat(TimestampToEvent::BYTES_MAX + 1)).is_err());
}
