//! Members whose network goes down: each in a network namespace of its own, where that can be had.

use crate::{
    harness::{Gannet, program},
    members::{MIB, all_right, gets_by_chunk, until},
};
use gannet_testkit::{
    client,
    origin::{Method, Object, Origin, Pace},
    process,
};
use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Command,
};
use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};

const MEMBERS: u8 = 3;
const CHUNKS: u64 = 5;

/// Namespaces with an interface each, on one bridge; gone when dropped.
struct Lab {
    id: String,
    net: [u8; 2],
}

impl Lab {
    /// None where this may not be done here.
    fn new() -> Option<Self> {
        let pid = std::process::id();
        let lab = Self {
            id: format!("gt{}", pid % 100_000),
            // One of the networks that are for private use.
            net: [10, (pid % 200 + 40) as u8],
        };
        let bridge = format!("{}b", lab.id);
        if !ip(&format!("link add {bridge} type bridge")) {
            return None;
        }
        let mut well = ip(&format!("addr add {}/24 dev {bridge}", lab.address(254)))
            && ip(&format!("link set {bridge} up"));
        for n in 0..MEMBERS {
            let (space, outside) = (lab.space(n), lab.outside(n));
            let inside = format!("{}i{n}", lab.id);
            well = well
                && ip(&format!("netns add {space}"))
                && ip(&format!("link add {outside} type veth peer name {inside}"))
                && ip(&format!("link set {inside} netns {space}"))
                && ip(&format!("link set {outside} master {bridge} up"))
                && ip(&format!(
                    "-n {space} addr add {}/24 dev {inside}",
                    lab.address(n)
                ))
                && ip(&format!("-n {space} link set {inside} up"))
                && ip(&format!("-n {space} link set lo up"));
        }
        well.then_some(lab)
    }

    fn address(&self, n: u8) -> Ipv4Addr {
        let [a, b] = self.net;
        // Not what a network begins with.
        Ipv4Addr::new(a, b, 77, n.saturating_add(1).min(254))
    }

    fn space(&self, n: u8) -> String {
        format!("{}n{n}", self.id)
    }

    /// The end of a member's link that is outside of its namespace.
    fn outside(&self, n: u8) -> String {
        format!("{}o{n}", self.id)
    }

    /// Cuts a member off, or connects it again.
    fn cut_off(&self, n: u8, cut: bool) {
        let state = if cut { "down" } else { "up" };
        assert!(ip(&format!("link set {} {state}", self.outside(n))));
    }

    /// The same command, in the namespace of member `n`.
    fn within(&self, n: u8, command: &Command) -> Command {
        let mut within = Command::new(process::program("ip"));
        within
            .env_clear()
            .args(["netns", "exec", &self.space(n)])
            .arg(command.get_program())
            .args(command.get_args());
        within
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for n in 0..MEMBERS {
            ip(&format!("link del {}", self.outside(n)));
            ip(&format!("netns del {}", self.space(n)));
        }
        ip(&format!("link del {}b", self.id));
    }
}

/// Whether this worked.
fn ip(args: &str) -> bool {
    let run = Command::new(process::program("ip"))
        .args(args.split(' '))
        .output();
    run.is_ok_and(|output| output.status.success())
}

/// Brings whoever connects there to the origin, which is on loopback.
async fn bring(at: Ipv4Addr, origin: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind((at, 0)).await.expect("an address");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            tokio::spawn(async move {
                if let Ok(mut to) = TcpStream::connect(origin).await {
                    // Either end may go as it likes.
                    let _ = copy_bidirectional(&mut from, &mut to).await;
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_cut_off_is_gone_around() {
    let Some(lab) = Lab::new() else {
        println!("not run: no network namespaces can be made here");
        return;
    };
    let origin = Origin::start();
    let object = origin.put("b", "k", Object::generated(1, CHUNKS * MIB));
    let way = bring(lab.address(254), origin.addr()).await;
    let directory = TempDir::new().expect("a temporary directory");
    let secret = directory.path().join("secret");
    std::fs::write(&secret, "a secret of theirs").expect("a file");
    let internal = |n| SocketAddr::from((lab.address(n), 9001)).to_string();
    let peers: Vec<_> = (0..MEMBERS).map(internal).collect();
    let mut members: Vec<_> = (0..MEMBERS)
        .map(|n| {
            let mut command = program();
            command
                .args([
                    "cache",
                    "--origin=s3://",
                    "--origin-anonymous",
                    "--anonymous",
                ])
                .args(["--chunk-size=1MiB", "--hedge-after=2s"])
                .arg(format!("--origin-endpoint=http://{way}"))
                .arg(format!("--cluster-secret={}", secret.display()))
                .arg(format!("--internal-listen={}", internal(n)))
                .arg(format!("--peers={}", peers.join(",")))
                .arg(format!("--listen={}:9000", lab.address(n)))
                .arg(format!("--ops-listen={}:9002", lab.address(n)))
                .arg("--data")
                .arg(directory.path().join(format!("data-{n}")));
            Gannet::spawn(&mut lab.within(n, &command))
        })
        .collect();
    for member in &mut members {
        let url = format!("{}/readyz", member.ops);
        member.process.until_http(&url);
    }
    let head = client::head(&members[0].url("b/k"), &[]).await;
    assert_eq!(head.expect("an answer").status, 200);
    let status = members[0].status("?object=b/k").await;
    let first = status["object"]["chunks"][0]["coordinator"].as_str();
    let first = first.expect("an address");
    let lost = peers
        .iter()
        .position(|peer| peer == first)
        .expect("a member");
    origin.pace(Pace {
        bandwidth: Some(300 << 10),
        ..Pace::default()
    });
    let clients = members.iter().map(|member| {
        let url = member.url("b/k");
        tokio::spawn(async move { client::stampede(&url, &[], 4, true).await })
    });
    let mut clients: Vec<_> = clients.collect();
    until("the first chunk under way", async || {
        let first = |served: &gannet_testkit::origin::Served| {
            served.method == Method::Get && served.range.start == 0 && served.sent > 300_000
        };
        origin.served().iter().any(first)
    })
    .await;
    lab.cut_off(lost as u8, true);
    let of_lost = clients.remove(lost);
    let mut others = Vec::new();
    for client in clients {
        others.push(client.await.expect("it does not panic"));
    }
    all_right(&others, &object.sha256());
    let gets = gets_by_chunk(&origin, "k", MIB);
    assert!(gets.values().all(|gets| *gets <= 2), "{gets:?}");
    // Connected again, it goes on.
    lab.cut_off(lost as u8, false);
    let of_lost = of_lost.await.expect("it does not panic");
    assert_eq!(of_lost.wrong(&object.sha256()), 0);
    let again = client::stampede(&members[lost].url("b/k"), &[], 4, true).await;
    all_right(&[again], &object.sha256());
}
