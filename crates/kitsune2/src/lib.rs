//! A drop-in for Kitsune2's fetch module, on the Gannet fetch engine.
//!
//! ```
//! # fn node(stock: kitsune2_api::Builder) -> kitsune2_api::Builder {
//! use gannet_kitsune2::GannetFetchFactory;
//! use kitsune2_api::Builder;
//!
//! Builder { fetch: GannetFetchFactory::create(), ..stock }
//! # }
//! ```
//!
//! The traits, the wire messages and the configuration are those of the stock module; nodes of both
//! kinds fetch from each other. What differs: a request that is not answered is asked again, of
//! another peer or after a back-off; ops travel in batches; nothing that is pending is walked for a
//! response; queues are bounded, and what does not fit is counted and asked for again.
//!
//! # How it works
//!
//! | module | what happens there |
//! |---|---|
//! | `key` | ids of ops as they are kept |
//! | `select` | the book of which op is wanted of which peer |
//! | `pace` | how much a peer is asked for at a time |
//! | `transport` | requests to peers |
//! | `patience` | how long they are waited for, giving up |
//! | `judge` | calls to the op store, what it says of an op, and what follows |
//! | `serve` | requests of peers |
//! | `want` | wants that come and go |
//! | `answer` | responses: whose they are |
//! | `drive` | does what the engine decides |
//! | `state` | what these share: all of it, without I/O |
//! | `actor` | the task that sends, stores and keeps time |
//! | `handler`, `inbox` | what the transport hands over |
//! | `factory`, `fetch` | the traits |
//! | `shared`, `guard` | what the tasks have in common; calls to the host, whose panics are errors |
//! | `config`, `metrics` | settings; what is counted |
//! | `number` | tables by number |
//!
//! # Guarantees
//!
//! - An op is wanted until the op store has it, or until every peer that offered it was given up.
//!   A pair of op and peer that is not in the summary is not asked for.
//! - An op that the store holds is not asked for, nor one that came meanwhile.
//! - A failed send drops all that is wanted of the peer, at once. Silence (of two seconds) is asked
//!   again: after 20 s, growing to 10 min in four pauses; then the want is dropped, and if the peer
//!   answered nothing all the while, all that is wanted of it. A peer that was at fault and answers
//!   again, or names an op again, ends pauses; patience lasts as long as they would have. An answer that
//!   we have no room for costs none of it, as often as an op is asked for at most.
//! - The notification that nothing is pending fires however the last want went: stored, given up,
//!   dropped with its peer, or with the module itself.
//! - What is our own trouble is no peer's: without a local agent, asking is put off; while the op store
//!   fails on everything, there is a request now and then. Peers take turns in front of the op store,
//!   and in being served.
//! - No lock is held across a send or a call to the store. Memory is bounded by the configuration.
//! - Nothing that a peer sends ends a task of the module, not even where the op store panics on it.
//!
//! # Unsolicited ops
//!
//! The stock module stores whatever a peer sends, asked for or not, and hosts rely on it (a node may
//! push what it has just made). So does this one by default: the op store checks every op anyway, and
//! what is not asked for has a bounded share of the memory. A host whose peers have no business
//! pushing sets `gannetFetch.acceptUnsolicited` to false: such ops are then refused and counted.

mod actor;
mod answer;
mod config;
mod drive;
mod factory;
mod fetch;
mod guard;
mod handler;
mod inbox;
mod judge;
mod key;
mod metrics;
#[cfg(test)]
mod model;
mod number;
mod pace;
mod patience;
mod select;
mod serve;
mod shared;
mod state;
mod transport;
mod want;

use gannet_engine as machine;

pub use config::{CoreFetchConfig, GannetFetchConfig, GannetFetchModConfig};
pub use factory::GannetFetchFactory;
pub use metrics::{FetchStats, Monitor};

/// The name under which the module's messages travel: that of the stock module.
pub const MOD_NAME: &str = "Fetch";

/// The longest that a send is waited for: past that, the peer is not there. Transports give up sooner
/// where there is no connection; a peer that takes no more bytes they may wait for.
const SEND_MAX: std::time::Duration = std::time::Duration::from_secs(120);
