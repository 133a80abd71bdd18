//! A run: callers come and go while servers misbehave; then faults stop, and everything has to be had.

use crate::{
    answers::Asked,
    oracle,
    planted::Bend,
    ports::{SimCourier, SimKeys, SimStore},
    rooms::{Room, rooms, wire_of},
    state::{Caller, Shared},
    world::{Act, ME, OUTCAST, Terms, Thing},
};
use gannet::metrics::Page;
use gannet_matrix::{
    Builder, Ceilings, Checks, Direction, Key, Matrix, OnBad, Op, Opts, Proof,
    fill::{Ended, Fill, Filled, Goal, Limits, News, Recovered},
};
use gannet_sim::rng::Rng;
use gannet_store::BlobStore;
use ruma_common::{OwnedEventId, OwnedServerName};
use std::{
    collections::BTreeSet,
    num::NonZeroU32,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn server(name: &str) -> OwnedServerName {
    OwnedServerName::try_from(name).expect("a name")
}

/// How the front end is told these terms.
fn opts(terms: &Terms, room: &Room) -> Opts {
    let names = |names: &[String]| -> Vec<OwnedServerName> {
        names.iter().map(|name| server(name)).collect()
    };
    let nz = |n: u32| NonZeroU32::new(n).expect("above zero");
    let members = terms
        .members
        .iter()
        .map(|(name, weight)| (server(name), *weight));
    let mut opts = Opts::new().members(members.collect());
    if let Some(hint) = &terms.hint {
        opts = opts.hint(server(hint));
    }
    if let Some(authority) = &terms.authority {
        opts = opts.authority(server(authority));
    }
    if let Some(pool) = &terms.pool {
        opts = opts.pool(names(pool));
    }
    if !terms.deny.is_empty() {
        opts = opts.deny(names(&terms.deny));
    }
    if terms.errs {
        let mut others = rooms().all.iter().map(|other| &other.version);
        let other = others.find(|version| **version != room.version);
        opts = opts.version(other.expect("there are several").clone());
    } else if terms.version {
        opts = opts.version(room.version.clone());
    }
    if let Some(fanout) = terms.fanout {
        opts = opts.fanout(fanout.parse().expect("a fan-out"));
    }
    if let Some(rounds) = terms.rounds_max {
        opts = opts.rounds_max(nz(rounds));
    }
    if let Some(attempts) = terms.attempts_max {
        opts = opts.attempts_max(nz(attempts));
    }
    opts = match terms.hedge {
        Some(0) => opts.no_hedge(),
        Some(hedge) => opts.hedge(millis(hedge)),
        None => opts,
    };
    if let Some(first) = terms.first_byte {
        opts = opts.first_byte_timeout(millis(first));
    }
    if let Some(total) = terms.total {
        opts = opts.total_timeout(millis(total));
    }
    if let Some(patience) = terms.patience {
        opts = opts.patience(millis(patience));
    }
    let hashes = Checks {
        signatures: false,
        ..Checks::ALL
    };
    opts = match terms.checks {
        1 => opts.checks(Checks::ALL),
        2 => opts.checks(Checks::REDACTED_TOO),
        3 => opts.checks(hashes),
        4 => opts.checks(Checks::NONE),
        _ => opts,
    };
    if terms.refuse {
        opts = opts.on_bad(OnBad::Refuse);
    }
    if terms.fresh {
        opts = opts.fresh();
    }
    opts.tries(nz(terms.tries)).accept_empty(terms.accept_empty)
}

/// What proves the room's version beside the answer: the event that created it, where the room is called by its
/// hash; and what entitles the event, unless that is what is asked for.
fn proofs_of_version(of: &Room, key: &Key) -> Vec<Key> {
    let created = &of.events[0].id;
    let mut proofs = Vec::new();
    if of.id.server_name().is_none() {
        let single = matches!(key.op(), Op::Event | Op::AuthEvent);
        if single
            && key
                .event_id()
                .is_some_and(|id| id.as_str() == created.as_str())
        {
            return proofs;
        }
        proofs.extend(Key::event(of.id.clone(), of.id_of(0)));
    }
    if let Some(event) = key.event_ids().next().filter(|_| key.op() != Op::AuthChain) {
        proofs.extend(Key::auth_chain(of.id.clone(), event.to_owned()));
    }
    proofs
}

fn key_of(room: &Room, thing: &Thing) -> Key {
    let id = |event: &usize| room.id_of(*event);
    let ids = |events: &[usize]| -> Vec<OwnedEventId> { events.iter().map(id).collect() };
    let of = room.id.clone();
    let key = match thing {
        Thing::Event(event) => Key::event(of, id(event)),
        Thing::AuthEvent(event) => Key::auth_event(of, id(event)),
        Thing::AuthChain(event) => Key::auth_chain(of, id(event)),
        Thing::StateIds(event) => Key::state_ids(of, id(event)),
        Thing::Backfill(from, limit) => Key::backfill(of, ids(from), *limit),
        Thing::Missing(stop, from, limit) => {
            Key::missing_events(of, ids(stop), ids(from), *limit, 0)
        }
        Thing::Near(ts, true) => Key::timestamp_to_event(of, *ts, Direction::Forward),
        Thing::Near(ts, false) => Key::timestamp_to_event(of, *ts, Direction::Backward),
        Thing::Unknown(n) => {
            let id = format!("$unknown{n}:s0.sim");
            Key::event(of, OwnedEventId::try_from(id).expect("an id"))
        }
    };
    key.expect("ids and limits that a key may have")
}

/// Runs a seed.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    shared: Shared,
    bend: Bend,
    matrix: Matrix,
    courier: Arc<SimCourier>,
}

