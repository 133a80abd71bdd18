//! The service against answers of real homeservers (see `tests/fixtures/README.md`), in every version of
//! rooms.

use bytes::Bytes;
use futures_util::stream;
use gannet_matrix::{
    BoxFuture, Builder, Ceilings, Checks, Courier, Direction, FetchErrorKind, How, Key, KeySource,
    Matrix, Opts, Proof, SendError, Sent, Wire,
    verify::keyset::{KeySet, KeysWanted, VerifyKey},
};
use gannet_store::{MemoryConfig, MemoryStore};
use ruma_common::{
    OwnedEventId, OwnedRoomId, OwnedServerName, RoomVersionId, ServerName, owned_server_name,
    serde::{Base64, base64::Standard},
};
use serde_json::Value;
use std::{collections::HashMap, fs, path::PathBuf, sync::Arc, time::Duration};

fn file(name: &str) -> Bytes {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    fs::read(folder.join(name)).expect("a fixture").into()
}

fn index() -> Value {
    serde_json::from_slice(&file("index.json")).expect("JSON")
}

fn answers(index: &Value) -> impl Iterator<Item = &Value> {
    let all = index["answers"].as_array().expect("answers").iter();
    all.filter(|answer| key(answer).is_some())
}

fn text<'a>(answer: &'a Value, field: &str) -> &'a str {
    answer[field].as_str().expect("text")
}

fn ids(answer: &Value, field: &str) -> Vec<OwnedEventId> {
    let ids = answer[field].as_array().expect("ids").iter();
    ids.map(|id| OwnedEventId::try_from(id.as_str().expect("text")).expect("an id"))
        .collect()
}

/// What was asked; `None` for what is no operation of ours.
fn key(answer: &Value) -> Option<Key> {
    let room = OwnedRoomId::try_from(answer["room_id"].as_str()?).expect("an id");
    let event = || OwnedEventId::try_from(text(answer, "event_id")).expect("an id");
    let key = match answer["op"].as_str()? {
        "event" => Key::event(room, event()),
        "event_auth" => Key::auth_chain(room, event()),
        "state_ids" => Key::state_ids(room, event()),
        "backfill" => {
            let limit = answer["limit"].as_u64().expect("a limit") as u32;
            Key::backfill(room, ids(answer, "v"), limit)
        }
        "missing" => {
            let (earliest, latest) = (ids(answer, "earliest"), ids(answer, "latest"));
            Key::missing_events(room, earliest, latest, 10, 0)
        }
        "at" => {
            let direction = match text(answer, "dir") {
                "f" => Direction::Forward,
                _ => Direction::Backward,
            };
            let ts = answer["ts"].as_u64().expect("a time");
            Key::timestamp_to_event(room, ts, direction)
        }
        _ => return None,
    };
    Some(key.expect("a key"))
}

/// Gives the answer that a homeserver gave to the same request.
struct Recorded(HashMap<(String, Option<Bytes>), Bytes>);

impl Courier for Recorded {
    fn send<'a>(
        &'a self,
        _: &'a ServerName,
        request: Wire,
    ) -> BoxFuture<'a, Result<Sent, SendError>> {
        let answer = self.0.get(&(request.path.clone(), request.body));
        let answer = answer.unwrap_or_else(|| panic!("{} was never asked", request.path));
        let sent = Sent {
            len: Some(answer.len() as u64),
            body: Box::pin(stream::iter([Ok(answer.clone())])),
        };
        Box::pin(std::future::ready(Ok(sent)))
    }
}

struct Known(KeySet);

impl KeySource for Known {
    fn keys(&self, _: KeysWanted, _: Duration) -> BoxFuture<'_, KeySet> {
        Box::pin(std::future::ready(self.0.clone()))
    }
}

fn known(index: &Value) -> Known {
    let mut known = KeySet::new();
    for (server, of_server) in index["servers"].as_object().expect("servers") {
        let server = <&ServerName>::try_from(server.as_str()).expect("a name");
        for (list, until) in [
            ("verify_keys", None),
            ("old_verify_keys", Some("expired_ts")),
        ] {
            for (id, key) in of_server[list].as_object().expect("keys") {
                let bytes = Base64::<Standard, [u8; 32]>::parse(text(key, "key"));
                let key = VerifyKey {
                    bytes: bytes.expect("a key").into_inner(),
                    valid_until_ms: until.map_or(u64::MAX, |u| key[u].as_u64().expect("a time")),
                };
                known.insert_key(server, id, key);
            }
        }
    }
    Known(known)
}

fn server() -> OwnedServerName {
    owned_server_name!("hs2.test")
}

