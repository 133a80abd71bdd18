//! Azurite: Microsoft's emulator of Azure Blob Storage.

use super::installed;
use crate::{
    client::{encode_key, request},
    process::{Process, free_port},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use sha2::{Digest, Sha256};
use std::{net::SocketAddr, process::Command, time::SystemTime};

/// The version of the REST interface that requests name.
const VERSION: &str = "2021-12-02";

/// A running Azurite (blobs only, in memory), with its well-known account.
#[derive(Debug)]
pub struct Azurite {
    _process: Process,
    url: String,
}

impl Azurite {
    /// The account that it comes with.
    pub const ACCOUNT: &'static str = "devstoreaccount1";
    /// The account's well-known key, printed in Microsoft's manual: no secret.
    pub const KEY: &'static str =
        "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

    /// Starts it, empty.
    pub fn start() -> Self {
        let port = free_port();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut process = Process::spawn(
            "azurite",
            Command::new(installed("npm/node_modules/.bin/azurite-blob"))
                .args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()])
                .args([
                    "--inMemoryPersistence",
                    "--disableTelemetry",
                    "--skipApiVersionCheck",
                ])
                .current_dir(dir.path()),
        );
        process.until_listening(SocketAddr::from(([127, 0, 0, 1], port)));
        process.keep(dir);
        Self {
            _process: process,
            url: format!("http://127.0.0.1:{port}"),
        }
    }

    /// `http://127.0.0.1:PORT`, without the account.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Makes a container.
    pub async fn container(&self, container: &str) {
        self.put(container, "?restype=container", &[], b"").await;
    }

    /// Puts a block blob.
    pub async fn block_blob(
        &self,
        container: &str,
        key: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) {
        let headers = with(headers, ("x-ms-blob-type", "BlockBlob"));
        self.put(
            &format!("{container}/{}", encode_key(key)),
            "",
            &headers,
            body,
        )
        .await;
    }

    /// Makes a page blob of this size (a multiple of 512), all zeros.
    pub async fn page_blob(&self, container: &str, key: &str, size: u64) {
        let size = size.to_string();
        let headers = [
            ("x-ms-blob-type", "PageBlob"),
            ("x-ms-blob-content-length", size.as_str()),
        ];
        self.put(
            &format!("{container}/{}", encode_key(key)),
            "",
            &headers,
            b"",
        )
        .await;
    }

    /// A PUT signed with the account's key ("Shared Key" of the manual): the verb, eleven headers that
    /// are mostly empty, the `x-ms-` headers sorted, the path, the query's parameters.
    async fn put(&self, path: &str, query: &str, headers: &[(&str, &str)], body: &[u8]) {
        let date = httpdate::fmt_http_date(SystemTime::now());
        let mut headers = with(headers, ("x-ms-date", &date));
        headers.push(("x-ms-version", VERSION));
        headers.sort_unstable();
        let value = |wanted| {
            let header = headers.iter().find(|(name, _)| *name == wanted);
            header.map_or("", |(_, value)| value)
        };
        let length = if body.is_empty() {
            String::new()
        } else {
            body.len().to_string()
        };
        let canonical: String = headers
            .iter()
            .filter(|(name, _)| name.starts_with("x-ms-"))
            .map(|(name, value)| format!("{name}:{value}\n"))
            .collect();
        // The account stands twice: once as such, once as a part of the emulator's paths.
        let account = Self::ACCOUNT;
        let signed = format!(
            "PUT\n{}\n{}\n{length}\n\n{}\n\n\n\n\n\n\n{canonical}/{account}/{account}/{path}{}",
            value("content-encoding"),
            value("content-language"),
            value("content-type"),
            query.replace('?', "\n").replace('=', ":"),
        );
        let key = BASE64_STANDARD
            .decode(Self::KEY)
            .expect("a constant in base64");
        let signature = BASE64_STANDARD.encode(hmac_sha256(&key, signed.as_bytes()));
        let authorization = format!("SharedKey {account}:{signature}");
        headers.push(("authorization", &authorization));
        if body.is_empty() {
            headers.push(("content-length", "0"));
        }
        let url = format!("{}/{account}/{path}{query}", self.url);
        let answer = request("PUT", &url, &headers, body).await;
        let answer = answer.unwrap_or_else(|error| panic!("PUT {url}: {error}"));
        assert_eq!(answer.status, 201, "PUT {url}: {}", answer.text());
    }
}

fn with<'a>(headers: &[(&'a str, &'a str)], one: (&'a str, &'a str)) -> Vec<(&'a str, &'a str)> {
    headers.iter().copied().chain([one]).collect()
}

/// RFC 2104 for a key of up to 64 bytes.
fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    let pad = |with: u8| {
        let mut block = [with; 64];
        block
            .iter_mut()
            .zip(key)
            .for_each(|(byte, key)| *byte ^= key);
        block
    };
    let inner = Sha256::new()
        .chain_update(pad(0x36))
        .chain_update(message)
        .finalize();
    Sha256::new()
        .chain_update(pad(0x5c))
        .chain_update(inner)
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 2.
    #[test]
    fn hmac() {
        let mac = hmac_sha256(b"Jefe", b"what do ya want for nothing?");
        assert!(crate::content::hex(&mac).starts_with("5bdcc146bf60754e6a042426089575c7"));
    }
}
