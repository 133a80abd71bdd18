//! dnsmasq as the name server of a service whose members come and go.

use crate::process::{Process, free_port, program};
use std::{
    fmt::Write,
    net::{IpAddr, SocketAddr, UdpSocket},
    process::Command,
    time::Duration,
};

/// A running dnsmasq, for names below `test`: it knows those that it was told, and asks nobody.
#[derive(Debug)]
pub struct Dnsmasq {
    process: Option<Process>,
    addr: SocketAddr,
}

/// What dnsmasq knows.
#[derive(Clone, Debug, Default)]
pub struct Zone {
    config: String,
}

impl Zone {
    /// A zone without names.
    pub fn new() -> Self {
        Self::default()
    }

    /// A name has this address too.
    #[must_use]
    pub fn host(mut self, name: &str, ip: IpAddr) -> Self {
        writeln!(self.config, "host-record={name},{ip}").expect("a string takes all");
        self
    }

    /// A service has this target too.
    #[must_use]
    pub fn service(mut self, service: &str, target: &str, port: u16, weight: u16) -> Self {
        let line = writeln!(self.config, "srv-host={service},{target},{port},0,{weight}");
        line.expect("a string takes all");
        self
    }

    /// A name stands for another one.
    #[must_use]
    pub fn alias(mut self, name: &str, of: &str) -> Self {
        writeln!(self.config, "cname={name},{of}").expect("a string takes all");
        self
    }
}

impl Dnsmasq {
    /// Serves a zone, on a loopback port over UDP and TCP.
    pub fn start(zone: &Zone) -> Self {
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
        Self {
            process: Some(Self::launch(zone, addr)),
            addr,
        }
    }

    /// Serves another zone from now on, at the same place; for a moment nobody answers there.
    pub fn serve(&mut self, zone: &Zone) {
        // The old one has to be gone before its port can be had.
        drop(self.process.take());
        self.process = Some(Self::launch(zone, self.addr));
    }

    /// Stops it: questions go unanswered, until [`serve`](Self::serve).
    pub fn stop(&mut self) {
        drop(self.process.take());
    }

    fn launch(zone: &Zone, addr: SocketAddr) -> Process {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = format!(
            "port={}\nlisten-address={}\nbind-interfaces\nno-resolv\nno-hosts\nno-poll\n\
             local=/test/\nlocal-ttl=3600\nkeep-in-foreground\nlog-facility=-\n{}{}",
            addr.port(),
            addr.ip(),
            // Servers of root's give their rights up, and could not read their own files then.
            if rustix::process::geteuid().is_root() {
                "user=root\n"
            } else {
                ""
            },
            zone.config
        );
        let path = dir.path().join("dnsmasq.conf");
        std::fs::write(&path, config).expect("a configuration file");
        let mut process = Process::spawn(
            "dnsmasq",
            Command::new(program("dnsmasq"))
                .arg(format!("--conf-file={}", path.display()))
                .arg("--pid-file"),
        );
        process.keep(dir);
        process.until(&format!("answer from {addr}"), |_| {
            answers(addr).then_some(())
        });
        process
    }

    /// Where it is asked.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// Whether a name server answers a question about `test`.
fn answers(addr: SocketAddr) -> bool {
    let question = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x04test\0\0\x01\0\x01";
    let ask = || {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(addr)?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        socket.send(question)?;
        socket.recv(&mut [0; 512])
    };
    ask().is_ok_and(|len| len >= 12)
}
