//! The body of a response: bytes at hand, or bytes as they arrive from the backend, checked for their
//! length. A body that breaks off is an error to hyper, which then cuts the connection (HTTP/1) or
//! resets the stream (HTTP/2): a short object never looks like a whole one.

use super::{metrics::EdgeMetrics, span};
use crate::traces::Span;
use crate::types::{ObjectError, Segment, SegmentStream};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Instant,
};

/// The body of a response.
pub(crate) struct EdgeBody {
    source: Source,
    /// Bytes still owed.
    left: u64,
    /// How it broke off, not said yet.
    broken: Option<BodyError>,
    form: Form,
    metrics: Arc<EdgeMetrics>,
    watch: Arc<Watch>,
    /// Of the request; ends with the body.
    span: Span,
    /// Bytes owed at first, where there is a span to tell.
    len: u64,
}

enum Source {
    Bytes(Bytes),
    Stream {
        stream: SegmentStream,
        pending: Bytes,
    },
}

/// How a body is handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// To hyper, in frames of at most so many bytes.
    Frames(usize),
    /// To [`direct`](super::h1), in segments as they come, files among them.
    Segments,
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("{0}")]
    Read(#[from] ObjectError),
    #[error("the object ended {0} bytes early")]
    Short(u64),
    #[error("the backend sent more than was asked for")]
    Long,
    #[error("the backend sent a file where only bytes can be sent")]
    File,
}

/// What a connection knows of one of its responses.
#[derive(Debug)]
pub(crate) struct Watch {
    epoch: Instant,
    /// When bytes were handed out that nobody has come back from yet, in milliseconds since `epoch`,
    /// plus one; 0: the client waits for us, not we for it.
    handed_out: AtomicU64,
    done: AtomicBool,
    broken: AtomicBool,
}

