//! One attempt: a task that moves bytes from a transport into a shared body.
//!
//! The task opens the request, tells the worker what the source has, and waits for its grant: not a
//! byte is appended before the engine has agreed that this answer may. From then on bytes go straight
//! into the body, and the worker hears at intervals how far they have come. However the task ends (an
//! answer, an abort, a panic of the transport), the worker hears of it exactly once.

use crate::{
    Answer, AttemptError, Request, Transport,
    body::SharedBody,
    driver::Event,
    engine::{AttemptId, End, Fault, Key},
};
use futures_util::StreamExt;
use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Duration, Instant},
};

/// An attempt reports when it has brought so much since its last report, or after
/// [`REPORT_INTERVAL`], whichever comes first; its first bytes at once.
const REPORT_BYTES: u64 = 256 << 10;
/// Small beside any timeout that a report re-arms.
const REPORT_INTERVAL: Duration = Duration::from_millis(20);

/// Leave to append.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(super) body: SharedBody,
    pub(super) epoch: u64,
    /// The datum may have so many bytes.
    pub(super) bytes_max: u64,
}

/// What an attempt's task and its transport share with the worker.
pub(crate) struct Link<K: Key, M> {
    pub(super) attempt: AttemptId,
    pub(super) events: mpsc::UnboundedSender<Event<K, M>>,
    /// Whether a sign is in the mailbox: there is at most one.
    pub(super) pending: AtomicBool,
    /// One past the last byte received, whether or not it was new.
    pub(super) position: AtomicU64,
}

impl<K: Key, M> Link<K, M> {
    /// Tells the worker that something has come, unless that is on its way already.
    fn sign(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            let attempt = self.attempt;
            let _ = self.events.send(Event::Sign { attempt });
        }
    }
}

/// Sends the end of an attempt, whatever happens to its task.
pub(super) struct Finally<K: Key, M> {
    pub(super) link: Arc<Link<K, M>>,
    pub(super) end: Option<(End, Cow<'static, str>)>,
}

impl<K: Key, M> Drop for Finally<K, M> {
    fn drop(&mut self) {
        let (end, detail) = self.end.take().unwrap_or_else(|| {
            if std::thread::panicking() {
                (End::Failed(Fault::Local), "the transport panicked".into())
            } else {
                (End::Aborted, "".into())
            }
        });
        let attempt = self.link.attempt;
        let _ = self.link.events.send(Event::Ended {
            attempt,
            end,
            detail,
        });
    }
}

/// The task of one attempt.
pub(super) async fn run<T: Transport>(
    transport: Arc<T>,
    request: Request<T::Key, T::Meta>,
    mut finally: Finally<T::Key, T::Meta>,
) {
    let asked = request.from_byte;
    let outcome = match transport.open(request).await {
        Ok(answer) => receive(answer, asked, &finally.link).await,
        Err(error) => Err(error),
    };
    finally.end = Some(match outcome {
        Ok(upto) => (End::Complete { upto }, "".into()),
        Err(AttemptError {
            end: End::Complete { .. },
            detail,
        }) => (End::Failed(Fault::Local), detail),
        Err(AttemptError { end, detail }) => (end, detail),
    });
}

async fn receive<K: Key, M>(
    answer: Answer<M>,
    asked: u64,
    link: &Link<K, M>,
) -> Result<u64, AttemptError> {
    let failed = |fault, detail: &'static str| Err(AttemptError::failed(fault, detail));
    let Answer {
        meta,
        identity,
        total,
        from_byte,
        mut body,
    } = answer;
    if from_byte > asked {
        return failed(
            Fault::Malformed,
            "the answer begins past the byte that was asked for",
        );
    }
    let (sender, grant) = oneshot::channel();
    let attempt = link.attempt;
    let _ = link.events.send(Event::Opened {
        attempt,
        identity,
        total,
        meta,
        grant: sender,
    });
    let Ok(grant) = grant.await else {
        return Err(moved_on());
    };
    let mut position = from_byte;
    let mut reports = Reports::new(position);
    while let Some(bytes) = body.next().await {
        // A body that is always ready must not keep the thread, or outlive its abort.
        tokio::task::coop::consume_budget().await;
        let bytes = bytes?;
        let upto = position.saturating_add(bytes.len() as u64);
        if total.is_some_and(|total| upto > total) {
            return failed(Fault::Malformed, "more bytes than announced");
        }
        if upto > grant.bytes_max {
            return failed(Fault::TooLarge, "more bytes than the plan allows");
        }
        if bytes.is_empty() {
            continue;
        }
        let Ok(appended) = grant.body.append(grant.epoch, attempt.0, position, bytes) else {
            return Err(moved_on());
        };
        position = upto;
        link.position.store(position, Ordering::Release);
        if reports.due(position, appended.fresh > 0) {
            link.sign();
        }
    }
    if total.is_some_and(|total| position < total) {
        return failed(Fault::Truncated, "the answer broke off");
    }
    Ok(position)
}

/// The body does not want this attempt any more; nobody is to blame.
fn moved_on() -> AttemptError {
    AttemptError {
        end: End::Aborted,
        detail: "".into(),
    }
}

/// When an attempt is to report.
struct Reports {
    contributed: bool,
    position: u64,
    at: Instant,
}

impl Reports {
    fn new(position: u64) -> Self {
        Self {
            contributed: false,
            position,
            at: Instant::now(),
        }
    }

    fn due(&mut self, position: u64, contributed: bool) -> bool {
        let first = contributed && !self.contributed;
        self.contributed |= contributed;
        let much = position - self.position >= REPORT_BYTES;
        let now = Instant::now();
        if !first && !much && now < self.at + REPORT_INTERVAL {
            return false;
        }
        self.position = position;
        self.at = now;
        true
    }
}

trait Beat: Send + Sync {
    fn beat(&self);
}

impl<K: Key + Send + Sync, M: Send> Beat for Link<K, M> {
    fn beat(&self) {
        self.sign();
    }
}

/// Tells the engine that a source is at work though it sends nothing yet: re-arms the timers for the
/// first byte and for idleness, and the hedge.
#[derive(Clone, Default)]
pub struct Heartbeat {
    link: Option<Arc<dyn Beat>>,
}

impl Heartbeat {
    /// One that nobody hears, for tests of a transport.
    pub const fn unheard() -> Self {
        Self { link: None }
    }

    pub(super) fn new<K, M>(link: Arc<Link<K, M>>) -> Self
    where
        K: Key + Send + Sync + 'static,
        M: Send + 'static,
    {
        Self { link: Some(link) }
    }

    /// The source is at work. Cheap: at most one is on its way at any time.
    pub fn beat(&self) {
        if let Some(link) = &self.link {
            link.beat();
        }
    }
}

impl fmt::Debug for Heartbeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Heartbeat")
    }
}
