//! `gannet matrix`, against homeservers on loopback that sign what they say.

mod homeserver;
mod serve;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use gannet_testkit::tls::Ca;
use homeserver::{Homeserver, Quirk, SEED, redacted};
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How long anything is waited for that comes in no time on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn err(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}\n{}", out(output), err(output)))
}

fn gannet(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gannet"));
    command.env_clear().stdin(Stdio::null());
    command.arg("matrix").args(args);
    command
}

/// A certificate authority, and a directory with its certificate and a signing key.
struct Lab {
    ca: Ca,
    dir: TempDir,
}

impl Lab {
    fn new() -> Self {
        let (ca, dir) = (Ca::new(), tempfile::tempdir().unwrap());
        fs::write(dir.path().join("ca.pem"), ca.pem()).unwrap();
        let key = dir.path().join("key");
        fs::write(
            &key,
            format!("ed25519 a_mine {}\n", STANDARD_NO_PAD.encode(SEED)),
        )
        .unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        Self { ca, dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Runs it with what leads to these servers, by name, and nowhere else.
    fn run(&self, servers: &[&Homeserver], args: &[&str]) -> Output {
        self.leading_to(servers, args).output().unwrap()
    }

    fn leading_to(&self, servers: &[&Homeserver], args: &[&str]) -> Command {
        let mut command = gannet(args);
        command.args(["--ca", &self.path("ca.pem"), "--name-server", "127.0.0.1:1"]);
        command.args(["--allow-private", "127.0.0.0/8"]);
        for server in servers {
            command.args(["--resolve", &format!("{}:127.0.0.1", server.name)]);
        }
        command
    }

    /// The same in the name of a homeserver, about the room of the first server.
    fn ask(&self, servers: &[&Homeserver], args: &[&str]) -> Output {
        self.ask_of(servers, servers, args)
    }

    /// The same of some of the servers that are there.
    fn ask_of(&self, servers: &[&Homeserver], of: &[&Homeserver], args: &[&str]) -> Output {
        self.command(servers, of, args).output().unwrap()
    }

    fn command(&self, servers: &[&Homeserver], of: &[&Homeserver], args: &[&str]) -> Command {
        let via: Vec<&str> = of.iter().map(|server| server.name.as_str()).collect();
        let (key, via) = (self.path("key"), via.join(","));
        let mut all = args.to_vec();
        all.extend(["--server-name", "me.test", "--signing-key", &key]);
        all.extend(["--room", &servers[0].room, "--via", &via]);
        self.leading_to(servers, &all)
    }
}

#[test]
fn mistakes_are_usage_errors_that_say_what_to_do() {
    let lab = Lab::new();
    let key = lab.path("key");
    let check = |args: &[&str], says: &str| {
        let output = gannet(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", err(&output));
        assert!(err(&output).contains(says), "{args:?}: {}", err(&output));
        assert_eq!(out(&output), "", "results and errors are apart");
    };
    check(&["event"], "<ID>");
    check(&["event", "abc"], "in quotes");
    check(&["event", "$abc"], "--room '!abc:example.org'");
    check(&["event", "$abc", "--room", "#a:b"], "an alias is none");
    check(
        &["event", "$abc", "--room", "!a:b"],
        "--server-name NAME --signing-key FILE",
    );
    check(
        &["event", "$abc", "--room", "!a:b", "--room-version", "13"],
        "1 to 12",
    );
    check(&["event", "$abc", "--via", "a/b"], "example.org:8448");
    check(&["event", "$abc", "--fanout", "wide"], "fixed:N");
    check(
        &["event", "$abc", "--allow-private", "10.0.0.1/8"],
        "10.0.0.0/8",
    );
    check(&["event", "$abc", "--resolve", "a"], "HOST:PORT:ADDRESS");
    check(&["event", "$abc", "--timeout", "5"], "the unit is missing");
    check(&["backfill", "$abc", "--limit", "1000"], "100");
    check(&["at", "yesterday"], "2026-01-31T12:00:00Z");
    check(&["missing", "--earliest", "$a"], "--latest");
    check(
        &["fill", "--from", "$a", "--events", "1", "--since", "0"],
        "--since",
    );
    check(&["verify"], "<FILE>");
    check(&["verify", "/nonexistent"], "/nonexistent");
    let ours = [
        "event",
        "$abc",
        "--room",
        "!a:b",
        "--server-name",
        "me.test",
        "--signing-key",
    ];
    let with = |more: &[&'static str]| [&ours[..], more].concat();
    check(&with(&["/nonexistent"]), "--signing-key /nonexistent");
    fs::write(lab.path("bad"), "curve25519 a secret-secret\n").unwrap();
    let bad = lab.path("bad");
    let output = gannet(&[&ours[..], &[&bad]].concat()).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", err(&output));
    assert!(
        err(&output).contains("an algorithm other than ed25519"),
        "{}",
        err(&output)
    );
    assert!(!err(&output).contains("secret-secret"), "{}", err(&output));
    // Nobody can be asked about a room of version 12 by its id.
    let args = [
        "event",
        "$abc",
        "--room",
        "!hash",
        "--server-name",
        "me.test",
        "--signing-key",
        &key,
    ];
    check(&args, "--via SERVER");
}

#[test]
fn help_teaches() {
    for args in [
        &["--help"][..],
        &["event", "--help"],
        &["fill", "--help"],
        &["verify", "--help"],
        &["resolve", "--help"],
    ] {
        let output = gannet(args).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(
            out(&output).contains("Example"),
            "{args:?}: {}",
            out(&output)
        );
        assert!(out(&output).contains("--allow-private <CIDR>"));
    }
}

#[test]
fn a_server_is_found_and_asked_for_its_keys() {
    let lab = Lab::new();
    let hs = Homeserver::start(&lab.ca, "hs.test", Quirk::None, None);
    let output = lab.run(&[&hs], &["resolve", &hs.name]);
    assert!(output.status.success(), "{}", err(&output));
    let says = out(&output);
    assert!(says.contains("found by rule 2 "), "{says}");
    assert!(
        says.contains(&format!("address      {}", hs.addr)),
        "{says}"
    );
    let found = json(&lab.run(&[&hs], &["resolve", &hs.name, "--json"]));
    assert_eq!(found["addresses"][0], hs.addr.to_string());
    assert_eq!(found["certificate"], "hs.test");
    assert!(!found["steps"].as_array().unwrap().is_empty());

    // What is not of the public Internet has to be allowed.
    let given = format!("{}:127.0.0.1", hs.name);
    let output = gannet(&["resolve", &hs.name, "--resolve", &given])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", err(&output));
    assert!(
        err(&output).contains("--allow-private 127.0.0.1"),
        "{}",
        err(&output)
    );

    let output = lab.run(&[&hs], &["keys", &hs.name]);
    assert!(output.status.success(), "{}", err(&output));
    assert!(
        out(&output).starts_with("ed25519:test  "),
        "{}",
        out(&output)
    );
    assert!(
        err(&output).contains("from the server itself"),
        "{}",
        err(&output)
    );
    let keys = json(&lab.run(&[&hs], &["keys", &hs.name, "--json"]));
    assert_eq!(keys["documents"][0]["from"], "server");
    let output = lab.run(&[], &["keys", "127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1), "{}", err(&output));
    assert!(
        err(&output).contains("gannet matrix resolve 127.0.0.1:1"),
        "{}",
        err(&output)
    );
}

#[test]
fn the_honest_answer_is_given_and_the_liar_named() {
    let lab = Lab::new();
    let hs = Homeserver::start(&lab.ca, "hs.test", Quirk::None, None);
    let empty = Homeserver::start(&lab.ca, "empty.test", Quirk::Empty, Some(&hs));
    let liar = Homeserver::start(&lab.ca, "liar.test", Quirk::Forges, Some(&hs));
    let wanted = &hs.events[5];
    let mut command = lab.run(
        &[&hs, &empty, &liar],
        &[
            "event",
            &wanted.id,
            "--room",
            &hs.room,
            "--server-name",
            "me.test",
            "--signing-key",
            &lab.path("key"),
            "--via",
            &format!("{},{},{}", empty.name, liar.name, hs.name),
        ],
    );
    assert!(command.status.success(), "{}", err(&command));
    let answer = json(&command);
    assert_eq!(answer["pdus"][0].to_string().len(), wanted.raw.len());
    for says in [
        format!("{}: missing after", empty.name),
        format!("{}: bad after", liar.name),
        format!("{}: answered after", hs.name),
        "room version 11".to_owned(),
        "1 event whole: ids, content and signatures are right".to_owned(),
    ] {
        assert!(err(&command).contains(&says), "{says}: {}", err(&command));
    }
    assert!(!err(&command).contains('\u{1b}'), "{:?}", err(&command));

    // Only those that do not have it; and only one that lies.
    command = lab.ask(&[&empty], &["event", &wanted.id, "--room-version", "11"]);
    assert_eq!(command.status.code(), Some(1), "{}", err(&command));
    assert!(
        err(&command).contains("no server that was asked has it"),
        "{}",
        err(&command)
    );
    assert!(err(&command).contains("try: --via"), "{}", err(&command));
    let args = ["event", &wanted.id, "--room-version", "11", "--json"];
    command = lab.ask_of(&[&liar, &hs], &[&liar], &args);
    assert_eq!(command.status.code(), Some(1), "{}", err(&command));
    assert_eq!(json(&command)["error"], "unverified");
    assert_eq!(
        json(&command)["attempts"][0]["how"],
        "bad",
        "{}",
        out(&command)
    );
    // Without the keys of who signed nothing is proved, and nobody blamed.
    command = lab.ask(&[&liar], &args);
    assert_eq!(json(&command)["attempts"][0]["how"], "unproven");

    let whole = json(&lab.ask(&[&hs], &["event", &wanted.id, "--json"]));
    assert_eq!(
        (&whole["proof"], &whole["room_version"], &whole["server"]),
        (&"whole".into(), &"11".into(), &hs.name.as_str().into())
    );
    assert_eq!(whole["events"][0]["event_id"], wanted.id);
}

#[test]
fn every_op_is_answered() {
    let lab = Lab::new();
    let hs = Homeserver::start(&lab.ca, "hs.test", Quirk::None, None);
    let id = hs.events[20].id.as_str();
    let check = |args: &[&str], field: &str, count: usize| {
        let output = lab.ask(&[&hs], args);
        assert!(output.status.success(), "{args:?}: {}", err(&output));
        let answer = json(&output);
        let list = answer[field].as_array();
        assert_eq!(list.map(Vec::len), Some(count), "{args:?}: {answer}");
    };
    check(&["auth-event", id], "pdus", 1);
    check(&["auth-chain", id], "auth_chain", 1);
    check(&["state-ids", id], "pdu_ids", 1);
    check(&["backfill", id, "--limit", "10"], "pdus", 10);
    let earliest = hs.events[12].id.as_str();
    check(
        &["missing", "--latest", id, "--earliest", earliest],
        "events",
        7,
    );
    let output = lab.ask(&[&hs], &["at", "2023-11-14T22:13:21Z", "--backward"]);
    assert_eq!(
        json(&output)["event_id"],
        hs.events[1].id,
        "{}",
        err(&output)
    );
    assert!(err(&output).contains("not proved"), "{}", err(&output));
}

#[test]
fn a_gap_is_filled_and_the_file_verified() {
    let lab = Lab::new();
    let hs = Homeserver::start(&lab.ca, "hs.test", Quirk::None, None);
    let (file, store) = (lab.path("room.jsonl"), lab.path("store"));
    let newest = hs.events[30].id.as_str();
    let args = [
        "fill", "--from", newest, "--out", &file, "--store", &store, "--json",
    ];
    let output = lab.ask(&[&hs], &args);
    assert!(output.status.success(), "{}", err(&output));
    let end = json(&output);
    let count = |end: &Value, what: &str| end[what].as_u64().unwrap();
    assert_eq!(end["ended"], "goal", "{end}");
    assert_eq!((count(&end, "fetched"), count(&end, "held")), (31, 0));
    assert!(count(&end, "attempts") <= 6, "{end}");
    assert!(!Path::new(&lab.path("room.jsonl.part")).exists());
    let lines = fs::read_to_string(&file).unwrap();
    assert_eq!(lines.lines().count(), 31);
    let line: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&line["proof"], &line["server"]),
        (&"whole".into(), &hs.name.as_str().into())
    );

    // Again: all of it from the store, without a request.
    let before = hs.asked("/_matrix/federation/");
    let again = json(&lab.ask(&[&hs], &args));
    assert_eq!(
        (&again["fetched"], &again["held"]),
        (&0.into(), &31.into()),
        "{again}"
    );
    assert_eq!(hs.asked("/_matrix/federation/"), before);
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 31);

    let verify = |file: &str, more: &[&str]| lab.run(&[&hs], &[&["verify", file], more].concat());
    let output = verify(&file, &[]);
    assert!(output.status.success(), "{}{}", out(&output), err(&output));
    assert_eq!(out(&output).lines().count(), 31);
    assert!(
        out(&output)
            .lines()
            .all(|line| line.starts_with("whole     $")),
        "{}",
        out(&output)
    );

    // Its keys are in the store by now.
    let output = verify(&file, &["--offline", "--store", &store]);
    assert!(output.status.success(), "{}", err(&output));
    let output = verify(&file, &["--offline"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        out(&output).contains("no key of hs.test"),
        "{}",
        out(&output)
    );
}

/// What came before a fill was interrupted is in the store, and the file is not passed off as whole.
#[test]
fn an_interrupted_fill_goes_on_where_it_stopped() {
    let lab = Lab::new();
    let stuck = Homeserver::start(&lab.ca, "hs.test", Quirk::HangsOnHistory, None);
    let (file, store) = (lab.path("room.jsonl"), lab.path("store"));
    let newest = stuck.events[30].id.as_str();
    let args = ["fill", "--from", newest, "--out", &file, "--store", &store];
    let child = lab
        .command(&[&stuck], &[&stuck], &args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while stuck.asked("/_matrix/federation/v1/backfill/") == 0 {
        assert!(began.elapsed() < PATIENCE, "history was not asked for");
        thread::sleep(Duration::from_millis(5));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", err(&output));
    let says = "the same command again: what came so far is in the store";
    assert!(err(&output).contains(says), "{}", err(&output));
    assert!(!Path::new(&file).exists());

    let other = Homeserver::start(&lab.ca, "other.test", Quirk::None, Some(&stuck));
    let args = [&args[..], &["--json"]].concat();
    let output = lab.ask_of(&[&stuck, &other], &[&other], &args);
    assert!(output.status.success(), "{}", err(&output));
    let end = json(&output);
    let count = |what: &str| end[what].as_u64().unwrap();
    assert!(count("held") > 0, "{end}");
    assert_eq!(count("fetched") + count("held"), 31, "{end}");
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 31);
}

#[test]
fn what_was_tampered_with_is_named() {
    let lab = Lab::new();
    let hs = Homeserver::start(&lab.ca, "hs.test", Quirk::None, None);
    let file = lab.path("file");
    let verify = |text: String, more: &[&str]| {
        fs::write(&file, text).unwrap();
        lab.run(&[&hs], &[&["verify", file.as_str()], more].concat())
    };
    let (create, event) = (&hs.events[0].raw, &hs.events[3]);
    // A cut event passes as one, but not for a whole one.
    let cut = redacted(event);
    let both = format!("{create}\n{}", cut.raw);
    let output = verify(both.clone(), &[]);
    assert!(output.status.success(), "{}{}", out(&output), err(&output));
    assert!(
        out(&output).contains(&format!("redacted  {}", event.id)),
        "{}",
        out(&output)
    );
    let output = verify(both, &["--whole"]);
    assert_eq!(output.status.code(), Some(1), "{}", out(&output));

    // An answer, pretty-printed, in which one event has another sender.
    let forged = event.raw.replace("@alice:", "@malice:");
    let answer = format!("{{\"pdus\": [\n{create},\n{forged}\n]}}");
    let output = verify(answer.clone(), &["--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", err(&output));
    assert_eq!(json(&output)["counts"]["bad"], 1, "{}", out(&output));
    let output = verify(answer, &["--quiet"]);
    assert!(out(&output).starts_with("BAD       $"), "{}", out(&output));
    assert_eq!(out(&output).lines().count(), 1);
    assert!(out(&output).contains("does not fit"), "{}", out(&output));

    // The version is not guessed, and a line that calls an event by another name is not believed.
    let output = verify(event.raw.clone(), &[]);
    assert!(
        out(&output).contains("--room-version V"),
        "{}",
        out(&output)
    );
    let line = format!(
        "{{\"event_id\":\"$x\",\"room_version\":\"11\",\"pdu\":{}}}",
        event.raw
    );
    let output = verify(line, &[]);
    assert!(
        out(&output).contains("the file says that it is $x"),
        "{}",
        out(&output)
    );
    let output = verify("[".to_owned(), &[]);
    assert_eq!(output.status.code(), Some(1), "{}", err(&output));
}
