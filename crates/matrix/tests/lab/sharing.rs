//! Many callers, one request: as counted on our side, and by the server itself.

use crate::world::{World, told};
use futures_util::future::join_all;
use gannet_matrix::{Ceilings, Key, Outcome};
use std::collections::BTreeSet;

const CALLERS: usize = 100;

/// All ask at the same moment; each gets the same bytes, from one request.
async fn share(world: &World, keys: Vec<Key>, path: &str) {
    let asker = world.asker(None, Ceilings::default());
    let log = world.log_requests("hs2").await;
    // The log says what it is asked from here on.
    let before = log.count(path).await;
    let version = world.room("conversation-10").version;
    let callers = keys.into_iter().map(|key| {
        let opts = world.of(&["hs2", "hs3"]).version(version.clone());
        // However slow the machine is.
        let opts = opts.no_hedge();
        asker.matrix.fetch(key, opts)
    });
    let outcomes: Result<Vec<Outcome>, _> = join_all(callers).await.into_iter().collect();
    let outcomes = outcomes.unwrap();
    assert_eq!(outcomes.len(), CALLERS);
    let buffers: BTreeSet<_> = outcomes
        .iter()
        .map(|outcome| outcome.bytes.as_ptr())
        .collect();
    assert_eq!(buffers.len(), 1, "one buffer for all");
    for outcome in &outcomes {
        assert_eq!(told(&outcome.attempts), [("hs2.test", "answered")]);
    }
    assert_eq!(asker.wire.count(path), 1);
    assert_eq!(log.count(path).await - before, 1);
    let counters = asker.matrix.counters();
    assert_eq!(
        (counters.coalesced, counters.attempts),
        (CALLERS as u64 - 1, 1)
    );
}

pub(crate) async fn callers_of_one_event_share_a_request(world: &World) {
    let room = world.room("conversation-10");
    let key = Key::event(room.id.clone(), room.last()).unwrap();
    let path = key.wire().path;
    share(world, vec![key; CALLERS], &path).await;
}

pub(crate) async fn callers_of_one_window_share_a_request(world: &World) {
    let room = world.room("conversation-10");
    let ids: Vec<_> = room.events.iter().map(|event| event.id.clone()).collect();
    let (earliest, latest) = (&ids[ids.len() - 20..][..5], &ids[ids.len() - 5..]);
    let keys = (0..CALLERS).map(|n| {
        // Each in an order of its own, some ids twice.
        let turned = |ids: &[_]| {
            let mut turned = ids.to_vec();
            turned.rotate_left(n % ids.len());
            turned.swap(0, n % 3);
            turned.extend_from_slice(&ids[..n % 2]);
            turned
        };
        Key::missing_events(room.id.clone(), turned(earliest), turned(latest), 20, 0).unwrap()
    });
    share(world, keys.collect(), "/get_missing_events/").await;
}
