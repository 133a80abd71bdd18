//! The client: connections to members, kept, and made anew when they broke.

use crate::{
    LinkError,
    connection::{REFUSAL, TIME},
    counters::{LinksCounters, add},
    credentials::Credentials,
    dial::{Connection, dial},
    error::chain,
    proof::{PROOF, prove, unix_ms},
};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use std::{
    collections::BTreeMap,
    error::Error,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::sync::watch;

/// How often a request is sent again that was surely not processed.
const RESENDS_MAX: usize = 8;

/// How to connect to members.
#[derive(Clone, Debug)]
pub struct LinksConfig {
    /// Connections to each member: requests take them in turn. One core encrypts for one connection.
    pub connections: usize,
    /// Members to whom connections are kept.
    pub members_max: usize,
    /// The time for a connection to come about: TCP, TLS, and the first word of HTTP/2.
    pub connect_max: Duration,
    /// After how much silence a member is asked for a sign of life while requests are under way.
    pub ping_interval: Duration,
    /// How long that may take; then the connection is cut, and its streams end with an error.
    pub ping_timeout: Duration,
    /// What a member may send on one stream before it was read.
    pub stream_window: u32,
    /// What a member may send on one connection before it was read. Responses that nobody reads hold
    /// their part of it: once they hold all, those that are read wait too. So read them or drop them.
    pub connection_window: u32,
    /// The largest frame that a member may send. HTTP/2 knows 16 KiB to 16 MiB less one byte, and windows
    /// below 2 GiB: what is beyond is taken for the nearest.
    pub frame_max: u32,
}

impl Default for LinksConfig {
    /// One connection, 4,096 members, 2 s, pings every 1 s answered within 2 s, 4 MiB, 64 MiB, 256 KiB.
    fn default() -> Self {
        Self {
            connections: 1,
            members_max: 4096,
            connect_max: Duration::from_secs(2),
            ping_interval: Duration::from_secs(1),
            ping_timeout: Duration::from_secs(2),
            stream_window: 4 << 20,
            connection_window: 64 << 20,
            frame_max: 256 << 10,
        }
    }
}

/// Connections to members, by address. Cheap to share; all methods take `&self`.
#[derive(Debug)]
pub struct Links {
    credentials: Arc<Credentials>,
    config: LinksConfig,
    counters: Arc<LinksCounters>,
    members: Mutex<BTreeMap<String, Arc<Member>>>,
    next: AtomicU64,
}

/// The connections to one member.
#[derive(Debug)]
struct Member {
    slots: Vec<Mutex<Slot>>,
    turn: AtomicU64,
}

type Dialled = Option<Result<Connection, LinkError>>;

/// Room for one connection.
#[derive(Debug, Default)]
enum Slot {
    #[default]
    Empty,
    /// On its way: everybody who wants it waits for the same one, and gets the same error.
    Dialling(watch::Receiver<Dialled>),
    Open(Connection),
}

impl Member {
    fn new(connections: usize) -> Arc<Self> {
        Arc::new(Self {
            slots: (0..connections.max(1)).map(|_| Mutex::default()).collect(),
            turn: AtomicU64::new(0),
        })
    }

    /// The slot whose turn it is.
    fn turn(&self) -> usize {
        let turn = self.turn.fetch_add(1, Relaxed);
        usize::try_from(turn % self.slots.len() as u64).unwrap_or(0)
    }

    fn slot(&self, index: usize) -> MutexGuard<'_, Slot> {
        self.slots[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Empties a slot if this connection is still in it.
    fn put_away(&self, index: usize, id: u64) {
        let mut slot = self.slot(index);
        if matches!(&*slot, Slot::Open(open) if open.id == id) {
            *slot = Slot::Empty;
        }
    }

    fn is_used(&self) -> bool {
        (0..self.slots.len()).any(|index| match &*self.slot(index) {
            Slot::Empty => false,
            Slot::Dialling(_) => true,
            Slot::Open(connection) => !connection.sender.is_closed(),
        })
    }
}

impl Links {
    /// Connects to nobody yet.
    pub fn new(credentials: Arc<Credentials>, config: LinksConfig) -> Self {
        Self {
            credentials,
            config,
            counters: Arc::default(),
            members: Mutex::default(),
            next: AtomicU64::new(0),
        }
    }

    /// What is counted.
    pub fn counters(&self) -> Arc<LinksCounters> {
        self.counters.clone()
    }

    /// Sends a request to the member at an address (`IP:PORT` or `HOST:PORT`), and gives its response as
    /// soon as the head is here; the body is read by the caller, and dropping it resets the stream.
    ///
    /// A connection is made if there is none; all who wait for it get it, or the error. Where a kept one
    /// turns out to be broken and the request was surely not processed, it is sent again on a new one.
    /// There is no bound here on how long a response may take: a member that answers pings may take its
    /// time. Dropping the future resets the stream; a connection that is being made is made all the same.
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If there is no response; see [`LinkError::may_be_processed`]. Any response that the member's
    /// handler gives is one, whatever its status; so are refusals that are not about who we are (413 for
    /// a body that is too large).
    pub async fn post(
        &self,
        address: &str,
        path: &'static str,
        body: Bytes,
    ) -> Result<Response<Incoming>, LinkError> {
        add(&self.counters.posts);
        let result = self.send(address, path, body).await;
        if result.is_err() {
            add(&self.counters.failed);
        }
        result
    }

    /// Lets go of the connections to a member who is one no more. What is under way on them goes on.
    pub fn forget(&self, address: &str) {
        self.members().remove(address);
    }

    fn members(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Member>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(
        &self,
        address: &str,
        path: &'static str,
        body: Bytes,
    ) -> Result<Response<Incoming>, LinkError> {
        let uri = Uri::builder()
            .scheme("http")
            .authority(address)
            .path_and_query(path)
            .build()
            .map_err(|error| {
                LinkError::Config(format!("`{address}` is no member's address: {error}"))
            })?;
        let member = self.member(address)?;
        let mut resent = 0;
        loop {
            let slot = member.turn();
            // No sender is kept while the response is awaited: a request that is sent in the moment in
            // which its connection ends may be left in the channel, and comes back when the last sender
            // is dropped (the one that is kept goes when the connection ends).
            let (id, response) = {
                let mut connection = self.connection(address, &member, slot).await?;
                let request = self.request(&uri, body.clone())?;
                let response = connection.sender.try_send_request(request);
                (connection.id, response)
            };
            let error = match response.await {
                Ok(response) => return self.taken(address, response),
                Err(mut error) => {
                    let unsent = error.take_message().is_some();
                    let error = error.into_error();
                    let fate = if unsent {
                        Fate::GoneAway
                    } else {
                        Fate::of(&error)
                    };
                    if !fate.is_of_the_stream() {
                        member.put_away(slot, id);
                    }
                    if fate.is_unprocessed() && resent < RESENDS_MAX {
                        add(&self.counters.resent);
                        resent += 1;
                        continue;
                    }
                    error
                }
            };
            return Err(LinkError::Broken {
                address: address.to_owned(),
                why: chain(&error),
            });
        }
    }

    fn request(&self, uri: &Uri, body: Bytes) -> Result<Request<Full<Bytes>>, LinkError> {
        let proof = match self.credentials.keys() {
            None => None,
            Some(keys) => Some(
                prove(&keys, &Method::POST, uri, &body, unix_ms()).ok_or_else(|| {
                    LinkError::Config("the system gives no random numbers".to_owned())
                })?,
            ),
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.clone();
        *request.version_mut() = Version::HTTP_2;
        if let Some(proof) = proof {
            request.headers_mut().insert(PROOF, proof);
        }
        Ok(request)
    }

    /// Tells a refusal of ours, by the other end, from its handler's answers.
    fn taken(
        &self,
        address: &str,
        response: Response<Incoming>,
    ) -> Result<Response<Incoming>, LinkError> {
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let Some(reason) = response.headers().get(REFUSAL) else {
            return Ok(response);
        };
        let theirs = response.headers().get(TIME);
        Err(LinkError::NotAuthenticated {
            address: address.to_owned(),
            why: why(reason, theirs, unix_ms()),
        })
    }

    fn member(&self, address: &str) -> Result<Arc<Member>, LinkError> {
        let mut members = self.members();
        if let Some(member) = members.get(address) {
            return Ok(member.clone());
        }
        if members.len() >= self.config.members_max {
            members.retain(|_, member| member.is_used());
            if members.len() >= self.config.members_max {
                return Err(LinkError::Config(format!(
                    "there are connections to {} members already, the most that are kept",
                    members.len()
                )));
            }
        }
        let member = Member::new(self.config.connections);
        members.insert(address.to_owned(), member.clone());
        Ok(member)
    }

    /// The connection in a slot, made if there is none that can be used.
    async fn connection(
        &self,
        address: &str,
        member: &Arc<Member>,
        index: usize,
    ) -> Result<Connection, LinkError> {
        let mut dialling = {
            let mut slot = member.slot(index);
            match &*slot {
                Slot::Open(connection)
                    if !connection.sender.is_closed()
                        && connection.epoch == self.credentials.epoch() =>
                {
                    return Ok(connection.clone());
                }
                // Whoever makes it puts it here before he goes, unless his task was dropped.
                Slot::Dialling(dialling) if dialling.has_changed().is_ok() => dialling.clone(),
                Slot::Open(_) | Slot::Dialling(_) | Slot::Empty => {
                    let (tell, dialling) = watch::channel(None);
                    *slot = Slot::Dialling(dialling.clone());
                    self.dial(address.to_owned(), member.clone(), index, tell);
                    dialling
                }
            }
        };
        let dialled = dialling.wait_for(Option::is_some).await;
        match dialled.as_deref() {
            Ok(Some(result)) => result.clone(),
            // Its task was dropped: the runtime is going down.
            Ok(None) | Err(_) => Err(LinkError::Broken {
                address: address.to_owned(),
                why: "it was given up".to_owned(),
            }),
        }
    }

    /// Makes a connection in a task of its own, so that it does not end with whoever was first to want it.
    fn dial(
        &self,
        address: String,
        member: Arc<Member>,
        index: usize,
        tell: watch::Sender<Dialled>,
    ) {
        let (credentials, config) = (self.credentials.clone(), self.config.clone());
        let counters = self.counters.clone();
        let id = self.next.fetch_add(1, Relaxed);
        tokio::spawn(async move {
            let ended = {
                // Not to keep what nobody wants any more.
                let member = Arc::downgrade(&member);
                move || {
                    if let Some(member) = member.upgrade() {
                        member.put_away(index, id);
                    }
                }
            };
            let result = dial(&address, id, &credentials, &config, &counters, ended).await;
            *member.slot(index) = match &result {
                Ok(connection) => Slot::Open(connection.clone()),
                Err(_) => Slot::Empty,
            };
            tell.send_replace(Some(result));
        });
    }
}

/// What became of a request that brought no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It never left, for the connection was at its end already; or the other end, which is going away,
    /// said that it will not look at it.
    GoneAway,
    /// The other end said that it did not look at this one.
    Declined,
    /// The other end gave this one up.
    Reset,
    /// The connection broke.
    Broken,
}

impl Fate {
    fn of(error: &hyper::Error) -> Self {
        let mut cause = error.source();
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<h2::Error>() {
                // A stream ends with the other end's GOAWAY only if it is later than the last that the
                // other end has looked at.
                return match (error.is_remote(), error.is_go_away(), error.is_reset()) {
                    (true, true, _) => Self::GoneAway,
                    (true, _, true) if error.reason() == Some(h2::Reason::REFUSED_STREAM) => {
                        Self::Declined
                    }
                    (_, _, true) => Self::Reset,
                    _ => Self::Broken,
                };
            }
            cause = error.source();
        }
        Self::Broken
    }

    /// Whether the request was surely not processed.
    fn is_unprocessed(self) -> bool {
        matches!(self, Self::GoneAway | Self::Declined)
    }

    /// Whether the connection is as good as before.
    fn is_of_the_stream(self) -> bool {
        matches!(self, Self::Declined | Self::Reset)
    }
}

/// What a refusal of our proof means.
fn why(reason: &HeaderValue, theirs: Option<&HeaderValue>, now_ms: u64) -> String {
    let apart = theirs
        .and_then(|time| time.to_str().ok()?.parse::<u64>().ok())
        .map(|theirs| {
            let (ahead, by) = if theirs > now_ms {
                ("ahead of", theirs - now_ms)
            } else {
                ("behind", now_ms - theirs)
            };
            format!("its clock is {:?} {ahead} ours", Duration::from_millis(by))
        });
    let apart = apart.as_deref().unwrap_or("it does not tell its time");
    match reason.as_bytes() {
        b"proof_missing" => "it wants a proof: give this member the cluster's secret".to_owned(),
        b"proof_malformed" => "it does not understand our proof: another version?".to_owned(),
        b"proof_wrong" => "our proof is wrong: do both have the same secret?".to_owned(),
        b"proof_clock" => format!("the clocks are too far apart: {apart}"),
        b"proof_forgotten" => format!("our proof is older than what it remembers: {apart}"),
        b"proof_replayed" => "it has seen this request before".to_owned(),
        _ => "it does not say why".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_how_far_clocks_are_apart() {
        let say = |reason, theirs: Option<u64>| {
            let theirs = theirs.map(HeaderValue::from);
            why(&HeaderValue::from_static(reason), theirs.as_ref(), 100_000)
        };
        for (reason, theirs, expected) in [
            (
                "proof_clock",
                Some(190_000),
                "its clock is 90s ahead of ours",
            ),
            ("proof_clock", Some(10_000), "its clock is 90s behind ours"),
            ("proof_forgotten", Some(100_500), "500ms ahead of ours"),
            ("proof_clock", None, "does not tell its time"),
            ("proof_wrong", None, "same secret"),
            ("proof_missing", None, "give this member"),
            ("else", None, "does not say why"),
        ] {
            let text = say(reason, theirs);
            assert!(text.contains(expected), "{reason} {theirs:?}: {text}");
        }
    }
}
