//! The state of one simulation, shared by everything that takes part in it: the network, the agenda
//! of what is to happen, and the oracle's accounts.

use super::{account::Run, net::Net, world::World};
use commonware_runtime::{Clock as _, deterministic::Context};
use gannet_engine::Time;
use gannet_sim::subject::Coverage;
use gannet_sim::{rng::Rng, trace::Trace};
use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// One simulation.
pub(crate) struct Sim {
    pub(crate) world: World,
    pub(crate) rng: Rng,
    pub(crate) trace: Trace,
    pub(crate) coverage: Coverage,
    /// What went wrong, in order.
    pub(crate) failures: Vec<String>,
    pub(crate) net: Net,
    /// Every engine that was ever started, by its number.
    pub(crate) runs: Vec<Run>,
    /// Ids of requests ever used, by node: no two runs of a node share any.
    pub(crate) ids: BTreeSet<(usize, u64)>,
    /// Faults are over.
    pub(crate) calm: bool,
    pub(crate) steps: u64,
}

/// What happened, from the view of a node's engine.
pub(crate) fn nanos(time: SystemTime) -> u64 {
    let passed = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(passed.as_nanos()).expect("a few minutes")
}

pub(crate) fn wall(nanos: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(nanos)
}

impl Sim {
    pub(crate) fn new(world: World, print: bool) -> Self {
        let rng = Rng::new(world.seed, 102);
        let net = Net::new(&world);
        Self {
            world,
            rng,
            trace: Trace::new(print),
            coverage: Coverage::default(),
            failures: Vec::new(),
            net,
            runs: Vec::new(),
            ids: BTreeSet::new(),
            calm: false,
            steps: 0,
        }
    }

    pub(crate) fn line(&mut self, now: u64, mark: &str, what: fmt::Arguments<'_>) {
        self.steps += 1;
        self.trace.line(Time::from_nanos(now), mark, what);
    }

    /// A rule was broken.
    pub(crate) fn fail(&mut self, now: u64, run: usize, rule: &str, what: fmt::Arguments<'_>) {
        let node = self.runs.get(run).map_or(0, |run| run.node);
        let at = Duration::from_nanos(now);
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

    /// The engine that a node runs now.
    pub(crate) fn run_of(&self, node: usize) -> Option<usize> {
        self.runs
            .iter()
            .rposition(|run| run.node == node && run.stopped.is_none())
    }
}

/// A handle on the simulation, and on its clock.
#[derive(Clone)]
pub(crate) struct Shared {
    sim: Arc<Mutex<Sim>>,
    clock: Arc<Context>,
}

impl Shared {
    pub(crate) fn new(sim: Arc<Mutex<Sim>>, clock: Context) -> Self {
        let clock = Arc::new(clock);
        Self { sim, clock }
    }

    /// Does something with the state, now. Nothing that is done here may call into an engine.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut Sim, u64) -> R) -> R {
        let now = nanos(self.clock.current());
        let mut sim = self.sim.lock().unwrap_or_else(PoisonError::into_inner);
        f(&mut sim, now)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}
