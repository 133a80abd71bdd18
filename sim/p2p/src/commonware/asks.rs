//! The rules of the far side: what the engine asks of peers, what they answer, and what it serves them.

use super::{
    account::{Answer, Key, Notes, Owed, Request, Rest, Run},
    wire::{Message, What},
};

/// The least time for which a peer that takes no request is left alone.
const REST_MIN: u64 = 1_000_000;

impl Run {
    // ---- asking ----

    /// The engine sends a request.
    pub(crate) fn asks(&mut self, now: u64, peer: usize, id: u64, name: u64, notes: &mut Notes) {
        self.acts(now, "asked", notes);
        let since = now.saturating_sub(self.terms.grace);
        notes.rule(peer != self.node, "never itself", || format!("for {name}"));
        let known = self.latest.since(since).any(|set| set.contains(&peer));
        notes.rule(known, "latest peers", || {
            format!("asked {peer} for {name}, which is not in the latest set")
        });
        let free = self.blocked.since(since).any(|set| !set.contains(&peer));
        notes.rule(free, "blocked peers", || {
            format!("asked {peer} for {name}, which is blocked")
        });
        self.asks_in_turn(now, peer, name, notes);
        if let Some(rest) = self.rests.get(&peer)
            && self.terms.strict
            && rest.request
            && now < rest.until
        {
            notes.bad("rest", format!("asked {peer} for {name} before its time"));
        }
        // To one that is blocked, or for what is cancelled, and the engine has not heard: it takes it
        // back when it does.
        let blocked = self.blocked.now().is_some_and(|set| set.contains(&peer));
        let wanted = self.keys.get(&name).is_some_and(Key::is_wanted);
        let heeds = blocked && self.terms.strict;
        let request = Request {
            peer,
            key: name,
            at: now,
            answered: false,
            stranger: false,
            unsure: false,
            void: (heeds || !wanted).then_some(now),
        };
        self.requests.insert(id, request);
    }

    /// What holds of a request for the key that it is for.
    fn asks_in_turn(&mut self, now: u64, peer: usize, name: u64, notes: &mut Notes) {
        let grace = self.terms.grace;
        self.forget(now);
        let Some(key) = self.keys.get(&name) else {
            return notes.bad("wanted", format!("{name} was never wanted"));
        };
        let news = |at: u64| at + grace >= now;
        let wanted = key.is_wanted() || key.ended.is_some_and(news);
        notes.rule(wanted, "wanted", || format!("nobody waits for {name}"));
        let scope = key.scope.as_ref().is_some_and(|scope| scope.has(peer));
        let old = key.old_scope.as_ref();
        let old = old.is_some_and(|(scope, until)| news(*until) && scope.has(peer));
        notes.rule(scope || old, "targets", || {
            format!("asked {peer} for {name}: {:?}", key.scope)
        });
        let open: Vec<&Request> = self
            .requests
            .values()
            .filter(|request| request.key == name && !request.answered)
            .filter(|request| request.void.is_none() && !request.unsure)
            .collect();
        notes.rule(open.len() < self.terms.width, "one request", || {
            format!(
                "{name} is asked of {:?} already",
                open.iter().map(|r| r.peer).collect::<Vec<_>>()
            )
        });
        if !open.is_empty() {
            notes.mark("hedged");
            let same = |request: &&Request| request.peer == peer && !request.stranger;
            let same = open.iter().copied().any(|request| same(&request));
            notes.rule(!same, "one request", || format!("{name} twice of {peer}"));
        }
        let judged = key.delivery.map(|number| &self.deliveries[number]);
        if let Some(open) = judged.filter(|open| !open.judged) {
            let over = open.cancelled.is_some() || open.perhaps || self.terms.width > 1;
            notes.rule(over, "judged first", || {
                format!("asked for {name} while an answer is being judged")
            });
        }
        if let Some(failed) = key.failed
            && self.terms.strict
            && self.terms.width == 1
        {
            // When somebody appears, or may be asked now, what waits is tried at once.
            let new = self.appeared.max(key.widened) + grace >= failed;
            let delay = if new { 0 } else { self.terms.retry_delay };
            let due = failed + delay;
            notes.rule(now >= due, "retry delay", || {
                format!("{name} again {}ns too soon", due - now)
            });
        }
    }

    /// The network turns a message to a peer away until a time: the quota is used up.
    pub(crate) fn turned_away(&mut self, now: u64, peer: usize, until: u64, notes: &mut Notes) {
        self.acts(now, "checked a peer", notes);
        notes.mark("at quota");
        // An answer is tried once, whatever came of what was sent before.
        let answer = self.owed.iter_mut().find(|owed| {
            let ready = owed.produced.is_some() || !owed.asked_producer;
            owed.peer == peer && !owed.done && !owed.excused && ready
        });
        let until = until.max(now + REST_MIN);
        let rest = self.rests.get(&peer).copied();
        let rest = rest.filter(|rest| now < rest.until);
        let mut rest = rest.unwrap_or(Rest {
            until,
            request: false,
        });
        match answer {
            Some(owed) => owed.excused = true,
            None => {
                let allowed = !rest.request || !self.terms.strict;
                notes.rule(allowed, "quota", || {
                    format!("{peer} is tried again before its time")
                });
                rest.request = true;
            }
        }
        self.rests.insert(peer, rest);
    }

