//! `gannet matrix serve`: the same over HTTP on loopback, so that several processes share one engine: what they
//! ask for at the same time is asked of the federation once.
//!
//! Whoever shows the token may have anything asked in the name of the homeserver, so there is no answer without
//! it, and no listening beyond loopback.

use super::{
    flags::Flags,
    parse,
    setup::{self, Service},
    show,
};
use crate::{
    exit::{Error, Result},
    files, logging,
    notify::notify,
    output::line,
    signals::Signals,
};
use bytes::Bytes;
use clap::Args;
use gannet::metrics::{CONTENT_TYPE, Page};
use gannet_matrix::{BACKFILL_MAX, Direction, FetchErrorKind, Key, KeyError, Matrix};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use ruma_common::{OwnedEventId, OwnedRoomId, OwnedServerName};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::{
    convert::Infallible, fmt, net::SocketAddr, path::PathBuf, str::FromStr, sync::Arc,
    time::Duration,
};
use tokio::{net::TcpListener, sync::Semaphore};

/// Connections served at a time.
const CONNECTIONS_MAX: usize = 1024;
/// A request's head must be here within this time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest head: a window of 256 ids.
const HEAD_BYTES_MAX: usize = 256 << 10;
/// Requests under way at the end are given this long.
const DRAIN: Duration = Duration::from_secs(10);
/// A shorter token is not taken.
const TOKEN_BYTES_MIN: usize = 16;

/// What `gannet matrix serve` takes.
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Where to listen, on loopback.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9010")]
    listen: SocketAddr,
    /// A file with the token that callers must show: `Authorization: Bearer TOKEN`.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// What is logged: error, warn, info, debug.
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    log_level: String,
}

/// What answers.
struct Api {
    flags: Flags,
    matrix: Matrix,
    /// The hash of the token: comparing hashes tells nothing by the time it takes.
    token: [u8; 32],
}

/// Serves until a signal comes.
pub(super) async fn run(flags: &Flags, args: &ServeArgs) -> Result {
    if !args.listen.ip().is_loopback() {
        return Err(
            Error::usage(format!("--listen {}: not on loopback", args.listen))
                .remedy("127.0.0.1:9010; whoever reaches it could speak in your homeserver's name"),
        );
    }
    logging::start(&args.log_level, flags.json)?;
    let token = token(args)?;
    files::raise_limit();
    let mut signals = Signals::new()?;
    let listener = TcpListener::bind(args.listen).await.map_err(|error| {
        Error::from(error)
            .context(format!("cannot listen on {}", args.listen))
            .remedy("another --listen (127.0.0.1:0 for any port), or stop what listens there")
    })?;
    let service = Service::start(flags).await?;
    line(&format!(
        "gannet matrix on http://{}",
        listener.local_addr()?
    ))?;
    notify("READY=1");
    let api = Arc::new(Api {
        flags: flags.clone(),
        matrix: service.matrix.clone(),
        token,
    });
    let graceful = GracefulShutdown::new();
    tokio::select! {
        () = accept(&listener, &api, &graceful) => {}
        () = signals.next() => {}
    }
    notify("STOPPING=1");
    drop(listener);
    tokio::select! {
        () = graceful.shutdown() => {}
        () = tokio::time::sleep(DRAIN) => tracing::warn!("requests were cut"),
        () = signals.next() => tracing::warn!("requests were cut by a second signal"),
    }
    service.end().await;
    Ok(())
}

fn token(args: &ServeArgs) -> Result<[u8; 32]> {
    let path = &args.token_file;
    let context = |error: Error| error.context(format!("--token-file {}", path.display()));
    let secret = setup::secret(path, "ask in your homeserver's name").map_err(context)?;
    let token = secret.trim_ascii();
    let is_fine = |byte: &u8| byte.is_ascii_graphic();
    if token.len() < TOKEN_BYTES_MIN || !token.iter().all(is_fine) {
        let why = "no token of 16 characters or more";
        return Err(context(Error::usage(why)).remedy(format!(
            "head -c 24 /dev/urandom | base64 > {}",
            path.display()
        )));
    }
    Ok(Sha256::digest(token).into())
}

async fn accept(listener: &TcpListener, api: &Arc<Api>, graceful: &GracefulShutdown) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: they come back as connections end.
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let api = Arc::clone(api);
        let service = service_fn(move |request| {
            let api = Arc::clone(&api);
            async move { Ok::<_, Infallible>(api.answer(&request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection");
            }
        });
    }
}

type Answer = Response<Full<Bytes>>;

