//! Filling a gap, of an empty store.

use crate::world::{Asker, Room, World, empty_store};
use gannet_matrix::{
    Ceilings, Proof,
    fill::{Ended, Fill, Filled, Goal, Limits, News},
};
use gannet_store::BlobStore;
use ruma_common::OwnedEventId;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// What is to come from both servers.
fn wanted(world: &World, room: &Room, from: OwnedEventId, goal: Goal) -> Fill {
    Fill {
        room: room.id.clone(),
        from: vec![from],
        to: Vec::new(),
        goal,
        limits: Limits::default(),
        opts: world.of(&["hs2", "hs3"]),
    }
}

/// Runs a fill: what came of it, and what was proved of each event.
async fn run(asker: &Asker, fill: Fill) -> (Filled, BTreeMap<OwnedEventId, Proof>) {
    let mut found = BTreeMap::new();
    let filled = asker.matrix.fill(fill, |news| {
        if let News::Recovered(event) = news {
            let again = found.insert(event.event_id, event.proof);
            assert_eq!(again, None, "each is told of once");
        }
    });
    let filled = filled.await.unwrap();
    assert!(filled.bad.is_empty(), "{:?}", filled.bad);
    assert_eq!(filled.fetched + filled.held, found.len() as u64);
    assert_eq!(filled.fetched, filled.by_server.values().sum::<u64>());
    (filled, found)
}

/// Ends a service, what it is storing included.
async fn end(asker: &Asker) {
    asker.matrix.shutdown(Duration::from_secs(60)).await;
}

pub(crate) async fn every_room_is_filled_from_nothing(world: &World) {
    for room in world.rooms() {
        if ["banned", "denied"].contains(&&*room.label) || room.label.starts_with("floats") {
            continue;
        }
        // Of the server that made the room, and another.
        let (me, servers) = match room.json["creator"] == *world.name("hs1").as_str() {
            true => ("hs2", ["hs3", "hs1"]),
            false => ("hs1", ["hs3", "hs2"]),
        };
        let asker = world.asker_as(me, Some(empty_store()), Ceilings::default());
        let mut fill = wanted(world, &room, room.last(), Goal::Gap);
        fill.opts = world.of(&servers);
        let (filled, found) = run(&asker, fill).await;
        assert_eq!(filled.ended, Ended::Goal, "{}: {filled:?}", room.label);
        assert_eq!(filled.version.as_ref(), Some(&room.version));
        let ids: BTreeSet<_> = found.keys().cloned().collect();
        assert_eq!(ids, room.ids(), "{}", room.label);
        for (id, proof) in &found {
            let cut = match room.label.as_str() {
                // Also what is not hidden may be cut there.
                "history" if *proof == Proof::Redacted => continue,
                "history" => room.named(&room.json["hidden"]).contains(id),
                _ => room.is_redacted(id),
            };
            let want = if cut { Proof::Redacted } else { Proof::Whole };
            assert_eq!(*proof, want, "{}: {id}", room.label);
        }
        end(&asker).await;
    }
}

pub(crate) async fn a_long_chain_takes_few_requests(world: &World) {
    let room = world.room("chain");
    let event = room.named(&serde_json::json!([room.json["chain_event"]]))[0].clone();
    let asker = world.asker(Some(empty_store()), Ceilings::default());
    let fill = wanted(world, &room, event.clone(), Goal::Events(1));
    let (filled, found) = run(&asker, fill).await;
    assert_eq!(filled.ended, Ended::Goal, "{filled:?}");
    let chain = room.named(&room.json["auth_chain"]);
    assert_eq!(chain.len(), 303);
    assert!(chain.iter().all(|id| found.get(id) == Some(&Proof::Whole)));
    assert!(
        found.contains_key(&event) && found.len() == 304,
        "{}",
        found.len()
    );
    let sent = asker.wire.count("/_matrix/federation/");
    assert!(sent <= 5, "{sent} requests: {:?}", asker.wire.sends());
    end(&asker).await;
}

/// A service is ended while it fills; the next one goes on with what is in the store.
pub(crate) async fn what_was_interrupted_goes_on(world: &World) {
    let room = world.room("conversation-11");
    let store: Arc<dyn BlobStore> = empty_store();

    let asker = world.asker(Some(Arc::clone(&store)), Ceilings::default());
    let mut fill = wanted(world, &room, room.last(), Goal::Gap);
    // One for the room's version.
    fill.limits.requests_max = 2;
    let (first, _) = run(&asker, fill).await;
    assert_eq!(first.ended, Ended::RequestsMax, "{first:?}");
    assert!(first.fetched < room.events.len() as u64);
    // A batch is taken whole, however its events name each other.
    assert!(first.fetched >= 100 && first.held == 0, "{first:?}");
    end(&asker).await;

    // And one that is dropped in the midst of it.
    let asker = world.asker(Some(Arc::clone(&store)), Ceilings::default());
    let (told, heard) = tokio::sync::oneshot::channel::<()>();
    let mut told = Some(told);
    let mut held = 0;
    let fill = wanted(world, &room, room.last(), Goal::Gap);
    let filling = asker.matrix.fill(fill, |news| match news {
        News::Recovered(event) if event.server.is_none() => held += 1,
        News::Recovered(_) => drop(told.take()),
        _ => {}
    });
    tokio::select! {
        biased;
        _ = heard => {}
        filled = filling => drop(filled.unwrap()),
    }
    assert!(held >= first.fetched, "{held} of {first:?}");
    end(&asker).await;

    let asker = world.asker(Some(Arc::clone(&store)), Ceilings::default());
    let fill = wanted(world, &room, room.last(), Goal::Gap);
    let (last, found) = run(&asker, fill).await;
    assert_eq!(last.ended, Ended::Goal, "{last:?}");
    assert!(last.held >= first.fetched, "{last:?}");
    assert_eq!(found.into_keys().collect::<BTreeSet<_>>(), room.ids());
    end(&asker).await;

    // Nothing is left to ask for.
    let asker = world.asker(Some(store), Ceilings::default());
    let fill = wanted(world, &room, room.last(), Goal::Gap);
    let (none, found) = run(&asker, fill).await;
    assert_eq!((none.fetched, none.attempts), (0, 0), "{none:?}");
    assert_eq!(found.len(), room.events.len());
    assert!(asker.wire.sends().is_empty());
    end(&asker).await;
}

/// A room in which much was said while a server was away: it has nothing of it.
pub(crate) async fn five_hundred_events_come_in_batches(world: &World) {
    let room = world.room("chain");
    let (before, more) = (room.ids(), 510 - room.events.len());
    let sent = world.talk("hs2", &room, more).await;
    let asker = world.asker(Some(empty_store()), Ceilings::default());
    let mut fill = wanted(world, &room, sent.last().unwrap().clone(), Goal::Gap);
    // The others may not have them yet.
    fill.opts = world.of(&["hs2"]);
    let (filled, found) = run(&asker, fill).await;
    assert_eq!(filled.ended, Ended::Goal, "{filled:?}");
    assert_eq!((filled.fetched, filled.held), (510, 0), "{filled:?}");
    let all: BTreeSet<_> = before.into_iter().chain(sent).collect();
    assert_eq!(found.keys().cloned().collect::<BTreeSet<_>>(), all);
    assert!(found.values().all(|proof| *proof == Proof::Whole));
    let requests = asker.wire.count("/_matrix/federation/");
    assert!(
        requests * 20 <= all.len(),
        "{requests} requests for {}",
        all.len()
    );
    end(&asker).await;
}
