//! What the hostile server of the lab does, by the name that it is called: it passes on what an honest one
//! says, but never as it was said.

use crate::{
    liar::{Act, Asked, Hello, Lies, Script},
    world::text,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use gannet_matrix::{
    How, Op,
    net::{Federation, ReadBounds},
    verify::sign::SigningKey,
};
use http::Method;
use ruma_common::{CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// All names of the hostile server are below this.
pub(crate) const DOMAIN: &str = "liar.test";

/// A lie that is told in place of an answer.
pub(crate) struct Lie {
    /// The name of the hostile server for this.
    pub(crate) label: &'static str,
    /// What is made of it, where one event was asked for.
    pub(crate) one: How,
    /// What is made of it, where many were: the answer as a whole is refused.
    pub(crate) many: How,
    /// The same, where ids were.
    pub(crate) ids: Option<How>,
    /// What is said about it.
    pub(crate) says: &'static str,
    /// Whether it takes time: whoever is asked next is faster.
    pub(crate) slow: bool,
    tell: fn(&Asked, Value) -> Script,
}

impl Lie {
    /// How an attempt ends; `None` where there is nothing to lie about.
    pub(crate) fn how(&self, op: Op) -> Option<How> {
        match op {
            Op::Event | Op::AuthEvent => Some(self.one),
            Op::StateIds | Op::TimestampToEvent => self.ids,
            _ => Some(self.many),
        }
    }
}

/// The PDUs of an answer.
fn pdus(answer: &mut Value) -> &mut Vec<Value> {
    let list = ["pdus", "auth_chain", "events"]
        .into_iter()
        .find(|list| answer[list].is_array());
    answer[list.expect("PDUs")].as_array_mut().unwrap()
}

fn each(mut answer: Value, change: impl Fn(&mut Value)) -> Script {
    pdus(&mut answer).iter_mut().for_each(change);
    Script::json(answer.to_string())
}

/// Something else in place of each signature.
fn signatures(answer: Value, change: impl Fn(&str) -> String) -> Script {
    each(answer, |pdu| {
        let servers = pdu["signatures"].as_object_mut().unwrap();
        for signature in servers.values_mut().flat_map(|of| of.as_object_mut()) {
            for signature in signature.values_mut() {
                *signature = change(text(signature)).into();
            }
        }
    })
}

const MINUTE: Duration = Duration::from_secs(60);

/// A server that is of no use to anybody.
const fn broken(
    label: &'static str,
    how: How,
    says: &'static str,
    tell: fn(&Asked, Value) -> Script,
) -> Lie {
    let ids = Some(how);
    Lie {
        label,
        one: how,
        many: how,
        ids,
        says,
        slow: false,
        tell,
    }
}

/// The same, and it takes its time.
const fn slow(label: &'static str, says: &'static str, tell: fn(&Asked, Value) -> Script) -> Lie {
    Lie {
        slow: true,
        ..broken(label, How::TimedOut, says, tell)
    }
}

/// A server whose events are not what they should be.
const fn forger(label: &'static str, says: &'static str, tell: fn(&Asked, Value) -> Script) -> Lie {
    Lie {
        ids: None,
        ..broken(label, How::Bad, says, tell)
    }
}

/// Everything that it does.
pub(crate) fn lies() -> Vec<Lie> {
    vec![
        broken("garbage", How::Bad, "not a JSON object", |_, _| {
            Script::json(&b"\x00\xff\x1b[2J}{"[..])
        }),
        broken("html", How::Bad, "not a JSON object", |_, _| {
            Script::json("<html><h1>It works!</h1></html>")
        }),
        broken("shape", How::Bad, "", |_, _| Script::json("{}")),
        broken("tail", How::Bad, "not a JSON object", |_, truth| {
            Script::json(format!("{truth}{truth}"))
        }),
        forger("flipped", "", |_, truth| {
            each(truth, |pdu| pdu["content"]["body"] = "paid in full".into())
        }),
        forger("moved", "", |_, truth| {
            each(truth, |pdu| {
                pdu["depth"] = (pdu["depth"].as_u64().unwrap() + 1).into();
            })
        }),
        forger("signature", "does not fit", |_, truth| {
            signatures(truth, |signature| {
                let first = if signature.starts_with('A') { "B" } else { "A" };
                format!("{first}{}", &signature[1..])
            })
        }),
        forger("mangled", "does not fit", |_, truth| {
            signatures(truth, |_| "\u{0}!".to_owned())
        }),
        forger("unsigned", "no signature of", |_, truth| {
            each(truth, |pdu| pdu["signatures"] = json!({}))
        }),
        // No forgery: honest servers have been seen to do that.
        Lie {
            many: How::Unproven,
            ..forger("twice", "", |_, mut truth| {
                let all = pdus(&mut truth);
                all.extend(all.clone());
                Script::json(truth.to_string())
            })
        },
        forger("float", "canonical JSON", |_, truth| {
            each(truth, |pdu| pdu["content"]["n"] = 1.5.into())
        }),
        Lie {
            many: How::Empty,
            one: How::Bad,
            ids: None,
            ..broken("nothing", How::Empty, "", |_, mut truth| {
                pdus(&mut truth).clear();
                Script::json(truth.to_string())
            })
        },
        broken("huge", How::Failed, "too large", |_, _| {
            let piece = Bytes::from(vec![b' '; 64 << 10]);
            Script::claims(100 << 20).then(Act::Repeat(piece, 1600))
        }),
        broken("gushing", How::Failed, "too large", |_, _| {
            let mut piece = b"10000\r\n".to_vec();
            piece.resize(piece.len() + (64 << 10), b' ');
            piece.extend(b"\r\n");
            Script::chunked().then(Act::Repeat(piece.into(), 1600))
        }),
        broken("cut-off", How::Failed, "broke off", |_, truth| {
            let truth = truth.to_string();
            Script::claims(truth.len() as u64 + 1).then(Act::Send(truth.into()))
        }),
        broken("unzip", How::Bad, "not a JSON object", |_, _| {
            // The beginning of what would be a gigabyte of zeros: nobody asked for it to be packed.
            let packed = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xec\xc1\x01\x01\x00";
            Script::answer(200, "content-encoding: gzip\r\n", &packed[..])
        }),
        broken("heads", How::Failed, "not HTTP", |_, _| {
            let line = Bytes::from(format!("x: {}\r\n", "y".repeat(1000)));
            Script::raw("HTTP/1.1 200 OK\r\n").then(Act::Repeat(line, 100_000))
        }),
        broken("line", How::Failed, "not HTTP", |_, _| {
            let piece = Bytes::from(vec![b'y'; 64 << 10]);
            Script::raw("HTTP/1.1 200 OK\r\nx: ").then(Act::Repeat(piece, 1600))
        }),
        broken("no-http", How::Failed, "not HTTP", |_, _| {
            Script::raw("SSH-2.0-OpenSSH_9.9\r\n").then(Act::Hang)
        }),
        broken("gone", How::Failed, "broke", |_, _| Script::raw("")),
        broken("busy", How::Busy, "429", |_, _| {
            let body = r#"{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":100}"#;
            Script::answer(429, "retry-after: 3600\r\n", body)
        }),
        broken("ill", How::Failed, "500", |_, _| {
            Script::answer(
                500,
                "",
                r#"{"errcode":"M_UNKNOWN","error":"Oops\u001b[2J"}"#,
            )
        }),
        broken("elsewhere", How::Failed, "redirects", |asked, _| {
            let to = format!("location: https://target.{DOMAIN}:8448{}\r\n", asked.path);
            Script::answer(302, &to, "")
        }),
        broken("inside", How::Failed, "redirects", |_, _| {
            Script::answer(307, "location: http://169.254.169.254/\r\n", "")
        }),
        broken("missing", How::Missing, "404", |_, _| {
            Script::answer(404, "", r#"{"errcode":"M_NOT_FOUND"}"#)
        }),
        broken("barred", How::Forbidden, "403", |_, _| {
            Script::answer(403, "", r#"{"errcode":"M_FORBIDDEN"}"#)
        }),
        broken("another", How::Failed, "certificate", |_, _| {
            Script::raw("")
        }),
        slow("drip", "too slow", |_, _| {
            Script::claims(4_000).then(Act::Drip(Bytes::from_static(b" "), Duration::from_secs(1)))
        }),
        slow("stuck", "fell silent", |_, truth| {
            let truth = truth.to_string();
            let half = Bytes::copy_from_slice(&truth.as_bytes()[..truth.len() / 2]);
            Script::claims(truth.len() as u64)
                .then(Act::Send(half))
                .then(Act::Hang)
        }),
        slow("hang", "no answer in time", |_, _| {
            Script::raw("").then(Act::Hang)
        }),
        slow("early", "no answer in time", |_, _| {
            let early = Bytes::from_static(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n");
            Script::raw("").then(Act::Drip(early, Duration::from_millis(1)))
        }),
        slow("mute", "no answer in time", |_, _| Script::raw("")),
    ]
}

/// What is wrong with the hostile server's own keys, and whether an event of its own can be proved then.
pub(crate) const KEYS: [(&str, &str); 9] = [
    ("key-good", ""),
    ("key-expired", "valid until"),
    ("key-foreign", "no key of"),
    ("key-corrupt", "no key of"),
    ("key-giant", "no key of"),
    ("key-endless", "no key of"),
    ("key-hang", "no key of"),
    ("key-elsewhere", "no key of"),
    ("key-ill", "no key of"),
];

/// What is wrong with its well-known, and what becomes of a request then.
pub(crate) const WELL_KNOWNS: [(&str, How, &str); 9] = [
    // Nobody is named: it is asked where it is by its own name, and has nothing.
    ("wk-loop", How::Missing, "leads back to"),
    ("wk-chain", How::Missing, "more than 5 redirects"),
    ("wk-giant", How::Missing, "larger than 50 KiB"),
    ("wk-endless", How::Missing, "larger than 50 KiB"),
    ("wk-hang", How::Missing, "no answer within"),
    ("wk-plain", How::Missing, "no https address"),
    ("wk-private", How::Missing, "is not connected to"),
    // Somebody is named who is not to be connected to, or who knows nothing of that.
    ("wk-inside", How::Forbidden, "is not connected to"),
    ("wk-again", How::Missing, "m.server is target.liar.test"),
];

/// Where a lie is told of one event among others.
pub(crate) const PARTLY: &str = "partly";

/// The names under which the hostile server is found.
pub(crate) fn names() -> Vec<String> {
    let lies = lies().into_iter().map(|lie| lie.label);
    let keys = KEYS.iter().map(|(label, _)| *label);
    let well_knowns = WELL_KNOWNS.iter().map(|(label, ..)| *label);
    let all = lies.chain(keys).chain(well_knowns);
    let all = all.chain([PARTLY, "target"]);
    all.map(|label| format!("{label}.{DOMAIN}")).collect()
}

pub(crate) fn named(label: &str) -> OwnedServerName {
    ServerName::parse(format!("{label}.{DOMAIN}")).unwrap()
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

/// The hostile server's mind.
pub(crate) struct Mind {
    lies: Vec<Lie>,
    /// Asks an honest server in another's name.
    federation: Federation,
    honest: OwnedServerName,
    known: Mutex<HashMap<(String, Bytes), Value>>,
    /// Events of its own, of each name one.
    pub(crate) own: Mutex<HashMap<String, Value>>,
}

/// The key that the hostile server has under all of its names.
pub(crate) fn own_key() -> SigningKey {
    SigningKey::from_seed("liar", &[66; 32]).unwrap()
}

fn public(key: &SigningKey) -> Value {
    use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
    json!({ "key": STANDARD_NO_PAD.encode(key.public_key()) })
}

/// A key document of a name, signed by it.
fn document(name: &str, valid_until_ts: u64) -> Value {
    let key = own_key();
    let document = json!({
        "server_name": name,
        "valid_until_ts": valid_until_ts,
        "verify_keys": { key.id(): public(&key) },
        "old_verify_keys": {},
    });
    let mut document: CanonicalJsonObject = serde_json::from_value(document).unwrap();
    key.sign_object(&ServerName::parse(name).unwrap(), &mut document)
        .unwrap();
    CanonicalJsonValue::Object(document).into()
}

impl Mind {
    pub(crate) fn new(federation: Federation, honest: OwnedServerName) -> Self {
        Self {
            lies: lies(),
            federation,
            honest,
            known: Mutex::default(),
            own: Mutex::default(),
        }
    }

    /// What the honest server says to this, if it has anything to say.
    async fn truth(&self, asked: &Asked) -> Option<Value> {
        let about = (asked.path.clone(), asked.body.clone());
        if let Some(known) = self.known.lock().unwrap().get(&about) {
            return Some(known.clone());
        }
        let method: Method = asked.method.parse().unwrap();
        let body = (!asked.body.is_empty()).then(|| asked.body.clone());
        let answer = self
            .federation
            .send(&self.honest, method, &asked.path, body);
        let bounds = ReadBounds {
            bytes_max: 16 << 20,
            time_max: MINUTE,
        };
        let answer = answer.await.ok()?.read(bounds).await.unwrap();
        let truth: Value = serde_json::from_slice(&answer).unwrap();
        self.known.lock().unwrap().insert(about, truth.clone());
        Some(truth)
    }

    fn keys(&self, name: &str) -> Script {
        let day = now_ms() + 86_400_000;
        let good = || document(name, day);
        let spaces = Bytes::from(vec![b' '; 64 << 10]);
        match name.split('.').next().unwrap() {
            "key-expired" => Script::json(document(name, 1_000).to_string()),
            "key-foreign" => Script::json(document("hs2.test", day).to_string()),
            "key-corrupt" => {
                let mut document = good();
                document["valid_until_ts"] = (day + 1).into();
                Script::json(document.to_string())
            }
            "key-giant" => Script::claims(100 << 20).then(Act::Repeat(spaces, 1600)),
            "key-endless" => Script::claims(60_000).then(Act::Drip(
                Bytes::from_static(b" "),
                Duration::from_millis(100),
            )),
            "key-hang" => Script::raw("").then(Act::Hang),
            "key-elsewhere" => {
                let to =
                    format!("location: https://key-good.{DOMAIN}:8448/_matrix/key/v2/server\r\n");
                Script::answer(301, &to, "")
            }
            "key-ill" => Script::answer(500, "", "{}"),
            _ => Script::json(good().to_string()),
        }
    }

    fn well_known(&self, name: &str, path: &str) -> Script {
        let redirect = |to: &str| Script::answer(302, &format!("location: {to}\r\n"), "");
        let delegate = |to: &str| Script::json(json!({ "m.server": to }).to_string());
        let spaces = Bytes::from(vec![b' '; 64 << 10]);
        match name.split('.').next().unwrap() {
            "wk-loop" => redirect(path),
            "wk-chain" => redirect(&format!("{path}x")),
            "wk-giant" => Script::claims(100 << 20).then(Act::Repeat(spaces, 1600)),
            "wk-endless" => {
                let mut piece = b"10000\r\n".to_vec();
                piece.extend(&spaces);
                piece.extend(b"\r\n");
                Script::chunked().then(Act::Repeat(piece.into(), 1600))
            }
            "wk-hang" => Script::raw("").then(Act::Hang),
            "wk-plain" => redirect("http://target.liar.test/"),
            "wk-private" => redirect("https://10.0.0.1/"),
            "wk-inside" => delegate("10.0.0.1:8448"),
            "wk-again" => delegate("target.liar.test"),
            _ => Script::answer(404, "", "{}"),
        }
    }
}

impl Lies for Mind {
    fn hello(&self, name: &str) -> Hello {
        match name.split('.').next().unwrap() {
            "another" => Hello::Another,
            "mute" => Hello::Hang,
            _ => Hello::Good,
        }
    }

    fn answer(&self, asked: Asked) -> BoxFuture<'_, Script> {
        Box::pin(async move {
            if asked.path.starts_with("/.well-known/") {
                return self.well_known(&asked.name, &asked.path);
            }
            if asked.path.starts_with("/_matrix/key/") {
                return self.keys(&asked.name);
            }
            let label = asked.name.split('.').next().unwrap();
            let own = self.own.lock().unwrap().get(&asked.name).cloned();
            let own_is_asked = asked.path.contains("/event/");
            if let (Some(own), true) = (&own, own_is_asked) {
                return Script::json(json!({ "pdus": [own] }).to_string());
            }
            let lie = self.lies.iter().find(|lie| lie.label == label);
            let has_truth = lie.is_some() || label == PARTLY || own.is_some();
            let truth = match has_truth {
                true => self.truth(&asked).await,
                false => None,
            };
            let Some(mut truth) = truth else {
                return Script::answer(404, "", r#"{"errcode":"M_NOT_FOUND"}"#);
            };
            match lie {
                Some(lie) => (lie.tell)(&asked, truth),
                None if label == PARTLY => {
                    if let Some(pdu) = pdus(&mut truth).get_mut(1) {
                        pdu["content"]["body"] = "paid in full".into();
                    }
                    Script::json(truth.to_string())
                }
                // Its own among those of others.
                None => {
                    pdus(&mut truth).extend(own);
                    Script::json(truth.to_string())
                }
            }
        })
    }
}
