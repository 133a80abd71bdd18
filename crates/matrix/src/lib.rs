//! Coalesced, failover fetch of Matrix federation events, verified.
//!
//! A homeserver that misses an event asks another for it, and another, and waits for each in turn; ten
//! of its tasks ask for the same one at once; what comes is checked late or by halves. Here is the layer
//! that does it once: [`Matrix`] takes a [`Key`] (one of seven operations, in canonical form) and
//! [`Opts`] (whom to ask, how widely, how patiently, what must be proved), and gives an [`Outcome`]: raw
//! bytes that all callers share, who gave them, what was proved of each event, and what became of every
//! request. The engine of [`gannet`] decides whom to ask when.
//!
//! ```
//! use gannet_matrix::{Builder, Ceilings, Courier, Key, KeySource, Opts, Proof};
//! use ruma_common::{owned_event_id, owned_room_id, owned_server_name};
//! use std::sync::Arc;
//!
//! async fn fetch(courier: Arc<dyn Courier>, keys: Arc<dyn KeySource>) -> Result<(), Box<dyn std::error::Error>> {
//!     let me = owned_server_name!("me.example");
//!     let matrix = Builder::new(me, courier, keys, Ceilings::default()).build()?;
//!
//!     let room = owned_room_id!("!room:there.example");
//!     let event = owned_event_id!("$jXnpcXlZkHcsr0VtPgZ6iG1vFi3PSi3zmHrCNo1aCMA");
//!     let hint = owned_server_name!("elsewhere.example");
//!     let outcome = matrix.fetch(Key::event(room, event)?, Opts::new().hint(hint)).await?;
//!
//!     assert_eq!(outcome.proof(), Proof::Whole);
//!     for attempt in &outcome.attempts {
//!         println!("{}: {} {}", attempt.server, attempt.how.name(), attempt.detail);
//!     }
//!     Ok(())
//! }
//! ```
//!
//! For the real federation, a [`net::Federation`] is a courier, and a [`net::KeyRing`] a source of keys.
//! The crate's README says where it goes in a homeserver.
//!
//! # Modules
//!
//! | module | what happens there |
//! |---|---|
//! | `key.rs` | what is asked, in canonical form, and what that is on the wire |
//! | `opts.rs`, `plan.rs` | what a caller says, what the operator allows, and the engine's plan of it |
//! | `select.rs`, `roster.rs`, `memo.rs` | whom to ask; servers by name and number; who failed at what |
//! | `transport.rs`, `courier.rs`, `ring.rs` | one request to one server; whence keys come |
//! | `judge.rs`, `examine.rs` | what an answer is, and what it is worth to its callers |
//! | `book.rs`, `ask.rs` | who waits under which terms; one caller's way to its outcome |
//! | `store.rs`, `versions.rs` | what was proved before |
//! | [`fill`] | which requests bring back what a room is missing |
//! | [`verify`] | what can be proved of an answer, without I/O |
//! | [`net`] | how a homeserver is found, reached and asked, and whose keys are whose |
//!
//! # Invariants
//!
//! - A key is fetched once at a time, whoever asks. Every op is a key of its own.
//! - No event is handed out of which less was proved than the caller demands, and each says what was
//!   proved of it. One whose content was cut never passes for a whole one; what is bad is not in the bytes.
//! - Nobody asks ourselves or whom the operator denies, and no caller gets an answer of a server that it
//!   denies itself, or that is not in its pool.
//! - The version of a room comes from the caller, from an event that proves it, or from the store. It is
//!   not assumed.
//! - A server is the worse for faults and forgeries only: that it does not have something is an answer,
//!   and a key that is missing is not its doing.
//! - Whatever comes from outside is bounded: ids and windows when a key is made, answers by their op
//!   ([`Key::body_bytes_max`]), what is under way and what is remembered by [`Ceilings`] and
//!   [`MemoConfig`].

/// The examples of the page for authors of homeservers are compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod ask;
mod book;
mod courier;
mod error;
mod examine;
mod fetcher;
pub mod fill;
mod judge;
mod key;
mod memo;
mod metrics;
pub mod net;
mod opts;
mod outcome;
mod plan;
mod ring;
mod roster;
mod select;
mod store;
#[cfg(test)]
mod tests;
mod transport;
pub mod verify;
mod versions;

pub use book::{Attempt, How};
pub use courier::{BodyStream, BoxFuture, Courier, SendError, Sent};
pub use error::{FetchError, FetchErrorKind};
pub use examine::KeySource;
pub use fetcher::{Builder, Matrix};
pub use judge::{BadEvent, Event, Proof, Reason};
pub use key::{
    BACKFILL_MAX, Direction, ID_BYTES_MAX, IDS_MAX, Key, KeyError, MISSING_EVENTS_MAX, Op, Wire,
};
pub use memo::MemoConfig;
pub use opts::{Checks, Fanout, NotAFanout, OnBad, Opts};
pub use outcome::Outcome;
pub use plan::Ceilings;
pub use ring::GivenKeys;
