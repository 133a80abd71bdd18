//! The operator's listener: health, readiness, metrics, what is in flight, purging and warming.
//!
//! Not for clients, and not for the open network: what it shows is harmless, but what
//! `/admin` does is not. From a loopback address nothing is asked, except that no web page stands
//! behind the request; from elsewhere a bearer token, and where none is configured, the answer is no.

use crate::{
    breaker::Standing,
    cluster::Cluster,
    core::ReadPath,
    edge::{EdgeMetrics, backend::RequestContext},
    page,
    traces::Parent,
    types::ObjectName,
};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use gannet::metrics::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Frame, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use std::{
    convert::Infallible,
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{net::TcpListener, sync::Semaphore};

/// Connections served at a time.
const CONNECTIONS_MAX: usize = 64;
/// A request's head must be here within this time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest list of keys to warm: a hundred thousand long names.
const WARM_BYTES_MAX: usize = 64 << 20;
/// The list must be here within this time.
const WARM_TIMEOUT: Duration = Duration::from_secs(60);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What the listener shows and does.
pub(crate) struct Ops {
    path: ReadPath,
    edge: Arc<EdgeMetrics>,
    token: Option<String>,
    /// Whether requests should be sent here: not before all is open, and not after the end has begun.
    pub(crate) ready: AtomicBool,
    requests: AtomicU64,
}

/// Serves until the listener's task is dropped.
pub(crate) async fn serve(listener: TcpListener, ops: Arc<Ops>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: they come back as connections end.
                tracing::warn!(%error, "cannot accept on the ops listener");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let ops = Arc::clone(&ops);
        tokio::spawn(async move {
            let _permit = permit;
            let service = service_fn(|request| {
                let ops = Arc::clone(&ops);
                async move { Ok::<_, Infallible>(ops.answer(request, peer).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(64 << 10)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%peer, %error, "ops connection");
            }
        });
    }
}

impl fmt::Debug for Ops {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ops")
            .field("ready", &self.ready)
            .finish_non_exhaustive()
    }
}

impl Ops {
    /// Not ready yet.
    pub(crate) fn new(path: ReadPath, edge: Arc<EdgeMetrics>, token: Option<String>) -> Self {
        Self {
            path,
            edge,
            token,
            ready: AtomicBool::new(false),
            requests: AtomicU64::new(0),
        }
    }

    async fn answer<B>(&self, request: Request<B>, peer: SocketAddr) -> Response<Body>
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let (is_get, is_post) = (
            matches!(*request.method(), Method::GET | Method::HEAD),
            request.method() == Method::POST,
        );
        let path = request.uri().path().to_owned();
        let known = [
            ("/healthz", true),
            ("/readyz", true),
            ("/metrics", true),
            ("/debug/fetches", true),
            ("/admin/status", true),
            ("/admin/purge", false),
            ("/admin/warm", false),
        ];
        let Some((_, reads)) = known.into_iter().find(|(known, _)| *known == path) else {
            return text(StatusCode::NOT_FOUND, "not found\n");
        };
        if (reads && !is_get) || (!reads && !is_post) {
            let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "wrong method\n");
            let allow = header::HeaderValue::from_static(if reads { "GET, HEAD" } else { "POST" });
            refused.headers_mut().insert(header::ALLOW, allow);
            return refused;
        }
        if !reads && let Err((status, why)) = self.admit(&request, peer) {
            return text(status, &format!("{why}\n"));
        }
        match path.as_str() {
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" => self.readyz(),
            "/metrics" => {
                let page = page::metrics(&self.path, &self.edge).await;
                typed(CONTENT_TYPE, page)
            }
            "/debug/fetches" => typed(
                "application/json",
                page::fetches(&self.path).await.to_string(),
            ),
            "/admin/status" => self.status(request.uri().query().unwrap_or("")).await,
            "/admin/purge" => self.purge(request.uri().query().unwrap_or("")).await,
            _ => self.warm(request).await,
        }
    }

    /// Whether requests should be sent here. A shared store that is sick is read around, so that it
    /// is said, and no reason to be left alone; nor is one that was sick when we started, or the
    /// outage of a store would become one of the cache as its members are restarted.
    fn readyz(&self) -> Response<Body> {
        let core = &self.path.0;
        let settled = |cluster: &Arc<Cluster>| cluster.members().view.is_settled();
        if !self.ready.load(Relaxed) {
            return text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n");
        }
        if !core.ways.cluster.as_ref().is_none_or(settled) {
            let why = "not ready: no look at the cluster's members has succeeded yet\n";
            return text(StatusCode::SERVICE_UNAVAILABLE, why);
        }
        let said = match core.ways.tiers.shared_standing() {
            None | Some(Standing::Well) => "ready\n",
            Some(Standing::Fails) => "ready; the shared store fails, and is left alone\n",
            Some(Standing::Untested) => {
                "ready; the shared store could not be tested yet, and is left alone\n"
            }
            Some(Standing::Unfit) => {
                "ready; the shared store must not be used, and is left alone: the log says why\n"
            }
        };
        text(StatusCode::OK, said)
    }

    /// The cluster as this member sees it; and who coordinates an object's chunks, where one is named.
    async fn status(&self, query: &str) -> Response<Body> {
        let mut object = None;
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match (&*name, value.split_once('/')) {
                ("object", Some((bucket, key))) if !bucket.is_empty() && !key.is_empty() => {
                    object = Some(ObjectName {
                        bucket: bucket.into(),
                        key: key.into(),
                    });
                }
                _ => return text(StatusCode::BAD_REQUEST, "only object=BUCKET/KEY is known\n"),
            }
        }
        let status = page::status(&self.path, object.as_ref()).await;
        typed("application/json", status.to_string() + "\n")
    }

    /// Whether this caller may change something.
    fn admit<B>(
        &self,
        request: &Request<B>,
        peer: SocketAddr,
    ) -> Result<(), (StatusCode, &'static str)> {
        let refuse = |status, why| {
            tracing::warn!(%peer, path = request.uri().path(), why, "refused");
            Err((status, why))
        };
        // A page in the operator's own browser reaches loopback too.
        let from_a_page = [header::ORIGIN, header::REFERER]
            .iter()
            .any(|h| request.headers().contains_key(h))
            || request.headers().contains_key("sec-fetch-site");
        if from_a_page {
            return refuse(StatusCode::FORBIDDEN, "not for web pages");
        }
        let shown = request.headers().get(header::AUTHORIZATION);
        let shown = shown.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        match (&self.token, shown) {
            (Some(token), Some(shown)) => {
                if bool::from(subtle::ConstantTimeEq::ct_eq(token.as_bytes(), shown)) {
                    return Ok(());
                }
                refuse(StatusCode::UNAUTHORIZED, "wrong token")
            }
            _ if peer.ip().to_canonical().is_loopback() => Ok(()),
            (Some(_), None) => refuse(StatusCode::UNAUTHORIZED, "a bearer token is needed"),
            (None, _) => refuse(
                StatusCode::FORBIDDEN,
                "from loopback only: no token is configured",
            ),
        }
    }

    async fn purge(&self, query: &str) -> Response<Body> {
        let (mut bucket, mut prefix) = (None, String::new());
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "bucket" => bucket = Some(value.into_owned()),
                "prefix" => prefix = value.into_owned(),
                _ => {
                    return text(
                        StatusCode::BAD_REQUEST,
                        "only bucket= and prefix= are known\n",
                    );
                }
            }
        }
        if bucket.is_none() && !prefix.is_empty() {
            return text(StatusCode::BAD_REQUEST, "a prefix needs its bucket\n");
        }
        // The others first: what we forget before them we might learn from them again.
        let others = match &self.path.0.ways.cluster {
            Some(cluster) => cluster.purge_others(bucket.as_deref(), &prefix).await,
            None => Vec::new(),
        };
        match self.path.purge_here(bucket.as_deref(), &prefix).await {
            Ok(purged) => {
                let members = others.into_iter().map(|(member, done)| match done {
                    Ok(done) => json!({
                        "member": member.address(), "objects": done.objects,
                        "chunks": done.chunks, "pages": done.pages,
                    }),
                    Err(error) => json!({ "member": member.address(), "error": error }),
                });
                let answer = json!({
                    "v": 1, "objects": purged.objects, "chunks": purged.chunks,
                    "pages": purged.pages, "members": members.collect::<Vec<_>>(),
                });
                typed("application/json", answer.to_string() + "\n")
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        }
    }

    /// The list: `bucket/key` a line. The answer: a JSON line for each object as it is done, and one
    /// for all.
    async fn warm<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let list = Limited::new(request.into_body(), WARM_BYTES_MAX).collect();
        let list = match tokio::time::timeout(WARM_TIMEOUT, list).await {
            Ok(Ok(list)) => list.to_bytes(),
            Ok(Err(_)) => return text(StatusCode::PAYLOAD_TOO_LARGE, "the list is too long\n"),
            Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the list did not come\n"),
        };
        let names = match names(&list) {
            Ok(names) => names,
            Err(why) => return text(StatusCode::BAD_REQUEST, &format!("{why}\n")),
        };
        let number = self.requests.fetch_add(1, Relaxed);
        let context = RequestContext {
            request_id: format!("warm-{number}").into(),
            owner: u32::MAX,
            trace: Parent::default(),
        };
        tracing::info!(request = %context.request_id, objects = names.len(), "warming");
        let mut sum = (0u64, 0u64, 0u64);
        let warmed = self
            .path
            .warm(names, context)
            .map(Some)
            .chain(stream::iter([None]));
        let lines = warmed.map(move |warmed| {
            let line = match warmed {
                Some(warmed) => match warmed.outcome {
                    Ok(amount) => {
                        sum = (sum.0 + 1, sum.1, sum.2 + amount.bytes);
                        json!({
                            "v": 1, "event": "warmed", "bucket": &*warmed.name.bucket,
                            "key": &*warmed.name.key, "bytes": amount.bytes,
                            "chunks": amount.chunks, "fetched": amount.fetched,
                        })
                    }
                    Err(error) => {
                        sum.1 += 1;
                        json!({
                            "v": 1, "event": "failed", "bucket": &*warmed.name.bucket,
                            "key": &*warmed.name.key, "error": error.to_string(),
                        })
                    }
                },
                None => json!({
                    "v": 1, "event": "end", "objects": sum.0, "failed": sum.1, "bytes": sum.2,
                }),
            };
            Ok::<_, Infallible>(Frame::data(Bytes::from(line.to_string() + "\n")))
        });
        let mut response = Response::new(StreamBody::new(lines).boxed_unsync());
        let json_lines = header::HeaderValue::from_static("application/x-ndjson");
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, json_lines);
        response
    }
}

