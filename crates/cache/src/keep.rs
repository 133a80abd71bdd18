//! Where verified chunks go: into the tiers. Answers to questions are kept by the transport, which alone
//! knows for how long they are good.

use crate::{
    failure::commit_fault,
    key::CacheKey,
    tiers::Tiers,
    traces::{Kind, Parent, Span},
    transport::{ChunkFrom, Reply},
    versions::Versions,
};
use gannet::{Datum, Soon, Store, engine::CommitFault};
use gannet_store::{Put, StoreError};
use std::sync::Arc;

/// The fetcher's store.
///
/// It says of nothing that it is held: the read path looks before it asks, and the transport once
/// more before it sends a request.
#[derive(Debug)]
pub(crate) struct Keep {
    pub(crate) tiers: Arc<Tiers>,
    pub(crate) versions: Arc<Versions>,
}

impl Store<CacheKey, Reply> for Keep {
    fn commit(&self, datum: Datum<'_, CacheKey, Reply>) -> Soon<Result<(), CommitFault>> {
        let (CacheKey::Chunk(chunk), Reply::Chunk { from, trace }) = (datum.key, datum.meta) else {
            return Soon::Now(Ok(()));
        };
        let from = *from;
        if from == ChunkFrom::Local {
            return Soon::Now(Err(CommitFault::Exists));
        }
        self.versions.note(&chunk.version);
        let (tiers, chunk, body) = (Arc::clone(&self.tiers), chunk.clone(), datum.body);
        let mut span = commit(trace, datum.key);
        Soon::later(async move {
            let put = tiers
                .commit(&chunk.place(), body.segments(), from == ChunkFrom::Shared)
                .await;
            tracing::debug!(?chunk, ?put, "committed");
            committed(&mut span, &put);
            match put {
                Ok(Put::Stored) => Ok(()),
                Ok(Put::Exists) => Err(CommitFault::Exists),
                Err(error) => Err(commit_fault(&error)),
            }
        })
    }
}

/// The store of the peer fetcher: memory, for a while, to serve on what came from other members. The
/// copy is the coordinator's.
#[derive(Debug)]
pub(crate) struct PeerKeep {
    pub(crate) tiers: Arc<Tiers>,
    pub(crate) versions: Arc<Versions>,
}

impl Store<CacheKey, Reply> for PeerKeep {
    fn commit(&self, datum: Datum<'_, CacheKey, Reply>) -> Soon<Result<(), CommitFault>> {
        let (CacheKey::Chunk(chunk), Reply::Chunk { from, trace }) = (datum.key, datum.meta) else {
            return Soon::Now(Ok(()));
        };
        if *from == ChunkFrom::Local {
            return Soon::Now(Err(CommitFault::Exists));
        }
        self.versions.note(&chunk.version);
        let (tiers, place, body) = (Arc::clone(&self.tiers), chunk.place(), datum.body);
        let mut span = commit(trace, datum.key);
        Soon::later(async move {
            let put = tiers.keep(&place, body.segments()).await;
            committed(&mut span, &put);
            put.map(drop).map_err(|error| commit_fault(&error))
        })
    }
}

/// The span of a commit.
fn commit(trace: &Parent, key: &CacheKey) -> Span {
    let mut span = trace.child(Kind::Internal, "commit");
    span.about(key);
    span
}

fn committed(span: &mut Span, put: &Result<Put, StoreError>) {
    match put {
        Ok(Put::Stored) => span.outcome("stored"),
        Ok(Put::Exists) => span.outcome("exists"),
        Err(error) => span.failed(error),
    }
}
