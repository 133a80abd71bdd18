//! What the op store says of answers, and what follows.
//!
//! The op store is the judge. An op that it has taken is the datum, and nobody is asked for it any
//! more; one that it leaves out was wrong, and is asked of another; a store that fails says nothing
//! of the op, which stays wanted.

use crate::{
    inbox::{Hold, OP_OVERHEAD},
    machine::{AttemptId, FetchId, Input, JudgementId, Time, Verdict},
    select::Asked,
    state::State,
};
use bytes::Bytes;
use kitsune2_api::{Op, OpId, Url};
use std::{collections::HashSet, sync::Arc};

/// Bytes of ops in one call to the op store, unless a single op has more.
const CALL_BYTES_MAX: usize = 4 << 20;

/// An op that came, and that the engine has yet to ask a judgement of.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) fetch: FetchId,
    pub(crate) url: Url,
    pub(crate) op: Op,
    pub(crate) hold: Arc<Hold>,
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

/// What is to be done when an op is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ticket {
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
    pub(crate) fn store(
        &mut self,
        url: &Url,
        op: Op,
        peer: Option<u32>,
        ticket: Ticket,
        hold: &Arc<Hold>,
    ) {
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
        let Some(Answer { url, op, hold, .. }) = answer else {
            let verdict = Verdict::Ambiguous;
            return self.input(now, Input::Judged { judgement, verdict });
        };
        self.store(&url, op, None, Ticket::Judge(judgement), &hold);
    }

    /// A fetch is forgotten. Where several answered at once, it may have left some.
    pub(crate) fn retired(&mut self, fetch: FetchId) {
        if !self.answers.is_empty() {
            self.answers.retain(|_, answer| answer.fetch != fetch);
        }
    }

    /// The engine has no use for an answer.
    pub(crate) fn discard(&mut self, attempt: AttemptId) {
        if let Some(Answer { url, op, .. }) = self.answers.remove(&attempt) {
            self.unanswer(&op.op_id, &url);
        }
    }

    /// An op that was answered for by this peer is not here, after all. Returns its want.
    fn unanswer(&mut self, id: &[u8], url: &Url) -> Option<u32> {
        let op = self.book.find(id)?;
        let want = self.book.between(op, self.book.peer_at(url)?)?;
        let w = self.book.want_mut(want)?;
        (w.asked == Asked::Answered).then(|| {
            w.asked = Asked::No;
            want
        })
    }

    /// The next ops to be stored in one call, each once. To be followed by [`State::stored`].
    pub(crate) fn next_store_call(&mut self) -> Option<Vec<Item>> {
        let first = self.to_store.pop_front()?;
        let mut bytes = first.data.len();
        let mut ids = HashSet::from([first.id.clone()]);
        let mut items = vec![first];
        while items.len() < self.config.max_ops_per_store_call as usize
            && let Some(next) = self.to_store.front()
            && bytes + next.data.len() <= CALL_BYTES_MAX
            && ids.insert(next.id.clone())
        {
            bytes += next.data.len();
            items.extend(self.to_store.pop_front());
        }
        Some(items)
    }

    /// What became of the items of a call; and what the store says it has beside them.
    pub(crate) fn stored(&mut self, now: Time, items: Vec<Item>, fates: &[Fate], beside: &[OpId]) {
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
            if *fate != Fate::Stored
                && item.ticket != Ticket::Unsolicited
                && let Some(want) = self.unanswer(&item.id, &item.url)
                && *fate == Fate::Refused
            {
                self.in_vain(now, want);
            }
            if let Ticket::Judge(judgement) = item.ticket {
                let verdict = match fate {
                    Fate::Stored => Verdict::Valid,
                    Fate::Refused => Verdict::Invalid,
                    Fate::Failed => Verdict::Ambiguous,
                };
                self.input(now, Input::Judged { judgement, verdict });
                self.drive(now);
            }
            if *fate == Fate::Stored {
                self.obtained(now, &item.id, Some(&item.url));
            }
        }
        for id in beside {
            self.note_stored(id);
            self.obtained(now, id, None);
        }
        self.drive(now);
    }

    /// The store has an op: if it is still wanted, it came by another way than its fetch.
    fn obtained(&mut self, now: Time, id: &[u8], from: Option<&Url>) {
        let Some(op) = self.book.find(id) else {
            return;
        };
        let key = self.book.name_of_op(op);
        let peer = from.and_then(|url| self.book.peer_at(url));
        let from = peer.map(|peer| self.book.source_of(peer));
        self.input(now, Input::Obtained { key, from });
        self.drive(now);
        // Should the engine know nothing of it, it is not wanted all the same.
        if let Some(op) = self.book.op_named(key) {
            self.op_is_here(now, op);
        }
    }
}

/// What an op takes that is held.
pub(crate) fn cost(id: &Bytes, data: &Bytes) -> u64 {
    (id.len() + data.len() + OP_OVERHEAD) as u64
}
