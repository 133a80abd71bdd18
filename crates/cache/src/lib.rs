//! Front end: a read-only, S3-compatible origin cache.
mod ahead;
mod askers;
mod breaker;
mod cache;
mod cluster;
mod config;
mod core;
pub mod edge;
mod facade;
mod failure;
mod handover;
mod judge;
mod keep;
mod key;
mod listing;
mod meta;
mod metrics;
mod ops;
pub mod origin;
mod page;
mod plans;
mod proving;
mod read;
mod readahead;
mod select;
#[cfg(test)]
mod tests;
mod throttle;
mod tiers;
mod traces;
mod transport;
mod ttl;
pub mod types;
mod versions;
mod warm;

pub use cache::{Cache, RunningCache};
#[doc(hidden)]
pub use cluster::fuzz as fuzz_cluster;
pub use config::{
    ARRIVING_BYTES_FREE, CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, CacheConfig, CacheError, ClusterConfig,
    DiskTier, MembersFrom, ReadConfig,
};
pub use traces::{Parent as TraceParent, TraceConfig, TraceConfigError};
/// Members, names and credentials of a cluster, as [`ClusterConfig`] takes them.
pub use {
    gannet_cluster::Member,
    gannet_link::{CredentialFiles, TlsFiles},
    gannet_members::{BadName, BadPeers, Discovery, DnsName},
};