fn matrix(index: &Value) -> Matrix {
    let recorded = answers(index).map(|answer| {
        let Wire { path, body, .. } = key(answer).expect("an operation").wire();
        ((path, body), file(text(answer, "file")))
    });
    let me = owned_server_name!("hs1.test:8448");
    let courier = Arc::new(Recorded(recorded.collect()));
    let blobs = MemoryStore::new(MemoryConfig { bytes_max: 8 << 20 });
    Builder::new(me, courier, Arc::new(known(index)), Ceilings::default())
        .store(Arc::new(blobs))
        .build()
        .expect("it can run")
}

fn version(answer: &Value) -> RoomVersionId {
    RoomVersionId::try_from(text(answer, "room_version")).expect("a version")
}

fn opts() -> Opts {
    Opts::new().pool([server()]).fresh()
}

#[tokio::test]
async fn every_answer_is_what_it_should_be() {
    let index = index();
    let matrix = matrix(&index);
    for answer in answers(&index) {
        let (name, key) = (text(answer, "file"), key(answer).expect("an operation"));
        let fetch = |opts: Opts| matrix.fetch(key.clone(), opts.version(version(answer)));
        let end = fetch(opts()).await;
        if answer["unverifiable"] == true {
            let error = end.expect_err(name);
            assert_eq!(error.kind, FetchErrorKind::Unverified, "{name}");
            assert_eq!(error.attempts[0].how, How::Unproven, "{name}: {error}");
            continue;
        }
        if answer["redacted"] == true || answer["cut"] == true {
            let error = end.expect_err(name);
            assert_eq!(error.attempts[0].how, How::Cut, "{name}: {error}");
            let cut = fetch(opts().checks(Checks::REDACTED_TOO))
                .await
                .expect(name);
            assert_eq!(cut.proof(), Proof::Redacted, "{name}");
            continue;
        }
        let outcome = end.expect(name);
        assert_eq!(outcome.bytes, file(name), "{name}");
        assert!(outcome.bad.is_empty(), "{name}: {:?}", outcome.bad);
        assert_eq!(outcome.server, Some(server()), "{name}");
        if key.op().carries_events() {
            assert!(outcome.proof() > Proof::Form, "{name}");
        }
        if answer["op"] == "event" {
            assert_eq!(outcome.proof(), Proof::Whole, "{name}");
            assert_eq!(
                outcome.events[0].event_id.as_deref(),
                key.event_id(),
                "{name}"
            );
        }
        if answer["ids"].is_array() {
            let got = outcome.events.iter().map(|event| event.event_id.clone());
            let got: Vec<_> = got.map(|id| id.expect("computed")).collect();
            assert_eq!(got, ids(answer, "ids"), "{name}");
        }
    }
}

#[tokio::test]
async fn a_room_proves_its_version_and_what_was_fetched_is_kept() {
    let index = index();
    let mut rooms = 0;
    for answer in answers(&index) {
        let name = text(answer, "file");
        if !name.ends_with("/event.json") {
            continue;
        }
        rooms += 1;
        let matrix = matrix(&index);
        let key = key(answer).expect("an operation");
        let outcome = matrix.fetch(key.clone(), opts()).await.expect(name);
        assert_eq!(
            outcome.version,
            Some(version(answer)),
            "{name}: nobody said so"
        );
        assert_eq!(outcome.attempts.len(), 2, "{name}: a proof, and the event");
        let settled = async || {
            while matrix.gauges().fetches > 0 {
                tokio::task::yield_now().await;
            }
        };
        settled().await;
        // What was asked for the version's sake need not be asked for again: the chain, or in version 12,
        // where the creation need not be in it, that event.
        if key.room().server_name().is_none() {
            let chain = Key::auth_chain(
                key.room().to_owned(),
                key.event_id().expect("one").to_owned(),
            );
            matrix
                .fetch(chain.expect("a key"), opts())
                .await
                .expect(name);
            settled().await;
        }
        let chain = Key::auth_chain(
            key.room().to_owned(),
            key.event_id().expect("one").to_owned(),
        );
        let chain = matrix
            .fetch(chain.expect("a key"), opts())
            .await
            .expect(name);
        assert!(chain.events.len() > 1, "{name}: a chain");
        for event in chain.events.iter() {
            let id = event.event_id.clone().expect("computed");
            let key = Key::auth_event(key.room().to_owned(), id).expect("a key");
            let nobody = Opts::new().pool([]).checks(Checks::REDACTED_TOO);
            let kept = matrix.fetch(key, nobody).await.expect(name);
            assert_eq!(kept.server, None);
            assert_eq!(kept.raw(&kept.events[0]), chain.raw(event), "{name}");
        }
    }
    assert_eq!(rooms, 12);
}
