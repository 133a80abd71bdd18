//! The numbered rules of the specification ("Resolving server names"), as a machine without I/O.
//!
//! ```text
//!             server name
//!   address  /     |     \  name
//!        1. use  name:port  |
//!                2. look up |
//!                       well-known ---- none ---+
//!                           | m.server          |
//!       3.1 address  3.2 name:port  name        |
//!           use          look up     |          |
//!                   3.3 _matrix-fed._tcp    4. _matrix-fed._tcp
//!                   3.4 _matrix._tcp        5. _matrix._tcp
//!                   3.5 port 8448           6. port 8448
//! ```
//!
//! A delegated name is never asked where it is delegated to: there is no way back to the well-known.

use ruma_common::{OwnedServerName, ServerName};
use rustls_pki_types::ServerName as CertName;
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

/// The port of servers that name none.
pub(crate) const DEFAULT_PORT: u16 = 8448;
/// Targets of SRV records that are considered.
pub(crate) const SERVICES_MAX: usize = 16;

/// The rule of the specification by which a server was found; shown by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// 1: the name is an address.
    Literal,
    /// 2: the name has a port.
    Port,
    /// 3.1: delegated to an address.
    DelegatedLiteral,
    /// 3.2: delegated to a name with a port.
    DelegatedPort,
    /// 3.3: delegated to a name that has `_matrix-fed._tcp` records.
    DelegatedService,
    /// 3.4: delegated to a name that has (deprecated) `_matrix._tcp` records.
    DelegatedOldService,
    /// 3.5: delegated to a name with nothing else: port 8448.
    DelegatedFallback,
    /// 4: the name has `_matrix-fed._tcp` records.
    Service,
    /// 5: the name has (deprecated) `_matrix._tcp` records.
    OldService,
    /// 6: nothing else: port 8448.
    Fallback,
}

impl Rule {
    /// As the specification numbers it (version 1.8 and later).
    pub const fn number(self) -> &'static str {
        match self {
            Self::Literal => "1",
            Self::Port => "2",
            Self::DelegatedLiteral => "3.1",
            Self::DelegatedPort => "3.2",
            Self::DelegatedService => "3.3",
            Self::DelegatedOldService => "3.4",
            Self::DelegatedFallback => "3.5",
            Self::Service => "4",
            Self::OldService => "5",
            Self::Fallback => "6",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.number())
    }
}

/// Where something listens: an address, or a name to be looked up; and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Place {
    Addr(SocketAddr),
    Name(String, u16),
}

/// Who is to be spoken to, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) rule: Rule,
    /// What the `Host` header says.
    pub(crate) host: String,
    /// What the certificate must be for; as SNI if it is a name.
    pub(crate) name: CertName<'static>,
    /// In the order in which they are to be tried.
    pub(crate) places: Vec<Place>,
}

/// One SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) priority: u16,
    pub(crate) weight: u16,
    pub(crate) port: u16,
    /// Without the dot at the end; empty for the root, which says that there is decidedly no service.
    pub(crate) target: String,
}

/// What the machine wants to know, or what it found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Where `https://<host>/.well-known/matrix/server` delegates to.
    WellKnown { host: String },
    /// The SRV records of a name.
    Services { name: String },
    /// The end.
    Found(Target),
    /// There is no such server.
    Dead(Dead),
}

/// Why there is no server of a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Dead {
    #[error("{0:?} is no host name")]
    NoHost(String),
    #[error("port 0 cannot be connected to")]
    NoPort,
    #[error("the SRV record of {0} says that it decidedly offers no federation")]
    Closed(String),
}

/// A host, and maybe a port.
#[derive(Clone, Debug)]
struct Split {
    host: String,
    ip: Option<IpAddr>,
    port: Option<u16>,
}

fn split(name: &ServerName) -> Split {
    let host = name.host();
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let ip = match bare {
        Some(v6) => v6.parse().ok().map(IpAddr::V6),
        None => host.parse().ok().map(IpAddr::V4),
    };
    Split {
        host: host.to_owned(),
        ip,
        port: name.port(),
    }
}

#[derive(Clone, Debug)]
enum State {
    /// Well-known of the host is asked for.
    WellKnown(String),
    /// SRV records are; whether of a delegated name, and whether the deprecated ones.
    Services {
        host: String,
        delegated: bool,
        old: bool,
    },
    End(Box<Result<Target, Dead>>),
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    state: State,
    dice: u64,
}

