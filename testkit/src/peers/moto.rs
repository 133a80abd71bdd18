//! moto: the S3 server of the Python world's tests.

use super::{UNCHECKED, python, s3_bucket, s3_put};
use crate::process::Process;
use std::process::Command;

/// It chooses the port and prints it; `verbose` would log each request.
const SCRIPT: &str = r"
import threading
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address='127.0.0.1', port=0, verbose=False)
server.start()
print('PORT', server.get_host_and_port()[1], flush=True)
threading.Event().wait()
";

/// A running moto server. Takes any signature; anonymous reads need `x-amz-acl: public-read` on the
/// object.
#[derive(Debug)]
pub struct Moto {
    _process: Process,
    url: String,
}

impl Moto {
    /// Starts it, empty.
    pub fn start() -> Self {
        let mut process = Process::spawn("moto", Command::new(python()).args(["-c", SCRIPT]));
        let port: u16 = process.until("port", |process| {
            let log = process.log();
            log.lines()
                .find_map(|line| line.strip_prefix("PORT ")?.parse().ok())
        });
        let url = format!("http://127.0.0.1:{port}");
        process.until_http(&format!("{url}/moto-api/"));
        Self {
            _process: process,
            url,
        }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Makes a bucket.
    pub async fn bucket(&self, bucket: &str) {
        s3_bucket(&self.url, bucket, &[UNCHECKED]).await;
    }

    /// Puts an object with these headers.
    pub async fn put(&self, bucket: &str, key: &str, headers: &[(&str, &str)], body: &[u8]) {
        s3_put(&self.url, bucket, key, headers, &[UNCHECKED], body).await;
    }
}
