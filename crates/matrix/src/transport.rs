//! One attempt: one signed request to one server.
//!
//! What a status means is said where it is read (`FederationError::end`); what is done about it here:
//! a server that does not have it, or not for us, is none the worse for it, but the last to be asked for
//! the same again. An answer may be so large and no larger, whatever its server announces. However an
//! attempt ends, what became of it is in the book.

use crate::{
    Courier, Op, SendError, Sent,
    book::{Book, FetchKey, How, Record},
    courier::BodyStream,
    memo::{About, Memo, Subject},
    metrics::Metrics,
    plan::why_dropped,
    roster::Roster,
};
use futures_util::StreamExt;
use gannet::{
    Answer, AttemptError, Request, Transport,
    engine::{Fault, Plan},
};
use std::{borrow::Cow, sync::Arc};
use tokio::time::Instant;

/// An answer comes in pieces of so many bytes, on average: each of them costs the same, so that an answer
/// in pieces of one byte would take minutes of a processor.
const PIECE_BYTES_MIN: u64 = 16;
/// So many pieces are taken however small they are.
const PIECES_MIN: u64 = 4096;

/// Requests to servers of the federation.
pub(crate) struct FederationTransport {
    pub(crate) courier: Arc<dyn Courier>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) book: Arc<Book>,
    pub(crate) memo: Arc<Memo>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Transport for FederationTransport {
    type Key = FetchKey;
    type Meta = Arc<Record>;

    async fn open(
        &self,
        request: Request<FetchKey, Arc<Record>>,
    ) -> Result<Answer<Arc<Record>>, AttemptError> {
        let Request {
            key, source, fetch, ..
        } = request;
        let Some(server) = self.roster.server(source) else {
            return Err(AttemptError::failed(Fault::Local, "an unknown server"));
        };
        let op = key.key.op();
        let plan = self.book.plan(&key);
        let record = self.book.begin(&key, server, fetch);
        let mut under_way = UnderWay::new(record, plan, op, Arc::clone(&self.metrics));
        let wire = key.key.wire();
        let name = &under_way.record.server.name;
        tracing::debug!(server = %name, path = %wire.path, "asking");
        let Sent { len: total, body } = match self.courier.send(name, wire).await {
            Ok(sent) => sent,
            Err(error) => {
                if matches!(error.how, How::Missing | How::Forbidden) {
                    let about = About::of(&key.key);
                    self.memo.failed(Subject::Of(about), name);
                }
                return Err(under_way.fail(error));
            }
        };
        let now = Instant::now();
        (under_way.opened, under_way.last) = (Some(now), now);
        if let Some(total) = total
            && total > under_way.bytes_max
        {
            return Err(under_way.fail(too_large(total)));
        }
        Ok(Answer {
            meta: Arc::clone(&under_way.record),
            identity: 0,
            total,
            from_byte: 0,
            body: watched(body, under_way),
        })
    }
}

/// The bytes, with an eye on how they end.
fn watched(body: BodyStream, under_way: UnderWay) -> gannet::ByteStream {
    let state = Some((body, under_way));
    Box::pin(futures_util::stream::unfold(state, |state| async {
        let (mut body, mut under_way) = state?;
        match body.next().await {
            Some(Ok(bytes)) => {
                under_way.last = Instant::now();
                under_way.bytes += bytes.len() as u64;
                under_way.pieces += 1;
                under_way.metrics.bytes(bytes.len() as u64);
                if under_way.bytes > under_way.bytes_max {
                    let error = too_large(under_way.bytes);
                    return Some((Err(under_way.fail(error)), None));
                }
                if under_way.pieces > PIECES_MIN + under_way.bytes / PIECE_BYTES_MIN {
                    let why = "its answer came in pieces of a few bytes";
                    let error = SendError::failed(Fault::Malformed, why);
                    return Some((Err(under_way.fail(error)), None));
                }
                Some((Ok(bytes), Some((body, under_way))))
            }
            Some(Err(error)) => Some((Err(under_way.fail(error)), None)),
            None => {
                // What it is worth is for the judge to say. Should nobody ask, another was faster.
                under_way.end(How::Dropped, "");
                None
            }
        }
    }))
}

fn too_large(bytes: u64) -> SendError {
    SendError::failed(
        Fault::TooLarge,
        format!("an answer of {bytes} bytes or more is too large"),
    )
}

/// An attempt that has not ended. Dropped, it was given up.
struct UnderWay {
    record: Arc<Record>,
    plan: Option<Arc<Plan>>,
    op: Op,
    metrics: Arc<Metrics>,
    opened: Option<Instant>,
    last: Instant,
    bytes: u64,
    bytes_max: u64,
    pieces: u64,
}

impl UnderWay {
    fn new(record: Arc<Record>, plan: Option<Arc<Plan>>, op: Op, metrics: Arc<Metrics>) -> Self {
        Self {
            last: record.began,
            bytes_max: plan.as_ref().map_or(u64::MAX, |plan| plan.body_bytes_max),
            record,
            plan,
            op,
            metrics,
            opened: None,
            bytes: 0,
            pieces: 0,
        }
    }

    fn end(&mut self, how: How, detail: impl Into<Cow<'static, str>>) {
        self.record.end(how, detail);
        // An answer is counted by what the judge says of it.
        if how != How::Dropped {
            self.metrics.attempt(self.op, how);
        }
    }

    fn fail(&mut self, error: SendError) -> AttemptError {
        let SendError { end, how, detail } = error;
        // Cut as the engine's are.
        let cut = AttemptError::failed(Fault::Local, detail);
        self.end(how, cut.detail.clone());
        AttemptError { end, ..cut }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.record.has_ended() {
            return;
        }
        let took = self.record.began.elapsed();
        let opened = self.opened.map(|at| at.elapsed());
        let silent = self.last.elapsed();
        let why = (self.plan.as_ref())
            .and_then(|plan| why_dropped(plan, took, opened, silent, self.bytes));
        match why {
            Some(why) => self.end(How::TimedOut, why),
            None => {
                self.record.end(How::Dropped, "");
                self.metrics.attempt(self.op, How::Dropped);
            }
        }
    }
}
