//! The peer fetcher's transport: members, best first, and then our own home fetcher.
//!
//! What the origin said through the coordinator is as good as if it had said so to us: it ends the
//! fetch, so that an origin in trouble is not asked the same by every member.

use super::{
    Cluster, HOME, WORDS_TTL,
    ask::{AskError, Asking, Event, pieces},
    under_way::Entered,
};
use crate::{
    askers::{Asker, Side},
    key::{CacheKey, ChunkKey},
    plans::{self, Plans},
    traces,
    transport::{ChunkFrom, Reply, Ways, chunk_answer, held_answer},
    ttl::TtlMap,
    types::ObjectError,
};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use gannet::{
    Answer, AttemptError, FetchError, Fetcher, Heartbeat, Request, StreamError, Transport,
    engine::{End, Fault, FetchId, SourceId, Stage},
};
use gannet_cluster::{Member, Role, Through, Words};
use std::{future::IntoFuture as _, sync::Arc, time::Duration};

/// Words that end a fetch are remembered for so long.
const FINAL_TTL: Duration = Duration::from_secs(60);

/// How the peer fetcher reaches members, and falls back on the home fetcher.
#[derive(Clone, Debug)]
pub(crate) struct PeerTransport(Arc<Peer>);

#[derive(Debug)]
struct Peer {
    ways: Arc<Ways>,
    cluster: Arc<Cluster>,
    home: Fetcher<CacheKey, Reply>,
    plans: Plans,
    /// What ends a fetch, by fetch.
    finals: TtlMap<FetchId, Final>,
}

/// What a member's word means for the other candidates of a fetch.
#[derive(Clone, Debug)]
enum Final {
    /// Nobody would say anything else.
    Said(AttemptError),
    /// The coordinator takes itself for none: who stands in for it would say the same.
    NotThere,
}

impl PeerTransport {
    pub(crate) fn new(
        ways: Arc<Ways>,
        cluster: Arc<Cluster>,
        home: Fetcher<CacheKey, Reply>,
        plans: Plans,
    ) -> Self {
        Self(Arc::new(Peer {
            ways,
            cluster,
            home,
            plans,
            finals: TtlMap::new(4096, usize::MAX),
        }))
    }
}

impl Transport for PeerTransport {
    type Key = CacheKey;
    type Meta = Reply;

    async fn open(&self, request: Request<CacheKey, Reply>) -> Result<Answer<Reply>, AttemptError> {
        let peer = &self.0;
        let asker = peer.ways.askers.of(Side::Peer, request.fetch, &request.key);
        let fetch = asker.as_ref().map(|asker| asker.trace.clone());
        let fetch = fetch.unwrap_or_default();
        let span = fetch.attempt(&request, || peer.name(request.source));
        let asker = Asker::within(asker, span.parent());
        tracing::debug!(
            request = %asker.request, key = ?request.key, source = request.source.0, fetch = request.fetch.0,
            from_byte = request.from_byte, stage = ?request.stage, "attempt at a member"
        );
        let answer = peer.open(&request, &asker).await;
        if let Err(error) = &answer {
            tracing::debug!(
                request = %asker.request, key = ?request.key, source = request.source.0,
                fetch = request.fetch.0, end = ?error.end, detail = %error.detail, "attempt at a member failed"
            );
        }
        traces::opened(span, fetch, answer)
    }
}

impl Peer {
    /// What a source is called in spans.
    fn name(&self, source: SourceId) -> String {
        if source == HOME {
            return "home".to_owned();
        }
        let members = self.cluster.members();
        let member = members.by_id(source).map(Member::address);
        format!("member/{}", member.unwrap_or("?"))
    }

