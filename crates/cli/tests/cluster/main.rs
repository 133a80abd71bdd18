//! Clusters of real `gannet` processes, in front of an origin that counts.

mod cut_off;
mod faults;
mod handover;
#[path = "../e2e/harness.rs"]
#[allow(dead_code, reason = "shared with the tests of one process")]
mod harness;
mod hostile;
mod identity;
mod joiners;
mod links;
mod members;
mod once;
mod operations;
mod origins;
mod restart;
mod sick;
mod store;
mod traces;
