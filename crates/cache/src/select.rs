//! Sources, and their order: the shared store, the primary origin, its mirrors.
//!
//! An origin is several sources, its *lanes*: all mean the same server and share its limits, but the
//! engine asks each candidate once per cycle, and a read that stalls or breaks off must be continued
//! on a second connection even where there is no mirror.

use crate::{cluster::Cluster, key::CacheKey};
use gannet::{
    Select, Soon,
    engine::{GroupId, SourceId},
};

use std::sync::Arc;

/// Sources from here on are members of the cluster.
pub(crate) const MEMBERS: u64 = 1 << 32;

/// Connections that one chunk may use in one cycle over the candidates.
pub(crate) const LANES: u64 = 2;

/// What a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The shared store.
    Shared,
    /// A lane of an origin; origin 0 is the primary.
    Origin { origin: usize, lane: u64 },
    /// A member of the cluster, for what it holds.
    Member(SourceId),
}

/// All sources of a cache: which they are does not change while it runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sources {
    /// The primary and its mirrors.
    pub(crate) origins: usize,
    /// Whether there is a shared store.
    pub(crate) shared: bool,
}

impl Sources {
    /// What the engine calls a source. The shared store is 0; the others follow by origin and lane.
    pub(crate) fn id(source: Source) -> SourceId {
        SourceId(match source {
            Source::Shared => 0,
            Source::Origin { origin, lane } => 1 + origin as u64 * LANES + lane,
            Source::Member(id) => id.0,
        })
    }

    /// The source of this id, if there is one.
    pub(crate) fn source(self, id: SourceId) -> Option<Source> {
        if id.0 >= MEMBERS {
            return Some(Source::Member(id));
        }
        let Some(n) = id.0.checked_sub(1) else {
            return self.shared.then_some(Source::Shared);
        };
        let origin = usize::try_from(n / LANES)
            .ok()
            .filter(|origin| *origin < self.origins)?;
        Some(Source::Origin {
            origin,
            lane: n % LANES,
        })
    }

    /// The limits that a source shares: one group for each origin, one for the shared store.
    pub(crate) fn group(source: Source) -> GroupId {
        GroupId(match source {
            Source::Shared => 0,
            Source::Origin { origin, .. } => 1 + origin as u64,
            // Each member is its own: what one bears is no other's business.
            Source::Member(id) => id.0,
        })
    }

    /// Every source, in no particular order.
    pub(crate) fn all(self) -> impl Iterator<Item = Source> {
        let lanes = (0..self.origins)
            .flat_map(|origin| (0..LANES).map(move |lane| Source::Origin { origin, lane }));
        self.shared
            .then_some(Source::Shared)
            .into_iter()
            .chain(lanes)
    }

    /// Whether this source is the primary origin.
    pub(crate) fn is_primary(self, id: SourceId) -> bool {
        matches!(self.source(id), Some(Source::Origin { origin: 0, .. }))
    }

    /// What people call a source.
    pub(crate) fn name(self, id: SourceId) -> String {
        match self.source(id) {
            None => format!("unknown-{}", id.0),
            Some(Source::Shared) => "shared-store".to_owned(),
            Some(Source::Origin { origin: 0, lane }) => format!("origin/{lane}"),
            Some(Source::Origin { origin, lane }) => format!("mirror-{origin}/{lane}"),
            Some(Source::Member(id)) => format!("member-{}", id.0 - MEMBERS),
        }
    }

    /// The sources of a key, best first.
    fn ranked(self, key: &CacheKey) -> Vec<SourceId> {
        // A continuation token means something to the origin that gave it, and to no other.
        let primary_only = match key {
            CacheKey::List(query) => query.token.is_some(),
            CacheKey::Buckets => true,
            CacheKey::Head(_) | CacheKey::Bucket(_) | CacheKey::Chunk(_) => false,
        };
        let origins = if primary_only { 1 } else { self.origins };
        // Only chunks are in the shared store.
        let shared = (self.shared && matches!(key, CacheKey::Chunk(_))).then_some(Source::Shared);
        let lanes = (0..LANES)
            .flat_map(|lane| (0..origins).map(move |origin| Source::Origin { origin, lane }));
        shared.into_iter().chain(lanes).map(Self::id).collect()
    }
}

/// Stores and origins; and before them, for what this member coordinates since a short while, the
/// members that may have done so before. A shared store has the chunks that those had.
#[derive(Clone, Debug)]
pub(crate) struct HomeSelect {
    pub(crate) sources: Sources,
    pub(crate) cluster: Option<Arc<Cluster>>,
}

impl Select<CacheKey> for HomeSelect {
    fn rank(&self, key: &CacheKey, _up: &[SourceId]) -> Soon<Vec<SourceId>> {
        let mut ranked = self.sources.ranked(key);
        if let Some(cluster) = &self.cluster
            && !(self.sources.shared && matches!(key, CacheKey::Chunk(_)))
        {
            ranked.splice(0..0, cluster.members().holders(key));
        }
        Soon::Now(ranked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        key::Version,
        types::{ListQuery, ObjectName},
    };
    use std::sync::Arc;

    fn list(token: Option<&str>) -> CacheKey {
        CacheKey::List(Arc::new(ListQuery {
            bucket: "b".into(),
            prefix: "".into(),
            delimiter: None,
            start_after: None,
            token: token.map(Arc::from),
            keys_max: 1000,
        }))
    }

    fn chunk() -> CacheKey {
        let version = Version {
            name: ObjectName {
                bucket: "b".into(),
                key: "k".into(),
            },
            etag: "\"e\"".into(),
            size: 10,
            chunk_size: 8,
            origin: "o".into(),
        };
        CacheKey::Chunk(crate::key::ChunkKey {
            version: Arc::new(version),
            index: 0,
        })
    }

    #[test]
    fn ids_round_trip() {
        for shared in [false, true] {
            let sources = Sources { origins: 3, shared };
            for source in sources.all() {
                assert_eq!(sources.source(Sources::id(source)), Some(source));
            }
            assert_eq!(sources.all().count(), 6 + usize::from(shared));
            assert_eq!(sources.source(SourceId(7)), None);
            let member = SourceId(MEMBERS + 3);
            assert_eq!(sources.source(member), Some(Source::Member(member)));
            assert_eq!(sources.source(SourceId(MEMBERS - 1)), None);
        }
    }

    #[test]
    fn ranks_the_store_then_the_primary_then_mirrors_then_second_lanes() {
        let check = |origins, shared, key: &CacheKey, expected: &[&str]| {
            let sources = Sources { origins, shared };
            let ranked = sources.ranked(key);
            let names: Vec<_> = ranked.into_iter().map(|id| sources.name(id)).collect();
            assert_eq!(names, expected, "{key:?}");
        };
        let two = ["origin/0", "mirror-1/0", "origin/1", "mirror-1/1"];
        check(1, true, &chunk(), &["shared-store", "origin/0", "origin/1"]);
        check(2, false, &chunk(), &two);
        check(2, true, &list(None), &two);
        check(2, true, &list(Some("t")), &["origin/0", "origin/1"]);
        check(2, true, &CacheKey::Buckets, &["origin/0", "origin/1"]);
    }
}
