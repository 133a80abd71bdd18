//! What a collector of traces gets, and what one that takes nothing does to clients: nothing.

use crate::{
    harness::{Gannet, PATIENCE},
    members::{MIB, Members, until},
};
use gannet_testkit::{
    client::{Connection, download, get, split},
    origin::{Fault, Method, Object, Origin, Rule},
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use prost::Message as _;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// A client's span, number `n`, as it says.
fn traceparent(n: u8) -> String {
    format!("00-{0}-{1}-01", hex(&[n; 16]), hex(&[n; 8]))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One span, and who sent it.
#[derive(Clone, Debug)]
struct Seen {
    instance: String,
    span: Span,
}

impl Seen {
    fn is(&self, kind: SpanKind, name: &str) -> bool {
        self.span.kind == kind as i32 && self.span.name == name
    }

    fn text(&self, key: &str) -> Option<String> {
        attribute(&self.span.attributes, key)
    }
}

/// An attribute, as text.
fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let pair = attributes.iter().find(|pair| pair.key == key)?;
    Some(match pair.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(yes) => yes.to_string(),
        other => panic!("{key}: {other:?}"),
    })
}

/// A collector that takes everything.
struct Collector {
    flag: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(take(socket, Arc::clone(&taken)));
            }
        });
        Self {
            flag: format!("--otlp=http://{address}"),
            seen,
        }
    }

    /// What it has of a trace.
    fn of(&self, n: u8) -> Vec<Seen> {
        let seen = self.seen.lock().expect("nobody panicked");
        let of = seen.iter().filter(|seen| seen.span.trace_id == [n; 16]);
        of.cloned().collect()
    }

    /// Waits until it has such a span of a trace, and gives it.
    async fn until(&self, n: u8, what: &str, which: impl Fn(&Seen) -> bool) -> Seen {
        until(what, async || self.of(n).iter().any(&which)).await;
        self.of(n).into_iter().find(&which).expect("it was there")
    }
}

