//! The datagrams of gossip: sealed where there is a key, small where there is none.
//!
//! A sealed datagram begins with the first 16 bytes of a keyed BLAKE3 hash of the rest. What has no
//! such tag, or a wrong one, is dropped before anything in it is read. One that was recorded can be sent
//! again: at worst that makes a member that has just died seem alive for a moment longer, for signs of life
//! count only when they are newer than those known.
//!
//! Without a key anybody is heard. Then datagrams are bounded so that little can be packed into one,
//! and in any case gossip ends itself when it knows more members, or of one of them more, than there can be.

use async_trait::async_trait;
use chitchat::{
    Chitchat, ChitchatMessage, Deserializable, Serializable,
    transport::{Socket, Transport},
};
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{net::UdpSocket, sync::watch};

const TAG_BYTES: usize = 16;
/// What fits into one datagram.
const DATAGRAM_BYTES_MAX: usize = 65_507;
/// Without a key: compressed parts of a datagram become 25 MiB at most when unpacked.
const UNSEALED_BYTES_MAX: usize = 8 << 10;
/// What a message takes for each member that it names, with IPv6. A message names all: chitchat
/// panics over more than one datagram can name, and what is too long for others is not sent at all.
const NODE_BYTES: usize = 54;
/// And for everything else.
const REST_BYTES: usize = 700;
/// What each publishes: itself, and that it leaves.
const VALUES_MAX: usize = 2;

/// Knows a key.
#[derive(Clone)]
pub(super) struct Seal([u8; 32]);

impl Seal {
    /// Clusters that share a key by mistake do not hear each other either.
    pub(super) fn new(key: &[u8; 32], cluster: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("gannet members gossip 1");
        hasher.update(key).update(cluster.as_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    pub(super) fn seal(&self, message: &[u8]) -> Vec<u8> {
        let mut datagram = self.tag(message).to_vec();
        datagram.extend_from_slice(message);
        datagram
    }

    pub(super) fn open<'a>(&self, datagram: &'a [u8]) -> Option<&'a [u8]> {
        let (tag, message) = datagram.split_at_checked(TAG_BYTES)?;
        // In a time that does not depend on where they differ.
        let differ = self
            .tag(message)
            .iter()
            .zip(tag)
            .fold(0, |all, (a, b)| all | (a ^ b));
        (differ == 0).then_some(message)
    }

    fn tag(&self, message: &[u8]) -> [u8; TAG_BYTES] {
        let hash = blake3::keyed_hash(&self.0, message);
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&hash.as_bytes()[..TAG_BYTES]);
        tag
    }
}

/// What the socket and whoever made it have to tell each other.
pub(crate) struct Shared {
    /// What is known, so that it can be counted.
    chitchat: Mutex<Option<Arc<tokio::sync::Mutex<Chitchat>>>>,
    /// How many were answered with all that they did not know.
    told: watch::Sender<u64>,
    dropped: AtomicU64,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("dropped", &self.dropped())
            .finish()
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            chitchat: Mutex::default(),
            told: watch::Sender::new(0),
            dropped: AtomicU64::new(0),
        }
    }
}

impl Shared {
    pub(super) fn begin(&self, chitchat: Option<Arc<tokio::sync::Mutex<Chitchat>>>) {
        *self.chitchat.lock().unwrap_or_else(PoisonError::into_inner) = chitchat;
    }

    /// Datagrams that were not listened to.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(super) fn told(&self) -> u64 {
        *self.told.borrow()
    }

    pub(super) async fn until_told(&self, count: u64) {
        // The sender is right here.
        let _ = self.told.subscribe().wait_for(|told| *told >= count).await;
    }

    /// Whether more is known than there can be.
    async fn is_flooded(&self, nodes_max: usize) -> bool {
        let chitchat = self.chitchat.lock();
        let chitchat = chitchat.unwrap_or_else(PoisonError::into_inner).clone();
        let Some(chitchat) = chitchat else {
            return false;
        };
        let chitchat = chitchat.lock().await;
        let nodes = chitchat.node_states();
        nodes.len() > nodes_max
            || nodes.values().any(|node| {
                node.key_values_including_deleted()
                    .nth(VALUES_MAX)
                    .is_some()
            })
    }
}

