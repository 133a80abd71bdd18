//! [`Soon`]: an answer that is at hand, or a future of it.
//!
//! The front end's decisions (ranking, judging, storing) are often made at once and sometimes take
//! a network round trip. The worker takes the first kind as it comes, with neither a task nor an
//! allocation, and gives the second kind a task of its own, so that nothing else waits for it.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
};

/// An answer that is at hand, or a future of it.
///
/// Whoever answers with [`Soon::Now`] does so on the caller's thread: hashing a few kilobytes is
/// fine, hashing megabytes or touching a disk belongs into [`Soon::later`].
///
/// ```
/// use gannet::Soon;
///
/// # async fn f() {
/// assert_eq!(Soon::from(7).await, 7);
/// assert_eq!(Soon::later(async { 7 }).await, 7);
/// # }
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(f());
/// ```
#[must_use = "an answer does nothing unless it is used"]
pub enum Soon<T> {
    /// The answer.
    Now(T),
    /// A future of it. Dropped, it is cancelled.
    Later(Pin<Box<dyn Future<Output = T> + Send>>),
}

impl<T> Soon<T> {
    /// An answer that takes its time.
    pub fn later(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self::Later(Box::pin(future))
    }
}

impl<T> From<T> for Soon<T> {
    fn from(answer: T) -> Self {
        Self::Now(answer)
    }
}

impl<T: Send + 'static> IntoFuture for Soon<T> {
    type Output = T;
    type IntoFuture = Pin<Box<dyn Future<Output = T> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        match self {
            Self::Now(answer) => Box::pin(std::future::ready(answer)),
            Self::Later(future) => future,
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Soon<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now(answer) => f.debug_tuple("Now").field(answer).finish(),
            Self::Later(_) => f.write_str("Later"),
        }
    }
}