/// Takes what comes on a connection.
async fn take(mut socket: TcpStream, seen: Arc<Mutex<Vec<Seen>>>) {
    let mut bytes = Vec::new();
    loop {
        let (head, length) = loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8(bytes[..end].to_vec()).expect("text");
                let head = head.to_ascii_lowercase();
                let length = head.lines().find_map(|line| {
                    let length = line.strip_prefix("content-length:")?;
                    length.trim().parse::<usize>().ok()
                });
                bytes.drain(..end + 4);
                break (head, length.expect("a length"));
            }
            if !matches!(socket.read_buf(&mut bytes).await, Ok(1..)) {
                return;
            }
        };
        while bytes.len() < length {
            if !matches!(socket.read_buf(&mut bytes).await, Ok(1..)) {
                return;
            }
        }
        assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
        assert!(head.contains("content-type: application/x-protobuf"));
        let body: Vec<u8> = bytes.drain(..length).collect();
        let request = ExportTraceServiceRequest::decode(&*body).expect("OTLP");
        for group in request.resource_spans {
            let about = group.resource.expect("who").attributes;
            assert_eq!(attribute(&about, "service.name").as_deref(), Some("gannet"));
            let instance = attribute(&about, "service.instance.id").expect("which");
            let spans = group.scope_spans.into_iter().flat_map(|scope| scope.spans);
            seen.lock()
                .expect("nobody panicked")
                .extend(spans.map(|span| Seen {
                    instance: instance.clone(),
                    span,
                }));
        }
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        if socket.write_all(answer).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_shows_every_member_that_a_read_goes_through() {
    let collector = Collector::start().await;
    let origin = Origin::start();
    let args = [
        "--chunk-size=1MiB",
        "--hedge-after=30s",
        "--read-ahead=0",
        // What is seen is what the client wished for.
        "--otlp-sample=0",
        &collector.flag,
    ];
    let members = Members::start(3, &origin, &args).await;
    members.until_known().await;
    let (key, object) = members.object_of(1, &origin, "k", 1).await;
    let url = members.members[0].url(&format!("b/{key}"));
    let answer = download(&url, &[("traceparent", &traceparent(7))], true).await;
    let answer = answer.expect("an answer");
    assert!(
        answer.served() && answer.sha256 == object.sha256(),
        "{answer:?}"
    );

    // The first to begin is the last to end.
    let edge = |seen: &Seen| seen.is(SpanKind::Server, "GET /{bucket}/{key}");
    let edge = collector.until(7, "the request's span", edge).await;
    let asked = |seen: &Seen| {
        let of = seen.is(SpanKind::Client, "GET") && seen.text("aws.s3.key").is_none();
        of && seen
            .text("url.path")
            .is_some_and(|path| path.ends_with(&key))
    };
    let read = collector.until(7, "the origin's span", asked).await;
    let serve = |seen: &Seen| {
        seen.is(SpanKind::Server, "serve") && seen.text("gannet.what").as_deref() == Some("chunk")
    };
    collector.until(7, "the coordinator's span", serve).await;
    let ask = |seen: &Seen| {
        let chunk = seen.text("gannet.bytes") == Some(MIB.to_string());
        seen.is(SpanKind::Client, "ask") && chunk
    };
    collector.until(7, "the question's span", ask).await;
    let commit = |seen: &Seen| {
        seen.span.name == "commit" && seen.text("gannet.outcome").as_deref() == Some("stored")
    };
    collector.until(7, "the span of a commit", commit).await;
    // All that is above the origin's span is there once what is above it is: they end in turn.
    let all: BTreeMap<_, _> = collector
        .of(7)
        .into_iter()
        .map(|seen| (seen.span.span_id.clone(), seen))
        .collect();
    let mut way = vec![read.clone()];
    while let Some(above) = all.get(&way[way.len() - 1].span.parent_span_id) {
        way.push(above.clone());
    }
    let names: Vec<_> = way.iter().map(|seen| seen.span.name.as_str()).collect();
    let want = [
        "GET",
        "attempt",
        "fetch",
        "serve",
        "ask",
        "attempt",
        "fetch",
        "GET /{bucket}/{key}",
    ];
    assert_eq!(names, want, "{all:#?}");
    for (n, seen) in way.iter().enumerate() {
        let member = usize::from(n < 4);
        assert_eq!(seen.instance, members.internal[member], "{seen:?}");
        assert!(seen.span.start_time_unix_nano <= seen.span.end_time_unix_nano);
        let remote = matches!(seen.span.name.as_str(), "serve" | "GET /{bucket}/{key}");
        // Whether it is known whether the parent is elsewhere, and that it is.
        assert_eq!(seen.span.flags >> 8, if remote { 3 } else { 1 }, "{seen:?}");
        assert!(seen.span.status.is_none(), "{seen:?}");
    }
    assert_eq!(edge.span.parent_span_id, [7; 8], "the client's own span");
    let says = |seen: &Seen, key: &str| seen.text(key).unwrap_or_default();
    assert_eq!(says(&edge, "aws.s3.bucket"), "b");
    assert_eq!(says(&edge, "aws.s3.key"), key);
    assert_eq!(says(&edge, "http.response.status_code"), "200");
    assert_eq!(says(&edge, "http.response.body.size"), MIB.to_string());
    assert_eq!(
        Some(says(&edge, "gannet.request_id").as_str()),
        answer.head.header("x-amz-request-id")
    );
    assert!(
        says(&way[1], "gannet.source").starts_with("origin/"),
        "{:?}",
        way[1]
    );
    assert_eq!(says(&way[1], "gannet.outcome"), "ok");
    assert_eq!(says(&way[1], "gannet.bytes"), MIB.to_string());
    assert_eq!(says(&way[3], "gannet.peer"), members.internal[0]);
    assert_eq!(says(&way[3], "gannet.outcome"), "served");
    assert_eq!(says(&way[4], "server.address"), members.internal[1]);
    assert_eq!(says(&way[4], "gannet.role"), "coordinator");
    assert_eq!(says(&way[4], "gannet.outcome"), "served");
    assert_eq!(
        says(&way[5], "gannet.source"),
        format!("member/{}", members.internal[1])
    );
    assert_eq!(says(&way[6], "gannet.chunk"), "0");

    // And the origin can go on where we end.
    let told = origin
        .served()
        .into_iter()
        .find(|served| served.key == key && served.method == Method::Get);
    let told = told.expect("it was read");
    let context = format!("00-{}-{}-01", hex(&[7; 16]), hex(&read.span.span_id));
    assert_eq!(told.header("traceparent"), Some(context.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_a_fetch_is_linked_to_it() {
    let collector = Collector::start().await;
    let origin = Origin::start();
    origin.put("b", "k", Object::generated(1, MIB));
    let stall = Fault::Stall {
        at: 0,
        lasting: Duration::from_secs(2),
    };
    origin.rule(Rule::new(stall).method(Method::Get));
    let data = tempfile::tempdir().expect("a directory");
    let origin_url = origin.url();
    let args = [
        "--origin",
        &origin_url,
        "--chunk-size=1MiB",
        "--hedge-after=1h",
        "--otlp-sample=0",
    ];
    let gannet = Gannet::start(
        data.path(),
        &[&args[..], &[collector.flag.as_str()]].concat(),
    );
    let url = gannet.url("b/k");
    let read = |n: u8| {
        let url = url.clone();
        tokio::spawn(async move { get(&url, &[("traceparent", &traceparent(n))]).await })
    };
    let first = read(1);
    origin
        .until("the first's read", |counts| counts.gets == 1)
        .await;
    let second = read(2);
    until("the second to join", async || {
        gannet.metric("gannet_fetch_coalesced_total").await > 0.0
    })
    .await;
    origin.heal();
    for reader in [first, second] {
        let answer = reader.await.expect("no panic").expect("an answer");
        assert_eq!(answer.status, 200);
    }
    let fetch = |seen: &Seen| seen.span.name == "fetch" && seen.text("gannet.chunk").is_some();
    let first = collector.until(1, "the first's span", fetch).await;
    let second = collector.until(2, "the second's span", fetch).await;
    assert!(first.span.links.is_empty());
    assert_eq!(second.text("gannet.coalesced").as_deref(), Some("true"));
    let link = &second.span.links[0];
    assert_eq!(
        (&link.trace_id, &link.span_id),
        (&first.span.trace_id, &first.span.span_id)
    );
    let attempt =
        |seen: &Seen| seen.span.name == "attempt" && seen.span.parent_span_id == first.span.span_id;
    collector.until(1, "the attempt", attempt).await;
    let names: Vec<_> = collector
        .of(2)
        .into_iter()
        .map(|seen| seen.span.name)
        .collect();
    assert!(!names.contains(&"attempt".to_owned()), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_and_failures_say_what_they_are() {
    let collector = Collector::start().await;
    let origin = Origin::start();
    origin.put("b", "k", Object::generated(1, 10));
    let data = tempfile::tempdir().expect("a directory");
    let origin_url = origin.url();
    let args = ["--origin", &origin_url, "--otlp-sample=0", &collector.flag];
    let gannet = Gannet::start(data.path(), &args);
    let edge = |seen: &Seen| seen.is(SpanKind::Server, "GET /{bucket}/{key}");
    let ask = async |n: u8, key: &str, context: &str| {
        let answer = get(&gannet.url(key), &[("traceparent", context)]).await;
        let status = answer.expect("an answer").status;
        (status, collector.until(n, "the request's span", edge).await)
    };
    let (status, seen) = ask(1, "b/none", &traceparent(1)).await;
    assert_eq!(status, 404);
    assert_eq!(
        seen.text("http.response.status_code").as_deref(),
        Some("404")
    );
    assert_eq!(seen.text("gannet.error_code").as_deref(), Some("NoSuchKey"));
    assert!(seen.span.status.is_none(), "the client's fault");

    // What is held is traced like all else, and what is no context is none.
    for _ in 0..2 {
        assert_eq!(ask(2, "b/k", &traceparent(2)).await.0, 200);
    }
    let lean = |seen: &Seen| seen.text("gannet.lean").as_deref() == Some("true");
    let lean = collector.until(2, "the hit", lean).await;
    assert_eq!(lean.text("http.response.body.size").as_deref(), Some("10"));
    assert_eq!(lean.text("gannet.cut").as_deref(), Some("false"));
    let nonsense = traceparent(3).replace("-01", "-0g");
    let answer = get(&gannet.url("b/k"), &[("traceparent", &nonsense)]).await;
    assert_eq!(answer.expect("an answer").status, 200);

    origin.rule(Rule::new(Fault::Status {
        code: 500,
        retry_after: None,
    }));
    let (status, seen) = ask(4, "b/other", &traceparent(4)).await;
    assert!(status >= 500, "{status}");
    let said = seen.span.status.as_ref().expect("a status");
    assert_eq!(said.code, StatusCode::Error as i32);
    let failed = |seen: &Seen| {
        seen.span.name == "attempt" && seen.text("gannet.outcome").as_deref() == Some("failed")
    };
    collector.until(4, "an attempt that failed", failed).await;
    assert!(collector.of(3).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_holds_up_nobody() {
    // It accepts, as far as the kernel does, and that is all.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let flag = format!("--otlp=http://{}", silent.local_addr().expect("an address"));
    let origin = Origin::start();
    origin.put("b", "k", Object::generated(1, 10));
    let data = tempfile::tempdir().expect("a directory");
    let origin_url = origin.url();
    let args = ["--origin", &origin_url, "--otlp-sample=1", &flag];
    let mut gannet = Gannet::start(data.path(), &args);
    let url = gannet.url("b/k");
    let mut client = Connection::open(split(&url).0).await.expect("a connection");
    // More spans than the queue and a batch hold.
    let reads = async {
        for n in 0..6_000 {
            let asked = client.request("GET", &url, &[], b"").await;
            let answer = asked.unwrap_or_else(|error| panic!("request {n}: {error}"));
            assert_eq!(answer.status, 200, "request {n}");
        }
    };
    let done = tokio::time::timeout(PATIENCE, reads).await;
    assert!(done.is_ok(), "reads wait for the collector");
    let overflow = "gannet_traces_spans_total{outcome=\"overflow\"}";
    let page = get(&format!("{}/metrics", gannet.ops), &[]).await;
    let page = page.expect("the ops listener answers").text();
    let dropped = page.lines().find_map(|line| line.strip_prefix(overflow));
    let dropped: u64 = dropped.expect("a line").trim().parse().expect("a number");
    assert!(dropped > 0, "they were counted");
    let ended = gannet.process.terminate(PATIENCE);
    assert!(ended.success(), "{}", gannet.process.log());
}
