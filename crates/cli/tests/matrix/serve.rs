//! `gannet matrix serve`: several callers, one engine.

use super::{
    Lab, gannet,
    homeserver::{Homeserver, Quirk},
};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

const TOKEN: &str = "a-token-of-the-test";
const CALLERS: usize = 20;

/// A running one; it is told to end when it is dropped.
struct Running {
    child: Child,
    addr: String,
}

impl Running {
    fn start(lab: &Lab, hs: &Homeserver) -> Self {
        let token = lab.path("token");
        fs::write(&token, format!("{TOKEN}\n")).unwrap();
        fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
        let mut command = gannet(&["serve", "--listen", "127.0.0.1:0", "--token-file", &token]);
        command.args([
            "--server-name",
            "me.test",
            "--signing-key",
            &lab.path("key"),
        ]);
        command.args(["--ca", &lab.path("ca.pem"), "--name-server", "127.0.0.1:1"]);
        command.args([
            "--resolve",
            &format!("{}:127.0.0.1", hs.name),
            "--allow-private",
            "127.0.0.0/8",
        ]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let addr = line
            .trim()
            .strip_prefix("gannet matrix on http://")
            .unwrap();
        Self {
            addr: addr.to_owned(),
            child,
        }
    }

    /// The status and the body of an answer.
    fn get(&self, path: &str, token: &str) -> (u16, String) {
        get(&self.addr, path, token)
    }

    fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn get(addr: &str, path: &str, token: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (
        head.split(' ').nth(1).unwrap().parse().unwrap(),
        body.to_owned(),
    )
}

fn event(hs: &Homeserver, n: usize) -> String {
    let id = hs.events[n].id.replace('$', "%24");
    format!(
        "/v1/event?room={}&id={id}&via={}&room_version=11",
        hs.room, hs.name
    )
}

fn value(page: &str, name: &str) -> Option<u64> {
    let line = page.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().parse().ok()
}

#[test]
fn what_callers_ask_for_together_is_asked_once() {
    let lab = Lab::new();
    let hs = Homeserver::start(&lab.ca, "hs.test", Quirk::None, None);
    let mut running = Running::start(&lab, &hs);
    hs.shut(true);
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (addr, path) = (running.addr.clone(), event(&hs, 7));
            thread::spawn(move || get(&addr, &path, TOKEN))
        })
        .collect();
    let began = Instant::now();
    while value(&running.get("/metrics", "").1, "gannet_fetch_waiters ") != Some(CALLERS as u64) {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "not all of them wait"
        );
        thread::yield_now();
    }
    hs.shut(false);
    for caller in callers {
        let (status, body) = caller.join().unwrap();
        assert_eq!(status, 200, "{body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (&answer["v"], &answer["proof"]),
            (&1.into(), &"whole".into())
        );
        assert_eq!(answer["events"][0]["event_id"], hs.events[7].id);
    }
    assert_eq!(hs.asked("/_matrix/federation/v1/event/"), 1);

    // It ends in order, with the answer that is under way.
    hs.shut(true);
    let (addr, path) = (running.addr.clone(), event(&hs, 8));
    let last = thread::spawn(move || get(&addr, &path, TOKEN));
    while value(&running.get("/metrics", "").1, "gannet_fetch_waiters ") != Some(1) {
        thread::yield_now();
    }
    running.terminate();
    hs.shut(false);
    assert_eq!(last.join().unwrap().0, 200);
    assert_eq!(running.child.wait().unwrap().code(), Some(0));
}

#[test]
fn nothing_is_given_without_the_token() {
    let lab = Lab::new();
    let hs = Homeserver::start(&lab.ca, "hs.test", Quirk::None, None);
    let running = Running::start(&lab, &hs);
    let check = |path: &str, token: &str, status: u16, says: &str| {
        let answer = running.get(path, token);
        assert_eq!(answer.0, status, "{path}: {}", answer.1);
        assert!(answer.1.contains(says), "{path}: {}", answer.1);
    };
    let path = event(&hs, 3);
    for token in ["", "a-token-of-the-tesT", "a-token-of-the-test2"] {
        check(&path, token, 401, "unauthorized");
    }
    assert_eq!(hs.asked("/"), 0);
    check(&path, TOKEN, 200, "answer");
    check("/v1/event", TOKEN, 400, "room is missing");
    check(&path.replace("/event", "/state"), TOKEN, 400, "state-ids");
    check(&format!("{path}&limit=x"), TOKEN, 400, "limit: ");
    check(
        &format!("{path}&nonsense=1"),
        TOKEN,
        400,
        "no such parameter",
    );
    check(
        &path.replace("id=%24", "id=%24not-there-"),
        TOKEN,
        404,
        "missing",
    );
    check("/elsewhere", TOKEN, 404, "/v1/event");
    check("/healthz", "", 200, "ok");

    let args = [
        "serve",
        "--listen",
        "0.0.0.0:0",
        "--token-file",
        &lab.path("token"),
    ];
    let output = gannet(&args).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    fs::write(lab.path("token"), "short").unwrap();
    let args = ["serve", "--token-file", &lab.path("token")];
    let output = gannet(&args).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn every_metric_is_documented_and_every_documented_one_is_there() {
    let lab = Lab::new();
    let hs = Homeserver::start(&lab.ca, "hs.test", Quirk::None, None);
    let running = Running::start(&lab, &hs);
    let (_, page) = running.get("/metrics", "");
    let names = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let names: BTreeSet<&str> = names
        .filter_map(|line| line.split(' ').next())
        .filter(|name| name.starts_with("gannet_matrix_"))
        .collect();
    let text = include_str!("../../../../docs/MATRIX.md");
    let documented = text
        .split('`')
        .filter(|word| word.starts_with("gannet_matrix_"));
    assert_eq!(documented.collect::<BTreeSet<_>>(), names);
}
