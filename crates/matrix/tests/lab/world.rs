//! A lab of real homeservers, and what asks them in the name of one of them.

use crate::lies;
use futures_util::StreamExt;
use gannet_matrix::{
    Attempt, BoxFuture, Builder, Ceilings, Courier, Key, Matrix, Opts, SendError, Sent, Wire,
    net::{AddressPolicy, Federation, Homeserver, KeyRing, KeyRingConfig, NetConfig, Roots},
    verify::sign::SigningKey,
};
use gannet_store::{BlobStore, MemoryConfig, MemoryStore};
use gannet_testkit::{
    client::{Connection, encode_key},
    peers::{Dnsmasq, Synapses},
};
use ruma_common::{OwnedEventId, OwnedRoomId, OwnedServerName, RoomVersionId, ServerName};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    future::Future,
    net::{Ipv4Addr, SocketAddrV4},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::Instant;

/// How long anything is waited for that comes in seconds on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Running homeservers, and a name server that knows them. Whoever asks does so as one of them.
pub(crate) struct World {
    synapses: Arc<Mutex<Synapses>>,
    pub(crate) lab: Value,
    dns: Dnsmasq,
}

/// A room of the lab.
pub(crate) struct Room {
    pub(crate) label: String,
    pub(crate) id: OwnedRoomId,
    pub(crate) version: RoomVersionId,
    pub(crate) events: Vec<LabEvent>,
    pub(crate) json: Value,
}

/// An event of a room.
#[derive(Clone)]
pub(crate) struct LabEvent {
    pub(crate) id: OwnedEventId,
    pub(crate) kind: String,
    pub(crate) made_at: u64,
    pub(crate) redacted: bool,
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

pub(crate) fn event_id(text: &str) -> OwnedEventId {
    OwnedEventId::try_from(text).unwrap()
}

/// Beside the servers of the lab, where nobody else is.
fn liar_address(lab: &Value) -> Ipv4Addr {
    let guest = text(&lab["guest"]["address"]);
    let guest: SocketAddrV4 = guest.parse().unwrap();
    let [a, b, c, d] = guest.ip().octets();
    Ipv4Addr::new(a, b, c, d + 1)
}

impl Room {
    fn of(json: &Value) -> Self {
        let event = |event: &Value| LabEvent {
            id: event_id(text(&event["event_id"])),
            kind: text(&event["type"]).to_owned(),
            made_at: event["origin_server_ts"].as_u64().unwrap(),
            redacted: !event["redacted_by"].is_null(),
        };
        Self {
            label: text(&json["label"]).to_owned(),
            id: OwnedRoomId::try_from(text(&json["room_id"])).unwrap(),
            version: text(&json["version"]).try_into().unwrap(),
            events: json["events"]
                .as_array()
                .unwrap()
                .iter()
                .map(event)
                .collect(),
            json: json.clone(),
        }
    }

    /// A list of events that the lab names.
    pub(crate) fn named(&self, what: &Value) -> Vec<OwnedEventId> {
        let list = what.as_array().unwrap_or_else(|| panic!("no list: {what}"));
        list.iter().map(|id| event_id(text(id))).collect()
    }

    pub(crate) fn last(&self) -> OwnedEventId {
        self.events.last().expect("rooms have events").id.clone()
    }

    pub(crate) fn ids(&self) -> BTreeSet<OwnedEventId> {
        self.events.iter().map(|event| event.id.clone()).collect()
    }

    pub(crate) fn is_redacted(&self, id: &OwnedEventId) -> bool {
        self.events
            .iter()
            .any(|event| event.id == *id && event.redacted)
    }
}

impl World {
    pub(crate) async fn start(options: &'static [&'static str]) -> Self {
        let started = tokio::task::spawn_blocking(move || {
            let synapses = Synapses::start(options);
            let lab = synapses.lab().clone();
            let zone = lies::names().iter().fold(synapses.zone(), |zone, name| {
                zone.host(name, liar_address(&lab).into())
            });
            let dns = Dnsmasq::start(&zone);
            (synapses, lab, dns)
        });
        let (synapses, lab, dns) = started.await.unwrap();
        Self {
            synapses: Arc::new(Mutex::new(synapses)),
            lab,
            dns,
        }
    }

    fn server(&self, label: &str) -> &Value {
        let servers = self.lab["servers"].as_array().unwrap();
        servers
            .iter()
            .find(|server| server["label"] == label)
            .unwrap()
    }

    pub(crate) fn name(&self, label: &str) -> OwnedServerName {
        OwnedServerName::try_from(text(&self.server(label)["name"])).unwrap()
    }

    pub(crate) fn room(&self, label: &str) -> Room {
        let rooms = self.lab["rooms"].as_array().unwrap();
        Room::of(rooms.iter().find(|room| room["label"] == label).unwrap())
    }

