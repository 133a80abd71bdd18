//! What members say to each other, and what a member does to the world around it.

use crate::world::Key;
use gannet_cluster::{Ask, Reply, Role, Words};

/// One asking of one member, named by the asker: its place, its life, a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stream {
    /// Who asked.
    pub asker: usize,
    /// In which of its lives.
    pub life: u32,
    /// A number of its own.
    pub number: u64,
}

/// A message between members.
#[derive(Clone, Debug)]
pub enum Message {
    /// A request.
    Ask {
        /// What is asked for.
        key: Key,
        /// From which byte on.
        from_byte: u64,
        /// How.
        ask: Ask,
    },
    /// The asker wants no more.
    Cancel,
    /// A frame of the answer, with its place in it: one that is lost, doubled or spoilt is found out by
    /// the next, as by the tags of the real frames.
    Frame(u32, Frame),
    /// The connection is closed.
    Reset,
}

/// A frame of an answer.
#[derive(Clone, Debug)]
pub enum Frame {
    /// It does not serve: a referral, or a refusal.
    Not(Reply),
    /// It serves; the length of the datum.
    Head(u64),
    /// Bytes from this offset.
    Data(u64, Vec<u8>),
    /// At work; how often that was passed on.
    Beat(u8),
    /// That was all.
    End,
    /// It cannot be had.
    Fail(Words),
    /// What was sent cannot be told from wrong: the tag does not fit.
    Spoilt,
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The datum.
    Datum(Vec<u8>),
    /// Why not.
    Failed(Words),
    /// The member that it had asked is gone.
    Gone,
}

/// One thing that a member does.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Sends a message.
    Send(usize, Stream, Message),
    /// Asks the origin: the attempt is its own name for it.
    Get {
        /// Of its home engine.
        attempt: u64,
        /// What.
        key: Key,
        /// From which byte on.
        from_byte: u64,
    },
    /// Wants no more of it.
    Abort {
        /// Of its home engine.
        attempt: u64,
    },
    /// Tells a client.
    Tell(u64, Told),
    /// A body that a client waits for at this member has grown.
    Grew(u64),
    /// Something that the account of the run is to know.
    Note(Note),
}

/// What the account of the run is to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// It takes on to serve a datum: as coordinator, stand-in or relay.
    Serves(Key, Role),
    /// It does so from what it receives from another.
    ServesReceived(Key, Role),
    /// It is asked to stand in.
    StandsIn(Key),
    /// It serves as a relay what it does not have.
    Begins(Key),
    /// A state worth reaching.
    Mark(&'static str),
}

/// What the origin says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// The headers.
    Open(u64),
    /// Bytes up to here.
    Bytes(u64),
    /// All of it.
    End,
    /// Not there.
    Missing,
    /// Another version.
    Changed,
    /// 503.
    Busy,
    /// Broke off, or refused.
    Broken,
}
