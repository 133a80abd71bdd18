//! Signals: what is under way finishes, what comes is refused, and the exit code says how it was.

use crate::harness::{Gannet, PATIENCE, program};
use gannet_testkit::{
    client::{download, get},
    origin::{Fault, Method, Object, Origin, Rule},
};
use rustix::process::Signal;
use std::{os::unix::net::UnixDatagram, time::Duration};

/// Longer than any test.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// An origin that falls silent in the middle of its one object, and a cache in front.
fn stalled(data: &tempfile::TempDir) -> (Origin, Gannet) {
    let origin = Origin::start();
    origin.put("b", "k", Object::generated(1, 4 << 20));
    origin.rule(
        Rule::new(Fault::Stall {
            at: 300_000,
            lasting: Duration::from_secs(3),
        })
        .method(Method::Get),
    );
    let gannet = Gannet::start(
        data.path(),
        &[
            "--origin",
            &origin.url(),
            "--chunk-size=1MiB",
            "--hedge-after=1h",
            "--read-ahead=0",
        ],
    );
    (origin, gannet)
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_requests_under_way_finish() {
    let data = tempfile::tempdir().unwrap();
    let (origin, mut gannet) = stalled(&data);
    let sha256 = origin.object("b", "k").unwrap().sha256();
    let (url, ops) = (gannet.url("b/k"), gannet.ops.clone());
    assert_eq!(
        get(&format!("{ops}/readyz"), &[]).await.unwrap().status,
        200
    );
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move { download(&url, &[], true).await.unwrap() })
        })
        .collect();
    origin
        .until("bytes under way", |counts| counts.bytes >= 300_000)
        .await;
    // The rest comes without pauses.
    origin.heal();
    gannet.process.signal(Signal::TERM);
    let unready = async {
        loop {
            match get(&format!("{ops}/readyz"), &[]).await {
                Ok(answer) if answer.status == 200 => tokio::task::yield_now().await,
                other => break other,
            }
        }
    };
    let unready = tokio::time::timeout(PATIENCE, unready)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        unready.status, 503,
        "said while requests are still under way"
    );
    assert!(gannet.process.ended().is_none());
    for client in clients {
        let got = client.await.unwrap();
        assert!(got.served() && got.sha256 == sha256, "{got:?}");
    }
    assert_eq!(
        gannet.process.wait(PATIENCE).code(),
        Some(0),
        "{}",
        gannet.process.log()
    );
    assert!(get(&url, &[]).await.is_err(), "nobody listens any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_signal_ends_it_at_once() {
    let data = tempfile::tempdir().unwrap();
    let (origin, mut gannet) = stalled(&data);
    origin.heal();
    origin.rule(
        Rule::new(Fault::Stall {
            at: 300_000,
            lasting: FOR_EVER,
        })
        .method(Method::Get),
    );
    let url = gannet.url("b/k");
    let client = tokio::spawn(async move { download(&url, &[], false).await });
    origin
        .until("bytes under way", |counts| counts.bytes >= 300_000)
        .await;
    gannet.process.signal(Signal::INT);
    gannet.process.until("drain", |process| {
        process.log().contains("shutting down").then_some(())
    });
    gannet.process.signal(Signal::INT);
    assert_eq!(
        gannet.process.wait(PATIENCE).code(),
        Some(130),
        "{}",
        gannet.process.log()
    );
    assert!(
        client.await.unwrap().is_ok_and(|got| got.cut),
        "cut, and not ended as if whole"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_take_too_long_are_cut() {
    let data = tempfile::tempdir().unwrap();
    let origin = Origin::start();
    origin.put("b", "k", Object::generated(1, 4 << 20));
    origin.rule(
        Rule::new(Fault::Stall {
            at: 300_000,
            lasting: FOR_EVER,
        })
        .method(Method::Get),
    );
    let mut gannet = Gannet::start(
        data.path(),
        &[
            "--origin",
            &origin.url(),
            "--chunk-size=1MiB",
            "--hedge-after=1h",
            "--drain=100ms",
        ],
    );
    let url = gannet.url("b/k");
    let client = tokio::spawn(async move { download(&url, &[], false).await });
    origin
        .until("bytes under way", |counts| counts.bytes >= 300_000)
        .await;
    assert_eq!(gannet.process.terminate(PATIENCE).code(), Some(0));
    assert!(client.await.unwrap().is_ok_and(|got| got.cut));
    assert!(
        gannet.process.log().contains("connections were cut"),
        "{}",
        gannet.process.log()
    );
}

#[test]
fn the_service_manager_is_told() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let state = || {
        let mut buffer = [0; 64];
        let n = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    };
    let mut command = program();
    command
        .env("NOTIFY_SOCKET", &path)
        .args(["--origin=file:///usr", "--data"]);
    command.arg(data.path().join("cache"));
    let mut gannet = Gannet::spawn(&mut command);
    assert_eq!(state(), "READY=1");
    assert_eq!(gannet.process.terminate(PATIENCE).code(), Some(0));
    assert_eq!(state(), "STOPPING=1");
}

#[test]
fn what_keeps_it_from_starting_is_told() {
    let data = tempfile::tempdir().unwrap();
    let gannet = Gannet::start(data.path(), &["--origin=file:///usr"]);
    let address = gannet.edge.strip_prefix("http://").unwrap();
    let other = tempfile::tempdir().unwrap();
    let check = |args: &[&str], code: i32, says: &str| {
        let output = program()
            .args(["cache", "--ops-listen=127.0.0.1:0", "--origin=file:///usr"])
            .args(args)
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
        assert!(error.contains(says), "{args:?}: {error}");
    };
    let other = other.path().to_str().unwrap();
    check(
        &["--listen", address, "--data", other],
        3,
        "another --listen (127.0.0.1:0 for any port)",
    );
    let data = data.path().to_str().unwrap();
    check(&["--listen=127.0.0.1:0", "--data", data], 3, "disk store");
    check(&["--listen=127.0.0.1:0"], 2, "--data DIR");
    for wrong in ["--origin-endpoint=http://h", "--origin-ca=/nonexistent"] {
        let option = wrong.trim_start_matches("--origin-").split('=').next();
        let says = format!("origin option {}", option.unwrap());
        check(&["--listen=127.0.0.1:0", "--data", other, wrong], 2, &says);
    }
    check(
        &[
            "--listen=127.0.0.1:0",
            "--data",
            other,
            "--auth=/nonexistent",
        ],
        2,
        "/nonexistent",
    );
}
