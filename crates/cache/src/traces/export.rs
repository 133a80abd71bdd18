//! From the queue of spans to the collector: OTLP over HTTP, in batches, with our one HTTP client.
//!
//! One batch is on its way at a time. A collector that is slow or gone holds up nothing but this task:
//! the queue fills meanwhile, and what does not fit is dropped. A batch that the collector does not
//! take for the moment is sent again, but not for long: spans of now are worth more than those of then.

use super::{
    Tracer, encode,
    span::{Record, Value},
};
use bytes::Bytes;
use gannet::{
    http::{Client, ClientConfig},
    metrics::Page,
};
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};
use url::Url;

/// Spans that wait to be sent. With each at its longest, some megabytes.
const QUEUE_MAX: usize = 4096;
/// Spans that are sent at once, and for how long one may wait for others.
const BATCH_MAX: usize = 512;
const GATHER: Duration = Duration::from_secs(1);
/// How long the collector has to take a batch.
const SEND_TIME_MAX: Duration = Duration::from_secs(10);
/// When a batch that was not taken is sent again.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];
/// At the end, what is left has so long to be sent.
const FLUSH_TIME_MAX: Duration = Duration::from_secs(5);
/// The longest answer that is read, so that the connection can be kept.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Where collectors take traces.
const PATH: &str = "/v1/traces";

/// Traces: where to, and how many.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceConfig {
    /// The collector: `http://host:4318`, or with the path at which it takes traces.
    pub url: String,
    /// Which part of the requests is traced, of those whose client does not say: 0 to 1.
    pub sample: f64,
}

/// Why nothing can be sent to a collector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("traces: {0}")]
pub struct TraceConfigError(String);

impl TraceConfig {
    /// The address that traces are sent to.
    ///
    /// # Errors
    /// If that is none, or the sample is no part of anything.
    pub fn endpoint(&self) -> Result<Url, TraceConfigError> {
        let fail = |why: String| Err(TraceConfigError(why));
        if !(0.0..=1.0).contains(&self.sample) {
            return fail(format!("{} is not between 0 and 1", self.sample));
        }
        let mut url = match Url::parse(&self.url) {
            Ok(url) => url,
            Err(error) => return fail(format!("the collector's address: {error}")),
        };
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return fail("the collector's address is not http:// or https://".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return fail("the collector's address must not hold a password".to_owned());
        }
        url.set_fragment(None);
        if url.path() == "/" {
            url.set_path(PATH);
        }
        Ok(url)
    }
}

/// What became of spans.
#[derive(Debug, Default)]
pub(super) struct Counts {
    exported: AtomicU64,
    /// The collector did not take them.
    dropped_export: AtomicU64,
    /// The queue was full.
    pub(super) dropped_queue: AtomicU64,
    /// Traces that clients wished for, beyond what is granted.
    pub(super) refused: AtomicU64,
}

impl Counts {
    pub(super) fn write(&self, page: &mut Page) {
        let mut family = page.counter(
            "gannet_traces_spans_total",
            "Spans, by what became of them.",
        );
        for (outcome, count) in [
            ("exported", &self.exported),
            ("overflow", &self.dropped_queue),
            ("undelivered", &self.dropped_export),
        ] {
            family.sample(&[("outcome", outcome)], count.load(Relaxed));
        }
        page.counter(
            "gannet_traces_refused_total",
            "Traces that clients asked for beyond what is granted to them.",
        )
        .sample(&[], self.refused.load(Relaxed));
    }
}

/// The task that sends spans.
#[derive(Debug)]
pub(crate) struct Exporter {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Exporter {
    /// Starts it; `instance` is what this process is called. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// As [`TraceConfig::endpoint`].
    pub(crate) fn start(
        config: &TraceConfig,
        instance: &str,
    ) -> Result<(Tracer, Self), TraceConfigError> {
        let url = config.endpoint()?;
        let mut client = ClientConfig::default();
        client.head_timeout = SEND_TIME_MAX;
        client.idle_per_host_max = 1;
        let client = Client::new(client).map_err(|error| TraceConfigError(error.to_string()))?;
        let (queue, records) = mpsc::channel(QUEUE_MAX);
        let counts = Arc::new(Counts::default());
        let tracer = Tracer::new(config.sample, queue, Arc::clone(&counts));
        let (stop, stopped) = watch::channel(false);
        // Without the query, which may hold a key.
        let shown = url.as_str().split('?').next();
        tracing::info!(
            url = shown,
            sample = config.sample,
            instance,
            "traces are sent"
        );
        let sending = Sending {
            client,
            url: url.as_str().to_owned(),
            resource: vec![
                ("service.name", "gannet".into()),
                ("service.version", env!("CARGO_PKG_VERSION").into()),
                ("service.instance.id", instance.into()),
            ],
            counts,
            stopped,
            stopping: false,
            failing: false,
        };
        let task = tokio::spawn(sending.run(records));
        Ok((tracer, Self { stop, task }))
    }

