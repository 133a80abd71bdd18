//! The answers that are asked for.

use crate::liar::{Act, Script};
use bytes::Bytes;
use std::time::Duration;

/// A kind of answer.
pub(crate) struct Case {
    pub(crate) label: &'static str,
    pub(crate) op: Asks,
    /// How many ask at once, each another server.
    pub(crate) at_once: usize,
    /// What everybody is told who asked.
    pub(crate) says: &'static str,
    pub(crate) answer: fn() -> Script,
}

/// What is asked for.
#[derive(Clone, Copy)]
pub(crate) enum Asks {
    Event,
    Chain,
    Ids,
    At,
}

use Asks::{At, Chain, Event, Ids};

/// The most that an answer of many events may have, and that of one.
const MANY: usize = 14 << 20;
const ONE: usize = 192 << 10;
/// The most that is read of one event, and still refused.
const PDU: usize = 512 << 10;

const fn case(
    label: &'static str,
    op: Asks,
    at_once: usize,
    says: &'static str,
    answer: fn() -> Script,
) -> Case {
    Case {
        label,
        op,
        at_once,
        says,
        answer,
    }
}

pub(crate) const CASES: [Case; 34] = [
    // What is sent, whatever it is.
    case("huge", Chain, 1, "too large", || claims(100 << 20)),
    case("huge-50", Chain, 50, "too large", || claims(100 << 20)),
    case("vast", Chain, 1, "too large", || claims(1 << 30)),
    case("gush", Chain, 1, "too large", gush),
    case("gush-50", Chain, 50, "too large", gush),
    case("gush-one-50", Event, 50, "too large", gush),
    case("crumbs", Chain, 1, "pieces", || crumbs(3 << 20)),
    case("crumbs-50", Event, 50, "pieces", || crumbs(ONE - 100)),
    case("packed", Chain, 50, "bad", || {
        Script::answer(200, "content-encoding: gzip\r\n", vec![0x1f; 1 << 20])
    }),
    case("heads", At, 50, "not HTTP", heads),
    case("line", At, 50, "not HTTP", line),
    case("trailers", At, 50, "broke off", trailers),
    case("early", At, 50, "timed_out", early),
    case("extension", At, 50, "failed", extension),
    // What is to be read.
    case("deep", Chain, 1, "bad", || {
        Script::json(filled("{\"auth_chain\":", "[", "", MANY))
    }),
    case("deep-12", Chain, 12, "bad", || {
        Script::json(filled("{\"auth_chain\":", "[", "", MANY))
    }),
    case("deep-pdus", Chain, 1, "unproven", || {
        let nested = format!("{}{}", "[".repeat(99), "]".repeat(99));
        let pdu = filled("{\"a\":[0", &format!(",{nested}"), "]}", PDU);
        Script::json(chain(&pdu))
    }),
    case("empty-pdus", Chain, 1, "more than 50000", || {
        chain_of("{}", MANY)
    }),
    case("max-pdus", Chain, 12, "bad", || {
        chain_of(&format!("{{\"a\":\"{}\"}}", "x".repeat(290)), MANY)
    }),
    case("pdus", Chain, 1, "bad", || chain_of(&small_pdu(""), MANY)),
    case("pdus-12", Chain, 12, "bad", || {
        chain_of(&small_pdu(""), MANY)
    }),
    case("objects", Chain, 4, "bad", || {
        Script::json(chain(&objects(PDU)))
    }),
    case("objects-50", Event, 50, "bad", || {
        Script::json(format!("{{\"pdus\":[{}]}}", objects(ONE - 100)))
    }),
    case("keys", Chain, 1, "bad", || {
        Script::json(chain(&numbered(PDU, true)))
    }),
    case("lists", Chain, 1, "bad", || {
        Script::json(chain(&filled("{\"a\":[0", ",[]", "]}", PDU)))
    }),
    case("prev", Chain, 1, "bad", || {
        let pdu = small_pdu(&filled(
            "\"prev_events\":[\"$a\"",
            ",\"$a\"",
            "],",
            PDU - 1000,
        ));
        Script::json(chain(&pdu))
    }),
    case("signed", Chain, 1, "bad", || {
        let servers = numbered(PDU - 1000, false);
        let pdu = small_pdu(&format!("\"signatures\":{servers},"));
        Script::json(chain(&pdu))
    }),
    case("text", Chain, 1, "bad", || {
        let pdu = small_pdu(&filled("\"x\":\"", "\\u0000", "\",", PDU - 1000));
        Script::json(chain(&pdu))
    }),
    case("twins", Chain, 1, "bad", || {
        Script::json(chain(&filled("{\"a\":0", ",\"a\":0", "}", PDU)))
    }),
    case("number", Chain, 1, "bad", || {
        Script::json(chain(&small_pdu(&filled(
            "\"x\":1",
            "0",
            "e400,",
            PDU - 1000,
        ))))
    }),
    case("ids", Ids, 1, "bad", || ids(MANY, "\"$a\"", true)),
    case("max-ids", Ids, 1, "answered", || {
        ids(450_000 * 5, "\"$a\"", true)
    }),
    case("max-ids-50", Ids, 50, "answered", || {
        ids(450_000 * 5, "\"$a\"", true)
    }),
    case("other-ids", Ids, 12, "bad", || ids(MANY, "\"x\"", false)),
];

