//! What is done with the body of a request that is refused.

use http::{HeaderMap, header};
use http_body::Body;
use http_body_util::BodyExt as _;
use std::time::Duration;

/// How much of a refused upload is read so that its sender gets to see the refusal.
const DRAIN_MAX: u64 = 256 << 10;
/// How long that may take.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);

/// Reads a small upload that is on its way already, so that closing the connection does not take the
/// answer down with it. Who waits for a `100 Continue` sends none.
pub(crate) async fn drain<B>(mut body: B, headers: &HeaderMap)
where
    B: Body<Data: Send, Error: Send> + Send + Unpin,
{
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let read = async {
        let mut left = DRAIN_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            let len = frame
                .data_ref()
                .map_or(0, |data| bytes::Buf::remaining(data) as u64);
            let Some(rest) = left.checked_sub(len.max(1)) else {
                return;
            };
            left = rest;
        }
    };
    // Either way the answer goes out.
    let _ = tokio::time::timeout(DRAIN_TIME_MAX, read).await;
}
