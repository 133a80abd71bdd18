//! Asking other members: one errand under way.
//!
//! An attempt at a member is one errand (`gannet_cluster::Errand`): to the coordinator, from there
//! perhaps on to a member that has the datum, and back when that one fails. Bytes are used as they come,
//! each frame once its checksum fits, and go on at the same byte when the errand goes on elsewhere.

use super::{
    Cluster,
    answer::{Head, Trouble},
    frame::{Decoder, Frame, Kind, answer_key},
    message::{Question, Refusal, Refused, What},
    metrics::Asked,
    seal::{Seal, Unread},
    under_way::{Entered, Heard, Receiving},
};
use crate::{
    askers::{Asker, Side},
    key::CacheKey,
    traces::{self, Parent, Span},
    transport::{Reply, Ways},
    types::ObjectError,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use gannet::{
    AttemptError, ByteStream, Heartbeat, Request,
    engine::{End, Fault, SourceId},
};
use gannet_cluster::{Ended, Errand, Member, Reply as Said, Role, Step};
use gannet_link::LinkError;
use http::StatusCode;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use std::{collections::VecDeque, future::Future, pin::pin, sync::Arc, time::Duration};

/// The path of a question.
pub(super) const ASK: &str = "/gannet/1/ask";
/// What is said of one that was waited for too long.
const SILENT: &str = "silent for too long";
/// The longest refusal.
const REFUSAL_BYTES_MAX: usize = 1024;

impl Cluster {
    /// The bytes of a chunk that a member has, which coordinated it before us.
    pub(crate) async fn held_chunk(
        self: &Arc<Self>,
        ways: &Ways,
        source: SourceId,
        request: &Request<CacheKey, Reply>,
        trace: Parent,
    ) -> Result<ByteStream, AttemptError> {
        let (head, asking) = self.ask_holder(ways, source, request, trace).await?;
        if !matches!(head, Head::Chunk { .. }) {
            return Err(AttemptError::failed(Fault::Malformed, "no head of a chunk"));
        }
        Ok(Box::pin(
            pieces(asking).map(|item| item.map_err(AttemptError::from)),
        ))
    }

    /// The answer to a question that a member has, which coordinated it before us. It is kept.
    pub(crate) async fn held_answer(
        self: &Arc<Self>,
        ways: &Ways,
        source: SourceId,
        request: &Request<CacheKey, Reply>,
        trace: Parent,
    ) -> Result<Reply, AttemptError> {
        let (head, _) = self.ask_holder(ways, source, request, trace).await?;
        head.learn(&request.key, ways)
    }

    /// Asks a member for what it may hold. One that does not is quick to say so, and one that does sends
    /// without waiting for anybody.
    async fn ask_holder(
        self: &Arc<Self>,
        ways: &Ways,
        source: SourceId,
        request: &Request<CacheKey, Reply>,
        trace: Parent,
    ) -> Result<(Head, Asking), AttemptError> {
        let key = &request.key;
        let asker = Asker::within(ways.askers.of(Side::Home, request.fetch, key), trace);
        let member = self.members().by_id(source).cloned();
        let member = member.ok_or_else(AttemptError::missing)?;
        // What we wait for here is a copy that is held: no relay may wait for us on its account.
        let entered = Receiving::default().enter(key);
        let mut asking = Asking::new(
            Arc::clone(self),
            &ways.origin_id,
            key,
            request.from_byte,
            (member.clone(), Role::Holder),
            (asker, request.heartbeat.clone()),
            entered,
        );
        let first = asking.next().await.map_err(|error| {
            if matches!(&error, AskError::Way(way) if matches!(way.end, End::Failed(_))) {
                // It stays for a while after it has left, and then it is gone.
                self.lost(&member);
            }
            AttemptError::from(error)
        });
        match first? {
            Some(Event::Head(head)) => Ok((head, asking)),
            _ => Err(AttemptError::failed(Fault::Malformed, "no head")),
        }
    }
}

/// The bytes of a chunk, after its head.
pub(super) fn pieces(asking: Asking) -> impl Stream<Item = Result<Bytes, AskError>> + Send {
    stream::unfold(Some((asking, VecDeque::new())), |state| async move {
        let (mut asking, mut parts): (_, VecDeque<Bytes>) = state?;
        loop {
            if let Some(part) = parts.pop_front() {
                return Some((Ok(part), Some((asking, parts))));
            }
            match asking.next().await {
                Ok(Some(Event::Data(data))) => parts = data.into(),
                Ok(Some(Event::Head(_))) => {}
                Ok(None) => return None,
                Err(error) => return Some((Err(error), None)),
            }
        }
    })
}

/// Why an errand brought nothing, or no more.
#[derive(Clone, Debug)]
pub(super) enum AskError {
    /// The way there.
    Way(AttemptError),
    /// Whoever was asked takes itself for no coordinator.
    NotCoordinator,
    /// What the origin said, or what is the matter with it.
    Said(ObjectError),
}

impl From<AskError> for AttemptError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Way(error) => error,
            AskError::NotCoordinator => Self::failed(Fault::NotCoordinator, "not the coordinator"),
            AskError::Said(said) => Self::failed(Fault::Local, said.to_string()),
        }
    }
}

