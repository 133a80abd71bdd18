//! Verified events, by id, in a blob store.
//!
//! What is kept is what was proved: the event's bytes as they came, framed with the version of its room
//! and the proof. An event that is whole and what is left of it after a redaction lie in different
//! places, so that the one never stands in for the other, and a copy that is found whole later is kept as
//! well. The place is derived from the room's id too: in rooms of versions 1 and 2 servers choose the ids,
//! and one that lies could give the same to events of two rooms. And it is derived from the version by
//! whose rules the event was proved, which may be no more than what a caller said: who errs in it finds
//! his own errors there again, and nobody else does.
//!
//! The stores check what they read by checksums; what does not parse here is as if it were not there.

use crate::{
    Checks, Event, Proof,
    book::{FetchKey, Record},
    metrics::Metrics,
};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use gannet::{Datum, Soon, Store, engine::CommitFault};
use gannet_store::{BlobStore, Place, StoreError};
use ruma_common::{EventId, OwnedEventId, RoomId, RoomVersionId};
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

/// How a kept event begins.
const MAGIC: &[u8; 4] = b"GME1";
/// What is read of a blob: more than any event that was put has.
const BLOB_BYTES_MAX: u64 = 1 << 20;
/// How long a blob is waited for. A store that does not answer is as good as none, and not worth the patience of a
/// caller, whom a server could answer.
const READ_TIME_MAX: Duration = Duration::from_secs(3);
/// Events of one answer that are put at once.
const PUTS_MAX: usize = 16;
/// The space of the store.
const SPACE: &str = "matrix-events";

/// An event that was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Its bytes as they came.
    pub(crate) raw: Bytes,
    /// The version of its room.
    pub(crate) version: RoomVersionId,
    /// What was proved of it.
    pub(crate) proof: Proof,
}

impl Kept {
    fn header(version: &RoomVersionId, proof: Proof) -> Bytes {
        let version = version.as_str();
        let mut header = BytesMut::with_capacity(MAGIC.len() + 2 + version.len());
        header.put_slice(MAGIC);
        header.put_u8(proof as u8);
        // 32 characters at most, of 4 bytes at most.
        header.put_u8(u8::try_from(version.len()).unwrap_or(u8::MAX));
        header.put_slice(version.as_bytes());
        header.freeze()
    }

    fn parse(blob: &Bytes) -> Option<Self> {
        let rest = blob.strip_prefix(MAGIC)?;
        let (&[proof, len], rest) = rest.split_first_chunk()?;
        let proof = match proof {
            1 => Proof::Redacted,
            2 => Proof::Whole,
            _ => return None,
        };
        let (version, raw) = rest.split_at_checked(usize::from(len))?;
        let version = std::str::from_utf8(version).ok()?.try_into().ok()?;
        Some(Self {
            raw: blob.slice_ref(raw),
            version,
            proof,
        })
    }
}

/// Verified events by id. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct EventStore {
    blobs: Option<Arc<dyn BlobStore>>,
    metrics: Arc<Metrics>,
}

impl EventStore {
    pub(crate) fn new(blobs: Option<Arc<dyn BlobStore>>, metrics: Arc<Metrics>) -> Self {
        Self { blobs, metrics }
    }

    /// Whether there is one.
    pub(crate) fn stores(&self) -> bool {
        self.blobs.is_some()
    }

    /// The event, if it is kept with a proof that these checks demand, by the rules of this version.
    pub(crate) async fn get(
        &self,
        room: &RoomId,
        event: &EventId,
        checks: Checks,
        version: &RoomVersionId,
    ) -> Option<Kept> {
        let whole = self.get_proved(room, event, Proof::Whole, version).await;
        match whole {
            None if !checks.content_hash => {
                self.get_proved(room, event, Proof::Redacted, version).await
            }
            whole => whole,
        }
    }

