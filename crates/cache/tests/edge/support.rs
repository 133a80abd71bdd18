//! A backend that is a plain map, and an edge in front of it on a loopback socket.

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use gannet_cache::{
    edge::{
        Access, Drained, Edge, EdgeConfig, EdgeMetrics,
        backend::{Backend, RequestContext},
        bind,
    },
    origin::BoxFuture,
    types::{
        BucketEntry, ByteStream, ListEntry, ListPage, ListQuery, ObjectError, ObjectMeta,
        ObjectName, Segment, SegmentStream,
    },
};
use gannet_testkit::content;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::{
    collections::BTreeMap,
    io::Write,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};
use tokio::{sync::oneshot, task::JoinHandle};

/// When all objects were written.
pub(crate) const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

/// How an object of the map behaves.
#[derive(Clone, Debug)]
pub(crate) enum Manner {
    /// Not held: streamed.
    Stream,
    /// Held in memory, in pieces of this size.
    Memory(usize),
    /// Held in a file; the first bytes in memory.
    File(Arc<std::fs::File>, u64),
    /// Not held: streamed, to those who can send files in parts by turns in memory and in this file.
    Parts(Arc<std::fs::File>),
    /// The stream breaks off with an error after so many bytes.
    Breaks(u64),
    /// The stream ends after so many bytes, without an error.
    Ends(u64),
    /// The stream says nothing after so many bytes.
    Hangs(u64),
    /// Overwritten: so many reads fail with `EtagChanged`, then all is well.
    Changes(Arc<AtomicUsize>),
    /// Cannot be had.
    Fails(ObjectError),
}

#[derive(Debug)]
struct Object {
    bytes: Bytes,
    meta: Arc<ObjectMeta>,
    manner: Manner,
}

#[derive(Debug, Default)]
pub(crate) struct MapBackend {
    objects: Mutex<BTreeMap<(String, String), Arc<Object>>>,
    /// Streams that are alive.
    pub(crate) streams: Arc<AtomicUsize>,
    /// Calls of `head`.
    pub(crate) heads: AtomicUsize,
}

impl MapBackend {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn put(&self, bucket: &str, key: &str, bytes: impl Into<Bytes>, manner: Manner) {
        self.put_with(bucket, key, bytes, manner, "\"etag\"", &[]);
    }

    pub(crate) fn put_with(
        &self,
        bucket: &str,
        key: &str,
        bytes: impl Into<Bytes>,
        manner: Manner,
        etag: &str,
        headers: &[(&'static str, &'static str)],
    ) {
        let bytes = bytes.into();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        let meta = Arc::new(ObjectMeta {
            size: bytes.len() as u64,
            etag: etag.into(),
            modified: SystemTime::UNIX_EPOCH + Duration::from_millis(784_111_777_700),
            headers: Arc::new(map),
        });
        let name = (bucket.to_owned(), key.to_owned());
        let object = Arc::new(Object {
            bytes,
            meta,
            manner,
        });
        self.objects.lock().unwrap().insert(name, object);
    }

    /// An object whose bytes lie in a file.
    pub(crate) fn put_file(&self, bucket: &str, key: &str, bytes: Bytes, in_memory: u64) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        self.put(bucket, key, bytes, Manner::File(Arc::new(file), in_memory));
    }

    /// An object that is streamed, half from memory and half from a file.
    pub(crate) fn put_parts(&self, bucket: &str, key: &str, bytes: Bytes) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        self.put(bucket, key, bytes, Manner::Parts(Arc::new(file)));
    }

    fn find(&self, name: &ObjectName) -> Result<Arc<Object>, ObjectError> {
        let objects = self.objects.lock().unwrap();
        match objects.get(&(name.bucket.to_string(), name.key.to_string())) {
            Some(object) => Ok(object.clone()),
            None if objects.keys().any(|(bucket, _)| **bucket == *name.bucket) => {
                Err(ObjectError::NoSuchKey)
            }
            None => Err(ObjectError::NoSuchBucket),
        }
    }
}

