//! Whether an answer is the datum: exact length. The etag was compared by the transport before the
//! first byte, as it is what tells one version from another.

use crate::{key::CacheKey, transport::Reply};
use gannet::{Answered, Judge, Soon, engine::Verdict};

/// Judges chunks by their length; everything else came whole or not at all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExactLength;

impl Judge<CacheKey, Reply> for ExactLength {
    fn judge(&self, answered: Answered<'_, CacheKey, Reply>) -> Soon<Verdict> {
        let right = match answered.key {
            CacheKey::Chunk(chunk) => {
                answered.body.is_whole() && answered.body.len() == chunk.len()
            }
            _ => true,
        };
        if !right {
            tracing::warn!(
                key = ?answered.key,
                got = answered.body.len(),
                "an answer of the wrong length is thrown away"
            );
        }
        Soon::Now(if right {
            Verdict::Valid
        } else {
            Verdict::Invalid
        })
    }
}
