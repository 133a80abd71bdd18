//! What answers cost that were made to cost: memory and processor time of a process that asks for them.
//!
//! The hostile server is in this process, and whoever asks it in another, one for each kind of answer:
//! this test's binary again. So what is measured is the asker's alone, TLS and all, and nothing that
//! was freed before hides what is taken.

mod answers;
#[path = "../liar/mod.rs"]
#[allow(dead_code, reason = "each test uses what it needs of it")]
mod liar;

use answers::{CASES, Case};
use futures_util::future::{BoxFuture, join_all};
use gannet_matrix::{
    Builder, Ceilings, Direction, Key, Matrix, Opts,
    net::{AddressPolicy, Federation, Homeserver, KeyRing, KeyRingConfig, NetConfig, Roots},
    verify::sign::SigningKey,
};
use gannet_testkit::tls::Ca;
use liar::{Asked, Hello, Lies, Script};
use ruma_common::{OwnedEventId, OwnedServerName, RoomVersionId, ServerName, owned_room_id};
use std::{
    env, fs,
    net::SocketAddr,
    num::NonZeroU32,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

/// What a process may take beyond what it hands out.
const MEMORY_MAX: u64 = 64 << 20;
/// Far more than any of it takes of a processor, also where nothing is optimized and others are at work.
const TIME_MAX: Duration = Duration::from_secs(60);
/// Whoever asks is told by these which kind of answer it asks for, of whom, and whom it trusts.
const CASE: &str = "GANNET_TEST_HOSTILE_CASE";
const AT: &str = "GANNET_TEST_HOSTILE_AT";
const ROOTS: &str = "GANNET_TEST_HOSTILE_ROOTS";

/// Tells everybody what the name says that it is called by: `N.LABEL.liar.test`.
struct Told;

fn case(name: &str) -> Option<&'static Case> {
    let label = name.split('.').nth(1)?;
    CASES.iter().find(|case| case.label == label)
}

impl Lies for Told {
    fn hello(&self, _: &str) -> Hello {
        Hello::Good
    }

    fn answer(&self, asked: Asked) -> BoxFuture<'_, Script> {
        let script = match case(&asked.name) {
            Some(case) if asked.path.starts_with("/_matrix/federation/") => (case.answer)(),
            _ => Script::answer(404, "", "{}"),
        };
        Box::pin(std::future::ready(script))
    }
}

#[test]
fn answers_that_are_made_to_cost() {
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.enable_all().worker_threads(2).build().unwrap();
    match env::var(CASE) {
        Ok(label) => runtime.block_on(ask(&label)),
        Err(_) => runtime.block_on(all()),
    }
}

