//! Blobs in an object store that several nodes share: S3, GCS, Azure Blob, MinIO, Ceph...
//!
//! - **Commit** is put-if-absent (`If-None-Match: *` and its like): a commit that is lost means that
//!   somebody else's copy is the truth, and is success.
//! - **Layout**: `PREFIX/v1/SPACE/DIGEST`; checksums first, then the data ([`crate::frame`]), so that one
//!   ranged read from the beginning tells all that is needed, and brings a small blob whole. Every
//!   block is verified when it is read, of ranges too. A copy that fails is deleted and counted.
//! - **Self-test**: a backend that ignores the precondition, or keeps what is deleted, is refused when
//!   the store is opened, with the reason.
//! - **Errors** are typed: not found is `None` and may be refilled; what is transient or refused is an
//!   error, so that a store's bad minute does not become a load on the origin.
//!
//! Retries, time-outs and credentials are those of the client that is given to
//! [`open`](ObjectBlobStore::open). Not for: a budget. What a bucket holds is for its lifecycle rules.

mod read;
mod selftest;
#[cfg(test)]
mod tests;

use crate::{
    Blob, BlobStore, BoxFuture, Dropped, Entry, EntryStream, Place, Put, Stats, StoreError,
    frame::{BLOCK, FIXED, Fixed, Frame, framed_len, table_len},
    place::{digest_of_hex, hex, space_name},
    stats::Counters,
};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store::{
    Error, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions,
    path::Path,
};
use read::RemoteBlob;
use std::{error::Error as _, fmt::Write as _, sync::Arc};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Bytes that are read to open a blob: the checksums, and a small blob whole.
const HEAD: u64 = 128 << 10;
/// Longest object that one request may put (S3: 5 GiB).
const PUT_MAX: u64 = 4 << 30;
/// Operations at the same time; far above what is sensible, for it only counts them.
const OPERATIONS_MAX: u32 = 1 << 20;
/// Objects that are deleted by one call.
const BATCH: usize = 1_000;

/// The configuration of an [`ObjectBlobStore`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ObjectConfig {
    /// What all names begin with ["gannet"]; empty for none. Slashes separate.
    pub prefix: String,
}

impl Default for ObjectConfig {
    fn default() -> Self {
        Self {
            prefix: "gannet".into(),
        }
    }
}

impl ObjectConfig {
    /// The defaults, under `prefix`.
    pub fn with_prefix(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
        }
    }
}

/// A store over any object store that can put if absent.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use gannet_store::{BlobStore, ObjectBlobStore, ObjectConfig, Place, Put};
/// use std::sync::Arc;
///
/// let bucket = Arc::new(object_store::memory::InMemory::new());
/// let store = ObjectBlobStore::open(bucket.clone(), ObjectConfig::default()).await?;
/// let other_node = ObjectBlobStore::open(bucket, ObjectConfig::default()).await?;
/// let place = Place::derive("s3", [b"key".as_slice(), b"\"etag\""]);
/// assert_eq!(store.put(&place, vec!["abc".into()]).await?, Put::Stored);
/// assert_eq!(other_node.put(&place, vec!["abc".into()]).await?, Put::Exists);
/// let blob = other_node.open(&place).await?.expect("the other node has put it");
/// assert_eq!(blob.to_bytes(1..3).await?, "bc");
/// # Ok::<_, gannet_store::StoreError>(()) }).unwrap();
/// ```
#[derive(Debug)]
pub struct ObjectBlobStore {
    shared: Arc<Shared>,
    /// Counts the operations under way; closed with the store.
    gate: Semaphore,
}

/// What open blobs need of the store.
#[derive(Debug)]
struct Shared {
    store: Arc<dyn ObjectStore>,
    counters: Counters,
    prefix: Path,
}

impl ObjectBlobStore {
    /// Opens the store and tests that the backend does what it must: see
    /// [`self_test`](Self::self_test).
    ///
    /// # Errors
    /// Those of the self-test; [`StoreError::Unsuitable`] for a prefix that no backend takes.
    pub async fn open(
        store: Arc<dyn ObjectStore>,
        config: ObjectConfig,
    ) -> Result<Self, StoreError> {
        let store = Self::untested(store, config)?;
        store.self_test().await?;
        Ok(store)
    }

    /// The store without its test, for those who test it themselves, and use it only once it has
    /// passed: that a backend cannot be reached says nothing about what it does. Asks nothing.
    ///
    /// # Errors
    /// [`StoreError::Unsuitable`] for a prefix that no backend takes.
    pub fn untested(store: Arc<dyn ObjectStore>, config: ObjectConfig) -> Result<Self, StoreError> {
        let prefix = Path::parse(&config.prefix).map_err(|error| {
            StoreError::Unsuitable(format!("the prefix {:?}: {error}", config.prefix).into())
        })?;
        let shared = Arc::new(Shared {
            store,
            counters: Counters::default(),
            prefix,
        });
        let gate = Semaphore::new(OPERATIONS_MAX as usize);
        Ok(Self { shared, gate })
    }

