//! An origin in memory that does as it is told and writes down what it was asked.

use crate::{
    origin::{BoxFuture, Origin, OriginError, OriginStream},
    types::{BucketEntry, ListEntry, ListPage, ListQuery, ObjectMeta, ObjectName},
};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

/// What goes wrong with one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing.
    Well,
    /// Breaks off after so many bytes.
    Reset(u64),
    /// Falls silent for good after so many bytes.
    Stall(u64),
    /// Asks to slow down.
    Throttle,
    /// Cannot be reached.
    Connect,
    /// Sends so many bytes in all, and ends as if that were right.
    Short(u64),
}

/// Bytes come in pieces of this length.
const PIECE: usize = 64 << 10;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) objects: HashMap<ObjectName, (Bytes, Arc<str>)>,
    /// For reads, in order; `every` after them.
    pub(super) faults: VecDeque<Fault>,
    pub(super) every: Option<Fault>,
    /// Questions fail so.
    pub(super) questions_fail: Option<OriginError>,
    pub(super) heads: u64,
    pub(super) lists: u64,
    pub(super) reads: Vec<Range<u64>>,
    pub(super) bytes: u64,
    /// Each read waits so long first.
    pub(super) delay: Duration,
    pub(super) no_etags: bool,
}

#[derive(Debug, Default)]
pub(super) struct Fake {
    id: String,
    state: Arc<Mutex<State>>,
}

impl Fake {
    pub(super) fn new(id: &str) -> Arc<Self> {
        Arc::new(Self {
            id: id.to_owned(),
            state: Arc::default(),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Puts a version of an object: bytes that no other seed has.
    pub(super) fn put(&self, name: &ObjectName, len: usize, seed: u64) -> Bytes {
        let bytes = content(len, seed);
        self.state()
            .objects
            .insert(name.clone(), (bytes.clone(), format!("\"{seed}\"").into()));
        bytes
    }
}

/// Bytes that differ at every place from those of another seed (modulo 256).
pub(super) fn content(len: usize, seed: u64) -> Bytes {
    let mut bytes = vec![0; len];
    let salt = (seed & 0xff).wrapping_mul(0x0101_0101_0101_0101);
    for (n, word) in bytes.chunks_mut(8).enumerate() {
        let plain = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt;
        let end = word.len();
        word.copy_from_slice(&plain.to_le_bytes()[..end]);
    }
    bytes.into()
}

/// The byte at this place under seed 0; it differs from that of another seed by the seed.
pub(super) fn byte(at: usize) -> u8 {
    (at as u64 / 8)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .to_le_bytes()[at % 8]
}

fn object(state: &State, name: &ObjectName) -> Result<(Bytes, Arc<str>), OriginError> {
    state
        .objects
        .get(name)
        .cloned()
        .ok_or(OriginError::NoSuchKey)
}

impl Origin for Fake {
    fn id(&self) -> &str {
        &self.id
    }

    fn head<'a>(&'a self, name: &'a ObjectName) -> BoxFuture<'a, Result<ObjectMeta, OriginError>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            let mut state = self.state();
            state.heads += 1;
            if let Some(error) = &state.questions_fail {
                return Err(error.clone());
            }
            let (bytes, etag) = object(&state, name)?;
            if state.no_etags {
                return Err(OriginError::MissingEtag);
            }
            Ok(ObjectMeta {
                size: bytes.len() as u64,
                etag,
                modified: SystemTime::UNIX_EPOCH,
                headers: Arc::default(),
            })
        })
    }

    fn read<'a>(
        &'a self,
        name: &'a ObjectName,
        etag: &'a str,
        _size: Option<u64>,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<OriginStream, OriginError>> {
        Box::pin(async move {
            let (fault, delay) = {
                let mut state = self.state();
                state.reads.push(range.clone());
                let every = state.every;
                (
                    state.faults.pop_front().or(every).unwrap_or(Fault::Well),
                    state.delay,
                )
            };
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            tokio::task::yield_now().await;
            match fault {
                Fault::Throttle => return Err(OriginError::Throttled { retry_after: None }),
                Fault::Connect => return Err(OriginError::Connect("refused".into())),
                _ => {}
            }
            let (bytes, is) = object(&self.state(), name)?;
            if &*is != etag {
                return Err(OriginError::Changed);
            }
            let bytes = bytes.slice(range.start as usize..range.end as usize);
            let sent = match fault {
                Fault::Reset(after) | Fault::Stall(after) | Fault::Short(after) => {
                    (after as usize).min(bytes.len())
                }
                _ => bytes.len(),
            };
            let all = sent == bytes.len();
            let pieces: Vec<Bytes> = (0..sent)
                .step_by(PIECE)
                .map(|at| bytes.slice(at..sent.min(at + PIECE)))
                .collect();
            let state = Arc::clone(&self.state);
            let pieces = stream::iter(pieces).then(move |piece| {
                let state = Arc::clone(&state);
                async move {
                    tokio::task::yield_now().await;
                    state.lock().unwrap().bytes += piece.len() as u64;
                    Ok(piece)
                }
            });
            Ok(match fault {
                Fault::Reset(_) if !all => {
                    let end = stream::iter([Err(OriginError::Truncated("reset".into()))]);
                    pieces.chain(end).boxed()
                }
                Fault::Stall(_) if !all => pieces.chain(stream::pending()).boxed(),
                _ => pieces.boxed(),
            })
        })
    }

    fn list<'a>(&'a self, query: &'a ListQuery) -> BoxFuture<'a, Result<ListPage, OriginError>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            let mut state = self.state();
            state.lists += 1;
            if let Some(error) = &state.questions_fail {
                return Err(error.clone());
            }
            let names = state.objects.iter();
            let objects = names.filter(|(name, _)| name.key.starts_with(&*query.prefix));
            Ok(ListPage {
                objects: objects
                    .map(|(name, (bytes, etag))| ListEntry {
                        key: name.key.to_string(),
                        size: bytes.len() as u64,
                        etag: Some(etag.to_string()),
                        modified: SystemTime::UNIX_EPOCH,
                        storage_class: None,
                    })
                    .collect(),
                ..ListPage::default()
            })
        })
    }

    fn buckets(&self) -> BoxFuture<'_, Result<Vec<BucketEntry>, OriginError>> {
        Box::pin(async {
            Ok(vec![BucketEntry {
                name: "b".to_owned(),
                created: None,
            }])
        })
    }

    fn head_bucket<'a>(&'a self, bucket: &'a str) -> BoxFuture<'a, Result<(), OriginError>> {
        Box::pin(async move {
            if bucket == "b" {
                Ok(())
            } else {
                Err(OriginError::NoSuchBucket)
            }
        })
    }
}
