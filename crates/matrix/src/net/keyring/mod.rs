//! [`KeyRing`]: whose keys are whose, from memory, from disk, or from the network.
//!
//! Keys are data like any other: a [`gannet::Fetcher`] gets them, with the server itself and then notaries as
//! sources. `record.rs` says what is known of one server and when it may be asked again, `transport.rs` how
//! it is asked, `disk.rs` how documents are kept.
//!
//! Strangers name servers and key ids at will. So a server is asked once in five minutes at most, whatever
//! keys it is said to have; one that failed is left alone for longer each time; and all that is kept is
//! bounded.

mod config;
mod disk;
mod record;
mod transport;

pub use config::{KeyRingConfig, KeyRingError};

use self::{
    disk::Disk,
    record::{Came, Pauses, Record},
    transport::{Asking, RingKey},
};
use super::{Federation, error::clean, lru::Lru};
use crate::verify::{
    keys::KeyDocument,
    keyset::{KeySet, KeysWanted},
};
use futures_util::{StreamExt, stream};
use gannet::{
    Datum, ErrorKind, FetchError, Fetcher, Soon, Store,
    engine::{self, Commit, CommitFault, FanoutGrowth, GroupId, Hedge, HowEnded, Plan, SourceId},
};
use ruma_common::{OwnedServerName, ServerName};
use std::{
    collections::BTreeMap,
    fmt,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::time::Instant;

/// The keys that were wanted, and what is lacking.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    /// All that is known of the servers that were asked about.
    pub set: KeySet,
    /// Of which servers none of the keys could be had that would do, and why.
    pub lacking: BTreeMap<OwnedServerName, String>,
}

/// Whose keys are whose. Cheap to clone; clones are one.
///
/// ```no_run
/// use gannet_matrix::{
///     net::{Federation, KeyRing, KeyRingConfig, NetConfig},
///     verify::keyset::KeysWanted,
/// };
/// use ruma_common::server_name;
///
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let federation = Federation::new(NetConfig::default(), None)?;
/// let ring = KeyRing::open(federation, KeyRingConfig::default())?;
/// let ids = [("ed25519:auto".to_owned(), 0)].into();
/// let wanted = KeysWanted::from([(server_name!("matrix.org").to_owned(), ids)]);
/// let keys = ring.get(&wanted).await;
/// for (server, why) in &keys.lacking {
///     println!("{server}: {why}");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct KeyRing {
    shared: Arc<Shared>,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing")
            .field("notaries", &self.shared.config.notaries)
            .finish_non_exhaustive()
    }
}

/// The time of day, in milliseconds since 1970, that never goes back. It follows the clock of the
/// runtime as well, so that tests can move it.
#[derive(Debug)]
struct Clock {
    began_ms: u64,
    began: Instant,
}

impl Clock {
    fn new() -> Self {
        Self {
            began_ms: Self::system_ms(),
            began: Instant::now(),
        }
    }

    fn system_ms() -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
    }

    fn now_ms(&self) -> u64 {
        let passed = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        Self::system_ms().max(self.began_ms.saturating_add(passed))
    }
}

/// The records of servers, bounded in number and bytes.
struct Records {
    kept: Lru<OwnedServerName, Record>,
    bytes: usize,
}

type KeyFetcher = Fetcher<RingKey, Arc<Came>>;

