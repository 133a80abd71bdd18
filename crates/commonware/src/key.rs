//! What is held for one key: who waits, what was brought, and who may be asked.

use crate::{
    few::Few,
    judge::Answer,
    machine::{AttemptId, SourceId, Time, WaiterId},
};
use commonware_utils::channel::oneshot;
use std::collections::BTreeMap;
use tracing::Span;

/// One fetch, beside what the engine knows of it. Small, for there may be very many.
#[derive(Debug)]
pub(crate) struct Held<S, P> {
    pub(crate) subscribers: Subscribers<S>,
    pub(crate) since: Time,
    pub(crate) targets: Named,
    /// What only a fetch has that was answered.
    more: Option<Box<More<P>>>,
}

/// What was brought for a fetch.
#[derive(Debug)]
pub(crate) struct More<P> {
    /// Answers that are still held, but for the one that is out for judgement.
    pub(crate) brought: Few<(AttemptId, Answer<P>)>,
    /// Dropped, it cancels the delivery under way.
    pub(crate) delivery: Option<oneshot::Sender<()>>,
}

/// The targets of a fetch.
#[derive(Debug)]
pub(crate) enum Named {
    /// Any peer.
    Anyone,
    One(SourceId),
    Many(Vec<SourceId>),
}

impl Named {
    pub(crate) fn as_slice(&self) -> &[SourceId] {
        match self {
            Self::Anyone => &[],
            Self::One(source) => std::slice::from_ref(source),
            Self::Many(sources) => sources,
        }
    }

    /// One more; from now on there is a restriction. Whether it was not there before.
    pub(crate) fn add(&mut self, source: SourceId) -> bool {
        if self.as_slice().contains(&source) {
            return false;
        }
        match self {
            Self::Anyone => *self = Self::One(source),
            Self::One(one) => *self = Self::Many(vec![*one, source]),
            Self::Many(sources) => sources.push(source),
        }
        true
    }
}

impl<S, P> Held<S, P> {
    pub(crate) const fn new(since: Time) -> Self {
        Self {
            subscribers: Subscribers::None,
            since,
            targets: Named::Anyone,
            more: None,
        }
    }

    pub(crate) const fn is_restricted(&self) -> bool {
        !matches!(self.targets, Named::Anyone)
    }

    /// To be changed; made if need be.
    pub(crate) fn more(&mut self) -> &mut More<P> {
        self.more.get_or_insert_with(|| {
            Box::new(More {
                brought: Few::new(),
                delivery: None,
            })
        })
    }

    /// What an attempt has brought, not to be held any more.
    pub(crate) fn take_answer(&mut self, attempt: AttemptId) -> Option<Answer<P>> {
        let brought = &mut self.more.as_mut()?.brought;
        let (_, answer) = brought.take(|(id, _)| *id == attempt)?;
        Some(answer)
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
    Many(Box<Many<S>>),
}

#[derive(Debug)]
pub(crate) struct Many<S> {
    all: BTreeMap<S, Tag>,
    /// Of these, finished already. Taken out together, when they are next looked at: one by one,
    /// each would cost a walk over all.
    finished: Vec<WaiterId>,
}

impl<S: Clone + Ord> Subscribers<S> {
    /// Takes out those that are finished.
    fn tidy(&mut self) {
        let Self::Many(many) = self else {
            return;
        };
        let Many { all, finished } = &mut **many;
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
            Self::Many(many) => many.all.contains_key(subscriber),
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
                *self = Self::Many(Box::new(Many { all, finished }));
            }
            Self::Many(mut many) => {
                many.all.insert(subscriber, tag);
                *self = Self::Many(many);
            }
        }
    }

    /// The engine is done with this waiter.
    pub(crate) fn finish(&mut self, waiter: WaiterId) {
        match self {
            Self::One(_, tag) if tag.waiter == waiter => *self = Self::None,
            Self::Many(many) => many.finished.push(waiter),
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
            Self::Many(many) => {
                many.all.retain(|subscriber, tag| keep(subscriber, tag));
                if many.all.is_empty() {
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
    pub(crate) fn of(&mut self, waiters: &[WaiterId]) -> Vec<(S, Span)> {
        self.tidy();
        match self {
            Self::None => Vec::new(),
            Self::One(one, tag) if waiters.contains(&tag.waiter) => {
                vec![(one.clone(), tag.span.clone())]
            }
            Self::One(..) => Vec::new(),
            Self::Many(many) => {
                let mut waiters = waiters.to_vec();
                waiters.sort_unstable();
                many.all
                    .iter()
                    .filter(|(_, tag)| waiters.binary_search(&tag.waiter).is_ok())
                    .map(|(subscriber, tag)| (subscriber.clone(), tag.span.clone()))
                    .collect()
            }
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
        let waiters: Vec<WaiterId> = waiters.iter().map(|waiter| WaiterId(*waiter)).collect();
        subscribers
            .of(&waiters)
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
