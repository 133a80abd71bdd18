//! Answers: whose they are, what the op store says of them, and what follows.
//!
//! The op store is the judge. An op that it has taken is the datum, and nobody is asked for it any
//! more; one that it leaves out was wrong, and is asked of another; a store that fails says nothing
//! of the op, which stays wanted.

use crate::{
    book::Asked,
    inbox::Hold,
    machine::{AttemptId, End, Input, JudgementId, Time, Verdict},
    state::State,
};
use bytes::Bytes;
use kitsune2_api::{Op, Url};
use std::sync::Arc;

/// Bytes of ops in one call to the op store, unless a single op has more.
const CALL_BYTES_MAX: usize = 4 << 20;

/// An op that came, and that the engine has yet to ask a judgement of.
#[derive(Debug)]
pub(crate) struct Answer {
    peer: u32,
    op: Op,
    hold: Arc<Hold>,
}

/// An op to be stored.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) id: Bytes,
    pub(crate) data: Bytes,
    pub(crate) metadata: Option<Bytes>,
    /// Who sent it.
    pub(crate) url: Url,
    ticket: Ticket,
    /// Counted as held until this is dropped.
    #[expect(dead_code, reason = "held for its drop")]
    hold: Arc<Hold>,
}

/// What an op takes while it waits to be stored: for a small one, that is not its data.
fn cost(id: &Bytes, data: &Bytes) -> u64 {
    (size_of::<Item>() + id.len() + data.len()) as u64
}

/// What is to be done when an op is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ticket {
    /// The engine asked.
    Judge(JudgementId),
    /// It is wanted, but was not in flight: it came late, or unasked from a peer that offers it.
    Late,
    /// It was not asked of the peer that sent it.
    Unsolicited,
}

/// What became of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The store has it.
    Stored,
    /// The store works, and did not take it.
    Refused,
    /// The store failed.
    Failed,
}

impl State {
    /// Ops came from a peer.
    pub(crate) fn response(&mut self, now: Time, url: &Url, ops: Vec<Op>, hold: &Arc<Hold>) {
        let peer = self.book.peer_at(url);
        let (mut count, mut bytes, mut late) = (0, 0, false);
        for op in ops {
            let found = self.book.find(&op.op_id).zip(peer);
            let want = found.and_then(|(found, peer)| self.book.between(found, peer));
            let Some((want, peer)) = want.zip(peer) else {
                self.unsolicited(url, op, hold);
                continue;
            };
            let len = op.data.len() as u64;
            let w = self.book.want_mut(want).expect("found just now");
            match w.asked {
                Asked::In(attempt, batch) => {
                    w.asked = Asked::Answered;
                    self.attempts.remove(&attempt);
                    let b = &mut self.batches[batch as usize];
                    b.answered = Some(now);
                    let sent = b.sent().min(now);
                    self.close_one(batch);
                    let p = self.book.peer_mut(peer);
                    p.front = p.front.max(sent);
                    count += 1;
                    bytes += len;
                    let hold = hold.clone();
                    self.answers.insert(attempt, Answer { peer, op, hold });
                    let end = End::Complete { upto: len };
                    self.input(now, Input::Ended { attempt, end });
                }
                Asked::No | Asked::Soon(_) => {
                    if w.since.is_some() {
                        self.stats.late += 1;
                        late = true;
                        count += 1;
                        bytes += len;
                    }
                    self.store(url, op, None, Ticket::Late, hold);
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
        let cost = cost(&op.op_id, &op.data);
        if !self.config.accept_unsolicited {
            self.stats.unsolicited_refused += 1;
            return;
        }
        let most = u64::from(self.config.max_incoming_bytes / 4);
        if self.unsolicited_bytes > 0 && self.unsolicited_bytes + cost > most {
            self.stats.unsolicited_dropped += 1;
            return;
        }
        self.stats.unsolicited += 1;
        self.unsolicited_bytes += cost;
        self.store(url, op, None, Ticket::Unsolicited, hold);
    }

    fn store(&mut self, url: &Url, op: Op, peer: Option<u32>, ticket: Ticket, hold: &Arc<Hold>) {
        let found = self.book.find(&op.op_id);
        let peer = peer.or_else(|| self.book.peer_at(url));
        let metadata = found.and_then(|found| self.book.metadata(found, peer));
        self.to_store.push_back(Item {
            id: op.op_id,
            data: op.data,
            metadata,
            url: url.clone(),
            ticket,
            hold: hold.clone(),
        });
    }

    pub(crate) fn judge(&mut self, now: Time, judgement: JudgementId, by: &[AttemptId]) {
        let answer = by.iter().find_map(|attempt| self.answers.remove(attempt));
        let Some(Answer { peer, op, hold }) = answer else {
            let verdict = Verdict::Ambiguous;
            return self.input(now, Input::Judged { judgement, verdict });
        };
        let url = self.book.peer(peer).url.clone();
        self.store(&url, op, Some(peer), Ticket::Judge(judgement), &hold);
    }

    /// The next ops to be stored in one call, all from one peer: if one of them makes the call fail,
    /// nobody else's do. To be followed by [`State::stored`].
    pub(crate) fn next_store_call(&mut self) -> Option<Vec<Item>> {
        let first = self.to_store.pop_front()?;
        let mut bytes = first.data.len();
        let mut items = vec![first];
        while items.len() < self.config.max_ops_per_store_call as usize
            && let Some(next) = self.to_store.front()
            && next.url == items[0].url
            && bytes + next.data.len() <= CALL_BYTES_MAX
        {
            bytes += next.data.len();
            items.extend(self.to_store.pop_front());
        }
        Some(items)
    }

    /// What became of the items of a call.
    pub(crate) fn stored(&mut self, now: Time, items: Vec<Item>, fates: &[Fate]) {
        for (item, fate) in items.into_iter().zip(fates) {
            if item.ticket == Ticket::Unsolicited {
                self.unsolicited_bytes -= cost(&item.id, &item.data);
            }
            match fate {
                Fate::Stored => {
                    self.stats.ops_stored += 1;
                    self.stats.bytes_stored += item.data.len() as u64;
                    self.note_stored(&item.id);
                }
                Fate::Refused => self.stats.refused += 1,
                Fate::Failed => self.stats.store_failures += 1,
            }
            match item.ticket {
                Ticket::Judge(judgement) => self.judged(now, &item, judgement, *fate),
                Ticket::Late | Ticket::Unsolicited if *fate == Fate::Stored => {
                    if let Some(op) = self.book.find(&item.id) {
                        let key = self.book.name_of_op(op);
                        let peer = self.book.peer_at(&item.url);
                        let from = peer.map(|peer| self.book.source_of(peer));
                        self.input(now, Input::Obtained { key, from });
                    }
                }
                Ticket::Late | Ticket::Unsolicited => {}
            }
            self.drive(now);
        }
    }

    fn judged(&mut self, now: Time, item: &Item, judgement: JudgementId, fate: Fate) {
        let verdict = match fate {
            Fate::Stored => Verdict::Valid,
            Fate::Refused => Verdict::Invalid,
            Fate::Failed => Verdict::Ambiguous,
        };
        if fate != Fate::Stored {
            let op = self.book.find(&item.id).zip(self.book.peer_at(&item.url));
            let want = op.and_then(|(op, peer)| self.book.between(op, peer));
            if let Some(want) = want
                && let Some(w) = self.book.want_mut(want)
                && w.asked == Asked::Answered
            {
                w.asked = Asked::No;
                if fate == Fate::Refused {
                    self.in_vain(now, want);
                }
            }
        }
        self.input(now, Input::Judged { judgement, verdict });
    }
}
