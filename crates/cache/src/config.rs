//! What a cache is made of: every choice and bound, with its default.

use crate::{
    edge::EdgeConfig,
    origin::{OriginConfigError, OriginSpec},
    traces::{TraceConfig, TraceConfigError},
};
use gannet_cluster::Member;
use gannet_link::{CredentialFiles, LinkError};
use gannet_members::{DnsName, MembersError};
use gannet_store::StoreError;
use std::{
    fmt, io,
    net::SocketAddr,
    num::{NonZeroU16, NonZeroU32},
    path::PathBuf,
    time::Duration,
};

/// The least chunk: below it, the cost of a request is no longer small beside that of its bytes.
pub const CHUNK_BYTES_MIN: u64 = 1 << 20;
/// The greatest chunk.
pub const CHUNK_BYTES_MAX: u64 = 64 << 20;

/// Arriving chunks up to this many bytes are not counted against the memory for chunks.
pub const ARRIVING_BYTES_FREE: u64 = 128 << 20;

/// A cache: where from, where to, and how much.
#[derive(Clone)]
pub struct CacheConfig {
    /// The origin.
    pub origin: OriginSpec,
    /// Other sources of the same objects under the same etags.
    pub mirrors: Vec<OriginSpec>,
    /// Where S3 clients connect. Whether an address may be open to others is the caller's to check
    /// ([`check_listen`](crate::edge::check_listen)).
    pub listen: SocketAddr,
    /// How they are served, and who may read.
    pub edge: EdgeConfig,
    /// Where operators connect; nowhere, if `None`.
    pub ops_listen: Option<SocketAddr>,
    /// What operators from elsewhere than loopback must show to purge or warm; without it they may
    /// not.
    pub ops_token: Option<String>,
    /// The disk tier; none, if `None`.
    pub disk: Option<DiskTier>,
    /// The shared store (`s3://bucket/prefix`, `gs://`, `az://`); none, if `None`.
    pub store: Option<OriginSpec>,
    /// The cluster that it is a member of; none, if `None`.
    pub cluster: Option<ClusterConfig>,
    /// Bounds and times of the read path.
    pub read: ReadConfig,
    /// Traces of requests, for an OpenTelemetry collector; none, if `None`.
    pub traces: Option<TraceConfig>,
}

impl fmt::Debug for CacheConfig {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheConfig")
            .field("origin", &self.origin)
            .field("mirrors", &self.mirrors)
            .field("listen", &self.listen)
            .field("edge", &self.edge)
            .field("ops_listen", &self.ops_listen)
            .field("ops_token", &self.ops_token.as_ref().map(|_| ".."))
            .field("disk", &self.disk)
            .field("store", &self.store)
            .field("cluster", &self.cluster)
            .field("read", &self.read)
            .field("traces", &self.traces)
            .finish()
    }
}

/// A disk tier.
#[derive(Clone, Debug)]
pub struct DiskTier {
    /// Its directory; made if it is not there.
    pub dir: PathBuf,
    /// The most bytes that it may take \[10 GiB\].
    pub bytes_max: u64,
}

/// A member of a cluster.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Where other members connect.
    pub listen: SocketAddr,
    /// How others reach it, which is also its name among them: `IP:PORT` or `HOST:PORT`. Where it
    /// listens, if `None`, which must be one address then.
    pub advertise: Option<String>,
    /// Its share of the work, in proportion to the others' \[1\].
    pub weight: NonZeroU16,
    /// How it finds the others.
    pub members: MembersFrom,
    /// How members prove to each other that they are. Without any, nothing leaves loopback.
    pub credentials: CredentialFiles,
    /// How many times a member sends one chunk before it sends askers on to those that have it \[8
    /// among up to 16 members, 2 among more\].
    pub sends_max: Option<NonZeroU32>,
}

/// How a member finds the others.
#[derive(Clone, Debug)]
pub enum MembersFrom {
    /// They are given.
    Fixed(Vec<Member>),
    /// They are looked up, every 5 s.
    Dns {
        /// The name of the service.
        name: DnsName,
        /// Which name server to ask; the system's, if `None`.
        server: Option<SocketAddr>,
    },
    /// They tell each other.
    Gossip {
        /// Where to listen for it (UDP).
        listen: SocketAddr,
        /// Where others reach that; where it listens, if `None`.
        advertise: Option<SocketAddr>,
        /// Whom to talk to first.
        seeds: Vec<String>,
    },
}

/// Bounds and times of the read path.
#[derive(Clone, Copy, Debug)]
pub struct ReadConfig {
    /// The length of all chunks but an object's last [8 MiB; [`CHUNK_BYTES_MIN`] to
    /// [`CHUNK_BYTES_MAX`]].
    pub chunk_bytes: u64,
    /// Bytes of chunks in memory \[1 GiB\]: those kept, and those arriving beyond
    /// [`ARRIVING_BYTES_FREE`].
    pub memory_bytes_max: u64,
    /// Bytes of chunks that are being fetched, judged or committed [a quarter of the memory, 128 MiB
    /// at least; four chunks in any case]. Fetches beyond wait.
    pub arriving_bytes_max: Option<u64>,
    /// Bytes of fetched chunks that only slow readers still keep \[32 MiB; at least two chunks\].
    /// Beyond, the slowest read on from the store.
    pub lingering_bytes_max: u64,
    /// Chunks fetched ahead of a sequential reader \[4\].
    pub read_ahead: u32,
    /// A second request joins one that shows no sign for so long, or for the source's 99th
    /// percentile of the time to first byte if that is longer \[1 s\].
    pub hedge_after: Duration,
    /// Requests to one origin at once \[192\].
    pub origin_concurrency_max: u32,
    /// A request that waits longer for its turn is answered with SlowDown \[5 s\].
    pub queue_timeout: Duration,
    /// How long an object's metadata is believed \[5 min\].
    pub meta_ttl: Duration,
    /// How long it is believed that there is none \[60 s\].
    pub negative_ttl: Duration,
    /// How long a listing is believed \[5 s\].
    pub listing_ttl: Duration,
}