/// This, so often that it is so long, between that.
fn filled(begin: &str, piece: &str, end: &str, len: usize) -> String {
    let times = (len - begin.len() - end.len()) / piece.len();
    format!("{begin}{}{end}", piece.repeat(times))
}

/// As many of an event as fit.
fn chain(pdu: &str) -> String {
    filled(
        &format!("{{\"auth_chain\":[{pdu}"),
        &format!(",{pdu}"),
        "]}",
        MANY,
    )
}

fn chain_of(pdu: &str, len: usize) -> Script {
    let begin = format!("{{\"auth_chain\":[{pdu}");
    Script::json(filled(&begin, &format!(",{pdu}"), "]}", len))
}

/// What looks like an event at first sight; fields in front replace those that are there.
fn small_pdu(more: &str) -> String {
    let mut pdu =
        format!("{{{more}\"type\":\"m\",\"sender\":\"@a:b\",\"room_id\":\"!room:liar.test\"");
    for (field, value) in [
        ("content", "{}"),
        ("hashes", "{\"sha256\":\"\"}"),
        ("signatures", "{\"b\":{\"ed25519:1\":\"\"}}"),
        ("prev_events", "[]"),
        ("auth_events", "[]"),
        ("depth", "1"),
        ("origin_server_ts", "1"),
    ] {
        if !more.contains(&format!("\"{field}\":")) {
            pdu.push_str(&format!(",\"{field}\":{value}"));
        }
    }
    pdu.push('}');
    pdu
}

/// An event that is nothing but small objects, each of which takes a hundred times its length.
fn objects(len: usize) -> String {
    let nested = format!("{}0{}", "{\"\":".repeat(90), "}".repeat(90));
    filled("{\"a\":[0", &format!(",{nested}"), "]}", len)
}

/// An object of many keys, the later before the earlier.
fn numbered(len: usize, down: bool) -> String {
    let count = len / 12;
    let key = |n: usize| format!("\"{:06}\":{{}}", if down { count - n } else { n });
    let keys: Vec<String> = (0..count).map(key).collect();
    format!("{{{}}}", keys.join(","))
}

/// Ids, so many bytes.
fn ids(len: usize, id: &str, both: bool) -> Script {
    let len = if both { len / 2 } else { len };
    let list = filled(&format!("[{id}"), &format!(",{id}"), "]", len - 40);
    let other = if both { &*list } else { "[]" };
    Script::json(format!("{{\"pdu_ids\":{list},\"auth_chain_ids\":{other}}}"))
}

fn spaces() -> Bytes {
    Bytes::from(vec![b' '; 64 << 10])
}

fn claims(len: u64) -> Script {
    Script::claims(len).then(Act::Repeat(spaces(), len / (64 << 10)))
}

/// Without saying how much it will be.
fn gush() -> Script {
    let mut piece = b"10000\r\n".to_vec();
    piece.extend(spaces());
    piece.extend(b"\r\n");
    Script::chunked().then(Act::Repeat(piece.into(), 1600))
}

/// Byte by byte, each a chunk of its own, as fast as may be.
fn crumbs(len: usize) -> Script {
    let piece = Bytes::from(b"1\r\n \r\n".repeat(1024));
    Script::chunked()
        .then(Act::Repeat(piece, len as u64 / 1024))
        .then(Act::Send(Bytes::from_static(b"0\r\n\r\n")))
}

fn heads() -> Script {
    let line = Bytes::from(format!("x: {}\r\n", "y".repeat(1000)).repeat(60));
    Script::raw("HTTP/1.1 200 OK\r\n").then(Act::Repeat(line, 10_000))
}

fn line() -> Script {
    Script::raw("HTTP/1.1 200 OK\r\nx: ").then(Act::Repeat(spaces(), 1600))
}

fn trailers() -> Script {
    let line = Bytes::from(format!("x: {}\r\n", "y".repeat(1000)).repeat(60));
    Script::chunked()
        .then(Act::Send(Bytes::from_static(b"2\r\n{}\r\n0\r\n")))
        .then(Act::Repeat(line, 10_000))
}

/// Heads that promise another.
fn early() -> Script {
    let early = Bytes::from(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n".repeat(100));
    Script::raw("").then(Act::Drip(early, Duration::from_millis(1)))
}

/// The length of a chunk, and what may be said about it, without end.
fn extension() -> Script {
    Script::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;x=\"")
        .then(Act::Repeat(Bytes::from(vec![b'x'; 64 << 10]), 1600))
}
