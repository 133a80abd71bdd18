//! The state of one simulation, shared by everything that takes part in it: who holds what, the network,
//! and the oracle's accounts.

use super::{
    account::Run,
    world::{Kind, World},
};
use bytes::Bytes;
use gannet_engine::Time;
use gannet_kitsune2::FetchStats;
use gannet_sim::subject::Coverage;
use gannet_sim::{rng::Rng, trace::Trace};
use kitsune2_api::DynTxModuleHandler;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// What there is of a peer apart from its module; it outlives restarts.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    pub(crate) held: BTreeMap<Bytes, Bytes>,
    /// Where its messages go.
    pub(crate) handler: Option<DynTxModuleHandler>,
    /// Which of all runs it is in, if our module runs there.
    pub(crate) run: Option<usize>,
}

/// One simulation.
#[derive(Debug)]
pub(crate) struct Sim {
    pub(crate) world: World,
    pub(crate) rng: Rng,
    pub(crate) trace: Trace,
    pub(crate) coverage: Coverage,
    /// What went wrong, in order.
    pub(crate) failures: Vec<String>,
    pub(crate) desks: Vec<Desk>,
    /// Links that let nothing through, by who sends and who should receive.
    pub(crate) parted: BTreeSet<(usize, usize)>,
    /// Every module of ours that was ever started, by its number.
    pub(crate) runs: Vec<Run>,
    /// Faults are over.
    pub(crate) calm: bool,
    /// Where there was no room for a request, or for an answer to one: who asked, whom, for what, and
    /// when that happened last.
    pub(crate) no_room: BTreeMap<(usize, usize, Bytes), u64>,
    pub(crate) steps: u64,
}

impl Sim {
    pub(crate) fn new(world: World, print: bool) -> Self {
        let rng = Rng::new(world.seed, 202);
        let desks = world.peers.iter().map(|peer| Desk {
            held: peer.holds.iter().map(|n| world.ops[*n].clone()).collect(),
            ..Desk::default()
        });
        Self {
            desks: desks.collect(),
            world,
            rng,
            trace: Trace::new(print),
            coverage: Coverage::default(),
            failures: Vec::new(),
            parted: BTreeSet::new(),
            runs: Vec::new(),
            calm: false,
            no_room: BTreeMap::new(),
            steps: 0,
        }
    }

    pub(crate) fn line(&mut self, now: u64, mark: &str, what: fmt::Arguments<'_>) {
        self.steps += 1;
        let nanos = now * 1_000_000;
        self.trace.line(Time::from_nanos(nanos), mark, what);
    }

    /// A rule was broken.
    pub(crate) fn fail(&mut self, now: u64, run: usize, rule: &str, what: fmt::Arguments<'_>) {
        let node = self.runs.get(run).map_or(0, |run| run.node);
        let at = Duration::from_millis(now);
        let text = format!("{rule}: node {node} (run {run}) at {at:?}: {what}");
        self.line(now, "!!", format_args!("{text}"));
        if self.failures.len() < 20 {
            self.failures.push(text);
        }
    }

    /// True so many times in a thousand while there are faults, and never after.
    pub(crate) fn fault(&mut self, permille: u32) -> bool {
        !self.calm && permille > 0 && self.rng.permille(permille)
    }

    /// So many milliseconds at most, or few when faults are over.
    pub(crate) fn delay(&mut self, most: u64) -> u64 {
        let most = if self.calm { most.min(5) } else { most };
        self.rng.range(0, most)
    }

    /// The run of this number, while it lasts.
    pub(crate) fn live(&mut self, run: Option<usize>) -> Option<&mut Run> {
        self.runs.get_mut(run?).filter(|run| !run.stopped)
    }

    /// The number of an op, for people.
    pub(crate) fn op(&self, id: &[u8]) -> String {
        match self.world.numbers.get(id) {
            Some(n) => format!("op {n}"),
            None => "an unknown op".into(),
        }
    }

    pub(crate) fn ops<'a>(&self, ids: impl IntoIterator<Item = &'a Bytes>) -> String {
        let names = ids.into_iter().map(|id| match self.world.numbers.get(id) {
            Some(n) => n.to_string(),
            None => "?".into(),
        });
        names.collect::<Vec<_>>().join(" ")
    }

    /// Whether there was no room since then for a request for this op, or for its answer.
    pub(crate) fn lacked_room(&self, since: u64, who: usize, whom: usize, id: &Bytes) -> bool {
        let at = self.no_room.get(&(who, whom, id.clone()));
        at.is_some_and(|at| *at >= since)
    }

    /// Peers that answer honestly, this one excepted, and hold this op.
    pub(crate) fn is_source(&self, peer: usize, id: &[u8]) -> bool {
        self.world.peers[peer].honest() && self.desks[peer].held.contains_key(id)
    }

    pub(crate) fn ours(&self) -> Vec<usize> {
        self.world.all(Kind::Ours)
    }
}

/// A handle on the simulation, and on its clock.
#[derive(Clone)]
pub(crate) struct Shared {
    sim: Arc<Mutex<Sim>>,
    began: Instant,
}

impl Shared {
    pub(crate) fn new(sim: Arc<Mutex<Sim>>) -> Self {
        let began = Instant::now();
        Self { sim, began }
    }

    /// Does something with the state, now, in milliseconds. Nothing that is done here may call into a
    /// module, but for its stats.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut Sim, u64) -> R) -> R {
        let now = self.began.elapsed().as_millis() as u64;
        let mut sim = self.sim.lock().unwrap_or_else(PoisonError::into_inner);
        f(&mut sim, now)
    }

    /// What a run's module counts, while there is one.
    pub(crate) fn stats(&self, run: usize) -> Option<FetchStats> {
        let monitor = self.with(|sim, _| sim.runs[run].monitor.clone());
        monitor.stats().first().map(|(_, stats)| *stats)
    }

    /// Starts a task of the simulation.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(task);
    }

    /// A message on its way: it arrives after these milliseconds.
    pub(crate) fn travel(&self, (from, to): (usize, usize), bytes: Bytes, after: Vec<u64>) {
        for after in after {
            let (shared, bytes) = (self.clone(), bytes.clone());
            self.spawn(async move {
                pause(after).await;
                shared.arrive(from, to, bytes);
            });
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// So many milliseconds pass.
pub(crate) async fn pause(millis: u64) {
    if millis > 0 {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }
}
