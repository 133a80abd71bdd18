//! The bodies of answers, and how they are read within bounds.

use bytes::{Bytes, BytesMut};
use http_body::Body as HttpBody;
use std::{future::poll_fn, pin::pin, time::Duration};
use tokio::time;

/// Bounds of a body that is read as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadBounds {
    /// The most bytes.
    pub bytes_max: usize,
    /// The longest time, from now to the last byte: what a drip is cut by.
    pub time_max: Duration,
}

/// Why a body could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// It is larger than allowed.
    #[error("the answer is larger than {bytes_max} bytes")]
    TooLarge {
        /// The bound.
        bytes_max: usize,
    },
    /// It did not come to its end in time.
    #[error("the answer was not complete within {0:?}")]
    TimedOut(Duration),
    /// It broke off.
    #[error("the answer broke off: {0}")]
    Broken(String),
}

/// Reads a body as a whole, or finds it too large before that much is held.
///
/// # Errors
///
/// If it is too large, too slow, or breaks off.
pub async fn read_bounded<B>(body: B, bounds: ReadBounds) -> Result<Bytes, BodyError>
where
    B: HttpBody<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let too_large = BodyError::TooLarge {
        bytes_max: bounds.bytes_max,
    };
    let expected = body.size_hint();
    if expected.lower() > bounds.bytes_max as u64 {
        return Err(too_large);
    }
    let reading = async {
        let mut body = pin!(body);
        let mut whole = BytesMut::new();
        let mut first = None::<Bytes>;
        while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            let frame = frame.map_err(|error| BodyError::Broken(error.to_string()))?;
            let Ok(bytes) = frame.into_data() else {
                continue;
            };
            let held = first.as_ref().map_or(whole.len(), Bytes::len);
            if bytes.len() > bounds.bytes_max.saturating_sub(held) {
                return Err(too_large.clone());
            }
            // Most fit into one piece, which is not copied.
            if held == 0 {
                first = Some(bytes);
                continue;
            }
            if let Some(first) = first.take() {
                // As much as is announced and was looked at above.
                let announced = expected.exact().unwrap_or(0) as usize;
                whole.reserve(announced.clamp(first.len() + bytes.len(), bounds.bytes_max));
                whole.extend_from_slice(&first);
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(first.unwrap_or_else(|| whole.freeze()))
    };
    match time::timeout(bounds.time_max, reading).await {
        Ok(read) => read,
        Err(_) => Err(BodyError::TimedOut(bounds.time_max)),
    }
}