struct Shared {
    federation: Federation,
    config: KeyRingConfig,
    pauses: Pauses,
    clock: Clock,
    disk: Option<Arc<Disk>>,
    records: Mutex<Records>,
    /// Which source a server is, and the next number; those below the number of notaries are these.
    sources: Mutex<(Lru<OwnedServerName, SourceId>, u64)>,
    main: KeyFetcher,
    /// Gets the keys of notaries: what gets those of others waits for it, and must not be in its way.
    notaries: KeyFetcher,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes in what was fetched, before anybody is told.
struct Remember(Arc<Mutex<Weak<Shared>>>);

impl Store<RingKey, Arc<Came>> for Remember {
    fn commit(&self, datum: Datum<'_, RingKey, Arc<Came>>) -> Soon<Result<(), CommitFault>> {
        let Some(shared) = locked(&self.0).upgrade() else {
            return Soon::Now(Err(CommitFault::Closed));
        };
        let (server, came) = (datum.key.server.clone(), datum.meta.clone());
        Soon::later(async move {
            // What is on disk of it is not to be lost.
            shared.load(&server).await;
            let documents = shared.with(&server, |record| {
                record.take(&came, &shared.pauses);
                record.documents().to_vec()
            });
            if let Some(disk) = shared.disk.clone() {
                let writing = tokio::task::spawn_blocking(move || disk.write(&server, &documents));
                // They can be fetched again.
                if let Ok(Err(error)) = writing.await {
                    tracing::warn!(%error, "keys could not be stored");
                }
            }
            Ok(())
        })
    }
}

impl KeyRing {
    /// A key ring over a federation.
    ///
    /// # Errors
    ///
    /// If its directory cannot be used, or a bound is zero.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn open(federation: Federation, config: KeyRingConfig) -> Result<Self, KeyRingError> {
        let disk = match &config.dir {
            None => None,
            Some(dir) => {
                let bad = |error| KeyRingError::Dir {
                    dir: dir.clone(),
                    error,
                };
                Some(Arc::new(Disk::open(dir, config.files_max).map_err(bad)?))
            }
        };
        let cell = Arc::new(Mutex::new(Weak::new()));
        let main = Shared::fetcher(&config, &cell, config.at_once_max)?;
        let notaries = Shared::fetcher(&config, &cell, config.notaries.len().max(1))?;
        for n in 0..config.notaries.len() as u64 {
            main.add_source(SourceId(n), GroupId(n));
        }
        let shared = Arc::new(Shared {
            federation,
            pauses: Pauses {
                refetch_min: config.refetch_min,
                error_first: config.error_first,
                error_max: config.error_max,
            },
            clock: Clock::new(),
            disk,
            records: Mutex::new(Records {
                kept: Lru::new(config.servers_max),
                bytes: 0,
            }),
            sources: Mutex::new((Lru::new(config.servers_max), config.notaries.len() as u64)),
            main,
            notaries,
            config,
        });
        *locked(&cell) = Arc::downgrade(&shared);
        Ok(Self { shared })
    }

    /// The keys that are wanted: of each server one that would do. What is known is used; servers whose
    /// keys are not known, or not valid at the time, are asked, many at a time, unless they were asked
    /// lately; and then notaries.
    ///
    /// # Cancellation
    ///
    /// Dropping the future gives up what nobody else waits for.
    pub async fn get(&self, wanted: &KeysWanted) -> Keys {
        let looks = stream::iter(wanted.clone()).map(|(server, ids)| async move {
            let lacking = self.shared.find(&server, &ids).await;
            (server, lacking)
        });
        let mut looks = looks.buffer_unordered(self.shared.config.at_once_max.max(1));
        let mut keys = Keys::default();
        while let Some((server, lacking)) = looks.next().await {
            self.shared
                .with(&server, |record| keys.set.take_over(&server, record.keys()));
            if let Err(why) = lacking {
                keys.lacking.insert(server, why);
            }
        }
        keys
    }

    /// What is known of a server without asking anybody: documents that were checked, with whether they
    /// came from the server itself.
    pub async fn known(&self, server: &ServerName) -> Vec<(Arc<KeyDocument>, bool)> {
        self.shared.load(server).await;
        self.shared.with(server, |record| {
            let documents = record.documents().iter();
            let known = documents.map(|held| (held.document.clone(), held.direct));
            known.collect()
        })
    }

    /// Asks a server for its keys now, whenever it was asked last, and notaries if it does not answer.
    ///
    /// # Errors
    ///
    /// Why nobody has them, in words.
    pub async fn ask(&self, server: &ServerName) -> Result<Vec<(Arc<KeyDocument>, bool)>, String> {
        self.shared.load(server).await;
        self.shared.fetch(server, false).await?;
        Ok(self.known(server).await)
    }
}

