//! When to look: at once, then again and again, each look in bounded time.

use crate::{MembersError, found};
use gannet_cluster::Member;
use std::{
    collections::hash_map::RandomState,
    future::Future,
    hash::{BuildHasher, Hasher},
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

const EVERY_MIN: Duration = Duration::from_millis(100);
/// More than anybody means, and little enough to reckon with.
const EVERY_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The cadence of looks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Looks {
    every: Duration,
}

impl Looks {
    pub(crate) fn new(every: Duration) -> Result<Self, MembersError> {
        if every < EVERY_MIN {
            return Err(MembersError::TooOften(every));
        }
        Ok(Self {
            every: every.min(EVERY_MAX),
        })
    }

    /// What a look may take: so much less than the time between two that they never meet.
    pub(crate) fn time_max(self) -> Duration {
        self.every * 4 / 5
    }

    /// Looks for ever. A look that takes too long, finds nobody or panics has failed.
    pub(crate) async fn run<F>(
        self,
        look: impl Fn() -> F + Send,
        mut tell: impl FnMut(Option<Vec<Member>>) + Send,
    ) where
        F: Future<Output = Result<Vec<Member>, String>> + Send + 'static,
    {
        let mut failed = false;
        loop {
            let begun = Instant::now();
            // A task of its own, so that a panic over what a name server says is one look's.
            let mut task = JoinSet::new();
            task.spawn(look());
            let found = match timeout(self.time_max(), task.join_next()).await {
                Ok(Some(Ok(Ok(found)))) if found.is_empty() => Err("it names nobody".into()),
                Ok(Some(Ok(found))) => found,
                Ok(_) => Err("the look panicked".into()),
                Err(_) => Err("no answer in time".into()),
            };
            drop(task);
            // Every look that fails is told; one line says so until one succeeds.
            match &found {
                Err(error) if failed => tracing::debug!(%error, "members still not found"),
                Err(error) => tracing::warn!(%error, "members not found"),
                Ok(found) if failed => tracing::info!(count = found.len(), "members found again"),
                Ok(_) => {}
            }
            failed = found.is_err();
            tell(found.ok().map(found::in_order));
            sleep_until(begun + self.every - jitter(self.every / 10)).await;
        }
    }
}

/// Something below `max`, so that members that were started at once do not ask at once for ever.
pub(crate) fn jitter(max: Duration) -> Duration {
    // Seeded by the system, differently each time: there is no better need of randomness here.
    let random = RandomState::new().build_hasher().finish();
    max.mul_f64((random >> 11) as f64 / (1_u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };
    use tokio::sync::mpsc;

    const EVERY: Duration = Duration::from_secs(5);

    /// Runs looks, each given its number.
    fn run<F>(
        look: impl Fn(usize) -> F + Send + Sync + 'static,
    ) -> mpsc::UnboundedReceiver<(Instant, Option<Vec<Member>>)>
    where
        F: Future<Output = Result<Vec<Member>, String>> + Send + 'static,
    {
        let (told, seen) = mpsc::unbounded_channel();
        let count = Arc::new(AtomicUsize::new(0));
        tokio::spawn(Looks::new(EVERY).unwrap().run(
            move || look(count.fetch_add(1, Ordering::Relaxed)),
            move |found| {
                let _ = told.send((Instant::now(), found));
            },
        ));
        seen
    }

    #[tokio::test(start_paused = true)]
    async fn looks_at_once_and_then_every_so_often() {
        let mut seen = run(|_| async { Ok(vec![Member::new("b:1"), Member::new("a:1")]) });
        let mut before = None;
        for _ in 0..100 {
            let (at, found) = seen.recv().await.unwrap();
            assert_eq!(found, Some(vec![Member::new("a:1"), Member::new("b:1")]));
            if let Some(before) = before {
                let after = at - before;
                assert!(
                    after > EVERY * 9 / 10 && after <= EVERY + Duration::from_millis(1),
                    "{after:?}"
                );
            }
            before = Some(at);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_never_ends_has_failed_before_the_next() {
        let begun = Instant::now();
        let mut seen = run(|n| async move {
            match n {
                1 => Ok(vec![Member::new("a:1")]),
                _ => std::future::pending().await,
            }
        });
        let (at, found) = seen.recv().await.unwrap();
        assert_eq!((at - begun, found), (EVERY * 4 / 5, None));
        let (at, found) = seen.recv().await.unwrap();
        assert!(found.is_some() && at - begun <= EVERY + Duration::from_millis(1));
        let (next, found) = seen.recv().await.unwrap();
        assert_eq!(found, None);
        assert!(next - at > EVERY * 9 / 10 + EVERY * 4 / 5 - Duration::from_millis(2));
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_else_happens_has_failed_too() {
        let mut seen = run(|n| async move {
            match n {
                0 => Err("refused".into()),
                1 => Ok(Vec::new()),
                2 => panic!("as a parser may"),
                _ => Ok(vec![Member::new("a:1")]),
            }
        });
        for n in 0..4 {
            let (_, found) = seen.recv().await.unwrap();
            assert_eq!(found.is_some(), n == 3, "{n}");
        }
    }

    #[test]
    fn not_too_often() {
        assert!(Looks::new(Duration::from_millis(99)).is_err());
        assert!(Looks::new(EVERY_MIN).is_ok());
        let longest = Looks::new(Duration::MAX).unwrap();
        assert!(longest.time_max() < EVERY_MAX);
    }
}
