//! Coalesced, failover fetch of Matrix federation events, verified.
//!
//! | module | what happens there |
//! |---|---|
//! | [`fill`] | which requests bring back what a room is missing |
//! | [`verify`] | what can be proved of an answer, without I/O |
//! | [`net`] | how a homeserver is found, reached and asked, and whose keys are whose |

pub mod fill;
pub mod net;
pub mod verify;
