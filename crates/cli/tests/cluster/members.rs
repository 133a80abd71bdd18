//! Several `gannet cache` that know each other.

use crate::harness::{Gannet, PATIENCE, program};
use gannet_testkit::{
    client::{self, Stampede},
    origin::{Method, Object, Origin},
    peers::{Dnsmasq, Zone},
    process::free_port,
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    process::Command,
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// The chunk size of most tests.
pub(crate) const MIB: u64 = 1 << 20;
/// Between two looks at what another process brings about.
const LOOK: Duration = Duration::from_millis(20);
/// A secret that members share.
pub(crate) const SECRET: &str = "a secret of a test cluster";

/// Some members; killed when dropped.
pub(crate) struct Members {
    pub(crate) members: Vec<Gannet>,
    /// Their names among each other: the addresses at which they are reached.
    pub(crate) internal: Vec<String>,
    /// Where they listen for each other.
    pub(crate) listen: Vec<String>,
    env: Vec<(String, String)>,
    directory: TempDir,
    args: Vec<String>,
}

impl Members {
    /// Starts so many in front of an origin, each with disk and memory of its own, and waits until
    /// they are ready.
    pub(crate) async fn start(count: usize, origin: &Origin, args: &[&str]) -> Self {
        let mut members = Self::of_secret(count, origin, args);
        members.launch(Self::peers);
        members.until_ready().await;
        members
    }

    /// So many that share a secret; none is started yet.
    pub(crate) fn of_secret(count: usize, origin: &Origin, args: &[&str]) -> Self {
        let mut members = Self::new(count, origin, args);
        let secret = members.file("secret", SECRET);
        members.args.push(format!("--cluster-secret={secret}"));
        members
    }

    /// So many, without credentials; none is started yet.
    pub(crate) fn new(count: usize, origin: &Origin, args: &[&str]) -> Self {
        let internal: Vec<_> = (0..count).map(|_| loopback(free_port())).collect();
        let own = [
            "--origin=s3://".to_owned(),
            format!("--origin-endpoint={}", origin.url()),
            "--origin-anonymous".to_owned(),
            "--anonymous".to_owned(),
        ];
        let args = args.iter().map(|arg| (*arg).to_owned());
        Self {
            members: Vec::new(),
            listen: internal.clone(),
            internal,
            env: Vec::new(),
            directory: tempfile::tempdir().expect("a temporary directory"),
            args: own.into_iter().chain(args).collect(),
        }
    }

    /// Starts all; `more` says what is special about each.
    pub(crate) fn launch(&mut self, more: impl Fn(&Self, usize) -> Vec<String>) {
        for n in 0..self.internal.len() {
            let member = self.spawn(n, &more(self, n));
            self.members.push(member);
        }
    }

    /// The list of all.
    pub(crate) fn peers(&self, _: usize) -> Vec<String> {
        vec![format!("--peers={}", self.internal.join(","))]
    }

    /// Writes a file that lives as long as the members; its path.
    pub(crate) fn file(&self, name: &str, content: &str) -> String {
        let path = self.directory.path().join(name);
        std::fs::write(&path, content).expect("a file");
        path.display().to_string()
    }

    /// Starts member `n`, with its own data as they are; `more` says how it finds the others, too.
    pub(crate) fn spawn(&self, n: usize, more: &[String]) -> Gannet {
        Gannet::spawn(self.command(n).args(more))
    }

    /// The command of member `n`, but for whom it knows.
    pub(crate) fn command(&self, n: usize) -> Command {
        let mut command = program();
        command
            .arg("cache")
            .args(&self.args)
            .arg(format!("--internal-listen={}", self.listen[n]))
            .arg("--data")
            .arg(self.directory.path().join(format!("data-{n}")))
            .envs(self.env.clone());
        if self.internal[n] != self.listen[n] {
            command.arg(format!("--advertise={}", self.internal[n]));
        }
        command
    }

    /// One more variable for all that are started from now on.
    pub(crate) fn env(&mut self, name: &str, value: &str) {
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// Those that are started from now on have nothing of what others had.
    pub(crate) fn forget(&mut self) {
        self.directory = tempfile::tempdir().expect("a temporary directory");
        let secret = self.file("secret", SECRET);
        let other = |arg: &String| !arg.starts_with("--cluster-secret=");
        self.args.retain(other);
        self.args.push(format!("--cluster-secret={secret}"));
    }

    /// Member `n` is somewhere else when it is started next.
    pub(crate) fn moves(&mut self, n: usize) {
        self.listen[n] = loopback(free_port());
        self.internal[n] = self.listen[n].clone();
    }

    /// Waits until all say that they are ready.
    pub(crate) async fn until_ready(&mut self) {
        for member in &mut self.members {
            let url = format!("{}/readyz", member.ops);
            member.process.until_http(&url);
        }
    }

    /// Lets so many clients loose on one path, at each member.
    pub(crate) fn clients(&self, path: &str, each: usize) -> Vec<JoinHandle<Stampede>> {
        let stampedes = self.members.iter().map(|member| {
            let url = member.url(path);
            tokio::spawn(async move { client::stampede(&url, &[], each, true).await })
        });
        stampedes.collect()
    }

    /// Lets so many clients loose on one path, spread over all members.
    pub(crate) async fn stampede(&self, path: &str, clients: usize) -> Vec<Stampede> {
        let mut done = Vec::new();
        for stampede in self.clients(path, clients / self.members.len()) {
            done.push(stampede.await.expect("it does not panic"));
        }
        done
    }

    /// Who coordinates each chunk of an object, as member `by` sees it.
    pub(crate) async fn coordinators(&self, by: usize, path: &str) -> Vec<usize> {
        let head = client::head(&self.members[by].url(path), &[]).await;
        assert_eq!(head.expect("an answer").status, 200);
        let status = self.members[by].status(&format!("?object={path}")).await;
        let chunks = status["object"]["chunks"]
            .as_array()
            .expect("chunks")
            .clone();
        let number = |chunk: &serde_json::Value| {
            let address = chunk["coordinator"].as_str().expect("an address");
            self.internal
                .iter()
                .position(|internal| internal == address)
        };
        chunks
            .iter()
            .map(|chunk| number(chunk).expect("a member"))
            .collect()
    }

    /// An object of so many chunks, put into the bucket `b`, one of them at least coordinated by member
    /// `n`; its key, which begins so.
    pub(crate) async fn object_of(
        &self,
        n: usize,
        origin: &Origin,
        begins: &str,
        chunks: u64,
    ) -> (String, Arc<Object>) {
        for seed in 0..100 {
            let key = format!("{begins}-{seed}");
            let object = origin.put("b", &key, Object::generated(seed, chunks * MIB));
            if self.coordinators(n, &format!("b/{key}")).await.contains(&n) {
                return (key, object);
            }
        }
        panic!("no object in a hundred is coordinated by member {n}");
    }

    /// Waits until all know exactly each other.
    pub(crate) async fn until_known(&self) {
        let mut all = self.internal.clone();
        all.sort();
        for (n, member) in self.members.iter().enumerate() {
            until(&format!("member {n} to know the others"), async || {
                let status = member.status("").await;
                let members = status["members"].as_array().expect("a list").clone();
                let known = members.iter().filter_map(|m| m["address"].as_str());
                let mut known: Vec<_> = known.map(str::to_owned).collect();
                known.sort();
                known == all
            })
            .await;
        }
    }

    /// A metric summed over all members.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let mut sum = 0.0;
        for member in &self.members {
            sum += member.metric(name).await;
        }
        sum
    }
}

impl Gannet {
    /// What `/admin/status` says.
    pub(crate) async fn status(&self, query: &str) -> serde_json::Value {
        let url = format!("{}/admin/status{query}", self.ops);
        let answer = client::get(&url, &[]).await;
        let text = answer.expect("the ops listener answers").text();
        serde_json::from_str(&text).expect("JSON")
    }
}

/// Whether all of these clients got exactly this.
pub(crate) fn all_right(stampedes: &[Stampede], sha256: &str) {
    for (n, stampede) in stampedes.iter().enumerate() {
        let failed: Vec<_> = stampede
            .downloads
            .iter()
            .filter(|download| {
                !download
                    .as_ref()
                    .is_ok_and(|d| d.served() && d.sha256 == sha256)
            })
            .map(|download| match download {
                Ok(d) => format!("{} cut={} bytes={}", d.head.status, d.cut, d.bytes),
                Err(error) => error.to_string(),
            })
            .collect();
        assert!(failed.is_empty(), "clients of member {n}: {failed:?}");
    }
}

/// An address for a port.
pub(crate) fn loopback(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// Waits until something holds that another process brings about.
pub(crate) async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(LOOK).await;
        }
    };
    let came = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(came.is_ok(), "{what}: not within {PATIENCE:?}");
}

/// GETs of each chunk of an object, by the origin's book.
pub(crate) fn gets_by_chunk(origin: &Origin, key: &str, chunk: u64) -> BTreeMap<u64, usize> {
    let mut gets = BTreeMap::new();
    for served in origin.served() {
        if served.method == Method::Get && served.key == key {
            *gets.entry(served.range.start / chunk).or_default() += 1;
        }
    }
    gets
}

/// A service whose targets are these addresses.
pub(crate) fn zone(internal: &[String]) -> Zone {
    let host = Zone::new().host("host.test", IpAddr::V4(Ipv4Addr::LOCALHOST));
    internal.iter().fold(host, |zone, address| {
        let (_, port) = address.rsplit_once(':').expect("a port");
        let port = port.parse().expect("a number");
        zone.service("_gannet._tcp.test", "host.test", port, 1)
    })
}

/// How members find each other in such a zone.
pub(crate) fn of_zone(dns: &Dnsmasq) -> Vec<String> {
    vec![
        "--peers-dns=_gannet._tcp.test".to_owned(),
        format!("--peers-dns-server={}", dns.addr()),
    ]
}
