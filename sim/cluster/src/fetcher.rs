//! One of a member's two fetchers: an engine, and what its driver holds for it.

use crate::{time::time, trip::Trip, wire::Stream, world::Key};
use gannet_cluster::{Beats, Passed, Role, Words};
use gannet_engine::{AttemptId, Engine, FetchId, Input, Output, SourceId, WaiterId};
use std::collections::BTreeMap;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Which {
    /// Waits for other members.
    Peer,
    /// Waits for the origin.
    Home,
}

/// An engine, and what its driver holds for it.
#[derive(Debug)]
pub struct Fetcher {
    /// The engine.
    pub engine: Engine<Key>,
    /// What has come of each fetch.
    pub bodies: BTreeMap<FetchId, Body>,
    /// How each attempt goes.
    pub ways: BTreeMap<AttemptId, (FetchId, Way)>,
    /// Who waits, and what it has been given.
    pub readers: BTreeMap<WaiterId, Reader>,
}

/// What has come of a fetch.
#[derive(Debug)]
pub struct Body {
    /// Of what.
    pub key: Key,
    /// Bytes.
    pub bytes: Vec<u8>,
    /// Final words, if somebody had them.
    pub said: Option<Words>,
    /// As what each member is asked that was ranked.
    pub roles: Vec<(SourceId, Role)>,
    /// Beats that were passed on to its readers.
    pub passed: Passed,
}

/// How an attempt goes.
#[derive(Debug)]
pub enum Way {
    /// To members.
    Trip(Trip),
    /// To the other fetcher of the same member: its waiter there, and when it says that it is at work.
    Home(WaiterId, Beats),
    /// To the origin.
    Origin {
        /// The byte that comes next.
        at: u64,
    },
}

/// Who waits for a datum, and reads it as it comes.
#[derive(Debug)]
pub struct Reader {
    /// The fetch that it joined.
    pub fetch: FetchId,
    /// The byte that it needs next.
    pub at: u64,
    /// Whether it was told that bytes follow.
    pub opened: bool,
    /// Who it is.
    pub sink: Sink,
}

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    /// A client.
    Client(u64),
    /// Another member.
    Stream(Stream),
    /// The peer fetcher of the same member.
    Attempt(AttemptId),
}

impl Fetcher {
    /// Around this engine.
    pub const fn new(engine: Engine<Key>) -> Self {
        Self {
            engine,
            bodies: BTreeMap::new(),
            ways: BTreeMap::new(),
            readers: BTreeMap::new(),
        }
    }

    /// Feeds an input; the outputs that follow are to be drained next.
    pub fn feed(&mut self, now: u64, input: Input<Key>) {
        self.engine.handle_input(time(now), input);
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Output<Key>> {
        self.engine.poll_output()
    }

    /// Whether it fetches this.
    pub fn fetches(&self, key: &Key) -> bool {
        self.engine.find(key).is_some()
    }

    /// The readers of a fetch.
    pub fn readers_of(&self, fetch: FetchId) -> Vec<WaiterId> {
        let of = self
            .readers
            .iter()
            .filter(|(_, reader)| reader.fetch == fetch);
        of.map(|(waiter, _)| *waiter).collect()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.bodies.is_empty() && self.ways.is_empty() && self.readers.is_empty()
    }
}