    async fn open(
        self: &Arc<Self>,
        request: &Request<CacheKey, Reply>,
        asker: &Asker,
    ) -> Result<Answer<Reply>, AttemptError> {
        let key = &request.key;
        let entered = self.cluster.receiving.enter(key);
        // Another fetch of this key may have ended between the caller's look and this one's begin.
        if request.stage == Stage::First {
            if let CacheKey::Chunk(chunk) = key
                && let Some((_, blob)) = self
                    .ways
                    .tiers
                    .open_local(&chunk.place(), chunk.len())
                    .await
            {
                return held_answer(chunk, &blob, request.from_byte);
            }
            if let Some(reply) = self.ways.answered_meanwhile(key) {
                return Ok(Answer::whole(reply, Bytes::new()));
            }
        }
        let members = self.cluster.members();
        let (member, is_first) = {
            let first = match members.view.through(key.placement()) {
                Through::Members { first, .. } => Some(first),
                Through::Nobody => None,
            };
            let member = members.by_id(request.source).cloned();
            let is_first = member.as_ref() == first;
            (member, is_first)
        };
        drop(members);
        match self.finals.get(&request.fetch).map(|found| found.value) {
            Some(Final::Said(error)) => return Err(error),
            Some(Final::NotThere) if !is_first && request.source != HOME => {
                return Err(AttemptError::failed(
                    Fault::NotCoordinator,
                    "the coordinator is there, and takes itself for none",
                ));
            }
            _ => {}
        }
        if request.source == HOME {
            return self.at_home(request, entered).await;
        }
        let Some(member) = member else {
            return Err(AttemptError::failed(Fault::Local, "no member any more"));
        };
        // Who is not the coordinator is asked only where that one failed, is silent, or is left alone
        // for having failed of late: so it may be told that it cannot be reached.
        let role = if is_first {
            Role::Coordinator
        } else {
            Role::StandIn
        };
        let mut asking = Asking::new(
            Arc::clone(&self.cluster),
            &self.ways.origin_id,
            key,
            request.from_byte,
            (member, role),
            (asker.clone(), request.heartbeat.clone()),
            entered,
        );
        let first = match asking.next().await {
            Ok(first) => first,
            Err(error) => return Err(self.told(request, error)),
        };
        let Some(Event::Head(head)) = first else {
            return Err(AttemptError::failed(Fault::Malformed, "no head"));
        };
        let CacheKey::Chunk(chunk) = key else {
            let reply = head.learn(key, &self.ways);
            return reply.map(|reply| Answer::whole(reply, Bytes::new()));
        };
        let peer = Arc::clone(self);
        let (fetch, key) = (request.fetch, key.clone());
        let body =
            pieces(asking).map(move |item| item.map_err(|error| peer.told_of(&key, fetch, error)));
        let body = Box::pin(body);
        Ok(chunk_answer(
            chunk,
            ChunkFrom::Member,
            request.from_byte,
            body,
        ))
    }

    /// Has our own home fetcher get it.
    async fn at_home(
        self: &Arc<Self>,
        request: &Request<CacheKey, Reply>,
        entered: Entered,
    ) -> Result<Answer<Reply>, AttemptError> {
        let key = request.key.clone();
        let working = Working::new(request.heartbeat.clone(), entered, &self.cluster);
        let told = {
            let (peer, key, fetch) = (Arc::clone(self), key.clone(), request.fetch);
            move |error: &FetchError| {
                let said = crate::failure::object_error(error, |source| {
                    peer.ways.sources.is_primary(source)
                });
                peer.told_of(&key, fetch, AskError::Said(said))
            }
        };
        let CacheKey::Chunk(chunk) = &key else {
            let plan = match key {
                CacheKey::List(_) | CacheKey::Buckets => &self.plans.listing,
                _ => &self.plans.question,
            };
            let fetch = self.home.fetch(key).plan(Arc::clone(plan));
            let fetched = fetch.priority(plans::QUESTION).await;
            drop(working);
            let reply = fetched.map_err(|error| told(&error))?.meta;
            return Ok(Answer::whole(reply, Bytes::new()));
        };
        let total = chunk.len();
        let fetch = self.home.stream(key.clone()).at(request.from_byte);
        // It goes on for as long as the peer's fetch does, which wants it.
        let fetch = fetch.plan(self.plans.ahead(total)).priority(plans::DEMAND);
        let streaming = fetch.into_future().await.map_err(|error| told(&error))?;
        let state = (streaming.body, working);
        let body = stream::unfold(Some((state, told)), |state| async move {
            let ((mut body, working), told) = state?;
            let item = body.next().await?;
            Some(match item {
                Ok(bytes) => (Ok(bytes), Some(((body, working), told))),
                Err(StreamError::Failed(error)) => (Err(told(&error)), None),
                Err(error) => {
                    let error = AttemptError::failed(Fault::Truncated, error.to_string());
                    (Err(error), None)
                }
            })
        });
        let body = Box::pin(body);
        Ok(chunk_answer(
            chunk,
            ChunkFrom::Local,
            request.from_byte,
            body,
        ))
    }

