//! The engine's contract, point by point, each test named after the point that it holds to: `c05_..` is of point 5, and
//! `i9_..` of invariant 9.

#[path = "../rig/mod.rs"]
mod rig;

mod bound;
mod choose;
mod coalesce;
mod end;
mod escalate;
mod explain;
mod fair;
mod health;
mod invariants;
mod judge;
mod persist;
mod resume;
mod start_and_end;
mod wanting;