/// Counts itself while it lives.
struct Alive(Arc<AtomicUsize>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Backend for MapBackend {
    fn head<'a>(
        &'a self,
        name: &'a ObjectName,
        context: &'a RequestContext,
    ) -> BoxFuture<'a, Result<Arc<ObjectMeta>, ObjectError>> {
        assert_eq!(context.request_id.len(), 16);
        self.heads.fetch_add(1, Relaxed);
        Box::pin(async move {
            let object = self.find(name)?;
            match &object.manner {
                Manner::Fails(error) => Err(error.clone()),
                _ => Ok(object.meta.clone()),
            }
        })
    }

    fn read<'a>(
        &'a self,
        name: &'a ObjectName,
        meta: &'a Arc<ObjectMeta>,
        range: Range<u64>,
        _: &'a RequestContext,
    ) -> BoxFuture<'a, Result<ByteStream, ObjectError>> {
        Box::pin(async move {
            let object = self.find(name)?;
            assert!(
                !range.is_empty() && range.end <= meta.size,
                "{range:?} of {}",
                meta.size
            );
            let bytes = object.bytes.slice(range.start as usize..range.end as usize);
            let cut = |n: &u64| (bytes.slice(..(*n as usize).min(bytes.len())), *n as usize);
            let mut end = None;
            let mut hang = false;
            let bytes = match &object.manner {
                Manner::Changes(left) if left.load(Relaxed) > 0 => {
                    left.fetch_sub(1, Relaxed);
                    return Err(ObjectError::EtagChanged);
                }
                Manner::Fails(error) => return Err(error.clone()),
                Manner::Breaks(n) => {
                    end = Some(Err(ObjectError::Unavailable("reset".into())));
                    cut(n).0
                }
                Manner::Ends(n) => cut(n).0,
                Manner::Hangs(n) => {
                    hang = true;
                    cut(n).0
                }
                _ => bytes,
            };
            let pieces: Vec<_> = bytes.chunks(10_000).map(|c| bytes.slice_ref(c)).collect();
            self.streams.fetch_add(1, Relaxed);
            let alive = Alive(self.streams.clone());
            let items = pieces.into_iter().map(Ok).chain(end);
            let stream = futures_util::stream::unfold(
                (items, alive),
                move |(mut items, alive)| async move {
                    match items.next() {
                        Some(item) => Some((item, (items, alive))),
                        None if hang => std::future::pending().await,
                        None => None,
                    }
                },
            );
            Ok(Box::pin(stream) as ByteStream)
        })
    }

    fn read_segments<'a>(
        &'a self,
        name: &'a ObjectName,
        meta: &'a Arc<ObjectMeta>,
        range: Range<u64>,
        context: &'a RequestContext,
    ) -> BoxFuture<'a, Result<SegmentStream, ObjectError>> {
        Box::pin(async move {
            let bytes = self.read(name, meta, range.clone(), context).await?;
            let object = self.find(name)?;
            let Manner::Parts(file) = &object.manner else {
                return Ok(Box::pin(bytes.map_ok(Segment::Bytes)) as SegmentStream);
            };
            let (file, mut at) = (file.clone(), range.start);
            Ok(Box::pin(bytes.map_ok(move |bytes| {
                let range = at..at + bytes.len() as u64;
                at = range.end;
                if range.start / 10_000 % 2 == 0 {
                    return Segment::Bytes(bytes);
                }
                Segment::File {
                    file: file.clone(),
                    range,
                    copy: None,
                }
            })))
        })
    }

    fn cached_head(&self, name: &ObjectName) -> Option<Arc<ObjectMeta>> {
        let object = self.find(name).ok()?;
        match object.manner {
            Manner::Fails(_) => None,
            _ => Some(object.meta.clone()),
        }
    }

    fn held(
        &self,
        name: &ObjectName,
        _: &Arc<ObjectMeta>,
        range: Range<u64>,
    ) -> Option<Vec<Segment>> {
        let object = self.find(name).ok()?;
        let memory = |range: Range<u64>, piece: usize| {
            let bytes = object.bytes.slice(range.start as usize..range.end as usize);
            let pieces: Vec<_> = bytes.chunks(piece).map(|c| bytes.slice_ref(c)).collect();
            pieces.into_iter().map(Segment::Bytes)
        };
        match &object.manner {
            Manner::Memory(piece) => Some(memory(range, *piece).collect()),
            Manner::File(file, in_memory) => {
                let border = (*in_memory).clamp(range.start, range.end);
                let mut segments: Vec<_> = memory(range.start..border, 1000).collect();
                for start in (border..range.end).step_by(100_000) {
                    let range = start..(start + 100_000).min(range.end);
                    segments.push(Segment::File {
                        file: file.clone(),
                        range,
                        copy: None,
                    });
                }
                Some(segments)
            }
            _ => None,
        }
    }

    /// The plain meaning of a listing, as slow as can be.
    fn list<'a>(
        &'a self,
        query: &'a ListQuery,
        _: &'a RequestContext,
    ) -> BoxFuture<'a, Result<Arc<ListPage>, ObjectError>> {
        Box::pin(async move {
            let objects = self.objects.lock().unwrap();
            if !objects.keys().any(|(bucket, _)| **bucket == *query.bucket) {
                return Err(ObjectError::NoSuchBucket);
            }
            let after = query.token.as_deref().or(query.start_after.as_deref());
            let mut page = ListPage::default();
            let mut last = String::new();
            for ((bucket, key), object) in &*objects {
                let wanted = **bucket == *query.bucket
                    && key.starts_with(&*query.prefix)
                    && after.is_none_or(|after| **key > *after);
                if !wanted
                    || page
                        .prefixes
                        .last()
                        .is_some_and(|prefix| key.starts_with(prefix))
                {
                    continue;
                }
                if page.objects.len() + page.prefixes.len() == usize::from(query.keys_max) {
                    page.next = Some(last.into());
                    break;
                }
                let rest = &key[query.prefix.len()..];
                let rolled = query
                    .delimiter
                    .as_deref()
                    .and_then(|d| Some(rest.find(d)? + d.len()));
                if let Some(len) = rolled {
                    let prefix = key[..query.prefix.len() + len].to_owned();
                    last = format!("{prefix}\u{10FFFF}");
                    page.prefixes.push(prefix);
                } else {
                    last.clone_from(key);
                    page.objects.push(ListEntry {
                        key: key.clone(),
                        size: object.meta.size,
                        etag: Some(object.meta.etag.to_string()),
                        modified: object.meta.modified,
                        storage_class: None,
                    });
                }
            }
            Ok(Arc::new(page))
        })
    }

    fn buckets<'a>(
        &'a self,
        _: &'a RequestContext,
    ) -> BoxFuture<'a, Result<Vec<BucketEntry>, ObjectError>> {
        Box::pin(async move {
            let objects = self.objects.lock().unwrap();
            let mut names: Vec<_> = objects.keys().map(|(bucket, _)| bucket.clone()).collect();
            names.dedup();
            Ok(names
                .into_iter()
                .map(|name| BucketEntry {
                    name,
                    created: None,
                })
                .collect())
        })
    }

    fn head_bucket<'a>(
        &'a self,
        bucket: &'a str,
        _: &'a RequestContext,
    ) -> BoxFuture<'a, Result<(), ObjectError>> {
        Box::pin(async move {
            let objects = self.objects.lock().unwrap();
            let known = objects.keys().any(|(name, _)| name == bucket);
            if known {
                Ok(())
            } else {
                Err(ObjectError::NoSuchBucket)
            }
        })
    }
}

/// A running edge. Dropping it cuts all connections.
pub(crate) struct Server {
    pub(crate) authority: String,
    pub(crate) metrics: Arc<EdgeMetrics>,
    pub(crate) edge: Arc<Edge>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Drained>,
}

impl Server {
    pub(crate) fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.authority)
    }

    /// Begins the shutdown.
    pub(crate) fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    pub(crate) async fn drained(mut self) -> Drained {
        (&mut self.task).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn anonymous() -> EdgeConfig {
    EdgeConfig::new(Access::Anonymous)
}

pub(crate) fn start(config: EdgeConfig, backend: &Arc<MapBackend>) -> Server {
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    let edge = Edge::new(config, backend.clone()).unwrap();
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(edge.clone().serve(listener, async {
        let _ = stopped.await;
    }));
    Server {
        authority,
        metrics: edge.metrics(),
        edge,
        stop: Some(stop),
        task,
    }
}

/// Waits for a condition that other tasks bring about.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait)
        .await
        .unwrap_or_else(|_| panic!("{what}"));
}

/// Bytes that tell where they are from.
pub(crate) fn noise(len: usize) -> Bytes {
    content::bytes(7, 1, 0, len)
}
