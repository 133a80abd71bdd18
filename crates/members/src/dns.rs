//! Members that a name service names.
//!
//! Every look asks afresh: with a resolver of its own, so with no cache, no connection that may have
//! died, and whatever the system's configuration says by then. The hosts file is not consulted.

use crate::{Family, MembersError, fixed::is_host, found::reachable, looks::Looks};
use futures_util::{StreamExt, stream};
use gannet_cluster::Member;
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig},
    lookup::Lookup,
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::{Name, RData, rdata::SRV},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    str::FromStr,
    time::Duration,
};

/// Targets of SRV records that are looked up at a time.
const TARGETS_AT_ONCE_MAX: usize = 8;
/// Tries of a question, less one.
const RETRIES: usize = 1;

/// A name to look up. One that begins with `_` (`_gannet._tcp.cache.default.svc`) is of a service, and
/// SRV records are asked for.
#[derive(Clone, PartialEq, Eq)]
pub struct DnsName(Name);

/// What is no name to look up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no name to look up: write one like cache.example.com or _gannet._tcp.example.com"
)]
pub struct BadName(String);

impl DnsName {
    /// Whether SRV records are asked for.
    pub fn is_service(&self) -> bool {
        self.0
            .iter()
            .next()
            .is_some_and(|label| label.starts_with(b"_"))
    }
}

impl FromStr for DnsName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let name = is_host(text).then(|| Name::from_ascii(text).ok()).flatten();
        name.map(Self).ok_or_else(|| BadName(text.to_owned()))
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Looks names up.
#[derive(Clone, Debug)]
pub(crate) struct Looker {
    name: DnsName,
    server: Option<SocketAddr>,
    /// For one try of one question.
    try_time_max: Duration,
    port: u16,
    family: Family,
}

impl Looker {
    pub(crate) fn new(
        name: DnsName,
        server: Option<SocketAddr>,
        looks: Looks,
        port: u16,
        family: Family,
    ) -> Result<Self, MembersError> {
        // All tries of all questions that follow each other, and a third of the time to spare.
        let questions = if name.is_service() { 2 } else { 1 };
        let tries = questions * (1 + RETRIES as u32);
        let looker = Self {
            name,
            server,
            try_time_max: looks.time_max() * 2 / 3 / tries,
            port,
            family,
        };
        // Only to see whether it can be made.
        let error = |error: NetError| MembersError::System(error.to_string());
        looker.resolver().map_err(error)?;
        Ok(looker)
    }

    /// Makes one look.
    pub(crate) async fn look(self) -> Result<Vec<Member>, String> {
        let found = match self.resolver() {
            Ok(resolver) if self.name.is_service() => self.services(&resolver).await,
            Ok(resolver) => self.addresses(&resolver).await,
            Err(error) => Err(error),
        };
        found.map_err(|error| format!("{}: {error}", self.name))
    }

    fn resolver(&self) -> Result<TokioResolver, NetError> {
        let mut builder = match self.server {
            None => TokioResolver::builder_tokio()?,
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
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.timeout = self.try_time_max;
        options.attempts = RETRIES;
        // Answers that do not fit come over TCP; most do in this.
        options.edns0 = true;
        builder.build()
    }

    /// Every address of the name is a member.
    async fn addresses(&self, resolver: &TokioResolver) -> Result<Vec<Member>, NetError> {
        let ips = addresses(resolver, self.name.0.clone(), self.family).await?;
        let addrs = ips.into_iter().filter_map(|ip| reachable(ip, self.port));
        Ok(addrs.map(|addr| Member::new(&addr.to_string())).collect())
    }

    /// Every address of a target is a member, with the port and the weight that go with the target.
    ///
    /// Priorities say nothing here: all are members. A target that cannot be looked up is left out: it
    /// may be gone, and one that is broken for good must not hide the others.
    async fn services(&self, resolver: &TokioResolver) -> Result<Vec<Member>, NetError> {
        let lookup = resolver.srv_lookup(self.name.0.clone()).await?;
        let services: Vec<&SRV> = lookup
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                // The root as its target says that there is decidedly no such service.
                RData::SRV(srv) if !srv.target.is_root() => Some(srv),
                _ => None,
            })
            .collect();
        // Most servers add the addresses, which spares as many questions as there are members.
        let mut ips: BTreeMap<Name, Vec<IpAddr>> = BTreeMap::new();
        for record in lookup.additionals() {
            // Of a target without one that counts, those that were not added may.
            if let Some(ip) = record.data.ip_addr().filter(|ip| self.family.has(*ip)) {
                ips.entry(record.name.clone()).or_default().push(ip);
            }
        }
        let mut targets: BTreeSet<Name> = services.iter().map(|srv| srv.target.clone()).collect();
        targets.retain(|target| !ips.contains_key(target));
        let looked: Vec<_> = stream::iter(targets)
            .map(|target| async move {
                let found = addresses(resolver, target.clone(), self.family).await;
                (target, found)
            })
            .buffer_unordered(TARGETS_AT_ONCE_MAX)
            .collect()
            .await;
        let mut failed = None;
        for (target, found) in looked {
            match found {
                Ok(found) => {
                    ips.insert(target, found);
                }
                Err(error) => {
                    tracing::debug!(%target, %error, "a member's name has no address");
                    failed = Some(error);
                }
            }
        }
        let mut members = Vec::new();
        for srv in services {
            let weight = NonZeroU16::new(srv.weight).unwrap_or(NonZeroU16::MIN);
            let ips = ips.get(&srv.target).into_iter().flatten();
            for addr in ips.filter_map(|ip| reachable(*ip, srv.port)) {
                members.push(Member::weighted(&addr.to_string(), weight));
            }
        }
        match failed {
            Some(error) if members.is_empty() => Err(error),
            _ => Ok(members),
        }
    }
}

/// The addresses of a family. Where both count, only those of one if the other cannot be had: there are
/// servers that fail every question for the kind that they do not know.
async fn addresses(
    resolver: &TokioResolver,
    name: Name,
    family: Family,
) -> Result<Vec<IpAddr>, NetError> {
    let of = |lookup: Lookup| {
        let ips = lookup.answers().iter().map(|record| record.data.ip_addr());
        ips.flatten()
            .filter(|ip| family.has(*ip))
            .collect::<Vec<_>>()
    };
    let (v4, v6) = match family {
        Family::V4 => return resolver.ipv4_lookup(name).await.map(of),
        Family::V6 => return resolver.ipv6_lookup(name).await.map(of),
        Family::Any => tokio::join!(
            resolver.ipv4_lookup(name.clone()),
            resolver.ipv6_lookup(name)
        ),
    };
    match (v4, v6) {
        (Err(v4), Err(v6)) => Err(if v4.is_no_records_found() { v6 } else { v4 }),
        (v4, v6) => Ok([v4, v6].into_iter().flatten().flat_map(of).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let check = |text: &str, service: Option<bool>| {
            let name = text.parse::<DnsName>();
            assert_eq!(
                name.as_ref().map(DnsName::is_service).ok(),
                service,
                "{text}"
            );
        };
        check("cache", Some(false));
        check("cache.default.svc.cluster.local.", Some(false));
        check("_gannet._tcp.cache.default.svc", Some(true));
        check("gannet_cache.example.com", Some(false));
        for text in [
            "",
            ".",
            "a..b",
            "a b",
            "10.0.0.1",
            "a/b",
            "a:1",
            "\u{e9}.example",
            &"a".repeat(64),
        ] {
            check(text, None);
        }
        assert_eq!("a.B.".parse::<DnsName>().unwrap().to_string(), "a.B.");
    }
}
