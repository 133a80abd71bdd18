//! The whole of it against real homeservers: three Synapses, which `gannet_testkit::peers::Synapses` starts.
//!
//! Few tests, for each starts a lab of its own.

mod failover;
mod fill;
mod hostile;
#[path = "../liar/mod.rs"]
#[allow(dead_code, reason = "each test uses what it needs of it")]
mod liar;
mod lies;
mod limits;
mod ops;
mod sharing;
mod world;

use world::World;

/// What needs servers that are all well.
#[tokio::test(flavor = "multi_thread")]
async fn everything_is_fetched_once_and_verified() {
    let world = World::start(&[]).await;
    sharing::callers_of_one_event_share_a_request(&world).await;
    sharing::callers_of_one_window_share_a_request(&world).await;
    ops::every_op_works_for_every_version(&world).await;
    ops::every_event_verifies_by_itself(&world).await;
    ops::what_is_barred_is_said(&world).await;
    fill::every_room_is_filled_from_nothing(&world).await;
    fill::a_long_chain_takes_few_requests(&world).await;
    fill::what_was_interrupted_goes_on(&world).await;
    fill::five_hundred_events_come_in_batches(&world).await;
}

/// Servers that go and come back.
#[tokio::test(flavor = "multi_thread")]
async fn servers_that_go_are_replaced_and_taken_back() {
    let world = World::start(&[]).await;
    failover::a_frozen_server_costs_the_hedging_delay(&world).await;
    failover::servers_go_while_many_are_fetched(&world).await;
}

/// Servers that turn requests away.
#[tokio::test(flavor = "multi_thread")]
async fn servers_that_are_busy_are_left_alone() {
    let world = World::start(&["--rate-limits", "default"]).await;
    limits::a_storm_is_answered_without_refusals(&world).await;
    limits::whoever_is_refused_waits(&world).await;
}

/// Honest servers beside one that does all that servers should not.
#[tokio::test(flavor = "multi_thread")]
async fn liars_are_named_and_nothing_of_theirs_gets_out() {
    let world = World::start(&[]).await;
    let hostile = hostile::Hostile::start(&world).await;
    hostile::every_liar_is_named_and_nothing_of_it_taken(&hostile).await;
    hostile::what_is_forged_is_left_out(&hostile).await;
    hostile::the_version_is_believed_to_nobody(&hostile).await;
    hostile::documents_that_prove_nothing_prove_no_event(&hostile).await;
    hostile::well_knowns_that_mislead_are_told(&hostile).await;
    hostile::a_room_is_filled_beside_a_liar(&hostile).await;
}
