//! What operators do to the whole cluster through one member: purge, warm, look.

use super::{
    Cluster,
    answer::{Head, Trouble},
    message::{Look, Purge, PurgeDone, Question, What},
    metrics::Asked,
    seal::{Seal, Unread},
    serve::{PURGE, STATUS, WARM},
};
use crate::{
    edge::backend::RequestContext,
    key::{CacheKey, ChunkKey},
    types::ObjectError,
    warm::Purged,
};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use gannet_cluster::{Ask, Member, Role, Through};
use http::StatusCode;
use std::time::Duration;

/// The longest answer to anything of this.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Members asked at once.
const AT_ONCE: usize = 64;
/// So long a member may take to forget, or to say that it is there.
const PATIENCE: Duration = Duration::from_secs(10);
/// So long it may take to warm a chunk: as long as the origin may take to send one.
const WARM_PATIENCE: Duration = Duration::from_secs(330);

impl Cluster {
    /// Has all other members forget what is known under a prefix. What each forgot, or why it did not.
    pub(crate) async fn purge_others(
        &self,
        bucket: Option<&str>,
        prefix: &str,
    ) -> Vec<(Member, Result<Purged, String>)> {
        let members: Vec<Member> = self.members().others().cloned().collect();
        let mut purged: Vec<_> = stream::iter(members)
            .map(|member| {
                let purge = Purge::new(bucket, prefix);
                let body = Bytes::from(serde_json::to_vec(&purge).unwrap_or_default());
                async move {
                    let done = match self.tell(&member, PURGE, body, PATIENCE).await {
                        Ok((StatusCode::OK, body)) => {
                            let done = serde_json::from_slice::<PurgeDone>(&body);
                            done.map(Purged::from).map_err(|error| error.to_string())
                        }
                        Ok((status, _)) => Err(format!("answered {status}")),
                        Err(error) => Err(error),
                    };
                    (member, done)
                }
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        purged.sort_by(|a, b| a.0.cmp(&b.0));
        purged
    }

    /// Whether each other member answers, or why it does not.
    pub(crate) async fn look_at_others(&self) -> Vec<(Member, Result<Duration, String>)> {
        let members: Vec<Member> = self.members().others().cloned().collect();
        let mut seen: Vec<_> = stream::iter(members)
            .map(|member| async move {
                let asked = tokio::time::Instant::now();
                let look = serde_json::to_vec(&Look::new()).unwrap_or_default();
                let there = match self.tell(&member, STATUS, look.into(), PATIENCE).await {
                    Ok((StatusCode::OK, _)) => Ok(asked.elapsed()),
                    Ok((status, _)) => Err(format!("answered {status}")),
                    Err(error) => Err(error),
                };
                (member, there)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        seen.sort_by(|a, b| a.0.cmp(&b.0));
        seen
    }

    /// Has a chunk fetched into the store of its coordinator, or of the runner-up. `None` where that is
    /// for us to do: we coordinate it, or neither can.
    pub(crate) async fn warm(
        &self,
        origin: &str,
        chunk: &ChunkKey,
        context: &RequestContext,
    ) -> Option<Result<bool, ObjectError>> {
        let key = CacheKey::Chunk(chunk.clone());
        let asks = {
            let members = self.members();
            let Through::Members { first, second } = members.view.through(key.placement()) else {
                return None;
            };
            let first = (first.clone(), Role::Coordinator);
            let second = second.map(|second| (second.clone(), Role::StandIn));
            [Some(first), second]
        };
        for (member, role) in asks.into_iter().flatten() {
            let ask = Ask {
                asker: self.me().clone(),
                role,
                failed: Vec::new(),
            };
            let what = What::of(&key, origin, None);
            let question = Question::new(&ask, what, 0, &context.request_id);
            let body = Bytes::from(serde_json::to_vec(&question).unwrap_or_default());
            let said = self.tell(&member, WARM, body, WARM_PATIENCE).await;
            tracing::debug!(request = %context.request_id, ?chunk, ?member, ok = said.is_ok(), "warming elsewhere");
            match said {
                Ok((StatusCode::OK, body)) => {
                    if let Ok(Head::Warmed { fetched }) = serde_json::from_slice(&body) {
                        return Some(Ok(fetched));
                    }
                }
                Ok((StatusCode::UNPROCESSABLE_ENTITY, body)) => {
                    if let Ok(trouble) = serde_json::from_slice::<Trouble>(&body) {
                        return Some(Err(trouble.into()));
                    }
                }
                // It takes itself for no coordinator, or is not there.
                _ => {}
            }
        }
        None
    }

    /// Has the member that follows us as a chunk's coordinator fetch it from us. Whether it has it then;
    /// it may also know better.
    ///
    /// # Errors
    /// It cannot be reached.
    pub(crate) async fn hand_over(
        &self,
        origin: &str,
        chunk: &ChunkKey,
        heir: &Member,
    ) -> Result<bool, String> {
        let ask = Ask {
            asker: self.me().clone(),
            role: Role::Holder,
            failed: Vec::new(),
        };
        let what = What::of(&CacheKey::Chunk(chunk.clone()), origin, None);
        let question = Question::new(&ask, what, 0, "hand-over");
        let body = Bytes::from(serde_json::to_vec(&question).unwrap_or_default());
        let (status, _) = self.tell(heir, WARM, body, PATIENCE).await?;
        tracing::debug!(?chunk, ?heir, %status, "handed over");
        Ok(status == StatusCode::OK)
    }

    async fn tell(
        &self,
        member: &Member,
        path: &'static str,
        body: Bytes,
        patience: Duration,
    ) -> Result<(StatusCode, Bytes), String> {
        let seal = Seal::new(&self.credentials.binding(), path, &body);
        let told = async {
            let answer = self.links().post(member.address(), path, body).await;
            let answer = answer.map_err(|error| error.to_string())?;
            let (ok, refused) = (StatusCode::OK, StatusCode::CONFLICT);
            let status = answer.status();
            // Others only say that there is no answer.
            if ![ok, refused, StatusCode::UNPROCESSABLE_ENTITY].contains(&status) {
                return Ok((status, Bytes::new()));
            }
            let read = seal.read(answer, ANSWER_BYTES_MAX).await;
            read.map_err(|unread| {
                if unread == Unread::Unsealed {
                    self.metrics.asked(Asked::Corrupt);
                }
                unread.to_string()
            })
        };
        match tokio::time::timeout(patience, told).await {
            Ok(told) => told,
            Err(_) => Err(format!("no answer within {} s", patience.as_secs())),
        }
    }
}