    fn told(&self, request: &Request<CacheKey, Reply>, error: AskError) -> AttemptError {
        self.told_of(&request.key, request.fetch, error)
    }

    /// What an errand's end means for the attempt, and for the candidates behind it.
    fn told_of(&self, key: &CacheKey, fetch: FetchId, error: AskError) -> AttemptError {
        let said = match error {
            AskError::Way(error) => return error,
            AskError::NotCoordinator => {
                self.finals.insert(fetch, Final::NotThere, 1, FINAL_TTL);
                return AttemptError::failed(Fault::NotCoordinator, "not the coordinator");
            }
            AskError::Said(said) => said,
        };
        self.cluster
            .words
            .insert(key.clone(), said.clone(), 64, WORDS_TTL);
        let (words, text) = (words(&said), said.to_string());
        let error = match words {
            Words::Missing => AttemptError {
                end: End::Missing,
                detail: text.into(),
            },
            Words::Changed => {
                self.changed(key);
                AttemptError::failed(Fault::Changed, text)
            }
            // No blame, and no use in asking again.
            Words::Denied | Words::SlowDown => AttemptError::failed(Fault::Forbidden, text),
            // No blame either: perhaps it is the member's way to the origin.
            Words::Failed => AttemptError::failed(Fault::Local, text),
        };
        if words.are_final() {
            self.finals
                .insert(fetch, Final::Said(error.clone()), 1, FINAL_TTL);
        }
        error
    }

    /// The origin has another version, as a member has learnt.
    fn changed(&self, key: &CacheKey) {
        if let CacheKey::Chunk(ChunkKey { version, .. }) = key {
            self.ways.meta.drop_version(&version.name, &version.etag);
            self.cluster.gone(&version.name, &version.etag);
        }
    }
}

/// What somebody's last words come to.
const fn words(said: &ObjectError) -> Words {
    match said {
        ObjectError::NoSuchKey | ObjectError::NoSuchBucket => Words::Missing,
        ObjectError::EtagChanged => Words::Changed,
        ObjectError::AccessDenied
        | ObjectError::MissingEtag
        | ObjectError::Unsupported(_)
        | ObjectError::InvalidRange { .. }
        | ObjectError::Invalid(_) => Words::Denied,
        ObjectError::SlowDown(_) => Words::SlowDown,
        ObjectError::Unavailable(_) | ObjectError::Internal(_) => Words::Failed,
    }
}

/// Beats while our own home fetcher is at work on a key: what it waits for is bounded by its plan.
#[derive(Debug)]
struct Working(tokio::task::AbortHandle);

impl Working {
    fn new(heartbeat: Heartbeat, entered: Entered, cluster: &Arc<Cluster>) -> Self {
        let cluster = Arc::clone(cluster);
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(cluster.pace.beat());
            loop {
                ticks.tick().await;
                heartbeat.beat();
                entered.sign(cluster.now(), 0, cluster.pace);
            }
        });
        Self(task.abort_handle())
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.abort();
    }
}
