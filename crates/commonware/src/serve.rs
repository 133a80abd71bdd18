//! The serving side: requests of peers go to the producer, and what it produces goes back.

use bytes::Bytes;
use commonware_resolver::p2p::Producer;
use commonware_utils::futures::Pool;
use std::num::NonZeroUsize;

/// A request that the producer is done with.
#[derive(Debug)]
pub(crate) struct Served<P, T> {
    pub(crate) peer: P,
    pub(crate) id: u64,
    /// When it was asked for, as the caller reckons.
    pub(crate) since: T,
    /// None: there is nothing to send.
    pub(crate) bytes: Option<Bytes>,
}

/// The producer, and the requests that it works on.
pub(crate) struct Serves<Pro, P, T> {
    producer: Pro,
    max: NonZeroUsize,
    pending: Pool<'static, Served<P, T>>,
}

impl<Pro, P, T> Serves<Pro, P, T>
where
    Pro: Producer,
    P: Send + 'static,
    T: Send + 'static,
{
    pub(crate) fn new(producer: Pro, max: NonZeroUsize) -> Self {
        Self {
            producer,
            max,
            pending: Pool::default(),
        }
    }

    /// A peer asks. With too many at work already there is nothing for it, and that is returned.
    pub(crate) fn requested(
        &mut self,
        peer: P,
        id: u64,
        key: Pro::Key,
        since: T,
    ) -> Option<Served<P, T>> {
        if self.pending.len() >= self.max.get() {
            let bytes = None;
            return Some(Served {
                peer,
                id,
                since,
                bytes,
            });
        }
        let produced = self.producer.produce(key);
        self.pending.push(async move {
            let bytes = produced.await.ok();
            Served {
                peer,
                id,
                since,
                bytes,
            }
        });
        None
    }

    /// The next request that the producer is done with; waits for ever while there is none.
    pub(crate) async fn next(&mut self) -> Served<P, T> {
        self.pending.next_completed().await
    }

    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }
}
