//! How the server of a name is found: [`Discovery`].
//!
//! `machine.rs` has the rules of the specification, `wellknown.rs` what a well-known says, `cache.rs` what is
//! kept of one; all three without I/O. `world.rs` does the I/O. What was done is told step by step.

mod cache;
mod machine;
mod step;
#[cfg(test)]
mod tests;
mod wellknown;
mod world;

pub use machine::Rule;
pub(crate) use machine::Service;
pub use step::Step;

use self::{
    cache::{Keeping, Kept},
    machine::{Machine, Next, Target},
    step::roughly,
    world::{PlaceError, Real, World},
};
use super::{
    BadConfig, NetConfig, RefusedAddress, dial::Dialer, dns::DnsError, flights::Flights, lru::Lru,
};
use futures_util::{FutureExt, StreamExt, stream};
use ruma_common::{OwnedServerName, ServerName};
use rustls_pki_types::ServerName as CertName;
use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::BuildHasher,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::{self, Instant};

/// Names of one server that are looked up at a time.
const PLACES_AT_ONCE_MAX: usize = 4;

/// Where a server is, and how it is spoken to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Resolved {
    /// The server.
    pub server: OwnedServerName,
    /// The rule by which it was found.
    pub rule: Rule,
    /// What the `Host` header says.
    pub host: String,
    /// What its certificate must be for; as SNI, where it is a name.
    pub name: CertName<'static>,
    /// Where to connect to, in this order; all of them are allowed by the policy.
    pub addrs: Vec<SocketAddr>,
    /// How it was found.
    pub steps: Vec<Step>,
    /// When it has to be looked for again.
    pub valid_until: Instant,
}

/// Why a server cannot be found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResolveError {
    /// The server.
    pub server: OwnedServerName,
    /// Why.
    pub kind: ResolveErrorKind,
    /// What was tried.
    pub steps: Vec<Step>,
}

/// The kinds of [`ResolveError`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveErrorKind {
    /// Its name leads nowhere, whatever name servers say: it is no name, or the records say that there is
    /// no server.
    #[error("{0}")]
    NoSuchServer(String),
    /// Its addresses cannot be looked up: look at the name, and at the name servers.
    #[error("{0}")]
    Dns(String),
    /// All its addresses are ones that may not be connected to: allow them, if they are meant.
    #[error(transparent)]
    Refused(RefusedAddress),
    /// It took too long.
    #[error("not found within {0:?}")]
    TimedOut(Duration),
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cannot be found: {}", self.server, self.kind)
    }
}

impl std::error::Error for ResolveError {}

/// What is told to all who asked for the same server.
type Answer = Result<Arc<Resolved>, Arc<ResolveError>>;

/// Finds servers by the rules of the specification, and remembers them. Cheap to clone; clones are one.
///
/// However many ask for a server at once, it is looked for once. What was found is kept as its
/// well-known and its records say, within the bounds of the [configuration](NetConfig); so is, for a shorter
/// while, that it was not found. All memory is bounded.
///
/// ```no_run
/// use gannet_matrix::net::{Discovery, NetConfig};
/// use ruma_common::server_name;
///
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let discovery = Discovery::new(&NetConfig::default())?;
/// let found = discovery.resolve(server_name!("matrix.org")).await?;
/// println!("by rule {}, at {:?}", found.rule, found.addrs);
/// for step in &found.steps {
///     println!("{step}");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Discovery {
    shared: Arc<Shared>,
}

impl fmt::Debug for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discovery").finish_non_exhaustive()
    }
}

struct Shared {
    world: Box<dyn World>,
    config: NetConfig,
    known: Mutex<Lru<OwnedServerName, (Instant, Answer)>>,
    well_knowns: Mutex<Lru<String, Kept>>,
    flights: Flights<OwnedServerName, Answer>,
    dice: AtomicU64,
}

