//! Gannet and its peers, each fresh and empty in front of an origin.

use clap::ValueEnum;
use gannet_testkit::{
    client,
    origin::Origin,
    peers::{Nginx, NginxCache, Varnish},
    process::{Process, free_port},
};
use std::{path::PathBuf, process::Command, sync::OnceLock};

/// The chunk of Gannet, and the slice of nginx.
pub(crate) const CHUNK: u64 = 8 << 20;

/// How much of it all.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) quick: bool,
    pub(crate) repeats: usize,
    pub(crate) only: Option<Vec<Kind>>,
    /// Only cases whose titles contain this.
    pub(crate) case: Option<String>,
    pub(crate) gannet: Option<PathBuf>,
}

impl Run {
    /// Those of `kinds` that were asked for.
    pub(crate) fn peers(&self, kinds: &[Kind]) -> Vec<Kind> {
        let asked = |kind: &Kind| self.only.as_ref().is_none_or(|only| only.contains(kind));
        kinds.iter().copied().filter(asked).collect()
    }

    /// Whether a case of this title was asked for.
    pub(crate) fn asked(&self, title: &str) -> bool {
        let text = self.case.as_deref().unwrap_or_default();
        title.contains(text)
    }

    /// `full`, or `quick` in a quick run.
    pub(crate) fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    /// Ourselves.
    Gannet,
    /// nginx, `proxy_cache` with slices of 8 MiB, sendfile.
    NginxSlice,
    /// The same without sendfile.
    NginxSliceCopy,
    /// nginx, `proxy_cache` of whole objects, sendfile.
    NginxWhole,
    /// Varnish, in memory.
    Varnish,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gannet => "gannet",
            Self::NginxSlice => "nginx slice 8m",
            Self::NginxSliceCopy => "nginx slice 8m, no sendfile",
            Self::NginxWhole => "nginx no slice",
            Self::Varnish => "varnish",
        }
    }
}

/// One that runs.
#[derive(Debug)]
pub(crate) enum Peer {
    Gannet {
        process: Process,
        url: String,
        ops: String,
    },
    Nginx(Nginx),
    Varnish(Varnish),
}

impl Peer {
    /// Starts it, empty. `memory_mib` is Gannet's memory tier, on top of 16 GiB of disk; Varnish has
    /// 6 GiB of memory and no disk, nginx 64 GiB of disk.
    pub(crate) fn start(run: &Run, kind: Kind, origin: &Origin, memory_mib: u64) -> Self {
        Self::start_with(run, kind, origin, memory_mib, true)
    }

    /// The same, with or without Gannet's disk.
    pub(crate) fn start_with(
        run: &Run,
        kind: Kind,
        origin: &Origin,
        memory_mib: u64,
        disk: bool,
    ) -> Self {
        let nginx = |slice_bytes, sendfile| {
            let options = NginxCache {
                origin: origin.addr(),
                slice_bytes,
                sendfile,
                dir: None,
            };
            Self::Nginx(Nginx::cache(&options))
        };
        match kind {
            Kind::Gannet => {
                let mut peer = Self::gannet(run, origin, memory_mib, disk, &[]);
                peer.until_ready();
                peer
            }
            Kind::NginxSlice => nginx(Some(CHUNK), true),
            Kind::NginxSliceCopy => nginx(Some(CHUNK), false),
            Kind::NginxWhole => nginx(None, true),
            Kind::Varnish => Self::Varnish(Varnish::start(origin.addr(), 6 << 10)),
        }
    }

