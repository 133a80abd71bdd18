//! The configuration of a disk store.

use std::{path::PathBuf, time::Duration};

/// The configuration of a [`DiskStore`](super::DiskStore).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DiskConfig {
    /// Where the blobs lie. Made if it is missing, with access for its owner alone.
    pub dir: PathBuf,
    /// Most bytes on disk, in allocated blocks, checksums included \[10 GiB\]. The store takes less
    /// while the file system is short.
    pub bytes_max: u64,
    /// Bytes of the file system that are left free \[none: 1/64 of it\].
    pub free_min: Option<u64>,
    /// Most files that are kept open to be served at once [none: a quarter of the process's limit,
    /// 32 to 4,096; at least 1]. Readers keep theirs open besides.
    pub files_max: Option<usize>,
    /// Most operations on files at the same time, reads and writes apart \[8\].
    pub io_max: usize,
    /// How long a verification holds \[24 h\]. A blob is verified when it is opened for the first time
    /// after the start, and again when its verification is older than this.
    pub verify_every: Duration,
    /// Bytes a second that are verified in the background \[16 MiB; 0: none\]. A whole store is gone
    /// through again and again, but nothing is verified twice within half of `verify_every`.
    pub scrub_rate: u64,
    /// Whether a commit waits until the blob is on the medium \[no\]. Not needed for right answers: what
    /// a power cut tears is found by its checksums and refetched. It only saves the refetch.
    pub sync: bool,
}

impl DiskConfig {
    /// The defaults, in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            bytes_max: 10 << 30,
            free_min: None,
            files_max: None,
            io_max: 8,
            verify_every: Duration::from_secs(24 * 60 * 60),
            scrub_rate: 16 << 20,
            sync: false,
        }
    }

    /// Most open files.
    pub(super) fn files(&self) -> u64 {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let derived = limit.map_or(4_096, |limit| limit / 4).clamp(32, 4_096);
        self.files_max.map_or(derived, |max| max.max(1) as u64)
    }
}
