//! [`Memo`]: who failed at what, and for how long that is held against them.
//!
//! A server that does not have an event is no worse for it, and yet the last one to be asked for that
//! event again. So failures are remembered for each pair of a subject (what was asked about) and a
//! server, with a back-off that doubles; and for a server as such, where an answer was used but part
//! of it was wrong, which the engine takes for a good one.
//!
//! Bounded: the pairs that were touched longest ago go first. A memory that is lost costs a request.

use crate::{Key, Op};
use ruma_common::{EventId, ServerName};
use std::{
    collections::{BTreeMap, HashMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// How failures are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoConfig {
    /// How long the first failure is held against a server \[1 min\]; doubles with each further one.
    pub pause: Duration,
    /// The longest that one is \[1 h\].
    pub pause_max: Duration,
    /// Pairs that are remembered \[65,536; some 10 MB\].
    pub pairs_max: usize,
}

impl Default for MemoConfig {
    fn default() -> Self {
        Self {
            pause: Duration::from_secs(60),
            pause_max: Duration::from_secs(3600),
            pairs_max: 65_536,
        }
    }
}

/// What a request is about. Whoever does not have an event has it for no purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum About<'a> {
    /// An event itself.
    Event(&'a EventId),
    /// Anything else.
    Key(&'a Key),
}

impl<'a> About<'a> {
    pub(crate) fn of(key: &'a Key) -> Self {
        match (key.op(), key.event_id()) {
            (Op::Event | Op::AuthEvent, Some(event)) => Self::Event(event),
            _ => Self::Key(key),
        }
    }
}

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject<'a> {
    /// This.
    Of(About<'a>),
    /// Anything.
    Any,
}

/// Who failed at what.
#[derive(Debug)]
pub(crate) struct Memo {
    config: MemoConfig,
    hasher: RandomState,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    pairs: HashMap<u64, Failed>,
    /// When each was touched, oldest first.
    order: BTreeMap<u64, u64>,
    touches: u64,
}

#[derive(Debug)]
struct Failed {
    times: u32,
    until: Instant,
    touched: u64,
}

impl Memo {
    pub(crate) fn new(config: MemoConfig) -> Self {
        Self {
            config,
            hasher: RandomState::new(),
            inner: Mutex::default(),
        }
    }

    /// The server failed at it.
    pub(crate) fn failed(&self, subject: Subject<'_>, server: &ServerName) {
        let pair = self.pair(subject, server);
        let now = Instant::now();
        let mut inner = self.lock();
        inner.touches += 1;
        let touched = inner.touches;
        let failed = inner.pairs.entry(pair).or_insert(Failed {
            times: 0,
            until: now,
            touched,
        });
        // Those that ask at the same moment have seen one failure.
        if failed.times == 0 || failed.until <= now {
            failed.times = failed.times.saturating_add(1);
        }
        let doublings = (failed.times - 1).min(20);
        let pause = self.config.pause.saturating_mul(1 << doublings);
        failed.until = now + pause.min(self.config.pause_max);
        let before = std::mem::replace(&mut failed.touched, touched);
        inner.order.remove(&before);
        inner.order.insert(touched, pair);
        while inner.pairs.len() > self.config.pairs_max.max(1) {
            let Some((_, oldest)) = inner.order.pop_first() else {
                break;
            };
            inner.pairs.remove(&oldest);
        }
    }

    /// The server brought it: what was held against it is forgotten.
    pub(crate) fn succeeded(&self, subject: Subject<'_>, server: &ServerName) {
        let pair = self.pair(subject, server);
        let mut inner = self.lock();
        if let Some(failed) = inner.pairs.remove(&pair) {
            inner.order.remove(&failed.touched);
        }
    }

    /// Whether a failure of this server at it is to be held against it now.
    pub(crate) fn holds(&self, subject: Subject<'_>, server: &ServerName) -> bool {
        let pair = self.pair(subject, server);
        let now = Instant::now();
        let inner = self.lock();
        inner.pairs.get(&pair).is_some_and(|f| f.until > now)
    }

    /// How many pairs are remembered.
    pub(crate) fn len(&self) -> usize {
        self.lock().pairs.len()
    }

    /// A keyed hash: nobody outside can make two pairs meet, and by chance they do not.
    fn pair(&self, subject: Subject<'_>, server: &ServerName) -> u64 {
        self.hasher.hash_one((subject, server))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics half-way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ruma_common::{OwnedEventId, server_name};

    fn memo(pairs_max: usize) -> Memo {
        Memo::new(MemoConfig {
            pairs_max,
            ..MemoConfig::default()
        })
    }

    fn event(n: u32) -> OwnedEventId {
        OwnedEventId::try_from(format!("${n}")).expect("an id")
    }

    async fn after(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_held_against_its_pair_for_a_while() {
        let memo = memo(10);
        let (a, b) = (server_name!("a"), server_name!("b"));
        let (one, two) = (event(1), event(2));
        let (event, other) = (
            Subject::Of(About::Event(&one)),
            Subject::Of(About::Event(&two)),
        );
        memo.failed(event, a);
        assert!(memo.holds(event, a));
        assert!(!memo.holds(event, b) && !memo.holds(other, a));
        assert!(!memo.holds(Subject::Any, a));
        after(59).await;
        assert!(memo.holds(event, a));
        memo.failed(event, a);
        after(59).await;
        assert!(memo.holds(event, a), "begun anew, not doubled: it stood");
        after(1).await;
        assert!(!memo.holds(event, a));
        memo.failed(event, a);
        after(119).await;
        assert!(memo.holds(event, a), "twice as long");
        memo.succeeded(event, a);
        assert!(!memo.holds(event, a));
        assert_eq!(memo.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_pause_has_a_ceiling() {
        let memo = memo(10);
        for _ in 0..100 {
            memo.failed(Subject::Of(About::Event(&event(1))), server_name!("a"));
            after(3599).await;
            after(1).await;
            assert!(!memo.holds(Subject::Of(About::Event(&event(1))), server_name!("a")));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_untouched_are_forgotten_first() {
        let memo = memo(3);
        let server = server_name!("a");
        for n in 0..3 {
            memo.failed(Subject::Of(About::Event(&event(n))), server);
        }
        memo.failed(Subject::Of(About::Event(&event(0))), server);
        for n in 3..1000 {
            memo.failed(Subject::Of(About::Event(&event(n))), server);
            memo.failed(Subject::Of(About::Event(&event(0))), server);
            assert_eq!(memo.len(), 3);
        }
        assert!(memo.holds(Subject::Of(About::Event(&event(0))), server));
        assert!(!memo.holds(Subject::Of(About::Event(&event(1))), server));
        assert_eq!(memo.lock().order.len(), 3);
    }
}
