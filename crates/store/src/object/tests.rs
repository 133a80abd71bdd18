//! The object store under tests: conformance, lying backends, corrupt copies, typed errors.

use super::*;
use crate::conformance::{self, Suite};
use futures_util::stream::BoxStream;
use object_store::{
    CopyOptions, GetResult, ListResult, MultipartUpload, PutMultipartOptions, PutPayload,
    PutResult, Result, local::LocalFileSystem, memory::InMemory,
};
use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

#[tokio::test]
async fn conforms_over_memory() {
    conformance::check(Suite::shared(), async || {
        Arc::new(open(Backend::default()).await)
    })
    .await;
}

#[tokio::test]
async fn conforms_over_files_and_an_empty_prefix() {
    let dir = tempfile::tempdir().unwrap();
    let n = AtomicU64::new(0);
    conformance::check(Suite::shared(), async || {
        let dir = dir.path().join(n.fetch_add(1, Relaxed).to_string());
        std::fs::create_dir(&dir).unwrap();
        let files = Arc::new(LocalFileSystem::new_with_prefix(dir).unwrap());
        Arc::new(
            ObjectBlobStore::open(files, ObjectConfig::with_prefix(""))
                .await
                .unwrap(),
        )
    })
    .await;
}

/// What a backend may do that it must not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Lie {
    #[default]
    None,
    /// Ignores the precondition.
    Overwrites,
    /// Ignores it for a while after an object was made: only late puts are refused.
    OverwritesAtFirst,
    /// Says that it stored what it did not.
    ForgetsTheSecond,
    RefusesAll,
    CannotPutIfAbsent,
    /// Answers a put-if-absent so, with S3's words.
    Answers(&'static str),
    /// Loses its first answers: both writers are told that there was somebody before them.
    LosesAnswers,
    NoBucket,
    IgnoresRanges,
    KeepsTheDeleted,
    KeepsVersions,
    /// Names versions, but deletes them (as GCS does).
    NamesVersions,
    /// Answers for what is missing as if it were forbidden (S3 without `s3:ListBucket`).
    HidesTheMissing,
    Forbids,
    TokenExpired,
    Fails,
    /// Ranged reads fail with a text that speaks of ranges.
    FailsWithARange,
    /// Ends bodies after some bytes, without an error.
    CutsBodies,
}

#[derive(Clone, Debug, Default)]
struct Backend {
    memory: Arc<InMemory>,
    lie: Lie,
    puts: Arc<AtomicU64>,
    gets: Arc<AtomicU64>,
}

impl Backend {
    fn lying(&self, lie: Lie) -> Self {
        Self {
            lie,
            ..self.clone()
        }
    }

    fn fault(&self, path: &Path) -> Result<()> {
        let (path, source) = (path.to_string(), "told so".into());
        match self.lie {
            Lie::Forbids => Err(Error::PermissionDenied { path, source }),
            Lie::TokenExpired => {
                let source = "400 Bad Request: <Code>ExpiredToken</Code>".into();
                Err(Error::Generic {
                    store: "S3",
                    source,
                })
            }
            Lie::Fails => Err(Error::Generic {
                store: "S3",
                source: "503 Slow Down".into(),
            }),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.lie)
    }
}

