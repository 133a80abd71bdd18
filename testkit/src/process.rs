//! Child processes that cannot outlive the test that started them.
//!
//! Each is the leader of a process group of its own. Dropping the handle kills the group; should the
//! test die without dropping anything (abort, SIGKILL), a watchdog that holds the read end of a pipe
//! sees the pipe close and kills the group. Output goes to a file, quoted when something goes wrong.

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::{
    fs::File,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

/// How long a server may take to come up: generous, for tests run side by side on few cores.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at a process.
const LOOK: Duration = Duration::from_millis(10);

/// A running child process; killed, with its whole group, when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    watchdog: Child,
    dir: tempfile::TempDir,
    kept: Vec<tempfile::TempDir>,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts a command in a process group of its own, without input, its output in a file.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn spawn(name: &str, command: &mut Command) -> Self {
        use std::os::unix::process::CommandExt;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let log = File::create(dir.path().join("log")).expect("a log file");
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}: {command:?}"));
        // `read` returns when the pipe closes: with this process, however it ends.
        let watchdog = Command::new("sh")
            .args([
                "-c",
                "read _; kill -s KILL -- -\"$1\"",
                "sh",
                &child.id().to_string(),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("a shell can be started");
        Self {
            name: name.into(),
            child,
            watchdog,
            dir,
            kept: Vec::new(),
            ended: None,
        }
    }

    /// Its process id, which is that of its group too.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Keeps a directory of its files until it has ended.
    pub fn keep(&mut self, dir: tempfile::TempDir) {
        self.kept.push(dir);
    }

    /// What it has written to standard output and standard error so far.
    pub fn log(&self) -> String {
        let mut log = Vec::new();
        if let Ok(mut file) = File::open(self.dir.path().join("log")) {
            // What cannot be read is missing from a diagnostic, no more.
            let _ = file.read_to_end(&mut log);
        }
        String::from_utf8_lossy(&log).into_owned()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// `kill -9`, to the whole group; returns when the leader is gone.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            // It may have ended by itself just now.
            let _ = kill_process_group(self.rustix_pid(), Signal::KILL);
            self.ended = self.child.wait().ok();
        }
    }

    /// Sends a signal to the leader alone.
    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(self.rustix_pid(), signal);
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    ///
    /// If it does not within `patience`; its log is quoted.
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(
                begun.elapsed() < patience,
                "{} did not end within {patience:?}; its log:\n{}",
                self.name,
                self.log()
            );
            std::thread::sleep(LOOK);
        }
    }

    /// SIGTERM, then [`wait`](Self::wait).
    pub fn terminate(&mut self, patience: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(patience)
    }

    /// Waits until `look` finds something.
    ///
    /// # Panics
    ///
    /// If the process ends before, or nothing is found within a minute; its log is quoted.
    pub fn until<T>(&mut self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            if let Some(status) = self.ended() {
                panic!(
                    "{} ended ({status}) before {what}:\n{}",
                    self.name,
                    self.log()
                );
            }
            assert!(
                begun.elapsed() < START_PATIENCE,
                "{}: no {what} within {START_PATIENCE:?}; its log:\n{}",
                self.name,
                self.log()
            );
            std::thread::sleep(LOOK);
        }
    }

    /// Waits until something accepts connections there.
    pub fn until_listening(&mut self, addr: SocketAddr) {
        self.until(&format!("listener on {addr}"), |_| {
            TcpStream::connect(addr).ok()
        });
    }

    /// Waits until GET of this `http://` URL is answered with a status below 500.
    pub fn until_http(&mut self, url: &str) {
        self.until(&format!("answer from {url}"), |_| {
            http_status(url).filter(|status| *status < 500)
        });
    }

    /// User and system time of all processes of the group that are alive, and of those that they have
    /// waited for; in steps of 10 ms.
    pub fn cpu(&self) -> Duration {
        // Linux reports these in USER_HZ, which is 100 on every architecture that we run on.
        let ticks: u64 = self.stats().iter().flat_map(|stat| &stat[11..15]).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Resident bytes of all processes of the group; pages shared between them count once for each.
    pub fn resident(&self) -> u64 {
        self.stats().iter().map(|stat| stat[21]).sum::<u64>() * rustix::param::page_size() as u64
    }

    /// The most resident bytes that the leader ever had.
    pub fn resident_max(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or(0) << 10
    }

    /// `/proc/PID/stat` of each process of the group: the numbers after the name, state as 0.
    fn stats(&self) -> Vec<Vec<u64>> {
        let group = u64::from(self.pid());
        let Ok(processes) = std::fs::read_dir("/proc") else {
            return Vec::new();
        };
        processes
            .flatten()
            .filter_map(|process| {
                let stat = std::fs::read_to_string(process.path().join("stat")).ok()?;
                let (_, numbers) = stat.rsplit_once(") ")?;
                let numbers = numbers.split_whitespace().map(|n| n.parse().unwrap_or(0));
                Some(numbers.collect::<Vec<u64>>())
            })
            .filter(|stat| stat.len() > 22 && stat[2] == group)
            .collect()
    }

    fn rustix_pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Captured by the test harness, and shown with the failure.
            eprintln!("--- log of {}:\n{}", self.name, tail(&self.log(), 4000));
        }
        // The leader may be gone and have left children.
        let _ = kill_process_group(self.rustix_pid(), Signal::KILL);
        self.kill();
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
    }
}

