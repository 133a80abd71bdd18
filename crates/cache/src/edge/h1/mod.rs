//! HTTP/1: one loop per connection that reads the head of each request, refuses what is not one, and
//! has the rest answered, one request at a time: by the lean path ([`lean`]) if it can, by the service
//! without hyper ([`direct`]) if it is a plain read, by hyper ([`exchange`]) otherwise.
//!
//! ```text
//!          +------------------------- keep-alive -------------------------+
//!          v                                                              |
//!   idle --> head --+--> malformed, too slow: last words, close           |
//!                   +--> HTTP/2 preface: handed over for good             |
//!                   +--> held in full: lean reply ------------------------+
//!                   +--> another plain read: direct answer ---------------+
//!                   +--> anything else: one exchange by hyper ------------+
//! ```
//!
//! Reading all heads here is what gives every refusal its request id, and what lets a connection come
//! back to the lean path after a miss.

mod direct;
mod exchange;
pub(crate) mod head;
mod lean;
mod send;

use super::{
    failure::Failure,
    server::{Connection, Shutdown},
    wire::Wire,
};
use bytes::BytesMut;
use exchange::End;
use head::{HeadError, PREFACE};
use http::StatusCode;
use std::{io, sync::atomic::Ordering::Relaxed, time::Duration};
use tokio::{
    io::AsyncWriteExt,
    time::{Instant, timeout_at},
};

/// What there is to do next on a connection.
enum Step {
    /// Answered by the lean path.
    Lean(lean::Reply, usize),
    /// For the service: a head of this many bytes.
    Direct(Box<direct::Ask>, usize),
    /// For hyper: a head of this many bytes.
    Exchange {
        len: usize,
        keep_alive: bool,
        body: bool,
    },
    /// HTTP/2 by prior knowledge.
    Http2,
}

/// Why no request was read.
enum Stop {
    /// Between requests: the client closed, or was idle for too long, or we shut down.
    Quiet,
    /// The connection broke.
    Broken,
    /// It began a request that is refused; nothing behind it can be trusted.
    Refused(Failure),
}

/// Serves a connection to its end. (What is rare is boxed: the size of this future is what an idle
/// connection costs.)
pub(crate) async fn serve(mut wire: Wire, connection: &mut Connection) {
    let mut buf = BytesMut::new();
    let mut served = 0u64;
    loop {
        served += 1;
        let last = served >= connection.limits.requests_max;
        let turn = Turn {
            first: served == 1,
            last,
        };
        let step = match next(&mut wire, &mut buf, connection, turn).await {
            Ok(step) => step,
            Err(Stop::Quiet) => return Box::pin(wire.close(false)).await,
            Err(Stop::Broken) => return,
            Err(Stop::Refused(failure)) => {
                return Box::pin(refuse(wire, connection, &failure)).await;
            }
        };
        match step {
            Step::Http2 => return Box::pin(super::h2::serve(wire, buf, connection)).await,
            Step::Lean(reply, len) => {
                let _ = buf.split_to(len);
                let keep_alive = reply.keep_alive;
                let Some(socket) = wire.plain() else { return };
                match reply.send(socket).await {
                    Ok(sent) => connection.service.metrics.bytes.fetch_add(sent, Relaxed),
                    Err(error) => {
                        tracing::debug!(%error, "response cut");
                        // A client that left is no failure of ours; a file that is too short is.
                        if error.kind() == io::ErrorKind::UnexpectedEof {
                            connection.service.metrics.aborted.fetch_add(1, Relaxed);
                        }
                        return;
                    }
                };
                if !keep_alive {
                    return Box::pin(wire.close(true)).await;
                }
                tokio::task::coop::consume_budget().await;
            }
            Step::Direct(ask, len) => {
                let _ = buf.split_to(len);
                match Box::pin(direct::run(&mut wire, *ask, &mut buf, connection)).await {
                    End::KeepAlive => {}
                    End::Close => return Box::pin(wire.close(true)).await,
                    End::Cut => return,
                }
            }
            Step::Exchange {
                len,
                keep_alive,
                body,
            } => {
                let head = buf.split_to(len).freeze();
                let keep_alive = keep_alive && !body && !last;
                let exchange =
                    exchange::run(&mut wire, head, &mut buf, body, keep_alive, connection);
                match Box::pin(exchange).await {
                    End::KeepAlive => {}
                    End::Close => return Box::pin(wire.close(true)).await,
                    End::Cut => return,
                }
            }
        }
    }
}

