//! Read-ahead: who reads in order, and how far ahead of them to fetch.
//!
//! Two kinds of reader get chunks before they ask. A request for several chunks has asked for all of
//! them already: the next few are fetched while the first is sent. A client that asks for one range
//! after another shows that it reads in order by a request that begins where its last one ended, or,
//! where its ranges are small and most of them hits that leave no trace, by one that steps over from
//! a chunk that is held into the next; then the chunks behind its range are fetched too.
//!
//! All of it yields to demand: read-ahead has the lowest priority, takes at most half of what the
//! origin bears at once, and a permit that is not free at once is not waited for.

use crate::ttl::TtlMap;
use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Readers remembered.
const READERS_MAX: usize = 16 << 10;
/// A reader that has been silent for so long is forgotten.
const READER_TTL: Duration = Duration::from_secs(30);
/// Requests in order after which a reader counts as sequential.
const STREAK_MIN: u64 = 1;

/// One reader: the caller's number and the version that it reads.
type Reader = (u32, u64);

/// Finds out who reads in order.
#[derive(Debug)]
pub(crate) struct Sequence {
    readers: TtlMap<Reader, Arc<Seen>>,
}

/// What the last request of a reader left behind. Two requests at once by the same reader may
/// interleave here; the worst that follows is a chunk read ahead for nothing.
#[derive(Debug)]
struct Seen {
    next: AtomicU64,
    streak: AtomicU64,
}

impl Sequence {
    pub(crate) fn new() -> Self {
        Self {
            readers: TtlMap::new(READERS_MAX, usize::MAX),
        }
    }

    /// Notes that a caller reads this range of a version (`identity` tells it from others), and says
    /// whether it has been reading in order.
    ///
    /// Ranges may overlap the last one or leave a gap of up to an eighth of their own length: readers
    /// of columnar files skip footers and padding.
    pub(crate) fn observe(&self, owner: u32, identity: u64, range: &Range<u64>) -> bool {
        let reader = (owner, identity);
        let Some(seen) = self.readers.get(&reader) else {
            let seen = Seen {
                next: range.end.into(),
                streak: 0.into(),
            };
            self.readers.insert(reader, Arc::new(seen), 1, READER_TTL);
            return false;
        };
        let next = seen.value.next.swap(range.end, Ordering::Relaxed);
        let gap_max = (range.end - range.start) / 8;
        let in_order = range.end > next && range.start <= next.saturating_add(gap_max);
        let streak = if in_order {
            seen.value.streak.fetch_add(1, Ordering::Relaxed) + 1
        } else {
            seen.value.streak.store(0, Ordering::Relaxed);
            0
        };
        if seen.ageing {
            self.readers.insert(reader, seen.value, 1, READER_TTL);
        }
        streak >= STREAK_MIN
    }
}

/// Whether a small range is where a reader in order steps over from one chunk into the next: among the
/// first bytes of a chunk that is not the object's first. One who hops about is rarely just there.
pub(crate) fn steps_over(range: &Range<u64>, chunk_size: u64) -> bool {
    let len = range.end - range.start;
    range.start >= chunk_size && len <= chunk_size / 2 && range.start % chunk_size < len
}

/// Which chunks to fetch ahead, when a reader stands in chunk `at`: up to `ahead` further ones, not
/// beyond the chunk before `end`.
pub(crate) fn window(at: u64, ahead: u32, end: u64) -> Range<u64> {
    let start = at.saturating_add(1).min(end);
    start..start.saturating_add(u64::from(ahead)).min(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tells_order_from_hopping() {
        let sequence = Sequence::new();
        let check = |owner, range: Range<u64>, in_order| {
            assert_eq!(
                sequence.observe(owner, 7, &range),
                in_order,
                "{owner} {range:?}"
            );
        };
        check(1, 0..100, false);
        check(1, 100..200, true);
        check(1, 210..300, true); // a small gap
        check(1, 290..400, true); // an overlap
        check(1, 50..60, false); // back
        check(1, 5000..5100, false); // a hop
        check(1, 5100..5200, true);
        check(2, 5200..5300, false); // somebody else
        tokio::time::advance(READER_TTL).await;
        check(1, 5200..5300, false); // forgotten
    }

    #[test]
    fn stepping_over_is_by_small_steps_at_a_border() {
        let check = |range: Range<u64>, expected| {
            assert_eq!(steps_over(&range, 100), expected, "{range:?}");
        };
        check(0..10, false); // the object's first bytes
        check(100..110, true);
        check(209..219, true);
        check(210..220, false); // past them
        check(300..350, true);
        check(300..351, false); // no small step
    }

    #[test]
    fn the_window_ends_with_the_object() {
        assert_eq!(window(0, 4, 10), 1..5);
        assert_eq!(window(8, 4, 10), 9..10);
        assert_eq!(window(9, 4, 10), 10..10);
        assert_eq!(window(0, 0, 10), 1..1);
        assert_eq!(window(u64::MAX, u32::MAX, u64::MAX), u64::MAX..u64::MAX);
    }
}