    pub(crate) fn rooms(&self) -> Vec<Room> {
        self.lab["rooms"]
            .as_array()
            .unwrap()
            .iter()
            .map(Room::of)
            .collect()
    }

    /// These servers and nobody else, in this order.
    pub(crate) fn of(&self, labels: &[&str]) -> Opts {
        Opts::new().pool(labels.iter().map(|label| self.name(label)))
    }

    /// `kill hs2`, say, and what the process of that server is then.
    pub(crate) fn control(&self, line: &str) -> impl Future<Output = u32> + use<> {
        let (synapses, line) = (Arc::clone(&self.synapses), line.to_owned());
        let done = tokio::task::spawn_blocking(move || synapses.lock().unwrap().control(&line));
        async move { done.await.unwrap() }
    }

    /// Where a hostile server may be, and is looked for by names of its own.
    pub(crate) fn liar_address(&self) -> Ipv4Addr {
        liar_address(&self.lab)
    }

    /// How servers of the lab are found and reached.
    pub(crate) fn net(&self) -> NetConfig {
        let ca = fs::read(text(&self.lab["ca"])).unwrap();
        let mut config = NetConfig::default();
        config.policy = AddressPolicy::allowing(["127.0.0.0/8".parse().unwrap()]);
        config.roots = Roots::only_pem(&ca).unwrap();
        config.name_server = Some(self.dns.addr());
        config.dns_timeout = Duration::from_secs(30);
        config.resolve_timeout = PATIENCE;
        config
    }

    /// Asks in the name of a server.
    pub(crate) fn federation(&self, me: &str, net: NetConfig) -> Federation {
        let key = fs::read_to_string(text(&self.server(me)["signing_key"])).unwrap();
        let key = SigningKey::parse_file(&key).unwrap().remove(0);
        let me = Homeserver::new(self.name(me), key);
        Federation::new(net, Some(Arc::new(me))).unwrap()
    }

    /// A service of its own, which knows nothing yet but what is in the store; in the name of `hs1`.
    pub(crate) fn asker(&self, store: Option<Arc<dyn BlobStore>>, ceilings: Ceilings) -> Asker {
        self.asker_as("hs1", store, ceilings)
    }

    /// The same in the name of another.
    pub(crate) fn asker_as(
        &self,
        me: &str,
        store: Option<Arc<dyn BlobStore>>,
        ceilings: Ceilings,
    ) -> Asker {
        let federation = self.federation(me, self.net());
        let keys = KeyRing::open(federation.clone(), KeyRingConfig::default()).unwrap();
        self.asker_of(me, federation, Arc::new(keys), store, ceilings)
    }

    /// The same with keys and connections that others have as well.
    pub(crate) fn asker_of(
        &self,
        me: &str,
        federation: Federation,
        keys: Arc<KeyRing>,
        store: Option<Arc<dyn BlobStore>>,
        ceilings: Ceilings,
    ) -> Asker {
        let wire = Arc::new(Watched {
            federation,
            sends: Mutex::default(),
        });
        let courier = Arc::clone(&wire) as Arc<dyn Courier>;
        let mut builder = Builder::new(self.name(me), courier, keys, ceilings).seed(7);
        if let Some(store) = store {
            builder = builder.store(store);
        }
        Asker {
            matrix: builder.build().unwrap(),
            wire,
        }
    }

    /// As a user of a server, sends so many messages one after the other; their ids.
    pub(crate) async fn talk(
        &self,
        label: &str,
        room: &Room,
        messages: usize,
    ) -> Vec<OwnedEventId> {
        let server = self.server(label);
        let authority = text(&server["client_api"]).strip_prefix("http://").unwrap();
        let bearer = format!("Bearer {}", text(&server["users"][0]["token"]));
        let mut connection = Connection::open(authority).await.unwrap();
        let mut sent = Vec::with_capacity(messages);
        for n in 0..messages {
            let url = format!(
                "http://{authority}/_matrix/client/v3/rooms/{}/send/m.room.message/{label}-{n}",
                encode_key(room.id.as_str())
            );
            let body = format!(r#"{{"msgtype":"m.text","body":"later {n}"}}"#);
            let headers = [
                ("authorization", bearer.as_str()),
                ("content-type", "application/json"),
            ];
            let answer = connection
                .request("PUT", &url, &headers, body.as_bytes())
                .await;
            let answer = answer.unwrap();
            assert_eq!(answer.head.status, 200, "{}", answer.text());
            let told: Value = serde_json::from_slice(&answer.body).unwrap();
            sent.push(event_id(text(&told["event_id"])));
        }
        sent
    }

    /// Lets a server log each request from now on.
    pub(crate) async fn log_requests(&self, label: &str) -> AccessLog {
        let server = self.server(label);
        let log = text(&server["log"]).to_owned();
        let config = std::path::Path::new(&log).with_file_name("log.json");
        let mut told: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
        told["loggers"]["synapse.access"]["level"] = "INFO".into();
        fs::write(&config, told.to_string()).unwrap();
        // It reads that again.
        let pid = server["pid"].to_string();
        let sent = std::process::Command::new("kill")
            .args(["-HUP", &pid])
            .status();
        assert!(sent.unwrap().success());
        AccessLog {
            log,
            server: self.name(label),
            federation: self.federation("hs1", self.net()),
        }
    }
}

/// What a server itself says that it was asked.
pub(crate) struct AccessLog {
    log: String,
    server: OwnedServerName,
    federation: Federation,
}

impl AccessLog {
    fn lines(&self) -> Vec<String> {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let requests = log
            .lines()
            .filter(|line| line.contains("Processed request"));
        requests.map(ToOwned::to_owned).collect()
    }