impl Default for ReadConfig {
    fn default() -> Self {
        Self {
            chunk_bytes: 8 << 20,
            memory_bytes_max: 1 << 30,
            arriving_bytes_max: None,
            lingering_bytes_max: 32 << 20,
            read_ahead: 4,
            hedge_after: Duration::from_secs(1),
            origin_concurrency_max: 192,
            queue_timeout: Duration::from_secs(5),
            meta_ttl: Duration::from_secs(300),
            negative_ttl: Duration::from_secs(60),
            listing_ttl: Duration::from_secs(5),
        }
    }
}

impl ReadConfig {
    /// Bytes of chunks that may be arriving.
    pub(crate) fn arriving_bytes(&self) -> u64 {
        let derived = (self.memory_bytes_max / 4).max(ARRIVING_BYTES_FREE);
        self.arriving_bytes_max
            .unwrap_or(derived)
            .max(4 * self.chunk_bytes)
    }

    /// Bytes of chunks that may be kept in memory.
    pub(crate) fn kept_bytes(&self) -> u64 {
        let beyond = self.arriving_bytes().saturating_sub(ARRIVING_BYTES_FREE);
        self.memory_bytes_max.saturating_sub(beyond)
    }

    /// Checks the bounds against each other.
    pub(crate) fn validate(&self) -> Result<(), CacheError> {
        let fail = |what: String| Err(CacheError::Config(what));
        if !(CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&self.chunk_bytes) {
            return fail(format!(
                "a chunk of {} bytes: between {CHUNK_BYTES_MIN} and {CHUNK_BYTES_MAX}",
                self.chunk_bytes
            ));
        }
        if self.origin_concurrency_max == 0 {
            return fail("origin concurrency 0: nothing could ever be fetched".to_owned());
        }
        if self.hedge_after.is_zero() {
            return fail("hedge after 0: every read would be made twice".to_owned());
        }
        if self.queue_timeout.is_zero() {
            return fail("queue timeout 0: nothing could ever be fetched".to_owned());
        }
        Ok(())
    }
}

/// Why a cache does not start. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The configuration contradicts itself or its bounds.
    #[error("configuration: {0}")]
    Config(String),
    /// The origin or a mirror cannot be opened.
    #[error(transparent)]
    Origin(#[from] OriginConfigError),
    /// A store cannot be opened, or failed its self-test.
    #[error("{which} store: {error}")]
    Store {
        /// Which tier.
        which: &'static str,
        /// Why.
        error: StoreError,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({what}): {error}")]
    Listen {
        /// What for.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why not.
        error: io::Error,
    },
    /// The cluster's credentials cannot be used.
    #[error("cluster: {0}")]
    Link(#[from] LinkError),
    /// The cluster's members cannot be watched.
    #[error("cluster: {0}")]
    Members(#[from] MembersError),
    /// Traces cannot be sent.
    #[error(transparent)]
    Traces(#[from] TraceConfigError),
    /// The edge cannot start.
    #[error("edge: {0}")]
    Edge(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrives_is_bounded_and_counted() {
        let check = |memory: u64, chunk: u64, arriving: u64, kept: u64| {
            let config = ReadConfig {
                memory_bytes_max: memory << 20,
                chunk_bytes: chunk << 20,
                ..ReadConfig::default()
            };
            assert_eq!(config.arriving_bytes() >> 20, arriving, "{memory} {chunk}");
            assert_eq!(config.kept_bytes() >> 20, kept, "{memory} {chunk}");
        };
        check(1024, 8, 256, 896);
        check(512, 8, 128, 512);
        check(16, 8, 128, 16);
        check(128, 64, 256, 0);
        check(0, 1, 128, 0);
    }

    #[test]
    fn nonsense_is_refused() {
        let good = ReadConfig::default();
        assert!(good.validate().is_ok());
        for bad in [
            ReadConfig {
                chunk_bytes: CHUNK_BYTES_MIN - 1,
                ..good
            },
            ReadConfig {
                chunk_bytes: CHUNK_BYTES_MAX + 1,
                ..good
            },
            ReadConfig {
                origin_concurrency_max: 0,
                ..good
            },
            ReadConfig {
                hedge_after: Duration::ZERO,
                ..good
            },
            ReadConfig {
                queue_timeout: Duration::ZERO,
                ..good
            },
        ] {
            assert!(
                matches!(bad.validate(), Err(CacheError::Config(_))),
                "{bad:?}"
            );
        }
    }
}
