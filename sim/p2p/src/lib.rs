//! Deterministic simulation of the drop-ins for peer-to-peer hosts: the adapters as they are, their
//! actor, tasks, mailbox and wire included, where `gannet-sim` drives the bare engine.
//!
//! A [`subject`](gannet_sim::subject) is one adapter in a world drawn from a seed. It brings its own world, network and oracle,
//! for hosts differ in all of them; seeds, traces, planted bugs and the command line are shared. There
//! are two, [`commonware`] and [`kitsune2`]; another is one more module and a line in [`SUBJECTS`].
//!
//! Not a part of `gannet-sim`, which stays light: this one needs commonware and Kitsune2.

pub mod commonware;
pub mod kitsune2;

/// Every adapter that can be simulated.
pub const SUBJECTS: &[&gannet_sim::subject::Subject] = &[&commonware::SUBJECT, &kitsune2::SUBJECT];