#[async_trait::async_trait]
impl ObjectStore for Backend {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        mut options: PutOptions,
    ) -> Result<PutResult> {
        self.fault(path)?;
        let n = self.puts.fetch_add(1, Relaxed);
        let (name, source) = (path.to_string(), "told so".into());
        match self.lie {
            Lie::Overwrites => options.mode = PutMode::Overwrite,
            Lie::OverwritesAtFirst if n < 2 => options.mode = PutMode::Overwrite,
            Lie::ForgetsTheSecond if n == 1 => {
                return Ok(PutResult {
                    e_tag: None,
                    version: None,
                    extensions: Default::default(),
                });
            }
            Lie::RefusesAll => return Err(Error::AlreadyExists { path: name, source }),
            Lie::NoBucket => return Err(Error::NotFound { path: name, source }),
            Lie::CannotPutIfAbsent => return Err(Error::NotSupported { source }),
            Lie::Answers(status) => {
                let source = format!("Server returned non-2xx status code: {status}").into();
                let store = "S3";
                return Err(Error::Generic { store, source });
            }
            Lie::LosesAnswers if n < 2 => {
                self.memory.put_opts(path, payload, options).await.ok();
                return Err(Error::AlreadyExists { path: name, source });
            }
            _ => {}
        }
        let mut put = self.memory.put_opts(path, payload, options).await?;
        if matches!(self.lie, Lie::KeepsVersions | Lie::NamesVersions) {
            put.version = Some("v1".into());
        }
        Ok(put)
    }

    async fn get_opts(&self, path: &Path, mut options: GetOptions) -> Result<GetResult> {
        self.fault(path)?;
        self.gets.fetch_add(1, Relaxed);
        if options.version.take().is_some() {
            let (path, source) = (path.to_string(), "told so".into());
            if self.lie == Lie::KeepsVersions {
                let other = Path::from("old");
                self.memory.put(&other, "old".into()).await?;
                return self.memory.get(&other).await;
            }
            return Err(Error::NotFound { path, source });
        }
        if self.lie == Lie::FailsWithARange && options.range.is_some() {
            let source = "500: the blob 416 is out of range of our disks".into();
            return Err(Error::Generic {
                store: "S3",
                source,
            });
        }
        if self.lie == Lie::IgnoresRanges {
            options.range = None;
        }
        match self.memory.get_opts(path, options).await {
            Err(Error::NotFound { path, source }) if self.lie == Lie::HidesTheMissing => {
                Err(Error::PermissionDenied { path, source })
            }
            Ok(mut get) if self.lie == Lie::CutsBodies => {
                let (range, meta) = (get.range.clone(), get.meta.clone());
                let attributes = std::mem::take(&mut get.attributes);
                let bytes = get.bytes().await?;
                let some = bytes.slice(..bytes.len() * 2 / 3);
                let body = stream::iter([Ok(some)]).boxed();
                let payload = object_store::GetResultPayload::Stream(body);
                Ok(GetResult {
                    payload,
                    meta,
                    range,
                    attributes,
                    extensions: Default::default(),
                })
            }
            result => result,
        }
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        match self.lie {
            Lie::KeepsTheDeleted => paths,
            _ => self.memory.delete_stream(paths),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.memory.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.memory.list_with_delimiter(prefix).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.memory.put_multipart_opts(path, options).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.memory.copy_opts(from, to, options).await
    }
}

async fn try_open(backend: Backend) -> std::result::Result<ObjectBlobStore, StoreError> {
    ObjectBlobStore::open(Arc::new(backend), ObjectConfig::default()).await
}

async fn open(backend: Backend) -> ObjectBlobStore {
    try_open(backend).await.unwrap()
}

#[tokio::test]
async fn the_self_test_finds_lies() {
    let unsuitable = |says: &'static str| {
        move |end: &StoreError| {
            matches!(end, StoreError::Unsuitable(_)) && end.to_string().contains(says)
        }
    };
    let auth = |end: &StoreError| matches!(end, StoreError::Auth(_));
    let check = async |lie: Lie, is: &dyn Fn(&StoreError) -> bool| {
        let backend = Backend::default().lying(lie);
        let error = try_open(backend.clone()).await.expect_err("a lie");
        assert!(is(&error), "{lie:?}: {error}");
        if lie != Lie::KeepsTheDeleted {
            let left: Vec<_> = backend
                .memory
                .list(Some(&"gannet".into()))
                .try_collect()
                .await
                .unwrap();
            assert!(left.is_empty(), "{lie:?} left {left:?}");
        }
    };
    check(Lie::Overwrites, &unsuitable("both were accepted")).await;
    check(Lie::OverwritesAtFirst, &unsuitable("both were accepted")).await;
    check(Lie::ForgetsTheSecond, &unsuitable("both were accepted")).await;
    check(Lie::RefusesAll, &unsuitable("was refused")).await;
    check(Lie::CannotPutIfAbsent, &unsuitable("not supported")).await;
    for (status, says) in [
        ("501 Not Implemented: <Code>NotImplemented</Code>", "501"),
        ("400 Bad Request: <Code>InvalidArgument</Code>", "400"),
        ("405 Method Not Allowed: ", "405"),
    ] {
        check(Lie::Answers(status), &unsuitable(says)).await;
    }
    for status in [
        "500 Internal Server Error: ",
        "503 Service Unavailable: ",
        "400 Bad Request: <Code>RequestTimeout</Code>",
        "408 Request Timeout: ",
        "429 Too Many Requests: ",
    ] {
        check(Lie::Answers(status), &StoreError::is_transient).await;
    }
    check(Lie::NoBucket, &unsuitable("does the bucket exist?")).await;
    check(Lie::IgnoresRanges, &unsuitable("ranged read")).await;
    check(Lie::KeepsTheDeleted, &unsuitable("still there")).await;
    check(Lie::KeepsVersions, &unsuitable("versioned")).await;
    check(Lie::HidesTheMissing, &|error| {
        auth(error) && error.to_string().contains("s3:ListBucket")
    })
    .await;
    check(Lie::Forbids, &auth).await;
    check(Lie::TokenExpired, &auth).await;
    check(Lie::Fails, &StoreError::is_transient).await;
    for honest in [Lie::None, Lie::NamesVersions, Lie::LosesAnswers] {
        try_open(Backend::default().lying(honest)).await.unwrap();
    }
}

