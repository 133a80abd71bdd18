//! Synapses that federate with each other, with rooms in them: `testkit/synapse/README.md` says which.

use super::installed;
use crate::peers::Zone;
use serde_json::Value;
use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

/// Running homeservers; gone with this handle, and with the process, however that ends.
#[derive(Debug)]
pub struct Synapses {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    dir: tempfile::TempDir,
    lab: Value,
}

impl Synapses {
    /// Starts them, with the options of `scripts/matrix-lab start`: `&["--rate-limits", "default"]`.
    /// The first start on a machine seeds, which takes a minute or two; others take seconds.
    ///
    /// # Panics
    ///
    /// If they cannot be started; what they said of it is quoted.
    pub fn start(options: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let errors = File::create(dir.path().join("errors")).expect("a file for errors");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("synapse/lab.py");
        // Its end of input is its end: closed below, or by the kernel when this process dies.
        let mut child = Command::new(installed("venv-synapse/bin/python"))
            .arg("-B")
            .arg(script)
            .args(["start", "--dir"])
            .arg(dir.path().join("lab"))
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .expect("Python can be started");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("a pipe, as asked for"));
        let mut synapses = Self {
            child,
            input,
            output,
            dir,
            lab: Value::Null,
        };
        let path = synapses.line();
        let told = std::fs::read(path.trim()).expect("the description of the lab");
        synapses.lab = serde_json::from_slice(&told).expect("JSON");
        synapses
    }

    /// What there is, as in `lab.json`.
    pub fn lab(&self) -> &Value {
        &self.lab
    }

    /// A server by its label: `hs1`, `hs2`, ...
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn server(&self, label: &str) -> &Value {
        self.one("servers", label)
    }

    /// A room by its label: `conversation-10`, `chain`, ...
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn room(&self, label: &str) -> &Value {
        self.one("rooms", label)
    }

    fn one(&self, list: &str, label: &str) -> &Value {
        let all = self.lab[list].as_array().expect("a list");
        let found = all.iter().find(|one| one["label"] == label);
        found.unwrap_or_else(|| panic!("the lab's {list} have no {label}"))
    }

    /// The servers' names and services, for a name server.
    pub fn zone(&self) -> Zone {
        let dns = &self.lab["dns"];
        let list = |name: &str| dns[name].as_object().expect("names").clone();
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let mut zone = Zone::new();
        for (name, address) in list("hosts") {
            zone = zone.host(&name, text(&address).parse().expect("an address"));
        }
        for (name, at) in list("services") {
            let port = at["port"].as_u64().and_then(|port| port.try_into().ok());
            zone = zone.service(&name, &text(&at["target"]), port.expect("a port"), 0);
        }
        zone
    }

    /// Stops, kills, starts, restarts, freezes or thaws a server (`kill hs2`); returns when that is
    /// done, and what the server's process is now.
    ///
    /// # Panics
    ///
    /// If it cannot be done.
    pub fn control(&mut self, line: &str) -> u32 {
        let input = self.input.as_mut().expect("open until dropped");
        writeln!(input, "{line}").expect("the lab listens");
        let told = self.line();
        let told: Value = serde_json::from_str(&told).expect("JSON");
        let pid = told["pid"].as_u64().and_then(|pid| pid.try_into().ok());
        pid.unwrap_or_else(|| panic!("{line}: {told}"))
    }

    /// The next line that the lab prints.
    fn line(&mut self) -> String {
        let mut line = String::new();
        let read = self.output.read_line(&mut line).expect("a pipe");
        let errors = || std::fs::read_to_string(self.dir.path().join("errors")).unwrap_or_default();
        assert!(read > 0, "the lab has ended:\n{}", errors());
        line
    }
}

impl Drop for Synapses {
    fn drop(&mut self) {
        drop(self.input.take());
        // It kills the servers, and ends.
        let _ = self.child.wait();
    }
}
