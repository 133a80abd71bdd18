//! Synapse's own limits: a hundred requests at once are too many for it.

use crate::world::{Asker, World};
use futures_util::future::join_all;
use gannet::engine::End;
use gannet_matrix::{Ceilings, Key};
use std::{num::NonZeroU32, time::Duration};

const STORM: usize = 100;
const STORMS_MAX: usize = 20;
/// What the engine may take to hear of a refusal, on a machine with other work.
const REACTION: Duration = Duration::from_millis(500);

/// So many events are asked for at once, of one server; all come.
async fn storm(world: &World, asker: &Asker) {
    let room = world.room("chain");
    let fetches = room.events.iter().take(STORM).map(|event| {
        let key = Key::event(room.id.clone(), event.id.clone()).unwrap();
        let opts = world.of(&["hs2"]).version(room.version.clone());
        asker
            .matrix
            .fetch(key, opts.tries(NonZeroU32::new(10).unwrap()))
    });
    for fetched in join_all(fetches).await {
        fetched.unwrap_or_else(|error| panic!("{error}"));
    }
}

fn refused(asker: &Asker) -> usize {
    let sends = asker.wire.sends();
    let busy = |end: &End| matches!(end, End::Busy { .. });
    let errors = sends
        .iter()
        .filter_map(|send| send.end.as_ref()?.1.as_ref());
    errors.filter(|error| busy(&error.end)).count()
}

/// As we are by default, a server is not asked for so much at once that it would refuse.
pub(crate) async fn a_storm_is_answered_without_refusals(world: &World) {
    let asker = world.asker(None, Ceilings::default());
    storm(world, &asker).await;
    assert_eq!(refused(&asker), 0);
    assert_eq!(asker.wire.count("/_matrix/federation/v1/event/"), STORM);
}

/// An operator who allows more draws refusals; and then the server is left alone for as long as it said.
pub(crate) async fn whoever_is_refused_waits(world: &World) {
    let mut ceilings = Ceilings::default();
    ceilings.per_server_max = STORM as u32;
    let asker = world.asker(None, ceilings);
    // On a busy machine a storm may come as a breeze: the next finds its connections open.
    let mut storms = 0;
    while storms < STORMS_MAX && refused(&asker) == 0 {
        storm(world, &asker).await;
        storms += 1;
    }
    let refusals = refused(&asker);
    assert!(refusals > 0, "nobody was refused in {storms} storms");
    let sends = asker.wire.sends();
    for refusal in &sends {
        let Some((at, Some(error))) = &refusal.end else {
            continue;
        };
        let End::Busy { retry_after } = error.end else {
            panic!("{error}");
        };
        // The later of both that it says.
        let pause = retry_after.expect("Synapse says for how long");
        assert!(pause >= Duration::from_secs(1), "{pause:?}");
        let early = sends.iter().filter(|send| {
            send.server == refusal.server && send.began > *at + REACTION && send.began < *at + pause
        });
        assert_eq!(early.count(), 0, "asked again too early");
    }
    // Each request was made because it was wanted, or because one had been refused.
    assert_eq!(sends.len(), storms * STORM + refusals);
    assert!(refusals <= 3 * STORM, "{refusals} refusals");
}
