//! What is held for one key: who waits, what was brought, and who may be asked.

use crate::machine::{AttemptId, SourceId, Time, WaiterId};
use commonware_utils::channel::oneshot;
use std::collections::BTreeMap;
use tracing::Span;

/// One fetch, beside what the engine knows of it. Small, for there may be very many.
#[derive(Debug)]
pub(crate) struct Held<S> {
    pub(crate) subscribers: Subscribers<S>,
    pub(crate) since: Time,
    /// What only some fetches have: targets, or an answer.
    more: Option<Box<More>>,
}

#[derive(Debug, Default)]
pub(crate) struct More {
    /// The targets; any peer, where there is no list.
    pub(crate) targets: Option<Vec<SourceId>>,
    /// The attempts that brought an answer which is still held.
    pub(crate) brought: Vec<AttemptId>,
    /// Dropped, it cancels the delivery under way.
    pub(crate) delivery: Option<oneshot::Sender<()>>,
}

impl<S> Held<S> {
    pub(crate) const fn new(since: Time) -> Self {
        Self {
            subscribers: Subscribers::None,
            since,
            more: None,
        }
    }

    pub(crate) fn targets(&self) -> Option<&[SourceId]> {
        self.more.as_ref()?.targets.as_deref()
    }

    /// To be changed; made if need be.
    pub(crate) fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }

    /// What there was, to be let go.
    pub(crate) fn take_more(&mut self) -> More {
        self.more.take().map(|more| *more).unwrap_or_default()
    }
}

/// How a subscriber is known to the engine, and the span of the fetch that brought it.
#[derive(Debug)]
pub(crate) struct Tag {
    pub(crate) waiter: WaiterId,
    pub(crate) span: Span,
}

/// The subscribers of a key, each once: nearly always one.
#[derive(Debug)]
pub(crate) enum Subscribers<S> {
    None,
    One(S, Tag),
    Many {
        all: BTreeMap<S, Tag>,
        /// Of these, finished already. Taken out together, when they are next looked at: one by
        /// one, each would cost a walk over all.
        finished: Vec<WaiterId>,
    },
}

impl<S: Clone + Ord> Subscribers<S> {
    /// Takes out those that are finished.
    fn tidy(&mut self) {
        let Self::Many { all, finished } = self else {
            return;
        };
        if finished.is_empty() {
            return;
        }
        finished.sort_unstable();
        all.retain(|_, tag| finished.binary_search(&tag.waiter).is_err());
        finished.clear();
        if all.is_empty() {
            *self = Self::None;
        }
    }

    pub(crate) fn contains(&mut self, subscriber: &S) -> bool {
        self.tidy();
        match self {
            Self::None => false,
            Self::One(one, _) => one == subscriber,
            Self::Many { all, .. } => all.contains_key(subscriber),
        }
    }

    /// Adds a subscriber that is not there.
    pub(crate) fn insert(&mut self, subscriber: S, tag: Tag) {
        self.tidy();
        match std::mem::replace(self, Self::None) {
            Self::None => *self = Self::One(subscriber, tag),
            Self::One(one, its) => {
                let all = BTreeMap::from([(one, its), (subscriber, tag)]);
                let finished = Vec::new();
                *self = Self::Many { all, finished };
            }
            Self::Many { mut all, finished } => {
                all.insert(subscriber, tag);
                *self = Self::Many { all, finished };
            }
        }
    }

    /// The engine is done with this waiter.
    pub(crate) fn finish(&mut self, waiter: WaiterId) {
        match self {
            Self::One(_, tag) if tag.waiter == waiter => *self = Self::None,
            Self::Many { finished, .. } => finished.push(waiter),
            _ => {}
        }
    }

    /// Keeps those for whom `keep` says yes. Whether there were any before.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&S, &Tag) -> bool) -> bool {
        self.tidy();
        match self {
            Self::None => return false,
            Self::One(one, tag) => {
                if !keep(one, tag) {
                    *self = Self::None;
                }
            }
            Self::Many { all, .. } => {
                all.retain(|subscriber, tag| keep(subscriber, tag));
                if all.is_empty() {
                    *self = Self::None;
                }
            }
        }
        true
    }

    pub(crate) fn is_empty(&mut self) -> bool {
        self.tidy();
        matches!(self, Self::None)
    }

    /// The subscribers that are these waiters, in order, with their spans.
    pub(crate) fn of(&mut self, mut waiters: Vec<WaiterId>) -> Vec<(S, Span)> {
        self.tidy();
        waiters.sort_unstable();
        let named = |tag: &Tag| waiters.binary_search(&tag.waiter).is_ok();
        match self {
            Self::None => Vec::new(),
            Self::One(one, tag) if named(tag) => vec![(one.clone(), tag.span.clone())],
            Self::One(..) => Vec::new(),
            Self::Many { all, .. } => all
                .iter()
                .filter(|(_, tag)| named(tag))
                .map(|(subscriber, tag)| (subscriber.clone(), tag.span.clone()))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(list: &[(u8, u64)]) -> Subscribers<u8> {
        let mut subscribers = Subscribers::None;
        for (subscriber, waiter) in list {
            let tag = Tag {
                waiter: WaiterId(*waiter),
                span: Span::none(),
            };
            subscribers.insert(*subscriber, tag);
        }
        subscribers
    }

    fn of(subscribers: &mut Subscribers<u8>, waiters: &[u64]) -> Vec<u8> {
        let waiters = waiters.iter().map(|waiter| WaiterId(*waiter)).collect();
        subscribers
            .of(waiters)
            .into_iter()
            .map(|(s, _)| s)
            .collect()
    }

    #[test]
    fn names_them_in_order() {
        let mut subscribers = with(&[(5, 1), (3, 2), (4, 3)]);
        assert_eq!(of(&mut subscribers, &[3, 1, 2, 9]), [3, 4, 5]);
        assert_eq!(of(&mut subscribers, &[1]), [5]);
        assert!(of(&mut with(&[(5, 1)]), &[2]).is_empty());
    }

    #[test]
    fn finished_ones_are_gone() {
        for count in 1..4_u8 {
            let list: Vec<(u8, u64)> = (0..count).map(|n| (n, u64::from(n))).collect();
            let mut subscribers = with(&list);
            for n in 0..count {
                assert!(subscribers.contains(&n));
                subscribers.finish(WaiterId(u64::from(n)));
                assert!(!subscribers.contains(&n));
            }
            assert!(subscribers.is_empty());
            assert!(!subscribers.retain(|_, _| true), "nobody was there");
        }
    }

    #[test]
    fn retain_asks_for_each() {
        let mut subscribers = with(&[(1, 1), (2, 2), (3, 3)]);
        assert!(subscribers.retain(|s, tag| *s != 2 && tag.waiter != WaiterId(3)));
        assert_eq!(of(&mut subscribers, &[1, 2, 3]), [1]);
        assert!(subscribers.retain(|_, _| false));
        assert!(subscribers.is_empty());
    }
}
