//! Keys: what is fetched once, and where its bytes lie in a store.
//!
//! Everything that the cache asks an origin for has a [`CacheKey`], so that one fetcher coalesces and
//! fails over all of it: an object's metadata, a page of a listing, a chunk.
//!
//! A chunk's identity is {origin id, bucket, object key, etag, chunk size, index}. The etag is part
//! of it: new bytes mean a new etag mean a new key, so that old bytes cannot be served for a new
//! object. Its place in a store is a hash over those fields, each prefixed with its length (so that
//! no two different lists of fields can be spelt alike), under the origin id in clear.

use crate::types::{ListQuery, ObjectMeta, ObjectName};
use gannet_store::Place;
use std::{fmt, ops::Range, sync::Arc};

/// What is fetched: two equal keys are the same fetch.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum CacheKey {
    /// An object's metadata.
    Head(ObjectName),
    /// A page of a listing.
    List(Arc<ListQuery>),
    /// All buckets.
    Buckets,
    /// Whether a bucket is there.
    Bucket(Arc<str>),
    /// A chunk of a version of an object.
    Chunk(ChunkKey),
}

impl CacheKey {
    /// What decides which member of a cluster fetches it for all: part of what members must agree on.
    pub(crate) fn placement(&self) -> u64 {
        let first_eight = |digest: &[u8; 32]| {
            let (head, _) = digest.split_at(8);
            u64::from_le_bytes(head.try_into().expect("eight bytes were split off"))
        };
        let hash = |kind: &str, fields: &[&str]| {
            let mut hasher = blake3::Hasher::new();
            for field in std::iter::once(&kind).chain(fields) {
                hasher.update(&(field.len() as u64).to_le_bytes());
                hasher.update(field.as_bytes());
            }
            first_eight(hasher.finalize().as_bytes())
        };
        match self {
            Self::Chunk(chunk) => first_eight(chunk.place().digest()),
            Self::Head(name) => hash("head", &[&name.bucket, &name.key]),
            // All pages of one listing at one member.
            Self::List(query) => hash("list", &[&query.bucket, &query.prefix]),
            Self::Buckets => hash("buckets", &[]),
            Self::Bucket(bucket) => hash("bucket", &[bucket]),
        }
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head(name) => write!(f, "head {name:?}"),
            Self::List(query) => write!(f, "list {}/{}", query.bucket, query.prefix),
            Self::Buckets => f.write_str("buckets"),
            Self::Bucket(bucket) => write!(f, "bucket {bucket}"),
            Self::Chunk(chunk) => write!(f, "chunk {chunk:?}"),
        }
    }
}

/// A version of an object, cut into chunks.
#[derive(PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Version {
    /// The object.
    pub(crate) name: ObjectName,
    /// Its etag, as the origin sent it.
    pub(crate) etag: Arc<str>,
    /// Its length in bytes.
    pub(crate) size: u64,
    /// The length of all its chunks but the last.
    pub(crate) chunk_size: u64,
    /// The origin's id ([`Origin::id`](crate::origin::Origin::id)).
    pub(crate) origin: Arc<str>,
}

/// A chunk of a version.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ChunkKey {
    pub(crate) version: Arc<Version>,
    pub(crate) index: u64,
}

impl fmt::Debug for ChunkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Version { name, etag, .. } = &*self.version;
        write!(f, "{name:?}#{} of {etag}", self.index)
    }
}

impl Version {
    /// The version that this metadata describes.
    pub(crate) fn new(
        origin: Arc<str>,
        chunk_size: u64,
        name: &ObjectName,
        meta: &ObjectMeta,
    ) -> Self {
        Self {
            name: name.clone(),
            etag: Arc::clone(&meta.etag),
            size: meta.size,
            chunk_size,
            origin,
        }
    }
}

impl ChunkKey {
    /// Where it lies in the object.
    pub(crate) fn range(&self) -> Range<u64> {
        chunk_range(self.version.size, self.version.chunk_size, self.index)
    }

    /// Its length in bytes.
    pub(crate) fn len(&self) -> u64 {
        let range = self.range();
        range.end - range.start
    }

    /// Its place in a store.
    pub(crate) fn place(&self) -> Place {
        let Version {
            name,
            etag,
            chunk_size,
            origin,
            ..
        } = &*self.version;
        Places::new(origin, name, etag, *chunk_size).at(self.index)
    }
}

/// Where chunk `index` of an object of `size` bytes lies; empty past the end.
pub(crate) fn chunk_range(size: u64, chunk_size: u64, index: u64) -> Range<u64> {
    let start = index.saturating_mul(chunk_size).min(size);
    start..start.saturating_add(chunk_size).min(size)
}

