//! The command line itself: help, settings and where they come from, exit codes, pipes.

use std::{
    fs,
    io::Read as _,
    process::{Command, Output, Stdio},
};

/// The program, in an environment without settings.
fn gannet() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gannet"));
    command.env_clear().stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    gannet().args(args).output().unwrap()
}

fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn err(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

#[test]
fn help_teaches() {
    let check = |args: &[&str], says: &[&str]| {
        let output = run(args);
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
        for text in says {
            assert!(
                out(&output).contains(text),
                "{args:?} does not say {text:?}:\n{}",
                out(&output)
            );
        }
    };
    check(
        &["--help"],
        &[
            "Examples:",
            "gannet cache --origin s3://",
            "Exit codes: 0 success",
            "warm",
        ],
    );
    check(
        &["cache", "--help"],
        &[
            "--origin <URL>",
            "--chunk-size <SIZE>",
            "[default: 8MiB]",
            "[default: 127.0.0.1:9000]",
            "--origin-mirror",
            "Examples:",
        ],
    );
    check(
        &["get", "--help"],
        &["-o, --output <FILE>", "sha256sum -c", "GANNET_TOKEN"],
    );
    check(&["warm", "--help"], &["--jobs <N>", "Examples:"]);
    check(&["config", "--help"], &["--json", "--chunk-size"]);
    check(
        &["--version"],
        &[concat!("gannet ", env!("CARGO_PKG_VERSION"))],
    );
}

#[test]
fn mistakes_are_usage_errors_that_say_what_to_do() {
    let check = |args: &[&str], says: &str| {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", err(&output));
        assert!(err(&output).contains(says), "{args:?}: {}", err(&output));
        assert_eq!(out(&output), "", "results and errors are apart");
    };
    check(&["--lisen", "127.0.0.1:1"], "--listen");
    check(&["cahce"], "cache");
    check(&["cache", "--chunk-size", "8"], "the unit is missing");
    check(&["cache", "--chunk-size", "8MeB"], "8MiB");
    check(&["cache", "--listen", "0.0.0.0:0"], "--anonymous");
    check(&["cache", "--listen", "9000"], "127.0.0.1:9000");
    check(&["cache", "--auth", ""], "--auth");
    check(
        &["cache", "--config", "/nonexistent/gannet.toml"],
        "cannot read the configuration",
    );
    check(&["cache", "--log-level", "loud"], "\"loud\" is no level");
    check(&["get", "http://127.0.0.1:1/b/k"], "--output");
    check(
        &["get", "ftp://127.0.0.1/b/k", "-o", "f"],
        "only http:// and https://",
    );
    check(
        &["get", "http://127.0.0.1:1/b/k", "-o", "/"],
        "is a directory",
    );
    check(
        &["get", "http://127.0.0.1:1/b/k", "-o", "f", "--sha256", "12"],
        "64 hexadecimal",
    );
    check(
        &["get", "http://127.0.0.1:1/b/k", "-o", "-"],
        "curl http://127.0.0.1:1/b/k",
    );
    check(&["warm"], "URL");
    check(
        &["warm", "http://h/a", "nonsense"],
        "\"nonsense\" is no URL",
    );
}

#[test]
fn flag_over_environment_over_file_over_default() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gannet.toml");
    fs::write(
        &path,
        "chunk-size = \"2MiB\"\nread-ahead = 2\nhedge-after = \"2s\"\n",
    )
    .unwrap();
    let output = gannet()
        .args(["config", "--chunk-size", "4MiB"])
        .env("GANNET_CONFIG", &path)
        .env("GANNET_CHUNK_SIZE", "3MiB")
        .env("GANNET_READ_AHEAD", "3")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", err(&output));
    let line = |key: &str| {
        let line = out(&output).lines().find(|line| line.starts_with(key));
        line.unwrap_or_default()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(line("chunk-size"), "chunk-size = \"4MiB\" # flag");
    assert_eq!(line("read-ahead"), "read-ahead = 3 # environment");
    assert_eq!(
        line("hedge-after"),
        format!("hedge-after = \"2s\" # file {}", path.display())
    );
    assert_eq!(line("log-level"), "log-level = \"info\" # default");
}

#[test]
fn config_is_valid_input_and_says_what_is_wrong_after_printing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gannet.toml");
    let first = run(&[
        "config",
        "--origin",
        "file:///usr/share",
        "--origin-mirror",
        "http://m/",
    ]);
    fs::write(&path, &first.stdout).unwrap();
    let again = run(&["config", "--config", path.to_str().unwrap()]);
    assert!(again.status.success(), "{}", err(&again));
    let values = |output: &Output| -> Vec<String> {
        let lines = out(output).lines();
        lines
            .map(|line| line.split("  #").next().unwrap_or_default().to_owned())
            .collect()
    };
    assert_eq!(values(&first), values(&again));

    let wrong = run(&["config", "--listen", "0.0.0.0:9000"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(out(&wrong).contains("listen = \"0.0.0.0:9000\""));
    assert!(err(&wrong).contains("--auth FILE"));
}

#[test]
fn config_as_json_keeps_to_its_schema() {
    let output = run(&[
        "config",
        "--json",
        "--origin-mirror",
        "http://m/",
        "--anonymous",
    ]);
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["v"], 1);
    let settings = value["settings"].as_object().unwrap();
    assert!(settings.len() >= 20);
    for (name, setting) in settings {
        let keys: Vec<&String> = setting.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["by", "value"], "{name}");
        assert!(setting["by"].is_string(), "{name}");
    }
    assert_eq!(
        settings["origin-mirror"]["value"],
        serde_json::json!(["http://m/"])
    );
    assert_eq!(
        settings["anonymous"],
        serde_json::json!({ "value": true, "by": "flag" })
    );
}

#[test]
fn unknown_variables_are_refused_and_those_of_kubernetes_passed_over() {
    let output = gannet()
        .arg("config")
        .env("GANNET_LISEN", "x")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("GANNET_LISTEN"), "{}", err(&output));
    let output = gannet()
        .arg("config")
        .env("GANNET_SERVICE_HOST", "10.0.0.1")
        .env("GANNET_PORT_9000_TCP", "tcp://10.0.0.1:9000")
        .env("GANNET_TOKEN", "t")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", err(&output));
}

#[test]
fn a_reader_that_goes_away_is_success() {
    // The read end is closed before the program writes its first byte.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = gannet()
        .arg("config")
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut error = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut error)
        .unwrap();
    assert_eq!(
        (child.wait().unwrap().code(), error.as_str()),
        (Some(0), "")
    );
}

#[test]
fn nobody_listening_is_a_failure_with_a_cause() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("f");
    // Port 1 is nobody's on loopback: binding it takes root and a reason.
    let url = "http://127.0.0.1:1/b/k";
    let output = run(&["get", url, "-o", target.to_str().unwrap(), "--tries", "1"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(err(&output).contains("refused"), "{}", err(&output));
    assert!(!target.exists());
}
