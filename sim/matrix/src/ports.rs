//! What the front end has of the world: a courier, a source of keys, a store.

use crate::{
    answers::Asked,
    planted::Bend,
    rooms::{self, rooms},
    state::{Did, Request, Shared},
    world::{ME, Mood, OUTCAST, Server, all},
};
use bytes::Bytes;
use futures_util::stream;
use gannet::engine::{End, Fault};
use gannet_matrix::{
    BoxFuture, Courier, How, KeySource, SendError, Sent, Wire,
    verify::keyset::{KeySet, KeysWanted},
};
use gannet_sim::rng::{Rng, mix};
use gannet_store::{
    Blob, BlobStore, BoxFuture as StoreFuture, Dropped, EntryStream, MemoryConfig, MemoryStore,
    Place, Put, Stats, StoreError,
};
use ruma_common::ServerName;
use std::{
    hash::{BuildHasher, RandomState},
    sync::Mutex,
    time::Duration,
};
use tokio::time::sleep;

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Brings requests to servers.
#[derive(Debug)]
pub(crate) struct SimCourier {
    pub(crate) shared: Shared,
    pub(crate) bend: Bend,
    pub(crate) kept: Mutex<Option<Open>>,
}

/// A request that is open; ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Open {
    shared: Shared,
    number: usize,
    bend: Bend,
}

impl Open {
    fn end(&self, did: Did) {
        self.shared.with(|sim, now| {
            let request = &mut sim.requests[self.number];
            if request.did == Did::Open {
                request.did = did;
                let (server, mood) = (request.server.clone(), request.mood);
                if did != Did::Delivered {
                    request.ended = Some(now);
                }
                sim.note(
                    now,
                    "<-",
                    format_args!("{} {server} {mood:?} {did:?}", self.number),
                );
            }
        });
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.bend.is("keeps-open") {
            return;
        }
        self.end(Did::Dropped);
        self.shared.with(|sim, now| {
            sim.requests[self.number].ended.get_or_insert(now);
        });
    }
}

impl Courier for SimCourier {
    fn send<'a>(
        &'a self,
        server: &'a ServerName,
        request: Wire,
    ) -> BoxFuture<'a, Result<Sent, SendError>> {
        let server = match () {
            () if self.bend.is("asks-outcasts") => OUTCAST,
            () if self.bend.is("asks-itself") => ME,
            () => server.as_str(),
        };
        let open = self.begin(server, &request);
        if self.bend.is("asks-twice") {
            let again = self.begin(server, &request);
            self.keep(again);
        }
        let bend = self.bend;
        Box::pin(async move {
            let sent = act(open).await;
            sent.map_err(|error| match error.end {
                End::Busy { .. } if bend.is("ignores-busy") => SendError {
                    end: End::Failed(Fault::Refused),
                    ..error
                },
                _ => error,
            })
        })
    }
}

impl SimCourier {
    fn keep(&self, open: Open) {
        let mut kept = self.kept.lock().expect("nobody panics holding it");
        *kept = Some(open);
    }

    fn begin(&self, server: &str, wire: &Wire) -> Open {
        let body = wire.body.as_deref().unwrap_or_default();
        let line = format!("{}{}", wire.path, String::from_utf8_lossy(body));
        let asked = Asked::read(&wire.path, wire.body.as_ref());
        let number = self.shared.with(|sim, now| {
            sim.asked(now, server, &line, &asked);
            let number = sim.requests.len();
            let mut rng = Rng::new(mix(&[sim.world.seed, 302, number as u64]), 0);
            let calm = sim.calm;
            let mood = match sim.world.server(server) {
                None => Mood::Refuse,
                Some(_) if calm => Mood::Honest,
                Some(server) => *rng.pick(&server.moods),
            };
            sim.note(now, "->", format_args!("{number} {server} {mood:?} {line}"));
            sim.requests.push(Request {
                server: server.to_owned(),
                wire: line,
                asked,
                mood,
                began: now,
                ended: None,
                did: Did::Open,
                answer: None,
            });
            number
        });
        let shared = self.shared.clone();
        let bend = self.bend;
        Open {
            shared,
            number,
            bend,
        }
    }
}

fn failed(fault: Fault) -> SendError {
    SendError::failed(fault, "simulated")
}

