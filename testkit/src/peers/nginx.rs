//! nginx as an origin of static files, and as a cache (a peer of benchmarks).

use crate::process::{Process, free_port, program};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

/// A running nginx.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    url: String,
}

/// How nginx caches.
#[derive(Clone, Debug)]
pub struct NginxCache {
    /// What it caches.
    pub origin: SocketAddr,
    /// Bytes of a slice; whole objects if `None`.
    pub slice_bytes: Option<u64>,
    /// Whether hits go out through `sendfile`.
    pub sendfile: bool,
    /// Where the cache lies; beside the configuration if `None`.
    pub dir: Option<PathBuf>,
}

impl Nginx {
    /// Serves the files of a directory.
    pub fn files(root: &Path) -> Self {
        let location = format!("location / {{ root {}; }}", root.display());
        Self::launch("", &location, true, Some(root))
    }

    /// Caches what an origin serves: `proxy_cache_lock` on, its timeouts left as they come, an hour of
    /// freshness.
    pub fn cache(options: &NginxCache) -> Self {
        let slice = match options.slice_bytes {
            Some(bytes) => format!(
                "slice {bytes}; proxy_set_header Range $slice_range;\n\
                 proxy_cache_key $uri$is_args$args$slice_range;"
            ),
            None => "proxy_cache_key $uri$is_args$args;".into(),
        };
        let dir = options
            .dir
            .as_ref()
            .map_or_else(|| "cache".into(), |dir| dir.display().to_string());
        let http = format!(
            "proxy_cache_path {dir} levels=1:2 keys_zone=c:32m max_size=64g inactive=1h use_temp_path=off;\n\
             upstream origin {{ server {}; keepalive 64; }}",
            options.origin
        );
        let location = format!(
            "location / {{ proxy_pass http://origin; proxy_http_version 1.1;\n\
             proxy_set_header Connection \"\"; proxy_cache c; proxy_cache_lock on;\n\
             proxy_cache_valid 200 206 1h; {slice} }}"
        );
        Self::launch(&http, &location, options.sendfile, None)
    }

    fn launch(http: &str, location: &str, sendfile: bool, readable: Option<&Path>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let port = free_port();
        // Workers of a root master would be `nobody`, who may not read a test's files.
        let user = if rustix::process::geteuid().is_root() {
            "user root;"
        } else {
            ""
        };
        let sendfile = if sendfile { "on" } else { "off" };
        let config = format!(
            "{user} daemon off; worker_processes auto; pid nginx.pid; error_log stderr warn;\n\
             worker_rlimit_nofile 16384;\n\
             events {{ worker_connections 8192; }}\n\
             http {{\n\
             access_log off; sendfile {sendfile}; tcp_nopush on; keepalive_requests 10000000;\n\
             default_type application/octet-stream;\n\
             client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3;\n\
             uwsgi_temp_path t4; scgi_temp_path t5;\n\
             {http}\n\
             server {{ listen 127.0.0.1:{port} backlog=4096; {location} }}\n\
             }}\n"
        );
        let path = dir.path().join("nginx.conf");
        std::fs::write(&path, config).expect("a configuration file");
        if let Some(root) = readable {
            assert!(root.is_dir(), "{} is not a directory", root.display());
        }
        let mut process = Process::spawn(
            "nginx",
            Command::new(program("nginx"))
                .arg("-p")
                .arg(dir.path())
                .arg("-c")
                .arg(&path)
                .args(["-e", "stderr"]),
        );
        process.until_listening(SocketAddr::from(([127, 0, 0, 1], port)));
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

    /// Master and workers.
    pub fn process(&self) -> &Process {
        &self.process
    }
}
