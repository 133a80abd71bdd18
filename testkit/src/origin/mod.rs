//! An S3/HTTP origin in this process that counts everything and misbehaves on command.
//!
//! ```no_run
//! # async fn f() {
//! use gannet_testkit::origin::{Fault, Object, Origin, Rule};
//! let origin = Origin::start();
//! origin.put("models", "llama.bin", Object::generated(1, 256 << 20));
//! origin.rule(Rule::new(Fault::Reset { after: 4 << 20 }).times(1));
//! // ... point a cache at origin.url() ...
//! assert_eq!(origin.counts().gets, 33);
//! # }
//! ```
//!
//! It serves `/{bucket}/{key}` (GET and HEAD with Range, If-Match, If-None-Match, If-Range),
//! ListObjects V1 and V2, ListBuckets, HeadBucket and GetBucketLocation, to anybody: signatures are
//! recorded, not verified. It runs on a thread and a runtime of its own, so that a test's paused clock
//! does not touch it, and it ends with the handle.

mod fault;
mod list;
mod object;
mod peer;
mod wire;

pub use fault::{Fault, Method, Rule};
pub use object::Object;

use fault::Struck;
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard},
    thread::JoinHandle,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpSocket},
    runtime,
    sync::{oneshot, watch},
};

/// How long [`Origin::until`] waits before it gives the test up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running origin. Ends, with all its connections, when dropped.
#[derive(Debug)]
pub struct Origin {
    shared: Arc<Shared>,
    addr: SocketAddr,
    alive: watch::Sender<bool>,
    runtime: runtime::Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// How fast it answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Before the head of each answer.
    pub latency: Duration,
    /// Body bytes a second on each connection; as fast as it goes if `None`.
    pub bandwidth: Option<u64>,
}

/// What was asked of an origin so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// GETs of objects, whatever became of them.
    pub gets: u64,
    /// HEADs of objects.
    pub heads: u64,
    /// Listings, HEADs of buckets, lists of buckets.
    pub lists: u64,
    /// Body bytes of objects handed to the kernel.
    pub bytes: u64,
    /// GETs of objects in progress.
    pub active: u64,
    /// The most GETs of objects in progress at once.
    pub active_max: u64,
    /// Connections accepted.
    pub connections: u64,
}

/// One request and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// What was asked.
    pub method: Method,
    /// The bucket; empty where none was named.
    pub bucket: String,
    /// The key, decoded; empty where none was named.
    pub key: String,
    /// Path and query as sent.
    pub target: String,
    /// Headers as sent, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The bytes of the object that were asked for and exist.
    pub range: Range<u64>,
    /// The status; 0 if none was sent.
    pub status: u16,
    /// Body bytes handed to the kernel.
    pub sent: u64,
    /// How it ended.
    pub end: End,
}

impl Served {
    /// The value of a header, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }
}

/// How a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Not yet.
    Open,
    /// All of it was sent.
    Whole,
    /// A fault cut it.
    Cut,
    /// The peer went away.
    Left,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    buckets: BTreeMap<String, BTreeMap<String, Arc<Object>>>,
    rules: Vec<Rule>,
    pace: Pace,
    /// GETs in progress at once; more are asked to slow down.
    bears: Option<u64>,
    counts: Counts,
    served: Vec<Served>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Changes the state and wakes those who wait for a change.
    fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.send_replace(());
        result
    }
}

impl State {
    fn object(&self, bucket: &str, key: &str) -> Option<&Arc<Object>> {
        self.buckets.get(bucket)?.get(key)
    }

    fn replace(&mut self, bucket: &str, key: &str) {
        if let Some(object) = self.buckets.get_mut(bucket).and_then(|b| b.get_mut(key)) {
            *object = Arc::new(object.successor());
        }
    }

    /// The faults that strike a request: of each kind the first rule that matches.
    fn strike(&mut self, struck: &Struck<'_>) -> Vec<Fault> {
        let mut faults: Vec<Fault> = Vec::new();
        for rule in &mut self.rules {
            let kind = std::mem::discriminant(&rule.fault);
            let known = faults
                .iter()
                .any(|fault| std::mem::discriminant(fault) == kind);
            if !known && rule.strikes(struck) {
                faults.push(rule.fault.clone());
            }
        }
        faults
    }
}

