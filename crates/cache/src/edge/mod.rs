//! The edge: what S3 clients talk to. Everything between a client's TCP connection and
//! [`Backend`](backend::Backend).
//!
//! ```text
//!   accept (server) -> [TLS (tls)] -> HTTP/1 loop (h1) --+--> lean path (h1::lean) ----+
//!                                                        +--> h1::direct -> service ---+--> Backend
//!                                  -> HTTP/2 (h2) -------+--> hyper ------> service ---+
//!                                                                auth, target, query,
//!                                                                condition, range, list
//! ```
//!
//! # Guarantees
//! - Reads only: whatever would write is 405 `MethodNotAllowed`.
//! - Every response, refusals of garbage included, carries `x-amz-request-id` and `x-amz-id-2`.
//! - A response whose object cannot be read to its end is cut, never ended as if it were whole.
//! - Bounds on everything that a client controls ([`Limits`]): connections, bytes and lines and time of
//!   a head, idleness, readers that take nothing, requests per connection, streams per connection.
//! - The lean path, `h1::direct` and hyper answer alike: one function decides, one writes the headers.
//!
//! # Not for
//! Caching or fetching (that is behind [`Backend`](backend::Backend)), operations (`/metrics` and the
//! like have a listener of their own).

pub mod auth;
pub mod backend;
mod body;
pub mod condition;
mod failure;
#[doc(hidden)]
pub mod fuzz;
mod h1;
mod h2;
mod head;
pub(crate) mod ids;
mod list;
mod metrics;
mod query;
pub mod range;
mod refused;
mod server;
mod service;
mod span;
mod subresource;
pub mod target;
mod tls;
mod wire;
mod xml;

pub use auth::{Access, AuthStore, check_listen};
pub use metrics::{EdgeMetrics, FIRST_BYTE_BOUNDS_US, METHODS};
pub use server::{Drained, Edge, bind};
pub use tls::{TlsConfig, TlsError};

use std::time::Duration;

/// How the edge serves.
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    /// Who may read.
    pub access: Access,
    /// Names under which buckets are hosts (`bucket.NAME`), beside path style. Without ports.
    pub domains: Vec<String>,
    /// TLS; none: plain HTTP.
    pub tls: Option<TlsConfig>,
    /// Bounds.
    pub limits: Limits,
    /// Whether plain reads on plain HTTP/1 connections are answered without hyper. Off for comparison.
    pub lean: bool,
}

/// The bounds of the edge.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections \[10,000\]. One more gets 503 `SlowDown` (without TLS) and is closed.
    pub connections_max: usize,
    /// Bytes of a request's head \[32 KiB\].
    pub head_bytes_max: usize,
    /// Bytes of a request's target \[16 KiB\].
    pub target_bytes_max: usize,
    /// From the first byte of a head to its last, and of a TLS handshake \[10 s\].
    pub head_time_max: Duration,
    /// A connection without a request is closed after this long \[60 s\].
    pub idle_max: Duration,
    /// A connection whose client takes no byte of a response for this long is cut \[30 s\].
    pub stall_max: Duration,
    /// Requests on one HTTP/1 connection \[100,000\]; the last says `Connection: close`.
    pub requests_max: u64,
    /// At shutdown, new connections are taken for this long, one request each, while those who balance
    /// find out that they should go elsewhere \[0 s\].
    pub notice: Duration,
    /// After that, requests that are under way get this long \[30 s\].
    pub drain_max: Duration,
}

impl EdgeConfig {
    /// The defaults, with this access.
    pub fn new(access: Access) -> Self {
        Self {
            access,
            domains: Vec::new(),
            tls: None,
            limits: Limits::default(),
            lean: true,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            head_bytes_max: 32 << 10,
            target_bytes_max: 16 << 10,
            head_time_max: Duration::from_secs(10),
            idle_max: Duration::from_secs(60),
            stall_max: Duration::from_secs(30),
            requests_max: 100_000,
            notice: Duration::ZERO,
            drain_max: Duration::from_secs(30),
        }
    }
}
