//! What the module's tasks, the transport's handler and the host's calls have in common.

use crate::{
    config::GannetFetchConfig, inbox::Inbox, machine::Time, metrics::FetchStats, serve::Serving,
    state::State,
};
use std::{
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};
use tokio::{sync::Notify, time::Instant};

/// See [`Shared::turn`].
type Turn<'a> = tokio::sync::MutexGuard<'a, ()>;

pub(crate) struct Shared {
    state: Mutex<State>,
    turns: tokio::sync::Mutex<()>,
    callers: tokio::sync::Mutex<()>,
    pub(crate) inbox: Inbox,
    pub(crate) serving: Serving,
    /// Something is to be done by the module's task.
    pub(crate) wake: Notify,
    /// Wants have left: there may be room for others.
    pub(crate) room: Notify,
    pub(crate) malformed: AtomicU64,
    owners: AtomicU32,
    closed: AtomicBool,
    began: Instant,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(config: GannetFetchConfig, seed: u64) -> Self {
        Self {
            inbox: Inbox::new(config.max_incoming_bytes as usize),
            serving: Serving::new(&config),
            state: Mutex::new(State::new(config, seed)),
            turns: tokio::sync::Mutex::new(()),
            callers: tokio::sync::Mutex::new(()),
            wake: Notify::new(),
            room: Notify::new(),
            malformed: AtomicU64::new(0),
            owners: AtomicU32::new(0),
            closed: AtomicBool::new(false),
            began: Instant::now(),
        }
    }

    /// Never held across an await.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be held around all that takes long with the state, so that those who want it too wait in
    /// turns, and not with a worker thread.
    pub(crate) async fn turn(&self) -> Turn<'_> {
        self.turns.lock().await
    }

    /// The turn of one of the host's calls: however many there are, only one at a time comes between
    /// two turns of the module's task.
    pub(crate) async fn turn_of_call(&self) -> [Turn<'_>; 2] {
        let first = self.callers.lock().await;
        [first, self.turn().await]
    }

    pub(crate) fn now(&self) -> Time {
        Time::ZERO.after(self.began.elapsed())
    }

    /// The moment at which it is so late.
    pub(crate) fn instant(&self, at: Time) -> Instant {
        self.began + at.since(Time::ZERO)
    }

    /// A number for the next call to `request_ops`: calls take turns.
    pub(crate) fn next_owner(&self) -> u32 {
        self.owners.fetch_add(1, Relaxed)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// The end: nothing is wanted any more, and whoever waits for that is told.
    pub(crate) fn close(&self) {
        self.closed.store(true, Relaxed);
        let now = self.now();
        let drained = {
            let mut state = self.state();
            state.close(now);
            state.take_drained()
        };
        for notify in drained {
            // Who does not wait any more need not be told.
            let _ = notify.send(());
        }
        self.room.notify_waiters();
    }

    pub(crate) fn stats(&self) -> FetchStats {
        let mut stats = self.state().stats();
        stats.held_bytes = self.inbox.held() as u64;
        stats.responses_dropped = self.inbox.dropped.load(Relaxed);
        stats.malformed = self.malformed.load(Relaxed);
        self.serving.add_to(&mut stats);
        stats
    }
}
