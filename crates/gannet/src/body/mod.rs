//! The bytes of a datum: [`Body`] when they are all there, [`SharedBody`] while they arrive.
//!
//! A shared body has one frontier and any number of readers. All of them read the same [`Bytes`]
//! segments, each at its own pace: nothing is copied for a reader, and no reader ever slows the
//! producer. Memory is bounded for each body by a window, and for all bodies that only slow readers
//! still keep by [`Budget`].
//!
//! Not for random writes, and not a cache: a body goes with its last reader.

mod budget;
mod reader;
mod segments;
mod shared;
mod whole;

#[cfg(test)]
mod tests;

pub use budget::Budget;
pub use reader::{ReadError, SharedReader};
pub use shared::{Appended, SharedBody, Stale};
pub use whole::Body;

#[cfg(doc)]
use bytes::Bytes;
