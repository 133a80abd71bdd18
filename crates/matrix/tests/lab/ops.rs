//! Every operation, for rooms of all versions; and what servers do not give.

use crate::world::{Asker, Room, World, fetch_each, told};
use gannet_matrix::{Ceilings, Checks, Direction, FetchErrorKind, Key, Op, Outcome, Proof};
use ruma_common::OwnedEventId;
use serde_json::Value;
use std::collections::BTreeSet;

/// That each event is what the lab says: whole, or redacted. Their ids, in order.
fn proved(room: &Room, outcome: &Outcome) -> Vec<OwnedEventId> {
    assert!(outcome.bad.is_empty(), "{}: {:?}", room.label, outcome.bad);
    assert_eq!(
        outcome.version.as_ref(),
        Some(&room.version),
        "{}",
        room.label
    );
    let events = outcome.events.iter().map(|event| {
        let id = event.event_id.clone().expect("a checked event has one");
        let want = match room.is_redacted(&id) {
            true => Proof::Redacted,
            false => Proof::Whole,
        };
        assert_eq!(event.proof, want, "{}: {id}", room.label);
        id
    });
    events.collect()
}

async fn ask(asker: &Asker, world: &World, server: &str, key: Key) -> Outcome {
    let op = key.op().name();
    let outcome = asker.matrix.fetch(key, world.of(&[server])).await;
    let outcome = outcome.unwrap_or_else(|error| panic!("{op} of {server}: {error}"));
    assert_eq!(outcome.server, Some(world.name(server)));
    outcome
}

fn json(outcome: &Outcome) -> Value {
    serde_json::from_slice(&outcome.bytes).unwrap()
}

/// All ops, of either server, the version of the room being told to nobody.
async fn every_op(world: &World, asker: &Asker, room: &Room, server: &str) -> BTreeSet<Op> {
    let known = room.ids();
    let id = || room.id.clone();
    let window = |what: &str| room.named(&room.json["missing"][what]);
    let (last, middle) = (room.last(), &room.events[room.events.len() / 2]);
    let mut seen = BTreeSet::new();
    let mut get = async |key: Result<Key, gannet_matrix::KeyError>| {
        let key = key.unwrap();
        seen.insert(key.op());
        ask(asker, world, server, key).await
    };

    let outcome = get(Key::event(id(), last.clone())).await;
    assert_eq!(proved(room, &outcome), std::slice::from_ref(&last));
    let create = &room.events[0];
    assert_eq!(create.kind, "m.room.create");
    let outcome = get(Key::auth_event(id(), create.id.clone())).await;
    assert_eq!(proved(room, &outcome), std::slice::from_ref(&create.id));

    let chain = proved(room, &get(Key::auth_chain(id(), last.clone())).await);
    assert!(!chain.is_empty() && chain.iter().all(|id| known.contains(id)));

    let outcome = get(Key::backfill(id(), [last.clone()], 100)).await;
    let events = proved(room, &outcome);
    assert_eq!(events[0], last, "{}", room.label);
    // What was before a server came it gives only to whoever asks for that by name.
    assert!(events.len() > room.events.len() / 2 && events.iter().all(|id| known.contains(id)));

    let (earliest, latest) = (window("earliest"), window("latest"));
    let outcome = get(Key::missing_events(id(), earliest, latest, 20, 0)).await;
    assert_eq!(proved(room, &outcome), window("between"), "{}", room.label);

    let ids = json(&get(Key::state_ids(id(), last.clone())).await);
    for (list, must) in [("pdu_ids", &create.id), ("auth_chain_ids", &chain[0])] {
        let ids = room.named(&ids[list]);
        assert!(
            ids.iter().all(|id| known.contains(id)),
            "{}: {list}",
            room.label
        );
        // From version 12 on nothing names the creation, which the room's id is.
        assert!(
            ids.contains(must) || list == "auth_chain_ids",
            "{}: {list}",
            room.label
        );
    }

    for direction in [Direction::Forward, Direction::Backward] {
        let at = json(&get(Key::timestamp_to_event(id(), middle.made_at, direction)).await);
        assert_eq!(at["origin_server_ts"], middle.made_at, "{}", room.label);
    }
    seen
}

