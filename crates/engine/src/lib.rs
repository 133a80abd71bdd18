//! The sans-IO fetch engine: it fetches each thing once, from whichever source can prove it has it.
//!
//! An [`Engine`] is a plain state machine. It holds no socket, clock, task or lock, and given the same
//! configuration, seed and timed inputs it does the same thing. A driver feeds it [`Input`]s, does
//! what its [`Output`]s say, and wakes it when [`Engine::poll_timeout`] is due. Payloads stay with
//! the driver: the engine knows ids, offsets and lengths.
//!
//! # What it does
//!
//! - **Coalesces**: one fetch per [key](Key), however many [waiters](WaiterId) want it.
//! - **Bounds**: racing fetches, concurrency and rates per source, group and in all, bytes.
//! - **Chooses**: by the front end's ranking, by measured performance, or among targets only.
//! - **Escalates**: rounds of attempts that race each other; a silent or failed round is joined by
//!   the next ([`FanoutGrowth`], [`Hedge`]).
//! - **Resumes**: a later attempt continues the body where an earlier one broke off, if both are of
//!   one identity.
//! - **Judges and commits**: nothing is an answer before the front end's judge says so; a plan says
//!   whether waiters are answered before or after it is stored ([`Commit`]).
//! - **Is fair**: classes have weighted shares, groups and owners take turns, arrival decides within
//!   one.
//! - **Knows its sources**: one [health](Health) state machine, latency quantiles, performance.
//!
//! # Declined starts
//!
//! A host with quotas of its own may decline a start ([`Input::Declined`]): the attempt is undone at
//! no cost to anybody's score, and the source is parked for all keys until the named time. So that
//! this parks one source once rather than every fetch in turn, a source is given no further start
//! until the last one was acknowledged ([`Input::Started`]) or declined.
//!
//! # What it is not for
//!
//! It moves no bytes, knows no protocol, and keeps nothing across restarts.

mod attempts;
mod bytes;
mod check;
mod config;
mod cycles;
mod engine;
mod gate;
mod groups;
mod hash;
mod health;
mod id;
mod input;
mod latency;
mod line;
mod list;
mod output;
mod plan;
#[cfg(feature = "planted")]
pub mod planted;
#[cfg(not(feature = "planted"))]
mod planted;
mod rng;
mod rounds;
mod schedule;
mod slab;
#[cfg(test)]
mod smoke;
mod snapshot;
mod sources;
mod state;
mod survey;
mod timers;
mod turns;
mod upkeep;
mod verdicts;
mod view;
mod waiters;
mod weights;

pub use config::{Choice, Config, ConfigError, HealthConfig, PerformanceUnit};
pub use engine::Engine;
pub use id::{AttemptId, FetchId, GroupId, JudgementId, Key, SourceId, Time, WaiterId};
pub use input::{CommitFault, End, Fault, Input, Limits, Rate, Scope, Verdict};
pub use list::List;
pub use output::{FetchError, HowEnded, Outcome, Output, Sources, Stage, Tried};
pub use plan::{
    Backoff, Commit, FanoutGrowth, Hedge, Lifetime, OnInvalid, Plan, Retry, Silence, Targets,
    ThroughputFloor, Want,
};
pub use snapshot::{
    AttemptView, Counters, Event, FetchView, GroupView, Health, Phase, Snapshot, SourceView, Timer,
};
