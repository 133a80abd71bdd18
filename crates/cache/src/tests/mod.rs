//! The read path against origins in memory, on a clock that stands still while nothing waits for it.

mod changes;
mod fake;
mod faults;
mod once;
mod store;

use crate::{
    config::ReadConfig,
    core::ReadPath,
    edge::backend::{Backend as _, RequestContext},
    origin::Origin,
    types::{ObjectError, ObjectName},
};
use bytes::Bytes;
use fake::{Fake, Fault};
use futures_util::{StreamExt as _, TryStreamExt as _};
use gannet_store::BlobStore;
use std::{ops::Range, sync::Arc};

const MIB: u64 = 1 << 20;

fn config() -> ReadConfig {
    ReadConfig {
        chunk_bytes: MIB,
        memory_bytes_max: 64 * MIB,
        read_ahead: 0,
        ..ReadConfig::default()
    }
}

fn name(key: &str) -> ObjectName {
    ObjectName {
        bucket: "b".into(),
        key: key.into(),
    }
}

fn context(owner: u32) -> RequestContext {
    RequestContext {
        request_id: "test".into(),
        owner,
        trace: crate::traces::Parent::default(),
    }
}

/// A read path in front of one origin.
fn path(origin: &Arc<Fake>, config: &ReadConfig) -> ReadPath {
    path_of(&[origin], config, None, None)
}

fn path_of(
    origins: &[&Arc<Fake>],
    config: &ReadConfig,
    disk: Option<Arc<dyn BlobStore>>,
    shared: Option<Arc<dyn BlobStore>>,
) -> ReadPath {
    let origins = origins
        .iter()
        .map(|o| Arc::clone(o) as Arc<dyn Origin>)
        .collect();
    ReadPath::new(
        config,
        origins,
        disk,
        shared,
        None,
        crate::traces::Tracer::default(),
    )
    .unwrap()
}

/// Reads a range as the edge does: looks the object up, and begins anew once if it changed.
async fn read(path: &ReadPath, key: &str, range: Option<Range<u64>>) -> Result<Bytes, ObjectError> {
    read_as(path, key, range, 1).await
}

async fn read_as(
    path: &ReadPath,
    key: &str,
    range: Option<Range<u64>>,
    owner: u32,
) -> Result<Bytes, ObjectError> {
    let (name, context) = (name(key), context(owner));
    let mut again = true;
    loop {
        let meta = path.head(&name, &context).await?;
        let range = range.clone().unwrap_or(0..meta.size);
        match path.read(&name, &meta, range, &context).await {
            Err(ObjectError::EtagChanged) if again => again = false,
            Err(error) => return Err(error),
            Ok(stream) => {
                let pieces: Vec<Bytes> = stream.try_collect().await?;
                return Ok(pieces.concat().into());
            }
        }
    }
}

/// Waits until nothing is in flight any more, for a minute at most: by the clock on the wall, for tokio's
/// may be paused.
async fn settle(path: &ReadPath) {
    let began = std::time::Instant::now();
    loop {
        let snapshot = path.0.home.snapshot().await.unwrap();
        if snapshot.fetches.is_empty() {
            assert_eq!(snapshot.attempts, 0);
            return;
        }
        assert!(began.elapsed().as_secs() < 60, "{snapshot:?}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
