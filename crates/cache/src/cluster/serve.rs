//! Answering others: what a member sends when another asks it.
//!
//! What to answer is decided at the desk (`gannet_cluster::Desk`); here it is said how much is held,
//! and the answer is sent: bytes as they come, heartbeats while there are none, and what the origin
//! said where there will be none. Nothing is asked of a third member on behalf of the asker.

use super::{
    Cluster,
    answer::{Bucket, Head, Meta, Page, Trouble},
    ask::ASK,
    frame::{DATA_BYTES_MAX, Encoder, Kind, answer_key},
    message::{Purge, PurgeDone, Question, Refusal, Refused, What},
    metrics::Answered,
    seal::Seal,
    under_way::Sign,
};
use crate::{
    core::{Core, ReadPath, Route},
    edge::backend::RequestContext,
    key::{CacheKey, ChunkKey},
    read,
    traces::{Parent, Span},
    transport::Reply,
    types::{ObjectError, Segment, SegmentStream},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use gannet_cluster::{Ask, Have, Reply as Says, Role};
use gannet_link::Peer;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use std::{
    convert::Infallible,
    future::Future,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    pin::Pin,
    sync::Arc,
    time::Duration,
};
use tokio::time::Interval;

/// Forget what is known of some objects.
pub(crate) const PURGE: &str = "/gannet/1/purge";
/// Fetch a chunk into the store; the question is as for the chunk.
pub(crate) const WARM: &str = "/gannet/1/warm";
/// Whether a member is there.
pub(crate) const STATUS: &str = "/gannet/1/status";

/// The body of an answer.
pub(crate) type Served = UnsyncBoxBody<Bytes, Infallible>;

/// Answers one request of another member.
pub(crate) async fn serve(
    path: ReadPath,
    cluster: Arc<Cluster>,
    peer: Peer,
    request: Request<Bytes>,
) -> Response<Served> {
    let body = request.body();
    // A request is for one member: with a shared secret, what was overheard on its way to one would
    // otherwise be as good at another.
    let meant = request.uri().authority();
    if meant.is_some_and(|meant| meant.as_str() != cluster.me().address()) {
        tracing::warn!(peer = %peer.address, ?meant, me = ?cluster.me(), "meant for another member");
        cluster.metrics.answered(Answered::Refused);
        return text(StatusCode::MISDIRECTED_REQUEST, "meant for another member");
    }
    let secret = cluster.credentials.binding();
    let seal = Seal::new(&secret, request.uri().path(), body);
    match request.uri().path() {
        ASK => ask(&path.0, &cluster, &peer, body, &secret, &seal).await,
        WARM => warm(&path.0, &cluster, body, &seal).await,
        PURGE => purge(&path, body, &seal).await,
        STATUS => json(&seal, StatusCode::OK, &serde_json::json!({ "v": 1 })),
        _ => text(StatusCode::NOT_FOUND, "no such path"),
    }
}

async fn ask(
    core: &Arc<Core>,
    cluster: &Arc<Cluster>,
    peer: &Peer,
    body: &Bytes,
    secret: &[u8; 32],
    seal: &Seal,
) -> Response<Served> {
    let question = match Question::read(body) {
        Ok(question) => question,
        Err(why) => {
            tracing::warn!(peer = %peer.address, why, "a question that is none");
            cluster.metrics.answered(Answered::Refused);
            return text(StatusCode::BAD_REQUEST, &why);
        }
    };
    let key = match question.what.key(&core.origin_id, core.chunk_size) {
        Ok(key) => key,
        Err(why) => {
            tracing::warn!(peer = %peer.address, why, "a question for another cache");
            return refuse(cluster, seal, Refused::NotCoordinator);
        }
    };
    let mut span = core.ways.tracer.serve(question.trace.as_deref());
    if span.is_on() {
        span.set("gannet.peer", question.from());
        span.set("gannet.role", question.role_name());
        span.set("gannet.request_id", question.request.as_str());
        span.set("gannet.from_byte", question.from_byte);
        span.about(&key);
    }
    if let CacheKey::Chunk(chunk) = &key
        && question.from_byte >= chunk.len()
    {
        cluster.metrics.answered(Answered::Refused);
        return text(StatusCode::BAD_REQUEST, "nothing is left to ask for");
    }
    if let (
        What::Head {
            gone: Some(gone), ..
        },
        CacheKey::Head(name),
    ) = (&question.what, &key)
    {
        core.ways.meta.drop_version(name, gone);
    }
    let asked = question.ask(|address| cluster.member(address));
    let have = have(core, cluster, &key).await;
    let says = cluster.answer(&key, &asked, have);
    tracing::debug!(
        request = question.request, ?key, asker = ?asked.asker, role = ?asked.role, ?have, ?says,
        "asked by a member"
    );
    let mut encoder = Encoder::new(answer_key(secret, body));
    match says {
        Says::NotCoordinator => {
            span.outcome("not_coordinator");
            refuse(cluster, seal, Refused::NotCoordinator)
        }
        Says::NotHere => {
            span.outcome("not_here");
            refuse(cluster, seal, Refused::NotHere)
        }
        Says::Refer(member) => {
            span.outcome("referred");
            span.set("gannet.referred_to", member.address());
            cluster.metrics.answered(Answered::Referred);
            let frame = encoder.frame(Kind::Refer, member.address().as_bytes());
            Response::new(Full::new(frame).boxed_unsync())
        }
        Says::Serve | Says::Fill => {
            cluster.metrics.answered(Answered::Served);
            span.outcome("aborted");
            let route = if have == Have::Receiving && says == Says::Serve {
                Route::Peer
            } else {
                Route::Home
            };
            let serving = Serving {
                core: Arc::clone(core),
                cluster: Arc::clone(cluster),
                route,
                sign: cluster.receiving.sign(&key),
                began: question.from_byte,
                at: question.from_byte,
                // What is only passed on should not wait for long.
                ticks: ticks(match route {
                    Route::Peer => cluster.pace.beat() / 4,
                    _ => cluster.pace.beat(),
                }),
                stage: begin(core, &key, &question, &asked, (route, span.parent())),
                key,
                encoder,
                span,
            };
            let frames = serving.frames().map(|bytes| Ok(Frame::data(bytes)));
            Response::new(StreamBody::new(frames).boxed_unsync())
        }
    }
}

/// How much of a datum is here.
async fn have(core: &Arc<Core>, cluster: &Arc<Cluster>, key: &CacheKey) -> Have {
    let held = match key {
        CacheKey::Chunk(chunk) => {
            let (place, tiers) = (chunk.place(), &core.ways.tiers);
            // What is under way is not on disk, and the asker waits.
            tiers.held(&place, chunk.len()).is_some()
                || !core.ways.under_way.has(key)
                    && tiers.open_local(&place, chunk.len()).await.is_some()
                    && {
                        // It may have been there since before the start.
                        core.ways.versions.note(&chunk.version);
                        true
                    }
        }
        key => core.ways.answered_meanwhile(key).is_some(),
    };
    if held {
        Have::Whole
    } else if core.ways.under_way.has(key) {
        Have::Filling
    } else if cluster.receiving.has(key) {
        Have::Receiving
    } else {
        Have::Nothing
    }
}

/// An answer being sent.
struct Serving {
    core: Arc<Core>,
    cluster: Arc<Cluster>,
    key: CacheKey,
    route: Route,
    encoder: Encoder,
    stage: Stage,
    /// The first byte asked for of the chunk, and the next one.
    began: u64,
    at: u64,
    ticks: Interval,
    /// The sign from upstream that was passed on last.
    sign: Sign,
    span: Span,
}

enum Stage {
    /// A chunk whose first byte is not at hand.
    Opening(Pin<Box<dyn Future<Output = Result<SegmentStream, ObjectError>> + Send>>),
    Reading(SegmentStream),
    /// Bytes that are longer than a frame may be.
    Rest(Bytes, SegmentStream),
    /// Anything else.
    Asking(Pin<Box<dyn Future<Output = Result<Head, ObjectError>> + Send>>),
    Over,
}

fn begin(
    core: &Arc<Core>,
    key: &CacheKey,
    question: &Question,
    asked: &Ask,
    (route, trace): (Route, Parent),
) -> Stage {
    let mut hasher = DefaultHasher::new();
    asked.asker.address().hash(&mut hasher);
    let context = RequestContext {
        request_id: question.request.as_str().into(),
        // Members take turns.
        owner: (hasher.finish() >> 32) as u32,
        trace,
    };
    let (core, key) = (Arc::clone(core), key.clone());
    match key {
        CacheKey::Chunk(ChunkKey { version, index }) => {
            let from_byte = question.from_byte;
            Stage::Opening(Box::pin(async move {
                let chunk = ChunkKey { version, index };
                let all = chunk.range();
                let range = all.start + from_byte..all.end;
                read::open_for_member(&core, &chunk.version, range, &context, route).await
            }))
        }
        key => Stage::Asking(Box::pin(async move {
            answer(&core, &key, &context, route).await
        })),
    }
}

/// The answer to a question, and for how long it is good.
async fn answer(
    core: &Arc<Core>,
    key: &CacheKey,
    context: &RequestContext,
    route: Route,
) -> Result<Head, ObjectError> {
    let reply = match core.ways.answered_meanwhile(key) {
        Some(reply) => reply,
        None => core.ask_by(key.clone(), context, route).await?,
    };
    let fresh = core.ways.fresh_for(key).unwrap_or(Duration::ZERO);
    let fresh_ms = u64::try_from(fresh.as_millis()).unwrap_or(u64::MAX);
    let trouble = |error: &ObjectError| Trouble::from(error);
    Ok(match reply {
        Reply::Head(known) => Head::Object {
            answer: known
                .as_ref()
                .map(|meta| Meta::from(&**meta))
                .map_err(trouble),
            fresh_ms,
        },
        Reply::List(page) => Head::List {
            answer: page
                .as_ref()
                .map(|page| Page::from(&**page))
                .map_err(trouble),
            fresh_ms,
        },
        Reply::Buckets(buckets) => Head::Buckets {
            answer: buckets
                .as_ref()
                .map(|buckets| buckets.iter().map(Bucket::from).collect())
                .map_err(trouble),
            fresh_ms,
        },
        Reply::Bucket(answer) => Head::Bucket {
            answer: answer.as_ref().copied().map_err(trouble),
            fresh_ms,
        },
        Reply::Chunk { .. } => return Err(ObjectError::Internal("a chunk unasked for".into())),
    })
}

impl Serving {
    /// The frames of the answer, to its end.
    fn frames(self) -> impl Stream<Item = Bytes> {
        stream::unfold(self, |mut serving| async move {
            let frames = serving.next().await?;
            Some((stream::iter(frames), serving))
        })
        .flatten()
    }

    /// The next frames.
    async fn next(&mut self) -> Option<Vec<Bytes>> {
        enum Came {
            Opened(Result<SegmentStream, ObjectError>),
            Segment(Option<Result<Segment, ObjectError>>),
            Answer(Result<Head, ObjectError>),
            Tick,
        }
        loop {
            let came = match &mut self.stage {
                Stage::Over => return None,
                Stage::Rest(..) => {
                    let Stage::Rest(rest, stream) = std::mem::replace(&mut self.stage, Stage::Over)
                    else {
                        return None;
                    };
                    return Some(self.data(rest, stream));
                }
                Stage::Opening(opening) => tokio::select! {
                    biased;
                    opened = opening => Came::Opened(opened),
                    _ = self.ticks.tick() => Came::Tick,
                },
                Stage::Reading(stream) => tokio::select! {
                    biased;
                    segment = stream.next() => Came::Segment(segment),
                    _ = self.ticks.tick() => Came::Tick,
                },
                Stage::Asking(asking) => tokio::select! {
                    biased;
                    answer = asking => Came::Answer(answer),
                    _ = self.ticks.tick() => Came::Tick,
                },
            };
            match came {
                Came::Tick => {
                    if let Some(hops) = self.at_work() {
                        return Some(vec![self.encoder.beat(hops)]);
                    }
                }
                Came::Opened(Ok(stream)) => {
                    self.stage = Stage::Reading(stream);
                    let total = match &self.key {
                        CacheKey::Chunk(chunk) => chunk.len(),
                        _ => 0,
                    };
                    return Some(vec![self.head(&Head::Chunk { total })]);
                }
                Came::Segment(Some(Ok(Segment::Bytes(bytes)))) => {
                    let Stage::Reading(stream) = std::mem::replace(&mut self.stage, Stage::Over)
                    else {
                        return None;
                    };
                    return Some(self.data(bytes, stream));
                }
                Came::Segment(None) => {
                    self.stage = Stage::Over;
                    return Some(vec![self.encoder.frame(Kind::End, b"")]);
                }
                Came::Answer(Ok(head)) => {
                    self.stage = Stage::Over;
                    self.span.outcome("served");
                    let head = self.head(&head);
                    return Some(vec![head, self.encoder.frame(Kind::End, b"")]);
                }
                Came::Segment(Some(Ok(Segment::File { .. }))) => {
                    let error = ObjectError::Internal("a file unasked for".into());
                    return Some(self.fail(&error));
                }
                Came::Opened(Err(error))
                | Came::Segment(Some(Err(error)))
                | Came::Answer(Err(error)) => return Some(self.fail(&error)),
            }
        }
    }

    /// Whether somebody is at work on what is not here yet, and how often that was passed on: we
    /// ourselves, or, where we only pass on, somebody from whom we have heard since the last time.
    fn at_work(&mut self) -> Option<u8> {
        if self.route == Route::Peer {
            let sign = self.cluster.receiving.sign(&self.key);
            let before = std::mem::replace(&mut self.sign, sign);
            return (sign != before && sign != Sign::default()).then_some(sign.hops);
        }
        // Until the first byte, the queue bounds the wait; after it, the plan of what is under way.
        let works = matches!(self.stage, Stage::Opening(_) | Stage::Asking(_))
            || self.core.ways.under_way.has(&self.key);
        works.then_some(0)
    }

    fn data(&mut self, mut bytes: Bytes, stream: SegmentStream) -> Vec<Bytes> {
        let part = bytes.split_to(bytes.len().min(DATA_BYTES_MAX));
        self.stage = if bytes.is_empty() {
            Stage::Reading(stream)
        } else {
            Stage::Rest(bytes, stream)
        };
        let head = self.encoder.head(Kind::Data, self.at, &part);
        self.at += part.len() as u64;
        self.cluster.metrics.sent(part.len() as u64);
        self.span.set("gannet.bytes", self.at - self.began);
        if matches!(&self.key, CacheKey::Chunk(chunk) if chunk.len() == self.at) {
            self.span.outcome("served");
        }
        vec![head, part]
    }

    fn head(&mut self, head: &Head) -> Bytes {
        let json = serde_json::to_vec(head).unwrap_or_default();
        self.encoder.frame(Kind::Head, &json)
    }

    fn fail(&mut self, error: &ObjectError) -> Vec<Bytes> {
        self.stage = Stage::Over;
        self.span.failed(error);
        let json = serde_json::to_vec(&Trouble::from(error)).unwrap_or_default();
        vec![self.encoder.frame(Kind::Fail, &json)]
    }
}

/// The first comes at once: where there is nothing to send yet, the asker is told that we are there.
fn ticks(every: Duration) -> Interval {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}

/// Fetches a chunk that we coordinate into our store.
async fn warm(
    core: &Arc<Core>,
    cluster: &Arc<Cluster>,
    body: &Bytes,
    seal: &Seal,
) -> Response<Served> {
    let question = match Question::read(body) {
        Ok(question) => question,
        Err(why) => return text(StatusCode::BAD_REQUEST, &why),
    };
    let key = question.what.key(&core.origin_id, core.chunk_size);
    let Ok(CacheKey::Chunk(chunk)) = key else {
        return refuse(cluster, seal, Refused::NotCoordinator);
    };
    let asked = question.ask(|address| cluster.member(address));
    let key = CacheKey::Chunk(chunk.clone());
    match asked.role {
        // It hands over what it has, and is to be asked for it; the origin is not.
        Role::Holder => {
            let members = cluster.members();
            let asker = members.holder(&asked.asker);
            if cluster.is_leaving() || asker.is_none_or(|id| !members.holders(&key).contains(&id)) {
                return refuse(cluster, seal, Refused::NotHere);
            }
        }
        role => {
            let stands_in = role == Role::StandIn;
            let members = cluster.members();
            if !members.view.answers_for(key.placement(), stands_in) {
                return refuse(cluster, seal, Refused::NotCoordinator);
            }
        }
    }
    let context = RequestContext {
        request_id: question.request.as_str().into(),
        owner: u32::MAX,
        trace: Parent::default(),
    };
    match crate::warm::warm_here(core, chunk, &context).await {
        Ok(fetched) => json(seal, StatusCode::OK, &Head::Warmed { fetched }),
        Err(error) => {
            let trouble = Trouble::from(&error);
            json(seal, StatusCode::UNPROCESSABLE_ENTITY, &trouble)
        }
    }
}

async fn purge(path: &ReadPath, body: &Bytes, seal: &Seal) -> Response<Served> {
    let purge: Purge = match serde_json::from_slice(body) {
        Ok(purge) => purge,
        Err(error) => return text(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    match path
        .purge_here(purge.bucket.as_deref(), &purge.prefix)
        .await
    {
        Ok(purged) => json(seal, StatusCode::OK, &PurgeDone::from(purged)),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn refuse(cluster: &Cluster, seal: &Seal, refused: Refused) -> Response<Served> {
    cluster.metrics.answered(match refused {
        Refused::NotCoordinator => Answered::NotCoordinator,
        Refused::NotHere => Answered::NotHere,
    });
    json(seal, StatusCode::CONFLICT, &Refusal { refused })
}

/// An answer that counts, and so is sealed.
fn json(seal: &Seal, status: StatusCode, body: &impl serde::Serialize) -> Response<Served> {
    let body = serde_json::to_vec(body).unwrap_or_default();
    let answer = seal.answer(status, body.into());
    answer.map(|body| body.boxed_unsync())
}

/// One that only says that there is none.
fn text(status: StatusCode, text: &str) -> Response<Served> {
    let body = Full::new(Bytes::copy_from_slice(text.as_bytes()));
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    response
}
