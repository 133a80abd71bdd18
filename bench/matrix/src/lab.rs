//! Homeservers, and what asks them in the name of one of them.

use gannet_matrix::{
    Builder, Ceilings, Matrix, Opts,
    net::{AddressPolicy, Federation, Homeserver, KeyRing, KeyRingConfig, NetConfig, Roots},
    verify::{
        keyset::{KeySet, VerifyKey},
        sign::SigningKey,
    },
};
use gannet_store::{MemoryConfig, MemoryStore};
use gannet_testkit::{
    client::{Connection, encode_key},
    peers::{Dnsmasq, Synapses},
};
use ruma_common::{
    OwnedEventId, OwnedRoomId, OwnedServerName, ServerName,
    serde::{Base64, base64::Standard},
};
use ruma_signatures::PublicKeyMap;
use serde_json::Value;
use std::{collections::BTreeSet, fs, sync::Arc, time::Duration};

/// Running homeservers, a name server, and the room that is fetched.
pub(crate) struct Lab {
    json: Value,
    dns: Dnsmasq,
    _synapses: Synapses,
    pub(crate) room: OwnedRoomId,
    /// All events of the room.
    pub(crate) events: BTreeSet<OwnedEventId>,
    /// The last of them.
    pub(crate) last: OwnedEventId,
}

/// The room.
const ROOM: &str = "chain";
/// The server that is asked.
const SERVER: &str = "hs2";

fn text(value: &Value) -> &str {
    value.as_str().expect("text, in the lab's description")
}

fn event_id(text: &str) -> OwnedEventId {
    text.try_into().expect("the id of an event")
}

impl Lab {
    /// Starts it, and has so much said in the room that it has so many events.
    pub(crate) async fn start(events_min: usize) -> Self {
        let (synapses, dns) = tokio::task::spawn_blocking(|| {
            let synapses = Synapses::start(&[]);
            let dns = Dnsmasq::start(&synapses.zone());
            (synapses, dns)
        })
        .await
        .expect("the lab starts");
        let room = synapses.room(ROOM);
        let events = room["events"].as_array().expect("events").iter();
        let events: BTreeSet<_> = events
            .map(|event| event_id(text(&event["event_id"])))
            .collect();
        let room_id = text(&room["room_id"]).try_into().expect("a room's id");
        let mut lab = Self {
            json: synapses.lab().clone(),
            dns,
            _synapses: synapses,
            room: room_id,
            last: event_id("$none"),
            events,
        };
        lab.talk(events_min).await;
        lab
    }

    async fn talk(&mut self, events_min: usize) {
        let server = self.server(SERVER).clone();
        let base = text(&server["client_api"]);
        let bearer = format!("Bearer {}", text(&server["users"][0]["token"]));
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
        ];
        let authority = base.trim_start_matches("http://");
        let mut connection = Connection::open(authority).await.expect("a server");
        let room = encode_key(self.room.as_str());
        while self.events.len() < events_min {
            let n = self.events.len();
            let url = format!("{base}/_matrix/client/v3/rooms/{room}/send/m.room.message/{n}");
            let body = format!(r#"{{"msgtype":"m.text","body":"message {n}"}}"#);
            let answer = connection.request("PUT", &url, &headers, body.as_bytes());
            let answer = answer.await.expect("an answer");
            assert_eq!(answer.head.status, 200, "{}", answer.text());
            let told: Value = serde_json::from_slice(&answer.body).expect("JSON");
            self.last = event_id(text(&told["event_id"]));
            self.events.insert(self.last.clone());
        }
    }

    fn server(&self, label: &str) -> &Value {
        let mut servers = self.json["servers"].as_array().expect("servers").iter();
        let found = servers.find(|server| server["label"] == label);
        found.expect("a server of the lab")
    }

    fn name(&self, label: &str) -> OwnedServerName {
        let name = text(&self.server(label)["name"]);
        name.try_into().expect("a server's name")
    }

    /// A service that knows nothing yet.
    pub(crate) fn service(&self) -> Matrix {
        let hs1 = self.server("hs1");
        let read = |path: &Value| fs::read_to_string(text(path)).expect("a file of the lab");
        let key = SigningKey::parse_file(&read(&hs1["signing_key"]))
            .expect("a key")
            .remove(0);
        let mut config = NetConfig::default();
        config.policy = AddressPolicy::allowing(["127.0.0.0/8".parse().expect("a block")]);
        config.roots = Roots::only_pem(read(&self.json["ca"]).as_bytes()).expect("an authority");
        config.name_server = Some(self.dns.addr());
        let sign = Arc::new(Homeserver::new(self.name("hs1"), key));
        let federation = Federation::new(config, Some(sign)).expect("a configuration");
        let keys = KeyRing::open(federation.clone(), KeyRingConfig::default()).expect("a key ring");
        let store = Arc::new(MemoryStore::new(MemoryConfig::default()));
        Builder::new(
            self.name("hs1"),
            Arc::new(federation),
            Arc::new(keys),
            Ceilings::default(),
        )
        .store(store)
        .build()
        .expect("bounds above zero")
    }

    /// Of the one server.
    pub(crate) fn opts(&self) -> Opts {
        Opts::new().pool([self.name(SERVER)])
    }

    /// CPU time of the server that is asked.
    pub(crate) fn server_cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.server(SERVER)["pid"]));
        let stat = stat.unwrap_or_default();
        // Behind the name, which is in brackets: user and system time are the 12th and 13th, in 1/100 s.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let fields = fields.split_ascii_whitespace().skip(11).take(2);
        let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
        Duration::from_millis(10 * ticks)
    }

    /// What the servers' keys are: for us, and for `ruma`.
    pub(crate) fn keys(&self) -> (KeySet, PublicKeyMap) {
        let (mut ours, mut rumas) = (KeySet::new(), PublicKeyMap::new());
        for server in self.json["servers"].as_array().expect("servers") {
            let now = (text(&server["key_id"]), text(&server["verify_key"]));
            let old = server["old_verify_keys"].as_object().into_iter().flatten();
            let old = old.map(|(id, key)| (id.as_str(), text(&key["key"])));
            let name = text(&server["name"]);
            for (id, key) in old.chain([now]) {
                let key = Base64::<Standard, [u8; 32]>::parse(key)
                    .expect("a key")
                    .into_inner();
                let known = VerifyKey {
                    bytes: key,
                    valid_until_ms: u64::MAX,
                };
                let server = <&ServerName>::try_from(name).expect("a name");
                ours.insert_key(server, id, known);
                let of_server = rumas.entry(name.to_owned()).or_default();
                of_server.insert(id.to_owned(), Base64::new(key.to_vec()));
            }
        }
        (ours, rumas)
    }

    /// As it is pinned.
    pub(crate) fn synapse_version(&self) -> String {
        let pinned = include_str!("../../../testkit/requirements-synapse.txt");
        let mut lines = pinned.lines();
        let version = lines.find_map(|line| line.strip_prefix("matrix-synapse=="));
        let version = version.unwrap_or("of some version");
        version
            .split_ascii_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned()
    }
}
