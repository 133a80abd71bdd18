//! A homeserver of a test's: TLS on loopback, a key, and a room whose events it signed.

use gannet_matrix::verify::{rules::Rules, sign::SigningKey};
use gannet_testkit::tls::Ca;
use ruma_common::{CanonicalJsonObject, RoomVersionId, ServerName, canonical_json::redact};
use ruma_signatures::{hash_and_sign_event, reference_hash};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The seed of every signing key, in base64.
pub(crate) const SEED: [u8; 32] = [7; 32];

/// An event: its id, and its bytes.
#[derive(Clone)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) raw: String,
}

/// A homeserver that has a room of version 11: its creation, and messages, each after the one before.
pub(crate) struct Homeserver {
    /// With its port.
    pub(crate) name: String,
    pub(crate) addr: SocketAddr,
    pub(crate) room: String,
    pub(crate) events: Vec<Event>,
    asked: Arc<Mutex<Vec<String>>>,
    shut: Arc<(Mutex<bool>, Condvar)>,
}

fn rules() -> Rules {
    Rules::of(&RoomVersionId::V11).unwrap()
}

fn key() -> SigningKey {
    SigningKey::from_seed("test", &SEED).unwrap()
}

fn object(value: Value) -> CanonicalJsonObject {
    serde_json::from_value(value).unwrap()
}

fn sign(server: &str, mut fields: Value) -> Event {
    fields["sender"] = format!("@alice:{server}").into();
    fields["room_id"] = format!("!room:{server}").into();
    let mut event = object(fields);
    let redaction = &rules().ruma().redaction;
    hash_and_sign_event(server, key().pair(), &mut event, redaction).unwrap();
    Event {
        id: format!("${}", reference_hash(&event, rules().ruma()).unwrap()),
        raw: serde_json::to_string(&event).unwrap(),
    }
}

/// What is left of an event that was redacted.
pub(crate) fn redacted(event: &Event) -> Event {
    let left = redact(
        serde_json::from_str(&event.raw).unwrap(),
        &rules().ruma().redaction,
        None,
    );
    Event {
        id: event.id.clone(),
        raw: serde_json::to_string(&left.unwrap()).unwrap(),
    }
}

fn history(server: &str, messages: u64) -> Vec<Event> {
    let create = json!({
        "type": "m.room.create", "state_key": "", "content": { "room_version": "11" }, "depth": 1,
        "origin_server_ts": 1_700_000_000_000_u64, "prev_events": [], "auth_events": [],
    });
    let mut events = vec![sign(server, create)];
    for n in 1..=messages {
        let message = json!({
            "type": "m.room.message", "depth": n + 1, "auth_events": [events[0].id],
            "content": { "msgtype": "m.text", "body": format!("message {n} \u{9b}31m") },
            "origin_server_ts": 1_700_000_000_000_u64 + n, "prev_events": [events.last().unwrap().id],
        });
        events.push(sign(server, message));
    }
    events
}

fn key_document(server: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let until = u64::try_from(now.as_millis()).unwrap() + 86_400_000;
    let public = ruma_common::serde::Base64::<ruma_common::serde::base64::Standard, _>::new(
        key().public_key(),
    );
    let mut document = object(json!({
        "server_name": server, "valid_until_ts": until, "old_verify_keys": {},
        "verify_keys": { "ed25519:test": { "key": public.encode() } },
    }));
    let name = ServerName::parse(server).unwrap();
    key().sign_object(&name, &mut document).unwrap();
    serde_json::to_string(&document).unwrap()
}

/// What a server does that is not as it should be.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Quirk {
    None,
    /// It does not have any event.
    Empty,
    /// It changes what is said in every event.
    Forges,
    /// It takes requests for history and never answers them.
    HangsOnHistory,
}