impl Shared {
    fn fetcher(
        config: &KeyRingConfig,
        shared: &Arc<Mutex<Weak<Self>>>,
        racing: usize,
    ) -> Result<KeyFetcher, engine::ConfigError> {
        let plan = Plan {
            growth: FanoutGrowth::Fixed(NonZeroU32::MIN),
            hedge: Some(Hedge::After(config.notary_after)),
            first_byte_timeout: config.timeout,
            idle_timeout: config.timeout,
            total_timeout: config.timeout,
            body_bytes_max: 1,
            commit: Commit::BeforeFinish,
            ..Plan::default()
        };
        let mut bounds = gannet::Config::default();
        let bounded = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        bounds.engine.racing_max = bounded(racing);
        bounds.engine.remembered_sources_max = bounded(config.servers_max);
        let asking = Asking {
            shared: shared.clone(),
            read_within: config.timeout,
        };
        let ranked = shared.clone();
        let rank = move |key: &RingKey, _: &[SourceId]| {
            let shared = locked(&ranked).upgrade();
            shared.map_or_else(Vec::new, |shared| shared.rank(key))
        };
        Fetcher::builder(asking)
            .select(rank)
            .store(Remember(shared.clone()))
            .plan(plan)
            .config(bounds)
            .build()
    }

    /// The notary that a source is, if it is one.
    fn notary(&self, source: SourceId) -> Option<&OwnedServerName> {
        self.config.notaries.get(usize::try_from(source.0).ok()?)
    }

    /// Whom to ask for keys: the server itself, then notaries.
    fn rank(&self, key: &RingKey) -> Vec<SourceId> {
        let mut ranked = Vec::new();
        if !key.notaries_only {
            ranked.extend(locked(&self.sources).0.get(&key.server).copied());
        }
        for (n, notary) in self.config.notaries.iter().enumerate() {
            // Of its own keys it has said all that it has to say.
            if *notary != key.server {
                ranked.push(SourceId(n as u64));
            }
        }
        ranked
    }

    /// Sees to it that a server is a source.
    fn source(&self, server: &ServerName, fetcher: &KeyFetcher) {
        let mut sources = locked(&self.sources);
        let (known, next) = &mut *sources;
        let id = match known.get(server) {
            Some(id) => *id,
            None => {
                let id = SourceId(*next);
                *next += 1;
                if let Some((_, gone)) = known.insert(server.to_owned(), id) {
                    self.main.remove_source(gone);
                    self.notaries.remove_source(gone);
                }
                id
            }
        };
        fetcher.add_source(id, GroupId(id.0));
    }

    /// Does something with the record of a server.
    fn with<T>(&self, server: &ServerName, work: impl FnOnce(&mut Record) -> T) -> T {
        let mut records = locked(&self.records);
        let records = &mut *records;
        if records.kept.get(server).is_none() {
            let gone = records.kept.insert(server.to_owned(), Record::default());
            records.bytes -= gone.map_or(0, |(_, record)| record.bytes());
        }
        let record = records.kept.get(server).expect("it was just put there");
        let before = record.bytes();
        let done = work(record);
        records.bytes = records.bytes + record.bytes() - before;
        while records.bytes > self.config.bytes_max
            && let Some((_, gone)) = records.kept.pop_oldest()
        {
            records.bytes -= gone.bytes();
        }
        done
    }

    /// Sees to it that what is on disk of a server is known.
    async fn load(&self, server: &ServerName) {
        let is_known = locked(&self.records).kept.get(server).is_some();
        let Some(disk) = self.disk.clone().filter(|_| !is_known) else {
            return;
        };
        let (name, now_ms) = (server.to_owned(), self.clock.now_ms());
        let read = tokio::task::spawn_blocking(move || disk.read(&name, now_ms)).await;
        let documents = read.unwrap_or_default();
        self.with(server, |record| {
            // Somebody else may have been faster.
            if record.documents().is_empty() && !documents.is_empty() {
                let direct = documents.iter().any(|held| held.direct);
                record.take(&Came { documents, direct }, &self.pauses);
            }
        });
    }

