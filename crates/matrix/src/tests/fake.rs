//! A federation that is made up: servers that do as they are told, and events that say what is wrong
//! with them.

use crate::{
    BodyStream, BoxFuture, Builder, Ceilings, Courier, Key, Matrix, Opts, Proof, Reason, SendError,
    Sent, Wire,
    judge::{Exam, Examine, Findings, Found, events_field},
    net::{ErrorAnswer, FederationError},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use gannet::engine::Fault;
use http::{HeaderMap, StatusCode};
use ruma_common::{
    OwnedEventId, OwnedRoomId, OwnedServerName, RoomVersionId, ServerName, owned_room_id,
};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::time::Instant;

/// What a server does when it is asked.
#[derive(Clone, Debug)]
pub(super) enum Does {
    /// Responds.
    Says(u16, Vec<(&'static str, String)>, String),
    /// Does that after a while.
    Later(Duration, Box<Self>),
    /// Sends a head, and then a byte at a time.
    Drips(Duration),
    /// Sends a head, and then no end of bytes.
    Gushes,
    /// Sends a head that announces so many bytes.
    Claims(u64),
    /// Accepts the request and says nothing.
    Hangs,
    /// Sends a head, half of an answer, and nothing more.
    Stalls,
    /// Is not there.
    Refuses,
    /// Does the first of these the first time, and so on; then the last.
    Turns(Vec<Self>),
}

impl Does {
    pub(super) fn ok(body: impl Into<String>) -> Self {
        Self::Says(200, Vec::new(), body.into())
    }

    pub(super) fn status(status: u16) -> Self {
        Self::Says(status, Vec::new(), String::new())
    }

    pub(super) fn after(self, millis: u64) -> Self {
        Self::Later(Duration::from_millis(millis), Box::new(self))
    }
}

/// Requests that were made: to whom, for what, and when.
pub(super) type Log = Arc<Mutex<Vec<(String, String, Duration)>>>;

#[derive(Clone)]
pub(super) struct Fake {
    servers: Arc<Mutex<HashMap<OwnedServerName, Does>>>,
    pub(super) log: Log,
    /// Requests whose future or body is alive.
    pub(super) open: Arc<AtomicUsize>,
    begun: Instant,
}

struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Fake {
    pub(super) fn new() -> Self {
        Self {
            servers: Arc::default(),
            log: Log::default(),
            open: Arc::default(),
            begun: Instant::now(),
        }
    }

    pub(super) fn server(&self, server: &str, does: Does) {
        self.servers.lock().unwrap().insert(name(server), does);
    }

    /// Who was asked, in order.
    pub(super) fn asked(&self) -> Vec<String> {
        let log = self.log.lock().unwrap();
        log.iter().map(|(server, ..)| server.clone()).collect()
    }

    /// Who was asked, and after how many milliseconds.
    pub(super) fn times(&self) -> Vec<(String, u128)> {
        let log = self.log.lock().unwrap();
        let time = |(server, _, at): &(String, String, Duration)| (server.clone(), at.as_millis());
        log.iter().map(time).collect()
    }

    fn next(&self, server: &ServerName) -> Does {
        let mut servers = self.servers.lock().unwrap();
        match servers.get_mut(server) {
            None => Does::Refuses,
            Some(Does::Turns(turns)) if turns.len() > 1 => turns.remove(0),
            Some(Does::Turns(turns)) => turns[0].clone(),
            Some(does) => does.clone(),
        }
    }
}

async fn act(does: Does, open: Open) -> Result<Sent, SendError> {
    let mut does = does;
    while let Does::Later(pause, then) = does {
        tokio::time::sleep(pause).await;
        does = *then;
    }
    let with = |len, body: BodyStream| {
        let body = body.inspect(move |_| {
            let _ = &open;
        });
        Ok(Sent {
            len,
            body: Box::pin(body),
        })
    };
    match does {
        Does::Says(200, _, body) => {
            let len = Some(body.len() as u64);
            with(len, Box::pin(stream::iter([Ok(Bytes::from(body))])))
        }
        Does::Says(status, headers, body) => {
            let status = StatusCode::from_u16(status).expect("a status");
            let headers: HeaderMap = (headers.into_iter())
                .map(|(name, value)| {
                    let name = http::header::HeaderName::from_static(name);
                    (name, value.parse().expect("a value"))
                })
                .collect();
            Err(if status.is_redirection() {
                FederationError::redirected(status, &headers).into()
            } else {
                let now = std::time::SystemTime::now();
                let answer = ErrorAnswer::of(status, &headers, body.as_bytes(), now);
                FederationError::Answered(answer).into()
            })
        }
        Does::Drips(pause) => {
            let body = stream::unfold((), move |()| async move {
                tokio::time::sleep(pause).await;
                Some((Ok(Bytes::from_static(b"x")), ()))
            });
            with(None, Box::pin(body))
        }
        Does::Gushes => {
            let body = stream::repeat_with(|| Ok(Bytes::from_static(&[b' '; 16 << 10])));
            with(None, Box::pin(body))
        }
        Does::Claims(len) => with(Some(len), Box::pin(stream::pending())),
        Does::Stalls => {
            let body = stream::iter([Ok(Bytes::from_static(b"{\"pdus\":["))]);
            with(None, Box::pin(body.chain(stream::pending())))
        }
        Does::Hangs => std::future::pending().await,
        Does::Refuses => Err(SendError::failed(Fault::Refused, "connection refused")),
        Does::Later(..) | Does::Turns(_) => unreachable!("unwound before"),
    }
}

impl Courier for Fake {
    fn send<'a>(
        &'a self,
        server: &'a ServerName,
        request: Wire,
    ) -> BoxFuture<'a, Result<Sent, SendError>> {
        let entry = (server.to_string(), request.path, self.begun.elapsed());
        self.log.lock().unwrap().push(entry);
        self.open.fetch_add(1, SeqCst);
        let open = Open(self.open.clone());
        Box::pin(act(self.next(server), open))
    }
}

/// Takes events for what they say that they are: `{"id": "$e", "is": "whole"}`.
pub(super) struct Believer {
    pub(super) looks: Arc<AtomicUsize>,
}

#[derive(serde::Deserialize)]
struct Said {
    id: Option<String>,
    is: String,
    version: Option<String>,
}

impl Examine for Believer {
    fn examine(&self, exam: Exam) -> BoxFuture<'static, Findings> {
        self.looks.fetch_add(1, SeqCst);
        Box::pin(async move { examined(&exam) })
    }
}

