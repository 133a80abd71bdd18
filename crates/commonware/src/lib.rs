//! A drop-in for the p2p engine of `commonware-resolver`, on the Gannet fetch engine.
//!
//! An application that uses `commonware_resolver::p2p::{Engine, Mailbox}` moves over by importing
//! both from here; everything else stays: `Config` (it is the same type), `Engine::new`,
//! `start((Sender, Receiver)) -> Handle`, the `Resolver` and `TargetedResolver` traits, the wire
//! format, and the names of the metrics. Nodes of both kinds serve each other.
//!
//! What differs is what decides: one sans-IO state machine in which a fetch that cannot start
//! costs nothing until one of its peers is free. A thousand keys whose only target is away, or all
//! peers at their quota, are not scanned. Hedged requests are there for the asking ([`Tuning`]).
//!
//! # How it works
//!
//! One task runs the engine, a child of the context that was passed; time, randomness and metrics
//! come from that context. The rooms are those of every Gannet front end:
//!
//! | module | what happens there |
//! |---|---|
//! | `key` | what is held for one key: its subscribers, what was brought, who may be asked |
//! | `select` | peers: the latest set, blocks, and their numbers in the engine |
//! | `transport` | the wire format, and requests under way |
//! | `judge` | deliveries to the `Consumer`, and what its outcomes say |
//! | `serve` | requests of peers, and the `Producer` |
//! | `want` | what the application wants, and what it does not want any more |
//! | `answer` | answers: from the peer to the consumer, and what it says of them |
//! | `drive` | does what the engine decides |
//! | `actor` | the task: one loop over everything that happens |
//!
//! # Guarantees
//!
//! - Peers are those of the latest peer set update, less those that [`Blocker::blocked`] lists and
//!   ourselves; targets are never exceeded.
//! - An answer is matched by its id and its sender; ids start at random, so that answers to an
//!   earlier run are not taken for answers to this one.
//! - Quotas are those of the sender: a peer that is at its quota is left alone until the time that
//!   the sender named, for all keys at once.
//! - Nothing that a peer sends ends the task. What is malformed is dropped and counted.
//!
//! [`Blocker::blocked`]: commonware_p2p::Blocker::blocked

mod actor;
mod answer;
mod config;
mod drive;
mod few;
mod judge;
mod key;
mod mailbox;
mod metrics;
mod moment;
mod select;
mod serve;
mod slots;
mod transport;
mod want;

use gannet_engine as machine;

pub use actor::Engine;
pub use config::{Config, Tuning};
pub use gannet_engine::Hedge;
pub use mailbox::Mailbox;

pub use commonware_resolver::p2p::{
    MAX_RESPONSE_OVERHEAD, Producer, REQUEST_OVERHEAD, max_message_size,
};