#[tokio::test]
async fn a_bad_prefix_is_refused() {
    let config = ObjectConfig::with_prefix("a//b");
    let error = ObjectBlobStore::open(Arc::new(InMemory::new()), config)
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Unsuitable(_)), "{error}");
}

fn bytes_of(len: usize) -> Bytes {
    (0..len).map(|i| (i * 7 % 253) as u8).collect()
}

fn place() -> Place {
    Place::derive("s", [b"k".as_slice()])
}

/// A second handle on the same bucket, with faults that begin after it was opened.
fn faulty(backend: &Backend, lie: Lie) -> ObjectBlobStore {
    ObjectBlobStore {
        shared: Arc::new(Shared {
            store: Arc::new(backend.lying(lie)),
            counters: Counters::default(),
            prefix: "gannet".into(),
        }),
        gate: Semaphore::new(OPERATIONS_MAX as usize),
    }
}

#[tokio::test]
async fn not_found_is_none_and_other_errors_are_typed() {
    let backend = Backend::default();
    let store = open(backend.clone()).await;
    assert!(store.open(&place()).await.unwrap().is_none());
    store.put(&place(), vec![bytes_of(300_000)]).await.unwrap();
    let blob = store.open(&place()).await.unwrap().unwrap();
    for (lie, auth) in [
        (Lie::Forbids, true),
        (Lie::TokenExpired, true),
        (Lie::Fails, false),
    ] {
        let faulty = faulty(&backend, lie);
        let right = |error: &StoreError| match error {
            StoreError::Auth(_) => auth,
            StoreError::Transient(_) => !auth,
            _ => false,
        };
        assert!(right(&faulty.open(&place()).await.unwrap_err()));
        assert!(right(&faulty.put(&place(), vec![]).await.unwrap_err()));
        assert!(right(&faulty.remove(&place()).await.unwrap_err()));
        let stats = faulty.stats();
        assert_eq!(
            (stats.commits_error, stats.misses, stats.corrupt),
            (1, 0, 0),
            "no miss: no refill"
        );
    }
    assert!(store.remove(&place()).await.unwrap());
    let gone = blob.to_bytes(200_000..300_000).await.unwrap_err();
    assert!(
        matches!(&gone, StoreError::Gone(_)) && gone.is_absent(),
        "{gone}"
    );
}

#[tokio::test]
async fn a_cut_answer_is_transient_and_the_copy_stays() {
    let backend = Backend::default();
    let store = open(backend.clone()).await;
    store.put(&place(), vec![bytes_of(900_000)]).await.unwrap();
    let whole = store.open(&place()).await.unwrap().unwrap();
    let cut = faulty(&backend, Lie::CutsBodies);
    let blob = cut.open(&place()).await.unwrap().unwrap();
    let error = blob.to_bytes(0..900_000).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(cut.stats().corrupt, 0);
    assert_eq!(whole.to_bytes(0..900_000).await.unwrap(), bytes_of(900_000));
}

