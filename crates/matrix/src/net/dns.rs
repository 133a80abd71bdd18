//! Questions to name servers.

use super::discovery::Service;
use futures_util::future::BoxFuture;
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig},
    net::{DnsError as Answered, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{Name, RData, Record},
    },
};
use std::{
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Addresses of one name that are considered, of each kind.
const ADDRESSES_MAX: usize = 16;
/// SRV records of one name that are looked at.
const SERVICES_MAX: usize = 64;
/// Tries of a question, less one.
const RETRIES: usize = 1;
/// How long a resolver is used: the system's configuration may have changed.
const RESOLVER_LASTS: Duration = Duration::from_secs(60);

/// What was found, and for how long it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Looked<T> {
    pub(crate) found: T,
    pub(crate) lasts: Duration,
}

/// Why a name could not be looked up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DnsError {
    #[error("{0:?} is no name to look up")]
    NoName(String),
    #[error("there is no such name")]
    NoSuchName,
    #[error("the name has no address")]
    NoRecords,
    #[error("no answer from the name server within {0:?}")]
    TimedOut(Duration),
    #[error("name servers keep silent")]
    Silent,
    #[error("the name server failed: {0}")]
    Failed(String),
}

/// Asks the system's name servers, or one.
#[derive(Debug)]
pub(crate) struct Dns {
    server: Option<SocketAddr>,
    try_timeout: Duration,
    resolver: Mutex<Option<(Instant, TokioResolver)>>,
}

impl Dns {
    pub(crate) fn new(server: Option<SocketAddr>, try_timeout: Duration) -> Self {
        Self {
            server,
            try_timeout,
            resolver: Mutex::new(None),
        }
    }

    fn resolver(&self) -> Result<TokioResolver, DnsError> {
        let mut kept = self.resolver.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, resolver)) = &*kept
            && since.elapsed() < RESOLVER_LASTS
        {
            return Ok(resolver.clone());
        }
        let failed = |error: NetError| DnsError::Failed(error.to_string());
        let mut builder = match self.server {
            None => TokioResolver::builder_tokio().map_err(failed)?,
            Some(server) => {
                let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
                for connection in &mut connections {
                    connection.port = server.port();
                }
                let server = NameServerConfig::new(server.ip(), true, connections);
                let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
        };
        let options = builder.options_mut();
        // What holds for how long is kept by us, so that it can be shown and forgotten.
        options.cache_size = 0;
        options.use_hosts_file = match self.server {
            None => ResolveHosts::Always,
            Some(_) => ResolveHosts::Never,
        };
        options.timeout = self.try_timeout;
        options.attempts = RETRIES;
        options.edns0 = true;
        let resolver = builder.build().map_err(failed)?;
        *kept = Some((Instant::now(), resolver.clone()));
        Ok(resolver)
    }

    /// A name as it is looked up: as it is, under no search domain.
    fn name(text: &str) -> Result<Name, DnsError> {
        let name = Name::from_ascii(text).ok().filter(|name| !name.is_root());
        let mut name = name.ok_or_else(|| DnsError::NoName(text.to_owned()))?;
        name.set_fqdn(true);
        Ok(name)
    }

    /// The addresses of a name, and only those of one kind if the other kind cannot be had; IPv6 and IPv4
    /// by turns, for one of them may lead nowhere from here.
    pub(crate) async fn addresses(&self, host: &str) -> Result<Looked<Vec<IpAddr>>, DnsError> {
        let (name, resolver) = (Self::name(host)?, self.resolver()?);
        let (v4, v6) = tokio::join!(
            resolver.ipv4_lookup(name.clone()),
            resolver.ipv6_lookup(name)
        );
        let error = match (&v4, &v6) {
            (Err(v4), Err(v6)) => Some(if none_such(v4).is_some() { v6 } else { v4 }),
            _ => None,
        };
        if let Some(error) = error {
            return Err(self.error(error));
        }
        let mut lasts = Duration::MAX;
        let mut ips = [v6, v4].map(|lookup| {
            let lookup = lookup.ok();
            let records = lookup.iter().flat_map(|lookup| lookup.answers());
            let ips: Vec<IpAddr> = records
                .inspect(|record| lasts = lasts.min(ttl(record)))
                .filter_map(|record| record.data.ip_addr())
                .take(ADDRESSES_MAX)
                .collect();
            ips.into_iter()
        });
        let mut found = Vec::new();
        loop {
            let before = found.len();
            found.extend(ips.iter_mut().filter_map(Iterator::next));
            if found.len() == before {
                break;
            }
        }
        if found.is_empty() {
            return Err(DnsError::NoRecords);
        }
        Ok(Looked { found, lasts })
    }

    /// The SRV records of a name; none if there are decidedly none.
    pub(crate) async fn services(&self, name: &str) -> Result<Looked<Vec<Service>>, DnsError> {
        let resolver = self.resolver()?;
        let lookup = match resolver.srv_lookup(Self::name(name)?).await {
            Ok(lookup) => lookup,
            Err(error) if none_such(&error).is_some() => {
                // Somebody may add them: not kept longer than needs be.
                return Ok(Looked {
                    found: Vec::new(),
                    lasts: Duration::ZERO,
                });
            }
            Err(error) => return Err(self.error(&error)),
        };
        let mut lasts = Duration::MAX;
        let found = lookup
            .answers()
            .iter()
            .inspect(|record| lasts = lasts.min(ttl(record)))
            .filter_map(|record| match &record.data {
                RData::SRV(srv) => Some(Service {
                    priority: srv.priority,
                    weight: srv.weight,
                    port: srv.port,
                    target: srv.target.to_ascii().trim_end_matches('.').to_owned(),
                }),
                _ => None,
            })
            .take(SERVICES_MAX)
            .collect();
        Ok(Looked { found, lasts })
    }

    fn error(&self, error: &NetError) -> DnsError {
        match (none_such(error), error) {
            (Some(none), _) => none,
            (None, NetError::Timeout) => {
                DnsError::TimedOut(self.try_timeout * (1 + RETRIES as u32))
            }
            (None, error) => DnsError::Failed(error.to_string()),
        }
    }
}

/// Whether there is decidedly nothing, rather than nobody who knows.
fn none_such(error: &NetError) -> Option<DnsError> {
    let NetError::Dns(Answered::NoRecordsFound(none)) = error else {
        return None;
    };
    match none.response_code {
        ResponseCode::NXDomain => Some(DnsError::NoSuchName),
        ResponseCode::NoError => Some(DnsError::NoRecords),
        _ => None,
    }
}

fn ttl(record: &Record) -> Duration {
    Duration::from_secs(record.ttl.into())
}

/// What looks names up: name servers, or a test.
pub(crate) type Looking<'a, T> = BoxFuture<'a, Result<Looked<T>, DnsError>>;
