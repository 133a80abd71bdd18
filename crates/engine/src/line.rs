//! A line: fetches in order of arrival, for one owner in one queue.
//!
//! Nearly everybody joins at the end and leaves near the front, so a line is a sorted ring and not a
//! tree: one cache line at either end is all that a step touches, and an entry takes 12 bytes. Who
//! leaves from the middle leaves a hole; holes are fewer than half, or the line is closed up (O(1)
//! amortized). Who comes back to the middle after its hole was closed stands in a tree beside.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, VecDeque},
    ops::Bound::{Excluded, Unbounded},
};

/// A hole: the fetch that stood here has left.
const HOLE: u32 = u32::MAX;
/// Entries at the front that are searched first.
const NEAR: usize = 4;
/// Lines up to this length are never closed up or shrunk: it would not pay.
const SHORT: usize = 16;

/// An arrival and its fetch. The number is in two halves so that an entry needs no padding.
#[derive(Clone, Copy, Debug)]
struct Entry {
    order: [u32; 2],
    fetch: u32,
}

impl Entry {
    const fn new(order: u64, fetch: u32) -> Self {
        Self {
            order: [(order >> 32) as u32, order as u32],
            fetch,
        }
    }

    const fn order(self) -> u64 {
        (self.order[0] as u64) << 32 | self.order[1] as u64
    }

    const fn is_hole(self) -> bool {
        self.fetch == HOLE
    }

    const fn pair(self) -> (u64, u32) {
        (self.order(), self.fetch)
    }
}

/// Never with a hole at either end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line {
    ring: VecDeque<Entry>,
    holes: u32,
    returned: BTreeMap<u64, u32>,
}

impl Line {
    pub(crate) fn is_empty(&self) -> bool {
        self.ring.is_empty() && self.returned.is_empty()
    }

    /// Whether it was not there before.
    pub(crate) fn insert(&mut self, order: u64, fetch: u32) -> bool {
        let entry = Entry::new(order, fetch);
        if self.ring.back().is_none_or(|last| last.order() < order) {
            if self.has_returned(order) {
                return false;
            }
            // By a quarter: there are many lines, and what they have to spare adds up.
            let len = self.ring.len();
            if len == self.ring.capacity() {
                self.ring.reserve_exact(2.max(len / 4));
            }
            self.ring.push_back(entry);
            return true;
        }
        match self.find(order) {
            Ok(at) => {
                let old = &mut self.ring[at];
                let fresh = old.is_hole();
                if fresh {
                    *old = entry;
                    self.holes -= 1;
                }
                fresh
            }
            Err(0) if !self.has_returned(order) => {
                self.ring.push_front(entry);
                true
            }
            Err(_) => self.returned.insert(order, fetch).is_none(),
        }
    }

    /// Whether it was there.
    pub(crate) fn remove(&mut self, order: u64) -> bool {
        // Whose turn it is stands first.
        if self
            .ring
            .front()
            .is_some_and(|first| first.order() == order)
        {
            self.ring.pop_front();
            self.close_up();
            return true;
        }
        match self.find(order) {
            Ok(at) if !self.ring[at].is_hole() => {
                self.ring[at].fetch = HOLE;
                self.holes += 1;
                self.close_up();
                true
            }
            _ => self.returned.remove(&order).is_some(),
        }
    }

    pub(crate) fn contains(&self, order: u64) -> bool {
        self.find(order).is_ok_and(|at| !self.ring[at].is_hole()) || self.has_returned(order)
    }

    pub(crate) fn first(&self) -> Option<(u64, u32)> {
        let ring = self.ring.front().map(|entry| entry.pair());
        sooner(ring, self.returned.first_key_value())
    }

    /// The first after this arrival.
    pub(crate) fn after(&self, order: u64) -> Option<(u64, u32)> {
        let from = match self.find(order) {
            Ok(at) => at + 1,
            Err(at) => at,
        };
        let mut rest = self.ring.range(from..);
        let ring = rest
            .find(|entry| !entry.is_hole())
            .map(|entry| entry.pair());
        let mut returned = self.returned.range((Excluded(order), Unbounded));
        sooner(ring, returned.next())
    }

    fn has_returned(&self, order: u64) -> bool {
        self.returned.contains_key(&order)
    }

    /// Where it stands in the ring, as a hole or not, or where it would.
    fn find(&self, order: u64) -> Result<usize, usize> {
        // Who leaves is near the front: the search widens from there, and stays in one cache line or
        // two.
        let (mut from, mut upto) = (0, NEAR);
        while upto < self.ring.len() && self.ring[upto].order() < order {
            from = upto;
            upto *= 4;
        }
        let upto = self.ring.len().min(upto + 1);
        let (mut low, mut high) = (from, upto);
        while low < high {
            let middle = (low + high) / 2;
            match self.ring[middle].order().cmp(&order) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(middle),
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    fn close_up(&mut self) {
        while self.ring.front().is_some_and(|entry| entry.is_hole()) {
            self.ring.pop_front();
            self.holes -= 1;
        }
        while self.ring.back().is_some_and(|entry| entry.is_hole()) {
            self.ring.pop_back();
            self.holes -= 1;
        }
        let len = self.ring.len();
        if len > SHORT && self.holes as usize > len / 2 {
            self.ring.retain(|entry| !entry.is_hole());
            self.holes = 0;
        }
        if self.ring.capacity() > SHORT && self.ring.len() < self.ring.capacity() / 4 {
            self.ring.shrink_to(self.ring.capacity() / 2);
        }
    }
}

fn sooner(ring: Option<(u64, u32)>, returned: Option<(&u64, &u32)>) -> Option<(u64, u32)> {
    let returned = returned.map(|(order, fetch)| (*order, *fetch));
    match (ring, returned) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn is_a_sorted_map() {
        let mut rng = Rng::new(7);
        for near_the_end in [true, false] {
            let (mut line, mut model) = (Line::default(), BTreeMap::new());
            for step in 0..20_000u64 {
                let far = rng.below(if step % 5000 < 2500 { 400 } else { 40 });
                let order = if near_the_end { step + far } else { far };
                if rng.below(5) < 3 {
                    let fresh = !model.contains_key(&order);
                    assert_eq!(line.insert(order, order as u32), fresh);
                    model.entry(order).or_insert(order as u32);
                } else {
                    let first = model.first_key_value().map(|(order, _)| *order);
                    let order = first.filter(|_| near_the_end).unwrap_or(order);
                    assert_eq!(line.remove(order), model.remove(&order).is_some());
                }
                assert_eq!(line.contains(order), model.contains_key(&order));
                let pair = |(order, fetch): (&u64, &u32)| (*order, *fetch);
                assert_eq!(line.first(), model.first_key_value().map(pair));
                assert_eq!(line.after(order), model.range(order + 1..).next().map(pair));
                assert_eq!(line.is_empty(), model.is_empty());
                assert!(line.ring.capacity() <= 64.max(8 * line.ring.len()));
                assert!(line.holes as usize <= SHORT.max(line.ring.len() / 2));
            }
        }
    }
}