    /// A Gannet that is about to be ready, with more arguments: those of a member of a cluster, say.
    pub(crate) fn gannet(
        run: &Run,
        origin: &Origin,
        memory_mib: u64,
        disk: bool,
        more: &[String],
    ) -> Self {
        let data = tempfile::tempdir().expect("a temporary directory");
        let (edge, ops) = (free_port(), free_port());
        let url = format!("http://127.0.0.1:{edge}");
        let mut command = Command::new(run.gannet.clone().unwrap_or_else(binary));
        command
            .arg("cache")
            .args([
                "--origin",
                "s3://",
                "--origin-endpoint",
                &origin.url(),
                "--origin-anonymous",
            ])
            .args(["--listen", &format!("127.0.0.1:{edge}"), "--anonymous"])
            .args(["--ops-listen", &format!("127.0.0.1:{ops}")])
            .args(["--memory-max", &format!("{memory_mib}MiB")])
            .args(["--chunk-size", "8MiB"])
            .args(more);
        // For a shared store, where there is one; the origin is asked without.
        command.env("AWS_ACCESS_KEY_ID", "test");
        command.env("AWS_SECRET_ACCESS_KEY", "test");
        // These are for us: it takes all of the prefix for its own, and refuses what it does not know.
        command.env_remove("GANNET_BENCH_ARGS");
        command.env_remove("GANNET_BENCH_LOGS");
        // Somebody who looks for a cause wants more of it.
        if std::env::var_os("GANNET_LOG_LEVEL").is_none() {
            command.args(["--log-level", "warn"]);
        }
        if disk {
            command
                .args(["--disk-max", "16GiB", "--data"])
                .arg(data.path());
        } else {
            command.args(["--disk-max", "0"]);
        }
        // A profiler, or other settings, for trials by hand.
        if let Some(more) = std::env::var_os("GANNET_BENCH_ARGS") {
            command.args(more.to_string_lossy().split_whitespace());
        }
        let mut process = Process::spawn("gannet", &mut command);
        process.keep(data);
        let ops = format!("http://127.0.0.1:{ops}");
        Self::Gannet { process, url, ops }
    }

    /// Waits until a Gannet says that it is ready; others are from the start.
    pub(crate) fn until_ready(&mut self) {
        if let Self::Gannet { process, ops, .. } = self {
            process.until_http(&format!("{ops}/readyz"));
        }
    }

    pub(crate) fn url(&self) -> &str {
        match self {
            Self::Gannet { url, .. } => url,
            Self::Nginx(nginx) => nginx.url(),
            Self::Varnish(varnish) => varnish.url(),
        }
    }

    /// The sum of Gannet's metrics whose names and labels begin so; 0 for others.
    pub(crate) async fn metric(&self, prefix: &str) -> f64 {
        let Self::Gannet { ops, .. } = self else {
            return 0.0;
        };
        let page = client::get(&format!("{ops}/metrics"), &[]).await;
        let text = page.map(|page| page.text()).unwrap_or_default();
        text.lines()
            .filter(|line| line.starts_with(prefix))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }

    /// For who does something to it; none for peers that nothing is done to.
    pub(crate) fn process_mut(&mut self) -> Option<&mut Process> {
        match self {
            Self::Gannet { process, .. } => Some(process),
            Self::Nginx(_) | Self::Varnish(_) => None,
        }
    }

    pub(crate) fn process(&self) -> &Process {
        match self {
            Self::Gannet { process, .. } => process,
            Self::Nginx(nginx) => nginx.process(),
            Self::Varnish(varnish) => varnish.process(),
        }
    }
}

/// The binary of this workspace, built with the profile of this benchmark, once.
fn binary() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY
        .get_or_init(|| {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut build = Command::new(cargo);
            build.args(["build", "--quiet", "-p", "gannet-cli", "--bin", "gannet"]);
            if !cfg!(debug_assertions) {
                build.arg("--release");
            }
            let built = build.current_dir(env!("CARGO_MANIFEST_DIR")).status();
            assert!(
                built.is_ok_and(|status| status.success()),
                "gannet does not build"
            );
            std::env::current_exe()
                .expect("this program has a path")
                .with_file_name("gannet")
        })
        .clone()
}

/// A program, and which version of it.
pub(crate) fn version(program: &str, flag: &str) -> String {
    let output = std::process::Command::new(gannet_testkit::process::program(program))
        .arg(flag)
        .output();
    let output = output
        .map(|output| [output.stdout, output.stderr].concat())
        .unwrap_or_default();
    let text = String::from_utf8_lossy(&output).into_owned();
    let digits = |word: &&str| word.chars().any(|c| c.is_ascii_digit());
    let word = text.split_whitespace().find(digits).unwrap_or_default();
    let version = word.rsplit(['/', '-', '(']).next().unwrap_or(word);
    format!("{program} {version}")
}
