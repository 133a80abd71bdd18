//! How long a request is waited for, and when a want is given up.
//!
//! The protocol has no request ids, and a peer that holds nothing of what it is asked for does not
//! answer at all, so silence and "I do not have it" look the same. What tells them apart is what else
//! the peer does: see [`State::time`].

use crate::{
    machine::{AttemptId, End, Fault, Input, Time},
    select::Asked,
    state::State,
};
use std::cmp::Reverse;

/// So many times the answer timeout is the longest that a request is waited for, whatever its peer
/// does meanwhile: one that keeps busy with others must not keep it for ever.
const PATIENCE: u32 = 10;

impl State {
    pub(crate) fn timeout(&self) -> Option<Time> {
        let own = self.deadlines.peek().map(|Reverse((at, ..))| *at);
        let held = self.held.front().map(|(until, _)| *until);
        [own, held, self.failing.until, self.machine.poll_timeout()]
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
        self.failing.time(now);
        self.let_go(now);
        self.machine.handle_timeout(now);
        self.drive(now);
    }

    /// What is open of a batch is not answered; with `lost`, because the connection has ended.
    pub(crate) fn unanswered(&mut self, now: Time, batch: u32, lost: bool) {
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
