//! What can be proved of an answer, without I/O.
//!
//! | module | what happens there |
//! |---|---|
//! | [`rules`] | room versions |
//! | [`pdu`] | one PDU: its id, its room, its hashes, its signatures |
//! | [`batch`] | the PDUs of an answer, on several threads: what is good, what is not |
//! | [`keys`], [`keyset`] | what servers say of their keys, and what is known of them |
//! | [`sign`], [`xmatrix`] | a server's own key, and requests in its name |
//! | [`flaw`] | what can be wrong, and whose fault it is |
//! | [`json`], [`format`](mod@format) | JSON from outside; the fields of a PDU |
//!
//! An answer is cut, read, and checked with the keys that it needs:
//!
//! ```
//! use bytes::Bytes;
//! use gannet_matrix::verify::{
//!     batch::{Answer, Batch, Limits, Salvage},
//!     flaw::Flaw,
//!     keyset::{KeySet, KeysWanted},
//!     pdu::Expect,
//!     rules::Rules,
//! };
//!
//! fn prove(
//!     body: &Bytes,
//!     rules: Rules,
//!     room: Expect,
//!     get_keys: impl FnOnce(KeysWanted) -> KeySet,
//! ) -> Result<Salvage, Flaw> {
//!     let batch = Batch::split(Answer::AuthChain, body, &Limits::default())?;
//!     let parsed = batch.parse(rules, &room, 2);
//!     let keys = get_keys(parsed.lacking(&KeySet::new()));
//!     Ok(parsed.check(&keys, 2))
//! }
//!
//! let rules = Rules::of(&ruma_common::RoomVersionId::V12)?;
//! let body = Bytes::from_static(br#"{"auth_chain":[{"type":"m.room.create"}]}"#);
//! let salvage = prove(&body, rules, Expect::default(), |_| KeySet::new())?;
//! assert!(salvage.good.is_empty());
//! assert_eq!(salvage.bad[0].flaw.to_string(), "sender: not the id of a user");
//! # Ok::<(), Flaw>(())
//! ```

pub mod batch;
pub mod flaw;
pub mod format;
#[doc(hidden)]
pub mod fuzz;
pub mod json;
pub mod keys;
pub mod keyset;
pub mod pdu;
pub mod rules;
pub mod sign;
mod signature;
mod split;
pub mod spread;
pub mod xmatrix;

pub use ruma_signatures::Verified;
