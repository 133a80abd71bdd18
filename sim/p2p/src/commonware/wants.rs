//! The rules of the near side: what the application asks for, what it is given, what it says of that.

use super::account::{Answer, Delivery, Key, Notes, Run, Scope, Sub, Waits};
use commonware_resolver::{Outcome, Resolution};
use std::collections::BTreeSet;

impl Run {
    // ---- what the application says ----

    /// It wants a key for a subscriber.
    pub(crate) fn fetch(&mut self, now: u64, name: u64, sub: u64, targets: Option<&[usize]>) {
        let key = self.keys.entry(name).or_default();
        let wanted = key.is_wanted();
        let before = key.scope.clone();
        key.doubt = match targets {
            None => false,
            Some(_) => wanted && (key.doubt || key.surely().next().is_none()),
        };
        key.scope = Some(match (targets, key.scope.take()) {
            (None, _) => Scope::Any,
            (Some(targets), Some(Scope::Only(known))) if wanted => {
                Scope::Only(known.iter().chain(targets).copied().collect())
            }
            (Some(_), Some(Scope::Any)) if wanted => Scope::Any,
            (Some(targets), _) => Scope::Only(targets.iter().copied().collect()),
        });
        if key.scope != before {
            key.widened = now;
        }
        let fresh = Sub {
            waits: Waits::Yes,
            since: now,
            told: now,
            cancelled: None,
        };
        let known = key.subs.entry(sub).or_insert_with(|| fresh.clone());
        match known.waits {
            Waits::Yes => known.told = now,
            // If it waited, it still does; if not, it does now.
            Waits::Maybe | Waits::No => {
                let cancelled = known.cancelled;
                *known = Sub { cancelled, ..fresh };
            }
        }
    }

    /// It cancels all but those for whom `keep` says yes.
    pub(crate) fn retain(&mut self, now: u64, keep: impl Fn(u64, u64) -> bool, notes: &mut Notes) {
        let (mut over, mut unsure) = (Vec::new(), Vec::new());
        for (name, key) in &mut self.keys {
            let wanted = key.is_wanted();
            for (sub, state) in &mut key.subs {
                if state.waits != Waits::No && !keep(*name, *sub) {
                    state.waits = Waits::No;
                    state.cancelled = Some(now);
                }
            }
            if wanted && !key.is_wanted() {
                over.push(*name);
            } else if wanted && key.surely().next().is_none() {
                unsure.push(*name);
            }
        }
        for name in unsure {
            self.void_key(now, name);
            let Some(key) = self.keys.get_mut(&name) else {
                continue;
            };
            (key.failed, key.due) = (None, None);
            if let Some(delivery) = key.delivery {
                self.deliveries[delivery].perhaps = true;
            }
        }
        for name in over {
            self.cancelled(now, name, notes);
        }
    }

    /// Nobody wants a key any more.
    fn cancelled(&mut self, now: u64, name: u64, notes: &mut Notes) {
        self.void_key(now, name);
        let until = now + self.terms.grace;
        let Some(key) = self.keys.get_mut(&name) else {
            return;
        };
        key.old_scope = key.scope.take().map(|scope| (scope, now));
        key.failed = None;
        key.due = None;
        key.ended = Some(now);
        if let Some((_, limit)) = &mut key.held {
            *limit = Some(until);
        }
        notes.mark("cancelled");
        if let Some(delivery) = key.delivery {
            let delivery = &mut self.deliveries[delivery];
            if !delivery.judged {
                notes.mark("cancelled while judged");
            }
            delivery.cancelled.get_or_insert(now);
        }
    }

    // ---- what it is given ----