/// A server, as it is at the moment.
fn server_of(open: &Open) -> (Server, Mood, Asked, Rng, bool) {
    open.shared.with(|sim, _| {
        let request = &sim.requests[open.number];
        let mut server = match sim.world.server(&request.server) {
            Some(server) => server.clone(),
            None => sim.world.servers[0].clone(),
        };
        let mut rng = Rng::new(mix(&[sim.world.seed, 303, open.number as u64]), 0);
        let room = request.asked.room;
        let mut lost = rng.permille(sim.world.loss) && !server.is_sure(room);
        if sim.calm {
            server.holds = sim
                .world
                .rooms
                .iter()
                .map(|room| (*room, all(*room)))
                .collect();
            server.cuts.clear();
            server.down.clear();
            server.latency = 5;
            lost = false;
        }
        (server, request.mood, request.asked.clone(), rng, lost)
    })
}

async fn act(open: Open) -> Result<Sent, SendError> {
    let (server, mood, asked, mut rng, lost) = server_of(&open);
    let pause = match mood {
        Mood::Slow => rng.range(1_000, 12_000),
        _ => rng.range(1, server.latency),
    };
    let chance = open.bend.is("chance") && RandomState::new().hash_one(pause).is_multiple_of(4);
    sleep(millis(pause + u64::from(chance))).await;
    let is_down = |open: &Open| {
        let now = open.shared.now();
        let down = server
            .down
            .iter()
            .find(|(from, to, _)| (*from..*to).contains(&now));
        down.map(|(_, _, silent)| *silent)
    };
    if lost || is_down(&open) == Some(true) {
        open.shared.with(|sim, _| sim.coverage.hit("lost"));
        std::future::pending::<()>().await;
    }
    if is_down(&open) == Some(false) || mood == Mood::Refuse {
        open.end(Did::Failed);
        return Err(failed(Fault::Refused));
    }
    let no = |did, end, how| {
        open.end(did);
        let detail = "simulated".into();
        Err(SendError { end, how, detail })
    };
    match mood {
        Mood::Silent => std::future::pending().await,
        Mood::Fail => {
            open.end(Did::Failed);
            return Err(failed(Fault::Internal));
        }
        Mood::Busy => {
            let wait = rng.permille(700).then(|| rng.range(10, 60_000));
            if let Some(wait) = wait {
                open.shared.with(|sim, now| {
                    let server = sim.requests[open.number].server.clone();
                    let until = sim.busy.get(&server).map_or(0, |(_, until)| *until);
                    sim.busy.insert(server, (now, until.max(now + wait)));
                });
            }
            let retry_after = wait.map(millis);
            return no(Did::Busy, End::Busy { retry_after }, How::Busy);
        }
        Mood::Nothing => return no(Did::Missing, End::Missing, How::Missing),
        Mood::Forbid => return no(Did::Forbidden, End::Missing, How::Forbidden),
        Mood::Drip => {
            let body = stream::unfold(open, |open| async move {
                sleep(millis(900)).await;
                Some((Ok(Bytes::from_static(b" ")), open))
            });
            return Ok(Sent {
                len: None,
                body: Box::pin(body),
            });
        }
        Mood::Gush => {
            static SPACES: [u8; 64 << 10] = [b' '; 64 << 10];
            let body = stream::unfold(open, |open| async move {
                sleep(millis(1)).await;
                Some((Ok(Bytes::from_static(&SPACES)), open))
            });
            return Ok(Sent {
                len: None,
                body: Box::pin(body),
            });
        }
        Mood::Claim => {
            let body = stream::unfold(open, |_open| std::future::pending());
            return Ok(Sent {
                len: Some(1 << 30),
                body: Box::pin(body),
            });
        }
        _ => {}
    }
    let Ok(answer) = asked.answer(&server, mood, &mut rng) else {
        return no(Did::Missing, End::Missing, How::Missing);
    };
    let body = answer.body.clone();
    open.shared
        .with(|sim, _| sim.requests[open.number].answer = Some(answer));
    let resets = mood == Mood::Reset;
    let half = match resets {
        true => rng.index(body.len().max(1)),
        false => body.len() / 2,
    };
    let (first, rest) = (body.slice(..half), body.slice(half..));
    let len = rng.permille(500).then_some(body.len() as u64);
    let gap = rng.range(0, 30);
    let state = Some((Some(first), rest, open));
    let body = stream::unfold(state, move |state| async move {
        let (first, rest, open) = state?;
        if let Some(first) = first.filter(|first| !first.is_empty()) {
            return Some((Ok(first), Some((None, rest, open))));
        }
        sleep(millis(gap)).await;
        if resets {
            open.end(Did::Failed);
            return Some((Err(failed(Fault::Truncated)), None));
        }
        open.end(Did::Delivered);
        match rest.is_empty() {
            true => None,
            false => Some((Ok(rest), None)),
        }
    });
    Ok(Sent {
        len,
        body: Box::pin(body),
    })
}

