//! Asking: requests to peers, how long they are waited for, and when a want is given up.
//!
//! The protocol has no request ids, and a peer that holds nothing of what it is asked for does not
//! answer at all, so silence and "I do not have it" look the same. What tells them apart is what else
//! the peer does: see [`State::time`].

use crate::{
    book::Asked,
    machine::{AttemptId, End, Fault, FetchId, Input, Output, SourceId, Time, WaiterId},
    op::OpKey,
    state::State,
};
use bytes::{Bytes, BytesMut};
use kitsune2_api::{OpId, Url, serialize_request_message};
use std::cmp::Reverse;

/// So many times the answer timeout is the longest that a request is waited for, whatever its peer
/// does meanwhile: one that keeps busy with others must not keep it for ever.
const PATIENCE: u32 = 10;

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

/// A request that was sent, or is on its way.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) peer: u32,
    serial: u32,
    sent: Option<Time>,
    /// When something of it was last answered.
    pub(crate) answered: Option<Time>,
    asked: Vec<(AttemptId, u32)>,
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
    /// Does what the engine says.
    pub(crate) fn drive(&mut self, now: Time) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Start {
                    attempt,
                    fetch,
                    source,
                    ..
                } => self.start(now, attempt, fetch, source),
                Output::Abort { attempt } => {
                    if let Some(want) = self.attempts.remove(&attempt) {
                        self.unask(want, attempt);
                        let end = End::Aborted;
                        self.input(now, Input::Ended { attempt, end });
                    }
                }
                Output::Judge {
                    judgement,
                    contributors,
                    ..
                } => self.judge(now, judgement, &contributors),
                Output::Discard { attempt, .. } => self.discard(attempt),
                Output::Finish { waiter, .. } => self.finish(now, waiter),
                Output::Retired { fetch } => self.retired(fetch),
                // Keys are ours, and named in everything that follows; our plans rank nothing,
                // commit nothing and block nobody.
                Output::Opened { .. }
                | Output::Select { .. }
                | Output::Commit { .. }
                | Output::Blocked { .. } => {}
            }
        }
    }

    fn start(&mut self, now: Time, attempt: AttemptId, fetch: FetchId, source: SourceId) {
        self.input(now, Input::Started { attempt });
        let op = self
            .machine
            .key(fetch)
            .and_then(|key| self.book.op_named(*key));
        let peer = self.book.peer_named(source);
        let want = op
            .zip(peer)
            .and_then(|(op, peer)| self.book.between(op, peer));
        let Some((id, want)) = want.and_then(|id| Some((id, self.book.want_mut(id)?))) else {
            let end = End::Aborted;
            return self.input(now, Input::Ended { attempt, end });
        };
        if want.asked == Asked::Answered {
            // It came late, while its fetch waited, and the store has it now.
            let end = End::Missing;
            return self.input(now, Input::Ended { attempt, end });
        }
        want.asked = Asked::Soon(attempt);
        let (peer, vain) = (want.peer, usize::from(want.tries > 0));
        self.attempts.insert(attempt, id);
        self.book.peer_mut(peer).outbox[vain].push_back((attempt, id));
        self.queue(peer);
    }

    fn queue(&mut self, peer: u32) {
        let Some(p) = self.book.peer_if_known(peer) else {
            return;
        };
        if !p.queued && !p.sending && p.outbox.iter().any(|outbox| !outbox.is_empty()) {
            p.queued = true;
            self.ready.push_back(peer);
        }
    }

    /// The want is not asked for any more with this attempt.
    fn unask(&mut self, want: u32, attempt: AttemptId) {
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

    fn finish(&mut self, now: Time, waiter: WaiterId) {
        // Persistent fetches end for no other reason than that the op is here.
        if let Some(op) = self.book.op_named(waiter.0) {
            self.op_is_here(now, op);
        }
    }

    // ---- requests ----

    /// The next request to be sent. To be followed by [`State::sent`].
    pub(crate) fn next_request(&mut self) -> Option<Request> {
        while let Some(peer) = self.ready.pop_front() {
            self.book.peer_mut(peer).queued = false;
            if let Some(request) = self.request(peer) {
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

    /// A request is out, or could not be sent, or was not, for its peer is known to be unresponsive.
    pub(crate) fn sent(&mut self, now: Time, request: &Request, out: bool) {
        self.book.peer_mut(request.peer).sending = false;
        let b = &mut self.batches[request.batch as usize];
        b.sent = Some(now);
        let serial = b.serial;
        if out {
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

    // ---- time ----

    pub(crate) fn timeout(&self) -> Option<Time> {
        let own = self.deadlines.peek().map(|Reverse((at, ..))| *at);
        [own, self.machine.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Time has passed. A request whose time is up is waited for a little longer while its peer is at
    /// work on it, or on earlier ones, but not for ever; else what is open of it counts as not
    /// answered. `read` is the time up to which all that has come was taken: before that, nobody was
    /// silent.
    pub(crate) fn time(&mut self, now: Time, read: Time) {
        while let Some(Reverse((at, batch, serial))) = self.deadlines.peek().copied()
            && at <= read
        {
            self.deadlines.pop();
            let Some(b) = self.batches.get(batch as usize) else {
                continue;
            };
            if b.serial != serial {
                continue;
            }
            let peer = self.book.peer(b.peer);
            let before_it = peer.front < b.sent();
            let busy = if before_it { peer.heard } else { b.answered };
            let until = busy
                .max(b.answered)
                .map(|at| at.after(self.config.answer_timeout()));
            let most = b.sent().after(self.config.answer_timeout() * PATIENCE);
            match until.map(|until| until.min(most)) {
                Some(until) if until > read => {
                    self.deadlines.push(Reverse((until, batch, serial)));
                }
                _ => self.unanswered(now, batch, false),
            }
        }
        self.machine.handle_timeout(now);
        self.drive(now);
    }

    /// What is open of a batch is not answered; with `lost`, because the connection has ended.
    fn unanswered(&mut self, now: Time, batch: u32, lost: bool) {
        let b = &mut self.batches[batch as usize];
        let (peer, sent) = (b.peer, b.sent());
        let asked = std::mem::take(&mut b.asked);
        let source = self.book.source_of(peer);
        let p = self.book.peer_mut(peer);
        let silent = !lost && p.heard.is_none_or(|heard| heard < sent);
        p.silent |= silent;
        // An answer may have been there, and no room for it. What never fits has to end, too: so often
        // as a want is asked for at all, that is forgiven.
        let innocent = p.overflowed.is_some_and(|at| at >= sent);
        // Before anything is decided, for that may drop wants of the same batch.
        let open: Vec<(AttemptId, u32)> = asked
            .into_iter()
            .filter(|(attempt, _)| self.attempts.remove(attempt).is_some())
            .collect();
        for (_, want) in &open {
            if let Some(want) = self.book.want_mut(*want) {
                want.asked = Asked::No;
            }
        }
        self.batches.remove(batch as usize);
        self.stats.unanswered += open.len() as u64;
        // Missing is the word of a peer that answers, and would call one that is at fault well again.
        let end = match () {
            () if lost => End::Failed(Fault::Unreachable),
            () if innocent => End::Failed(Fault::Local),
            () if silent => End::Failed(Fault::TimedOut),
            () => End::Missing,
        };
        for (attempt, want) in open {
            let mut again = None;
            if let Some(w) = self.book.want_mut(want) {
                let op = w.op;
                if lost && !std::mem::replace(&mut w.forgiven, true) {
                    again = Some(self.book.name_of_op(op));
                } else if innocent && w.spared <= self.config.num_back_off_intervals {
                    w.spared += 1;
                } else {
                    self.in_vain(now, want);
                }
            }
            self.input(now, Input::Ended { attempt, end });
            if let Some(key) = again {
                // Nobody was silent: it is asked for again over a new connection.
                self.input(now, Input::Announced { key, source });
            }
        }
    }

    /// A want was asked for in vain. Gives it up, if that was the last time; and all that is wanted
    /// of its peer, if that has answered nothing since it was first asked for this.
    ///
    /// Pauses may be cut short: by a peer that was at fault and answers again, by one that names the
    /// op again. That brings a request forward, and the next as well, but patience lasts as long as
    /// the pauses would have: a peer that comes and goes is there for some of the requests.
    pub(crate) fn in_vain(&mut self, now: Time, want: u32) {
        let w = self
            .book
            .want_mut(want)
            .expect("a want that is in the book");
        w.tries = w.tries.saturating_add(1);
        let (peer, since) = (w.peer, w.since);
        let lasted = since.zip(w.last).map(|(since, last)| last.since(since));
        let early = lasted.is_some_and(|lasted| lasted < self.patience);
        if w.tries <= self.config.num_back_off_intervals || early {
            return;
        }
        // One that was never asked for was pushed, and refused: that is an answer, too.
        let heard = self.book.peer(peer).heard;
        if since.is_none_or(|since| heard.is_some_and(|heard| heard >= since)) {
            self.stats.given_up += 1;
            self.drop_want(now, want);
        } else {
            self.stats.given_up += u64::from(self.book.peer(peer).wants);
            self.drop_peer(now, peer);
        }
    }
}