impl Machine {
    /// Begins with a server name; the seed is for the weights of SRV records.
    pub(crate) fn new(server: &ServerName, seed: u64) -> Self {
        let name = split(server);
        let state = if name.ip.is_none() && name.port.is_none() {
            State::WellKnown(name.host)
        } else {
            Self::direct(server, name, Rule::Literal, Rule::Port)
        };
        Self { state, dice: seed }
    }

    /// What is wanted next. The same until [`tell`](Self::tell).
    pub(crate) fn next(&self) -> Next {
        match &self.state {
            State::WellKnown(host) => Next::WellKnown { host: host.clone() },
            State::Services { host, old, .. } => Next::Services {
                name: service_name(host, *old),
            },
            State::End(end) => match &**end {
                Ok(target) => Next::Found(target.clone()),
                Err(dead) => Next::Dead(dead.clone()),
            },
        }
    }

    /// Where the well-known delegates to; `None` where it is of no use. Ignored unless it was wanted.
    pub(crate) fn tell_well_known(&mut self, delegated: Option<OwnedServerName>) {
        let State::WellKnown(host) = &self.state else {
            return;
        };
        self.state = match delegated {
            None => State::Services {
                host: host.clone(),
                delegated: false,
                old: false,
            },
            Some(server) => {
                let name = split(&server);
                if name.ip.is_none() && name.port.is_none() {
                    State::Services {
                        host: name.host,
                        delegated: true,
                        old: false,
                    }
                } else {
                    let (literal, port) = (Rule::DelegatedLiteral, Rule::DelegatedPort);
                    Self::direct(&server, name, literal, port)
                }
            }
        };
    }

    /// The SRV records; none where there are none, or they cannot be had. Ignored unless wanted.
    pub(crate) fn tell_services(&mut self, services: Vec<Service>) {
        let State::Services {
            host,
            delegated,
            old,
        } = &self.state
        else {
            return;
        };
        let (host, delegated, old) = (host.clone(), *delegated, *old);
        if services.is_empty() && !old {
            self.state = State::Services {
                host,
                delegated,
                old: true,
            };
            return;
        }
        let fallback = services.is_empty();
        let places: Vec<Place> = if fallback {
            vec![Place::Name(host.clone(), DEFAULT_PORT)]
        } else {
            // RFC 2782: a target of "." is decidedly none.
            let open = services.into_iter().filter(|srv| !srv.target.is_empty());
            in_order(open.filter(|srv| srv.port != 0).collect(), &mut self.dice)
                .into_iter()
                .map(|service| Place::Name(service.target, service.port))
                .collect()
        };
        let rule = match (delegated, old, fallback) {
            (false, false, _) => Rule::Service,
            (true, false, _) => Rule::DelegatedService,
            (false, true, false) => Rule::OldService,
            (true, true, false) => Rule::DelegatedOldService,
            (false, true, true) => Rule::Fallback,
            (true, true, true) => Rule::DelegatedFallback,
        };
        let end = if places.is_empty() {
            Err(Dead::Closed(service_name(&host, old)))
        } else {
            certified(&host).map(|name| Target {
                rule,
                host,
                name,
                places,
            })
        };
        self.state = State::End(Box::new(end));
    }

    /// An address, or a name with a port: nothing is to be found out.
    fn direct(server: &ServerName, name: Split, literal: Rule, port: Rule) -> State {
        let end = |name: Split| {
            if name.port == Some(0) {
                return Err(Dead::NoPort);
            }
            let to = name.port.unwrap_or(DEFAULT_PORT);
            Ok(match name.ip {
                Some(ip) => Target {
                    rule: literal,
                    host: server.to_string(),
                    name: CertName::IpAddress(ip.into()),
                    places: vec![Place::Addr(SocketAddr::new(ip, to))],
                },
                None => Target {
                    rule: port,
                    host: server.to_string(),
                    name: certified(&name.host)?,
                    places: vec![Place::Name(name.host, to)],
                },
            })
        };
        State::End(Box::new(end(name)))
    }
}

/// What certificates are for.
fn certified(host: &str) -> Result<CertName<'static>, Dead> {
    CertName::try_from(host.to_owned()).map_err(|_| Dead::NoHost(host.to_owned()))
}

fn service_name(host: &str, old: bool) -> String {
    let service = if old {
        "_matrix._tcp"
    } else {
        "_matrix-fed._tcp"
    };
    format!("{service}.{host}")
}

