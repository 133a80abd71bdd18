//! Tests of the driver, with the real engine and scripted sources.

use crate::{
    Answer, Answered, AttemptError, BodyReader, Config, Datum, ErrorKind, FetchError, Fetched,
    Fetcher, Gauges, Judge, Request, Soon, Store, StreamError, Streaming, Transport,
    engine::{
        Backoff, Commit, CommitFault, End, Fault, GroupId, Hedge, HowEnded, Lifetime, Plan, Retry,
        Scope, SourceId, Stage, Targets, Verdict,
    },
};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::join_all, stream};
use std::{
    collections::HashMap,
    future::{Future, pending},
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};

mod lifecycle;
mod outcomes;
mod streams;

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Opened = Result<Answer<u64>, AttemptError>;

/// One request as the script saw it.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    source: u64,
    from_byte: u64,
    continues: Option<u64>,
    stage: Stage,
}

/// A transport that does what a closure says; its meta is a version.
#[derive(Clone)]
struct Script {
    open: Arc<dyn Fn(Request<String, u64>) -> BoxFuture<Opened> + Send + Sync>,
    seen: Arc<Mutex<Vec<Seen>>>,
    declines: Arc<Mutex<HashMap<SourceId, Instant>>>,
}

impl Script {
    fn new<F>(open: impl Fn(Request<String, u64>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Opened> + Send + 'static,
    {
        Self {
            open: Arc::new(move |request| Box::pin(open(request))),
            seen: Arc::default(),
            declines: Arc::default(),
        }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn sources(&self) -> Vec<u64> {
        self.seen().iter().map(|seen| seen.source).collect()
    }
}

impl Transport for Script {
    type Key = String;
    type Meta = u64;

    async fn open(&self, request: Request<String, u64>) -> Opened {
        self.seen.lock().unwrap().push(Seen {
            source: request.source.0,
            from_byte: request.from_byte,
            continues: request.continues,
            stage: request.stage,
        });
        (self.open)(request).await
    }

    fn admit(&self, source: SourceId) -> Result<(), Instant> {
        match self.declines.lock().unwrap().get(&source) {
            Some(until) if *until > Instant::now() => Err(*until),
            _ => Ok(()),
        }
    }
}

/// An answer of these parts, of a version.
fn answer(
    version: u64,
    from_byte: u64,
    total: u64,
    parts: Vec<Result<Bytes, AttemptError>>,
) -> Opened {
    Ok(Answer {
        meta: version,
        identity: version,
        total: Some(total),
        from_byte,
        body: Box::pin(stream::iter(parts)),
    })
}

/// An answer whose parts are sent by the test.
fn live(version: u64, from_byte: u64, total: u64) -> (mpsc::UnboundedSender<Bytes>, Opened) {
    let (sender, mut parts) = mpsc::unbounded_channel();
    let body = stream::poll_fn(move |cx| parts.poll_recv(cx)).map(Ok);
    let answer = Answer {
        meta: version,
        identity: version,
        total: Some(total),
        from_byte,
        body: Box::pin(body),
    };
    (sender, Ok(answer))
}

/// The bytes of a version: every one tells where it stands and of which version it is.
fn datum(version: u64, range: std::ops::Range<u64>) -> Bytes {
    static PATTERN: OnceLock<Bytes> = OnceLock::new();
    let pattern = PATTERN.get_or_init(|| (0..300_000_u32).map(|at| (at % 251) as u8).collect());
    let shift = version * 77 % 251;
    pattern.slice((range.start + shift) as usize..(range.end + shift) as usize)
}

fn failed(fault: Fault) -> Opened {
    Err(AttemptError::failed(fault, "as the script says"))
}

fn resuming() -> Plan {
    Plan {
        resume: true,
        body_bytes_max: 1 << 20,
        ..Plan::default()
    }
}

/// A fetcher with so many sources, numbered from 1, in a group of their own.
fn fetcher(script: &Script, sources: u64) -> Fetcher<String, u64> {
    up(
        Fetcher::builder(script.clone())
            .config(config())
            .build()
            .unwrap(),
        sources,
    )
}

fn config() -> Config {
    Config {
        seed: Some(7),
        ..Config::default()
    }
}

fn up(fetcher: Fetcher<String, u64>, sources: u64) -> Fetcher<String, u64> {
    for source in 1..=sources {
        fetcher.add_source(SourceId(source), GroupId(source));
    }
    fetcher
}

fn key() -> String {
    "key".to_owned()
}

async fn read(mut body: BodyReader) -> Result<Vec<u8>, (usize, StreamError)> {
    let mut all = Vec::new();
    while let Some(bytes) = body.next().await {
        match bytes {
            Ok(bytes) => all.extend_from_slice(&bytes),
            Err(error) => return Err((all.len(), error)),
        }
    }
    Ok(all)
}

/// Ends the fetcher, and checks that nothing is left of it.
async fn end(fetcher: Fetcher<String, u64>) {
    fetcher.shutdown(Duration::from_secs(5)).await;
    let Gauges {
        fetches,
        waiters,
        attempts,
        body_bytes,
    } = fetcher.gauges();
    assert_eq!(
        (fetches, waiters, attempts, body_bytes),
        (0, 0, 0, 0),
        "gauges return to zero"
    );
}