    /// The engine hands an answer to the consumer. Returns the number of the delivery.
    pub(crate) fn deliver(
        &mut self,
        now: u64,
        name: u64,
        subs: &[u64],
        bytes: &[u8],
        notes: &mut Notes,
    ) -> usize {
        self.acts(now, "delivered", notes);
        let grace = self.terms.grace;
        let hedged = self.terms.width > 1;
        let (answer, peers) = self.origin(now, name, bytes, hedged);
        notes.rule(answer.is_some(), "true to the wire", || {
            format!("{name}: {} bytes that nobody sent for it", bytes.len())
        });
        let key = self.keys.entry(name).or_default();
        notes.rule(subs.is_sorted_by(|a, b| a < b), "subscribers", || {
            format!("{name}: not in order, or twice: {subs:?}")
        });
        for sub in subs {
            let mut known = key.subs.get_mut(sub);
            let waits = known.as_mut().is_some_and(|known| {
                let tail = known.cancelled.is_some_and(|at| at + grace >= now);
                // Now that it is served it is certain that it waited.
                let waits = known.waits != Waits::No;
                if waits {
                    known.waits = Waits::Yes;
                }
                waits || tail
            });
            notes.rule(waits, "once per request", || {
                format!("{name} for {sub}, which does not wait: {known:?}")
            });
        }
        let forgotten: Vec<u64> = key
            .surely()
            .filter(|(sub, known)| known.since + grace < now && !subs.contains(sub))
            .map(|(sub, _)| sub)
            .collect();
        notes.rule(forgotten.is_empty(), "subscribers", || {
            format!("{name}: {forgotten:?} wait and were left out of {subs:?}")
        });
        key.due = None;
        if let Some(open) = key.delivery.map(|open| &self.deliveries[open]) {
            let over = open.judged || open.perhaps || open.cancelled.is_some();
            notes.rule(over, "one delivery", || {
                format!("{name}: again while it is being judged")
            });
        }
        if key.held.is_some_and(|(held, _)| Some(held) == answer) {
            notes.mark("handed on to a late subscriber");
        }
        key.delivery = Some(self.deliveries.len());
        self.deliveries.push(Delivery {
            key: name,
            subs: subs.to_vec(),
            at: now,
            answer,
            peers,
            cancelled: None,
            perhaps: false,
            judged: false,
        });
        self.deliveries.len() - 1
    }

    /// Which answer these bytes are, and who may have sent them.
    fn origin(
        &mut self,
        now: u64,
        name: u64,
        bytes: &[u8],
        hedged: bool,
    ) -> (Option<usize>, Vec<usize>) {
        let grace = self.terms.grace;
        let fresh = |answer: &Answer| {
            let in_time = hedged || answer.at + grace >= now;
            !answer.used && answer.key == name && in_time && answer.bytes == bytes
        };
        let found: Vec<usize> = (0..self.answers.len())
            .filter(|n| fresh(&self.answers[*n]))
            .collect();
        if let Some(first) = found.first() {
            self.answers[*first].used = true;
            let peers = found.iter().map(|n| self.answers[*n].peer).collect();
            return (Some(*first), peers);
        }
        let held = self.keys.get(&name).and_then(|key| key.held);
        match held {
            Some((held, until))
                if until.is_none_or(|until| now <= until) && self.answers[held].bytes == bytes =>
            {
                (Some(held), vec![self.answers[held].peer])
            }
            _ => (None, Vec::new()),
        }
    }

    // ---- what it says of that ----

