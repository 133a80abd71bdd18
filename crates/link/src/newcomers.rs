//! Connections that have not proved anything yet. They may be many only up to a bound; beyond it each
//! new one takes the place of the oldest. So strangers who open connections and say nothing crowd out
//! each other; a member needs a moment only, and keeps its place once it has proved what it is.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::oneshot;

#[derive(Debug)]
pub(crate) struct Newcomers {
    max: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// Whom to tell, oldest first.
    by_arrival: BTreeMap<u64, oneshot::Sender<()>>,
}

/// A place among them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Newcomer {
    newcomers: Arc<Newcomers>,
    id: u64,
}

impl Newcomers {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max: max.max(1),
            waiting: Mutex::default(),
        })
    }

    /// Takes a place; the receiver is told when it is lost to a newer one, and sees its sender dropped
    /// otherwise.
    pub(crate) fn enter(self: &Arc<Self>) -> (Newcomer, oneshot::Receiver<()>) {
        let (tell, told) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let id = waiting.next;
        waiting.next += 1;
        waiting.by_arrival.insert(id, tell);
        if waiting.by_arrival.len() > self.max
            && let Some((_, oldest)) = waiting.by_arrival.pop_first()
        {
            // Whoever does not listen any more is going anyway.
            let _ = oldest.send(());
        }
        drop(waiting);
        let newcomer = Newcomer {
            newcomers: self.clone(),
            id,
        };
        (newcomer, told)
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        let mut waiting = self
            .newcomers
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        waiting.by_arrival.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot::error::TryRecvError;

    #[test]
    fn the_oldest_goes_for_the_newest_and_who_has_proved_stays() {
        let newcomers = Newcomers::new(2);
        let (first, mut first_told) = newcomers.enter();
        let (_second, mut second_told) = newcomers.enter();
        drop(first);
        let (_third, mut third_told) = newcomers.enter();
        assert_eq!(first_told.try_recv(), Err(TryRecvError::Closed));
        assert_eq!(second_told.try_recv(), Err(TryRecvError::Empty));
        let (_fourth, _fourth_told) = newcomers.enter();
        assert_eq!(second_told.try_recv(), Ok(()));
        assert_eq!(third_told.try_recv(), Err(TryRecvError::Empty));
    }
}
