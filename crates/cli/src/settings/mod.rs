//! The settings of `gannet cache`: one table, from which come the struct, the flags, the
//! environment variables, the keys of the file, the help, `gannet config`, and the check that
//! docs/CONFIG.md is complete.

mod flags;
mod layers;
mod show;
mod value;

pub use flags::Flags;
pub use layers::{Key, Layers, SetBy, Texts, parse_file};
pub use show::{show_json, show_toml};
pub use value::{Shape, Value};

use crate::{
    exit::{Error, Result},
    units::{Fraction, Size, Span},
};
use gannet_cache::TraceConfig;
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// A value and who set it.
#[derive(Clone, Debug)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// Who set it.
    pub by: SetBy,
}

macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $field:ident ($name:literal $placeholder:literal): $type:ty = $default:expr;)+) => {
        /// The effective settings.
        #[derive(Clone, Debug)]
        #[non_exhaustive]
        pub struct Settings {
            $($(#[doc = $doc])+ pub $field: Setting<$type>,)+
        }

        /// Every setting, in the order in which they are shown.
        pub const KEYS: &[Key] = &[
            $(Key {
                name: $name,
                shape: <$type as Value>::SHAPE,
                placeholder: $placeholder,
                doc: &[$($doc),+],
            },)+
        ];

        impl Settings {
            /// Takes every setting from the highest layer that has it; the values are read, but not
            /// yet compared with each other (see [`check`](Self::check)).
            pub fn resolve(layers: &Layers) -> Result<Self> {
                let mut keys = KEYS.iter();
                Ok(Self {
                    $($field: {
                        let key = keys.next().expect("one key for each field, in the same order");
                        let (value, by) = layers.take::<$type>(key, $default)?;
                        Setting { value, by }
                    },)+
                })
            }

            /// Each setting as it would be written, none where it is not set, and who set it.
            fn rows(&self) -> Vec<(&'static Key, Option<Vec<String>>, &SetBy)> {
                let mut keys = KEYS.iter();
                vec![$({
                    let key = keys.next().expect("one key for each field, in the same order");
                    (key, self.$field.value.write(), &self.$field.by)
                },)+]
            }
        }
    };
}

settings! {
    /// Where objects come from: s3://, az://, gs://, https://host/prefix, http://, or file:///dir,
    /// whose sub-directories are the buckets. Not set: the current directory, hidden files and
    /// `--data` excluded.
    origin ("origin" "URL"): Option<String> = None;
    /// The server to ask for an s3://, az:// or gs:// origin, if it is not the provider's own.
    origin_endpoint ("origin-endpoint" "URL"): Option<String> = None;
    /// Another source of the same objects with the same etags, for failover, hedging and resume;
    /// s3:// with `?endpoint=http://host:9000` behind it, if needed. May be repeated.
    origin_mirror ("origin-mirror" "URL"): Vec<String> = Vec::new();
    /// The region to sign requests to s3:// for. Not set: $AWS_REGION, $AWS_DEFAULT_REGION,
    /// us-east-1.
    origin_region ("origin-region" "NAME"): Option<String> = None;
    /// Ask the origin without credentials, even if the environment has some.
    origin_anonymous ("origin-anonymous" "BOOL"): bool = false;
    /// Accept http:// and https:// origins without strong etags: a weak one, or Last-Modified and
    /// the length, tells versions apart. Two versions of one second and one length are then mixed up.
    origin_allow_weak ("origin-allow-weak" "BOOL"): bool = false;
    /// Certificate authorities (PEM) to trust beside the system's, for https:// origins, mirrors,
    /// endpoints and stores with certificates of one's own.
    origin_ca ("origin-ca" "FILE"): Option<PathBuf> = None;
    /// The most requests under way to the origin at a time; of a cluster, by all its members together.
    origin_concurrency ("origin-concurrency" "N"): u32 = 192;
    /// How long a request may wait for its turn at the origin.
    queue_timeout ("queue-timeout" "DURATION"): Span = secs(5);
    /// Where S3 clients connect. An address that others can reach needs `--auth` or `--anonymous`.
    listen ("listen" "ADDRESS"): SocketAddr = SocketAddr::from(([127, 0, 0, 1], 9000));
    /// Where /healthz, /readyz, /metrics, /debug and /admin are served.
    ops_listen ("ops-listen" "ADDRESS"): SocketAddr = SocketAddr::from(([127, 0, 0, 1], 9002));
    /// A file with the token that /admin asks for. Not set: /admin answers on loopback only.
    ops_token_file ("ops-token-file" "FILE"): Option<PathBuf> = None;
    /// Where the other members of a cluster connect; this makes the cache a member. An address that
    /// others can reach needs `--cluster-secret`, or `--cluster-ca` and what belongs to it.
    internal_listen ("internal-listen" "ADDRESS"): Option<SocketAddr> = None;
    /// How the other members reach this one, which is its name among them: IP:PORT or HOST:PORT. Not
    /// set: where it listens.
    advertise ("advertise" "HOST:PORT"): Option<String> = None;
    /// The members of the cluster, this one among them or not: `10.0.0.1:9001,10.0.0.2:9001*2`, with
    /// a weight behind `*` for one that bears more. All members must name each other alike.
    peers ("peers" "LIST"): Vec<String> = Vec::new();
    /// A name whose addresses are the members, looked up every 5 s: one with A or AAAA records (a
    /// headless service), or with SRV records, which begins with `_`.
    peers_dns ("peers-dns" "NAME"): Option<String> = None;
    /// The name server to ask for `--peers-dns`, if it is not the system's.
    peers_dns_server ("peers-dns-server" "ADDRESS"): Option<SocketAddr> = None;
    /// A member to learn of the others from, by gossip: where it listens for that. May be repeated.
    gossip_seed ("gossip-seed" "HOST:PORT"): Vec<String> = Vec::new();
    /// Where to listen for gossip (UDP), and the address that others are told for it.
    gossip_listen ("gossip-listen" "ADDRESS"): Option<SocketAddr> = None;
    /// This member's share of the work, where members are found by gossip; the weight in `--peers`
    /// counts otherwise.
    weight ("weight" "N"): u32 = 1;
    /// The certificate authority of the cluster, PEM: who it has not signed is no member. Reloaded on
    /// change, like the next two.
    cluster_ca ("cluster-ca" "FILE"): Option<PathBuf> = None;
    /// This member's certificate chain, PEM.
    cluster_cert ("cluster-cert" "FILE"): Option<PathBuf> = None;
    /// Its private key, PEM.
    cluster_key ("cluster-key" "FILE"): Option<PathBuf> = None;
    /// The name that each member's certificate must have: `cache.example.org` or `*.cache.example.org`.
    cluster_san ("cluster-san" "PATTERN"): Option<String> = None;
    /// A file with a secret that all members share, in place of certificates: members prove that they
    /// have it, but nothing is encrypted.
    cluster_secret ("cluster-secret" "FILE"): Option<PathBuf> = None;
    /// How many times a member sends one chunk to others before it sends those who ask on to members
    /// that have it by then. Not set: 8 in a cluster of up to 16 members, 2 in a larger one.
    sends_max ("sends-max" "N"): Option<u32> = None;
    /// The directory of the disk tier. Not set: $CACHE_DIRECTORY (which systemd sets), else
    /// $XDG_CACHE_HOME/gannet, else ~/.cache/gannet.
    data ("data" "DIR"): Option<PathBuf> = None;
    /// A shared store behind the disk: s3://bucket/prefix, gs:// or az://, with
    /// `?endpoint=http://host:9000` behind it if it is not the provider's own.
    store ("store" "URL"): Option<String> = None;
    /// The most bytes kept on disk; 0 for no disk tier.
    disk_max ("disk-max" "SIZE"): Size = Size::gib(10);
    /// The most bytes kept in memory: all chunks where there is no disk tier; beside one those up to
    /// 256 KiB, since the page cache holds the others anyway.
    memory_max ("memory-max" "SIZE"): Size = Size::gib(1);
    /// The unit of caching, 1MiB to 64MiB. Another size is another cache: chunks of the old size
    /// are not found any more, and evicted in time.
    chunk_size ("chunk-size" "SIZE"): Size = Size::mib(8);
    /// How many chunks are fetched ahead of a sequential reader; 0 for none.
    read_ahead ("read-ahead" "N"): u32 = 4;
    /// How long a read of the origin may go without a byte before a second one races it (the
    /// source's own 99th percentile, if that is longer).
    hedge_after ("hedge-after" "DURATION"): Span = secs(1);
    /// How long an object's metadata are believed without asking the origin again.
    meta_ttl ("meta-ttl" "DURATION"): Span = secs(300);
    /// How long it is believed that an object is not there.
    negative_ttl ("negative-ttl" "DURATION"): Span = secs(60);
    /// How long a page of a listing is believed.
    list_ttl ("list-ttl" "DURATION"): Span = secs(5);
    /// How long new connections are still taken after SIGTERM, when /readyz says no already: as long as
    /// a balancer takes to find out. `--drain` begins after it.
    notice ("notice" "DURATION"): Span = secs(0);
    /// How long requests under way may go on after SIGTERM.
    drain ("drain" "DURATION"): Span = secs(30);
    /// The TOML file of those who may read: SigV4 key pairs and bearer tokens. Reloaded on change.
    auth ("auth" "FILE"): Option<PathBuf> = None;
    /// Everybody who reaches the address may read everything.
    anonymous ("anonymous" "BOOL"): bool = false;
    /// The certificate chain to serve TLS with, PEM.
    tls_cert ("tls-cert" "FILE"): Option<PathBuf> = None;
    /// The private key to serve TLS with, PEM.
    tls_key ("tls-key" "FILE"): Option<PathBuf> = None;
    /// Clients must show a certificate that one of these has signed, PEM; `--auth` may name which.
    tls_client_ca ("tls-client-ca" "FILE"): Option<PathBuf> = None;
    /// Answers bucket.NAME as well as NAME/bucket (virtual-hosted style).
    domain ("domain" "NAME"): Option<String> = None;
    /// What is logged: error, warn, info, debug or trace, also for a part of the program
    /// (`info,gannet_cache=debug`).
    log_level ("log-level" "LEVEL"): String = "info".to_owned();
    /// Logs are lines of JSON.
    json_logs ("json-logs" "BOOL"): bool = false;
    /// An OpenTelemetry collector to send traces of requests to, by OTLP over HTTP:
    /// http://host:4318, or with the path at which it takes traces. Not set: nothing is traced.
    otlp ("otlp" "URL"): Option<String> = None;
    /// Which part of the requests is traced, 0 to 1. A client that says itself, by `traceparent`,
    /// whether its request is sampled is followed, within bounds.
    otlp_sample ("otlp-sample" "RATIO"): Fraction = Fraction(0.01);
}

const fn secs(n: u64) -> Span {
    Span(Duration::from_secs(n))
}

/// The default of a setting as it would be written, for the help.
fn default_text(name: &str) -> Option<String> {
    let settings = Settings::resolve(&Layers::default()).expect("defaults need no reading");
    let (key, texts, _) = settings
        .rows()
        .into_iter()
        .find(|(key, ..)| key.name == name)?;
    // "default: false" tells nobody anything.
    if matches!(key.shape, Shape::Switch | Shape::List) {
        return None;
    }
    texts.map(|texts| texts.join(" "))
}

impl Settings {
    /// Compares the settings with each other and with their bounds.
    ///
    /// # Errors
    /// [`Exit::Usage`](crate::exit::Exit::Usage), with a remedy.
    pub fn check(&self) -> Result {
        crate::logging::check(&self.log_level.value)?;
        self.check_access()?;
        self.check_bounds()?;
        self.check_cluster()?;
        self.check_traces()?;
        match (&self.tls_cert.value, &self.tls_key.value) {
            (Some(_), None) => Err(Error::usage("--tls-cert needs --tls-key")),
            (None, Some(_)) => Err(Error::usage("--tls-key needs --tls-cert")),
            (None, None) if self.tls_client_ca.value.is_some() => Err(Error::usage(
                "--tls-client-ca needs --tls-cert and --tls-key",
            )),
            _ => Ok(()),
        }
    }

    fn check_access(&self) -> Result {
        let listen = self.listen.value;
        match (&self.auth.value, self.anonymous.value) {
            (Some(_), true) => Err(Error::usage("--auth and --anonymous contradict each other")
                .remedy("one of the two")),
            (None, false) if !listen.ip().is_loopback() => Err(Error::usage(format!(
                "{listen} can be reached by others, and nobody is kept out"
            ))
            .remedy(
                "--auth FILE (keys and tokens, see docs/CONFIG.md), or --anonymous if whoever \
                         reaches it may read everything",
            )),
            _ => Ok(()),
        }
    }

    fn check_traces(&self) -> Result {
        let Some(traces) = self.traces() else {
            return Ok(());
        };
        let endpoint = traces.endpoint().map(drop);
        endpoint.map_err(|error| {
            Error::usage(error)
                .context("--otlp")
                .remedy("such as http://127.0.0.1:4318")
        })
    }

    /// Where traces go, and how many; none where they are off.
    pub(crate) fn traces(&self) -> Option<TraceConfig> {
        Some(TraceConfig {
            url: self.otlp.value.clone()?,
            sample: self.otlp_sample.value.0,
        })
    }

    fn check_cluster(&self) -> Result {
        let tls = [
            ("--cluster-ca", self.cluster_ca.value.is_some()),
            ("--cluster-cert", self.cluster_cert.value.is_some()),
            ("--cluster-key", self.cluster_key.value.is_some()),
            ("--cluster-san", self.cluster_san.value.is_some()),
        ];
        let found = [
            ("--peers", !self.peers.value.is_empty()),
            ("--peers-dns", self.peers_dns.value.is_some()),
            (
                "--gossip-seed",
                !self.gossip_seed.value.is_empty() || self.gossip_listen.value.is_some(),
            ),
        ];
        let secret = ("--cluster-secret", self.cluster_secret.value.is_some());
        if self.internal_listen.value.is_none() {
            let all = tls.iter().chain(&found).chain([&secret]);
            let useless = all
                .filter(|(_, given)| *given)
                .map(|(name, _)| *name)
                .next();
            return match useless {
                Some(flag) => Err(Error::usage(format!("{flag} is for a member of a cluster"))
                    .remedy("--internal-listen ADDRESS, where the other members connect")),
                None => Ok(()),
            };
        }
        let ways = found.iter().filter(|(_, given)| *given).count();
        if ways != 1 {
            let text = if ways == 0 {
                "a member must find the others, and nothing says how"
            } else {
                "the members are to be found in more than one way"
            };
            return Err(Error::usage(text).remedy("one of --peers, --peers-dns and --gossip-seed"));
        }
        let missing: Vec<&str> = tls
            .iter()
            .filter(|(_, given)| !given)
            .map(|(name, _)| *name)
            .collect();
        if secret.1 && missing.len() < tls.len() {
            return Err(
                Error::usage("members prove themselves by certificates or by a secret")
                    .remedy("either --cluster-secret, or --cluster-ca and what belongs to it"),
            );
        }
        if !missing.is_empty() && missing.len() < tls.len() {
            return Err(Error::usage(format!("{} is missing", missing.join(", ")))
                .remedy("all four of --cluster-ca, --cluster-cert, --cluster-key, --cluster-san"));
        }
        if !self.gossip_seed.value.is_empty() && self.gossip_listen.value.is_none() {
            return Err(Error::usage("--gossip-seed needs --gossip-listen")
                .remedy("--gossip-listen ADDRESS, one that the other members reach"));
        }
        if self.weight.value == 0 || self.weight.value > u32::from(u16::MAX) {
            return Err(Error::usage(format!("--weight is {}", self.weight.value))
                .remedy("between 1 and 65535"));
        }
        if self.weight.value != 1 && self.gossip_listen.value.is_none() {
            return Err(Error::usage(
                "--weight is told to others by gossip, and this member uses none",
            )
            .remedy("`ADDRESS*WEIGHT` in --peers of all members, or the weights of SRV records"));
        }
        if self.sends_max.value == Some(0) {
            return Err(Error::usage("--sends-max is 0: nothing could ever be sent"));
        }
        Ok(())
    }

    fn check_bounds(&self) -> Result {
        let chunk = self.chunk_size.value;
        if chunk < Size::mib(1) || chunk > Size::mib(64) {
            return Err(
                Error::usage(format!("--chunk-size is {chunk}")).remedy("between 1MiB and 64MiB")
            );
        }
        if self.origin_concurrency.value == 0 {
            return Err(Error::usage(
                "--origin-concurrency is 0: nothing could ever be fetched",
            ));
        }
        if self.memory_max.value < Size(chunk.0.saturating_mul(2)) {
            return Err(Error::usage(format!(
                "--memory-max is {}: too little for two chunks of {chunk}, one coming, one going",
                self.memory_max.value
            ))
            .remedy("a larger --memory-max, or a smaller --chunk-size"));
        }
        if self.queue_timeout.value.0.is_zero() {
            return Err(Error::usage(
                "--queue-timeout is 0: nothing could ever be fetched",
            ));
        }
        if self.hedge_after.value.0.is_zero() {
            return Err(Error::usage(
                "--hedge-after is 0: each read of the origin would be made twice",
            )
            .remedy("1s"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
