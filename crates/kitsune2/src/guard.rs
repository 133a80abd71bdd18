//! The host's own code may panic: that is its error, and not the end of our task.

use futures_util::FutureExt as _;
use kitsune2_api::{K2Error, K2Result};
use std::{any::Any, panic::AssertUnwindSafe};

/// Makes a call to the host, and takes a panic for an error. The call is made in here: it may panic
/// before there is a future.
pub(crate) async fn guarded<T>(call: impl AsyncFnOnce() -> K2Result<T>) -> K2Result<T> {
    match AssertUnwindSafe(async { call().await })
        .catch_unwind()
        .await
    {
        Ok(result) => result,
        Err(panic) => Err(K2Error::other(format!("it panicked: {}", message(&*panic)))),
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
