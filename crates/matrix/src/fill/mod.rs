//! Filling a gap: which requests bring back what a room is missing ([`walk`]), and how they are made (`run.rs`).

mod links;
mod run;
pub mod walk;

#[cfg(test)]
mod tests;

pub use run::{Fill, Filled, News, Recovered};
pub use walk::{Ask, AskId, Links, Next, Taken, Walk};

/// How far a fill goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// To whatever is held, on every path; without anything held, to the beginning of the room.
    Gap,
    /// Until so many events of the timeline are found.
    Events(u64),
    /// To the first event on each path that was made before this time, in milliseconds since 1970.
    Since(u64),
}

/// The bounds of a fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests in all \[1,000\].
    pub requests_max: u32,
    /// Events found, of any kind \[100,000\].
    pub events_max: u32,
    /// Requests under way at a time \[4\].
    pub lanes: u32,
    /// Whether events that entitle others are fetched too \[yes\].
    pub auth: bool,
    /// Batches that should have brought an event before it is asked for by itself \[2\].
    pub batch_tries: u32,
    /// Times that an event is asked for by itself before it is given up \[2\].
    pub single_tries: u32,
}

impl Limits {
    /// The most events to go back from in one request: what servers take.
    pub const FROM_MAX: usize = 20;
    /// The most events of one window: what servers give.
    pub const WINDOW_MAX: u32 = 20;
    /// The most events of one backfill: what servers give.
    pub const BACKFILL_MAX: u32 = 100;
    /// With so many that entitle others missing, their chain is asked for while history still comes.
    pub const AUTH_EARLY_MIN: usize = 50;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_max: 1_000,
            events_max: 100_000,
            lanes: 4,
            auth: true,
            batch_tries: 2,
            single_tries: 2,
        }
    }
}

/// Why a fill ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It has what it went for.
    Goal,
    /// Its bound of requests.
    RequestsMax,
    /// Its bound of events.
    EventsMax,
    /// Some events are named and nobody who was asked gave them.
    NobodyHasMore,
}
