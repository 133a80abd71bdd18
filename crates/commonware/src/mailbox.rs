//! The way in: fetches and cancellations from any task, merged while the engine is busy.

use crate::few::Few;
use commonware_actor::{
    Feedback,
    mailbox::{Overflow, Policy, Sender},
};
use commonware_cryptography::PublicKey;
use commonware_resolver::{Fetch, Resolver, TargetedResolver};
use commonware_utils::{Span, vec::NonEmptyVec};
use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

/// Who is to be kept, by key and subscriber.
pub(crate) type Predicate<K, S> = Box<dyn Fn(&K, &S) -> bool + Send>;

/// One key that is wanted, and by whom.
pub(crate) struct Wanted<K, P, S> {
    pub(crate) key: K,
    pub(crate) subscribers: Few<(S, tracing::Span)>,
    /// Any peer, where there are none.
    pub(crate) targets: Option<Vec<P>>,
}

/// What the engine is told.
pub(crate) enum Message<K, P, S> {
    Fetch(Vec<Wanted<K, P, S>>),
    Retain(Predicate<K, S>),
}

/// What came while the queue was full: cancellations in their order, then fetches by key.
pub(crate) struct Backlog<K, P, S> {
    retains: VecDeque<Predicate<K, S>>,
    fetches: Vec<Wanted<K, P, S>>,
    /// Where in `fetches` a key is.
    places: HashMap<K, usize>,
}

impl<K, P, S> Default for Backlog<K, P, S> {
    fn default() -> Self {
        Self {
            retains: VecDeque::new(),
            fetches: Vec::new(),
            places: HashMap::new(),
        }
    }
}

impl<K, P, S> Overflow<Message<K, P, S>> for Backlog<K, P, S> {
    fn is_empty(&self) -> bool {
        self.retains.is_empty() && self.fetches.is_empty()
    }

    /// Cancellations first: what they would cancel among the fetches here is gone already, and what
    /// came after them is not theirs.
    fn drain<F>(&mut self, mut push: F)
    where
        F: FnMut(Message<K, P, S>) -> Option<Message<K, P, S>>,
    {
        while let Some(keep) = self.retains.pop_front() {
            if let Some(Message::Retain(keep)) = push(Message::Retain(keep)) {
                return self.retains.push_front(keep);
            }
        }
        if self.fetches.is_empty() {
            return;
        }
        let fetches = std::mem::take(&mut self.fetches);
        match push(Message::Fetch(fetches)) {
            Some(Message::Fetch(fetches)) => self.fetches = fetches,
            _ => self.places = HashMap::new(),
        }
    }
}

impl<K: Clone + Eq + Hash, P: Eq, S: Eq> Backlog<K, P, S> {
    fn add(&mut self, wanted: Wanted<K, P, S>) {
        let Some(place) = self.places.get(&wanted.key) else {
            self.places.insert(wanted.key.clone(), self.fetches.len());
            return self.fetches.push(wanted);
        };
        let known = &mut self.fetches[*place];
        for (subscriber, span) in wanted.subscribers {
            if known.subscribers.iter().all(|(s, _)| *s != subscriber) {
                known.subscribers.push((subscriber, span));
            }
        }
        // A fetch that may go anywhere stays so, and makes those before it so.
        match (&mut known.targets, wanted.targets) {
            (Some(known), Some(more)) => {
                for target in more {
                    if !known.contains(&target) {
                        known.push(target);
                    }
                }
            }
            (targets, _) => *targets = None,
        }
    }

    fn keep(&mut self, keep: &Predicate<K, S>) {
        self.fetches.retain_mut(|wanted| {
            let key = &wanted.key;
            wanted.subscribers.retain(|(s, _)| keep(key, s));
            !wanted.subscribers.is_empty()
        });
        self.places = self
            .fetches
            .iter()
            .enumerate()
            .map(|(place, wanted)| (wanted.key.clone(), place))
            .collect();
    }
}

impl<K: Clone + Eq + Hash, P: Eq, S: Eq> Policy for Message<K, P, S> {
    type Overflow = Backlog<K, P, S>;

    fn handle(backlog: &mut Self::Overflow, message: Self) {
        match message {
            Self::Fetch(fetches) => fetches.into_iter().for_each(|wanted| backlog.add(wanted)),
            Self::Retain(keep) => {
                backlog.keep(&keep);
                backlog.retains.push_back(keep);
            }
        }
    }
}

/// The handle by which an application tells an [`Engine`](crate::Engine) what it wants. Cheap to
/// clone; calls never wait, and do nothing once the engine has stopped.
#[derive(Clone)]
pub struct Mailbox<K: Span, P: Eq, S: Eq = ()> {
    sender: Sender<Message<K, P, S>>,
}

impl<K: Span, P: Eq, S: Eq> Mailbox<K, P, S> {
    pub(crate) const fn new(sender: Sender<Message<K, P, S>>) -> Self {
        Self { sender }
    }

    fn send<F: Into<Fetch<K, S>>>(
        &self,
        fetches: impl Iterator<Item = (F, Option<Vec<P>>)>,
    ) -> Feedback {
        let wanted = |(fetch, targets): (F, Option<Vec<P>>)| {
            let fetch = fetch.into();
            Wanted {
                key: fetch.key,
                subscribers: Few::one((fetch.subscriber, fetch.span)),
                targets,
            }
        };
        self.sender
            .enqueue(Message::Fetch(fetches.map(wanted).collect()))
    }
}

