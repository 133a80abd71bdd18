//! Verification in the background, at a bounded rate.
//!
//! Goes through the index again and again; passes over what was verified within half of
//! `verify_every`, so that what is served is rarely stopped for it. Reads of what nobody has open go
//! past the page cache, so that the medium is what is verified and the cache is not washed out.

use super::{
    file::{self, Bad},
    index::{Chunk, Key},
    store::Shared,
};
use rustix::fs::Advice;
use std::{
    sync::{Arc, Weak},
    time::Duration,
};

/// Entries looked at for each time that the lock is taken.
const STEP: usize = 256;
/// Pause after a whole round.
const REST: Duration = Duration::from_secs(60);

/// What comes next.
enum Next {
    Verify(Key, Chunk, Arc<str>),
    /// None of these were due.
    Skip,
    /// The round is over.
    Rest,
}

/// Verifies until the store is gone.
pub(super) async fn run(store: Weak<Shared>, rate: u64) {
    let mut at = 0;
    loop {
        let Some(shared) = store.upgrade() else {
            return;
        };
        let pause = match next(&shared, &mut at) {
            Next::Verify(key, chunk, space) => {
                let pool = shared.readers.clone();
                let work = move || verify(&shared, key, &chunk, &space);
                if pool.run(work).await.is_err() {
                    return;
                }
                Duration::from_secs_f64(chunk.len as f64 / rate as f64)
            }
            Next::Skip => Duration::ZERO,
            Next::Rest => {
                at = 0;
                REST.min(shared.config.verify_every / 4)
                    .max(Duration::from_millis(100))
            }
        };
        tokio::time::sleep(pause).await;
    }
}

fn next(shared: &Shared, at: &mut usize) -> Next {
    let index = shared.lock();
    if index.closed {
        return Next::Rest;
    }
    for _ in 0..STEP {
        let Some((key, chunk, after)) = index.chunks.walk(*at) else {
            return Next::Rest;
        };
        *at = after;
        if !shared.is_fresh(chunk, shared.config.verify_every / 2) {
            return Next::Verify(*key, *chunk, index.spaces.name(key.space));
        }
    }
    Next::Skip
}

/// Verifies one file and draws the consequences.
pub(super) fn verify(shared: &Shared, key: Key, chunk: &Chunk, space: &str) {
    let path = shared.layout.file(space, &key.digest, chunk.len);
    let in_use = shared.lock().open_file(&key).is_some();
    let verified =
        file::open(&*shared.fs, &path, space, &key.digest, chunk.len).and_then(|opened| {
            let (file, frame, touched) = opened;
            let past_cache = || {
                if !in_use {
                    let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
                }
            };
            past_cache();
            let verified = file::verify(&*shared.fs, &path, &file, &frame);
            past_cache();
            verified.map(|()| touched)
        });
    match verified {
        Ok(touched) => {
            shared.counters.scrubbed.add(1);
            shared.verified(key, chunk.generation, touched);
        }
        // Another time.
        Err(Bad::Means(error)) => tracing::debug!(%error, "a stored file could not be verified"),
        Err(bad) => _ = shared.bad(key, chunk.generation, bad),
    }
}
