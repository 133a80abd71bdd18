//! Real servers that we did not write, each started by the test that needs it and gone with its handle.
//!
//! | handle | what | from |
//! |---|---|---|
//! | [`Moto`] | S3 | PyPI |
//! | `S3sFs` | S3 that ignores `If-Match` on GET; feature `s3s-fs` | crates.io, in this process |
//! | [`Nginx`] | static files, or a cache (the peer of benchmarks) | Debian |
//! | [`Varnish`] | a cache (the peer of benchmarks) | Debian |
//! | [`Dnsmasq`] | names | Debian |
//! | [`Haproxy`] | a balancer | Debian |
//! | [`Garage`] | S3, distributed, for trials | crates.io, by `scripts/peers/garage` |
//! | [`Azurite`] | Azure Blob | npm |
//! | [`Gcs`] | Google Cloud Storage | PyPI |
//! | [`Synapses`] | Matrix homeservers | PyPI |
//!
//! `testkit/install.sh` installs them. Where one is missing, its launcher panics with a line that says
//! so: a test that cannot run has failed. (Garage takes long to build, so its tests say that they are
//! not run where it is missing.) Ports are given by the system or known to be free.

mod azurite;
mod dnsmasq;
mod garage;
mod gcs;
mod haproxy;
mod moto;
mod nginx;
mod python;
#[cfg(feature = "s3s-fs")]
mod s3s_fs;
mod synapse;
mod varnish;

#[cfg(feature = "s3s-fs")]
pub use self::s3s_fs::S3sFs;
pub use self::{
    azurite::Azurite,
    dnsmasq::{Dnsmasq, Zone},
    garage::Garage,
    gcs::Gcs,
    haproxy::{Backend, Haproxy},
    moto::Moto,
    nginx::{Nginx, NginxCache},
    python::{Python, python},
    synapse::Synapses,
    varnish::Varnish,
};

use crate::client::{Answer, encode_key, request};
use std::path::PathBuf;

/// Signed as far as S3 servers without access control look.
const UNCHECKED: (&str, &str) = (
    "authorization",
    "AWS4-HMAC-SHA256 Credential=test/20240101/us-east-1/s3/aws4_request, \
     SignedHeaders=host, Signature=0000000000000000000000000000000000000000000000000000000000000000",
);

/// Where [`install.sh`](self) puts what it does not leave to the system.
fn installed(path: &str) -> PathBuf {
    let path = place(path);
    assert!(
        path.exists(),
        "{} is not there: run testkit/install.sh",
        path.display()
    );
    path
}

/// Where that would be.
fn place(path: &str) -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .unwrap_or_else(|| {
            PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache")
        });
    cache.join("gannet-test").join(path)
}

/// PUT to a server that takes writes.
async fn put(url: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let answer = request("PUT", url, headers, body).await;
    let answer = answer.unwrap_or_else(|error| panic!("PUT {url}: {error}"));
    assert!(
        answer.status < 300,
        "PUT {url}: {} {}",
        answer.status,
        answer.text()
    );
    answer
}

/// Makes a bucket of an S3 server that checks no signatures.
async fn s3_bucket(url: &str, bucket: &str, auth: &[(&str, &str)]) {
    put(&format!("{url}/{bucket}"), auth, b"").await;
}

/// Puts an object into an S3 server that checks no signatures.
async fn s3_put(
    url: &str,
    bucket: &str,
    key: &str,
    headers: &[(&str, &str)],
    auth: &[(&str, &str)],
    body: &[u8],
) {
    let headers: Vec<(&str, &str)> = headers.iter().chain(auth).copied().collect();
    put(
        &format!("{url}/{bucket}/{}", encode_key(key)),
        &headers,
        body,
    )
    .await;
}
