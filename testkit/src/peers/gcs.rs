//! gcp-storage-emulator: Google Cloud Storage, JSON and XML API.

use super::installed;
use crate::{
    client::{encode_key, request},
    process::{Process, free_port},
};
use std::process::Command;

/// A running emulator. Checks no credentials.
#[derive(Debug)]
pub struct Gcs {
    _process: Process,
    url: String,
}

impl Gcs {
    /// Starts it with one bucket.
    pub fn start(bucket: &str) -> Self {
        let port = free_port();
        let mut process = Process::spawn(
            "gcp-storage-emulator",
            Command::new(installed("venv/bin/gcp-storage-emulator"))
                .args([
                    "start",
                    "--host=127.0.0.1",
                    &format!("--port={port}"),
                    "--in-memory",
                ])
                .arg(format!("--default-bucket={bucket}"))
                .env("PYTHONUNBUFFERED", "1"),
        );
        let url = format!("http://127.0.0.1:{port}");
        process.until_http(&format!("{url}/storage/v1/b/{bucket}"));
        Self {
            _process: process,
            url,
        }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Puts an object.
    pub async fn put(&self, bucket: &str, key: &str, content_type: &str, body: &[u8]) {
        let key = encode_key(key).replace('/', "%2F");
        let url = format!(
            "{}/upload/storage/v1/b/{bucket}/o?uploadType=media&name={key}",
            self.url
        );
        let answer = request("POST", &url, &[("content-type", content_type)], body).await;
        let answer = answer.unwrap_or_else(|error| panic!("POST {url}: {error}"));
        assert_eq!(answer.status, 200, "POST {url}: {}", answer.text());
    }
}