#[tokio::test]
async fn every_flip_truncation_and_swap_is_found() {
    const LEN: usize = 300_000;
    let backend = Backend::default();
    let store = open(backend.clone()).await;
    let path = store.shared.path(&place());
    store.put(&place(), vec![bytes_of(LEN)]).await.unwrap();
    let good = backend
        .memory
        .get(&path)
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    let other = Place::derive("s", [b"other".as_slice()]);
    store.put(&other, vec![bytes_of(LEN)]).await.unwrap();
    let swapped = backend
        .memory
        .get(&store.shared.path(&other))
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    let table = FIXED + table_len(LEN as u64) as usize;
    let flips = (0..table)
        .chain((table..good.len()).step_by(30_011))
        .chain([good.len() - 1]);
    let mut bad: Vec<Bytes> = flips
        .map(|at| {
            let mut bad = good.to_vec();
            bad[at] ^= 0x40;
            bad.into()
        })
        .collect();
    bad.extend(
        [
            0,
            1,
            FIXED - 1,
            FIXED,
            table - 1,
            table,
            200_000,
            good.len() - 1,
        ]
        .map(|len| good.slice(..len)),
    );
    bad.extend([[&good[..], b"x"].concat().into(), swapped]);
    for (n, bad) in bad.into_iter().enumerate() {
        backend.memory.put(&path, bad.into()).await.unwrap();
        let before = store.stats().corrupt;
        match store.open(&place()).await.unwrap() {
            None => {}
            // Its head is right: the rest is found out by reading it.
            Some(blob) => {
                let mut pieces = blob.stream(0..LEN as u64).unwrap();
                let (mut at, mut end) = (0, None);
                while let Some(piece) = pieces.next().await {
                    match piece {
                        Ok(piece) => {
                            assert!(
                                piece == bytes_of(LEN)[at..at + piece.len()],
                                "wrong bytes, {n}"
                            );
                            at += piece.len();
                        }
                        Err(error) => end = Some(error),
                    }
                }
                assert!(
                    matches!(end, Some(StoreError::Corrupt { .. })),
                    "{n}: {end:?}"
                );
            }
        }
        assert_eq!(store.stats().corrupt, before + 1, "{n}");
        assert!(
            store.open(&place()).await.unwrap().is_none(),
            "{n} was not dropped"
        );
    }
    assert_eq!(
        store.put(&place(), vec![bytes_of(LEN)]).await.unwrap(),
        Put::Stored
    );
}

#[tokio::test]
async fn what_a_reader_condemns_is_deleted() {
    let store = open(Backend::default()).await;
    store.put(&place(), vec![bytes_of(300_000)]).await.unwrap();
    let blob = store.open(&place()).await.unwrap().unwrap();
    blob.condemn("of another length than the origin says");
    while store.open(&place()).await.unwrap().is_some() {
        tokio::task::yield_now().await;
    }
    assert_eq!(store.stats().corrupt, 1);
}

/// An error that merely speaks of ranges must not lead to a deletion.
#[tokio::test]
async fn a_failure_that_looks_like_a_bad_range_deletes_nothing() {
    let backend = Backend::default();
    let store = open(backend.clone()).await;
    store.put(&place(), vec![bytes_of(10)]).await.unwrap();
    let failing = faulty(&backend, Lie::FailsWithARange);
    assert!(failing.open(&place()).await.unwrap_err().is_transient());
    assert_eq!(failing.stats().corrupt, 0);
    assert!(store.open(&place()).await.unwrap().is_some());
}

#[tokio::test]
async fn a_small_blob_takes_one_request() {
    let backend = Backend::default();
    let store = open(backend.clone()).await;
    for (len, gets) in [(0, 1), (1, 1), (100_000, 1), (131_072, 2), (1_000_000, 2)] {
        let place = Place::derive("s", [len.to_string().as_bytes()]);
        store.put(&place, vec![bytes_of(len)]).await.unwrap();
        backend.gets.store(0, Relaxed);
        let blob = store.open(&place).await.unwrap().unwrap();
        assert_eq!(blob.to_bytes(0..len as u64).await.unwrap(), bytes_of(len));
        assert_eq!(backend.gets.load(Relaxed), gets, "{len} bytes");
    }
}

#[tokio::test]
async fn strangers_in_the_bucket_are_left_alone() {
    let backend = Backend::default();
    let store = open(backend.clone()).await;
    store.put(&place(), vec![bytes_of(10)]).await.unwrap();
    for stranger in [
        "gannet/v1/s/readme",
        "gannet/v1/s/deep/er",
        "gannet/v2/s/x",
        "else",
    ] {
        backend
            .memory
            .put(&stranger.into(), "x".into())
            .await
            .unwrap();
    }
    let entries: Vec<_> = store.list("s").try_collect().await.unwrap();
    assert_eq!(
        entries,
        [Entry {
            digest: *place().digest(),
            len: 10
        }]
    );
    let dropped = store.drop_space("s").await.unwrap();
    assert_eq!(
        dropped,
        Dropped {
            blobs: 1,
            bytes: 10
        }
    );
    let left: Vec<_> = backend.memory.list(None).try_collect().await.unwrap();
    assert_eq!(left.len(), 4, "{left:?}");
}