/// Has the keys of servers.
#[derive(Debug)]
pub(crate) struct SimKeys {
    pub(crate) shared: Shared,
}

impl KeySource for SimKeys {
    fn keys(&self, wanted: KeysWanted, within: Duration) -> BoxFuture<'_, KeySet> {
        Box::pin(async move {
            let (delay, calm) = self.shared.with(|sim, _| (sim.world.keys_delay, sim.calm));
            if delay > 0 && !calm {
                // Some keep to the time they are given, and some do not.
                let pause = match delay.is_multiple_of(2) {
                    true => millis(delay).min(within),
                    false => millis(delay),
                };
                sleep(pause).await;
            }
            self.shared.with(|sim, now| {
                let mut set = KeySet::new();
                for server in wanted.keys() {
                    let until = sim.world.keyless.get(server.as_str()).copied().unwrap_or(0);
                    if now >= until || sim.calm {
                        let (id, key) = rooms::public(server.as_str());
                        set.insert_key(server, &id, key);
                    } else {
                        sim.coverage.hit("no key");
                    }
                }
                set
            })
        })
    }
}

/// Keeps events, as well as the seed says.
#[derive(Debug)]
pub(crate) struct SimStore {
    inner: MemoryStore,
    shared: Shared,
    rng: Mutex<Rng>,
    odds: [u32; 4],
    bend: Bend,
}

impl SimStore {
    pub(crate) fn new(shared: Shared, odds: [u32; 4], seed: u64, bend: Bend) -> Self {
        let rng = Mutex::new(Rng::new(seed, 304));
        let inner = MemoryStore::new(MemoryConfig { bytes_max: 1 << 26 });
        Self {
            inner,
            shared,
            rng,
            odds,
            bend,
        }
    }

    fn happens(&self, odd: usize) -> bool {
        let calm = self.shared.with(|sim, _| sim.calm);
        let mut rng = self.rng.lock().expect("nobody panics holding it");
        rng.permille(self.odds[odd]) && !calm
    }

    async fn trouble(&self) -> Result<(), StoreError> {
        if self.happens(3) {
            let pause = {
                let mut rng = self.rng.lock().expect("nobody panics holding it");
                rng.range(1, 300)
            };
            sleep(millis(pause)).await;
        }
        match self.happens(0) {
            true => {
                self.shared
                    .with(|sim, _| sim.coverage.hit("the store failed"));
                Err(StoreError::Transient("simulated".into()))
            }
            false => Ok(()),
        }
    }
}

impl BlobStore for SimStore {
    fn open<'a>(&'a self, place: &'a Place) -> StoreFuture<'a, Result<Option<Blob>, StoreError>> {
        Box::pin(async move {
            self.trouble().await?;
            if self.happens(3) && self.happens(3) {
                self.shared
                    .with(|sim, _| sim.coverage.hit("the store hung"));
                std::future::pending::<()>().await;
            }
            if self.happens(2) {
                let garbled = Bytes::from_static(b"GME1\x02\x0711");
                return Ok(Some(Blob::from_segments(vec![garbled])));
            }
            self.inner.open(place).await
        })
    }

    fn put<'a>(
        &'a self,
        place: &'a Place,
        mut segments: Vec<Bytes>,
    ) -> StoreFuture<'a, Result<Put, StoreError>> {
        Box::pin(async move {
            self.trouble().await?;
            if self.bend.is("stores-other")
                && let [_, raw] = &mut segments[..]
            {
                let other = &rooms().all[0].events[0];
                *raw = other.whole.clone();
            }
            self.shared
                .with(|sim, now| sim.stored(now, place, &segments));
            if self.happens(1) || self.bend.is("stores-nothing") {
                return Ok(Put::Stored);
            }
            self.inner.put(place, segments).await
        })
    }

    fn remove<'a>(&'a self, place: &'a Place) -> StoreFuture<'a, Result<bool, StoreError>> {
        self.inner.remove(place)
    }

    fn list(&self, space: &str) -> EntryStream {
        self.inner.list(space)
    }

    fn drop_space<'a>(&'a self, space: &'a str) -> StoreFuture<'a, Result<Dropped, StoreError>> {
        self.inner.drop_space(space)
    }

    fn stats(&self) -> Stats {
        self.inner.stats()
    }
}
