//! What was fetched once.

use super::fake::{Does, Lab, event, good, id, is, opts, pdus, room, via};
use crate::{Ceilings, Checks, FetchErrorKind, Key, Opts, Proof};
use gannet_store::{
    Blob, BlobStore, BoxFuture, Dropped, EntryStream, MemoryConfig, MemoryStore, Place, Put, Stats,
    StoreError,
};
use ruma_common::{RoomVersionId, owned_room_id};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// A store that takes everything, and never says what it has.
#[derive(Debug)]
struct Mute(MemoryStore);

impl BlobStore for Mute {
    fn open<'a>(&'a self, _: &'a Place) -> BoxFuture<'a, Result<Option<Blob>, StoreError>> {
        Box::pin(std::future::pending())
    }

    fn put<'a>(
        &'a self,
        place: &'a Place,
        segments: Vec<bytes::Bytes>,
    ) -> BoxFuture<'a, Result<Put, StoreError>> {
        BlobStore::put(&self.0, place, segments)
    }

    fn remove<'a>(&'a self, place: &'a Place) -> BoxFuture<'a, Result<bool, StoreError>> {
        BlobStore::remove(&self.0, place)
    }

    fn list(&self, space: &str) -> EntryStream {
        BlobStore::list(&self.0, space)
    }

    fn drop_space<'a>(&'a self, space: &'a str) -> BoxFuture<'a, Result<Dropped, StoreError>> {
        BlobStore::drop_space(&self.0, space)
    }

    fn stats(&self) -> Stats {
        BlobStore::stats(&self.0)
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_as_good_as_none() {
    let mute = Mute(MemoryStore::new(MemoryConfig { bytes_max: 1 << 20 }));
    let lab = Lab::with(Ceilings::default(), |builder| builder.store(Arc::new(mute)));
    lab.fake.server("a", Does::ok(good()));
    let outcome = lab.matrix.fetch(event("$e"), via(&["a"])).await;
    assert_eq!(
        outcome.expect("a has it").server,
        Some(super::fake::name("a"))
    );
    let begun = Instant::now();
    let hasty = via(&["a"]).patience(Duration::from_millis(500));
    let error = lab.matrix.fetch(event("$e"), hasty).await;
    let error = error.expect_err("the store hangs");
    assert_eq!(error.kind, FetchErrorKind::Expired);
    assert!(begun.elapsed() < Duration::from_millis(510));
    lab.settle().await;
}

fn lab() -> Lab {
    let blobs = MemoryStore::new(MemoryConfig { bytes_max: 1 << 20 });
    Lab::with(Ceilings::default(), |builder| {
        builder.store(Arc::new(blobs))
    })
}

#[tokio::test(start_paused = true)]
async fn an_event_is_fetched_once() {
    let lab = lab();
    lab.fake.server("a", Does::ok(good()));
    let first = lab
        .matrix
        .fetch(event("$e"), via(&["a"]))
        .await
        .expect("a has it");
    lab.settle().await;
    let again = lab
        .matrix
        .fetch(event("$e"), via(&["a"]))
        .await
        .expect("it is kept");
    assert_eq!(again.server, None);
    assert_eq!(again.bytes, first.bytes);
    assert_eq!(again.events, first.events);
    assert_eq!(again.version, Some(RoomVersionId::V11));
    let auth = Key::auth_event(room(), id("$e")).expect("a key");
    let auth = lab
        .matrix
        .fetch(auth, via(&["a"]))
        .await
        .expect("it is kept");
    assert_eq!(auth.server, None);
    assert_eq!(lab.fake.asked().len(), 1);
    let fresh = via(&["a"]).fresh();
    lab.matrix
        .fetch(event("$e"), fresh)
        .await
        .expect("a has it");
    assert_eq!(lab.fake.asked().len(), 2);
    lab.settle().await;
}

#[tokio::test(start_paused = true)]
async fn each_event_of_a_batch_is_kept_as_far_as_it_was_proved() {
    let lab = lab();
    let all = [
        is("$a", "whole"),
        is("$b", "cut"),
        is("$c", "forged"),
        is("$d", "whole"),
    ];
    lab.fake.server("a", Does::ok(pdus(&all)));
    let batch = Key::backfill(room(), [id("$a")], 10).expect("a key");
    lab.matrix
        .fetch(batch, via(&["a"]))
        .await
        .expect("salvaged");
    lab.settle().await;
    let kept = async |event_id, checks| {
        let none: [&str; 0] = [];
        let outcome = lab
            .matrix
            .fetch(event(event_id), via(&none).checks(checks))
            .await;
        outcome.ok().map(|outcome| outcome.proof())
    };
    assert_eq!(kept("$a", Checks::ALL).await, Some(Proof::Whole));
    assert_eq!(kept("$d", Checks::NONE).await, Some(Proof::Whole));
    assert_eq!(kept("$b", Checks::ALL).await, None);
    assert_eq!(
        kept("$b", Checks::REDACTED_TOO).await,
        Some(Proof::Redacted)
    );
    assert_eq!(kept("$c", Checks::NONE).await, None);
    assert_eq!(lab.fake.asked().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_not_proved_is_not_kept() {
    let lab = lab();
    lab.fake.server("a", Does::ok(good()));
    let unchecked = || via(&["a"]).checks(Checks::NONE);
    for _ in 0..2 {
        let outcome = lab
            .matrix
            .fetch(event("$e"), unchecked())
            .await
            .expect("a has it");
        assert!(outcome.server.is_some());
        lab.settle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_version_is_asked_once_and_kept() {
    let blobs = Arc::new(MemoryStore::new(MemoryConfig { bytes_max: 1 << 20 }));
    let create = r#"{"id":"$create","is":"whole","version":"6"}"#;
    let answers = || {
        let chain = format!(
            "{{\"auth_chain\":[{create}],\"pdus\":[{}]}}",
            is("$e", "whole")
        );
        Does::ok(chain)
    };
    let pool = || Opts::new().pool(super::fake::names(&["a"]));
    for run in 0..2 {
        let lab = Lab::with(Ceilings::default(), |builder| {
            builder.store(Arc::clone(&blobs) as _)
        });
        lab.fake.server("a", answers());
        let outcome = lab
            .matrix
            .fetch(event("$e"), pool().fresh())
            .await
            .expect("a has it");
        assert_eq!(outcome.version, Some(RoomVersionId::V6));
        assert_eq!(lab.matrix.version_of(&room()), Some(RoomVersionId::V6));
        lab.settle().await;
        let paths: Vec<_> = (lab.fake.log.lock().unwrap().iter())
            .map(|(_, path, _)| path.split('/').nth(4).map(str::to_owned))
            .collect();
        let expected: &[&str] = if run == 0 {
            &["event_auth", "event"]
        } else {
            &["event"]
        };
        assert_eq!(paths.len(), outcome.attempts.len());
        assert!(paths.iter().flatten().eq(expected), "{paths:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_one_caller_errs_in_is_not_handed_to_another() {
    let lab = lab();
    let create = r#"{"id":"$create","is":"whole","version":"6"}"#;
    let event_and_chain = format!(
        "{{\"auth_chain\":[{create}],\"pdus\":[{}]}}",
        is("$e", "whole")
    );
    lab.fake.server("a", Does::ok(event_and_chain));
    let errs = via(&["a"]).version(RoomVersionId::V4);
    lab.matrix.fetch(event("$e"), errs).await.expect("a has it");
    lab.settle().await;
    let pool = || Opts::new().pool(super::fake::names(&["a"]));
    for (asked, stored) in [(3, false), (3, true)] {
        let outcome = lab.matrix.fetch(event("$e"), pool()).await;
        let outcome = outcome.expect("a has it");
        assert_eq!(outcome.version, Some(RoomVersionId::V6));
        assert_eq!(outcome.server.is_none(), stored);
        assert_eq!(lab.fake.asked().len(), asked);
        lab.settle().await;
    }
}

/// In version 12 no auth chain need hold the event that created the room: its id is the room's.
#[tokio::test(start_paused = true)]
async fn a_room_that_is_its_creation_proves_its_version_by_it() {
    let room = || owned_room_id!("!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM");
    let create = id("$31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM");
    let said = |id: &str| format!(r#"{{"id":"{id}","is":"whole","version":"12"}}"#);
    let of = |event| Key::event(room(), event).expect("a key");
    let pool = || Opts::new().pool(super::fake::names(&["a"]));
    let created = Does::ok(pdus(&[said(create.as_str())]));
    let paths = |lab: &Lab| -> Vec<_> {
        let log = lab.fake.log.lock().unwrap();
        log.iter().map(|(_, path, _)| path.clone()).collect()
    };
    let chain = Key::auth_chain(room(), id("$e")).expect("a key");

    let lab = Lab::new();
    let turns = vec![created.clone(), Does::ok(good())];
    lab.fake.server("a", Does::Turns(turns));
    let outcome = lab.matrix.fetch(of(id("$e")), pool()).await;
    assert_eq!(outcome.expect("a has it").version, Some(RoomVersionId::V12));
    assert_eq!(
        paths(&lab),
        [of(create.clone()).wire().path, of(id("$e")).wire().path]
    );

    // The creation itself proves itself.
    let lab = Lab::new();
    lab.fake.server("a", created);
    let outcome = lab.matrix.fetch(of(create.clone()), pool()).await;
    assert_eq!(outcome.expect("a has it").version, Some(RoomVersionId::V12));
    assert_eq!(lab.fake.asked().len(), 1);

    // Who does not have it may have the chain.
    let lab = Lab::new();
    let in_chain = format!("{{\"auth_chain\":[{}]}}", said(create.as_str()));
    let turns = vec![Does::status(404), Does::ok(in_chain), Does::ok(good())];
    lab.fake.server("a", Does::Turns(turns));
    let outcome = lab.matrix.fetch(of(id("$e")), pool()).await;
    assert_eq!(outcome.expect("a has it").version, Some(RoomVersionId::V12));
    let expected = [of(create), chain, of(id("$e"))].map(|key| key.wire().path);
    assert_eq!(paths(&lab), expected);
}

#[tokio::test(start_paused = true)]
async fn metrics_tell() {
    let lab = lab();
    lab.fake.server("a", Does::ok(good()));
    for _ in 0..2 {
        lab.matrix
            .fetch(event("$e"), opts().pool(super::fake::names(&["a"])))
            .await
            .expect("a");
        lab.settle().await;
    }
    let mut page = gannet::metrics::Page::new();
    lab.matrix.write_metrics(&mut page, &[]).await;
    let text = page.into_text();
    for line in [
        "gannet_fetch_wants_total 1\n",
        "gannet_matrix_attempts_total{op=\"event\",how=\"answered\"} 1\n",
        "gannet_matrix_fetches_total{op=\"event\",end=\"answered\"} 1\n",
        "gannet_matrix_fetches_total{op=\"event\",end=\"stored\"} 1\n",
        "gannet_matrix_events_total{proof=\"whole\"} 1\n",
        "gannet_matrix_servers{state=\"healthy\"} 1\n",
        "gannet_matrix_roster_servers 1\n",
        "gannet_matrix_wanted_keys 0\n",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    lab.matrix.shutdown(std::time::Duration::from_secs(1)).await;
    assert_eq!(lab.matrix.gauges(), gannet::Gauges::default());
}