    /// How many requests there were whose line contains this, once all that came before now are logged.
    pub(crate) async fn count(&self, what: &str) -> usize {
        // A request of our own, which is logged when it was answered.
        static MARKS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let mark = MARKS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = format!("/_matrix/federation/v1/event/%24mark{mark}");
        until("a line in the log", async || {
            // Until it has read its configuration again it logs nothing.
            let _ = self
                .federation
                .send(&self.server, http::Method::GET, &path, None)
                .await;
            self.lines()
                .iter()
                .any(|line| line.contains(&path))
                .then_some(())
        })
        .await;
        self.lines()
            .iter()
            .filter(|line| line.contains(what))
            .count()
    }
}

/// Looks again and again until there is something, for a bounded time.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(begun.elapsed() < PATIENCE, "no {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A service, and the requests that it sends.
pub(crate) struct Asker {
    pub(crate) matrix: Matrix,
    pub(crate) wire: Arc<Watched>,
}

/// A request that was sent.
#[derive(Clone, Debug)]
pub(crate) struct Send {
    pub(crate) server: OwnedServerName,
    pub(crate) path: String,
    pub(crate) began: Instant,
    /// When its head came, or an error in its place, and which.
    pub(crate) end: Option<(Instant, Option<SendError>)>,
}

/// Counts requests on their way to the network.
pub(crate) struct Watched {
    federation: Federation,
    sends: Mutex<Vec<Send>>,
}

impl Watched {
    pub(crate) fn sends(&self) -> Vec<Send> {
        self.sends.lock().unwrap().clone()
    }

    /// How many were sent whose path contains this.
    pub(crate) fn count(&self, what: &str) -> usize {
        self.sends()
            .iter()
            .filter(|send| send.path.contains(what))
            .count()
    }
}

impl Courier for Watched {
    fn send<'a>(
        &'a self,
        server: &'a ServerName,
        request: Wire,
    ) -> BoxFuture<'a, Result<Sent, SendError>> {
        let index = {
            let mut sends = self.sends.lock().unwrap();
            sends.push(Send {
                server: server.to_owned(),
                path: request.path.clone(),
                began: Instant::now(),
                end: None,
            });
            sends.len() - 1
        };
        Box::pin(async move {
            let sent = Courier::send(&self.federation, server, request).await;
            let error = sent.as_ref().err().cloned();
            self.sends.lock().unwrap()[index].end = Some((Instant::now(), error));
            sent
        })
    }
}

/// An empty store.
pub(crate) fn empty_store() -> Arc<dyn BlobStore> {
    Arc::new(MemoryStore::new(MemoryConfig::default()))
}

/// What became of requests, in short.
pub(crate) fn told(attempts: &[Attempt]) -> Vec<(&str, &'static str)> {
    let attempts = attempts.iter();
    let short = attempts.map(|attempt| (attempt.server.host(), attempt.how.name()));
    short.collect()
}

/// Fetches events one by one, some at a time, each from one of these in turn.
pub(crate) async fn fetch_each<T>(
    asker: &Asker,
    room: &Room,
    ids: impl IntoIterator<Item = OwnedEventId>,
    opts: impl Fn(usize) -> Opts,
    mut each: impl FnMut(OwnedEventId, Result<gannet_matrix::Outcome, gannet_matrix::FetchError>) -> T,
) {
    let fetches = ids.into_iter().enumerate().map(|(n, id)| {
        let key = Key::event(room.id.clone(), id.clone()).unwrap();
        let fetched = asker.matrix.fetch(key, opts(n));
        async move { (id, fetched.await) }
    });
    let mut fetches = futures_util::stream::iter(fetches).buffer_unordered(8);
    while let Some((id, fetched)) = fetches.next().await {
        each(id, fetched);
    }
}
