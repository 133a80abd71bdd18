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
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

/// Bytes of ops in one call to the op store, unless a single op has more.
const CALL_BYTES_MAX: usize = 4 << 20;

/// Ops of one peer in a row, in one call to the op store.
const TURN: usize = 64;
/// While the op store fails, there is a request after so long, then after twice as long each time, and at
/// most so long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// A failure so long ago says nothing any more.
const STALE: Duration = Duration::from_secs(60);

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

/// What waits for the op store: a line for each peer that sent something, so that none has to wait for
/// all that another sends.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    by_peer: HashMap<Url, VecDeque<Item>>,
    /// Peers that wait for their turn.
    turns: VecDeque<Url>,
    len: usize,
}

impl Lines {
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    fn push(&mut self, item: Item) {
        self.len += 1;
        if let Some(line) = self.by_peer.get_mut(&item.url) {
            return line.push_back(item);
        }
        self.turns.push_back(item.url.clone());
        let line = VecDeque::from([item]);
        self.by_peer.insert(line[0].url.clone(), line);
    }

    /// What goes into one call: a few of each peer in turn, each op once.
    fn call(&mut self, ops_max: usize) -> Option<Vec<Item>> {
        let (mut ids, mut items, mut bytes) = (HashSet::new(), Vec::new(), 0);
        while let Some(url) = self.turns.pop_front() {
            let line = self
                .by_peer
                .get_mut(&url)
                .expect("who has a turn has a line");
            let most = ops_max.min(items.len() + TURN);
            let before = items.len();
            while items.len() < most
                && let Some(next) = line.front()
                && (items.is_empty() || bytes + next.data.len() <= CALL_BYTES_MAX)
                && ids.insert(next.id.clone())
            {
                bytes += next.data.len();
                items.extend(line.pop_front());
            }
            if line.is_empty() {
                self.by_peer.remove(&url);
            } else {
                self.turns.push_back(url);
            }
            // Full, or the next in turn is not for this call.
            if items.len() == ops_max || items.len() == before {
                break;
            }
        }
        self.len -= items.len();
        (!items.is_empty()).then_some(items)
    }
}

/// Whether the op store fails on all that it is given. One call that does may be an op's own fault, two
/// in a row hardly: then nothing is asked for, but for a request now and then, to see whether it is over.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Failing {
    /// Calls that failed in a row; those of one pause count as one.
    count: u32,
    /// When it failed last.
    last: Time,
    /// Nothing is asked for before this.
    pub(crate) until: Option<Time>,
    /// Something was asked for since that was set.
    probed: bool,
}

impl Failing {
    /// A call to the op store has ended.
    fn ended(&mut self, now: Time, fates: &[Fate], asked_for: bool) {
        if fates.iter().any(|fate| *fate != Fate::Failed) {
            return *self = Self::default();
        }
        if !asked_for {
            return;
        }
        self.last = now;
        if self.count < 2 || std::mem::take(&mut self.probed) {
            self.count = self.count.saturating_add(1);
            let doublings = self.count.checked_sub(2);
            let pause = doublings.map(|n| FIRST_PAUSE.saturating_mul(1 << n.min(16)));
            self.until = pause.map(|pause| now.after(pause.min(LAST_PAUSE)));
        }
    }

    /// Something is asked for. Who is asked may not answer, so there is another soon.
    pub(crate) fn asked(&mut self, now: Time) {
        if self.count >= 2 {
            self.until = Some(now.after(FIRST_PAUSE));
            self.probed = true;
        }
    }

    /// Time has passed.
    pub(crate) fn time(&mut self, now: Time) {
        if self.until.is_some_and(|until| until <= now) {
            self.until = None;
        }
        if self.count > 0 && self.last.after(STALE) <= now {
            *self = Self::default();
        }
    }
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
        self.to_store.push(Item {
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
        self.to_store
            .call(self.config.max_ops_per_store_call as usize)
    }

    /// What became of the items of a call; and what the store says it has beside them.
    pub(crate) fn stored(&mut self, now: Time, items: Vec<Item>, fates: &[Fate], beside: &[OpId]) {
        // What anybody may push says nothing against the store.
        let asked_for = items.iter().any(|item| item.ticket != Ticket::Unsolicited);
        self.failing.ended(now, fates, asked_for);
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
