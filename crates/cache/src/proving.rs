//! A shared store's self-test: at the start, and again until it is passed.
//!
//! A store that answers and is unfit (no precondition, versions, no such bucket, no access) keeps the
//! cache from starting: somebody has to choose another. One that cannot be reached, fails or is slow
//! does not: members that are restarted during its outage come up without it, leave it alone, test it
//! again now and then, and use it once it has passed. Should it turn out to be unfit by then, they go
//! on leaving it alone, and say so loudly; who mends it need not restart them.

use crate::{breaker::Breaker, config::CacheError, core::ReadPath};
use gannet_store::{ObjectBlobStore, StoreError};
use std::{future::Future, sync::Arc, time::Duration};

/// One that takes longer for a dozen small requests is sick.
const TIME_MAX: Duration = Duration::from_secs(10);
/// Between two tests: first, and at most.
const PAUSE: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Tests a store at the start; whether it has passed.
///
/// # Errors
/// What a store says that is not fit to be used.
pub(crate) async fn at_start(store: &ObjectBlobStore) -> Result<bool, CacheError> {
    match test(store).await {
        Ok(()) => Ok(true),
        Err(StoreError::Transient(why)) => {
            tracing::error!(
                %why,
                "the shared store could not be tested: it is left alone until it has passed its self-test"
            );
            Ok(false)
        }
        Err(error) => Err(CacheError::Store {
            which: "shared",
            error,
        }),
    }
}

/// Tests the store of a cache that started without its having passed, until it has.
pub(crate) async fn until_passed(store: Arc<ObjectBlobStore>, path: ReadPath) {
    let test = || {
        let store = Arc::clone(&store);
        async move { test(&store).await }
    };
    again(path.0.ways.tiers.breaker(), test).await;
}

async fn again<F>(breaker: &Breaker, test: impl Fn() -> F)
where
    F: Future<Output = Result<(), StoreError>>,
{
    let mut pause = PAUSE;
    loop {
        tokio::time::sleep(pause).await;
        match test().await {
            Ok(()) => {
                breaker.prove();
                tracing::info!("the shared store has passed its self-test, and is used");
                return;
            }
            Err(StoreError::Unsuitable(why)) => {
                breaker.shut(true);
                tracing::error!(%why, "the shared store must not be used, and is left alone");
            }
            Err(error) => {
                breaker.shut(false);
                tracing::warn!(%error, "the shared store still cannot be tested");
            }
        }
        pause = (2 * pause).min(PAUSE_MAX);
    }
}

async fn test(store: &ObjectBlobStore) -> Result<(), StoreError> {
    match tokio::time::timeout(TIME_MAX, store.self_test()).await {
        Ok(end) => end,
        Err(_) => {
            let why = format!("the self-test takes more than {} s", TIME_MAX.as_secs());
            Err(StoreError::Transient(why.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::breaker::Standing;
    use std::sync::Mutex;

    #[tokio::test(start_paused = true)]
    async fn it_is_tested_until_it_has_passed() {
        let breaker = Arc::new(Breaker::default());
        breaker.shut(false);
        let transient = || Err(StoreError::Transient("down".into()));
        let unfit = || Err(StoreError::Unsuitable("versioned".into()));
        // The last first.
        let ends = Mutex::new(vec![Ok(()), transient(), unfit(), transient()]);
        let testing = Arc::clone(&breaker);
        let proving = tokio::spawn(async move {
            again(&testing, async || {
                ends.lock()
                    .unwrap()
                    .pop()
                    .expect("no test after it has passed")
            })
            .await;
        });
        let mut seen = Vec::new();
        for pause in [5, 10, 20, 40] {
            tokio::time::sleep(Duration::from_secs(pause) - Duration::from_millis(1)).await;
            let before = breaker.standing();
            tokio::time::sleep(Duration::from_millis(1)).await;
            tokio::task::yield_now().await;
            seen.push((before, breaker.standing()));
        }
        use Standing::{Unfit, Untested, Well};
        let expected = [
            (Untested, Untested),
            (Untested, Unfit),
            (Unfit, Untested),
            (Untested, Well),
        ];
        assert_eq!(seen, expected);
        proving.await.expect("it has ended");
    }
}
