//! Requests to peers: what goes into one, and what is under way.

use crate::{
    key::OpKey,
    machine::{AttemptId, Time},
    select::Asked,
    state::State,
};
use bytes::{Bytes, BytesMut};
use kitsune2_api::{OpId, Url, serialize_request_message};
use std::{cmp::Reverse, time::Duration};

/// How soon it is tried again to send, when there was no local agent yet.
const HOLD: Duration = Duration::from_secs(1);

/// A request to be sent.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) peer: u32,
    pub(crate) url: Url,
    pub(crate) batch: u32,
    ids: Vec<OpKey>,
}

impl Request {
    /// The message. Apart from making it, for it need not be made under the lock.
    pub(crate) fn encode(&self) -> Bytes {
        let len = self.ids.iter().map(|id| id.as_slice().len()).sum();
        let mut buffer = BytesMut::with_capacity(len);
        for id in &self.ids {
            buffer.extend_from_slice(id.as_slice());
        }
        let mut buffer = buffer.freeze();
        let ids = self.ids.iter();
        let ids = ids.map(|id| OpId::from(buffer.split_to(id.as_slice().len())));
        serialize_request_message(ids.collect())
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Out,
    /// It could not be sent, or was not, for its peer is known to be unresponsive.
    Failed,
    /// We cannot send yet: there is no local agent to speak for. That is not the peer's fault.
    NotYet,
}

/// A request that was sent, or is on its way.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) peer: u32,
    pub(crate) serial: u32,
    sent: Option<Time>,
    /// When something of it was last answered.
    pub(crate) answered: Option<Time>,
    pub(crate) asked: Vec<(AttemptId, u32)>,
    /// How many of these are not answered or ended.
    open: u32,
    /// All that ended was answered.
    pub(crate) clean: bool,
}

impl Batch {
    /// When it was sent; later than anything, while it is on its way.
    pub(crate) fn sent(&self) -> Time {
        self.sent.unwrap_or(Time::FAR)
    }

    #[cfg(test)]
    pub(crate) const fn open(&self) -> u32 {
        self.open
    }
}

impl State {
    pub(crate) fn queue(&mut self, peer: u32) {
        let Some(p) = self.book.peer_if_known(peer) else {
            return;
        };
        if !p.queued && !p.sending && p.outbox.iter().any(|outbox| !outbox.is_empty()) {
            p.queued = true;
            self.ready.push_back(peer);
        }
    }

    /// The want is not asked for any more with this attempt.
    pub(crate) fn unask(&mut self, want: u32, attempt: AttemptId) {
        let Some(w) = self.book.want_mut(want) else {
            return;
        };
        match w.asked {
            Asked::Soon(other) if other == attempt => w.asked = Asked::No,
            Asked::In(other, batch) if other == attempt => {
                w.asked = Asked::No;
                self.close_in_batch(batch);
            }
            _ => {}
        }
    }

    /// One of a batch has ended otherwise than by an answer.
    pub(crate) fn close_in_batch(&mut self, batch: u32) {
        self.batches[batch as usize].clean = false;
        self.close_one(batch);
    }

    /// One of a batch has ended.
    pub(crate) fn close_one(&mut self, batch: u32) {
        let b = &mut self.batches[batch as usize];
        b.open -= 1;
        self.close_batch(batch);
    }

    fn close_batch(&mut self, batch: u32) {
        let b = &self.batches[batch as usize];
        // While it is on its way, its end is still to come.
        if b.open > 0 || b.sent.is_none() {
            return;
        }
        let b = self.batches.remove(batch as usize);
        if b.clean {
            let asked = b.asked.len() as u32;
            self.book.peer_mut(b.peer).pace.whole(asked, &self.config);
        }
    }

    /// The next request to be sent. To be followed by [`State::sent`].
    pub(crate) fn next_request(&mut self, now: Time) -> Option<Request> {
        if self.failing.until.is_some_and(|until| now < until) {
            return None;
        }
        while let Some(peer) = self.ready.pop_front() {
            self.book.peer_mut(peer).queued = false;
            if let Some(request) = self.request(peer) {
                self.failing.asked(now);
                return Some(request);
            }
            // All that stood there was out of date; there may be more elsewhere.
            self.queue(peer);
        }
        None
    }

