//! Caches that are measured together: a cluster, or some that do not know each other.

use crate::peers::{Kind, Peer, Run};
use gannet_testkit::{origin::Origin, process::free_port};
use std::{path::PathBuf, time::Duration};
use tempfile::TempDir;

/// Who serves, and how many of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Setup {
    pub(crate) kind: Kind,
    pub(crate) count: usize,
    /// Whether they know each other.
    pub(crate) together: bool,
}

impl Setup {
    /// Some that do not know each other.
    pub(crate) const fn apart(kind: Kind, count: usize) -> Self {
        Self {
            kind,
            count,
            together: false,
        }
    }

    /// A cluster; one alone is none.
    pub(crate) const fn cluster(count: usize) -> Self {
        Self {
            kind: Kind::Gannet,
            count,
            together: count > 1,
        }
    }

    pub(crate) fn name(self) -> String {
        match self.count {
            1 => self.kind.name().into(),
            count if self.together => format!("{}, cluster of {count}", self.kind.name()),
            count => format!("{} x{count}", self.kind.name()),
        }
    }
}

/// Those of `setups` that were asked for.
pub(crate) fn asked(run: &Run, setups: &[Setup]) -> Vec<Setup> {
    let asked = |setup: &Setup| !run.peers(&[setup.kind]).is_empty();
    setups.iter().copied().filter(asked).collect()
}

/// What members of one cluster have in common.
#[derive(Debug)]
pub(crate) struct Founder {
    dir: TempDir,
    pub(crate) memory_mib: u64,
}

impl Founder {
    pub(crate) fn new(memory_mib: u64) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("secret"), "a secret of a benchmark").expect("a file");
        Self { dir, memory_mib }
    }

    /// Starts a member, without waiting for it; `found` says how it finds the others.
    pub(crate) fn member(
        &self,
        run: &Run,
        origin: &Origin,
        internal: &str,
        found: &[String],
    ) -> Peer {
        let secret = self.dir.path().join("secret");
        let mut more = vec![
            format!("--internal-listen={internal}"),
            format!("--cluster-secret={}", secret.display()),
        ];
        more.extend_from_slice(found);
        Peer::gannet(run, origin, self.memory_mib, true, &more)
    }
}

/// Where a member could listen for others.
pub(crate) fn internal() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// Some that run.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) peers: Vec<Peer>,
    _founder: Option<Founder>,
}

impl Group {
    /// Starts them, empty, in front of an origin.
    pub(crate) fn start(run: &Run, setup: Setup, origin: &Origin, memory_mib: u64) -> Self {
        if !setup.together {
            let start = |_| Peer::start(run, setup.kind, origin, memory_mib);
            return Self {
                peers: (0..setup.count).map(start).collect(),
                _founder: None,
            };
        }
        let founder = Founder::new(memory_mib);
        let internal: Vec<String> = (0..setup.count).map(|_| internal()).collect();
        let found = [format!("--peers={}", internal.join(","))];
        let start = |own: &String| founder.member(run, origin, own, &found);
        let mut peers: Vec<Peer> = internal.iter().map(start).collect();
        peers.iter_mut().for_each(Peer::until_ready);
        Self {
            peers,
            _founder: Some(founder),
        }
    }

    /// Where each serves an object.
    pub(crate) fn urls(&self, path: &str) -> Vec<String> {
        let url = |peer: &Peer| format!("{}/{path}", peer.url());
        self.peers.iter().map(url).collect()
    }

    /// User and system time of all.
    pub(crate) fn cpu(&self) -> f64 {
        let cpu = self.peers.iter().map(|peer| peer.process().cpu());
        cpu.sum::<Duration>().as_secs_f64()
    }

    /// Resident bytes of all.
    pub(crate) fn resident(&self) -> f64 {
        let resident = self.peers.iter().map(|peer| peer.process().resident());
        resident.sum::<u64>() as f64
    }

    /// A metric of all.
    pub(crate) async fn metric(&self, prefix: &str) -> f64 {
        let mut sum = 0.0;
        for peer in &self.peers {
            sum += peer.metric(prefix).await;
        }
        sum
    }
}

/// Keeps what they wrote, where somebody looks for a cause: `GANNET_BENCH_LOGS` names the directory,
/// `GANNET_LOG_LEVEL` what is written.
pub(crate) fn keep_logs<'a>(case: &str, peers: impl IntoIterator<Item = &'a Peer>) {
    let Some(dir) = std::env::var_os("GANNET_BENCH_LOGS").map(PathBuf::from) else {
        return;
    };
    for (n, peer) in peers.into_iter().enumerate() {
        let name = format!("{case}-{n}.log").replace([' ', ',', ':', '/'], "_");
        let kept = std::fs::create_dir_all(&dir)
            .and_then(|()| std::fs::write(dir.join(name), peer.process().log()));
        if let Err(error) = kept {
            eprintln!("no log of {case}: {error}");
        }
    }
}