    async fn get_proved(
        &self,
        room: &RoomId,
        event: &EventId,
        proof: Proof,
        version: &RoomVersionId,
    ) -> Option<Kept> {
        let blobs = self.blobs.as_ref()?;
        let found = async {
            let place = place(room, event, proof, version);
            let Some(blob) = blobs.open(&place).await? else {
                return Ok(None);
            };
            let len = blob.len().min(BLOB_BYTES_MAX);
            blob.to_bytes(0..len).await.map(Some)
        };
        match in_time(found).await {
            Ok(blob) => blob
                .and_then(|blob| Kept::parse(&blob))
                .filter(|kept| kept.proof == proof && kept.version == *version),
            Err(error) => {
                self.failed("read", event, &error);
                None
            }
        }
    }

    /// Keeps an event. It is there afterwards, or the store has failed, which is logged and counted.
    pub(crate) async fn put(
        &self,
        room: &RoomId,
        event: &EventId,
        kept: Kept,
    ) -> Result<(), CommitFault> {
        let Some(blobs) = &self.blobs else {
            return Err(CommitFault::Closed);
        };
        let header = Kept::header(&kept.version, kept.proof);
        let place = place(room, event, kept.proof, &kept.version);
        match blobs.put(&place, vec![header, kept.raw]).await {
            Ok(_) => Ok(()),
            Err(error) => {
                self.failed("kept", event, &error);
                Err(match error {
                    StoreError::Full { .. } | StoreError::TooLarge { .. } => CommitFault::Full,
                    StoreError::Closed => CommitFault::Closed,
                    _ => CommitFault::Io,
                })
            }
        }
    }

    /// The version of a room, if it was proved once.
    pub(crate) async fn version(&self, room: &RoomId) -> Option<RoomVersionId> {
        let blobs = self.blobs.as_ref()?;
        let found = async {
            let Some(blob) = blobs.open(&place_of_version(room)).await? else {
                return Ok(None);
            };
            blob.to_bytes(0..blob.len().min(BLOB_BYTES_MAX))
                .await
                .map(Some)
        };
        match in_time(found).await {
            Ok(blob) => Kept::parse(&blob?).map(|kept| kept.version),
            Err(error) => {
                self.metrics.store_fault();
                tracing::warn!(%room, %error, "the version of a room could not be read");
                None
            }
        }
    }

    /// Keeps the version of a room, which was proved.
    pub(crate) async fn put_version(&self, room: &RoomId, version: &RoomVersionId) {
        let Some(blobs) = &self.blobs else { return };
        let header = Kept::header(version, Proof::Whole);
        if let Err(error) = blobs.put(&place_of_version(room), vec![header]).await {
            self.metrics.store_fault();
            tracing::warn!(%room, %error, "the version of a room could not be kept");
        }
    }

    fn failed(&self, done: &str, event: &EventId, error: &StoreError) {
        self.metrics.store_fault();
        tracing::warn!(%event, %error, "an event could not be {done}");
    }
}

/// What a store answers, if it does.
async fn in_time(
    found: impl Future<Output = Result<Option<Bytes>, StoreError>>,
) -> Result<Option<Bytes>, StoreError> {
    let late = |_| Err(StoreError::Transient("no answer in time".into()));
    timeout(READ_TIME_MAX, found).await.unwrap_or_else(late)
}

fn place(room: &RoomId, event: &EventId, proof: Proof, version: &RoomVersionId) -> Place {
    let (room, event) = (room.as_bytes(), event.as_bytes());
    let (proof, version) = (proof.name().as_bytes(), version.as_str().as_bytes());
    Place::derive(SPACE, [room, event, proof, version])
}

fn place_of_version(room: &RoomId) -> Place {
    Place::derive(SPACE, [room.as_bytes(), b"version"])
}