/// Has each kind of answer asked for by a process of its own.
async fn all() {
    let ca = Ca::new();
    let names = CASES.map(|case| format!("*.{}.liar.test", case.label));
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.push("*.warm.liar.test");
    let listeners = liar::listen(&["127.0.0.1:0".parse().unwrap()]).await;
    let addr = listeners[0].local_addr().unwrap();
    let own = ca.server(&names);
    let _server = liar::Server::start(listeners, own.clone(), own, Arc::new(Told)).await;
    let dir = tempfile::tempdir().unwrap();
    let roots = dir.path().join("ca.pem");
    fs::write(&roots, ca.pem()).unwrap();

    let mut wrong = Vec::new();
    for case in &CASES {
        let mut asker = Command::new(env::current_exe().unwrap());
        asker
            .args(["--exact", "answers_that_are_made_to_cost", "--nocapture"])
            // What an allocator keeps for each of many threads, or to be prepared for large pieces once
            // it has seen some, is not what is held.
            .env("MALLOC_ARENA_MAX", "1")
            .env("MALLOC_MMAP_THRESHOLD_", "131072")
            .env(CASE, case.label)
            .env(AT, addr.to_string())
            .env(ROOTS, &roots);
        let ended = tokio::task::spawn_blocking(move || asker.output().unwrap());
        let ended = ended.await.unwrap();
        let output = String::from_utf8_lossy(&ended.stdout).into_owned();
        let told = output.lines().find(|line| line.starts_with("cost "));
        println!("{:<12} {}", case.label, told.unwrap_or("nothing"));
        if !ended.status.success() {
            let errors = String::from_utf8_lossy(&ended.stderr);
            wrong.push(format!("{}: {output}{errors}", case.label));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A line of `/proc/self/status`, in bytes.
fn status(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_else(|| panic!("no {name}")) << 10
}

/// The processor time of this process.
fn processor() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: u64 = [11, 12]
        .map(|n| fields[n].parse::<u64>().unwrap())
        .iter()
        .sum();
    Duration::from_millis(ticks * 10)
}

fn named(n: usize, label: &str) -> OwnedServerName {
    ServerName::parse(format!("{n}.{label}.liar.test")).unwrap()
}

/// Asks for what this process was started to ask for, and tells what it cost.
async fn ask(label: &str) {
    let case = CASES.iter().find(|case| case.label == label).unwrap();
    let addr: SocketAddr = env::var(AT).unwrap().parse().unwrap();
    let mut net = NetConfig::default();
    net.policy = AddressPolicy::allowing(["127.0.0.1".parse().unwrap()]);
    net.roots = Roots::only_pem(&fs::read(env::var(ROOTS).unwrap()).unwrap()).unwrap();
    net.name_server = Some("127.0.0.1:1".parse().unwrap());
    net.dns_timeout = Duration::from_millis(20);
    net.well_known_port = addr.port();
    for (label, n) in [("warm", 1), (label, case.at_once)] {
        for n in 0..n {
            let name = named(n, label);
            net.overrides.give(name.host(), addr.port(), addr);
            net.overrides.give(name.host(), 8448, addr);
        }
    }
    let me = ServerName::parse("me.test").unwrap();
    let key = SigningKey::from_seed("1", &[1; 32]).unwrap();
    let me = Arc::new(Homeserver::new(me, key));
    let federation = Federation::new(net, Some(me)).unwrap();
    let keys = KeyRing::open(federation.clone(), KeyRingConfig::default()).unwrap();
    let me = federation.origin().unwrap().to_owned();
    // Each thread may take what the worst of events takes.
    let mut ceilings = Ceilings::default();
    ceilings.threads_max = NonZeroU32::new(2).unwrap();
    let builder = Builder::new(me, Arc::new(federation), Arc::new(keys), ceilings);
    let matrix = builder.build().unwrap();
    let warm = one(&matrix, case, named(0, "warm"), 0).await;
    assert!(warm.contains("missing"), "{warm}");

    let (before, began, cpu) = (status("VmRSS:"), Instant::now(), processor());
    // The most that was ever held begins anew.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let all = (0..case.at_once).map(|n| one(&matrix, case, named(n, label), n));
    let told = join_all(all).await;
    let (took, cpu) = (began.elapsed(), processor() - cpu);
    let peak = status("VmHWM:").saturating_sub(before);
    println!(
        "cost {:>6.1} MiB {:>6} ms of CPU {:>6} ms: {}",
        peak as f64 / f64::from(1 << 20),
        cpu.as_millis(),
        took.as_millis(),
        told[0]
    );
    for told in told {
        assert!(told.contains(case.says), "{told}");
    }
    assert!(peak < MEMORY_MAX, "{peak} bytes");
    assert!(cpu < TIME_MAX, "{cpu:?}");
}

/// What asking one server led to.
async fn one(matrix: &Matrix, case: &Case, server: OwnedServerName, n: usize) -> String {
    let room = owned_room_id!("!room:liar.test");
    // As long as ids are from version 4 on.
    let id = OwnedEventId::try_from(format!("${n:0>43}")).unwrap();
    let key = match case.op {
        answers::Asks::Event => Key::event(room, id),
        answers::Asks::Chain => Key::auth_chain(room, id),
        answers::Asks::Ids => Key::state_ids(room, id),
        answers::Asks::At => Key::timestamp_to_event(room, n as u64, Direction::Forward),
    };
    let opts = Opts::new()
        .pool([server])
        .version(RoomVersionId::V10)
        .first_byte_timeout(Duration::from_secs(5))
        .patience(Duration::from_secs(500));
    match matrix.fetch(key.unwrap(), opts).await {
        Ok(outcome) => format!("answered with {} bytes", outcome.bytes.len()),
        Err(error) => error.to_string(),
    }
}
