//! Bounds of a key ring.

use gannet::engine;
use ruma_common::OwnedServerName;
use std::{path::PathBuf, time::Duration};

/// How a [`KeyRing`](super::KeyRing) goes about it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KeyRingConfig {
    /// Where documents are kept \[nowhere: in memory only\].
    pub dir: Option<PathBuf>,
    /// Servers of which files are kept \[65,536\]; beyond, the oldest go.
    pub files_max: usize,
    /// Servers that are asked about others which do not answer themselves, or have forgotten their old
    /// keys, in this order \[none\]. What a notary says of keys is believed, but never against what their
    /// server itself says: name those that you trust.
    pub notaries: Vec<OwnedServerName>,
    /// Servers that are kept in memory \[4,096\].
    pub servers_max: usize,
    /// Bytes of documents that are kept in memory \[16 MiB\].
    pub bytes_max: usize,
    /// Servers that are asked at a time \[32\].
    pub at_once_max: usize,
    /// A server that answered is asked again no sooner \[5 min\]: it may have changed its keys. Only what it
    /// said of itself to be over by then is asked for again earlier.
    pub refetch_min: Duration,
    /// A server that failed is asked again no sooner \[1 min\]; doubles with each failure.
    pub error_first: Duration,
    /// The longest pause after failures \[1 h\].
    pub error_max: Duration,
    /// A server that has not answered after so long: a notary is asked beside it \[3 s\].
    pub notary_after: Duration,
    /// For one question \[15 s\].
    pub timeout: Duration,
}

impl Default for KeyRingConfig {
    fn default() -> Self {
        Self {
            dir: None,
            files_max: 65_536,
            notaries: Vec::new(),
            servers_max: 4096,
            bytes_max: 16 << 20,
            at_once_max: 32,
            refetch_min: Duration::from_secs(300),
            error_first: Duration::from_secs(60),
            error_max: Duration::from_secs(3600),
            notary_after: Duration::from_secs(3),
            timeout: Duration::from_secs(15),
        }
    }
}

/// Why there is no key ring.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyRingError {
    /// The directory cannot be used.
    #[error("the directory of keys {}: {error}", dir.display())]
    Dir {
        /// The directory.
        dir: PathBuf,
        /// What is wrong with it.
        error: std::io::Error,
    },
    /// A bound is zero.
    #[error(transparent)]
    Config(#[from] engine::ConfigError),
}
