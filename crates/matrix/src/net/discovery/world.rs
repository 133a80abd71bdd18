//! What discovery asks of the world: well-knowns, records, addresses.

use super::{
    machine::{Place, Service},
    step::{Step, roughly},
    wellknown::{self, BODY_BYTES_MAX, Lifetimes, REDIRECTS_MAX, Url, Useless},
};
use crate::net::{
    AddressPolicy, NetConfig, Overrides, RefusedAddress,
    body::{self, ReadBounds},
    dial::Dialer,
    dns::{Dns, DnsError, Looked, Looking},
};
use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use http::{
    HeaderMap, Method, Request, StatusCode,
    header::{ACCEPT, HOST, USER_AGENT},
};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use ruma_common::OwnedServerName;
use rustls_pki_types::ServerName as CertName;
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};
use tokio::time::{self, Instant};

/// The largest head of a well-known's answer.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Why a place has no address that can be connected to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlaceError {
    #[error("{0}: {1}")]
    Dns(String, DnsError),
    #[error(transparent)]
    Refused(#[from] RefusedAddress),
}

/// What a look at a well-known brought.
#[derive(Debug)]
pub(crate) struct WellKnown {
    /// Whom it delegates to, and how long that holds.
    pub(crate) result: Result<(OwnedServerName, Duration), Useless>,
    pub(crate) steps: Vec<Step>,
}

/// The world, or a test's.
pub(crate) trait World: Send + Sync + 'static {
    /// The well-known of a host, with its redirects followed.
    fn well_known<'a>(&'a self, host: &'a str) -> BoxFuture<'a, WellKnown>;
    /// The SRV records of a name.
    fn services<'a>(&'a self, name: &'a str) -> Looking<'a, Vec<Service>>;
    /// The addresses of a place that may be connected to; whether name servers may be asked for them.
    fn addresses<'a>(
        &'a self,
        place: &'a Place,
        ask: bool,
    ) -> BoxFuture<'a, Result<Looked<Vec<SocketAddr>>, PlaceError>>;
}

/// As it is.
#[derive(Debug)]
pub(crate) struct Real {
    dns: Dns,
    dialer: Dialer,
    policy: AddressPolicy,
    overrides: Overrides,
    well_known_port: u16,
    timeout: Duration,
    lifetimes: Lifetimes,
}

impl Real {
    pub(crate) fn new(config: &NetConfig, dialer: Dialer) -> Self {
        Self {
            dns: Dns::new(config.name_server, config.dns_timeout),
            dialer,
            policy: config.policy.clone(),
            overrides: config.overrides.clone(),
            well_known_port: config.well_known_port,
            timeout: config.well_known_timeout,
            lifetimes: Lifetimes {
                min: config.well_known_min,
                max: config.well_known_max,
                default: config.well_known_default,
            },
        }
    }

    async fn place(&self, place: &Place, ask: bool) -> Result<Looked<Vec<SocketAddr>>, PlaceError> {
        let (host, port) = match place {
            Place::Addr(addr) => (addr.ip().to_string(), addr.port()),
            Place::Name(host, port) => (host.clone(), *port),
        };
        let looked = match (self.overrides.find(&host, port), place) {
            (Some(addr), _) => given(addr),
            (None, Place::Addr(addr)) => given(*addr),
            (None, Place::Name(host, _)) if !ask => {
                return Err(PlaceError::Dns(host.clone(), DnsError::Silent));
            }
            (None, Place::Name(host, port)) => {
                let looked = self.dns.addresses(host).await;
                let looked = looked.map_err(|error| PlaceError::Dns(host.clone(), error))?;
                let addrs = looked.found.into_iter();
                Looked {
                    found: addrs.map(|ip| SocketAddr::new(ip, *port)).collect(),
                    lasts: looked.lasts,
                }
            }
        };
        // Also looked at when it is connected to; here so that it is told as what it is.
        let mut refused = None;
        let mut allowed = looked.found;
        allowed.retain(|addr| match self.policy.check(addr.ip()) {
            Ok(()) => true,
            Err(error) => {
                refused = Some(error);
                false
            }
        });
        match refused {
            Some(refused) if allowed.is_empty() => Err(refused.into()),
            _ => Ok(Looked {
                found: allowed,
                lasts: looked.lasts,
            }),
        }
    }

