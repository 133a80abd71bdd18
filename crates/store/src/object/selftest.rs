//! Proof, on the backend itself, that it can carry the store.
//!
//! There are S3 servers that accept `If-None-Match: *` and ignore it: every commit would then replace
//! the last, under readers who verify against the first. And a versioned bucket keeps all that is
//! deleted, unseen and paid for. Both are found out before anything is stored.

use super::{chain, failed};
use crate::StoreError;
use bytes::Bytes;
use futures_util::future;
use object_store::{
    Error, GetOptions, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutResult, path::Path,
};
use std::{
    hash::{BuildHasher as _, RandomState},
    time::SystemTime,
};

/// Why the test has not been passed.
enum Failed {
    For(StoreError),
    /// Neither of two writers won. A write whose answer was lost, and that was sent again, looks so too.
    Nobody,
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::For(error)
    }
}

/// Runs the test under `base`, and cleans up.
pub(super) async fn run(store: &dyn ObjectStore, base: &Path) -> Result<(), StoreError> {
    for _ in 0..2 {
        match once(store, base).await {
            Ok(()) => return Ok(()),
            Err(Failed::For(error)) => return Err(error),
            Err(Failed::Nobody) => {}
        }
    }
    Err(unsuitable("a put-if-absent of a new object was refused"))
}

async fn once(store: &dyn ObjectStore, base: &Path) -> Result<(), Failed> {
    // No space has a name like this one.
    let nonce = RandomState::new().hash_one((SystemTime::now(), std::process::id()));
    let path = Path::parse(format!("{base}/=selftest/{nonce:016x}"))
        .expect("the base is a path, and the rest is plain");
    let end = preconditions(store, &path).await;
    let deleted = store.delete(&path).await;
    let versions = end?;
    match deleted {
        Ok(()) => {}
        Err(error) => return Err(answered("delete what the self-test had put", error).into()),
    }
    match store.head(&path).await {
        Err(Error::NotFound { .. }) => {}
        Ok(_) => return Err(unsuitable("what was deleted is still there").into()),
        Err(error @ Error::PermissionDenied { .. }) => {
            return Err(Failed::For(StoreError::Auth(
                format!(
                    "a missing object is answered with a refusal, so that it cannot be told from one: \
                     grant the permission to list the bucket (s3:ListBucket): {}",
                    chain(&error)
                )
                .into(),
            )));
        }
        Err(error) => return Err(answered("look for what was deleted", error).into()),
    }
    Ok(not_versioned(store, &path, versions).await?)
}

/// Tests put-if-absent and reads; gives what the backend calls the version of the object.
async fn preconditions(store: &dyn ObjectStore, path: &Path) -> Result<Option<String>, Failed> {
    let payloads = ["the first of two writers", "the second of two writers"].map(Bytes::from);
    let put = |payload: &Bytes| {
        store.put_opts(
            path,
            payload.clone().into(),
            PutOptions::from(PutMode::Create),
        )
    };
    let (first, second) = future::join(put(&payloads[0]), put(&payloads[1])).await;
    let (winner, won) = match (outcome(first)?, outcome(second)?) {
        (Some(won), None) => (&payloads[0], won),
        (None, Some(won)) => (&payloads[1], won),
        (Some(_), Some(_)) => {
            return Err(Failed::For(unsuitable(
                "of two puts-if-absent (If-None-Match: *) of one object both were accepted",
            )));
        }
        (None, None) => return Err(Failed::Nobody),
    };
    if outcome(put(&Bytes::from("a late writer")).await)?.is_some() {
        return Err(Failed::For(unsuitable(
            "a put-if-absent (If-None-Match: *) replaced an object",
        )));
    }
    let read = store
        .get(path)
        .await
        .map_err(|error| answered("read", error))?;
    let read = read
        .bytes()
        .await
        .map_err(|error| answered("read", error))?;
    if read != *winner {
        return Err(Failed::For(unsuitable(
            "an object that was won by one writer has another's bytes",
        )));
    }
    let part = store
        .get_range(path, 4..9)
        .await
        .map_err(|error| answered("read a range", error))?;
    if part != winner[4..9] {
        return Err(Failed::For(unsuitable(
            "a ranged read gave other bytes than were asked for",
        )));
    }
    Ok(won.version)
}

fn outcome(put: object_store::Result<PutResult>) -> Result<Option<PutResult>, StoreError> {
    match put {
        Ok(won) => Ok(Some(won)),
        Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(None),
        Err(error @ Error::NotFound { .. }) => Err(StoreError::Unsuitable(
            format!(
                "nothing can be put: {}: does the bucket exist?",
                chain(&error)
            )
            .into(),
        )),
        Err(error) => Err(answered("put if absent", error)),
    }
}

/// What an error means here: an answer that will be the same next time is a verdict, and not a store
/// that cannot be reached.
fn answered(what: &str, error: Error) -> StoreError {
    let text = chain(&error);
    match failed(what, error) {
        StoreError::Transient(why) if is_final(&text) => unsuitable(&why),
        error => error,
    }
}

/// Whether an error is a status that says nothing about this moment, by the words of `object_store`.
fn is_final(text: &str) -> bool {
    let status = text.split_once("status code: ").map(|(_, rest)| rest);
    let status = status.and_then(|rest| rest.get(..3)?.parse::<u16>().ok());
    match status {
        // S3 has a time-out for bodies with this status.
        Some(400) => !text.contains("RequestTimeout"),
        // Timed out, too early, throttled.
        Some(408 | 425 | 429) => false,
        Some(status) => matches!(status, 300..=499 | 501 | 505),
        None => false,
    }
}

/// Tests that the version that was deleted is gone.
async fn not_versioned(
    store: &dyn ObjectStore,
    path: &Path,
    version: Option<String>,
) -> Result<(), StoreError> {
    let Some(version) = version else {
        return Ok(());
    };
    let options = GetOptions {
        version: Some(version),
        ..GetOptions::default()
    };
    match store.get_opts(path, options).await {
        Ok(_) => Err(unsuitable(
            "the bucket is versioned: all that is dropped would be kept, and paid for, unseen",
        )),
        Err(Error::NotFound { .. }) => Ok(()),
        Err(error) => {
            tracing::warn!(%error, "whether the bucket is versioned could not be found out");
            Ok(())
        }
    }
}

fn unsuitable(what: &str) -> StoreError {
    StoreError::Unsuitable(
        format!(
            "this object store cannot be shared: {what}: use a bucket (and a server) without that"
        )
        .into(),
    )
}
