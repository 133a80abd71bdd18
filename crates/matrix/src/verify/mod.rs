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
