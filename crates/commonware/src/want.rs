//! What is wanted, and what is not any more.

use crate::{
    drive::Driver,
    key::{Held, Named, Tag},
    machine::{FetchId, Input, SourceId, Targets, WaiterId, Want},
    mailbox::{Predicate, Wanted},
    moment::Moment,
};
use bytes::Bytes;
use commonware_cryptography::PublicKey;
use commonware_p2p::Blocker;
use commonware_resolver::Consumer;
use commonware_runtime::telemetry::metrics::status::Status;
use commonware_utils::Span;

impl<P, B, Key, Con> Driver<P, B, Key, Con>
where
    P: PublicKey,
    B: Blocker<PublicKey = P>,
    Key: Span,
    Con: Consumer<Key = Key, Value = Bytes, Subscriber: Ord>,
{
    pub(crate) fn wanted(&mut self, at: Moment, wanted: Wanted<Key, P, Con::Subscriber>) {
        let Wanted {
            key,
            subscribers,
            targets,
        } = wanted;
        let mut known = self.machine.find(&key);
        let held = known.and_then(|fetch| self.fetches.get(fetch));
        // A restriction matters to a new fetch, or to one that is restricted already.
        let restricted = held.is_none_or(Held::is_restricted);
        let mut named = Vec::new();
        let targets = match targets {
            None => Targets::Any,
            Some(peers) if restricted => {
                named = peers.iter().map(|peer| self.roster.name(peer)).collect();
                Targets::Only(named.clone())
            }
            Some(_) => Targets::Only(Vec::new()),
        };
        let mut told = false;
        for (subscriber, span) in subscribers {
            self.waiters += 1;
            let waiter = WaiterId(self.waiters);
            let held = known.and_then(|fetch| self.fetches.get_mut(fetch));
            let again = held.is_some_and(|held| held.subscribers.contains(&subscriber));
            if again && (told || !restricted) {
                continue;
            }
            told = true;
            let want = Want {
                targets: targets.clone(),
                priority: 1,
                owner: 0,
                deadline: None,
                plan: self.plan.clone(),
            };
            let key = key.clone();
            self.machine
                .handle_input(at.now, Input::Want { waiter, key, want });
            if again {
                // It waits already. This was for its word on targets.
                self.machine.handle_input(at.now, Input::Release { waiter });
            } else if let Some(fetch) = self.machine.fetch_of(waiter) {
                known = Some(fetch);
                let held = self.held(at, fetch);
                held.subscribers.insert(subscriber, Tag { waiter, span });
            }
        }
        self.note_targets(known, &targets, named);
    }

    /// What is held for a fetch, made if need be.
    fn held(&mut self, at: Moment, fetch: FetchId) -> &mut Held<Con::Subscriber, P> {
        if self.fetches.get(fetch).is_none()
            && let Some(over) = self.fetches.insert(fetch, Held::new(at.now))
        {
            self.let_go(over);
        }
        self.fetches
            .get_mut(fetch)
            .expect("made if it was not there")
    }

    /// Keeps the book of who is named by which fetch.
    fn note_targets(
        &mut self,
        fetch: Option<FetchId>,
        targets: &Targets,
        mut named: Vec<SourceId>,
    ) {
        if let Some(held) = fetch.and_then(|fetch| self.fetches.get_mut(fetch)) {
            match targets {
                // What is left in `named` was named before, or twice.
                Targets::Only(_) => named.retain(|source| !held.targets.add(*source)),
                _ => {
                    let lifted = std::mem::replace(&mut held.targets, Named::Anyone);
                    named.extend(lifted.as_slice());
                }
            }
        }
        for source in named {
            self.roster.unname(source);
        }
    }

    pub(crate) fn retain(&mut self, at: Moment, keep: &Predicate<Key, Con::Subscriber>) {
        let mut released = Vec::new();
        let mut cancelled = 0;
        for (fetch, held) in self.fetches.iter_mut() {
            let Some(key) = self.machine.key(fetch) else {
                continue;
            };
            let any = held.subscribers.retain(|subscriber, tag| {
                let keep = keep(key, subscriber);
                if !keep {
                    released.push(tag.waiter);
                }
                keep
            });
            cancelled += u64::from(any && held.subscribers.is_empty());
        }
        for waiter in released {
            self.machine.handle_input(at.now, Input::Release { waiter });
        }
        match cancelled {
            0 => self.metrics.cancel.inc(Status::Dropped),
            count => self.metrics.cancel.inc_by(Status::Success, count),
        }
    }
}