fn tail(text: &str, bytes: usize) -> &str {
    let mut at = text.len().saturating_sub(bytes);
    while !text.is_char_boundary(at) {
        at += 1;
    }
    &text[at..]
}

fn http_status(url: &str) -> Option<u16> {
    let (authority, target) = crate::client::split(url);
    let mut stream = TcpStream::connect(authority).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let request =
        format!("GET {target} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).ok()?;
    std::str::from_utf8(&head)
        .ok()?
        .strip_prefix("HTTP/1.")?
        .get(2..5)?
        .parse()
        .ok()
}

/// A loopback port that is free now, for servers that cannot be given port 0 and asked afterwards.
///
/// From below the range that the kernel hands out to outgoing connections, beginning at a place that
/// depends on the process: so nobody takes it before the server does, save by a rare accident.
pub fn free_port() -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 22_000;
    let start = (u64::from(std::process::id()) * 97 % u64::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let step = TAKEN.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (start.wrapping_add(step)) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}

/// Where a program is: in the `PATH` or where Debian puts servers.
///
/// # Panics
///
/// If it is nowhere, naming what installs it.
pub fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    dirs.map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed: run testkit/install.sh"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alive(pid: u32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    }

    fn until(mut what: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !what() {
            assert!(begun.elapsed() < START_PATIENCE);
            std::thread::yield_now();
        }
    }

    /// A shell with a child of its own, whose pid it prints.
    fn family() -> (Process, u32) {
        let script = "sleep 1000 & echo $!; wait";
        let mut process = Process::spawn("family", Command::new("sh").args(["-c", script]));
        let child = process.until("pid", |process| process.log().trim().parse().ok());
        (process, child)
    }

    #[test]
    fn dropping_kills_the_whole_group() {
        let (process, child) = family();
        let leader = process.pid();
        assert!(alive(leader) && alive(child));
        drop(process);
        until(|| !alive(leader) && !alive(child));
    }

    #[test]
    fn the_watchdog_kills_when_nobody_drops() {
        let (mut process, child) = family();
        // As if this process had died: its end of the pipe closes.
        drop(process.watchdog.stdin.take());
        until(|| process.ended().is_some());
        until(|| !alive(child));
    }

    #[test]
    fn tells_how_it_ended() {
        let mut process = Process::spawn("sh", Command::new("sh").args(["-c", "echo hi; exit 3"]));
        assert_eq!(process.wait(START_PATIENCE).code(), Some(3));
        assert_eq!(process.log(), "hi\n");
        let (mut process, _) = family();
        assert_eq!(process.terminate(START_PATIENCE).code(), None);
    }

    #[test]
    fn measures() {
        let script = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo done; sleep 1000";
        let mut process = Process::spawn("busy", Command::new("sh").args(["-c", script]));
        process.until("end of work", |process| {
            process.log().contains("done").then_some(())
        });
        assert!(process.cpu() > Duration::ZERO);
        assert!(process.resident() > 100 << 10);
        assert!(process.resident_max() >= 100 << 10);
    }
}