    fn request(&mut self, peer: u32) -> Option<Request> {
        let p = self.book.peer_mut(peer);
        p.turn ^= 1;
        if p.outbox[p.turn].is_empty() {
            p.turn ^= 1;
        }
        let turn = p.turn;
        self.batch_serial = self.batch_serial.wrapping_add(1);
        let batch = self.batches.vacant_key() as u32;
        let (mut asked, mut ids, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some((attempt, id)) = self.book.peer_mut(peer).outbox[turn].pop_front() {
            let Some(want) = self.book.want(id) else {
                continue;
            };
            if want.asked != Asked::Soon(attempt) {
                continue;
            }
            let key = self.book.op(want.op).key.clone();
            let most = self.book.peer(peer).pace.batch(want.tries, &self.config) as usize;
            let full = bytes + key.as_slice().len() > self.config.max_request_bytes as usize;
            if !ids.is_empty() && (full || ids.len() >= most) {
                self.book.peer_mut(peer).outbox[turn].push_front((attempt, id));
                break;
            }
            // A length and a tag go with each.
            bytes += key.as_slice().len() + 2;
            ids.push(key);
            asked.push((attempt, id));
            let want = self.book.want_mut(id).expect("found above");
            want.asked = Asked::In(attempt, batch);
        }
        if ids.is_empty() {
            return None;
        }
        self.stats.ops_asked += ids.len() as u64;
        self.batches.insert(Batch {
            peer,
            serial: self.batch_serial,
            sent: None,
            answered: None,
            open: asked.len() as u32,
            asked,
            clean: true,
        });
        let p = self.book.peer_mut(peer);
        p.sending = true;
        let url = p.url.clone();
        Some(Request {
            peer,
            url,
            batch,
            ids,
        })
    }

    /// What became of a request.
    pub(crate) fn sent(&mut self, now: Time, request: &Request, sent: Sent) {
        if sent == Sent::NotYet {
            return self.put_back(now, request);
        }
        self.book.peer_mut(request.peer).sending = false;
        let b = &mut self.batches[request.batch as usize];
        b.sent = Some(now);
        let serial = b.serial;
        if sent == Sent::Out {
            self.stats.requests_sent += 1;
            for n in 0..self.batches[request.batch as usize].asked.len() {
                let (attempt, id) = self.batches[request.batch as usize].asked[n];
                if let Some(want) = self.book.want_mut(id)
                    && want.asked == Asked::In(attempt, request.batch)
                {
                    want.since.get_or_insert(now);
                    want.last = Some(now);
                }
            }
            let at = now.after(self.config.answer_timeout());
            self.deadlines.push(Reverse((at, request.batch, serial)));
        } else {
            self.stats.sends_failed += 1;
            self.drop_peer(now, request.peer);
        }
        if self
            .batches
            .get(request.batch as usize)
            .is_some_and(|b| b.serial == serial)
        {
            self.close_batch(request.batch);
        }
        self.drive(now);
        self.queue(request.peer);
    }

    /// What a request asked for is asked for a little later. Nothing has happened to it.
    fn put_back(&mut self, now: Time, request: &Request) {
        let batch = self.batches.remove(request.batch as usize);
        for (attempt, id) in batch.asked.into_iter().rev() {
            if let Some(want) = self.book.want_mut(id)
                && want.asked == Asked::In(attempt, request.batch)
            {
                want.asked = Asked::Soon(attempt);
                let vain = usize::from(want.tries > 0);
                let outbox = &mut self.book.peer_mut(request.peer).outbox;
                outbox[vain].push_front((attempt, id));
            }
        }
        // Until then, its peer counts as one that is being sent to.
        self.held.push_back((now.after(HOLD), request.peer));
    }

    /// Peers that could not be sent to may be tried again.
    pub(crate) fn let_go(&mut self, now: Time) {
        while let Some((until, peer)) = self.held.front().copied()
            && until <= now
        {
            self.held.pop_front();
            self.book.peer_mut(peer).sending = false;
            self.queue(peer);
        }
    }

    /// The connection to a peer is gone, and with it the answers to what it was asked.
    pub(crate) fn disconnected(&mut self, now: Time, url: &Url) {
        let Some(peer) = self.book.peer_at(url) else {
            return;
        };
        let lost = self
            .batches
            .iter()
            .filter(|(_, b)| b.peer == peer && b.sent.is_some());
        let lost: Vec<u32> = lost.map(|(batch, _)| batch as u32).collect();
        for batch in lost {
            // One that is unanswered may be one too many, and end all that its peer was asked.
            if self.batches.contains(batch as usize) {
                self.unanswered(now, batch, true);
            }
        }
        self.drive(now);
    }

    /// A response of this peer was lost in our own memory: it did answer.
    pub(crate) fn overflow(&mut self, now: Time, url: &Url) {
        if let Some(peer) = self.book.peer_at(url) {
            let p = self.book.peer_mut(peer);
            p.heard = Some(now);
            p.overflowed = Some(now);
            p.silent = false;
        }
    }
}