    /// Proves on the backend itself that it can carry the store: of two puts-if-absent at the same
    /// moment one wins, a later one fails, reads and ranged reads give the winner's bytes, and what is
    /// deleted is gone, its old versions too. Leaves nothing behind, if it is not dropped. About ten
    /// requests.
    ///
    /// # Errors
    /// [`StoreError::Unsuitable`] with what the backend did and what to do about it, also where it
    /// answers that it does not know what it is asked for; [`Auth`](StoreError::Auth) and
    /// [`Transient`](StoreError::Transient) where it could not be found out.
    pub async fn self_test(&self) -> Result<(), StoreError> {
        let _under_way = self.enter().await?;
        selftest::run(&*self.shared.store, &self.shared.base()).await
    }

    async fn enter(&self) -> Result<SemaphorePermit<'_>, StoreError> {
        self.gate.acquire().await.map_err(|_| StoreError::Closed)
    }
}

impl Shared {
    fn base(&self) -> Path {
        self.prefix.clone().join("v1")
    }

    fn space(&self, space: &str) -> Path {
        // A space's name is one plain segment, to be taken as it is.
        Path::parse(format!("{}/{}", self.base(), space_name(space)))
            .expect("a space's name has no slash, no control character and is no dot segment")
    }

    fn path(&self, place: &Place) -> Path {
        self.space(place.space()).join(hex(place.digest()))
    }

    async fn open(self: &Arc<Self>, place: &Place) -> Result<Option<Blob>, StoreError> {
        let path = self.path(place);
        let range = Some(GetRange::Bounded(0..HEAD));
        let get = self
            .store
            .get_opts(
                &path,
                GetOptions {
                    range,
                    ..GetOptions::default()
                },
            )
            .await;
        let found = match get {
            Ok(get) => {
                let size = get.meta.size;
                (
                    size,
                    get.bytes().await.map_err(|error| failed("read", error))?,
                )
            }
            Err(Error::NotFound { .. }) => return Ok(None),
            // An object with nothing in it has no range to give. Make sure: this leads to deletion.
            Err(error) if is_of_the_range(&error) => match self.store.head(&path).await {
                Ok(meta) if meta.size < FIXED as u64 => (meta.size, Bytes::new()),
                Err(Error::NotFound { .. }) => return Ok(None),
                _ => return Err(failed("read", error)),
            },
            Err(error) => return Err(failed("read", error)),
        };
        match parse(place, found.0, &found.1) {
            Ok((frame, head)) => {
                let (shared, place) = (self.clone(), place.clone());
                let blob = RemoteBlob {
                    shared,
                    place,
                    path,
                    frame,
                    head,
                };
                Ok(Some(Blob::from_source(Arc::new(blob))))
            }
            Err(what) => {
                self.condemn(place, &path, what).await;
                Ok(None)
            }
        }
    }

    /// Counts and deletes a corrupt copy. Should somebody have replaced it in the meantime, that is
    /// one more refill.
    async fn condemn(&self, place: &Place, path: &Path, what: &str) {
        self.counters.corrupt.add(1);
        tracing::warn!(
            ?place,
            what,
            "an object of the shared store is corrupt: dropping it"
        );
        if let Err(error) = self.store.delete(path).await {
            tracing::warn!(?place, %error, "a corrupt object could not be deleted");
        }
    }

    async fn put(&self, place: &Place, segments: Vec<Bytes>) -> Result<Put, StoreError> {
        let frame = Frame::of(&segments);
        if framed_len(frame.len) > PUT_MAX {
            return Err(StoreError::TooLarge {
                need: framed_len(frame.len),
                max: PUT_MAX,
            });
        }
        let fixed = frame.fixed(&space_name(place.space()), place.digest());
        let head = [Bytes::copy_from_slice(&fixed), frame.table().into()];
        let payload = head.into_iter().chain(segments).collect();
        let options = PutOptions::from(PutMode::Create);
        match self
            .store
            .put_opts(&self.path(place), payload, options)
            .await
        {
            Ok(_) => Ok(Put::Stored),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(Put::Exists),
            Err(error @ Error::NotFound { .. }) => Err(StoreError::Unsuitable(
                format!(
                    "nothing can be put: {}: does the bucket exist?",
                    chain(&error)
                )
                .into(),
            )),
            Err(error) => Err(failed("put", error)),
        }
    }