fn answer(status: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn refused(status: StatusCode, error: &str, message: &str) -> Answer {
    let body = json!({ "v": 1, "error": error, "message": message });
    answer(status, "application/json", body.to_string())
}

impl Api {
    async fn answer(&self, request: &Request<Incoming>) -> Answer {
        let path = request.uri().path();
        if request.method() != Method::GET {
            let mut answer = refused(StatusCode::METHOD_NOT_ALLOWED, "method", "only GET");
            let allow = HeaderValue::from_static("GET");
            answer.headers_mut().insert(header::ALLOW, allow);
            return answer;
        }
        match path {
            "/healthz" => answer(StatusCode::OK, "text/plain", "ok\n".to_owned()),
            "/metrics" => {
                let mut page = Page::new();
                self.matrix.write_metrics(&mut page, &[]).await;
                answer(StatusCode::OK, CONTENT_TYPE, page.text().to_owned())
            }
            _ if !self.admits(request.headers()) => {
                let why = "show the token: Authorization: Bearer TOKEN";
                refused(StatusCode::UNAUTHORIZED, "unauthorized", why)
            }
            _ => match path.strip_prefix("/v1/") {
                Some(op) => self.fetch(op, request.uri().query().unwrap_or("")).await,
                None => refused(
                    StatusCode::NOT_FOUND,
                    "no_such_path",
                    "/v1/event and others",
                ),
            },
        }
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        let shown = headers.get(header::AUTHORIZATION);
        let Some((scheme, token)) =
            shown.and_then(|shown| shown.as_bytes().split_at_checked("Bearer ".len()))
        else {
            return false;
        };
        // Schemes are written in either case (RFC 9110).
        scheme.eq_ignore_ascii_case(b"Bearer ") && Sha256::digest(token).as_slice() == self.token
    }

    async fn fetch(&self, op: &str, query: &str) -> Answer {
        let (key, flags) = match self.read(op, query) {
            Ok(read) => read,
            Err(why) => return refused(StatusCode::BAD_REQUEST, "usage", &why),
        };
        let fetched = self.matrix.fetch(key.clone(), flags.opts(key.op())).await;
        let (status, body) = match &fetched {
            Ok(outcome) => match show::outcome_json(&key, outcome) {
                Ok(body) => (StatusCode::OK, body),
                Err(why) => return refused(StatusCode::INTERNAL_SERVER_ERROR, "broken", &why),
            },
            Err(error) => (status(error.kind), show::failure_json(&key, error)),
        };
        answer(status, "application/json", body)
    }

    /// What is asked, and how, by a query.
    fn read(&self, op: &str, query: &str) -> std::result::Result<(Key, Flags), String> {
        let mut asked = Asked::default();
        let mut flags = self.flags.clone();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            asked
                .take(&mut flags, &name, &value)
                .map_err(|why| format!("{name}: {why}"))?;
        }
        let room = flags.room.clone().ok_or("room is missing")?;
        let key = asked.key(op, room).ok_or_else(|| {
            format!(
                "{op}: event, auth-event, auth-chain, state-ids with id; backfill with id and limit; \
                 missing with latest, earliest and limit; at with ts and dir"
            )
        })?;
        Ok((key.map_err(|error| error.to_string())?, flags))
    }
}

fn status(kind: FetchErrorKind) -> StatusCode {
    match kind {
        FetchErrorKind::NoServers => StatusCode::BAD_REQUEST,
        FetchErrorKind::Missing => StatusCode::NOT_FOUND,
        FetchErrorKind::Unverified | FetchErrorKind::Exhausted => StatusCode::BAD_GATEWAY,
        FetchErrorKind::Expired => StatusCode::GATEWAY_TIMEOUT,
        FetchErrorKind::Overloaded | FetchErrorKind::Closed => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// What a query names.
#[derive(Default)]
struct Asked {
    ids: Vec<OwnedEventId>,
    latest: Vec<OwnedEventId>,
    earliest: Vec<OwnedEventId>,
    limit: Option<u32>,
    min_depth: u64,
    ts: Option<u64>,
    backward: bool,
}

fn parsed<T: FromStr>(value: &str) -> std::result::Result<T, String>
where
    T::Err: fmt::Display,
{
    value.parse().map_err(|error: T::Err| error.to_string())
}

fn servers(value: &str) -> std::result::Result<Vec<OwnedServerName>, String> {
    value.split(',').map(parse::server).collect()
}

impl Asked {
    fn take(
        &mut self,
        flags: &mut Flags,
        name: &str,
        value: &str,
    ) -> std::result::Result<(), String> {
        match name {
            "id" => self.ids.push(parse::event(value)?),
            "latest" => self.latest.push(parse::event(value)?),
            "earliest" => self.earliest.push(parse::event(value)?),
            "limit" => self.limit = Some(parsed(value)?),
            "min_depth" => self.min_depth = parsed(value)?,
            "ts" => self.ts = Some(parse::moment(value)?),
            "dir" => {
                self.backward = match value {
                    "f" => false,
                    "b" => true,
                    _ => return Err("f or b".to_owned()),
                }
            }
            "room" => flags.room = Some(parse::room(value)?),
            "room_version" => flags.room_version = Some(parse::version(value)?),
            "via" => flags.via = servers(value)?,
            "deny" => flags.deny = servers(value)?,
            "hint" => flags.hint = Some(parse::server(value)?),
            "authority" => flags.authority = Some(parse::server(value)?),
            "fanout" => flags.fanout = Some(parsed(value)?),
            "timeout" => flags.timeout = Some(parsed(value)?),
            "whole" => flags.whole = parsed(value)?,
            "redacted" => flags.redacted = parsed(value)?,
            "refuse_bad" => flags.refuse_bad = parsed(value)?,
            "fresh" => flags.fresh = parsed(value)?,
            _ => return Err("no such parameter".to_owned()),
        }
        Ok(())
    }

    /// The key, if there is such an op and all that it needs was named.
    fn key(self, op: &str, room: OwnedRoomId) -> Option<std::result::Result<Key, KeyError>> {
        let ids = self.ids;
        let one = |mut ids: Vec<OwnedEventId>| (ids.len() == 1).then(|| ids.swap_remove(0));
        Some(match op {
            "event" => Key::event(room, one(ids)?),
            "auth-event" => Key::auth_event(room, one(ids)?),
            "auth-chain" => Key::auth_chain(room, one(ids)?),
            "state-ids" => Key::state_ids(room, one(ids)?),
            "backfill" => {
                let limit = self.limit.unwrap_or(BACKFILL_MAX);
                Key::backfill(room, ids, limit)
            }
            "missing" => {
                let limit = self.limit.unwrap_or(20);
                Key::missing_events(room, self.earliest, self.latest, limit, self.min_depth)
            }
            "at" => {
                let direction = match self.backward {
                    true => Direction::Backward,
                    false => Direction::Forward,
                };
                Key::timestamp_to_event(room, self.ts?, direction)
            }
            _ => return None,
        })
    }
}
