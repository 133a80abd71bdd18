//! Clusters of real `gannet` processes, in front of an origin that counts.

#[path = "../e2e/harness.rs"]
#[allow(dead_code, reason = "shared with the tests of one process")]
mod harness;
mod members;
mod once;