    async fn remove(&self, path: &Path) -> Result<bool, StoreError> {
        match self.store.head(path).await {
            Ok(_) => {}
            Err(Error::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(failed("look at", error)),
        }
        match self.store.delete(path).await {
            Ok(()) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(failed("delete", error)),
        }
    }

    async fn drop_space(&self, space: &str) -> Result<Dropped, StoreError> {
        let mut dropped = Dropped::default();
        let mut batches = self.store.list(Some(&self.space(space))).chunks(BATCH);
        while let Some(batch) = batches.next().await {
            let mut batch: Vec<_> = batch
                .into_iter()
                .collect::<Result<_, _>>()
                .map_err(|e| failed("list", e))?;
            batch.retain(|object| digest_of(object).is_some());
            let paths = stream::iter(batch.clone())
                .map(|object| Ok(object.location))
                .boxed();
            let mut deleted = self.store.delete_stream(paths);
            while let Some(end) = deleted.next().await {
                match end {
                    // Somebody else was faster.
                    Ok(_) | Err(Error::NotFound { .. }) => {}
                    Err(error) => return Err(failed("delete", error)),
                }
            }
            dropped.blobs += batch.len() as u64;
            dropped.bytes += batch
                .iter()
                .filter_map(entry)
                .map(|entry| entry.len)
                .sum::<u64>();
        }
        Ok(dropped)
    }
}

impl BlobStore for ObjectBlobStore {
    fn open<'a>(&'a self, place: &'a Place) -> BoxFuture<'a, Result<Option<Blob>, StoreError>> {
        Box::pin(async move {
            let _under_way = self.enter().await?;
            let blob = self.shared.open(place).await?;
            let counters = &self.shared.counters;
            if blob.is_some() {
                &counters.hits
            } else {
                &counters.misses
            }
            .add(1);
            Ok(blob)
        })
    }

    fn put<'a>(
        &'a self,
        place: &'a Place,
        segments: Vec<Bytes>,
    ) -> BoxFuture<'a, Result<Put, StoreError>> {
        Box::pin(async move {
            let _under_way = self.enter().await?;
            let end = self.shared.put(place, segments).await;
            self.shared.counters.commit(&end);
            end
        })
    }

    fn remove<'a>(&'a self, place: &'a Place) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            let _under_way = self.enter().await?;
            self.shared.remove(&self.shared.path(place)).await
        })
    }

    fn list(&self, space: &str) -> EntryStream {
        if self.gate.is_closed() {
            return Box::pin(stream::iter([Err(StoreError::Closed)]));
        }
        let objects = self.shared.store.list(Some(&self.shared.space(space)));
        let entries = objects.map_err(|error| failed("list", error));
        entries
            .try_filter_map(async |object| Ok(entry(&object)))
            .boxed()
    }

    fn drop_space<'a>(&'a self, space: &'a str) -> BoxFuture<'a, Result<Dropped, StoreError>> {
        Box::pin(async move {
            let _under_way = self.enter().await?;
            self.shared.drop_space(space).await
        })
    }

    fn stats(&self) -> Stats {
        self.shared.counters.stats(0, 0, 0)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            // All permits: none is under way.
            let _all = self.gate.acquire_many(OPERATIONS_MAX).await;
            self.gate.close();
        })
    }
}

/// What an object of `size` bytes that begins with `head` holds: its checksums, and the data of
/// `head` as far as it is whole blocks.
fn parse(place: &Place, size: u64, head: &Bytes) -> Result<(Frame, Bytes), &'static str> {
    let fixed = head.get(..FIXED).ok_or("it is too short")?;
    let fixed = Fixed::parse(fixed, &space_name(place.space()), place.digest())?;
    if size != framed_len(fixed.len) {
        return Err("its length");
    }
    // Lengths up to PUT_MAX, so this fits.
    let data = FIXED + table_len(fixed.len) as usize;
    let table = head.get(FIXED..data).ok_or("its checksums are too many")?;
    let frame = Frame::parse(&fixed, table)?;
    let mut head = head.slice(data..);
    if (head.len() as u64) < frame.len {
        head.truncate(head.len() / BLOCK as usize * BLOCK as usize);
    }
    if !frame.verify(0, &head) {
        return Err("a block at its beginning");
    }
    Ok((frame, head))
}

/// The digest by which an object is named, if it is a blob's.
fn digest_of(object: &ObjectMeta) -> Option<[u8; 32]> {
    digest_of_hex(object.location.filename()?.as_bytes())
}

/// The blob that an object is, if it is one of the right length.
fn entry(object: &ObjectMeta) -> Option<Entry> {
    let digest = digest_of(object)?;
    let body = object.size.checked_sub(FIXED as u64)?;
    let len = body - body.div_ceil(BLOCK + 4) * 4;
    (framed_len(len) == object.size).then_some(Entry { digest, len })
}

/// What an error of the backend means for the caller.
fn failed(what: &str, error: Error) -> StoreError {
    let text = format!("cannot {what}: {}", chain(&error));
    match error {
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            StoreError::Auth(text.into())
        }
        Error::NotSupported { .. }
        | Error::NotImplemented { .. }
        | Error::InvalidPath { .. }
        | Error::UnknownConfigurationKey { .. } => StoreError::Unsuitable(text.into()),
        // S3 answers 400 to a token that has run out.
        _ if ["ExpiredToken", "InvalidToken", "TokenRefreshRequired"]
            .iter()
            .any(|code| text.contains(code)) =>
        {
            StoreError::Auth(text.into())
        }
        _ => StoreError::Transient(text.into()),
    }
}

/// Whether the backend may have said that the object has no such range.
fn is_of_the_range(error: &Error) -> bool {
    let text = chain(error).to_ascii_lowercase();
    matches!(error, Error::Generic { .. }) && (text.contains("416") || text.contains("range"))
}

/// An error with its causes, each said once, at most 500 bytes.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            let _ = write!(text, ": {cause}");
        }
        source = error.source();
    }
    text.truncate(text.floor_char_boundary(500));
    text
}