impl<K: Span, P: Eq, S: Eq> std::fmt::Debug for Mailbox<K, P, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailbox").finish_non_exhaustive()
    }
}

impl<K, P, S> Resolver for Mailbox<K, P, S>
where
    K: Span,
    P: PublicKey,
    S: Clone + Eq + Send + 'static,
{
    type Key = K;
    type Subscriber = S;

    /// Wants a key from any peer. Where the key is wanted already, this lifts its restriction to
    /// targets.
    fn fetch<F>(&mut self, key: F) -> Feedback
    where
        F: Into<Fetch<K, S>> + Send,
    {
        self.send(std::iter::once((key, None)))
    }

    /// Wants many keys, each from any peer.
    fn fetch_all<F>(&mut self, keys: Vec<F>) -> Feedback
    where
        F: Into<Fetch<K, S>> + Send,
    {
        self.send(keys.into_iter().map(|key| (key, None)))
    }

    /// Cancels every subscriber for which the predicate says no, and with the last of its
    /// subscribers the fetch of a key. Walks over all subscribers.
    fn retain(&mut self, predicate: impl Fn(&K, &S) -> bool + Send + 'static) -> Feedback {
        self.sender.enqueue(Message::Retain(Box::new(predicate)))
    }
}

impl<K, P, S> TargetedResolver for Mailbox<K, P, S>
where
    K: Span,
    P: PublicKey,
    S: Clone + Eq + Send + 'static,
{
    type PublicKey = P;

    /// Wants a key from these peers only, with no fallback. Where the key is wanted already from
    /// targets, these are added; where it is wanted from anyone, it stays so. A target that is not
    /// in the latest peer set, or is blocked, is waited for.
    fn fetch_targeted(
        &mut self,
        fetch: impl Into<Fetch<K, S>> + Send,
        targets: NonEmptyVec<P>,
    ) -> Feedback {
        self.send(std::iter::once((fetch, Some(targets.into_vec()))))
    }

    /// Wants many keys, each from targets of its own.
    fn fetch_all_targeted<F>(&mut self, keys: Vec<(F, NonEmptyVec<P>)>) -> Feedback
    where
        F: Into<Fetch<K, S>> + Send,
    {
        let keys = keys.into_iter();
        self.send(keys.map(|(key, targets)| (key, Some(targets.into_vec()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Told = Message<u8, u8, u16>;

    fn fetch(key: u8, subscriber: u16, targets: Option<&[u8]>) -> Told {
        Message::Fetch(vec![Wanted {
            key,
            subscribers: Few::one((subscriber, tracing::Span::none())),
            targets: targets.map(<[u8]>::to_vec),
        }])
    }

    fn only(subscriber: u16) -> Told {
        Message::Retain(Box::new(move |_, s| *s == subscriber))
    }

    /// What comes out of a backlog: `retain`, or the keys with their subscribers and targets.
    fn drained(told: Vec<Told>) -> Vec<String> {
        let mut backlog = Backlog::default();
        for message in told {
            Policy::handle(&mut backlog, message);
        }
        let mut lines = Vec::new();
        backlog.drain(|message| {
            match message {
                Message::Retain(_) => lines.push("retain".to_owned()),
                Message::Fetch(fetches) => lines.extend(fetches.iter().map(|wanted| {
                    let who: Vec<u16> = wanted.subscribers.iter().map(|(s, _)| *s).collect();
                    format!("{} {who:?} {:?}", wanted.key, wanted.targets)
                })),
            }
            None
        });
        assert!(backlog.is_empty() && backlog.places.is_empty());
        lines
    }

    #[test]
    fn merges_by_key() {
        let told = vec![
            fetch(1, 10, Some(&[2, 3])),
            fetch(2, 20, None),
            fetch(1, 11, Some(&[3, 4])),
            fetch(1, 10, Some(&[4])),
            fetch(2, 21, Some(&[9])),
        ];
        let lines = ["1 [10, 11] Some([2, 3, 4])", "2 [20, 21] None"];
        assert_eq!(drained(told), lines);
    }

    #[test]
    fn anyone_beats_targets() {
        let told = vec![fetch(1, 10, Some(&[2])), fetch(1, 10, None)];
        assert_eq!(drained(told), ["1 [10] None"]);
    }

    #[test]
    fn cancels_what_came_before_and_not_what_comes_after() {
        let told = vec![
            fetch(1, 10, None),
            fetch(2, 10, None),
            fetch(2, 11, None),
            only(11),
            fetch(1, 10, None),
        ];
        assert_eq!(drained(told), ["retain", "2 [11] None", "1 [10] None"]);
    }

    #[test]
    fn keeps_what_does_not_fit() {
        let mut backlog = Backlog::default();
        Policy::handle(&mut backlog, fetch(1, 10, None));
        Policy::handle(&mut backlog, only(12));
        Policy::handle(&mut backlog, fetch(3, 10, None));
        backlog.drain(Some);
        assert_eq!((backlog.retains.len(), backlog.fetches.len()), (1, 1));
        let mut room = 1;
        backlog.drain(|message| {
            if room > 0 {
                room -= 1;
                None
            } else {
                Some(message)
            }
        });
        assert_eq!((backlog.retains.len(), backlog.fetches.len()), (0, 1));
        Policy::handle(&mut backlog, fetch(3, 11, None));
        assert_eq!(
            backlog.fetches[0].subscribers.iter().count(),
            2,
            "still merged"
        );
    }
}