impl Script {
    pub(crate) fn new(shared: Shared, plant: Option<&'static str>) -> Self {
        let bend = Bend(plant);
        let courier = Arc::new(SimCourier {
            shared: shared.clone(),
            bend,
            kept: Mutex::default(),
        });
        let keys = Arc::new(SimKeys {
            shared: shared.clone(),
        });
        let (seed, denied, odds, ceilings) = shared.with(|sim, _| {
            let mut ceilings = Ceilings::default();
            ceilings.threads_max = NonZeroU32::MIN;
            if sim.world.tight {
                let mut rng = Rng::new(sim.world.seed, 305);
                ceilings.per_server_max = rng.range32(1, 3);
                ceilings.requests_max = rng.range32(2, 6);
                ceilings.racing_max = rng.range32(1, 4);
                ceilings.width_max = rng.range32(1, 3);
                ceilings.attempts_max = rng.range32(1, 8);
                ceilings.fetches_max = rng.range32(2, 12);
                ceilings.bytes_max = rng.range(17, 40) << 20;
                ceilings.servers_max = rng.range32(1, 4);
                sim.per_server_max = ceilings.per_server_max as usize;
                sim.requests_max = ceilings.requests_max as usize;
                sim.width_max = ceilings.width_max;
                sim.attempts_max = ceilings.attempts_max;
            }
            let denied: Vec<_> = sim.world.denied.iter().map(|name| server(name)).collect();
            (sim.world.seed, denied, sim.world.store, ceilings)
        });
        let mut builder = Builder::new(server(ME), courier.clone(), keys, ceilings)
            .seed(seed)
            .deny(denied)
            .check_in_tasks();
        if let Some(odds) = odds {
            let store = Arc::new(SimStore::new(shared.clone(), odds, seed, bend));
            builder = builder.store(store as Arc<dyn BlobStore>);
        }
        let matrix = builder.build().expect("no ceiling is zero");
        Self {
            shared,
            bend,
            matrix,
            courier,
        }
    }

    pub(crate) async fn run(self) {
        let (acts, shutdown, calm) = self.shared.with(|sim, _| {
            let world = &sim.world;
            (world.acts.clone(), world.shutdown, world.calm)
        });
        let mut tasks: Vec<JoinHandle<()>> = Vec::new();
        if let Some(at) = shutdown {
            let script = self.clone();
            tasks.push(tokio::spawn(async move {
                sleep(millis(at)).await;
                script.shared.with(|sim, now| {
                    sim.shut = Some(now);
                    sim.coverage.hit("shut down");
                    sim.note(now, "==", format_args!("shut down"));
                });
                script.matrix.shutdown(millis(2_000)).await;
            }));
        }
        for (at, act) in acts {
            sleep(millis(at.saturating_sub(self.shared.now()))).await;
            let script = self.clone();
            tasks.push(tokio::spawn(async move { script.act(act).await }));
        }
        sleep(millis(calm.saturating_sub(self.shared.now()))).await;
        // Nobody waits longer than this.
        for task in tasks {
            if timeout(millis(2_000_000), task).await.is_err() {
                self.shared.with(|sim, now| {
                    sim.fail(now, "patience", format_args!("somebody waits for ever"))
                });
            }
        }
        self.settled().await;
        if shutdown.is_none() {
            self.calm().await;
            self.settled().await;
            self.matrix.shutdown(millis(2_000)).await;
        }
        if self.bend.is("leaves-a-task") {
            tokio::spawn(std::future::pending::<()>());
        }
        drop(self);
        sleep(millis(20_000)).await;
    }