/// splitmix64.
fn roll(dice: &mut u64) -> u64 {
    *dice = dice.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *dice;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// By priority, and within one drawn by weight, as RFC 2782 has it.
fn in_order(mut services: Vec<Service>, dice: &mut u64) -> Vec<Service> {
    // What is too many is cut after sorting; those without weight come first, so that they are drawn at
    // all.
    services.sort_by(|a, b| {
        let key = |srv: &Service| (srv.priority, srv.weight, srv.port);
        key(a).cmp(&key(b)).then_with(|| a.target.cmp(&b.target))
    });
    services.dedup();
    services.truncate(SERVICES_MAX);
    let mut ordered = Vec::with_capacity(services.len());
    while let Some(first) = services.first() {
        let peers = services.partition_point(|srv| srv.priority == first.priority);
        let total: u64 = services[..peers]
            .iter()
            .map(|srv| u64::from(srv.weight))
            .sum();
        let drawn = roll(dice) % (total + 1);
        let mut sum = 0;
        let at = services[..peers].iter().position(|srv| {
            sum += u64::from(srv.weight);
            sum >= drawn
        });
        ordered.push(services.remove(at.unwrap_or(0)));
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(priority: u16, weight: u16, port: u16, target: &str) -> Service {
        Service {
            priority,
            weight,
            port,
            target: target.to_owned(),
        }
    }

    /// Runs the machine; `well_known` and the records of the two services as they would come.
    fn run(
        server: &str,
        well_known: Option<&str>,
        new: &[Service],
        old: &[Service],
    ) -> (Vec<String>, Result<Target, Dead>) {
        let server = ServerName::parse(server).unwrap();
        let mut machine = Machine::new(&server, 7);
        let mut asked = Vec::new();
        loop {
            match machine.next() {
                Next::WellKnown { host } => {
                    asked.push(format!("well-known {host}"));
                    machine.tell_well_known(well_known.map(|to| ServerName::parse(to).unwrap()));
                }
                Next::Services { name } => {
                    let is_old = name.starts_with("_matrix._tcp.");
                    asked.push(name);
                    machine.tell_services(if is_old { old } else { new }.to_vec());
                }
                Next::Found(target) => return (asked, Ok(target)),
                Next::Dead(dead) => return (asked, Err(dead)),
            }
        }
    }

    /// rule, Host, certificate, places; and what was asked for on the way.
    fn check(
        server: &str,
        well_known: Option<&str>,
        (new, old): (&[Service], &[Service]),
        want: (&str, &str, &str, &[&str]),
        asked: &[&str],
    ) {
        let (did_ask, target) = run(server, well_known, new, old);
        let target = target.unwrap();
        let name = match &target.name {
            CertName::IpAddress(ip) => format!("ip {}", IpAddr::from(*ip)),
            name => name.to_str().into_owned(),
        };
        let places: Vec<String> = target
            .places
            .iter()
            .map(|place| match place {
                Place::Addr(addr) => addr.to_string(),
                Place::Name(name, port) => format!("{name}:{port}"),
            })
            .collect();
        let places: Vec<&str> = places.iter().map(String::as_str).collect();
        let found = (target.rule.number(), &*target.host, &*name, &*places);
        assert_eq!(found, want, "{server} {well_known:?}");
        assert_eq!(did_ask, asked, "{server} {well_known:?}");
    }

    #[test]
    fn every_rule() {
        let none: (&[Service], &[Service]) = (&[], &[]);
        let (a, b) = ([service(0, 0, 1, "x.test")], [service(0, 0, 2, "y.test")]);
        check(
            "1.2.3.4",
            None,
            none,
            ("1", "1.2.3.4", "ip 1.2.3.4", &["1.2.3.4:8448"]),
            &[],
        );
        check(
            "1.2.3.4:5",
            None,
            none,
            ("1", "1.2.3.4:5", "ip 1.2.3.4", &["1.2.3.4:5"]),
            &[],
        );
        check(
            "[::1]",
            None,
            none,
            ("1", "[::1]", "ip ::1", &["[::1]:8448"]),
            &[],
        );
        check(
            "[::1]:5",
            None,
            none,
            ("1", "[::1]:5", "ip ::1", &["[::1]:5"]),
            &[],
        );
        check(
            "a.test:5",
            Some("b.test"),
            (&a, &b),
            ("2", "a.test:5", "a.test", &["a.test:5"]),
            &[],
        );
        let well_known = "well-known a.test";
        let to = |to| Some(to);
        check(
            "a.test",
            to("1.2.3.4"),
            none,
            ("3.1", "1.2.3.4", "ip 1.2.3.4", &["1.2.3.4:8448"]),
            &[well_known],
        );
        check(
            "a.test",
            to("[::1]:5"),
            none,
            ("3.1", "[::1]:5", "ip ::1", &["[::1]:5"]),
            &[well_known],
        );
        check(
            "a.test",
            to("b.test:5"),
            (&a, &b),
            ("3.2", "b.test:5", "b.test", &["b.test:5"]),
            &[well_known],
        );
        let (new, old) = ("_matrix-fed._tcp.b.test", "_matrix._tcp.b.test");
        check(
            "a.test",
            to("b.test"),
            (&a, &b),
            ("3.3", "b.test", "b.test", &["x.test:1"]),
            &[well_known, new],
        );
        check(
            "a.test",
            to("b.test"),
            (&[], &b),
            ("3.4", "b.test", "b.test", &["y.test:2"]),
            &[well_known, new, old],
        );
        check(
            "a.test",
            to("b.test"),
            none,
            ("3.5", "b.test", "b.test", &["b.test:8448"]),
            &[well_known, new, old],
        );
        let (new, old) = ("_matrix-fed._tcp.a.test", "_matrix._tcp.a.test");
        check(
            "a.test",
            None,
            (&a, &b),
            ("4", "a.test", "a.test", &["x.test:1"]),
            &[well_known, new],
        );
        check(
            "a.test",
            None,
            (&[], &b),
            ("5", "a.test", "a.test", &["y.test:2"]),
            &[well_known, new, old],
        );
        check(
            "a.test",
            None,
            none,
            ("6", "a.test", "a.test", &["a.test:8448"]),
            &[well_known, new, old],
        );
        // One that delegates to itself is a delegated one, and not asked again.
        check(
            "a.test",
            to("a.test"),
            none,
            ("3.5", "a.test", "a.test", &["a.test:8448"]),
            &[well_known, new, old],
        );
    }

    #[test]
    fn what_cannot_be() {
        let dead =
            |server, well_known, new: &[Service]| run(server, well_known, new, &[]).1.unwrap_err();
        assert_eq!(dead("a.test:0", None, &[]), Dead::NoPort);
        assert_eq!(dead("a.test", Some("b.test:0"), &[]), Dead::NoPort);
        assert_eq!(dead("a..b", None, &[]), Dead::NoHost("a..b".into()));
        let closed = Dead::Closed("_matrix-fed._tcp.a.test".into());
        assert_eq!(dead("a.test", None, &[service(0, 0, 0, "")]), closed);
    }

    #[test]
    fn services_are_tried_by_priority_and_weight() {
        let services = [
            service(2, 9, 1, "later"),
            service(1, 1, 1, "light"),
            service(1, 99, 1, "heavy"),
            service(1, 0, 1, "weightless"),
            service(0, 0, 0, ""),
        ];
        let mut firsts = std::collections::BTreeMap::new();
        for seed in 0..2000 {
            let mut dice = seed;
            let ordered = in_order(services[..4].to_vec(), &mut dice);
            assert_eq!(ordered.len(), 4);
            assert_eq!(ordered[3].target, "later");
            *firsts.entry(ordered[0].target.clone()).or_insert(0) += 1;
        }
        assert!(firsts["heavy"] > 1800, "{firsts:?}");
        assert!(
            firsts["light"] > 0 && firsts["weightless"] > 0,
            "{firsts:?}"
        );
        // One that says "none" beside others is passed over.
        let (_, target) = run("a.test", None, &services, &[]);
        assert_eq!(target.unwrap().places.len(), 4);
        let many: Vec<_> = (0..100).map(|n| service(n, 0, 1, "t")).collect();
        assert_eq!(in_order(many, &mut 0).len(), SERVICES_MAX);
    }

    #[test]
    fn answers_that_nobody_wanted_change_nothing() {
        let mut machine = Machine::new(<&ServerName>::try_from("a.test").unwrap(), 0);
        machine.tell_services(vec![service(0, 0, 1, "x")]);
        assert_eq!(
            machine.next(),
            Next::WellKnown {
                host: "a.test".into()
            }
        );
        machine.tell_well_known(None);
        machine.tell_well_known(Some(ServerName::parse("1.2.3.4").unwrap()));
        assert!(matches!(machine.next(), Next::Services { .. }));
    }
}
