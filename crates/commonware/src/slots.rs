//! A table by ids whose places are used again.
//!
//! The engine numbers what it has in flight densely, and we the peers, so a table is an array: no
//! hashing, no order to keep, and walks go by place, the same on every run. In pages, so that growth
//! copies nothing.

use crate::machine::{AttemptId, FetchId, SourceId};

const PAGE: usize = 128;

/// An id that says its place in a table.
pub(crate) trait Slotted: Copy + Eq {
    fn slot(self) -> usize;
}

impl Slotted for FetchId {
    fn slot(self) -> usize {
        self.slot()
    }
}

impl Slotted for AttemptId {
    fn slot(self) -> usize {
        self.slot()
    }
}

impl Slotted for SourceId {
    fn slot(self) -> usize {
        self.0 as u32 as usize
    }
}

/// At most one value for each id.
#[derive(Debug)]
pub(crate) struct Slots<I, T> {
    pages: Vec<Vec<Option<(I, T)>>>,
    len: usize,
}

impl<I: Slotted, T> Slots<I, T> {
    pub(crate) const fn new() -> Self {
        Self {
            pages: Vec::new(),
            len: 0,
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    fn place(&mut self, id: I) -> Option<&mut Option<(I, T)>> {
        let slot = id.slot();
        self.pages.get_mut(slot / PAGE)?.get_mut(slot % PAGE)
    }

    pub(crate) fn get(&self, id: I) -> Option<&T> {
        let slot = id.slot();
        match self.pages.get(slot / PAGE)?.get(slot % PAGE)? {
            Some((held, value)) if *held == id => Some(value),
            _ => None,
        }
    }

    pub(crate) fn get_mut(&mut self, id: I) -> Option<&mut T> {
        match self.place(id)? {
            Some((held, value)) if *held == id => Some(value),
            _ => None,
        }
    }

    /// Returns what was in its place: that was of an id which has ended, though we may not have been
    /// told of it yet.
    pub(crate) fn insert(&mut self, id: I, value: T) -> Option<T> {
        let slot = id.slot();
        while self.pages.len() <= slot / PAGE {
            self.pages.push(Vec::new());
        }
        let page = &mut self.pages[slot / PAGE];
        if page.len() <= slot % PAGE {
            // A small table stays small: only further pages are allocated whole.
            if slot >= PAGE {
                page.reserve_exact(PAGE - page.len());
            }
            page.resize_with(slot % PAGE + 1, || None);
        }
        let old = page[slot % PAGE].replace((id, value));
        self.len += usize::from(old.is_none());
        old.map(|(_, value)| value)
    }

    pub(crate) fn remove(&mut self, id: I) -> Option<T> {
        let place = self.place(id)?;
        place.as_ref().filter(|(held, _)| *held == id)?;
        let (_, value) = place.take()?;
        self.len -= 1;
        Some(value)
    }

    /// By place.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (I, &mut T)> {
        let places = self.pages.iter_mut().flatten();
        places.filter_map(|place| place.as_mut().map(|(id, value)| (*id, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_used_again() {
        let id = |life: u64, slot: u64| FetchId(life << 32 | slot);
        let mut slots = Slots::new();
        for slot in [0, 1, 5, 3000] {
            assert_eq!(slots.insert(id(1, slot), slot), None);
        }
        assert_eq!(slots.len(), 4);
        let all: Vec<u64> = slots.iter_mut().map(|(_, value)| *value).collect();
        assert_eq!(all, [0, 1, 5, 3000]);
        assert_eq!((slots.get(id(2, 5)), slots.get(id(1, 4))), (None, None));
        assert_eq!(slots.remove(id(2, 5)), None, "another's");
        assert_eq!(slots.insert(id(2, 5), 6), Some(5), "it had ended");
        assert_eq!((slots.get(id(1, 5)), slots.get(id(2, 5))), (None, Some(&6)));
        assert_eq!(slots.remove(id(2, 5)), Some(6));
        assert_eq!(slots.get_mut(id(1, 3000)), Some(&mut 3000));
        assert_eq!(slots.get(id(1, u64::from(u32::MAX))), None, "far out");
        assert_eq!(slots.len(), 3);
    }
}