    /// Sees to it that one of these keys of a server is known, as far as may be; or says why it is not.
    async fn find(&self, server: &ServerName, ids: &BTreeMap<String, u64>) -> Result<(), String> {
        self.load(server).await;
        let mut failed = None;
        for notaries_only in [false, true] {
            if notaries_only && self.config.notaries.iter().all(|notary| notary == server) {
                break;
            }
            let now_ms = self.clock.now_ms();
            let (satisfies, may) = self.with(server, |record| {
                let may = record.asked(notaries_only).may(now_ms);
                (record.satisfies(server, ids), may)
            });
            if satisfies {
                return Ok(());
            }
            if may && let Err(why) = self.fetch(server, notaries_only).await {
                failed = Some(why);
                // Where the first fetch failed, notaries were asked in it as well.
                break;
            }
        }
        self.with(server, |record| {
            if record.satisfies(server, ids) {
                return Ok(());
            }
            let before = record.any.why.as_ref().or(record.notaries.why.as_ref());
            let why = failed.or_else(|| before.cloned());
            Err(why.unwrap_or_else(|| {
                "none of the keys that would do is known, or valid at the time".to_owned()
            }))
        })
    }

    /// Fetches what is to be had of a server's keys.
    async fn fetch(&self, server: &ServerName, notaries_only: bool) -> Result<(), String> {
        let turn = self.with(server, |record| record.asked(notaries_only).turn());
        let key = RingKey {
            server: server.to_owned(),
            notaries_only,
        };
        match self.obtain(&self.main, key).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.failed(server, notaries_only, turn, &error)),
        }
    }

    /// Has a fetcher get something, with the server itself as a source.
    async fn obtain(&self, fetcher: &KeyFetcher, key: RingKey) -> Result<(), FetchError> {
        self.source(&key.server, fetcher);
        match fetcher.fetch(key.clone()).await {
            // Wants may overtake news of sources, but none that is put after a snapshot was taken.
            Err(error) if error.kind == ErrorKind::NoCandidates => {
                self.source(&key.server, fetcher);
                drop(fetcher.snapshot().await);
                fetcher.fetch(key).await.map(drop)
            }
            fetched => fetched.map(drop),
        }
    }

    /// Remembers a failure.
    fn failed(
        &self,
        server: &ServerName,
        notaries_only: bool,
        turn: u64,
        error: &FetchError,
    ) -> String {
        let why = self.explain(error);
        // What ended for our own reasons says nothing of the server.
        if error.kind == ErrorKind::Exhausted {
            let now_ms = self.clock.now_ms();
            self.with(server, |record| {
                let asked = record.asked(notaries_only);
                asked.failed(turn, now_ms, &why, &self.pauses);
            });
        }
        why
    }

    /// The keys of a notary, asked of itself.
    async fn keys_of_notary(&self, notary: &ServerName) -> Result<KeySet, String> {
        self.load(notary).await;
        let now_ms = self.clock.now_ms();
        let (keys, fresh, may, turn) = self.with(notary, |record| {
            let fresh =
                |held: &record::Held| held.direct && held.document.trusted_until_ms() > now_ms;
            let fresh = record.documents().iter().any(fresh);
            let (may, turn) = (record.any.may(now_ms), record.any.turn());
            (record.keys().clone(), fresh, may, turn)
        });
        if fresh || !may {
            return match keys.is_empty() {
                true => Err(format!(
                    "the keys of the notary {notary} could not be had lately"
                )),
                false => Ok(keys),
            };
        }
        let key = RingKey {
            server: notary.to_owned(),
            notaries_only: false,
        };
        // Notaries are no sources of this fetcher: it asks nobody but the server itself.
        if let Err(error) = self.obtain(&self.notaries, key).await {
            let why = self.failed(notary, false, turn, &error);
            return Err(format!("its own keys: {why}"));
        }
        Ok(self.with(notary, |record| record.keys().clone()))
    }

    /// What happened, for people: who said what.
    fn explain(&self, error: &FetchError) -> String {
        let mut text = String::new();
        let tried = error.tried.iter();
        for tried in tried.filter(|tried| tried.how != HowEnded::Aborted) {
            if !text.is_empty() {
                text.push_str("; ");
            }
            if let Some(notary) = self.notary(tried.source) {
                text += &format!("the notary {notary}: ");
            }
            if tried.detail.is_empty() {
                text += &tried.how.to_string();
            } else {
                text += &clean(&tried.detail);
            }
        }
        if text.is_empty() {
            return error.kind.to_string();
        }
        text
    }
}
