//! The versions of which chunks are held.
//!
//! A member of a cluster keeps the chunks that it coordinates, whoever asked for them: often it was
//! never asked for the object itself. And what was known of an object expires sooner than its chunks
//! are evicted. Purging has to find them all the same, for the origin may well go on naming them by the
//! same etag; so has a member that leaves, to hand them over. What was put on disk before the last start
//! is known here once it was read.

use crate::{key::Version, ttl::TtlMap};
use std::{sync::Arc, time::Duration};

/// The most that are remembered, and their bytes. The oldest go first.
const VERSIONS_MAX: usize = 256 << 10;
const BYTES_MAX: usize = 64 << 20;
/// What nothing was put of for so long is not remembered.
const TTL: Duration = Duration::from_secs(7 * 24 * 3600);
/// Beside the texts.
const ENTRY: usize = 256;

/// Versions of which something was put into a store of this cache.
#[derive(Debug)]
pub(crate) struct Versions(TtlMap<Arc<Version>, ()>);

impl Versions {
    pub(crate) fn new() -> Self {
        Self(TtlMap::new(VERSIONS_MAX, BYTES_MAX))
    }

    /// A chunk of this version is being put into a store, or was found in one.
    pub(crate) fn note(&self, version: &Arc<Version>) {
        if self.0.young(version).is_none() {
            let name = &version.name;
            let weight = ENTRY + name.bucket.len() + name.key.len() + version.etag.len();
            self.0.insert(Arc::clone(version), (), weight, TTL);
        }
    }

    /// All that are remembered.
    pub(crate) fn all(&self) -> Vec<Arc<Version>> {
        self.0.keys()
    }

    /// Forgets all under a prefix, and returns them.
    pub(crate) fn purge(&self, bucket: Option<&str>, prefix: &str) -> Vec<Arc<Version>> {
        let drained = self.0.drain(|version| {
            let name = &version.name;
            bucket.is_none_or(|bucket| &*name.bucket == bucket) && name.key.starts_with(prefix)
        });
        drained.into_iter().map(|(version, ())| version).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ObjectName;

    fn version(key: &str, etag: &str) -> Arc<Version> {
        let name = ObjectName {
            bucket: "b".into(),
            key: key.into(),
        };
        Arc::new(Version {
            name,
            etag: etag.into(),
            size: 10,
            chunk_size: 8,
            origin: "o".into(),
        })
    }

    #[tokio::test]
    async fn each_is_purged_once() {
        let versions = Versions::new();
        for (key, etag) in [("a/1", "x"), ("a/1", "x"), ("a/1", "y"), ("b/1", "x")] {
            versions.note(&version(key, etag));
        }
        assert_eq!(
            (
                versions.all().len(),
                versions.purge(Some("other"), "").len()
            ),
            (3, 0)
        );
        assert_eq!(versions.purge(Some("b"), "a/").len(), 2);
        assert!(versions.purge(None, "") == [version("b/1", "x")]);
        assert_eq!(versions.purge(None, "").len(), 0);
    }
}
