//! Coalesced, failover fetch of Matrix federation events, verified.
//!
//! | module | what happens there |
//! |---|---|
//! | [`verify`] | what can be proved of an answer, without I/O |
//! | [`net`] | how a homeserver is found, reached and asked, and whose keys are whose |

pub mod net;
pub mod verify;