impl Origin {
    /// Starts an empty origin on a free loopback port.
    pub fn start() -> Self {
        let (alive, alive_seen) = watch::channel(true);
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: watch::channel(()).0,
        });
        let serving = shared.clone();
        let thread = std::thread::Builder::new()
            .name("origin".into())
            .spawn(move || {
                let runtime = runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime can be made");
                runtime.block_on(async {
                    let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
                    let addr = listener.local_addr().expect("a listener has an address");
                    ready
                        .send((addr, runtime::Handle::current()))
                        .expect("the starter waits");
                    tokio::select! {
                        () = wire::serve(serving, listener, alive_seen) => (),
                        _ = stopped => (),
                    }
                });
            })
            .expect("a thread can be made");
        let (addr, runtime) = is_ready.recv().expect("the origin starts");
        Self {
            shared,
            addr,
            alive,
            runtime,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://127.0.0.1:PORT`, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The URL of an object, its key percent-encoded.
    pub fn object_url(&self, bucket: &str, key: &str) -> String {
        format!("{}/{bucket}/{}", self.url(), crate::client::encode_key(key))
    }

    /// Makes a bucket, if it is not there.
    pub fn bucket(&self, name: &str) {
        self.shared.update(|state| {
            state.buckets.entry(name.into()).or_default();
        });
    }

    /// Puts an object, with its bucket if need be; replaces what is there.
    pub fn put(&self, bucket: &str, key: &str, object: Object) -> Arc<Object> {
        let object = Arc::new(object);
        let put = object.clone();
        self.shared.update(|state| {
            state
                .buckets
                .entry(bucket.into())
                .or_default()
                .insert(key.into(), put);
        });
        object
    }

    /// The object as it is now.
    pub fn object(&self, bucket: &str, key: &str) -> Option<Arc<Object>> {
        self.shared.lock().object(bucket, key).cloned()
    }

    /// Replaces an object by its successor; responses under way go on with what they began.
    pub fn replace(&self, bucket: &str, key: &str) -> Option<Arc<Object>> {
        self.shared.update(|state| state.replace(bucket, key));
        self.object(bucket, key)
    }

    /// Removes an object.
    pub fn remove(&self, bucket: &str, key: &str) {
        self.shared.update(|state| {
            if let Some(objects) = state.buckets.get_mut(bucket) {
                objects.remove(key);
            }
        });
    }

    /// Adds a rule. Of rules with the same kind of fault, the first that matches strikes; rules of
    /// different kinds combine.
    pub fn rule(&self, rule: Rule) {
        self.shared.update(|state| state.rules.push(rule));
    }

    /// Drops all rules.
    pub fn heal(&self) {
        self.shared.update(|state| state.rules.clear());
    }

    /// Sets how fast it answers from the next request on.
    pub fn pace(&self, pace: Pace) {
        self.shared.update(|state| state.pace = pace);
    }

    /// Answers GETs of objects with 503 while so many are in progress.
    pub fn bears(&self, gets: u64) {
        self.shared.update(|state| state.bears = Some(gets));
    }

    /// Dead: connections are reset and refused until it is alive again, on the same port.
    pub fn dead(&self, dead: bool) {
        self.alive.send_replace(!dead);
    }

    /// Counts since the start, or since [`Origin::forget`].
    pub fn counts(&self) -> Counts {
        self.shared.lock().counts
    }

    /// Counts of one object; `lists` and connections are not told apart, and zero.
    pub fn counts_of(&self, bucket: &str, key: &str) -> Counts {
        let mut counts = Counts::default();
        for served in &self.shared.lock().served {
            if (served.bucket.as_str(), served.key.as_str()) == (bucket, key) {
                counts.gets += u64::from(served.method == Method::Get);
                counts.heads += u64::from(served.method == Method::Head);
                counts.active += u64::from(served.method == Method::Get && served.end == End::Open);
                counts.bytes += served.sent;
            }
        }
        counts
    }

    /// Every request so far, in the order of arrival.
    pub fn served(&self) -> Vec<Served> {
        self.shared.lock().served.clone()
    }

    /// Sets the counts to zero and forgets the requests, once none is in progress.
    pub async fn forget(&self) {
        self.until("quiet", |counts| counts.active == 0).await;
        self.shared.update(|state| {
            state.counts = Counts::default();
            state.served.clear();
        });
    }

    /// Waits until the counts are so.
    ///
    /// # Panics
    ///
    /// After a minute of real time, naming `what` and the counts.
    pub async fn until(&self, what: &str, mut holds: impl FnMut(&Counts) -> bool) {
        let mut changes = self.shared.changed.subscribe();
        // On the origin's own runtime, so that a paused clock of the test's does not end it at once.
        let mut patience = self.runtime.spawn(tokio::time::sleep(PATIENCE));
        loop {
            changes.borrow_and_update();
            let counts = self.counts();
            if holds(&counts) {
                patience.abort();
                return;
            }
            tokio::select! {
                _ = changes.changed() => (),
                _ = &mut patience => panic!("the origin was never {what}: {counts:?}"),
            }
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // If it panicked, its message is out already.
            let _ = thread.join();
        }
    }
}

/// Listens there; waits a little where the port is still in use by dying connections.
fn listen(addr: SocketAddr) -> TcpListener {
    let listen = || {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        socket.listen(4096)
    };
    listen().unwrap_or_else(|error| panic!("cannot listen on {addr}: {error}"))
}
