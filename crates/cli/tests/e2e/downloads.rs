//! `gannet get` and `gannet warm`.

use crate::harness::{Gannet, program, run};
use gannet_testkit::{
    client::get,
    origin::{Fault, Method, Object, Origin, Pace, Rule},
    process::Process,
};
use serde_json::Value;
use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn fetch(url: &str, target: &Path, more: &[&str]) -> Output {
    run(&[&["get", url, "-o", target.to_str().unwrap()], more].concat())
}

fn json(output: &Output) -> Value {
    serde_json::from_str(out(output))
        .unwrap_or_else(|e| panic!("{e}: {} {}", out(output), err(output)))
}

fn only_the_target_is_there(target: &Path) {
    let left = fs::read_dir(target.parent().unwrap()).unwrap().count();
    assert_eq!(left, usize::from(target.exists()), "parts are left over");
}

#[test]
fn get_writes_the_file_and_prints_what_sha256sum_reads() {
    let origin = Origin::start();
    let object = origin.put("b", "k", Object::generated(1, 3 << 20));
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("f");
    let output = fetch(&origin.object_url("b", "k"), &target, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(
        out(&output),
        format!("{}  {}\n", object.sha256(), target.display())
    );
    assert!(err(&output).contains("3.0 MiB"), "{}", err(&output));
    assert_eq!(fs::metadata(&target).unwrap().len(), object.size);
    only_the_target_is_there(&target);

    let sum = object.sha256();
    let output = fetch(
        &origin.object_url("b", "k"),
        &target,
        &["--json", "--sha256", &sum],
    );
    let value = json(&output);
    let keys: Vec<&str> = value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let want = [
        "bytes",
        "checked",
        "crc32c",
        "etag",
        "event",
        "file",
        "resumed_from",
        "seconds",
        "sha256",
        "url",
        "v",
    ];
    assert_eq!(keys, want);
    assert_eq!(
        (&value["v"], &value["event"]),
        (&Value::from(1), &Value::from("got"))
    );
    assert_eq!(value["sha256"], object.sha256());
    assert_eq!(value["etag"], object.etag);
    assert_eq!(value["checked"], serde_json::json!(["sha256 of --sha256"]));
}

#[test]
fn get_says_why_not() {
    let origin = Origin::start();
    origin.put("b", "k", Object::generated(1, 1000));
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("f");
    let check = |url: &str, more: &[&str], code: i32, says: &str| {
        let output = fetch(url, &target, more);
        assert_eq!(output.status.code(), Some(code), "{}", err(&output));
        assert!(err(&output).contains(says), "{}", err(&output));
        assert!(!target.exists());
    };
    check(&origin.object_url("b", "nothing"), &[], 1, "404");
    check(
        &origin.object_url("b", "k"),
        &["--sha256", &"0".repeat(64)],
        1,
        "the bytes are wrong",
    );
    origin.put(
        "b",
        "sum",
        Object::generated(1, 1000).header("x-amz-checksum-crc32c", "AAAAAA=="),
    );
    check(&origin.object_url("b", "sum"), &[], 1, "server's crc32c");
    origin.rule(Rule::new(Fault::Status {
        code: 403,
        retry_after: None,
    }));
    check(&origin.object_url("b", "k"), &[], 3, "--token");
    origin.heal();
    origin.rule(Rule::new(Fault::Status {
        code: 500,
        retry_after: None,
    }));
    check(
        &origin.object_url("b", "k"),
        &["--tries", "2"],
        3,
        "gave up after 2 tries",
    );
}

#[test]
fn get_goes_on_by_itself_where_the_answer_broke_off() {
    let origin = Origin::start();
    let object = origin.put("b", "k", Object::generated(1, 2 << 20));
    origin.rule(
        Rule::new(Fault::Reset { after: 300_000 })
            .method(Method::Get)
            .times(2),
    );
    origin.rule(
        Rule::new(Fault::Truncate { after: 400_000 })
            .method(Method::Get)
            .skip(2)
            .times(1),
    );
    origin.rule(
        Rule::new(Fault::Status {
            code: 503,
            retry_after: None,
        })
        .method(Method::Get)
        .skip(3)
        .times(1),
    );
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("f");
    let output = fetch(&origin.object_url("b", "k"), &target, &["--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert_eq!(json(&output)["sha256"], object.sha256());
    let gets: Vec<_> = origin
        .served()
        .into_iter()
        .filter(|one| one.method == Method::Get)
        .collect();
    assert_eq!(gets.len(), 5);
    for one in &gets[1..] {
        assert_eq!(one.header("if-match"), Some(object.etag.as_str()));
        assert!(one.range.start > 0);
    }
}

/// Starts a slow download and kills it when the part has grown past `bytes`.
fn killed_at(origin: &Origin, target: &Path, bytes: u64) {
    origin.pace(Pace {
        bandwidth: Some(2 << 20),
        ..Pace::default()
    });
    let url = origin.object_url("b", "k");
    let mut process = Process::spawn("get", program().args(["get", &url, "-o"]).arg(target));
    let part = target.with_file_name("f.part");
    process.until("growth of the part", |_| {
        fs::metadata(&part)
            .is_ok_and(|meta| meta.len() > bytes)
            .then_some(())
    });
    process.kill();
    origin.pace(Pace::default());
    assert!(!target.exists());
}

#[test]
fn get_takes_a_killed_download_up_again() {
    let origin = Origin::start();
    let object = origin.put("b", "k", Object::generated(1, 4 << 20));
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("f");
    killed_at(&origin, &target, 1 << 20);
    let output = fetch(&origin.object_url("b", "k"), &target, &["--json"]);
    let value = json(&output);
    let resumed_from = value["resumed_from"].as_u64().unwrap();
    assert!(resumed_from > 1 << 20, "{value}");
    assert_eq!(value["sha256"], object.sha256());
    let last = origin.served().pop().unwrap();
    assert_eq!(
        last.header("range"),
        Some(format!("bytes={resumed_from}-").as_str())
    );
    assert_eq!(last.header("if-match"), Some(object.etag.as_str()));
    only_the_target_is_there(&target);
}

#[test]
fn get_never_joins_two_versions() {
    let origin = Origin::start();
    origin.put("b", "k", Object::generated(1, 4 << 20));
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("f");
    killed_at(&origin, &target, 1 << 20);
    let new = origin.replace("b", "k").unwrap();
    let output = fetch(&origin.object_url("b", "k"), &target, &["--json"]);
    assert_eq!(json(&output)["sha256"], new.sha256(), "{}", err(&output));

    fs::remove_file(&target).unwrap();

    // A server that does not look at If-Match, and one that gives the whole for a range.
    for fault in [Fault::IgnoreIfMatch, Fault::IgnoreRange] {
        killed_at(&origin, &target, 1 << 20);
        let new = origin.replace("b", "k").unwrap();
        origin.rule(Rule::new(fault.clone()));
        let output = fetch(&origin.object_url("b", "k"), &target, &["--json"]);
        assert_eq!(
            json(&output)["sha256"],
            new.sha256(),
            "{fault:?}: {}",
            err(&output)
        );
        origin.heal();
        fs::remove_file(&target).unwrap();
    }
}

#[test]
fn get_without_an_etag_begins_anew() {
    let origin = Origin::start();
    let object = origin.put("b", "k", Object::generated(1, 4 << 20));
    origin.rule(Rule::new(Fault::NoEtag));
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("f");
    killed_at(&origin, &target, 1 << 20);
    let value = json(&fetch(&origin.object_url("b", "k"), &target, &["--json"]));
    assert_eq!(
        (&value["resumed_from"], &value["etag"]),
        (&Value::from(0), &Value::Null)
    );
    assert_eq!(value["sha256"], object.sha256());
}

#[test]
fn an_interrupted_get_says_what_is_kept() {
    let origin = Origin::start();
    origin.put("b", "k", Object::generated(1, 4 << 20));
    origin.rule(
        Rule::new(Fault::Stall {
            at: 1 << 20,
            lasting: Duration::from_secs(3600),
        })
        .method(Method::Get),
    );
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("f");
    let url = origin.object_url("b", "k");
    let mut process = Process::spawn("get", program().args(["get", &url, "-o"]).arg(&target));
    let part = directory.path().join("f.part");
    process.until("the stall", |_| {
        fs::metadata(&part)
            .is_ok_and(|meta| meta.len() == 1 << 20)
            .then_some(())
    });
    process.signal(rustix::process::Signal::INT);
    assert_eq!(process.wait(crate::harness::PATIENCE).code(), Some(130));
    assert!(
        process.log().contains("1.0 MiB are kept"),
        "{}",
        process.log()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn warm_leaves_nothing_for_the_origin_to_do() {
    let origin = Origin::start();
    let one = origin.put("b", "one", Object::generated(1, 3 << 20));
    origin.put("b", "two", Object::generated(2, 100));
    let data = tempfile::tempdir().unwrap();
    let gannet = Gannet::start(
        data.path(),
        &["--origin", &origin.url(), "--chunk-size=1MiB"],
    );
    let mut child = program()
        .args(["warm", "--json", &gannet.url("b/one"), "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let list = format!(
        "{}\n\n{}\n",
        gannet.url("b/two"),
        gannet.url("b/nothing?X-Amz-Signature=secret")
    );
    child
        .stdin
        .take()
        .unwrap()
        .write_all(list.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(1),
        "one is not there: {}",
        err(&output)
    );
    let mut lines: Vec<Value> = out(&output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let end = lines.pop().unwrap();
    assert_eq!(
        (&end["event"], &end["objects"], &end["failed"]),
        (&"end".into(), &2.into(), &1.into())
    );
    assert_eq!(end["bytes"], one.size + 100);
    lines.sort_by_key(|line| line["url"].as_str().map(str::to_owned));
    assert_eq!(
        lines
            .iter()
            .map(|l| l["event"].as_str().unwrap())
            .collect::<Vec<_>>(),
        ["failed", "warmed", "warmed"]
    );
    assert!(lines.iter().all(|line| line["v"] == 1));
    assert!(!out(&output).contains("secret"), "signatures are not shown");
    let before = origin.counts();
    let got = get(&gannet.url("b/one"), &[]).await.unwrap();
    assert_eq!(got.body.len() as u64, one.size);
    assert_eq!(origin.counts().gets, before.gets);
}

#[tokio::test(flavor = "multi_thread")]
async fn get_through_the_cache_survives_what_the_origin_does() {
    let origin = Origin::start();
    let object = origin.put("b", "k", Object::generated(1, 3 << 20));
    origin.rule(
        Rule::new(Fault::Reset { after: 200_000 })
            .method(Method::Get)
            .times(3),
    );
    let data = tempfile::tempdir().unwrap();
    let gannet = Gannet::start(
        data.path(),
        &["--origin", &origin.url(), "--chunk-size=1MiB"],
    );
    let target = data.path().join("f");
    let url = gannet.url("b/k");
    let output = tokio::task::spawn_blocking(move || fetch(&url, &target, &["--json"]))
        .await
        .unwrap();
    assert_eq!(json(&output)["sha256"], object.sha256(), "{}", err(&output));
}