/// What comes of an errand.
#[derive(Debug)]
pub(super) enum Event {
    Head(Head),
    /// The next bytes, in parts.
    Data(Vec<Bytes>),
}

/// One errand under way.
pub(super) struct Asking {
    cluster: Arc<Cluster>,
    what: What,
    asker: Asker,
    heartbeat: Heartbeat,
    entered: Entered,
    errand: Errand,
    /// The first step, until it is taken.
    step: Option<Step>,
    /// The next byte, and the last one's end; of a chunk.
    at: u64,
    end: Option<u64>,
    answer: Option<Arriving>,
    /// Whether it has brought bytes.
    brought: bool,
    role: Role,
    /// For how long it may be silent yet while other answers go on.
    lenience: Duration,
    over: bool,
}

/// An answer that is being read.
struct Arriving {
    body: Incoming,
    decoder: Decoder,
    /// Of the question that it answers.
    span: Span,
    bytes: u64,
    heard: Heard,
}

impl Asking {
    pub(super) fn new(
        cluster: Arc<Cluster>,
        origin: &str,
        key: &CacheKey,
        from_byte: u64,
        (first, role): (Member, Role),
        (asker, heartbeat): (Asker, Heartbeat),
        entered: Entered,
    ) -> Self {
        let (errand, step) = Errand::new(cluster.me().clone(), first, role);
        let what = What::of(key, origin, cluster.known_gone(key));
        Self {
            what,
            asker,
            heartbeat,
            entered,
            errand,
            step: Some(step),
            at: from_byte,
            end: match key {
                CacheKey::Chunk(chunk) => Some(chunk.len()),
                _ => None,
            },
            answer: None,
            brought: false,
            role,
            lenience: cluster.pace.lenience(),
            over: false,
            cluster,
        }
    }