    /// The network does not take a message.
    pub(crate) fn not_taken(
        &mut self,
        now: u64,
        peer: usize,
        message: &Message,
        notes: &mut Notes,
    ) {
        notes.mark("not taken");
        match &message.what {
            What::Request(_) => {
                let until = now + self.terms.retry_delay.max(REST_MIN);
                let request = true;
                self.rests.insert(peer, Rest { until, request });
            }
            _ => self.serves(now, peer, message.id, &message.what, notes),
        }
    }

    // ---- what peers answer ----

    /// The engine has read an answer.
    pub(crate) fn answered(&mut self, now: u64, peer: usize, message: Message, notes: &mut Notes) {
        let grace = self.terms.grace;
        let request = self.requests.get_mut(&message.id);
        let Some(request) = request.filter(|r| r.peer == peer && !r.answered) else {
            return notes.mark("unsolicited");
        };
        let end = request.at + self.terms.timeout;
        let late = now > end + grace || request.void.is_some_and(|void| void + grace < now);
        if late {
            return notes.mark("too late");
        }
        let sure = now < end && request.void.is_none() && !request.unsure;
        request.answered = true;
        let name = request.key;
        let What::Response(bytes) = message.what else {
            notes.mark("no data");
            if sure {
                self.failed_key(name, now);
            }
            return;
        };
        self.answers.push(Answer {
            peer,
            key: name,
            bytes,
            at: now,
            used: false,
            accepted: false,
        });
        if sure
            && self.terms.width == 1
            && let Some(key) = self.keys.get_mut(&name)
            && key.surely().next().is_some()
        {
            key.due = Some(now + grace);
        }
    }

    // ---- serving ----

    /// The engine has read a request.
    pub(crate) fn requested(&mut self, now: u64, peer: usize, id: u64, name: u64) {
        self.serves += 1;
        self.owed.push(Owed {
            serve: self.serves,
            peer,
            id,
            key: name,
            at: now,
            asked_producer: false,
            produced: None,
            excused: false,
            done: false,
        });
    }

    /// The engine asks its producer. Returns the number of the request that this is for.
    pub(crate) fn produces(&mut self, name: u64, notes: &mut Notes) -> Option<u64> {
        let waits = self
            .owed
            .iter()
            .filter(|owed| owed.asked_producer && owed.produced.is_none() && !owed.done);
        let waits = waits.count();
        notes.rule(
            !self.terms.strict || waits < self.terms.serves_max,
            "bounded",
            || format!("{waits} requests of peers are being served"),
        );
        // It asks as soon as it has read the request.
        let owed = self.owed.iter_mut().rev();
        let mut owed = owed.filter(|owed| owed.key == name && !owed.asked_producer);
        let Some(owed) = owed.next() else {
            notes.bad(
                "served",
                format!("produced {name}, which no peer asked for"),
            );
            return None;
        };
        owed.asked_producer = true;
        Some(owed.serve)
    }

    /// The producer is done with a request.
    pub(crate) fn produced(&mut self, now: u64, serve: u64, bytes: Option<&[u8]>) {
        let mut owed = self.owed.iter_mut().filter(|owed| owed.serve == serve);
        if let Some(owed) = owed.next() {
            owed.produced = Some((now, bytes.map(<[u8]>::to_vec)));
        }
    }

    /// The engine answers a peer.
    pub(crate) fn serves(
        &mut self,
        now: u64,
        peer: usize,
        id: u64,
        what: &What,
        notes: &mut Notes,
    ) {
        self.acts(now, "served", notes);
        let fits = |owed: &Owed| match (what, &owed.produced) {
            (What::Response(bytes), Some((_, Some(truth)))) => bytes == truth,
            (What::Missing, Some((_, None))) => true,
            // Too many are being served.
            (What::Missing, None) => !owed.asked_producer,
            _ => false,
        };
        let owed = self.owed.iter_mut();
        let owed = owed.filter(|owed| owed.peer == peer && owed.id == id && !owed.done);
        match owed
            .filter(|owed| fits(owed))
            .min_by_key(|owed| owed.excused)
        {
            Some(owed) => {
                owed.done = true;
                notes.mark("served");
                if owed.produced.is_none() {
                    notes.mark("refused to serve");
                }
            }
            None => notes.bad("served", format!("{peer} was told {what:?} to {id:x}")),
        }
    }
}