pub(crate) async fn every_op_works_for_every_version(world: &World) {
    // Neither knows anything of a room before it asks.
    for server in ["hs2", "hs3"] {
        let asker = world.asker(None, Ceilings::default());
        for room in world.rooms() {
            if !room.json["missing"].is_null() {
                let seen = every_op(world, &asker, &room, server).await;
                assert_eq!(seen.len(), Op::ALL.len());
                assert_eq!(asker.matrix.version_of(&room.id), Some(room.version));
            }
        }
    }
}

/// One by one, of the server that made the room: others have only what was sent since they came.
pub(crate) async fn every_event_verifies_by_itself(world: &World) {
    let mut verified = 0;
    for room in world.rooms() {
        let (me, server) = match room.json["creator"] == *world.name("hs1").as_str() {
            true => ("hs2", "hs1"),
            false => ("hs1", "hs2"),
        };
        if room.json["servers"][world.name(me).as_str()] == "banned" {
            continue;
        }
        let asker = world.asker_as(me, None, Ceilings::default());
        let list = |name: &str| match &room.json[name] {
            Value::Null => Vec::new(),
            list => room.named(list),
        };
        let (unverifiable, hidden) = (list("unverifiable"), list("hidden"));
        let opts = |_| world.of(&[server]).version(room.version.clone());
        let lax = |n| opts(n).checks(Checks::REDACTED_TOO);
        fetch_each(&asker, &room, room.ids(), lax, |id, fetched| {
            if unverifiable.contains(&id) {
                let error = fetched.expect_err("nobody can verify it");
                assert_eq!(error.kind, FetchErrorKind::Unverified, "{error}");
                assert_eq!(error.attempts[0].how.name(), "unproven", "{error}");
                assert!(error.to_string().contains("cannot be verified"), "{error}");
                return;
            }
            let outcome = fetched.unwrap_or_else(|error| panic!("{} {id}: {error}", room.label));
            if hidden.is_empty() {
                assert_eq!(proved(&room, &outcome), [id]);
            } else {
                // What else was before we came may be cut as well.
                let proof = outcome.proof();
                assert!(proof >= Proof::Redacted, "{id}");
                assert!(!hidden.contains(&id) || proof == Proof::Redacted, "{id}");
            }
            verified += 1;
        })
        .await;

        // What was cut is not passed off as whole.
        let cut = room.events.iter().filter(|event| event.redacted);
        let cut: Vec<_> = cut.map(|event| event.id.clone()).chain(hidden).collect();
        fetch_each(&asker, &room, cut, opts, |id, fetched| {
            let error = fetched.expect_err("it is cut, and wanted whole");
            assert_eq!(error.kind, FetchErrorKind::Unverified, "{id}: {error}");
            assert_eq!(error.attempts[0].how.name(), "cut", "{id}: {error}");
        })
        .await;
        assert_eq!(asker.matrix.counters().faults, 0, "{}", room.label);
    }
    assert!(verified > 1_200, "{verified}");
}

/// Where our server may not look, that is what one is told; it is nobody's failure.
pub(crate) async fn what_is_barred_is_said(world: &World) {
    let asker = world.asker(None, Ceilings::default());
    for label in ["banned", "denied"] {
        let room = world.room(label);
        let id = || room.id.clone();
        let event = room.named(&room.json["after"])[0].clone();
        let keys = [
            Key::event(id(), event.clone()),
            Key::auth_chain(id(), event.clone()),
            Key::backfill(id(), [event.clone()], 5),
            Key::missing_events(id(), [], [event.clone()], 5, 0),
            Key::state_ids(id(), event.clone()),
            Key::timestamp_to_event(id(), 1, Direction::Forward),
        ];
        for key in keys {
            let key = key.unwrap();
            let op = key.op();
            let opts = world.of(&["hs2", "hs3"]).version(room.version.clone());
            let fetched = asker.matrix.fetch(key, opts).await;
            if op == Op::Event && label == "denied" {
                assert_eq!(
                    proved(&room, &fetched.unwrap()),
                    std::slice::from_ref(&event)
                );
                continue;
            }
            let error = fetched.expect_err("it is barred");
            assert_eq!(
                error.kind,
                FetchErrorKind::Missing,
                "{label} {op:?}: {error}"
            );
            let barred = [("hs2.test", "forbidden"), ("hs3.test", "forbidden")];
            assert_eq!(told(&error.attempts), barred, "{label} {op:?}: {error}");
        }
    }
    assert_eq!(
        asker.matrix.counters().faults,
        0,
        "whoever may not is not at fault"
    );
}