    /// The next thing that comes; `None` after the last byte of a chunk.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, AskError> {
        let event = self.advance().await;
        let metrics = &self.cluster.metrics;
        match &event {
            Ok(Some(Event::Data(parts))) => {
                metrics.received(parts.iter().map(|part| part.len() as u64).sum());
            }
            Ok(Some(Event::Head(_))) if self.end.is_some() => {}
            Ok(_) if !self.over => {
                self.over = true;
                metrics.asked(Asked::Ok);
            }
            Err(AskError::Said(_)) => metrics.asked(Asked::Said),
            _ => {}
        }
        event
    }

    async fn advance(&mut self) -> Result<Option<Event>, AskError> {
        if let Some(step) = self.step.take() {
            self.follow(step, None).await?;
        }
        loop {
            let frame = match self.frame().await {
                Ok(frame) => frame,
                Err(error) => {
                    self.stopped(error).await?;
                    continue;
                }
            };
            let unfit = |what: &'static str| AttemptError::failed(Fault::Malformed, what);
            let failed = match frame.kind {
                Kind::Beat => {
                    let hops = u8::try_from(frame.offset).unwrap_or(u8::MAX);
                    self.entered
                        .sign(self.cluster.now(), hops, self.cluster.pace);
                    self.heartbeat.beat();
                    continue;
                }
                Kind::Head => match serde_json::from_slice(&frame.text()) {
                    Ok(Head::Chunk { total }) if self.end != Some(total) => {
                        unfit("a chunk of another length")
                    }
                    Ok(head) => {
                        // Nothing of importance follows it, but for chunks.
                        if self.end.is_none() {
                            self.outcome("served");
                        }
                        return Ok(Some(Event::Head(head)));
                    }
                    Err(_) => unfit("a head that is none"),
                },
                Kind::Data => {
                    let len: u64 = frame.payload.iter().map(|part| part.len() as u64).sum();
                    let left = self.end.unwrap_or(0).saturating_sub(self.at);
                    if frame.offset == self.at && len <= left {
                        self.at += len;
                        self.came(len);
                        self.brought = true;
                        return Ok(Some(Event::Data(frame.payload)));
                    }
                    unfit("bytes that were not asked for")
                }
                Kind::End if self.end.is_none_or(|end| self.at == end) => {
                    self.outcome("served");
                    return Ok(None);
                }
                Kind::End => unfit("an end before the last byte"),
                Kind::Fail => match serde_json::from_slice::<Trouble>(&frame.text()) {
                    Ok(trouble) => {
                        self.outcome("said");
                        return Err(AskError::Said(trouble.into()));
                    }
                    Err(_) => unfit("a failure that is none"),
                },
                Kind::Refer => {
                    // Somebody is there, and has told us where to go.
                    self.heartbeat.beat();
                    self.outcome("referred");
                    let address = String::from_utf8_lossy(&frame.text()).into_owned();
                    let member = self.cluster.member(&address);
                    let step = self.errand.answered(Said::Refer(member));
                    self.follow(step, None).await?;
                    continue;
                }
            };
            self.stopped(failed).await?;
        }
    }

    fn outcome(&mut self, outcome: &'static str) {
        if let Some(answer) = &mut self.answer {
            answer.outcome(outcome);
        }
    }

    /// So many bytes have come; nobody need wait for the end behind the last one.
    fn came(&mut self, bytes: u64) {
        let all = self.end == Some(self.at);
        if let Some(answer) = &mut self.answer {
            answer.bytes += bytes;
            if all {
                answer.outcome("served");
            }
        }
    }

    /// The answer that was being read does not go on.
    async fn stopped(&mut self, why: AttemptError) -> Result<(), AskError> {
        if let Some(answer) = &mut self.answer {
            answer.span.failed(&why.detail);
        }
        // One that has brought bytes is there, and has the rest.
        let step = if std::mem::take(&mut self.brought) {
            self.errand.broke_off()
        } else {
            self.errand.failed()
        };
        self.follow(step, Some(why)).await
    }

    /// For how long whoever was asked may be silent before it has failed.
    fn patience(&self) -> Duration {
        let pace = self.cluster.pace;
        if self.errand.is_referred() {
            pace.relay_patience()
        } else if self.role == Role::Holder {
            pace.holder_patience()
        } else {
            pace.patience()
        }
    }

    /// Waits for whoever was asked, for as long as it may be silent. If other answers of it go on
    /// meanwhile, it is not lost, but has much to do, or we have: then for as long again, in all.
    async fn patiently<T>(
        &self,
        lenience: &mut Duration,
        heard: &Heard,
        waited: impl Future<Output = T>,
    ) -> Option<T> {
        let (beat, patience) = (self.cluster.pace.beat(), self.patience());
        let mut waited = pin!(waited);
        let mut silent = Duration::ZERO;
        loop {
            let look = beat.min(patience.saturating_sub(silent));
            let now = self.cluster.now();
            if let Ok(came) = tokio::time::timeout(look, &mut waited).await {
                return Some(came);
            }
            silent += look;
            // Who serves what others bring is silent when they are; and a holder has but to send.
            let begins = matches!(self.role, Role::Coordinator | Role::StandIn);
            if begins && !self.errand.is_referred() && heard.since(now) && *lenience >= look {
                *lenience -= look;
                silent = Duration::ZERO;
                self.heartbeat.beat();
            }
            if silent >= patience {
                return None;
            }
        }
    }

    /// The next frame of the answer that is being read.
    async fn frame(&mut self) -> Result<Frame, AttemptError> {
        let Some(mut answer) = self.answer.take() else {
            return Err(AttemptError::failed(Fault::Local, "nobody was asked"));
        };
        let mut lenience = self.lenience;
        let heard = answer.heard.clone();
        let frame = self
            .patiently(&mut lenience, &heard, answer.frame(&self.cluster))
            .await;
        self.lenience = match &frame {
            Some(Ok(_)) => self.cluster.pace.lenience(),
            _ => lenience,
        };
        let frame = frame.unwrap_or_else(|| Err(AttemptError::failed(Fault::TimedOut, SILENT)));
        if let Err(error) = &frame
            && error.end == End::Failed(Fault::Malformed)
        {
            tracing::warn!(member = ?self.errand.at(), detail = %error.detail, "a corrupt answer");
            self.cluster.metrics.asked(Asked::Corrupt);
        }
        self.answer = Some(answer);
        frame
    }

    /// Takes steps until somebody serves. `why` is what led to the first.
    async fn follow(
        &mut self,
        mut step: Step,
        mut why: Option<AttemptError>,
    ) -> Result<(), AskError> {
        (self.answer, self.brought) = (None, false);
        loop {
            let (member, ask) = match step {
                Step::Ask(member, ask) => (member, ask),
                Step::Read => return Ok(()),
                Step::End(ended) => return Err(self.ended(ended, why)),
            };
            let request = &self.asker.request;
            let question = Question::new(&ask, self.what.clone(), self.at, request);
            let span = self.asker.trace.child(traces::Kind::Client, "ask");
            let mut span = describe(span, &member, &question);
            let question = question.traced(&span.parent());
            tracing::debug!(%request, ?member, role = ?ask.role, at = self.at, "asking");
            step = match self.post(&member, &question).await {
                Ok(Asks::Frames(mut answer)) => {
                    answer.span = span;
                    self.answer = Some(answer);
                    return Ok(());
                }
                Ok(Asks::Refused(Refused::NotCoordinator)) => {
                    span.outcome("not_coordinator");
                    self.errand.answered(Said::NotCoordinator)
                }
                Ok(Asks::Refused(Refused::NotHere)) => {
                    span.outcome("not_here");
                    self.errand.answered(Said::NotHere)
                }
                Err(error) => {
                    span.failed(&error.detail);
                    tracing::debug!(?member, detail = %error.detail, "a member failed us");
                    why = Some(error);
                    self.errand.failed()
                }
            };
        }
    }

    fn ended(&self, ended: Ended, why: Option<AttemptError>) -> AskError {
        let corrupt = |error: &AttemptError| error.end == End::Failed(Fault::Malformed);
        if !why.as_ref().is_some_and(corrupt) {
            self.cluster.metrics.asked(ended.into());
        }
        match ended {
            Ended::NotCoordinator => AskError::NotCoordinator,
            Ended::NotHere => AskError::Way(AttemptError::missing()),
            Ended::Failed => AskError::Way(
                why.unwrap_or_else(|| AttemptError::failed(Fault::Unreachable, "unreachable")),
            ),
            // Those to whom it sent us failed, not the member itself.
            Ended::Lost => AskError::Way(AttemptError::failed(Fault::Local, "led astray")),
        }
    }

    async fn post(&mut self, member: &Member, question: &Question) -> Result<Asks, AttemptError> {
        // Nobody can send us to where no member is. Whom we take for a holder may have left.
        if !self.cluster.is_member(member) && self.role != Role::Holder {
            return Err(AttemptError::failed(Fault::Local, "not a member"));
        }
        let body = serde_json::to_vec(question)
            .map_err(|error| AttemptError::failed(Fault::Local, error.to_string()))?;
        let secret = self.cluster.credentials.binding();
        let (key, seal) = (answer_key(&secret, &body), Seal::new(&secret, ASK, &body));
        let heard = self.cluster.heard(member);
        let posted = self
            .cluster
            .links
            .post(member.address(), ASK, Bytes::from(body));
        let mut lenience = self.lenience;
        let posted = self.patiently(&mut lenience, &heard, posted).await;
        self.lenience = lenience;
        let Some(posted) = posted else {
            return Err(AttemptError::failed(Fault::TimedOut, SILENT));
        };
        let answer = posted.map_err(|error| link_error(&error))?;
        heard.note(self.cluster.now());
        match answer.status() {
            StatusCode::OK => Ok(Asks::Frames(Arriving {
                body: answer.into_body(),
                decoder: Decoder::new(key),
                span: Span::default(),
                bytes: 0,
                heard,
            })),
            StatusCode::CONFLICT => {
                let read = seal.read(answer, REFUSAL_BYTES_MAX).await;
                let (_, body) = read.map_err(|unread| match unread {
                    Unread::Broken(why) => AttemptError::failed(Fault::Truncated, why),
                    Unread::Unsealed => {
                        tracing::warn!(?member, "a refusal that is not this member's");
                        self.cluster.metrics.asked(Asked::Corrupt);
                        AttemptError::failed(Fault::Malformed, unread.to_string())
                    }
                })?;
                let refusal: Refusal = serde_json::from_slice(&body)
                    .map_err(|error| AttemptError::failed(Fault::Malformed, error.to_string()))?;
                Ok(Asks::Refused(refusal.refused))
            }
            status => Err(AttemptError::failed(
                Fault::Refused,
                format!("{} answered {status}", member.address()),
            )),
        }
    }
}