/// The chunks that hold these bytes (not empty).
pub(crate) fn chunks_of(range: &Range<u64>, chunk_size: u64) -> Range<u64> {
    range.start / chunk_size..range.end.div_ceil(chunk_size)
}

/// The places of the chunks of one version. The fields that they share are hashed once.
pub(crate) struct Places<'a> {
    origin: &'a Arc<str>,
    shared: blake3::Hasher,
}

impl<'a> Places<'a> {
    pub(crate) fn new(
        origin: &'a Arc<str>,
        name: &ObjectName,
        etag: &str,
        chunk_size: u64,
    ) -> Self {
        let mut shared = blake3::Hasher::new();
        shared.update(b"gannet-cache chunk 1");
        for field in [origin, &name.bucket, &name.key, etag] {
            shared.update(&(field.len() as u64).to_le_bytes());
            shared.update(field.as_bytes());
        }
        shared.update(&chunk_size.to_le_bytes());
        Self { origin, shared }
    }

    pub(crate) fn at(&self, index: u64) -> Place {
        let mut hasher = self.shared.clone();
        hasher.update(&index.to_le_bytes());
        Place::new(Arc::clone(self.origin), *hasher.finalize().as_bytes())
    }
}

impl fmt::Debug for Places<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Places")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

/// Tells one etag from another, where 64 bits are to say it.
pub(crate) fn identity_of(etag: &str) -> u64 {
    let hash = blake3::hash(etag.as_bytes());
    let (head, _) = hash.as_bytes().split_at(8);
    u64::from_le_bytes(head.try_into().expect("eight bytes were split off"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::SystemTime;

    fn version(size: u64, chunk_size: u64) -> Arc<Version> {
        let name = ObjectName {
            bucket: "b".into(),
            key: "k".into(),
        };
        let meta = ObjectMeta {
            size,
            etag: "\"e\"".into(),
            modified: SystemTime::UNIX_EPOCH,
            headers: Arc::default(),
        };
        Arc::new(Version::new("o".into(), chunk_size, &name, &meta))
    }

    #[test]
    fn every_field_is_part_of_the_place() {
        let at = |origin: &str, bucket: &str, key: &str, etag: &str, chunk_size, index| {
            let name = ObjectName {
                bucket: bucket.into(),
                key: key.into(),
            };
            Places::new(&origin.into(), &name, etag, chunk_size).at(index)
        };
        let places = [
            at("o", "b", "k", "e", 8, 0),
            at("p", "b", "k", "e", 8, 0),
            at("o", "c", "k", "e", 8, 0),
            at("o", "b", "l", "e", 8, 0),
            at("o", "b", "k", "f", 8, 0),
            at("o", "b", "k", "e", 9, 0),
            at("o", "b", "k", "e", 8, 1),
            at("o", "bk", "", "e", 8, 0), // the same letters, cut elsewhere
            at("o", "b", "ke", "", 8, 0),
        ];
        for (n, place) in places.iter().enumerate() {
            assert!(!places[n + 1..].contains(place), "{n}");
        }
        assert_eq!(places[0], at("o", "b", "k", "e", 8, 0), "stable");
        assert_eq!(&**places[1].space(), "p", "the origin is in clear");
    }

    proptest! {
        #[test]
        fn chunks_tile_the_object(size in 1_u64..1000, chunk_size in 1_u64..100, a in 0_u64..1000, b in 0_u64..1000) {
            let (start, end) = (a.min(b).min(size - 1), a.max(b).min(size - 1) + 1);
            let version = version(size, chunk_size);
            let mut at = None;
            for index in chunks_of(&(start..end), chunk_size) {
                let chunk = ChunkKey { version: Arc::clone(&version), index };
                let range = chunk.range();
                prop_assert!(range.start < range.end && range.end - range.start <= chunk_size);
                prop_assert_eq!(range.end - range.start, chunk.len());
                prop_assert_eq!(*at.get_or_insert(range.start), range.start);
                at = Some(range.end);
                prop_assert!(range.end > start && range.start < end, "no chunk too many");
            }
            let at = at.expect("a range that is not empty has a chunk");
            prop_assert!(at >= end && chunks_of(&(start..end), chunk_size).start * chunk_size <= start);
        }
    }

    #[test]
    fn nothing_overflows_at_the_end_of_time() {
        assert!(chunk_range(u64::MAX, 8, u64::MAX).is_empty());
        assert!(chunk_range(0, 8, 0).is_empty());
        assert_eq!(
            chunk_range(u64::MAX, 8, u64::MAX / 8),
            u64::MAX - 7..u64::MAX
        );
    }
}
