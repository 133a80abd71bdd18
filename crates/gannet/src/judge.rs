//! [`Judge`]: whether an answer is the datum.

use crate::{
    Body, Soon,
    engine::{Key, SourceId, Verdict, WaiterId},
};

/// Whether an answer is the datum.
///
/// While a judge thinks, the key stays in flight and nothing else waits for it. A judge that panics
/// gave no verdict ([`Verdict::GaveUp`]).
///
/// A closure `Fn(&K, &M, &Body) -> Verdict` is one, run on the worker; costly checks belong into
/// [`Soon::later`], on a blocking thread if they burn the processor:
///
/// ```
/// use gannet::{Answered, Judge, Soon, engine::Verdict};
///
/// struct Slow;
///
/// impl Judge<String, ()> for Slow {
///     fn judge(&self, answered: Answered<'_, String, ()>) -> Soon<Verdict> {
///         let (key, body) = (answered.key.clone(), answered.body);
///         Soon::later(async move {
///             let fits = tokio::task::spawn_blocking(move || body.len() == key.len() as u64);
///             match fits.await {
///                 Ok(true) => Verdict::Valid,
///                 Ok(false) => Verdict::Invalid,
///                 Err(_) => Verdict::GaveUp,
///             }
///         })
///     }
/// }
/// ```
pub trait Judge<K: Key, M>: Send + Sync + 'static {
    /// Judges one answer.
    fn judge(&self, answered: Answered<'_, K, M>) -> Soon<Verdict>;
}

/// An answer to be judged.
#[derive(Debug)]
pub struct Answered<'a, K, M> {
    /// What was asked for.
    pub key: &'a K,
    /// What came before the bytes.
    pub meta: &'a M,
    /// The bytes, and how many the source said there would be.
    pub body: Body,
    /// Who brought them, in the order of their bytes.
    pub sources: &'a [SourceId],
    /// The callers that the verdict is for ([`Fetch::waiter`](crate::Fetch::waiter)).
    pub waiters: &'a [WaiterId],
}

/// Takes every answer: right where the transport has verified it (length, etag), as the driver
/// checks lengths by itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct AcceptAll;

impl<K: Key, M: 'static> Judge<K, M> for AcceptAll {
    fn judge(&self, _answered: Answered<'_, K, M>) -> Soon<Verdict> {
        Soon::Now(Verdict::Valid)
    }
}

impl<K: Key, M: 'static, F> Judge<K, M> for F
where
    F: Fn(&K, &M, &Body) -> Verdict + Send + Sync + 'static,
{
    fn judge(&self, answered: Answered<'_, K, M>) -> Soon<Verdict> {
        Soon::Now(self(answered.key, answered.meta, &answered.body))
    }
}