/// Reads until there is something to do.
async fn next(
    wire: &mut Wire,
    buf: &mut BytesMut,
    connection: &mut Connection,
    turn: Turn,
) -> Result<Step, Stop> {
    let limits = connection.limits;
    let mut deadline = None;
    let mut looked_at = 0;
    loop {
        // Looked at once when it begins (so that what is no HTTP is refused at once) and once when it
        // is complete: a head that drips in is not parsed again for each drop.
        if !buf.is_empty() && (looked_at == 0 || head::complete(buf, looked_at)) {
            if buf.len() >= PREFACE.len() && buf.starts_with(PREFACE) {
                return Ok(Step::Http2);
            }
            if !PREFACE.starts_with(&buf[..buf.len().min(PREFACE.len())])
                && let Some(step) = look(wire, buf, connection, turn.last)?
            {
                return Ok(step);
            }
        }
        if buf.len() >= limits.head.bytes_max {
            return Err(Stop::Refused(head::too_large(buf, &limits.head).into()));
        }
        looked_at = buf.len();

        let idle = buf.is_empty();
        let until = if idle {
            Instant::now() + limits.idle_max
        } else {
            *deadline.get_or_insert_with(|| Instant::now() + limits.head_time_max)
        };
        let read = async {
            tokio::select! {
                biased;
                read = timeout_at(until, wire.fill(buf)) => Some(read),
                () = leave(&mut connection.shutdown, turn.first), if idle => None,
            }
        };
        match read.await {
            None => return Err(Stop::Quiet),
            Some(Ok(Ok(0))) if idle => return Err(Stop::Quiet),
            Some(Ok(Ok(0))) => return Err(Stop::Refused(HeadError::Malformed(CUT_SHORT).into())),
            Some(Ok(Ok(_))) => {}
            Some(Ok(Err(error))) if error.kind() == io::ErrorKind::TimedOut => {
                return Err(Stop::Quiet);
            }
            Some(Ok(Err(_))) => return Err(Stop::Broken),
            Some(Err(_)) if idle => return Err(Stop::Quiet),
            Some(Err(_)) => return Err(Stop::Refused(too_slow())),
        }
    }
}

/// Which request of its connection one is.
#[derive(Clone, Copy)]
struct Turn {
    first: bool,
    last: bool,
}

/// Resolves when a connection without a request is to be closed: at shutdown. One that has not had any
/// was opened for one, which may be on its way; later ones are sent in the knowledge that the
/// connection may be closed.
async fn leave(shutdown: &mut Shutdown, first: bool) {
    shutdown.wait().await;
    if first {
        // Boxed, for an idle connection is not to pay for it.
        Box::pin(tokio::time::sleep(FIRST_TIME_MAX)).await;
    }
}

/// At shutdown, so long a new connection has for its first request.
const FIRST_TIME_MAX: Duration = Duration::from_secs(1);
const CUT_SHORT: &str = "The request ended in the middle of its head.";

fn too_slow() -> Failure {
    Failure::new(
        StatusCode::REQUEST_TIMEOUT,
        "RequestTimeout",
        "Your socket connection to the server was not read from or written to within the timeout \
         period.",
    )
}

/// What is to be done about the head in `buf`, if it is complete.
fn look(
    wire: &mut Wire,
    buf: &BytesMut,
    connection: &Connection,
    last: bool,
) -> Result<Option<Step>, Stop> {
    let mut slots = head::slots();
    let head = match head::parse(buf, &mut slots, &connection.limits.head) {
        Ok(Some(head)) => head,
        Ok(None) => return Ok(None),
        Err(error) => return Err(Stop::Refused(error.into())),
    };
    let keep_alive = head.keep_alive && !last && !connection.shutdown.begun();
    if connection.lean
        && wire.plain().is_some()
        && let Some(reply) =
            lean::Reply::find(&connection.service, &connection.peer, &head, keep_alive)
    {
        return Ok(Some(Step::Lean(reply, head.len)));
    }
    // hyper would refuse it too, but without a request id.
    let Ok(uri) = head.target.parse::<http::Uri>() else {
        let message = "Couldn't parse the specified URI.";
        return Err(Stop::Refused(Failure::bad_request("InvalidURI", message)));
    };
    if head.method == "CONNECT" {
        return Err(Stop::Refused(Failure::method_not_allowed(
            head.method,
            "SERVICE",
        )));
    }
    if connection.lean
        && wire.plain().is_some()
        && let Some(ask) = direct::Ask::new(&head, uri, &buf[..head.len], keep_alive)
    {
        return Ok(Some(Step::Direct(Box::new(ask), head.len)));
    }
    Ok(Some(Step::Exchange {
        len: head.len,
        keep_alive,
        body: head.body,
    }))
}

/// Says why, and ends the connection.
async fn refuse(mut wire: Wire, connection: &Connection, failure: &Failure) {
    let words = connection.service.last_words(failure);
    let metrics = &connection.service.metrics;
    metrics.refused_request(failure.status().as_u16());
    let say = async {
        wire.write_all(&words).await?;
        wire.flush().await
    };
    if say.await.is_ok() {
        wire.close(true).await;
    }
}

/// How long the loop waits for what; see [`super::Limits`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Http1Limits {
    pub(crate) head: head::HeadLimits,
    pub(crate) head_time_max: Duration,
    pub(crate) idle_max: Duration,
    pub(crate) requests_max: u64,
}
