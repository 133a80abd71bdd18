//! [`Select`]: which sources may serve a key, best first.

use crate::{
    Soon,
    engine::{Key, SourceId},
};

/// Which sources may serve a key, best first.
///
/// Asked anew for each cycle over the candidates, so that a ranking may change while a fetch is
/// retried. The engine itself puts sources that back off last and leaves out the blocked ones.
///
/// A closure `Fn(&K, &[SourceId]) -> Vec<SourceId>` is one:
///
/// ```
/// use gannet::{Select, engine::SourceId};
///
/// let mirrors_last = |_key: &String, sources: &[SourceId]| {
///     let mut ranked = sources.to_vec();
///     ranked.sort_by_key(|source| source.0 >= 100);
///     ranked
/// };
/// fn is_select(_: impl Select<String>) {}
/// is_select(mirrors_last);
/// ```
pub trait Select<K: Key>: Send + Sync + 'static {
    /// Ranks the sources for a key. `sources` are those that are up, in the order they were added.
    fn rank(&self, key: &K, sources: &[SourceId]) -> Soon<Vec<SourceId>>;
}

/// All sources, in the order they were added.
#[derive(Clone, Copy, Debug, Default)]
pub struct InOrder;

impl<K: Key> Select<K> for InOrder {
    fn rank(&self, _key: &K, sources: &[SourceId]) -> Soon<Vec<SourceId>> {
        Soon::Now(sources.to_vec())
    }
}

impl<K: Key, F> Select<K> for F
where
    F: Fn(&K, &[SourceId]) -> Vec<SourceId> + Send + Sync + 'static,
{
    fn rank(&self, key: &K, sources: &[SourceId]) -> Soon<Vec<SourceId>> {
        Soon::Now(self(key, sources))
    }
}
