//! A TLS server of a test's that does as it is told, and tells what it was asked.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use gannet_testkit::tls::Ca;
use http::{HeaderMap, Method, Request, Response, StatusCode, header::HOST};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{net::TcpListener, task::JoinHandle, time};
use tokio_rustls::TlsAcceptor;

/// What a server was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) host: String,
    /// The name in the TLS handshake.
    pub(crate) sni: Option<String>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// What a server answers.
pub(crate) enum Reply {
    /// A head and a body, at once.
    Now(StatusCode, Vec<(&'static str, String)>, Bytes),
    /// A piece of the body, again and again, with pauses.
    Drip(Bytes, Duration),
    /// Nothing, for ever.
    Hang,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self::text(status, "")
    }

    pub(crate) fn text(status: u16, body: &str) -> Self {
        let status = StatusCode::from_u16(status).unwrap();
        Self::Now(status, Vec::new(), Bytes::copy_from_slice(body.as_bytes()))
    }

    pub(crate) fn redirect(to: &str) -> Self {
        Self::status(302).with("location", to)
    }

    pub(crate) fn with(self, name: &'static str, value: &str) -> Self {
        match self {
            Self::Now(status, mut headers, body) => {
                headers.push((name, value.to_owned()));
                Self::Now(status, headers, body)
            }
            other => other,
        }
    }
}

type Handler = dyn Fn(&Asked) -> Reply + Send + Sync;

/// A running server; ends when it is dropped.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
    open: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        self.hang_up();
    }
}

impl Server {
    /// On 127.0.0.1, with a certificate for these names.
    pub(crate) async fn start(
        ca: &Ca,
        names: &[&str],
        handler: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST.into(), ca, names, handler).await
    }

    pub(crate) async fn start_at(
        ip: IpAddr,
        ca: &Ca,
        names: &[&str],
        handler: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(ca.server(names));
        let handler: Arc<Handler> = Arc::new(handler);
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let connections: Arc<AtomicUsize> = Arc::default();
        let open: Arc<Mutex<Vec<JoinHandle<()>>>> = Arc::default();
        let (log, count, kept) = (asked.clone(), connections.clone(), open.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Relaxed);
                let (acceptor, handler, log) = (acceptor.clone(), handler.clone(), log.clone());
                let connection = tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let sni = stream.get_ref().1.server_name().map(ToOwned::to_owned);
                    let service = service_fn(|request| {
                        let (handler, log, sni) = (handler.clone(), log.clone(), sni.clone());
                        answer(request, sni, handler, log)
                    });
                    let _ = http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
                kept.lock().unwrap().push(connection);
            }
        });
        Self {
            addr,
            asked,
            connections,
            task,
            open,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.addr.port()
    }

    /// What it was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Connections that were made to it.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }

    /// Ends all connections.
    pub(crate) fn hang_up(&self) {
        for connection in self.open.lock().unwrap().drain(..) {
            connection.abort();
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    sni: Option<String>,
    handler: Arc<Handler>,
    log: Arc<Mutex<Vec<Asked>>>,
) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes());
    let host = head.headers.get(HOST);
    let asked = Asked {
        method: head.method,
        path: head.uri.to_string(),
        host: host.map_or_else(String::new, |host| host.to_str().unwrap().to_owned()),
        sni,
        headers: head.headers,
        body: body.unwrap_or_default(),
    };
    log.lock().unwrap().push(asked.clone());
    Ok(match handler(&asked) {
        Reply::Now(status, headers, body) => {
            let mut answer = Response::new(Full::new(body).boxed_unsync());
            *answer.status_mut() = status;
            for (name, value) in headers {
                answer.headers_mut().append(name, value.parse().unwrap());
            }
            answer
        }
        Reply::Drip(piece, pause) => {
            let pieces = stream::repeat(piece).then(move |piece| async move {
                time::sleep(pause).await;
                Ok(Frame::data(piece))
            });
            Response::new(BodyExt::boxed_unsync(StreamBody::new(pieces)))
        }
        Reply::Hang => std::future::pending().await,
    })
}