    /// Sends what is left, and ends, in bounded time.
    pub(crate) async fn shutdown(mut self) {
        // Nobody listens only if it has ended already.
        let _ = self.stop.send(true);
        if timeout(FLUSH_TIME_MAX, &mut self.task).await.is_err() {
            tracing::warn!("the collector takes nothing: the last spans are lost");
        }
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Sending {
    client: Client,
    url: String,
    resource: Vec<(&'static str, Value)>,
    counts: Arc<Counts>,
    stopped: watch::Receiver<bool>,
    /// Nothing comes any more.
    stopping: bool,
    /// Whether the last batch was lost, which has been said then.
    failing: bool,
}

impl Sending {
    async fn run(mut self, mut records: mpsc::Receiver<Record>) {
        let mut batch = Vec::new();
        while self.gather(&mut records, &mut batch).await {
            self.deliver(&batch).await;
            batch.clear();
        }
    }

    /// The next batch; false at the end.
    async fn gather(
        &mut self,
        records: &mut mpsc::Receiver<Record>,
        batch: &mut Vec<Record>,
    ) -> bool {
        let mut until = None;
        while batch.len() < BATCH_MAX {
            let over = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending::<()>().await,
                }
            };
            tokio::select! {
                came = records.recv_many(batch, BATCH_MAX - batch.len()) => match came {
                    0 => break,
                    _ => until = until.or_else(|| Some(Instant::now() + GATHER)),
                },
                () = over => break,
                () = stopped(&mut self.stopped), if !self.stopping => {
                    self.stopping = true;
                    records.close();
                }
            }
        }
        !batch.is_empty()
    }

    /// Sends a batch, a few times if need be.
    async fn deliver(&mut self, batch: &[Record]) {
        let body = encode::request(&self.resource, batch);
        let mut pauses = PAUSES.iter();
        let error = loop {
            let (error, again) = match timeout(SEND_TIME_MAX, self.send(body.clone())).await {
                Ok(Ok(())) => {
                    self.counts.exported.fetch_add(batch.len() as u64, Relaxed);
                    if std::mem::take(&mut self.failing) {
                        tracing::info!("the collector takes spans again");
                    }
                    return;
                }
                Ok(Err(failed)) => failed,
                Err(_) => ("no answer in time".to_owned(), true),
            };
            match pauses.next() {
                Some(pause) if again && !self.stopping => tokio::select! {
                    () = sleep(*pause) => {}
                    // Once more at once, and then no more.
                    () = stopped(&mut self.stopped) => pauses = [].iter(),
                },
                _ => break error,
            }
        };
        self.counts
            .dropped_export
            .fetch_add(batch.len() as u64, Relaxed);
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(error, "the collector does not take spans; they are lost");
        }
    }

    /// Sends a batch once; else what is wrong, and whether it might be taken another time.
    async fn send(&self, body: Bytes) -> Result<(), (String, bool)> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self
            .url
            .parse()
            .map_err(|error| (format!("no request can name it: {error}"), false))?;
        let headers = request.headers_mut();
        let protobuf = HeaderValue::from_static("application/x-protobuf");
        headers.insert(header::CONTENT_TYPE, protobuf);
        headers.insert(header::USER_AGENT, crate::origin::USER_AGENT);
        let answer = self.client.send(request).await;
        let answer = answer.map_err(|error| (error.to_string(), true))?;
        let status = answer.status();
        // What it says does not matter; that it was read lets the connection live.
        let _ = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await;
        if status.is_success() {
            return Ok(());
        }
        let again = matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
        );
        Err((status.to_string(), again))
    }
}

/// Resolves when all is to end.
async fn stopped(stopped: &mut watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
