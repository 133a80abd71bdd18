//! What a caller gets.

use crate::{BadEvent, Event, Proof, book::Attempt};
use bytes::Bytes;
use ruma_common::{OwnedServerName, RoomVersionId};
use std::sync::Arc;

/// What a caller gets: an answer, who gave it, and what was proved of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// The answer as it came: JSON of the op's shape. All callers of one fetch share this buffer. Where
    /// events were left out because they are bad, it is written anew without them, and where the event
    /// was in the store already, around it.
    pub bytes: Bytes,
    /// Who gave it; `None` for the store.
    pub server: Option<OwnedServerName>,
    /// Its events, in their order, and what was proved of each. For ops that bring no events, none.
    pub events: Arc<[Event]>,
    /// Events that were left out, and why.
    pub bad: Arc<[BadEvent]>,
    /// The room's version by which events were checked.
    pub version: Option<RoomVersionId>,
    /// What became of each request that was made for it.
    pub attempts: Vec<Attempt>,
}

impl Outcome {
    /// What was proved of the answer: the least of what was proved of its events, and no more than the
    /// form of an answer without any.
    pub fn proof(&self) -> Proof {
        let proofs = self.events.iter().map(|event| event.proof);
        proofs.min().unwrap_or(Proof::Form)
    }

    /// The bytes of an event of it: a slice, which keeps the whole answer in memory.
    pub fn raw(&self, event: &Event) -> Bytes {
        let range = event.range.clone();
        // An event of another outcome has no place in here.
        if range.start <= range.end && range.end <= self.bytes.len() {
            self.bytes.slice(range)
        } else {
            Bytes::new()
        }
    }
}
