//! Tests of what is traced, and of what becomes of it.

use super::{
    Kind, Parent, Span, Tracer,
    export::{Counts, Exporter, TraceConfig},
    span::{Record, Value},
};
use gannet::metrics::Page;
use std::sync::Arc;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::mpsc,
};

const SAMPLED: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const UNSAMPLED: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

fn tracer(sample: f64, room: usize) -> (Tracer, mpsc::Receiver<Record>) {
    let (queue, records) = mpsc::channel(room);
    (
        Tracer::new(sample, queue, Arc::new(Counts::default())),
        records,
    )
}

fn page(tracer: &Tracer) -> String {
    let mut page = Page::new();
    tracer.write(&mut page);
    page.into_text()
}

#[test]
fn who_is_traced() {
    let check = |sample: f64, header: Option<&[u8]>, want: bool| {
        let (tracer, _records) = tracer(sample, 1);
        assert_eq!(tracer.request(header).is_on(), want, "{sample} {header:?}");
    };
    check(0.0, None, false);
    check(1.0, None, true);
    check(0.0, Some(SAMPLED), true);
    check(1.0, Some(UNSAMPLED), false);
    // As if it had not been sent.
    check(0.0, Some(b"nonsense"), false);
    check(1.0, Some(b"nonsense"), true);
    check(1.0, Some(b""), true);
    assert!(!Tracer::default().request(Some(SAMPLED)).is_on());
}

#[test]
fn a_part_is_sampled() {
    let (tracer, _records) = tracer(0.25, 1);
    let taken = (0..10_000).filter(|_| tracer.request(None).is_on()).count();
    assert!((2_000..3_000).contains(&taken), "{taken}");
}

#[test]
fn who_wishes_for_every_trace_gets_some() {
    let (tracer, _records) = tracer(0.0, 1);
    let granted = (0..100_000)
        .filter(|_| tracer.request(Some(SAMPLED)).is_on())
        .count();
    // A second's worth, and what was gained meanwhile.
    assert!((100..10_000).contains(&granted), "{granted}");
    let refused = format!("gannet_traces_refused_total {}", 100_000 - granted);
    assert!(page(&tracer).contains(&refused), "{}", page(&tracer));
}

#[test]
fn members_are_believed() {
    let (tracer, _records) = tracer(0.0, 1);
    let on = |text: Option<&[u8]>| {
        let text = text.map(|text| std::str::from_utf8(text).expect("ASCII"));
        tracer.serve(text).is_on()
    };
    assert!(on(Some(SAMPLED)));
    assert!(!on(Some(UNSAMPLED)));
    assert!(!on(Some(b"nonsense")));
    assert!(!on(None));
}