/// Keeps each event of an answer of which enough was proved. (What is held is looked up before a fetch,
/// by those who know what they demand of it.)
impl Store<FetchKey, Arc<Record>> for EventStore {
    fn commit(&self, datum: Datum<'_, FetchKey, Arc<Record>>) -> Soon<Result<(), CommitFault>> {
        let Some(judged) = datum.meta.judged() else {
            return Soon::Now(Ok(()));
        };
        let Some(version) = judged.version.clone() else {
            return Soon::Now(Ok(()));
        };
        let store = self.clone();
        let key = datum.key.key.clone();
        let events: Vec<(OwnedEventId, Event)> = (judged.events.iter())
            .filter(|event| event.proof > Proof::Form)
            .filter_map(|event| Some((event.event_id.clone()?, event.clone())))
            .collect();
        Soon::later(async move {
            let puts = events.into_iter().map(move |(id, event)| {
                // A copy: a slice would keep the whole answer in memory.
                let raw = Bytes::copy_from_slice(&judged.bytes[event.range]);
                let kept = Kept {
                    raw,
                    version: version.clone(),
                    proof: event.proof,
                };
                let (store, key) = (store.clone(), key.clone());
                async move { store.put(key.room(), &id, kept).await }
            });
            let mut ends = stream::iter(puts).buffer_unordered(PUTS_MAX);
            let mut result = Ok(());
            while let Some(end) = ends.next().await {
                result = result.and(end);
            }
            result
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gannet_store::{MemoryConfig, MemoryStore};
    use ruma_common::{event_id, room_id};

    fn store() -> EventStore {
        let blobs = MemoryStore::new(MemoryConfig { bytes_max: 1 << 20 });
        EventStore::new(Some(Arc::new(blobs)), Arc::default())
    }

    fn kept(raw: &'static str, proof: Proof) -> Kept {
        Kept {
            raw: Bytes::from_static(raw.as_bytes()),
            version: RoomVersionId::V11,
            proof,
        }
    }

    #[tokio::test]
    async fn what_was_cut_never_stands_in_for_the_whole() {
        let store = store();
        let (room, event) = (room_id!("!r:a"), event_id!("$e"));
        let get = async |checks| store.get(room, event, checks, &RoomVersionId::V11).await;
        assert_eq!(get(Checks::NONE).await, None);
        let (cut, whole) = (kept("cut", Proof::Redacted), kept("whole", Proof::Whole));
        store.put(room, event, cut.clone()).await.expect("room");
        assert_eq!(get(Checks::ALL).await, None);
        assert_eq!(get(Checks::REDACTED_TOO).await, Some(cut));
        store.put(room, event, whole.clone()).await.expect("room");
        assert_eq!(get(Checks::ALL).await, Some(whole.clone()));
        assert_eq!(get(Checks::REDACTED_TOO).await, Some(whole.clone()));
        let as_of = async |version| store.get(room, event, Checks::ALL, version).await;
        assert_eq!(as_of(&RoomVersionId::V10).await, None);
        // Nor does what was proved by the rules of one version keep out what is proved by another's.
        let other = Kept {
            version: RoomVersionId::V10,
            ..whole.clone()
        };
        store.put(room, event, other.clone()).await.expect("room");
        assert_eq!(as_of(&RoomVersionId::V10).await, Some(other));
        assert_eq!(as_of(&RoomVersionId::V11).await, Some(whole));
        let elsewhere = room_id!("!s:a");
        let elsewhere = store.get(elsewhere, event, Checks::NONE, &RoomVersionId::V11);
        assert_eq!(elsewhere.await, None);
    }

    #[tokio::test]
    async fn the_version_of_a_room_is_kept() {
        let store = store();
        let room = room_id!("!r:a");
        assert_eq!(store.version(room).await, None);
        store.put_version(room, &RoomVersionId::V6).await;
        assert_eq!(store.version(room).await, Some(RoomVersionId::V6));
        assert_eq!(store.version(room_id!("!s:a")).await, None);
    }

    #[test]
    fn a_frame_is_read_back_and_nothing_else_is_one() {
        let event = kept("{}", Proof::Whole);
        let header = Kept::header(&event.version, event.proof);
        let blob: Bytes = [&header[..], b"{}"].concat().into();
        assert_eq!(Kept::parse(&blob), Some(event));
        for len in 0..header.len() {
            assert_eq!(Kept::parse(&blob.slice(..len)), None);
        }
        let mut other = blob.to_vec();
        other[4] = 0;
        assert_eq!(Kept::parse(&other.into()), None, "nothing was proved");
    }
}
