//! Garage: a distributed object store in earnest.

use super::place;
use crate::process::{Process, free_port};
use std::process::Command;

/// What it is called, below the directory where servers are installed.
const PROGRAM: &str = "garage/bin/garage";

/// One node of Garage with one bucket. It checks signatures: [`ACCESS_KEY`](Self::ACCESS_KEY) and
/// [`SECRET_KEY`](Self::SECRET_KEY) may do everything in the bucket.
#[derive(Debug)]
pub struct Garage {
    _process: Process,
    url: String,
}

impl Garage {
    /// Known to every one that is started here.
    pub const ACCESS_KEY: &str = "GK0123456789abcdef01234567";
    /// The same.
    pub const SECRET_KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    /// Whether it has been built: it takes too long to be built for every run of the tests.
    pub fn is_installed() -> bool {
        place(PROGRAM).is_file()
    }

    /// Starts it, with an empty bucket of this name.
    pub fn start(bucket: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (s3, rpc) = (free_port(), free_port());
        let at = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "metadata_dir = {:?}\ndata_dir = {:?}\ndb_engine = \"sqlite\"\nreplication_factor = 1\n\
             rpc_bind_addr = \"127.0.0.1:{rpc}\"\nrpc_secret = \"{}\"\n\
             [s3_api]\ns3_region = \"us-east-1\"\napi_bind_addr = \"127.0.0.1:{s3}\"\n",
            at("meta"),
            at("data"),
            Self::SECRET_KEY,
        );
        let path = dir.path().join("garage.toml");
        std::fs::write(&path, config).expect("a configuration file");
        let mut command = Command::new(place(PROGRAM));
        command
            .arg("-c")
            .arg(&path)
            .args(["server", "--single-node", "--default-bucket"])
            .env("GARAGE_DEFAULT_BUCKET", bucket)
            .env("GARAGE_DEFAULT_ACCESS_KEY", Self::ACCESS_KEY)
            .env("GARAGE_DEFAULT_SECRET_KEY", Self::SECRET_KEY);
        let mut process = Process::spawn("garage", &mut command);
        let url = format!("http://127.0.0.1:{s3}");
        // The bucket is made before it listens.
        process.until_http(&url);
        process.keep(dir);
        Self {
            _process: process,
            url,
        }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }
}
