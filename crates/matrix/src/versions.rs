//! The versions of rooms, as far as they were proved: they never change.

use ruma_common::{OwnedRoomId, RoomId, RoomVersionId};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Rooms that are remembered.
const ROOMS_MAX: usize = 4096;

/// The versions of rooms, as far as they were proved. The longest known are forgotten first.
#[derive(Debug, Default)]
pub(crate) struct Versions(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    versions: HashMap<OwnedRoomId, RoomVersionId>,
    order: VecDeque<OwnedRoomId>,
}

impl Versions {
    /// What is known of a room.
    pub(crate) fn of(&self, room: &RoomId) -> Option<RoomVersionId> {
        self.lock().versions.get(room).cloned()
    }

    /// It was proved. Whether that is news.
    pub(crate) fn learn(&self, room: &RoomId, version: &RoomVersionId) -> bool {
        let mut inner = self.lock();
        let before = (inner.versions).insert(room.to_owned(), version.clone());
        if before.is_some() {
            return false;
        }
        inner.order.push_back(room.to_owned());
        if inner.order.len() > ROOMS_MAX
            && let Some(oldest) = inner.order.pop_front()
        {
            inner.versions.remove(&oldest);
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_so_many_and_no_more() {
        let versions = Versions::default();
        let room = |n: usize| OwnedRoomId::try_from(format!("!{n}:a")).expect("an id");
        for n in 0..ROOMS_MAX + 10 {
            assert!(versions.learn(&room(n), &RoomVersionId::V6));
            assert!(!versions.learn(&room(n), &RoomVersionId::V6));
        }
        assert_eq!(versions.of(&room(9)), None);
        assert_eq!(versions.of(&room(10)), Some(RoomVersionId::V6));
        let inner = versions.lock();
        assert_eq!(
            (inner.versions.len(), inner.order.len()),
            (ROOMS_MAX, ROOMS_MAX)
        );
    }
}