impl Homeserver {
    /// `host.test` on loopback, until the process ends.
    pub(crate) fn start(ca: &Ca, host: &str, quirk: Quirk, of: Option<&Self>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let name = format!("{host}:{}", addr.port());
        let owner = of.map_or(&name, |of| &of.name);
        let events = history(owner, 30);
        let this = Self {
            room: format!("!room:{owner}"),
            addr,
            events: events.clone(),
            asked: Arc::default(),
            shut: Arc::default(),
            name: name.clone(),
        };
        let (config, asked, shut) = (ca.server(&[host]), this.asked.clone(), this.shut.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, name) = (config.clone(), name.clone());
                let (events, asked, shut) = (events.clone(), asked.clone(), shut.clone());
                thread::spawn(move || {
                    // Whoever hangs up in the middle is no reason to fail.
                    let _ = answer(stream, config, |path, body| {
                        asked.lock().unwrap().push(path.to_owned());
                        if quirk == Quirk::HangsOnHistory && path.contains("/backfill/") {
                            loop {
                                thread::park();
                            }
                        }
                        let is_shut = shut.0.lock().unwrap();
                        drop(shut.1.wait_while(is_shut, |is_shut| *is_shut).unwrap());
                        reply(&name, &events, quirk, path, body)
                    });
                });
            }
        });
        this
    }

    /// Holds back all answers from now on, or lets them go.
    pub(crate) fn shut(&self, is_shut: bool) {
        *self.shut.0.lock().unwrap() = is_shut;
        self.shut.1.notify_all();
    }

    /// Paths of requests so far that begin with this.
    pub(crate) fn asked(&self, path: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|asked| asked.starts_with(path)).count()
    }
}

fn answer(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    reply: impl FnOnce(&str, &Value) -> (u16, String),
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let tls = ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut reader = BufReader::new(StreamOwned::new(tls, stream));
    let (mut first, mut length, mut signed) = (String::new(), 0, false);
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap_or(0),
            "authorization" => signed = value.trim().starts_with("X-Matrix "),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let path = first.split(' ').nth(1).unwrap_or_default();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let (status, text) = match signed || path.starts_with("/_matrix/key/") {
        true => reply(path, &body),
        false => (401, r#"{"errcode":"M_UNAUTHORIZED"}"#.to_owned()),
    };
    let length = text.len();
    let tls = reader.get_mut();
    write!(
        tls,
        "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}"
    )?;
    tls.conn.send_close_notify();
    tls.flush()
}

fn reply(server: &str, events: &[Event], quirk: Quirk, path: &str, body: &Value) -> (u16, String) {
    if path == "/_matrix/key/v2/server" {
        return (200, key_document(server));
    }
    let raw = |event: &Event| match quirk {
        Quirk::Forges => event.raw.replace("message ", "massage "),
        _ => event.raw.clone(),
    };
    let list = |field: &str, some: &[Event]| {
        let raws: Vec<String> = some.iter().map(raw).collect();
        (200, format!("{{\"{field}\":[{}]}}", raws.join(",")))
    };
    let not_found = (
        404,
        r#"{"errcode":"M_NOT_FOUND","error":"\u001b[31mnothing"}"#.to_owned(),
    );
    let text = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
    let place = |text: &str| events.iter().position(|event| text.contains(&event.id));
    let (Some(op), false) = (text.split('/').nth(4), quirk == Quirk::Empty) else {
        return not_found;
    };
    match (op, place(&text)) {
        ("event", Some(n)) => list("pdus", &events[n..=n]),
        ("event_auth", Some(_)) => list("auth_chain", &events[..1]),
        ("backfill", Some(n)) => {
            let back: Vec<Event> = events[..=n].iter().rev().take(10).cloned().collect();
            list("pdus", &back)
        }
        ("get_missing_events", _) => {
            let n = place(&body["latest_events"].to_string()).unwrap_or(0);
            let to = place(&body["earliest_events"].to_string()).map_or(0, |to| to + 1);
            list("events", &events[to.max(n.saturating_sub(20)).min(n)..n])
        }
        ("state_ids", Some(_)) => {
            let ids = json!({ "pdu_ids": [events[0].id], "auth_chain_ids": [] });
            (200, ids.to_string())
        }
        _ if op.starts_with("timestamp_to_event") => {
            let at = json!({ "event_id": events[1].id, "origin_server_ts": 1_700_000_000_001_u64 });
            (200, at.to_string())
        }
        _ => not_found,
    }
}
