//! A running `gannet`, and directories to put it in front of.

use gannet_testkit::{content, process::Process};
use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

/// For ends that come by themselves; generous, as tests run side by side on few cores.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The program, without the settings of whoever runs the tests.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gannet"));
    command.env_clear().stdin(Stdio::null());
    command
}

/// Runs it to its end.
pub(crate) fn run(args: &[&str]) -> Output {
    program().args(args).output().expect("the binary was built")
}

/// A cache that serves; killed when dropped.
pub(crate) struct Gannet {
    pub(crate) process: Process,
    /// `http://127.0.0.1:PORT`.
    pub(crate) edge: String,
    pub(crate) ops: String,
}

impl Gannet {
    /// Starts `gannet cache` on free ports with its data in `data`.
    pub(crate) fn start(data: &Path, args: &[&str]) -> Self {
        Self::spawn(program().arg("cache").args(args).arg("--data").arg(data))
    }

    /// Starts this command, on free ports unless it says on which, and waits until it says where it
    /// listens.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        for flag in ["--listen", "--ops-listen"] {
            let says = |arg: &OsStr| arg.to_string_lossy().starts_with(&format!("{flag}="));
            if !command.get_args().any(says) {
                command.arg(format!("{flag}=127.0.0.1:0"));
            }
        }
        let mut process = Process::spawn("gannet", command);
        let address = |log: &str, name: &str| {
            let line = log
                .lines()
                .find(|line| line.trim_start().starts_with(name))?;
            Some(line.split_whitespace().nth(1)?.to_owned())
        };
        let (edge, ops) = process.until("addresses", |process| {
            let log = process.log();
            // The last line of the greeting is whole: so are those before it.
            log.lines()
                .find(|line| line.starts_with("  try") || line.starts_with("  note"))?;
            Some((address(&log, "S3 ")?, address(&log, "ops ")?))
        });
        Self { process, edge, ops }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.edge)
    }

    /// The value of a metric without labels, or the sum over its labels.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = gannet_testkit::client::get(&format!("{}/metrics", self.ops), &[]).await;
        let text = text.expect("the ops listener answers").text();
        let samples = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let value = rest.rsplit_once(' ')?.1.parse::<f64>().ok()?;
            (rest.starts_with(' ') || rest.starts_with('{')).then_some(value)
        });
        samples.sum()
    }
}

/// A directory to serve: `models` with objects of all sizes and awkward names, and `data`.
pub(crate) struct Tree {
    directory: tempfile::TempDir,
    /// Path under the root, and content.
    pub(crate) files: Vec<(String, Vec<u8>)>,
}

impl Tree {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let names = [
            ("models/empty", 0),
            ("models/one", 1),
            ("models/deep/er/weights.bin", 3 << 20),
            ("models/with space+plus.bin", 70_000),
            ("models/ünïcödé/文件", 4_096),
            ("models/percent%20literal", 100),
            ("models/~tilde!'()*&=@$;,", 100),
            ("data/a.txt", 10),
            ("data/b.txt", 20),
        ];
        let files = names.into_iter().enumerate().map(|(seed, (name, len))| {
            let bytes = content::bytes(seed as u64, 0, 0, len).to_vec();
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().expect("it has one")).expect("a directory");
            fs::write(&path, &bytes).expect("a file");
            (name.to_owned(), bytes)
        });
        let files = files.collect();
        Self { directory, files }
    }

    pub(crate) fn url(&self) -> String {
        format!("file://{}", self.directory.path().display())
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().to_path_buf()
    }
}
