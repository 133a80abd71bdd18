//! Deterministic simulation of the engine under seeds and faults.
//!
//! One seed draws a [`world`]: bounds, sources and their vices, plans, odds. The [`driver`] runs the
//! engine in it on virtual time, first with faults (safety), then without (liveness), and an account
//! kept apart from the engine ([`ledger`], [`oracle`], [`audit`]) checks the invariants I1 to I9 of
//! ARCHITECTURE.md after every step. [`fairness`] saturates an engine and counts shares.
//!
//! The drop-ins for peer-to-peer hosts run in a simulation of their own, `gannet-sim-p2p`, which shares
//! the [`rng`], the [`trace`] and what [`run`] knows of seeds and panics; so does the cluster's,
//! `gannet-sim-cluster`, and the Matrix front end's, `gannet-sim-matrix`. What these have in common besides
//! is [`subject`] and, on the command line, [`seeds`].
//!
//! Guarantees: the same seed gives the same run, byte for byte; no clock, thread or hash order plays
//! a part. Not for timing anything.

pub mod audit;
pub mod coverage;
pub mod driver;
pub mod fairness;
pub mod ledger;
pub mod oracle;
pub mod rng;
pub mod run;
pub mod seeds;
pub mod source;
pub mod subject;
pub mod trace;
pub mod truth;
pub mod world;
