//! Turns: who is next, by number, round and round; and queues in which owners take turns.

use crate::line::Line;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound::{Excluded, Unbounded},
};

/// A set whose members take turns.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turns {
    members: BTreeSet<u32>,
    last: Option<u32>,
}

impl Turns {
    pub(crate) fn set(&mut self, member: u32, present: bool) {
        if present {
            self.members.insert(member);
        } else {
            self.members.remove(&member);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(crate) fn contains(&self, member: u32) -> bool {
        self.members.contains(&member)
    }

    /// The member after the one that had the last turn.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let next = match self.last {
            Some(last) => self.members.range(last.saturating_add(1)..).next(),
            None => None,
        };
        let next = *next.or_else(|| self.members.first())?;
        self.last = Some(next);
        Some(next)
    }
}

/// Where a fetch stands in a queue: its class, whose turn it shares, and its place by arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// The priority; in strict mode, 256 more for retries.
    pub(crate) class: u16,
    pub(crate) owner: u32,
    pub(crate) order: u64,
}

/// Fetches that wait for the same thing: within a class owners take turns, and arrival decides
/// within an owner. Every step is O(log n).
#[derive(Clone, Debug, Default)]
pub(crate) struct Queue {
    classes: Vec<Class>,
    len: u32,
}

#[derive(Clone, Debug)]
struct Class {
    class: u16,
    last_owner: u32,
    owners: Owners,
}

/// Who waits within a class, by owner. Where nobody has more owners than one, there are no trees: a
/// fetch that starts at once stands in a queue for a moment only.
#[derive(Clone, Debug)]
enum Owners {
    One(u32, Arrivals),
    Many(BTreeMap<u32, Arrivals>),
}

impl Owners {
    fn get(&self, owner: u32) -> Option<&Arrivals> {
        match self {
            Self::One(one, arrivals) => (*one == owner).then_some(arrivals),
            Self::Many(owners) => owners.get(&owner),
        }
    }

    fn get_mut(&mut self, owner: u32) -> Option<&mut Arrivals> {
        match self {
            Self::One(one, arrivals) => (*one == owner).then_some(arrivals),
            Self::Many(owners) => owners.get_mut(&owner),
        }
    }

    /// One that is not there yet.
    fn add(&mut self, owner: u32, order: u64, fetch: u32) {
        if let Self::One(..) = self
            && let Self::One(one, arrivals) = std::mem::replace(self, Self::Many(BTreeMap::new()))
            && let Self::Many(owners) = self
        {
            owners.insert(one, arrivals);
        }
        if let Self::Many(owners) = self {
            owners.insert(owner, Arrivals::One(order, fetch));
        }
    }

    /// Takes out one that is there. Whether none is left.
    fn remove(&mut self, owner: u32) -> bool {
        match self {
            Self::One(..) => true,
            Self::Many(owners) => {
                owners.remove(&owner);
                owners.is_empty()
            }
        }
    }

    fn first(&self) -> Option<(u32, &Arrivals)> {
        match self {
            Self::One(one, arrivals) => Some((*one, arrivals)),
            Self::Many(owners) => {
                let (owner, arrivals) = owners.first_key_value()?;
                Some((*owner, arrivals))
            }
        }
    }

    /// The next owner after this one.
    fn after(&self, owner: u32) -> Option<(u32, &Arrivals)> {
        match self {
            Self::One(one, arrivals) => (*one > owner).then_some((*one, arrivals)),
            Self::Many(owners) => {
                let mut rest = owners.range((Excluded(owner), Unbounded));
                let (owner, arrivals) = rest.next()?;
                Some((*owner, arrivals))
            }
        }
    }
}

/// The fetches of one owner by arrival. Many owners have but one.
#[derive(Clone, Debug)]
enum Arrivals {
    One(u64, u32),
    Many(Box<Line>),
}

impl Arrivals {
    fn insert(&mut self, order: u64, fetch: u32) -> bool {
        match self {
            Self::One(old, _) if *old == order => false,
            Self::One(old, other) => {
                let mut line = Box::<Line>::default();
                line.insert(*old, *other);
                line.insert(order, fetch);
                *self = Self::Many(line);
                true
            }
            Self::Many(line) => line.insert(order, fetch),
        }
    }

    /// Whether it was there, and whether none is left.
    fn remove(&mut self, order: u64) -> (bool, bool) {
        match self {
            Self::One(old, _) => (*old == order, *old == order),
            Self::Many(line) => (line.remove(order), line.is_empty()),
        }
    }

    fn first(&self) -> Option<(u64, u32)> {
        match self {
            Self::One(order, fetch) => Some((*order, *fetch)),
            Self::Many(line) => line.first(),
        }
    }

    fn after(&self, order: u64) -> Option<(u64, u32)> {
        match self {
            Self::One(at, fetch) => (*at > order).then_some((*at, *fetch)),
            Self::Many(line) => line.after(order),
        }
    }
}