#[test]
fn children_hang_where_they_belong() {
    let (tracer, mut records) = tracer(0.0, 8);
    let root = tracer.request(Some(SAMPLED));
    let mut child = root.parent().child(Kind::Client, "child");
    child.set("number", 1u64);
    child.set("number", 2u64);
    child.set("text", "x".repeat(5_000).as_str());
    child.fail(&"it broke");
    let other = tracer.request(Some(SAMPLED));
    child.link(&other.parent());
    drop(child);
    let child = records.try_recv().expect("it was sent");
    let root_id = root.parent().remote().expect("it is on").span;
    assert_eq!((child.parent, child.remote), (Some(root_id), false));
    assert_eq!(child.trace, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
    assert_eq!(child.attributes[0], ("number", Value::Int(2)));
    assert_eq!(child.attributes[1].1, Value::Text("x".repeat(1024)));
    assert_eq!(
        child.links,
        [(child.trace, other.parent().remote().expect("on").span)]
    );
    assert_eq!(child.error.as_deref(), Some("it broke"));
    assert!(child.end_ns >= child.start_ns);
    drop(root);
    let root = records.try_recv().expect("it was sent");
    assert_eq!(
        (root.parent, root.remote),
        (Some(0xb7ad_6b71_6920_3331), true)
    );
}

#[test]
fn a_text_is_not_cut_within_a_character() {
    let Value::Text(text) = Value::from("ä".repeat(1_000).as_str()) else {
        panic!("no text")
    };
    assert_eq!(text, "ä".repeat(512));
    let text = format!("a{}", "ä".repeat(1_000));
    let Value::Text(text) = Value::from(text.as_str()) else {
        panic!("no text")
    };
    assert_eq!(text.len(), 1023);
}

#[test]
fn one_request_does_not_fill_the_queue() {
    let (tracer, mut records) = tracer(1.0, 1_000);
    let root = tracer.request(None);
    for _ in 0..1_000 {
        drop(root.parent().child(Kind::Internal, "fetch"));
    }
    drop(root);
    let mut sent = Vec::new();
    while let Ok(record) = records.try_recv() {
        sent.push(record);
    }
    assert_eq!(sent.len(), 256);
    let last = sent.last().expect("the root");
    let left_out = ("gannet.spans.left_out", Value::Int(745));
    assert!(last.attributes.contains(&left_out), "{last:?}");
}

#[test]
fn what_the_queue_has_no_room_for_is_dropped_and_counted() {
    let (tracer, records) = tracer(1.0, 2);
    for _ in 0..5 {
        drop(tracer.request(None));
    }
    let overflow = "gannet_traces_spans_total{outcome=\"overflow\"} 3";
    assert!(page(&tracer).contains(overflow), "{}", page(&tracer));
    drop(records);
    drop(tracer.request(None));
    let overflow = "gannet_traces_spans_total{outcome=\"overflow\"} 4";
    assert!(page(&tracer).contains(overflow), "after the end, too");
}

#[test]
fn nothing_comes_of_nothing() {
    let mut span = Span::default();
    span.set("key", "value");
    span.fail(&"error");
    let parent = span.parent();
    assert!(!parent.is_on() && parent.remote().is_none());
    assert!(!parent.child(Kind::Internal, "child").is_on());
    assert_eq!(format!("{:?}", Parent::default()), "-");
}

/// A collector that answers each request so, and tells how many there were.
async fn collector(answer: &'static str) -> (String, mpsc::UnboundedReceiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut bytes = vec![0; 1 << 20];
        while let Ok((mut socket, _)) = listener.accept().await {
            // One request is one read or a few; the answer to its first closes the connection.
            let Ok(read) = socket.read(&mut bytes).await else {
                continue;
            };
            let _ = tell.send(read);
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    (url, told)
}

fn exporter(url: String) -> (Tracer, Exporter) {
    let config = TraceConfig { url, sample: 1.0 };
    Exporter::start(&config, "test").expect("it starts")
}

async fn ends_as(answer: &'static str, line: &str) {
    let (url, mut told) = collector(answer).await;
    let (tracer, exporter) = exporter(url);
    drop(tracer.request(None));
    exporter.shutdown().await;
    assert!(told.recv().await.is_some(), "it was asked");
    assert!(page(&tracer).contains(line), "{}", page(&tracer));
}

#[tokio::test]
async fn the_end_sends_what_is_left() {
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    ends_as(ok, "gannet_traces_spans_total{outcome=\"exported\"} 1").await;
}

#[tokio::test]
async fn what_the_collector_refuses_is_counted() {
    let undelivered = "gannet_traces_spans_total{outcome=\"undelivered\"} 1";
    let no = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    ends_as(no, undelivered).await;
    let busy = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    ends_as(busy, undelivered).await;
    ends_as("what?", undelivered).await;
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_hangs_does_not_hold_up_the_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let (tracer, exporter) = exporter(url);
    drop(tracer.request(None));
    let begun = tokio::time::Instant::now();
    exporter.shutdown().await;
    assert!(begun.elapsed() <= std::time::Duration::from_secs(6));
}