    /// One request, no redirect.
    async fn get(
        &self,
        url: &Url,
    ) -> Result<(StatusCode, HeaderMap, hyper::body::Incoming), Useless> {
        let unreachable = |error: &dyn std::fmt::Display| Useless::Unreachable(error.to_string());
        let bare = url.host.trim_start_matches('[').trim_end_matches(']');
        let (place, name) = match bare.parse::<IpAddr>() {
            Ok(ip) => (
                Place::Addr(SocketAddr::new(ip, url.port)),
                CertName::IpAddress(ip.into()),
            ),
            Err(_) => {
                let name = CertName::try_from(bare.to_owned());
                let name = name.map_err(|_| Useless::BadRedirect(url.host.clone()))?;
                (Place::Name(bare.to_owned(), url.port), name)
            }
        };
        let looked = self.place(&place, true).await;
        let addrs = looked.map_err(|error| match error {
            PlaceError::Dns(_, DnsError::TimedOut(_)) => Useless::Silence(error.to_string()),
            error => unreachable(&error),
        })?;
        let connected = self.dialer.dial(&addrs.found, &name).await;
        let (stream, _) = connected.map_err(|error| unreachable(&error))?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .max_header_size(HEAD_BYTES_MAX)
            .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable(&error))?;
        // Ends when the sender and the body are gone.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(Method::GET)
            .uri(&url.path)
            .header(HOST, url.authority())
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, crate::net::USER_AGENT_VALUE)
            .body(Empty::new())
            .map_err(|_| Useless::BadRedirect(url.path.clone()))?;
        let answer = sender.send_request(request).await;
        let (head, body) = answer.map_err(|error| unreachable(&error))?.into_parts();
        Ok((head.status, head.headers, body))
    }

    /// Follows redirects to the end.
    async fn follow(
        &self,
        mut url: Url,
        steps: &mut Vec<Step>,
    ) -> Result<(OwnedServerName, Duration), Useless> {
        let mut seen = BTreeSet::new();
        loop {
            let started = Instant::now();
            let what = format!("GET https://{}{}", url.authority(), url.path);
            let hop = self.hop(&url).await;
            let came = match &hop {
                Ok(Hop::Delegated(server, lasts)) => {
                    Ok(format!("m.server is {server}, for {}", roughly(*lasts)))
                }
                Ok(Hop::Redirected(to)) => Ok(format!(
                    "redirected to https://{}{}",
                    to.authority(),
                    to.path
                )),
                Err(useless) => Err(useless.to_string()),
            };
            let took = started.elapsed();
            steps.push(Step { what, came, took });
            seen.insert(url);
            match hop? {
                Hop::Delegated(server, lasts) => return Ok((server, lasts)),
                Hop::Redirected(to) if seen.contains(&to) => {
                    return Err(Useless::Loop(format!(
                        "https://{}{}",
                        to.authority(),
                        to.path
                    )));
                }
                Hop::Redirected(_) if seen.len() > REDIRECTS_MAX => {
                    return Err(Useless::TooManyRedirects);
                }
                Hop::Redirected(to) => url = to,
            }
        }
    }

    async fn hop(&self, url: &Url) -> Result<Hop, Useless> {
        let (status, headers, body) = self.get(url).await?;
        if let Some(to) = wellknown::redirect(url, status, &headers) {
            return Ok(Hop::Redirected(to?));
        }
        if status != StatusCode::OK {
            return Err(Useless::Status(status));
        }
        let bounds = ReadBounds {
            bytes_max: BODY_BYTES_MAX,
            // For all hops together there is another.
            time_max: self.timeout,
        };
        let body = body::read_bounded(body, bounds)
            .await
            .map_err(|error| match error {
                body::BodyError::TooLarge { .. } => Useless::TooLarge,
                error => Useless::Unreachable(error.to_string()),
            })?;
        let server = wellknown::parse(&body)?;
        let lasts = self.lifetimes.of(&headers, SystemTime::now());
        Ok(Hop::Delegated(server, lasts))
    }
}

/// What one request of a well-known brought.
enum Hop {
    Delegated(OwnedServerName, Duration),
    Redirected(Url),
}

/// An address that need not be looked up.
fn given(addr: SocketAddr) -> Looked<Vec<SocketAddr>> {
    Looked {
        found: vec![addr],
        lasts: Duration::MAX,
    }
}

impl World for Real {
    fn well_known<'a>(&'a self, host: &'a str) -> BoxFuture<'a, WellKnown> {
        async move {
            let mut steps = Vec::new();
            let url = Url::of(host, self.well_known_port);
            let following = self.follow(url.clone(), &mut steps);
            let result = match time::timeout(self.timeout, following).await {
                Ok(result) => result,
                Err(_) => {
                    let error = format!("no answer within {:?}", self.timeout);
                    steps.push(Step {
                        what: format!("GET https://{}{}", url.authority(), url.path),
                        came: Err(error.clone()),
                        took: self.timeout,
                    });
                    Err(Useless::Unreachable(error))
                }
            };
            WellKnown { result, steps }
        }
        .boxed()
    }

    fn services<'a>(&'a self, name: &'a str) -> Looking<'a, Vec<Service>> {
        self.dns.services(name).boxed()
    }

    fn addresses<'a>(
        &'a self,
        place: &'a Place,
        ask: bool,
    ) -> BoxFuture<'a, Result<Looked<Vec<SocketAddr>>, PlaceError>> {
        self.place(place, ask).boxed()
    }
}
