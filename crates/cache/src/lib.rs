//! Front end: a read-only, S3-compatible origin cache.
mod ahead;
mod askers;
mod cache;
mod config;
mod core;
pub mod edge;
mod failure;
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
mod read;
mod readahead;
mod select;
#[cfg(test)]
mod tests;
mod throttle;
mod tiers;
mod transport;
mod ttl;
pub mod types;
mod warm;

pub use cache::{Cache, RunningCache};
pub use config::{
    ARRIVING_BYTES_FREE, CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, CacheConfig, CacheError, DiskTier,
    ReadConfig,
};