/// What is kept stays usable whoever panicked.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Discovery {
    /// Finds servers as the configuration says.
    ///
    /// # Errors
    ///
    /// If one of its certificate authorities is none.
    pub fn new(config: &NetConfig) -> Result<Self, BadConfig> {
        Ok(Self::over(config, Dialer::new(config)?))
    }

    pub(crate) fn over(config: &NetConfig, dialer: Dialer) -> Self {
        Self::of(config, Box::new(Real::new(config, dialer)))
    }

    fn of(config: &NetConfig, world: Box<dyn World>) -> Self {
        let shared = Shared {
            world,
            known: Mutex::new(Lru::new(config.servers_max)),
            well_knowns: Mutex::new(Lru::new(config.servers_max)),
            flights: Flights::default(),
            // So that two processes do not favour the same one of a server's machines.
            dice: AtomicU64::new(RandomState::new().hash_one(0)),
            config: config.clone(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Where a server is.
    ///
    /// # Cancellation
    ///
    /// A search goes on when nobody waits for it any more, within its own time: those who have less than it
    /// takes (a host that is silent at the port of well-knowns, and well at that of federation) find what
    /// came of it the next time, and do not begin it anew for ever.
    ///
    /// # Errors
    ///
    /// If it cannot be found; remembered for a while.
    pub async fn resolve(&self, server: &ServerName) -> Result<Arc<Resolved>, Arc<ResolveError>> {
        if let Some((until, answer)) = locked(&self.shared.known).get(server)
            && Instant::now() < *until
        {
            return answer.clone();
        }
        let shared = self.shared.clone();
        let name = server.to_owned();
        let mut begun = false;
        let begin = || {
            begun = true;
            async move { shared.find(&name, false).await }.boxed()
        };
        let flight = self.shared.flights.join(server.to_owned(), begin);
        if begun {
            tokio::spawn(flight.clone());
        }
        flight.await
    }

    /// Looks for a server whatever is remembered, and tells every step; what it finds is remembered.
    ///
    /// # Errors
    ///
    /// If it cannot be found; the error has the steps.
    pub async fn explain(&self, server: &ServerName) -> Result<Arc<Resolved>, Arc<ResolveError>> {
        self.shared.find(server, true).await
    }

    /// Its addresses turned out to be of no use: they are looked up again when it is next asked for,
    /// if what is known is older than the least time that records are kept. Its well-known holds on.
    pub fn doubt(&self, resolved: &Resolved) {
        let mut known = locked(&self.shared.known);
        let now = Instant::now();
        if let Some((until, Ok(current))) = known.get(&resolved.server)
            && current.valid_until == resolved.valid_until
        {
            let soon = now + self.shared.config.not_found;
            *until = (*until).min(soon);
        }
    }

    /// Drops all that is remembered of a server.
    pub fn forget(&self, server: &ServerName) {
        locked(&self.shared.known).remove(server);
        locked(&self.shared.well_knowns).remove(server.host());
    }
}

impl Shared {
    async fn find(&self, server: &ServerName, afresh: bool) -> Answer {
        let mut steps = Vec::new();
        let timeout = self.config.resolve_timeout;
        let seed = self.dice.fetch_add(0x9E37_79B9_7F4A_7C15, Relaxed);
        let finding = self.search(server, seed, afresh, &mut steps);
        let found = time::timeout(timeout, finding).await;
        let found = found.unwrap_or(Err(ResolveErrorKind::TimedOut(timeout)));
        let now = Instant::now();
        let (until, answer) = match found {
            Ok((target, addrs, lasts)) => {
                let bounds = (self.config.records_min, self.config.records_max);
                let until = now + lasts.min(bounds.1).max(bounds.0);
                let resolved = Resolved {
                    server: server.to_owned(),
                    rule: target.rule,
                    host: target.host,
                    name: target.name,
                    addrs,
                    steps,
                    valid_until: until,
                };
                (until, Ok(Arc::new(resolved)))
            }
            Err(kind) => {
                let error = ResolveError {
                    server: server.to_owned(),
                    kind,
                    steps,
                };
                tracing::debug!(%error, "a server was not found");
                (now + self.config.not_found, Err(Arc::new(error)))
            }
        };
        locked(&self.known).insert(server.to_owned(), (until, answer.clone()));
        answer
    }

    /// Runs the machine to its end, and looks up what it found.
    async fn search(
        &self,
        server: &ServerName,
        seed: u64,
        afresh: bool,
        steps: &mut Vec<Step>,
    ) -> Result<(Target, Vec<SocketAddr>, Duration), ResolveErrorKind> {
        let mut machine = Machine::new(server, seed);
        let mut lasts = Duration::MAX;
        let mut silence = Silence::default();
        let target = loop {
            match machine.next() {
                Next::WellKnown { host } => {
                    let (kept, silent) = self.well_known(&host, afresh, steps).await;
                    silence.well_known = silent;
                    lasts = lasts.min(kept.until.saturating_duration_since(Instant::now()));
                    machine.tell_well_known(kept.result.ok());
                }
                Next::Services { name } if silence.services => {
                    steps.push(Step {
                        what: format!("SRV {name}"),
                        came: Err("not asked for: name servers keep silent".to_owned()),
                        took: Duration::ZERO,
                    });
                    machine.tell_services(Vec::new());
                }
                Next::Services { name } => {
                    let started = Instant::now();
                    let looked = self.world.services(&name).await;
                    silence.services = matches!(looked, Err(DnsError::TimedOut(_)));
                    let came = match &looked {
                        Ok(looked) if looked.found.is_empty() => Err("none".to_owned()),
                        Ok(looked) => Ok(shown(&looked.found)),
                        Err(error) => Err(error.to_string()),
                    };
                    steps.push(Step {
                        what: format!("SRV {name}"),
                        came,
                        took: started.elapsed(),
                    });
                    // Nobody knows: what follows may do, but not for long.
                    lasts = lasts.min(
                        looked
                            .as_ref()
                            .map_or(Duration::ZERO, |looked| looked.lasts),
                    );
                    machine
                        .tell_services(looked.map_or_else(|_| Vec::new(), |looked| looked.found));
                }
                Next::Found(target) => break target,
                Next::Dead(dead) => return Err(ResolveErrorKind::NoSuchServer(dead.to_string())),
            }
        };
        let ask = !silence.is_total();
        let mut looks = stream::iter(target.places.clone())
            .map(|place| async move {
                let started = Instant::now();
                let looked = self.world.addresses(&place, ask).await;
                (place, looked, started.elapsed())
            })
            .buffered(PLACES_AT_ONCE_MAX);
        let mut addrs = Vec::new();
        let mut failed = None;
        while let Some((place, looked, took)) = looks.next().await {
            let came = match &looked {
                Ok(looked) => Ok(listed(&looked.found)),
                Err(error) => Err(error.to_string()),
            };
            let what = match place {
                machine::Place::Addr(addr) => format!("the address {addr}"),
                machine::Place::Name(name, port) => format!("A, AAAA {name} (port {port})"),
            };
            steps.push(Step { what, came, took });
            match looked {
                Ok(looked) => {
                    lasts = lasts.min(looked.lasts);
                    for addr in looked.found {
                        if !addrs.contains(&addr) {
                            addrs.push(addr);
                        }
                    }
                }
                Err(error) => {
                    lasts = lasts.min(Duration::ZERO);
                    failed = failed.or(Some(error));
                }
            }
            if addrs.len() >= self.config.addresses_max {
                break;
            }
        }
        drop(looks);
        addrs.truncate(self.config.addresses_max);
        match failed {
            Some(error) if addrs.is_empty() => Err(match error {
                PlaceError::Refused(refused) => ResolveErrorKind::Refused(refused),
                error => ResolveErrorKind::Dns(error.to_string()),
            }),
            _ => Ok((target, addrs, lasts)),
        }
    }

    /// What the well-known of a host says, from memory if that still holds.
    /// And whether name servers kept silent about that host just now.
    async fn well_known(&self, host: &str, afresh: bool, steps: &mut Vec<Step>) -> (Kept, bool) {
        let before = locked(&self.well_knowns).get(host).cloned();
        let now = Instant::now();
        if let Some(kept) = &before
            && !afresh
            && now < kept.until
        {
            steps.push(Step {
                what: format!("the well-known of {host}, as remembered"),
                came: match &kept.result {
                    Ok(server) => Ok(format!(
                        "m.server is {server}, for {}",
                        roughly(kept.until - now)
                    )),
                    Err(useless) => Err(useless.to_string()),
                },
                took: Duration::ZERO,
            });
            return (kept.clone(), false);
        }
        let look = self.world.well_known(host).await;
        steps.extend(look.steps);
        let keeping = Keeping {
            error_first: self.config.error_first,
            error_max: self.config.error_max,
            good_max: self.config.well_known_max,
        };
        if let Err(useless @ (wellknown::Useless::Loop(_) | wellknown::Useless::TooManyRedirects)) =
            &look.result
        {
            // Not what an answer said, but what we made of it.
            steps.push(Step {
                what: format!("the well-known of {host}"),
                came: Err(useless.to_string()),
                took: Duration::ZERO,
            });
        }
        let silent = matches!(look.result, Err(wellknown::Useless::Silence(_)));
        let kept = Kept::after(before.as_ref(), look.result, &keeping, Instant::now());
        if kept.is_old() {
            steps.push(Step {
                what: format!("the well-known of {host}, as it was before"),
                came: kept
                    .result
                    .as_ref()
                    .map(|server| format!("m.server is {server}"))
                    .map_err(ToString::to_string),
                took: Duration::ZERO,
            });
        }
        locked(&self.well_knowns).insert(host.to_owned(), kept.clone());
        (kept, silent)
    }
}

/// Which questions name servers did not answer in the course of one search, for each of which they had all the
/// time that there is: not to be waited for three times in a row.
#[derive(Clone, Copy, Debug, Default)]
struct Silence {
    /// That for the address of the well-known.
    well_known: bool,
    /// That for SRV records: the deprecated ones are of the same zone.
    services: bool,
}

impl Silence {
    /// Whether nothing at all was answered.
    fn is_total(self) -> bool {
        self.well_known && self.services
    }
}

/// SRV records, for people.
fn shown(services: &[Service]) -> String {
    let mut text = String::new();
    for (n, srv) in services.iter().take(machine::SERVICES_MAX).enumerate() {
        let comma = if n == 0 { "" } else { ", " };
        let target = if srv.target.is_empty() {
            "."
        } else {
            &srv.target
        };
        text += &format!(
            "{comma}{target}:{} (priority {}, weight {})",
            srv.port, srv.priority, srv.weight
        );
    }
    text
}

fn listed(addrs: &[SocketAddr]) -> String {
    let texts: Vec<String> = addrs.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

/// What fuzzers try: the body of a well-known, and its headers before an empty line.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    use http::{HeaderMap, HeaderName, HeaderValue};
    use std::time::UNIX_EPOCH;
    let at = bytes.windows(2).position(|pair| pair == b"\n\n");
    let (head, body) = match at {
        Some(at) => (&bytes[..at], &bytes[at + 2..]),
        None => (&bytes[..0], bytes),
    };
    let mut headers = HeaderMap::new();
    for line in head.split(|byte| *byte == b'\n').take(32) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(&line[colon + 1..]);
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let lifetimes = wellknown::Lifetimes {
        min: Duration::from_secs(60),
        max: Duration::from_secs(172_800),
        default: Duration::from_secs(86_400),
    };
    let lasts = lifetimes.of(&headers, UNIX_EPOCH + Duration::from_secs(1 << 30));
    assert!(
        (lifetimes.min..=lifetimes.max).contains(&lasts),
        "{lasts:?}"
    );
    let from = wellknown::Url::of("a.test", 443);
    if let Some(Ok(to)) = wellknown::redirect(&from, http::StatusCode::FOUND, &headers) {
        assert!(
            to.port != 0 && !to.host.is_empty() && to.path.starts_with(['/', '?']),
            "{to:?}"
        );
        let again = from.join(&format!("https://{}{}", to.authority(), to.path));
        assert_eq!(again.as_ref(), Ok(&to), "what was read reads the same");
    }
    if let Ok(server) = wellknown::parse(body) {
        let mut machine = Machine::new(<&ServerName>::try_from("a.test").expect("a name"), 0);
        machine.tell_well_known(Some(server));
        // Never asked where it is delegated to.
        assert!(!matches!(machine.next(), Next::WellKnown { .. }));
        machine.tell_services(Vec::new());
        machine.tell_services(Vec::new());
        assert!(matches!(machine.next(), Next::Found(_) | Next::Dead(_)));
    }
}
