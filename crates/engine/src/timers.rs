//! Timers: a heap of (time, who), in which those that were moved or disarmed stay behind.
//!
//! Each object keeps the time that it is armed for itself, and that says which entries still count:
//! to arm costs next to nothing, and to disarm nothing at all, though there is a timer for every
//! attempt and hardly one of them ever fires. Who tells what counts is the engine; it takes what does
//! not count off the top, so that the first entry always does, and has the heap swept before such
//! entries outnumber the others.

use crate::{
    engine::Engine,
    id::{Key, Time},
};
use std::{cmp::Reverse, collections::BinaryHeap};

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

impl Who {
    /// In one number with the time, so that entries compare in one step.
    const fn pack(self, at: Time) -> u128 {
        let (kind, slot) = match self {
            Self::Waiter(slot) => (0, slot),
            Self::Fetch(slot) => (1, slot),
            Self::Attempt(slot) => (2, slot),
            Self::Source(slot) => (3, slot),
            Self::Node(slot) => (4, slot),
        };
        (at.as_nanos() as u128) << 64 | (kind as u128) << 32 | slot as u128
    }

    const fn unpack(entry: u128) -> (Time, Self) {
        let slot = entry as u32;
        let who = match (entry >> 32) as u32 {
            0 => Self::Waiter(slot),
            1 => Self::Fetch(slot),
            2 => Self::Attempt(slot),
            3 => Self::Source(slot),
            _ => Self::Node(slot),
        };
        (Time::from_nanos((entry >> 64) as u64), who)
    }
}

/// Up to so many entries beyond those that count the heap is not swept: it would not pay.
const STALE: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<u128>>,
    /// How many are armed.
    armed: usize,
}

impl Timers {
    /// Moves the timer of `who` from `armed` (updated) to `at`; [`Time::FAR`] means none.
    #[inline]
    pub(crate) fn arm(&mut self, who: Who, armed: &mut Time, at: Time) {
        if *armed != at {
            self.move_to(who, armed, at);
        }
    }

    fn move_to(&mut self, who: Who, armed: &mut Time, at: Time) {
        if *armed != Time::FAR {
            self.armed -= 1;
        }
        if at != Time::FAR {
            self.armed += 1;
            self.heap.push(Reverse(who.pack(at)));
        }
        *armed = at;
    }

    /// Takes the first timer if it is due. Whose it is has to note that it is armed no more.
    pub(crate) fn due(&mut self, now: Time) -> Option<Who> {
        let (at, who) = self.first()?;
        (at <= now).then(|| {
            self.heap.pop();
            self.armed -= 1;
            who
        })
    }

    pub(crate) fn next(&self) -> Option<Time> {
        self.first().map(|(at, _)| at)
    }

    pub(crate) fn first(&self) -> Option<(Time, Who)> {
        self.heap.peek().map(|Reverse(entry)| Who::unpack(*entry))
    }

    pub(crate) const fn len(&self) -> usize {
        self.armed
    }

    /// Whether entries are left behind.
    fn has_stale(&self) -> bool {
        self.heap.len() > self.armed
    }

    fn sweep(&mut self, counts: impl Fn(Time, Who) -> bool) {
        let mut all = std::mem::take(&mut self.heap).into_vec();
        all.retain(|Reverse(entry)| {
            let (at, who) = Who::unpack(*entry);
            counts(at, who)
        });
        if all.len() > self.armed {
            // Who was armed twice for the same time is here twice.
            all.sort_unstable();
            all.dedup();
        }
        all.shrink_to(2 * all.len() + STALE);
        self.heap = all.into();
    }

    /// All entries, for a check of them.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (Time, Who)> {
        self.heap.iter().map(|Reverse(entry)| Who::unpack(*entry))
    }
}

impl<K: Key> Engine<K> {
    /// Whether somebody is still armed for this.
    pub(crate) fn is_armed(&self, at: Time, who: Who) -> bool {
        at == match who {
            Who::Waiter(waiter) => self.waiters.get(waiter).map(|w| w.deadline),
            Who::Fetch(fetch) => self.fetches.get(fetch).map(|f| f.wake),
            Who::Attempt(attempt) => self.attempts.get(attempt).map(|a| a.wake),
            Who::Source(source) => self.sources.get(source).map(|s| s.wake),
            Who::Node(node) => self.nodes.get(node).map(|n| n.wake),
        }
        .unwrap_or(Time::FAR)
    }

    /// Takes timers off the top that do not count; after this the first one does.
    pub(crate) fn tidy_timers(&mut self) {
        while self.timers.has_stale() {
            if self.timers.heap.len() > 2 * self.timers.armed + STALE {
                // Lent, for what counts is in the engine.
                let mut timers = std::mem::take(&mut self.timers);
                timers.sweep(|at, who| self.is_armed(at, who));
                self.timers = timers;
            }
            match self.timers.first() {
                Some((at, who)) if !self.is_armed(at, who) => {
                    self.timers.heap.pop();
                }
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_left_behind_are_swept() {
        let mut timers = Timers::default();
        let at = Time::from_nanos;
        let (mut first, mut second) = (Time::FAR, Time::FAR);
        for n in [5, 3, 5, 9] {
            timers.arm(Who::Fetch(1), &mut first, at(n));
        }
        timers.arm(Who::Fetch(1), &mut first, Time::FAR);
        timers.arm(Who::Fetch(1), &mut first, at(9));
        timers.arm(Who::Waiter(2), &mut second, at(7));
        assert_eq!((timers.len(), timers.heap.len()), (2, 6));
        assert!(timers.has_stale());
        let now = [(at(9), Who::Fetch(1)), (at(7), Who::Waiter(2))];
        timers.sweep(|at, who| now.contains(&(at, who)));
        assert!(!timers.has_stale(), "each once");
        assert_eq!((timers.next(), timers.due(at(6))), (Some(at(7)), None));
        assert_eq!(timers.due(at(7)), Some(Who::Waiter(2)));
        assert_eq!(timers.due(at(9)), Some(Who::Fetch(1)));
        assert_eq!((timers.len(), timers.next()), (0, None));
    }
}
