//! A slab whose ids are never reused: slot in the low half, generation in the high half.
//!
//! Pages of a fixed size, so that growth copies nothing and a million entries cost no spike. The
//! free list is last-in first-out, which keeps ids a function of the sequence of calls alone.

use std::fmt;

const PAGE: usize = 128;

#[derive(Clone)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

pub(crate) struct Slab<T> {
    pages: Vec<Vec<Slot<T>>>,
    free: Vec<u32>,
    len: u32,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self {
            pages: Vec::new(),
            free: Vec::new(),
            len: 0,
        }
    }

    pub(crate) const fn len(&self) -> u32 {
        self.len
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Inserts and returns the slot. Slots are never more than the most that were in use at once.
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        self.len += 1;
        if let Some(index) = self.free.pop() {
            let slot = self.slot_mut(index).expect("a free slot exists");
            slot.value = Some(value);
            return index;
        }
        if self.pages.last().is_none_or(|page| page.len() == PAGE) {
            // A small engine stays small: only further pages are allocated whole.
            let capacity = if self.pages.is_empty() { 0 } else { PAGE };
            self.pages.push(Vec::with_capacity(capacity));
        }
        let page = self.pages.len() - 1;
        let slots = &mut self.pages[page];
        slots.push(Slot {
            generation: 1,
            value: Some(value),
        });
        (page * PAGE + slots.len() - 1) as u32
    }

    pub(crate) fn remove(&mut self, index: u32) -> Option<T> {
        let slot = self.slot_mut(index)?;
        let value = slot.value.take()?;
        // After 2^32 lives the slot is retired, so that its ids stay unique for ever.
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            self.free.push(index);
        }
        self.len -= 1;
        Some(value)
    }

    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        let index = index as usize;
        self.pages
            .get(index / PAGE)?
            .get(index % PAGE)?
            .value
            .as_ref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.slot_mut(index)?.value.as_mut()
    }

    /// The id of the value in this slot.
    #[inline]
    pub(crate) fn id(&self, index: u32) -> u64 {
        let i = index as usize;
        let generation = self
            .pages
            .get(i / PAGE)
            .and_then(|page| page.get(i % PAGE))
            .map_or(0, |s| s.generation);
        u64::from(generation) << 32 | u64::from(index)
    }

    /// The slot of an id, if that very value still lives.
    pub(crate) fn find(&self, id: u64) -> Option<u32> {
        let index = id as u32;
        (self.get(index).is_some() && self.id(index) == id).then_some(index)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.pages.iter().enumerate().flat_map(|(page, slots)| {
            slots
                .iter()
                .enumerate()
                .filter_map(move |(i, slot)| Some(((page * PAGE + i) as u32, slot.value.as_ref()?)))
        })
    }

    /// One past the highest slot ever used.
    pub(crate) fn bound(&self) -> u32 {
        self.pages.last().map_or(0, |last| {
            ((self.pages.len() - 1) * PAGE + last.len()) as u32
        })
    }

    #[inline]
    fn slot_mut(&mut self, index: u32) -> Option<&mut Slot<T>> {
        let index = index as usize;
        self.pages.get_mut(index / PAGE)?.get_mut(index % PAGE)
    }
}

impl<T> std::ops::Index<u32> for Slab<T> {
    type Output = T;
    #[inline]
    fn index(&self, index: u32) -> &T {
        self.get(index).expect("slot in use")
    }
}

impl<T> std::ops::IndexMut<u32> for Slab<T> {
    #[inline]
    fn index_mut(&mut self, index: u32) -> &mut T {
        self.get_mut(index).expect("slot in use")
    }
}

impl<T> fmt::Debug for Slab<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slab({})", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_never_reused() {
        let mut slab = Slab::new();
        let a = slab.insert('a');
        let id = slab.id(a);
        assert_eq!(slab.find(id), Some(a));
        assert_eq!(slab.remove(a), Some('a'));
        assert_eq!(slab.find(id), None);
        let b = slab.insert('b');
        assert_eq!(a, b, "slots are");
        assert_ne!(slab.id(b), id);
        assert_eq!(slab.find(id), None);
        assert_eq!(slab.remove(b), Some('b'));
        assert_eq!(slab.remove(b), None);
        assert!(slab.is_empty());
    }

    #[test]
    fn iterates_in_slot_order_over_pages() {
        let mut slab = Slab::new();
        for i in 0..3000u32 {
            assert_eq!(slab.insert(i), i);
        }
        slab.remove(1500);
        assert_eq!(slab.len(), 2999);
        assert!(
            slab.iter()
                .map(|(i, v)| {
                    assert_eq!(i, *v);
                    i
                })
                .is_sorted()
        );
        assert_eq!(slab.bound(), 3000);
    }
}
