//! HAProxy as the balancer in front of servers that come and go.

use crate::{
    client::get,
    process::{Process, free_port, program},
};
use std::{fmt::Write, net::SocketAddr, process::Command};

/// One server behind the balancer, on loopback.
#[derive(Clone, Copy, Debug)]
pub struct Backend {
    /// Where it serves.
    pub port: u16,
    /// Where it is asked whether it should be sent requests.
    pub check_port: u16,
}

/// A running HAProxy, as its manual has it for HTTP: requests in turns, servers looked at every 100 ms,
/// a connection that is refused tried elsewhere.
#[derive(Debug)]
pub struct Haproxy {
    process: Process,
    url: String,
    stats: String,
}

impl Haproxy {
    /// Balances these, each of which is up while its check port answers this path well. All are
    /// taken to be up at first.
    pub fn start(backends: &[Backend], check: &str) -> Self {
        let (port, stats) = (free_port(), free_port());
        let mut config = format!(
            "defaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n timeout check 30s\n \
             retries 3\n option redispatch 1\n\
             listen servers\n bind 127.0.0.1:{port}\n balance roundrobin\n option httpchk GET {check}\n"
        );
        for (n, backend) in backends.iter().enumerate() {
            let Backend { port, check_port } = backend;
            let line = writeln!(
                config,
                " server s{n} 127.0.0.1:{port} check port {check_port} inter 100ms fall 1 rise 1"
            );
            line.expect("a string takes all");
        }
        Self::run(config, port, stats)
    }

    /// Lets one request at a time through to one server, for servers that do two badly at once.
    pub fn queue(server: SocketAddr) -> Self {
        let (port, stats) = (free_port(), free_port());
        let config = format!(
            "defaults\n mode http\n timeout connect 5s\n timeout client 300s\n timeout server 300s\n \
             timeout queue 300s\n option http-server-close\n\
             listen servers\n bind 127.0.0.1:{port}\n server s0 {server} maxconn 1\n"
        );
        Self::run(config, port, stats)
    }

    fn run(mut config: String, port: u16, stats: u16) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let line = writeln!(
            config,
            "listen stats\n bind 127.0.0.1:{stats}\n stats enable\n stats uri /stats"
        );
        line.expect("a string takes all");
        let path = dir.path().join("haproxy.cfg");
        std::fs::write(&path, config).expect("a configuration file");
        let mut command = Command::new(program("haproxy"));
        command.args(["-db", "-f"]).arg(&path);
        let mut process = Process::spawn("haproxy", &mut command);
        process.until_listening(SocketAddr::from(([127, 0, 0, 1], port)));
        process.keep(dir);
        Self {
            process,
            url: format!("http://127.0.0.1:{port}"),
            stats: format!("http://127.0.0.1:{stats}/stats;csv"),
        }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Whether it sends requests to this one.
    pub async fn is_up(&self, n: usize) -> bool {
        let answer = get(&self.stats, &[]).await.expect("its statistics");
        let row = format!("servers,s{n},");
        let text = answer.text();
        let row = text.lines().find(|line| line.starts_with(&row));
        row.is_some_and(|row| row.contains(",UP,"))
    }
}
