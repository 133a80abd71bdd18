//! [`Roster`]: the servers that are known, by name and as the engine calls them.
//!
//! A server's number follows from its name by a keyed hash, so that whoever is forgotten and met again
//! has the number, and with it the health, that it had. Bounded: whoever is named by nobody any more
//! goes, longest unused first, once there are too many. (Anybody can make us hear of a million servers.)

use gannet::engine::SourceId;
use ruma_common::{OwnedServerName, ServerName};
use std::{
    collections::HashMap,
    hash::{BuildHasher, DefaultHasher, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// A server that may be asked. As long as somebody holds it, it stays in the roster.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) name: OwnedServerName,
    pub(crate) source: SourceId,
    used: AtomicU64,
}

/// Hashes as the service's seed says: another service's are others, and the same seed's the same.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keyed(pub(crate) u64);

impl BuildHasher for Keyed {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher
    }
}

/// The servers that are known.
#[derive(Debug)]
pub(crate) struct Roster {
    servers_max: usize,
    hasher: Keyed,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_source: HashMap<SourceId, Arc<Server>>,
    uses: u64,
}

/// What the engine is to be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Came(SourceId),
    Went(SourceId),
}

impl Roster {
    pub(crate) fn new(servers_max: usize, hasher: Keyed) -> Self {
        Self {
            servers_max,
            hasher,
            inner: Mutex::default(),
        }
    }

    /// The servers of these names, in this order. The engine is told of changes while nobody else can
    /// make any, so that it hears of them in the order in which they happened.
    pub(crate) fn enlist(
        &self,
        names: Vec<OwnedServerName>,
        mut tell: impl FnMut(Change),
    ) -> Vec<Arc<Server>> {
        let mut inner = self.lock();
        inner.uses += 1;
        let now = inner.uses;
        let servers = (names.into_iter())
            .map(|name| {
                let source = self.source(&inner, &name);
                let server = inner.by_source.entry(source).or_insert_with(|| {
                    tell(Change::Came(source));
                    Arc::new(Server {
                        name,
                        source,
                        used: AtomicU64::new(now),
                    })
                });
                server.used.store(now, Relaxed);
                Arc::clone(server)
            })
            .collect();
        if inner.by_source.len() > self.servers_max {
            inner
                .sweep(self.servers_max)
                .into_iter()
                .for_each(|source| tell(Change::Went(source)));
        }
        servers
    }

    /// The server of this number.
    pub(crate) fn server(&self, source: SourceId) -> Option<Arc<Server>> {
        self.lock().by_source.get(&source).cloned()
    }

    /// How many servers are known.
    pub(crate) fn len(&self) -> usize {
        self.lock().by_source.len()
    }

    /// The number of a name: by its hash, or where another has that, the next.
    fn source(&self, inner: &Inner, name: &ServerName) -> SourceId {
        let mut number = self.hasher.hash_one(name);
        while let Some(server) = inner.by_source.get(&SourceId(number))
            && server.name != name
        {
            number = number.wrapping_add(1);
        }
        SourceId(number)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics half-way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Forgets the longest unused, down to seven eighths of the bound, so that it is not done each time.
    fn sweep(&mut self, servers_max: usize) -> Vec<SourceId> {
        let mut unused: Vec<(u64, SourceId)> = (self.by_source.values())
            .filter(|server| Arc::strong_count(server) == 1)
            .map(|server| (server.used.load(Relaxed), server.source))
            .collect();
        unused.sort_unstable();
        let surplus = self.by_source.len() - (servers_max - servers_max / 8);
        unused.truncate(surplus);
        let went: Vec<SourceId> = unused.into_iter().map(|(_, source)| source).collect();
        for source in &went {
            self.by_source.remove(source);
        }
        went
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(range: std::ops::Range<u32>) -> Vec<OwnedServerName> {
        range
            .map(|n| OwnedServerName::try_from(format!("s{n}")).expect("a name"))
            .collect()
    }

    fn enlist(roster: &Roster, range: std::ops::Range<u32>) -> (Vec<Arc<Server>>, Vec<Change>) {
        let mut changes = Vec::new();
        let servers = roster.enlist(names(range), |change| changes.push(change));
        (servers, changes)
    }

    #[test]
    fn a_name_keeps_its_number() {
        let roster = Roster::new(8, Keyed(1));
        let (first, changes) = enlist(&roster, 0..2);
        let came: Vec<_> = first.iter().map(|s| Change::Came(s.source)).collect();
        assert_eq!(changes, came, "each is new");
        let (again, changes) = enlist(&roster, 0..2);
        assert_eq!(changes, []);
        assert!(Arc::ptr_eq(&first[1], &again[1]));
        let source = first[0].source;
        assert_eq!(roster.server(source).expect("known").name, "s0");
        drop((first, again));
        let (others, changes) = enlist(&roster, 2..10);
        assert!(
            changes.contains(&Change::Went(source)),
            "the longest unused"
        );
        assert!(roster.server(source).is_none());
        drop(others);
        assert_eq!(enlist(&roster, 0..1).0[0].source, source);
    }

    #[test]
    fn numbers_are_as_the_seed_says() {
        let numbers = |seed| {
            let roster = Roster::new(8, Keyed(seed));
            let (servers, _) = enlist(&roster, 0..8);
            servers.iter().map(|s| s.source).collect::<Vec<_>>()
        };
        assert_eq!(numbers(1), numbers(1));
        assert_ne!(numbers(1), numbers(2));
    }

    #[test]
    fn who_is_held_stays_and_the_rest_is_bounded() {
        let roster = Roster::new(100, Keyed(1));
        let (held, _) = enlist(&roster, 0..50);
        for n in 1..200 {
            drop(enlist(&roster, n * 50..n * 50 + 50));
            assert!(roster.len() <= 100 + 50, "{}", roster.len());
        }
        for server in &held {
            let known = roster.server(server.source).expect("held");
            assert!(Arc::ptr_eq(server, &known));
        }
    }
}
