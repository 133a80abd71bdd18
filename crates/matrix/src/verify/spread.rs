//! Work on many things over several threads, with the results in order.

use std::{panic, sync::Mutex, thread};

/// A thread is started for no fewer things than these.
const EACH_MIN: usize = 16;
/// A thread takes this part of its share of what is left, so that it comes rarely while there is much, and
/// all end at about the same time (guided self-scheduling; Polychronopoulos and Kuck, 1987).
const SHARE_PART: usize = 4;

/// Applies `work` to each of `items`, on `threads` threads (this one among them), and returns what
/// came out in the order of the items.
///
/// Threads are started for the call and are gone when it returns; few items are worked off on this
/// one. Whichever thread is free takes the next items, the fewer the fewer are left, so one that is slow
/// holds up nothing else. A panic of `work` is passed on.
pub fn spread<T, R>(items: Vec<T>, threads: usize, work: impl Fn(T) -> R + Sync) -> Vec<R>
where
    T: Send,
    R: Send,
{
    let len = items.len();
    let threads = threads.min(len.div_ceil(EACH_MIN));
    if threads <= 1 {
        return items.into_iter().map(work).collect();
    }
    let queue = Mutex::new((0, items.into_iter()));
    let run = || {
        let mut done: Vec<(usize, Vec<R>)> = Vec::new();
        loop {
            let (first, taken): (usize, Vec<T>) = {
                let mut queue = queue.lock().expect("nobody panics while holding it");
                let first = queue.0;
                let take = queue.1.len() / (SHARE_PART * threads);
                let taken: Vec<T> = queue.1.by_ref().take(take.max(1)).collect();
                queue.0 += taken.len();
                (first, taken)
            };
            if taken.is_empty() {
                return done;
            }
            done.push((first, taken.into_iter().map(&work).collect()));
        }
    };
    let mut parts = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
        let mut parts = run();
        for other in others {
            match other.join() {
                Ok(part) => parts.extend(part),
                Err(panic) => panic::resume_unwind(panic),
            }
        }
        parts
    });
    parts.sort_unstable_by_key(|(first, _)| *first);
    let mut results = Vec::with_capacity(len);
    results.extend(parts.into_iter().flat_map(|(_, part)| part));
    results
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_order() {
        for len in [0, 1, 15, 16, 17, 1000] {
            for threads in [0, 1, 2, 7] {
                let items: Vec<usize> = (0..len).collect();
                let want: Vec<usize> = (0..len).map(|n| n * 2).collect();
                assert_eq!(spread(items, threads, |n| n * 2), want, "{len} {threads}");
            }
        }
    }

    #[test]
    fn a_panic_is_passed_on() {
        let run = || spread((0..100).collect(), 3, |n: usize| assert_ne!(n, 99));
        assert!(panic::catch_unwind(run).is_err());
    }
}
