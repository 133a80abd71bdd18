//! Varnish as a cache in front of an origin: a peer of benchmarks.

use crate::process::{Process, free_port, program};
use std::{net::SocketAddr, process::Command};

/// A running Varnish: in memory, streaming, whole objects, an hour of freshness.
#[derive(Debug)]
pub struct Varnish {
    process: Process,
    url: String,
}

impl Varnish {
    /// Starts it, empty, with so much memory.
    pub fn start(origin: SocketAddr, memory_mib: u64) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let vcl = dir.path().join("cache.vcl");
        let program_text = format!(
            "vcl 4.1;\n\
             backend default {{ .host = \"{}\"; .port = \"{}\"; }}\n\
             sub vcl_backend_response {{ set beresp.ttl = 1h; set beresp.do_stream = true; }}\n",
            origin.ip(),
            origin.port()
        );
        std::fs::write(&vcl, program_text).expect("a VCL file");
        let port = free_port();
        let work = dir.path().join("work");
        let mut process = Process::spawn(
            "varnishd",
            Command::new(program("varnishd"))
                .args([
                    "-F",
                    "-j",
                    "none",
                    "-T",
                    "none",
                    "-a",
                    &format!("127.0.0.1:{port}"),
                ])
                .arg("-f")
                .arg(&vcl)
                .arg("-n")
                .arg(&work)
                .args(["-s", &format!("malloc,{memory_mib}M")])
                // Compiles its VCL with gcc there.
                .env("TMPDIR", dir.path()),
        );
        process.until_listening(SocketAddr::from(([127, 0, 0, 1], port)));
        // It has its program; the shared memory log stays mapped.
        process.keep(dir);
        Self {
            process,
            url: format!("http://127.0.0.1:{port}"),
        }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The processes.
    pub fn process(&self) -> &Process {
        &self.process
    }
}
