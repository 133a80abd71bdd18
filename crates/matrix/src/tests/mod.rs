//! The service as a whole, against a federation that is made up, under a paused clock.

mod fake;
mod flow;
mod liars;
mod sharing;
mod stored;
mod truth;