/// Hands its one socket out.
pub(super) struct Sealed {
    socket: Mutex<Option<SealedSocket>>,
}

impl Sealed {
    pub(super) fn new(socket: UdpSocket, seal: Option<Seal>, shared: Arc<Shared>) -> Self {
        let bytes_max = match seal {
            Some(_) => DATAGRAM_BYTES_MAX,
            None => UNSEALED_BYTES_MAX,
        };
        let socket = SealedSocket {
            bytes_max,
            nodes_max: (bytes_max - REST_BYTES) / NODE_BYTES,
            socket,
            seal,
            shared,
            buffer: vec![0; DATAGRAM_BYTES_MAX],
        };
        Self {
            socket: Mutex::new(Some(socket)),
        }
    }
}

#[async_trait]
impl Transport for Sealed {
    async fn open(&self, _: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let socket = self
            .socket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match socket {
            Some(socket) => Ok(Box::new(socket)),
            None => anyhow::bail!("opened twice"),
        }
    }
}

struct SealedSocket {
    socket: UdpSocket,
    seal: Option<Seal>,
    shared: Arc<Shared>,
    bytes_max: usize,
    nodes_max: usize,
    buffer: Vec<u8>,
}

impl SealedSocket {
    fn read(&self, datagram: &[u8]) -> Option<ChitchatMessage> {
        if datagram.len() > self.bytes_max {
            return None;
        }
        let mut message = match &self.seal {
            Some(seal) => seal.open(datagram)?,
            None => datagram,
        };
        ChitchatMessage::deserialize(&mut message).ok()
    }
}

#[async_trait]
impl Socket for SealedSocket {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        let tells = matches!(
            message,
            ChitchatMessage::SynAck { .. } | ChitchatMessage::Ack { .. }
        );
        let mut datagram = message.serialize_to_vec();
        if let Some(seal) = &self.seal {
            datagram = seal.seal(&datagram);
        }
        if datagram.len() > self.bytes_max {
            anyhow::bail!(
                "{} bytes for one datagram: too many members",
                datagram.len()
            );
        }
        self.socket.send_to(&datagram, to).await?;
        if tells {
            self.shared.told.send_modify(|told| *told += 1);
        }
        Ok(())
    }

    /// What is received when this is cancelled may be lost, as datagrams may.
    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        loop {
            let (len, from) = match self.socket.recv_from(&mut self.buffer).await {
                Ok(received) => received,
                Err(error) if is_passing(&error) => continue,
                Err(error) => return Err(error.into()),
            };
            if self.shared.is_flooded(self.nodes_max).await {
                anyhow::bail!(
                    "more is known than there can be: more members than gossip is for, or lies"
                );
            }
            match self.read(&self.buffer[..len]) {
                Some(message) => return Ok((from, message)),
                None => {
                    self.shared.dropped.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(%from, len, "not listened to");
                }
            }
        }
    }
}

/// About one datagram, not about the socket.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, Interrupted, OutOfMemory};
    matches!(
        error.kind(),
        ConnectionRefused | ConnectionReset | Interrupted | OutOfMemory
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sealed_is_opened() {
        let seal = Seal::new(&[7; 32], "c");
        let datagram = seal.seal(b"hello");
        assert_eq!(seal.open(&datagram), Some(&b"hello"[..]));
        for at in 0..datagram.len() {
            let mut other = datagram.clone();
            other[at] ^= 1;
            assert_eq!(seal.open(&other), None, "byte {at}");
            assert_eq!(seal.open(&datagram[..at]), None, "cut at {at}");
        }
        for other in [Seal::new(&[8; 32], "c"), Seal::new(&[7; 32], "d")] {
            assert_eq!(other.open(&datagram), None);
        }
        assert_eq!(seal.open(&seal.seal(b"")), Some(&b""[..]));
    }
}