impl Queue {
    pub(crate) const fn len(&self) -> u32 {
        self.len
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The classes that have somebody waiting, in order.
    pub(crate) fn classes(&self) -> impl Iterator<Item = u16> {
        self.classes.iter().map(|class| class.class)
    }

    pub(crate) fn has(&self, class: u16) -> bool {
        self.classes.iter().any(|c| c.class == class)
    }

    /// Whether the class was empty before.
    pub(crate) fn insert(&mut self, place: Place, fetch: u32) -> bool {
        let at = self.classes.partition_point(|c| c.class < place.class);
        let fresh = self.classes.get(at).is_none_or(|c| c.class != place.class);
        let added = if fresh {
            let class = Class {
                class: place.class,
                last_owner: u32::MAX,
                owners: Owners::One(place.owner, Arrivals::One(place.order, fetch)),
            };
            self.classes.insert(at, class);
            true
        } else {
            let owners = &mut self.classes[at].owners;
            match owners.get_mut(place.owner) {
                Some(arrivals) => arrivals.insert(place.order, fetch),
                None => {
                    owners.add(place.owner, place.order, fetch);
                    true
                }
            }
        };
        self.len += u32::from(added);
        fresh
    }

    /// Whether the class is empty now, and was not before.
    pub(crate) fn remove(&mut self, place: Place) -> bool {
        let Some(at) = self.classes.iter().position(|c| c.class == place.class) else {
            return false;
        };
        let owners = &mut self.classes[at].owners;
        let Some(arrivals) = owners.get_mut(place.owner) else {
            return false;
        };
        let (removed, none_left) = arrivals.remove(place.order);
        self.len -= u32::from(removed);
        if !none_left {
            return false;
        }
        let empty = owners.remove(place.owner);
        if empty {
            self.classes.remove(at);
        }
        empty
    }

    /// The fetch whose turn it is in this class. It stays in the queue; its owner has had its turn.
    pub(crate) fn take_turn(&mut self, class: u16) -> Option<u32> {
        let turn = self.classes.iter_mut().find(|c| c.class == class)?;
        let next = turn.owners.after(turn.last_owner);
        let (owner, arrivals) = next.or_else(|| turn.owners.first())?;
        turn.last_owner = owner;
        arrivals.first().map(|(_, fetch)| fetch)
    }

    /// The first entry after a place, for a walk in pieces.
    pub(crate) fn after(&self, place: Option<Place>) -> Option<(Place, u32)> {
        for c in &self.classes {
            let (class, from) = (c.class, place.filter(|place| place.class == c.class));
            if place.is_some_and(|place| c.class < place.class) {
                continue;
            }
            let entry = |owner: u32, (order, fetch)| {
                (
                    Place {
                        class,
                        owner,
                        order,
                    },
                    fetch,
                )
            };
            let Some(from) = from else {
                let (owner, arrivals) = c.owners.first()?;
                return arrivals.first().map(|first| entry(owner, first));
            };
            if let Some(next) = c.owners.get(from.owner).and_then(|a| a.after(from.order)) {
                return Some(entry(from.owner, next));
            }
            if let Some((owner, arrivals)) = c.owners.after(from.owner) {
                return arrivals.first().map(|first| entry(owner, first));
            }
        }
        None
    }

    pub(crate) fn contains(&self, place: Place) -> bool {
        self.classes
            .iter()
            .filter(|c| c.class == place.class)
            .any(|c| match c.owners.get(place.owner) {
                Some(Arrivals::One(order, _)) => *order == place.order,
                Some(Arrivals::Many(line)) => line.contains(place.order),
                None => false,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_a_turn() {
        let mut turns = Turns::default();
        assert_eq!(turns.take(), None);
        for member in [3, 1, 7] {
            turns.set(member, true);
        }
        let taken: Vec<_> = (0..6).filter_map(|_| turns.take()).collect();
        assert_eq!(taken, [1, 3, 7, 1, 3, 7]);
        turns.set(1, false);
        assert_eq!(turns.take(), Some(3));
    }

    #[test]
    fn owners_take_turns_and_arrival_decides_within_one() {
        let mut queue = Queue::default();
        let mut add = |class, owner, order| {
            queue.insert(
                Place {
                    class,
                    owner,
                    order,
                },
                order as u32,
            );
        };
        for order in 0..4 {
            add(5, 1, order);
        }
        add(5, 2, 10);
        add(5, 9, 11);
        add(6, 1, 12);
        let mut taken = Vec::new();
        while let Some(fetch) = queue.take_turn(5) {
            let owner = match fetch {
                10 => 2,
                11 => 9,
                _ => 1,
            };
            queue.remove(Place {
                class: 5,
                owner,
                order: u64::from(fetch),
            });
            taken.push(fetch);
        }
        assert_eq!(taken, [0, 10, 11, 1, 2, 3]);
        assert!(queue.has(6) && !queue.has(5) && queue.len() == 1);
        let (place, fetch) = queue.after(None).expect("one is left");
        assert_eq!((place.class, fetch), (6, 12));
        assert_eq!(queue.after(Some(place)), None);
    }
}
