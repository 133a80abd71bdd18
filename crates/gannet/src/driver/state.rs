//! What the worker keeps for each fetch and each attempt.

use super::{Flight, Head};
use crate::{
    Tried,
    body::{Budget, SharedBody},
    driver::attempt::Link,
    engine::{self, AttemptId, FetchId, Key, SourceId},
};
use std::{
    borrow::Cow,
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::Arc,
};
use tokio::task::AbortHandle;

/// Details of attempts kept for each fetch; beyond, the oldest go.
const NOTES_MAX: usize = 64;

/// A map by ids that the engine or we have chosen.
pub(super) type IdMap<I, V> = HashMap<I, V, BuildHasherDefault<IdHasher>>;

/// Ids are counted up by ourselves, so that spreading them is enough.
#[derive(Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = (self.0.rotate_left(5) ^ id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// An attempt that has not ended.
pub(super) struct Attempt<K: Key, M> {
    pub(super) fetch: FetchId,
    pub(super) task: AbortHandle,
    pub(super) link: Arc<Link<K, M>>,
    /// Told to stop: gets no grant.
    pub(super) aborting: bool,
    /// The offset that the engine knows of.
    pub(super) reported: u64,
}

/// A fetch that the engine has not forgotten.
pub(super) struct Fetch<K, M> {
    pub(super) key: K,
    pub(super) resume: bool,
    pub(super) bytes_max: u64,
    /// Under a resuming plan: the one body, once somebody needs it, and its identity.
    pub(super) flight: Option<Arc<Flight<M>>>,
    pub(super) identity: Option<u64>,
    /// Under other plans: a body for each attempt that opened.
    pub(super) own: Vec<(AttemptId, Arc<Flight<M>>)>,
    /// The answer that was judged last.
    pub(super) answer: Option<Arc<Flight<M>>>,
    /// Whether some caller was given the answer.
    pub(super) served: bool,
    pub(super) notes: Vec<Note>,
    /// The last list of failures, as people read it: many waiters share one.
    tried: Option<Explained>,
    pub(super) span: tracing::Span,
}

/// The engine's list, and as people read it.
type Explained = (Arc<[engine::Tried]>, Arc<[Tried]>);

/// Whom an attempt asked, and what became of it.
pub(super) struct Note {
    pub(super) attempt: AttemptId,
    pub(super) source: SourceId,
    pub(super) detail: Cow<'static, str>,
}

impl<K, M: Clone> Fetch<K, M> {
    pub(super) fn new(key: K, resume: bool, bytes_max: u64, span: tracing::Span) -> Self {
        Self {
            key,
            resume,
            bytes_max,
            flight: None,
            identity: None,
            own: Vec::new(),
            answer: None,
            served: false,
            notes: Vec::new(),
            tried: None,
            span,
        }
    }

    /// Takes note of an attempt; answers with the one that is forgotten for it.
    pub(super) fn note(&mut self, attempt: AttemptId, source: SourceId) -> Option<AttemptId> {
        let forgotten = (self.notes.len() >= NOTES_MAX).then(|| self.notes.remove(0).attempt);
        self.notes.push(Note {
            attempt,
            source,
            detail: Cow::Borrowed(""),
        });
        forgotten
    }

    pub(super) fn source_of(&self, attempt: AttemptId) -> Option<SourceId> {
        self.notes
            .iter()
            .rev()
            .find(|note| note.attempt == attempt)
            .map(|note| note.source)
    }

    pub(super) fn detail(&mut self, attempt: AttemptId, detail: Cow<'static, str>) {
        if let Some(note) = self
            .notes
            .iter_mut()
            .rev()
            .find(|note| note.attempt == attempt)
        {
            note.detail = detail;
        }
    }

    /// The engine's list of failures, with what the transports said.
    pub(super) fn explain(&mut self, tried: &Arc<[engine::Tried]>) -> Arc<[Tried]> {
        if let Some((known, explained)) = &self.tried
            && Arc::ptr_eq(known, tried)
        {
            return explained.clone();
        }
        let explained: Arc<[Tried]> = tried
            .iter()
            .map(|tried| Tried {
                source: tried.source,
                how: tried.how,
                took: tried.took,
                detail: (self.notes.iter().rev())
                    .find(|note| note.attempt == tried.attempt)
                    .map_or(Cow::Borrowed(""), |note| note.detail.clone()),
            })
            .collect();
        self.tried = Some((tried.clone(), explained.clone()));
        explained
    }

    /// The one body of a resuming plan.
    pub(super) fn flight(&mut self, window_max: u64, budget: &Arc<Budget>) -> &Arc<Flight<M>> {
        self.flight.get_or_insert_with(|| {
            Arc::new(Flight::new(SharedBody::new(window_max, budget.clone())))
        })
    }

    /// An attempt of a resuming plan may append: what it says of itself becomes the head of the body,
    /// unless it continues one.
    pub(super) fn admit(&mut self, identity: u64, meta: M, total: Option<u64>) {
        let Some(flight) = &self.flight else { return };
        if self.identity != Some(identity) {
            // The engine has let go of an earlier identity. An attempt of that one may have appended
            // a byte since, and may yet try: from here on it is refused.
            if self.identity.is_some() {
                flight.body.restart();
                flight.set_head(None);
            }
            self.identity = Some(identity);
        }
        let epoch = flight.body.epoch();
        match flight.head() {
            Some(head) if head.epoch == epoch && (head.total.is_some() || total.is_none()) => {}
            Some(head) if head.epoch == epoch => flight.set_head(Some(Head { total, ..head })),
            _ => flight.set_head(Some(Head { epoch, meta, total })),
        }
    }

    /// The bytes of an attempt will not be used.
    pub(super) fn discard(&mut self, attempt: AttemptId) {
        if !self.resume {
            let Some(at) = self.own.iter().position(|(own, _)| *own == attempt) else {
                return;
            };
            let (_, flight) = self.own.remove(at);
            let judged = self.answer.as_ref();
            if judged.is_some_and(|judged| Arc::ptr_eq(judged, &flight)) {
                self.answer = None;
            }
            return;
        }
        self.identity = None;
        self.answer = None;
        if std::mem::take(&mut self.served) {
            // Those who were given the answer go on reading it; whoever is not content with it gets
            // another body.
            self.flight = None;
        } else if let Some(flight) = &self.flight {
            flight.body.restart();
            flight.set_head(None);
        }
    }
}