    /// Nobody waits, and nothing is under way.
    async fn settled(&self) {
        sleep(millis(10_000)).await;
        let gauges = self.matrix.gauges();
        let mut page = Page::new();
        self.matrix.write_metrics(&mut page, &[]).await;
        let text = page.into_text();
        let wanted = text.contains("gannet_matrix_wanted_keys 0");
        let attempts = text
            .lines()
            .filter(|line| line.starts_with("gannet_matrix_attempts_total{"));
        let counts = attempts.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok());
        let counted: usize = counts.sum();
        self.shared.with(|sim, now| {
            let (open, made) = (sim.open(), sim.requests.len());
            if counted > made {
                sim.fail(now, "counted", format_args!("{counted} of {made} requests"));
            }
            if open > 0 || gauges.fetches > 0 || gauges.attempts > 0 || !wanted {
                let what = format_args!("{open} requests are open, {wanted}, {gauges:?}");
                sim.fail(now, "left", what);
            }
        });
        let _ = &self.courier;
    }

    async fn act(self, act: Act) {
        match act {
            Act::Want(thing, group, drop) => {
                let (room, thing, terms) = self.shared.with(|sim, _| {
                    let (room, thing) = sim.world.things[thing].clone();
                    (room, thing, sim.world.terms[group].clone())
                });
                self.want(room, &thing, (group, terms), drop).await;
            }
            Act::Fill(room, group, requests, cut) => {
                let (room, terms) = self
                    .shared
                    .with(|sim, _| (sim.world.rooms[room], sim.world.terms[group].clone()));
                self.fill(room, (1_000 + group, terms), requests, cut, false)
                    .await;
            }
        }
    }

    async fn want(
        &self,
        room: usize,
        thing: &Thing,
        (group, terms): (usize, Terms),
        drop: Option<u64>,
    ) {
        let of = &rooms().all[room];
        let key = key_of(of, thing);
        let mut wires = vec![wire_of(&key)];
        let proofs = match terms.version || !key.op().carries_events() {
            true => Vec::new(),
            false => proofs_of_version(of, &key),
        };
        wires.extend(proofs.iter().map(wire_of));
        let wire = key.wire();
        let number = self.shared.with(|sim, now| {
            let candidates = sim.candidates(Some(&key), room, &terms);
            let lookups = proofs.iter();
            let lookups = lookups.map(|key| sim.candidates(Some(key), room, &terms));
            let lookups = lookups.collect();
            sim.coverage.hit(key.op().name());
            let caller = Caller {
                op: Some(key.op()),
                room,
                asked: Some(Asked::read(&wire.path, wire.body.as_ref())),
                key: Some(key.clone()),
                wires,
                terms: terms.clone(),
                group,
                candidates,
                lookups,
                began: now,
                ended: None,
                alone: true,
                alike: true,
            };
            sim.began(now, caller)
        });
        let told = opts(&self.bend.terms(terms.clone()), of);
        let fetch = self.matrix.fetch(key, told);
        let end = match drop {
            None => fetch.await,
            Some(drop) => match timeout(millis(drop), fetch).await {
                Ok(end) => end,
                Err(_) => {
                    self.shared.with(|sim, now| sim.left(now, number));
                    return;
                }
            },
        };
        if self.bend.is("forgets-callers") {
            sleep(millis(1_000_000)).await;
        }
        let mut end = end;
        match &mut end {
            Ok(outcome) => self.bend.outcome(outcome),
            Err(error) => self.bend.attempts(&mut error.attempts),
        }
        self.shared.with(|sim, now| match terms.errs {
            true => sim.left(now, number),
            false => sim.ended(now, number, &end),
        });
    }

    /// Fills a room from its end; what was told of, and what came of it.
    async fn fill(
        &self,
        room: usize,
        (group, terms): (usize, Terms),
        requests_max: u32,
        cut: Option<u64>,
        sure: bool,
    ) -> Option<Filled> {
        let terms = Terms {
            errs: false,
            ..terms
        };
        let of = &rooms().all[room];
        let tip = of.events.len() - 1;
        let number = self.shared.with(|sim, now| {
            let mut candidates = sim.candidates(None, room, &terms);
            if terms.pool.is_none() {
                let hosts = (0..5)
                    .map(crate::rooms::name)
                    .filter(|name| !terms.deny.contains(name));
                candidates.extend(hosts);
            }
            sim.coverage.hit("fill");
            let caller = Caller {
                op: None,
                room,
                asked: None,
                key: None,
                wires: Vec::new(),
                terms: terms.clone(),
                group,
                candidates,
                lookups: Vec::new(),
                began: now,
                ended: None,
                alone: false,
                alike: false,
            };
            sim.began(now, caller)
        });
        let bound = match self.bend.is("fill-unbounded") {
            true => 1_000,
            false => requests_max,
        };
        let fill = Fill {
            room: of.id.clone(),
            from: vec![of.id_of(tip)],
            to: Vec::new(),
            goal: Goal::Gap,
            limits: Limits {
                requests_max: bound,
                ..Limits::default()
            },
            opts: opts(&terms, of),
        };
        let mut told: Vec<Recovered> = Vec::new();
        let bend = self.bend;
        let mut count = 0;
        let filling = self.matrix.fill(fill, |news| {
            if let News::Recovered(recovered) = news {
                told.extend(bend.recovered(count, recovered));
                count += 1;
            }
        });
        let filled = match cut {
            None => Some(filling.await),
            Some(cut) => timeout(millis(cut), filling).await.ok(),
        };
        let filled = filled.map(|filled| filled.expect("ids of ours"));
        self.shared.with(|sim, now| {
            sim.callers[number].ended = Some(now);
            let ended = filled.as_ref().map(|filled| filled.ended);
            sim.note(
                now,
                "--",
                format_args!("{number}: {} events, {ended:?}", told.len()),
            );
            let mut seen = BTreeSet::new();
            let mut wrong = Vec::new();
            for event in &told {
                let what = rooms().what(&event.raw).filter(|(r, ..)| *r == room);
                let fine = what.is_some_and(|(_, e, whole)| {
                    let proof = if whole { Proof::Whole } else { Proof::Redacted };
                    event.proof == proof && of.events[e].id == event.event_id && seen.insert(e)
                });
                if !fine {
                    wrong.push(format!("{} is not what it should be", event.event_id));
                }
            }
            let all = of.closure(&[tip]);
            if !seen.is_subset(&all) {
                wrong.push("more than lies before".to_owned());
            }
            if ended == Some(Ended::Goal) && seen != all {
                wrong.push(format!("{} of {} events", seen.len(), all.len()));
            }
            if sure && ended != Some(Ended::Goal) {
                wrong.push(format!(
                    "an honest server has everything, and it ended with {ended:?}"
                ));
            }
            for what in wrong {
                sim.fail(now, "fill", format_args!("{what}"));
            }
            if let Some(filled) = &filled
                && filled.requests > requests_max.into()
            {
                sim.fail(
                    now,
                    "fill bound",
                    format_args!("{} requests", filled.requests),
                );
            }
            sim.coverage.hit(match ended {
                None => "fill cut off",
                Some(Ended::Goal) => "filled",
                Some(Ended::NobodyHasMore) => "nobody has more",
                Some(_) => "fill ended by a bound",
            });
        });
        filled
    }

    /// Faults are over: what anybody holds is had.
    async fn calm(&self) {
        let (rooms_of, names, perfect) = self.shared.with(|sim, now| {
            sim.calm = true;
            sim.note(now, "==", format_args!("calm"));
            let perfect = sim.world.store.is_some_and(|odds| odds[..3] == [0, 0, 0]);
            (sim.world.rooms.clone(), oracle::names(sim), perfect)
        });
        // Whoever asked to be left alone, or was put off for its faults, may be asked again.
        sleep(millis(400_000)).await;
        for room in rooms_of {
            let last = rooms().all[room].events.len() - 1;
            let terms = Terms {
                hint: None,
                authority: None,
                members: Vec::new(),
                pool: Some(names.clone()),
                deny: vec![OUTCAST.to_owned()],
                version: true,
                errs: false,
                fanout: None,
                rounds_max: None,
                attempts_max: None,
                hedge: None,
                first_byte: None,
                total: None,
                tries: 1,
                checks: 0,
                refuse: false,
                accept_empty: false,
                patience: None,
                fresh: false,
            };
            for thing in [
                Thing::Event(last),
                Thing::AuthChain(last),
                Thing::StateIds(last),
                Thing::Backfill(vec![last], 10),
            ] {
                self.want(room, &thing, (2_000, terms.clone()), None).await;
            }
            let unknown = Terms {
                version: false,
                ..terms.clone()
            };
            self.fill(room, (2_001, unknown.clone()), 200, None, true)
                .await;
            sleep(millis(5_000)).await;
            let again = self.fill(room, (2_002, unknown), 200, None, true).await;
            let requests = again.map_or(0, |filled| filled.requests);
            if perfect {
                self.shared.with(|sim, now| {
                    sim.coverage.hit("resumed");
                    if requests > 0 {
                        sim.fail(
                            now,
                            "resumed",
                            format_args!("{requests} requests for what was stored"),
                        );
                    }
                });
            }
        }
    }
}
