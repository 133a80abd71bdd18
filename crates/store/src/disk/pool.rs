//! Where blocking operations run: on tokio's blocking threads, a bounded number at a time.

use crate::StoreError;
use std::sync::Arc;
use tokio::{sync::Semaphore, task::spawn_blocking};

/// A bounded share of the blocking threads.
#[derive(Debug)]
pub(super) struct Pool {
    permits: Arc<Semaphore>,
    size: u32,
}

impl Pool {
    pub(super) fn new(size: usize) -> Self {
        let size = u32::try_from(size).unwrap_or(u32::MAX).clamp(1, 512);
        Self {
            permits: Arc::new(Semaphore::new(size as usize)),
            size,
        }
    }

    /// Runs `work` on a blocking thread. Once it has begun it runs to its end, though the future be
    /// dropped; before that, dropping the future takes it back.
    ///
    /// # Errors
    /// [`StoreError::Closed`] if the runtime is shutting down.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = self
            .permits
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| StoreError::Closed)?;
        let work = spawn_blocking(move || {
            let result = work();
            drop(permit);
            result
        });
        match work.await {
            Ok(result) => Ok(result),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(StoreError::Closed),
            },
        }
    }

    /// Waits until all that has begun has ended.
    pub(super) async fn idle(&self) {
        let _ = self.permits.acquire_many(self.size).await;
    }
}
