//! [`Store`]: where verified data is committed, and what is held already.

use crate::{
    Body, Fetched, Soon,
    engine::{CommitFault, Key},
};

/// Where verified data is committed, and what is held already.
///
/// The crate `gannet-store` has stores for memory, disk and object stores; a front end joins them to
/// this trait.
pub trait Store<K: Key, M>: Send + Sync + 'static {
    /// What is held of this key, in full. Asked on the caller's task before anything is fetched, so
    /// that what is held never passes through the worker; answer [`Soon::Now`] where memory can tell.
    fn held(&self, key: &K) -> Soon<Option<Fetched<M>>> {
        let _ = key;
        Soon::Now(None)
    }

    /// Stores a datum that was judged valid. Only called under a plan that commits.
    ///
    /// Must be atomic: other readers see all of it or nothing. `Err(CommitFault::Exists)` says that
    /// somebody else has stored it, which is success.
    fn commit(&self, datum: Datum<'_, K, M>) -> Soon<Result<(), CommitFault>>;
}

/// A verified datum to be stored.
#[derive(Debug)]
pub struct Datum<'a, K, M> {
    /// Its key.
    pub key: &'a K,
    /// What came before the bytes.
    pub meta: &'a M,
    /// All its bytes.
    pub body: Body,
}

/// Holds nothing and stores nothing: for plans that do not commit
/// ([`Commit::None`](crate::engine::Commit::None)).
#[derive(Clone, Copy, Debug, Default)]
pub struct NoStore;

impl<K: Key, M: 'static> Store<K, M> for NoStore {
    fn commit(&self, _datum: Datum<'_, K, M>) -> Soon<Result<(), CommitFault>> {
        Soon::Now(Err(CommitFault::Closed))
    }
}
