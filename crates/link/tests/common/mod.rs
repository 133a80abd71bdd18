//! A CA, members and strangers for the tests, over real sockets of loopback.
#![allow(
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    reason = "each test file uses a part"
)]

pub mod raw;

use bytes::Bytes;
use gannet_link::{
    CredentialFiles, Credentials, Drained, LinkError, Links, LinksConfig, Peer, ServerCounters,
    ServerLimits, TlsFiles, serve,
};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, SanType};
use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

/// Longer than anything here takes: what hangs fails, with a name.
pub const FOREVER: Duration = Duration::from_secs(30);

/// Awaits something that must come.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(FOREVER, future)
        .await
        .expect("it must not take so long")
}

/// Awaits what another task brings about.
pub async fn until(condition: impl Fn() -> bool) {
    soon(async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// An authority for members.
pub struct Ca {
    inner: gannet_testkit::tls::Ca,
    pem: String,
}

/// What makes a certificate another than a member's.
#[derive(Clone, Copy, Default)]
pub struct Odd {
    pub expired: bool,
    pub not_yet: bool,
    /// Instead of both.
    pub usage: Option<Usage>,
}

#[derive(Clone, Copy)]
pub enum Usage {
    Server,
    Client,
    None,
}

impl Ca {
    pub fn new() -> Self {
        let inner = gannet_testkit::tls::Ca::new();
        let pem = inner.pem();
        Self { inner, pem }
    }

    /// Certificate and key, PEM.
    pub fn issue(&self, name: &str, odd: Odd) -> (String, String) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        let name = name.try_into().unwrap();
        params.subject_alt_names = vec![if params_is_uri(&name) {
            SanType::URI(name)
        } else {
            SanType::DnsName(name)
        }];
        params.extended_key_usages = match odd.usage {
            None => vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
            Some(Usage::Server) => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Some(Usage::Client) => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Some(Usage::None) => Vec::new(),
        };
        if odd.expired {
            params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        }
        if odd.not_yet {
            params.not_before = rcgen::date_time_ymd(3001, 1, 1);
        }
        let (certificate, key) = self.inner.issue(&params);
        (certificate.pem(), key.serialize_pem())
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }
}

fn params_is_uri(name: &rcgen::string::Ia5String) -> bool {
    name.as_str().contains("://")
}

/// A directory with the files of a member.
pub struct Files {
    pub directory: TempDir,
}

impl Files {
    pub fn new(ca: &str, issued: &(String, String)) -> Self {
        let files = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        files.write("ca", ca);
        files.issue(issued);
        files
    }

    pub fn issue(&self, (cert, key): &(String, String)) {
        self.write("cert", cert);
        self.write("key", key);
    }

    pub fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path().join(name), content).unwrap();
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn open(&self, san: &str) -> Result<Arc<Credentials>, LinkError> {
        let path = |name| self.path().join(name);
        let files = TlsFiles {
            ca: path("ca"),
            cert: path("cert"),
            key: path("key"),
            san: san.to_owned(),
        };
        Credentials::open(CredentialFiles::Tls(files)).map(Arc::new)
    }
}

/// A member's credentials, whose files are gone: they are read when opened.
pub fn member(ca: &Ca, name: &str, san: &str) -> Arc<Credentials> {
    Files::new(ca.pem(), &ca.issue(name, Odd::default()))
        .open(san)
        .unwrap()
}

pub fn secret(text: &str) -> Arc<Credentials> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    std::fs::write(&path, text).unwrap();
    Arc::new(Credentials::open(CredentialFiles::Secret(path)).unwrap())
}

pub const SECRET: &str = "a secret of all members\n";

/// A server that answers with what `answer` makes of a request.
pub struct Member {
    pub address: SocketAddr,
    pub counters: Arc<ServerCounters>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Drained>,
}

impl Member {
    /// Says the name of the peer, the path and the body.
    pub async fn echo(credentials: Arc<Credentials>, limits: ServerLimits) -> Self {
        Self::on("127.0.0.1:0", credentials, limits, echo).await
    }

    pub async fn on<H, F>(
        address: impl tokio::net::ToSocketAddrs,
        credentials: Arc<Credentials>,
        limits: ServerLimits,
        handler: H,
    ) -> Self
    where
        H: Fn(Peer, Request<Bytes>) -> F + Send + Sync + 'static,
        F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let counters = Arc::<ServerCounters>::default();
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async {
            let _ = stopped.await;
        };
        let task = tokio::spawn(serve(
            listener,
            credentials,
            limits,
            counters.clone(),
            handler,
            stopped,
        ));
        Self {
            address,
            counters,
            stop,
            task,
        }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    pub async fn stop(self) -> Drained {
        let _ = self.stop.send(());
        soon(self.task).await.unwrap()
    }

    /// Ends it as a crash would.
    pub async fn kill(self) {
        self.task.abort();
        let _ = soon(self.task).await;
    }
}

pub async fn echo(peer: Peer, request: Request<Bytes>) -> Response<Full<Bytes>> {
    let name = peer.name.unwrap_or_else(|| "somebody".to_owned());
    let body = String::from_utf8_lossy(request.body()).into_owned();
    let text = format!("{name} {} {body}", request.uri().path());
    Response::new(Full::new(text.into()))
}

pub fn links(credentials: &Arc<Credentials>) -> Links {
    Links::new(credentials.clone(), LinksConfig::default())
}

/// The whole of a response.
pub async fn text(response: Response<Incoming>) -> String {
    let body = soon(response.into_body().collect()).await.unwrap();
    String::from_utf8(body.to_bytes().to_vec()).unwrap()
}

pub async fn ask(links: &Links, address: &str, body: &'static str) -> Result<String, LinkError> {
    let response = soon(links.post(address, "/ask", Bytes::from_static(body.as_bytes()))).await?;
    assert_eq!(response.status(), 200);
    Ok(text(response).await)
}

pub fn count(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed)
}
