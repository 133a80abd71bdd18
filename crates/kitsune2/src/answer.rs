//! Answers: whose they are, and what they say of their peer.

use crate::{
    inbox::Hold,
    judge::{Answer, Ticket, cost},
    machine::{AttemptId, End, Input, Time},
    select::Asked,
    state::State,
};
use kitsune2_api::{Op, Url};
use std::{collections::HashSet, sync::Arc};

impl State {
    /// Ops came from a peer.
    pub(crate) fn response(&mut self, now: Time, url: &Url, ops: Vec<Op>, hold: &Arc<Hold>) {
        let peer = self.book.peer_at(url);
        let (mut count, mut bytes, mut late) = (0, 0, false);
        let mut unsolicited = HashSet::new();
        for op in ops {
            let found = self.book.find(&op.op_id).zip(peer);
            let want = found.and_then(|(found, peer)| self.book.between(found, peer));
            let Some((want, peer)) = want.zip(peer) else {
                match unsolicited.insert(op.op_id.clone()) {
                    true => self.unsolicited(url, op, hold),
                    false => self.stats.repeated += 1,
                }
                continue;
            };
            let len = op.data.len() as u64;
            let w = self.book.want_mut(want).expect("found just now");
            let asked = std::mem::replace(&mut w.asked, Asked::Answered);
            let was_asked_for = w.since.is_some();
            let key = {
                let op = w.op;
                self.book.name_of_op(op)
            };
            match asked {
                Asked::In(attempt, batch) => {
                    let b = &mut self.batches[batch as usize];
                    b.answered = Some(now);
                    let sent = b.sent().min(now);
                    self.close_one(batch);
                    let p = self.book.peer_mut(peer);
                    p.front = p.front.max(sent);
                    count += 1;
                    bytes += len;
                    self.answered(now, attempt, key, url, op, hold);
                }
                // About to be asked for again, or for the first time: it need not be.
                Asked::Soon(attempt) => {
                    if was_asked_for {
                        self.stats.late += 1;
                        late = true;
                        count += 1;
                        bytes += len;
                    }
                    self.answered(now, attempt, key, url, op, hold);
                }
                Asked::No => {
                    if was_asked_for {
                        self.stats.late += 1;
                        late = true;
                        count += 1;
                        bytes += len;
                    }
                    self.store(url, op, Some(peer), Ticket::Late, hold);
                }
                Asked::Answered => self.stats.repeated += 1,
            }
        }
        if let Some(peer) = peer.filter(|_| count > 0) {
            let config = self.config.clone();
            let p = self.book.peer_mut(peer);
            p.heard = Some(now);
            p.silent = false;
            p.pace.answered(count, bytes, &config);
            if late {
                p.pace.late();
            }
            self.rewindow(now, peer);
        }
        self.drive(now);
    }

    /// What an attempt was for has come.
    fn answered(
        &mut self,
        now: Time,
        attempt: AttemptId,
        key: u64,
        url: &Url,
        op: Op,
        hold: &Arc<Hold>,
    ) {
        self.attempts.remove(&attempt);
        let upto = op.data.len() as u64;
        if let Some(fetch) = self.machine.find(&key) {
            let answer = Answer {
                fetch,
                url: url.clone(),
                op,
                hold: hold.clone(),
            };
            self.answers.insert(attempt, answer);
        }
        let end = End::Complete { upto };
        self.input(now, Input::Ended { attempt, end });
    }

    /// Tells the engine of a peer's window, where it has changed by a quarter.
    fn rewindow(&mut self, now: Time, peer: u32) {
        let window = self.book.peer(peer).pace.window(&self.config);
        let p = self.book.peer_mut(peer);
        let most = window == self.config.max_ops_in_flight_per_peer;
        if window.abs_diff(p.window) > p.window / 4 || most && window != p.window {
            p.window = window;
            self.limit(now, peer);
        }
    }

    fn unsolicited(&mut self, url: &Url, op: Op, hold: &Arc<Hold>) {
        if !self.config.accept_unsolicited {
            self.stats.unsolicited_refused += 1;
            return;
        }
        let cost = cost(&op.op_id, &op.data);
        let most = u64::from(self.config.max_incoming_bytes / 4);
        if self.unsolicited_bytes > 0 && self.unsolicited_bytes + cost > most {
            self.stats.unsolicited_dropped += 1;
            return;
        }
        self.stats.unsolicited += 1;
        self.unsolicited_bytes += cost;
        self.store(url, op, None, Ticket::Unsolicited, hold);
    }
}