/// The objects of a list: `bucket/key` a line; blank lines are skipped.
fn names(list: &[u8]) -> Result<Vec<ObjectName>, String> {
    let list = std::str::from_utf8(list).map_err(|_| "the list is not UTF-8".to_owned())?;
    let lines = list
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.is_empty());
    lines
        .map(|(n, line)| match line.split_once('/') {
            Some((bucket, key)) if !bucket.is_empty() && !key.is_empty() => Ok(ObjectName {
                bucket: bucket.into(),
                key: key.into(),
            }),
            _ => Err(format!("line {}: not bucket/key", n + 1)),
        })
        .collect()
}

fn text(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = typed("text/plain; charset=utf-8", text.to_owned());
    *response.status_mut() = status;
    response
}

fn typed(content_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(body)).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content_type),
    );
    headers.insert(
        header::CACHE_CONTROL,
        header::HeaderValue::from_static("no-store"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_or_refused() {
        let check = |list: &str, expected: Result<&[&str], &str>| {
            let names = names(list.as_bytes());
            let names =
                names.map(|names| names.iter().map(|n| format!("{n:?}")).collect::<Vec<_>>());
            let expected = expected.map(|e| e.iter().map(|s| (*s).to_owned()).collect());
            assert_eq!(names, expected.map_err(str::to_owned), "{list:?}");
        };
        check("", Ok(&[]));
        check("b/k\n\nb/a/b c\r\n", Ok(&["b/k", "b/a/b c"]));
        check("b/k\nb", Err("line 2: not bucket/key"));
        check("/k", Err("line 1: not bucket/key"));
        check("b/", Err("line 1: not bucket/key"));
        assert!(names(b"b/\xff").is_err());
    }
}