    /// The consumer gives its verdict, or drops the delivery; `closed`: nobody listens any more.
    pub(crate) fn verdict(
        &mut self,
        now: u64,
        number: usize,
        outcome: Option<Outcome>,
        closed: bool,
        notes: &mut Notes,
    ) {
        if self.stopped.is_some() {
            return;
        }
        let delivery = &mut self.deliveries[number];
        delivery.judged = true;
        let name = delivery.key;
        let cancelled = delivery.cancelled;
        let accepted = delivery.answer.is_some_and(|n| self.answers[n].accepted);
        if closed {
            let over = cancelled.is_some() || delivery.perhaps;
            return notes.rule(over, "deliveries stay open", || {
                format!("{name}: closed, and still wanted")
            });
        }
        if let Some(at) = cancelled
            && !self.is_news(now, at)
        {
            notes.bad("deliveries close", format!("{name}: cancelled, and open"));
        }
        let delivery = &self.deliveries[number];
        if outcome == Some(Outcome::Invalid) && !accepted {
            self.accused.push((delivery.peers.clone(), now));
            notes.mark("lied");
        }
        if cancelled.is_some() {
            return;
        }
        let answer = delivery.answer;
        match outcome {
            None | Some(Outcome::Resolved(Resolution::Complete)) => {
                if outcome.is_some()
                    && let Some(answer) = answer
                {
                    self.answers[answer].accepted = true;
                }
                self.served(now, number, notes);
            }
            Some(Outcome::Resolved(Resolution::Partial) | Outcome::Unresolved) => {
                self.failed_key(name, now);
                notes.mark("not enough");
            }
            Some(Outcome::Invalid) if accepted => self.retired(now, name),
            Some(Outcome::Invalid) => self.failed_key(name, now),
            Some(Outcome::Ignored) => {
                self.retired(now, name);
                notes.mark("ignored");
            }
        }
    }

    /// An attempt has come to nothing.
    pub(crate) fn failed_key(&mut self, name: u64, at: u64) {
        if let Some(key) = self.keys.get_mut(&name) {
            key.failed = Some(at);
            key.held = None;
        }
    }

    /// Those to whom it was delivered have what they wanted, or want it no more.
    fn served(&mut self, now: u64, number: usize, notes: &mut Notes) {
        let delivery = &self.deliveries[number];
        let (name, at, answer) = (delivery.key, delivery.at, delivery.answer);
        let subs: BTreeSet<u64> = delivery.subs.iter().copied().collect();
        let (grace, strict) = (self.terms.grace, self.terms.strict);
        let Some(key) = self.keys.get_mut(&name) else {
            return;
        };
        for (_, sub) in key.subs.iter_mut().filter(|(name, _)| subs.contains(name)) {
            if sub.waits == Waits::No {
                continue;
            }
            if sub.since <= at {
                end(sub, now, grace);
            } else if !strict {
                // Who came after the delivery, under a name that was cancelled, is somebody else. To a
                // stock engine it is the same.
                sub.waits = Waits::Maybe;
            }
        }
        let waits = key.surely().any(|(_, sub)| sub.since + grace < now);
        key.held = answer.map(|answer| (answer, None));
        if waits {
            key.due = Some(now + grace);
            notes.mark("late subscriber");
        }
        self.perhaps_over(now, name);
    }

    /// Nobody wants it any more, whoever waits.
    fn retired(&mut self, now: u64, name: u64) {
        let grace = self.terms.grace;
        let Some(key) = self.keys.get_mut(&name) else {
            return;
        };
        key.subs.values_mut().for_each(|sub| end(sub, now, grace));
        key.held = None;
        self.perhaps_over(now, name);
    }

    /// If nobody waits any more the fetch is over; if somebody may wait, so may it be.
    fn perhaps_over(&mut self, now: u64, name: u64) {
        let news = self.terms.grace;
        let Some(key) = self.keys.get_mut(&name) else {
            return;
        };
        let fresh = key.surely().any(|(_, sub)| sub.told + news >= now);
        if !key.is_wanted() {
            let Key { scope, held, .. } = key;
            *scope = None;
            *held = None;
            key.failed = None;
            key.ended = Some(now);
            self.void_key(now, name);
        } else if fresh || key.surely().next().is_none() {
            // Either way: a fetch of its own, or the one that was.
            key.failed = None;
            self.void_key(now, name);
        } else {
            self.void_key(now, name);
        }
    }
}

/// A subscriber is retired; if it was wanted a moment ago, that may have been heard after this.
fn end(sub: &mut Sub, now: u64, grace: u64) {
    if sub.waits == Waits::No {
        return;
    }
    sub.waits = match sub.told + grace >= now {
        true => Waits::Maybe,
        false => Waits::No,
    };
    sub.cancelled = None;
}