/// What the span of a question says.
fn describe(mut span: Span, member: &Member, question: &Question) -> Span {
    if span.is_on() {
        span.set("server.address", member.address());
        span.set("gannet.role", question.role_name());
        span.set("gannet.request_id", question.request.as_str());
        span.set("gannet.from_byte", question.from_byte);
        span.outcome("aborted");
    }
    span
}

enum Asks {
    Frames(Arriving),
    Refused(Refused),
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.span.set("gannet.bytes", self.bytes);
        }
    }
}

impl Arriving {
    /// Says how the question ended.
    fn outcome(&mut self, outcome: &'static str) {
        self.span.outcome(outcome);
    }

    async fn frame(&mut self, cluster: &Cluster) -> Result<Frame, AttemptError> {
        loop {
            match self.decoder.next() {
                Ok(Some(frame)) => return Ok(frame),
                Ok(None) => {}
                Err(error) => {
                    return Err(AttemptError::failed(Fault::Malformed, error.to_string()));
                }
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    self.heard.note(cluster.now());
                    if let Ok(bytes) = frame.into_data() {
                        self.decoder.push(bytes);
                    }
                }
                Some(Err(error)) => {
                    return Err(AttemptError::failed(Fault::Truncated, error.to_string()));
                }
                None => return Err(AttemptError::failed(Fault::Truncated, "it broke off")),
            }
        }
    }
}

/// What a link that failed means to the engine.
fn link_error(error: &LinkError) -> AttemptError {
    let fault = match error {
        LinkError::Refused { .. } | LinkError::Tls { .. } | LinkError::NotAuthenticated { .. } => {
            Fault::Refused
        }
        LinkError::Unreachable { .. } => Fault::Unreachable,
        LinkError::TimedOut { .. } => Fault::TimedOut,
        LinkError::Broken { .. } => Fault::Truncated,
        LinkError::Malformed { .. } => Fault::Malformed,
        LinkError::Config(_) => Fault::Local,
    };
    AttemptError::failed(fault, error.to_string())
}