fn examined(exam: &Exam) -> Findings {
    let Ok(all) = serde_json::from_slice::<serde_json::Value>(&exam.bytes) else {
        return Err("not JSON".into());
    };
    let op = exam.key.op();
    if !op.carries_events() {
        return Ok((Vec::new(), None));
    }
    let Some(events) = all
        .get(events_field(op))
        .and_then(|events| events.as_array())
    else {
        return Err("not of the shape".into());
    };
    let text = std::str::from_utf8(&exam.bytes).expect("JSON");
    let (mut found, mut version) = (Vec::new(), None);
    for event in events {
        let start = text.find(&event.to_string()).expect("it is in there");
        let range = start..start + event.to_string().len();
        let said: Said = serde_json::from_value(event.clone()).expect("an event of the tests");
        if let Some(said) = said.version {
            version = Some(RoomVersionId::try_from(said).expect("a version"));
        }
        let event_id = said.id.map(|id| OwnedEventId::try_from(id).expect("an id"));
        let wrong = exam
            .key
            .event_id()
            .is_some_and(|asked| op != crate::Op::AuthChain && event_id.as_deref() != Some(asked));
        let reason = |forged, why: &'static str| {
            let why = why.into();
            Err(Reason { forged, why })
        };
        let end = match &*said.is {
            _ if !exam.checks.any() => Ok(Proof::Form),
            _ if wrong => reason(true, "another event"),
            "whole" => Ok(Proof::Whole),
            "cut" => Ok(Proof::Redacted),
            "forged" => reason(true, "forged"),
            _ => reason(false, "no key"),
        };
        found.push(Found {
            event_id,
            range,
            end,
        });
    }
    Ok((found, exam.version.clone().or(version)))
}

pub(super) fn name(text: &str) -> OwnedServerName {
    OwnedServerName::try_from(text).expect("a name")
}

pub(super) fn names(texts: &[&str]) -> Vec<OwnedServerName> {
    texts.iter().map(|text| name(text)).collect()
}

pub(super) fn room() -> OwnedRoomId {
    owned_room_id!("!r:room")
}

pub(super) fn id(id: &str) -> OwnedEventId {
    OwnedEventId::try_from(id).expect("an id")
}

pub(super) fn event(event: &str) -> Key {
    Key::event(room(), id(event)).expect("a key")
}

/// An event that is what it says.
pub(super) fn is(id: &str, is: &str) -> String {
    format!("{{\"id\":\"{id}\",\"is\":\"{is}\"}}")
}

/// An answer of these events.
pub(super) fn pdus(events: &[String]) -> String {
    format!("{{\"pdus\":[{}]}}", events.join(","))
}

/// The answer to `event("$e")` that is right.
pub(super) fn good() -> String {
    pdus(&[is("$e", "whole")])
}

/// Options for a room of version 11.
pub(super) fn opts() -> Opts {
    Opts::new().version(RoomVersionId::V11)
}

/// Options for these servers.
pub(super) fn via(servers: &[&str]) -> Opts {
    opts().pool(names(servers))
}

pub(super) struct Lab {
    pub(super) fake: Fake,
    pub(super) matrix: Matrix,
    /// How often an answer was examined.
    pub(super) looks: Arc<AtomicUsize>,
}

impl Lab {
    pub(super) fn new() -> Self {
        Self::with(Ceilings::default(), |builder| builder)
    }

    pub(super) fn with(ceilings: Ceilings, more: impl FnOnce(Builder) -> Builder) -> Self {
        let fake = Fake::new();
        let looks = Arc::new(AtomicUsize::new(0));
        let believer = Believer {
            looks: looks.clone(),
        };
        let courier = Arc::new(fake.clone());
        let builder = Builder::of(name("me"), courier, Arc::new(believer), ceilings).seed(1);
        let matrix = more(builder).build().expect("it can run");
        Self {
            fake,
            matrix,
            looks,
        }
    }

    /// What became of the requests of a fetch.
    pub(super) fn told(attempts: &[crate::Attempt]) -> Vec<(String, &'static str)> {
        (attempts.iter())
            .map(|attempt| (attempt.server.to_string(), attempt.how.name()))
            .collect()
    }

    /// Nothing is left behind.
    pub(super) async fn settle(&self) {
        for _ in 0..1000 {
            let gauges = self.matrix.gauges();
            if gauges.fetches == 0 && gauges.attempts == 0 && self.fake.open.load(SeqCst) == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("{:?}", self.matrix.gauges());
    }
}