impl Watch {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            epoch: Instant::now(),
            handed_out: AtomicU64::new(0),
            done: AtomicBool::new(false),
            broken: AtomicBool::new(false),
        })
    }

    /// Whether the body has been taken to its end, or dropped.
    pub(crate) fn done(&self) -> bool {
        self.done.load(Relaxed)
    }

    /// Whether the body broke off.
    pub(crate) fn broken(&self) -> bool {
        self.broken.load(Relaxed)
    }

    /// For how long the client has taken nothing, in milliseconds.
    pub(crate) fn stuck_ms(&self) -> u64 {
        match self.handed_out.load(Relaxed) {
            0 => 0,
            at => self.now_ms().saturating_sub(at - 1),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl EdgeBody {
    pub(crate) fn bytes(bytes: Bytes, metrics: Arc<EdgeMetrics>, watch: Arc<Watch>) -> Self {
        let left = bytes.len() as u64;
        Self {
            source: Source::Bytes(bytes),
            left,
            broken: None,
            form: Form::Segments,
            metrics,
            watch,
            span: Span::default(),
            len: 0,
        }
    }

    pub(crate) fn stream(
        stream: SegmentStream,
        len: u64,
        form: Form,
        metrics: Arc<EdgeMetrics>,
        watch: Arc<Watch>,
    ) -> Self {
        let source = Source::Stream {
            stream,
            pending: Bytes::new(),
        };
        Self {
            source,
            left: len,
            broken: None,
            form,
            metrics,
            watch,
            span: Span::default(),
            len: 0,
        }
    }

    /// Has this span end with the body.
    pub(crate) fn trace(&mut self, span: Span) {
        self.len = self.left;
        self.span = span;
    }

    /// Bytes still owed.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// The next segment, none that is empty; `None` once nothing is owed. An error is said once, and
    /// the response is to be cut then.
    pub(crate) fn poll_segment(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Segment, BodyError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let segment = ready!(self.poll_source(cx));
        match &segment {
            Ok(segment) => {
                self.metrics.bytes.fetch_add(segment.len(), Relaxed);
            }
            Err(error) => self.break_off(error),
        }
        Poll::Ready(Some(segment))
    }

    /// Takes note that the response ends here, unfinished.
    pub(crate) fn break_off(&self, error: &BodyError) {
        tracing::debug!(%error, left = self.left, "response cut");
        self.metrics.aborted.fetch_add(1, Relaxed);
        self.watch.broken.store(true, Relaxed);
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Result<Segment, BodyError>> {
        let frame_max = match self.form {
            Form::Frames(max) => max,
            Form::Segments => usize::MAX,
        };
        let segment = match &mut self.source {
            Source::Bytes(bytes) => Segment::Bytes(bytes.split_to(bytes.len().min(frame_max))),
            Source::Stream { stream, pending } => loop {
                if !pending.is_empty() {
                    break Segment::Bytes(pending.split_to(pending.len().min(frame_max)));
                }
                match ready!(stream.as_mut().poll_next(cx)) {
                    Some(Ok(Segment::Bytes(bytes))) => *pending = bytes,
                    Some(Ok(file)) if !file.is_empty() => break file,
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Poll::Ready(Err(error.into())),
                    None => return Poll::Ready(Err(BodyError::Short(self.left))),
                }
            },
        };
        match self.left.checked_sub(segment.len()) {
            Some(left) => self.left = left,
            None => return Poll::Ready(Err(BodyError::Long)),
        }
        Poll::Ready(Ok(segment))
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, BodyError>> {
        self.poll_source(cx).map(|segment| match segment? {
            Segment::Bytes(bytes) => Ok(bytes),
            Segment::File { .. } => Err(BodyError::File),
        })
    }
}

impl Body for EdgeBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.watch.handed_out.store(0, Relaxed);
        if self.left == 0 {
            return Poll::Ready(None);
        }
        if let Some(error) = self.broken.take() {
            self.break_off(&error);
            return Poll::Ready(Some(Err(error)));
        }
        match ready!(self.poll_bytes(cx)) {
            Ok(chunk) => {
                self.watch
                    .handed_out
                    .store(self.watch.now_ms().saturating_add(1), Relaxed);
                self.metrics.bytes.fetch_add(chunk.len() as u64, Relaxed);
                Poll::Ready(Some(Ok(Frame::data(chunk))))
            }
            Err(error) => {
                // An error makes hyper drop what it has not written yet. Told a moment later, it
                // sends that first, and the client has all there is to resume from.
                self.broken = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

impl Drop for EdgeBody {
    fn drop(&mut self) {
        self.watch.handed_out.store(0, Relaxed);
        self.watch.done.store(true, Relaxed);
        if self.span.is_on() {
            span::sent(&mut self.span, self.len - self.left, self.left == 0);
        }
    }
}

impl fmt::Debug for EdgeBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EdgeBody")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use http_body_util::BodyExt;

    async fn check(
        chunks: Vec<Result<&'static [u8], ObjectError>>,
        len: u64,
        want: Result<&str, &str>,
    ) {
        let metrics = Arc::new(EdgeMetrics::default());
        let watch = Watch::new();
        let items = chunks
            .into_iter()
            .map(|c| c.map(|bytes| Segment::Bytes(Bytes::from_static(bytes))));
        let stream = Box::pin(stream::iter(items));
        let form = Form::Frames(3);
        let body = EdgeBody::stream(stream, len, form, metrics.clone(), watch.clone());
        let got = body.collect().await;
        match (got, want) {
            (Ok(got), Ok(want)) => assert_eq!(got.to_bytes(), want),
            (Err(error), Err(want)) => assert!(error.to_string().contains(want), "{error}"),
            (got, want) => panic!("{got:?}, not {want:?}"),
        }
        assert!(watch.done());
        assert_eq!(watch.broken(), want.is_err());
        assert_eq!(metrics.aborted.load(Relaxed), u64::from(want.is_err()));
    }

    #[tokio::test]
    async fn lengths_are_kept() {
        check(
            vec![Ok(b"hello"), Ok(b""), Ok(b" world")],
            11,
            Ok("hello world"),
        )
        .await;
        check(vec![Ok(b"hello")], 11, Err("6 bytes early")).await;
        check(vec![Ok(b"hello world!")], 11, Err("more than")).await;
        check(
            vec![Ok(b"hello"), Err(ObjectError::EtagChanged)],
            11,
            Err("changed"),
        )
        .await;
        check(vec![], 0, Ok("")).await;
    }
}
