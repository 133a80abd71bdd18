//! Servers that freeze, die and come back.

use crate::world::{Asker, Room, World, told, until};
use gannet_matrix::{Ceilings, Checks, How, Key, Opts, Outcome, Proof};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{sync::Semaphore, task::JoinSet};

/// A room, without what was before both had come: who came later has not all of that.
fn common(world: &World) -> Room {
    let mut room = world.room("conversation-10");
    room.events.drain(..15);
    room
}

/// Of `hs2` rather than `hs3`.
fn opts(world: &World, room: &Room) -> Opts {
    let opts = world.of(&["hs2", "hs3"]).version(room.version.clone());
    opts.checks(Checks::REDACTED_TOO)
}

/// Fetches one of the room's events, of `hs2` rather than `hs3`.
async fn fetch(world: &World, asker: &Asker, room: &Room, n: usize) -> Outcome {
    let id = room.events[n % room.events.len()].id.clone();
    let key = Key::event(room.id.clone(), id).unwrap();
    let opts = opts(world, room);
    asker
        .matrix
        .fetch(key, opts)
        .await
        .unwrap_or_else(|error| panic!("{error}"))
}

/// Sooner or later the server is the first to be asked again, and answers.
async fn is_back(world: &World, asker: &Asker, room: &Room) {
    let mut n = 0;
    until("answer of hs2, asked first", async || {
        n += 1;
        let outcome = fetch(world, asker, room, n).await;
        (told(&outcome.attempts) == [("hs2.test", "answered")]).then_some(())
    })
    .await;
}

pub(crate) async fn a_frozen_server_costs_the_hedging_delay(world: &World) {
    let asker = world.asker(None, Ceilings::default());
    let room = common(world);
    // Whose keys are known when their server is gone: those of all who have said something.
    let all = Key::backfill(room.id.clone(), [room.last()], 100).unwrap();
    let outcome = asker.matrix.fetch(all, opts(world, &room)).await.unwrap();
    assert_eq!(outcome.server, Some(world.name("hs2")));

    world.control("freeze hs2").await;
    let outcome = fetch(world, &asker, &room, 1).await;
    assert_eq!(outcome.server, Some(world.name("hs3")));
    assert!(outcome.proof() >= Proof::Redacted);
    // The next was asked while the first was still waited for, long before its time was up.
    let how = told(&outcome.attempts);
    assert_eq!(how, [("hs2.test", "dropped"), ("hs3.test", "answered")]);
    let (frozen, other) = (&outcome.attempts[0], &outcome.attempts[1]);
    assert!(frozen.took > other.took, "{:?}", outcome.attempts);
    assert!(
        frozen.took < Duration::from_secs(10),
        "{:?}",
        outcome.attempts
    );
    let counters = asker.matrix.counters();
    assert_eq!((counters.hedges, counters.timeouts), (1, 0));

    // As long as it is frozen, everything comes from the other.
    for n in 2..6 {
        let outcome = fetch(world, &asker, &room, n).await;
        assert_eq!(
            outcome.server,
            Some(world.name("hs3")),
            "{:?}",
            outcome.attempts
        );
    }
    world.control("thaw hs2").await;
    is_back(world, &asker, &room).await;
    asker.matrix.shutdown(Duration::from_secs(10)).await;
}

/// Many fetches, in the course of which servers are killed, stopped, and started again.
pub(crate) async fn servers_go_while_many_are_fetched(world: &World) {
    let asker = Arc::new(world.asker(None, Ceilings::default()));
    let room = Arc::new(common(world));
    let all = Key::backfill(room.id.clone(), [room.last()], 100).unwrap();
    asker.matrix.fetch(all, opts(world, &room)).await.unwrap();
    is_back(world, &asker, &room).await;
    for (goes, comes) in [
        ("kill hs2", "start hs2"),
        ("stop hs2", "start hs2"),
        ("freeze hs2", "thaw hs2"),
    ] {
        let permits = Arc::new(Semaphore::new(8));
        let done = Arc::new(AtomicUsize::new(0));
        let mut fetches = JoinSet::new();
        for event in &room.events {
            let key = Key::event(room.id.clone(), event.id.clone()).unwrap();
            let opts = opts(world, &room);
            let (asker, permits, done) =
                (Arc::clone(&asker), Arc::clone(&permits), Arc::clone(&done));
            fetches.spawn(async move {
                let _permit = permits.acquire_owned().await.unwrap();
                let outcome = asker.matrix.fetch(key, opts).await;
                done.fetch_add(1, Relaxed);
                outcome
            });
        }
        until("fetches that are done", async || {
            (done.load(Relaxed) >= 20).then_some(())
        })
        .await;
        world.control(goes).await;
        let (mut of_hs2, mut of_hs3, mut lost) = (0, 0, 0);
        while let Some(fetched) = fetches.join_next().await {
            let outcome = fetched
                .unwrap()
                .unwrap_or_else(|error| panic!("{goes}: {error}"));
            assert!(outcome.proof() >= Proof::Redacted);
            match outcome.server == Some(world.name("hs2")) {
                true => of_hs2 += 1,
                false => of_hs3 += 1,
            }
            let vain = |how| matches!(how, How::Failed | How::Dropped | How::TimedOut);
            lost += outcome
                .attempts
                .iter()
                .filter(|attempt| vain(attempt.how))
                .count();
        }
        assert!(of_hs2 >= 10 && of_hs3 >= 10, "{goes}: {of_hs2}, {of_hs3}");
        // Whoever is gone is not asked for each of them.
        assert!((1..=100).contains(&lost), "{goes}: {lost} requests in vain");
        world.control(comes).await;
        is_back(world, &asker, &room).await;
    }
    asker.matrix.shutdown(Duration::from_secs(10)).await;
}
