//! Timers: one ordered set of (time, who).
//!
//! Each object has at most one entry and keeps the time it is armed for itself, so that moving a
//! timer is exact and costs O(log n).

use crate::id::Time;
use std::collections::BTreeSet;

/// Who is woken; the number is the slot in the slab of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    /// A waiter's deadline.
    Waiter(u32),
    /// A fetch: hedge, end of a pause, detached ceiling, retry budget.
    Fetch(u32),
    /// An attempt: first byte, idle, total, throughput.
    Attempt(u32),
    /// A source: end of a pause, back-off, block; token refill; stability.
    Source(u32),
    /// A group: end of a pause, token refill.
    Node(u32),
}

#[derive(Debug, Default)]
pub(crate) struct Timers(BTreeSet<(Time, Who)>);

impl Timers {
    /// Moves the timer of `who` from `armed` (updated) to `at`; [`Time::FAR`] means none.
    pub(crate) fn arm(&mut self, who: Who, armed: &mut Time, at: Time) {
        if *armed == at {
            return;
        }
        if *armed != Time::FAR {
            self.0.remove(&(*armed, who));
        }
        if at != Time::FAR {
            self.0.insert((at, who));
        }
        *armed = at;
    }

    /// Takes the first timer that is due.
    pub(crate) fn due(&mut self, now: Time) -> Option<Who> {
        let first = *self.0.first()?;
        (first.0 <= now).then(|| {
            self.0.remove(&first);
            first.1
        })
    }

    pub(crate) fn next(&self) -> Option<Time> {
        self.0.first().map(|(at, _)| *at)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn contains(&self, at: Time, who: Who) -> bool {
        self.0.contains(&(at, who))
    }
}
