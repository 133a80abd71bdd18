//! The disk store's operations, as blocking calls.

mod put;

use super::{
    DiskConfig,
    file::{self, Bad, OpenFile, Touched},
    fs::Fs,
    index::{Chunk, Index, Key, Leaving},
    layout::{Keep, Layout},
    pool::Pool,
};
use crate::{
    Blob, Dropped, Entry, Place, Stats, StoreError,
    frame::{Frame, framed_len},
    stats::Counters,
};
use std::{
    fs::File,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, atomic::AtomicU64},
    time::Duration,
};
use tokio::time::Instant;

/// Files that `drop_space` takes at a time.
const BATCH: usize = 256;

/// The store, shared by its handle and the threads that work for it.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: DiskConfig,
    pub(super) fs: Arc<dyn Fs>,
    pub(super) layout: Layout,
    pub(super) counters: Counters,
    pub(super) readers: Arc<Pool>,
    pub(super) writers: Pool,
    pub(super) opened_in: (Duration, u64),
    index: Mutex<Index>,
    /// Signalled when a place is busy or opening no longer.
    changed: Condvar,
    started: Instant,
    temps: AtomicU64,
    /// The unit in which the file system allocates.
    unit: u64,
    free_min: u64,
    /// Written while empty directories are removed, read while a file is named, so that its directory
    /// does not go in between.
    dirs: RwLock<()>,
    /// Held until the store is closed.
    lock: Mutex<Option<File>>,
}

impl Shared {
    pub(super) fn open(config: DiskConfig, fs: Arc<dyn Fs>) -> Result<Self, StoreError> {
        let layout = Layout::new(&config.dir);
        let lock = layout.prepare(&*fs)?;
        let unusable = |error: io::Error| {
            StoreError::from_io(&format!("cannot read {}", config.dir.display()), &error)
        };
        let room = fs.room(&config.dir).map_err(unusable)?;
        let started = Instant::now();
        let began = std::time::Instant::now();
        let mut index = Index::new(config.files());
        layout
            .scan(&*fs, |space, found| {
                let key = Key {
                    space: index.spaces.intern(space),
                    digest: found.digest,
                };
                match index.add(key, found.len, footprint(found.len, room.unit)) {
                    true => Keep::Yes,
                    false => Keep::No,
                }
            })
            .map_err(unusable)?;
        let opened_in = (began.elapsed(), index.chunks.len() as u64);
        let store = Self {
            fs,
            layout,
            counters: Counters::default(),
            readers: Arc::new(Pool::new(config.io_max)),
            writers: Pool::new(config.io_max),
            opened_in,
            index: Mutex::new(index),
            changed: Condvar::new(),
            started,
            temps: AtomicU64::new(0),
            unit: room.unit,
            free_min: config.free_min.unwrap_or(room.total / 64),
            dirs: RwLock::new(()),
            lock: Mutex::new(Some(lock)),
            config,
        };
        // The budget may have been lowered since.
        let leaving = store.evict_to(store.config.bytes_max);
        if let Err(error) = store.unlink(leaving) {
            tracing::warn!(%error, "the store is above its budget");
        }
        tracing::debug!(
            dir = %store.layout.root().display(),
            blobs = opened_in.1,
            elapsed = ?opened_in.0,
            "disk store opened"
        );
        Ok(store)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Index> {
        // Nothing panics under this lock but for a broken invariant; the index stays a map then.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, index: MutexGuard<'a, Index>) -> MutexGuard<'a, Index> {
        self.changed
            .wait(index)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What `Chunk::verified` is of this moment.
    fn now(&self) -> u32 {
        u32::try_from(self.started.elapsed().as_secs())
            .unwrap_or(u32::MAX)
            .saturating_add(1)
    }

    /// Whether the verification of `chunk` still holds, for `within`.
    pub(super) fn is_fresh(&self, chunk: &Chunk, within: Duration) -> bool {
        let age = self.now().saturating_sub(chunk.verified);
        chunk.verified != 0 && u64::from(age) < within.as_secs().max(1)
    }

    /// The open file of a chunk that was verified, to be [`confirm`](Self::confirm)ed.
    fn servable(&self, index: &Index, key: &Key) -> Option<Arc<OpenFile>> {
        let chunk = index.chunks.peek(key)?;
        if !self.is_fresh(chunk, self.config.verify_every) {
            return None;
        }
        let file = index.open_file(key)?.clone();
        index.chunks.hit(key);
        Some(file)
    }

    /// A file that can be served at once, unless somebody has touched it since it was verified: it is
    /// verified again then. Counts a hit. Takes the lock.
    fn confirm(&self, file: Arc<OpenFile>) -> Option<Blob> {
        if file.is_untouched() {
            self.counters.hits.add(1);
            return Some(Blob::from_source(file));
        }
        tracing::debug!(?file, "touched by somebody: to be verified again");
        let doubted = self.lock().doubt(&file.key, file.generation);
        drop(doubted);
        None
    }

    /// See [`BlobStore::held`](crate::BlobStore::held).
    pub(super) fn held(&self, place: &Place) -> Option<Blob> {
        let mut index = self.lock();
        let key = index.spaces.find(place).filter(|_| !index.closed)?;
        let file = self.servable(&index, &key)?;
        drop(index);
        self.confirm(file)
    }

    /// What `open` answers, if that takes no reading.
    pub(super) fn known(&self, place: &Place) -> Result<Option<Option<Blob>>, StoreError> {
        let mut index = self.lock();
        if index.closed {
            return Err(StoreError::Closed);
        }
        let key = index
            .spaces
            .find(place)
            .filter(|key| index.chunks.peek(key).is_some());
        let Some(key) = key else {
            self.counters.misses.add(1);
            return Ok(Some(None));
        };
        let file = self.servable(&index, &key);
        drop(index);
        Ok(file.and_then(|file| self.confirm(file)).map(Some))
    }

    /// Opens a blob, verifying it if that is due. One thread does it for all who ask meanwhile.
    pub(super) fn open_blob(self: &Arc<Self>, place: &Place) -> Result<Option<Blob>, StoreError> {
        let mut index = self.lock();
        let (key, chunk, space) = loop {
            if index.closed {
                return Err(StoreError::Closed);
            }
            let key = index.spaces.find(place);
            let found = key.and_then(|key| Some((key, *index.chunks.peek(&key)?)));
            let Some((key, chunk)) = found else {
                self.counters.misses.add(1);
                return Ok(None);
            };
            if let Some(file) = self.servable(&index, &key) {
                drop(index);
                if let Some(blob) = self.confirm(file) {
                    return Ok(Some(blob));
                }
                index = self.lock();
                continue;
            }
            if index.opening.insert(key) {
                break (key, chunk, index.spaces.name(key.space));
            }
            index = self.wait(index);
        };
        drop(index);
        let opened = self.open_verified(key, &chunk, &space);
        let mut index = self.lock();
        index.opening.remove(&key);
        self.changed.notify_all();
        match opened {
            Ok(opened) => {
                let file = self.open_file(place, key, chunk.generation, opened);
                let mut closing = Vec::new();
                if index.same(&key, chunk.generation).is_some() {
                    index.chunks.hit(&key);
                    closing = index.keep_open(key, file.clone());
                }
                drop(index);
                drop(closing);
                self.counters.hits.add(1);
                Ok(Some(Blob::from_source(file)))
            }
            Err(bad) => {
                drop(index);
                self.counters.misses.add(1);
                self.bad(key, chunk.generation, bad)?;
                Ok(None)
            }
        }
    }

    fn open_file(
        self: &Arc<Self>,
        place: &Place,
        key: Key,
        generation: u64,
        (file, frame, touched): (File, Frame, Touched),
    ) -> Arc<OpenFile> {
        Arc::new(OpenFile {
            place: place.clone(),
            key,
            generation,
            frame,
            file: Arc::new(file),
            touched,
            store: Arc::downgrade(self),
            fs: self.fs.clone(),
            pool: self.readers.clone(),
        })
    }

    /// Opens a file, and verifies it if that is due, or if it was touched since it last was.
    fn open_verified(
        &self,
        key: Key,
        chunk: &Chunk,
        space: &str,
    ) -> Result<(File, Frame, Touched), Bad> {
        let path = self.layout.file(space, &key.digest, chunk.len);
        let open = || file::open(&*self.fs, &path, space, &key.digest, chunk.len);
        let (file, frame, touched) = match open() {
            // Too many files are open: some of them are ours, and not in use.
            Err(Bad::Means(error)) if error.is_transient() && self.shed_files() => open()?,
            opened => opened?,
        };
        if touched != chunk.touched || !self.is_fresh(chunk, self.config.verify_every) {
            file::verify(&*self.fs, &path, &file, &frame)?;
            self.verified(key, chunk.generation, touched);
        }
        Ok((file, frame, touched))
    }

    /// Takes note that a file is right that was touched then.
    pub(super) fn verified(&self, key: Key, generation: u64, touched: Touched) {
        let now = self.now();
        self.lock().verified(&key, generation, now, touched);
    }

    /// Closes half of the files that are kept open; whether there were any.
    fn shed_files(&self) -> bool {
        let mut index = self.lock();
        let half = index.files() / 2;
        let closing = index.shed_files(half);
        drop(index);
        !closing.is_empty()
    }

    /// Draws the consequences of a bad file; an error if the file is not to blame.
    pub(super) fn bad(&self, key: Key, generation: u64, bad: Bad) -> Result<(), StoreError> {
        match bad {
            Bad::Means(error) => return Err(error),
            Bad::Copy(what) => self.condemn(key, generation, &what),
            Bad::Lost => {
                let mut index = self.lock();
                if index.same(&key, generation).is_some() {
                    self.counters.lost.add(1);
                    let leaving = index.take(key);
                    drop(index);
                    tracing::warn!(?leaving, "a stored file has vanished");
                    self.unlink(leaving.into_iter().collect())?;
                }
            }
        }
        Ok(())
    }

    /// Drops a copy that was found to be wrong, if it is still the one that is held.
    pub(super) fn condemn(&self, key: Key, generation: u64, what: &str) {
        let mut index = self.lock();
        if index.same(&key, generation).is_none() {
            return;
        }
        self.counters.corrupt.add(1);
        let leaving: Vec<_> = index.take(key).into_iter().collect();
        drop(index);
        for gone in &leaving {
            let path = self.layout.file(&gone.space, &key.digest, gone.chunk.len);
            tracing::warn!(path = %path.display(), what, "a stored file is corrupt: dropping it");
        }
        // If it cannot be unlinked it is held again, unverified, and found to be wrong again.
        let _ = self.unlink(leaving);
    }

    /// Unlinks files that have left the index. Those that cannot be are held again, unverified.
    ///
    /// # Errors
    /// The last file that could not be unlinked, and why.
    fn unlink(&self, leaving: Vec<Leaving>) -> Result<(), StoreError> {
        let mut result = Ok(());
        for gone in leaving {
            let Leaving {
                key,
                chunk,
                ref space,
                ..
            } = gone;
            let path = self.layout.file(space, &key.digest, chunk.len);
            let removed = self.fs.remove(&path);
            let mut index = self.lock();
            index.busy.remove(&key);
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    index.add(key, chunk.len, footprint(chunk.len, self.unit));
                    let what = format!("cannot remove {}", path.display());
                    result = Err(StoreError::from_io(&what, &error));
                }
                _ => {}
            }
            self.changed.notify_all();
        }
        result
    }

    /// Takes what is worth least out of the index until `max` bytes are left.
    fn evict_to(&self, max: u64) -> Vec<Leaving> {
        self.evict_while(&mut self.lock(), max, |index, _| {
            index.chunks.weight() > max
        })
    }

    /// Takes what is worth least out of the index, for as long as `more` says, which gets the weight
    /// that was freed so far.
    fn evict_while(
        &self,
        index: &mut Index,
        budget: u64,
        more: impl Fn(&Index, u64) -> bool,
    ) -> Vec<Leaving> {
        let (mut leaving, mut freed) = (Vec::new(), 0);
        while more(index, freed) {
            let Some((gone, weight)) = index.evict(budget) else {
                break;
            };
            self.counters.evictions.add(1);
            self.counters.evicted_bytes.add(weight);
            freed += weight;
            leaving.push(gone);
        }
        leaving
    }

    /// See [`BlobStore::remove`](crate::BlobStore::remove).
    pub(super) fn remove(&self, place: &Place) -> Result<bool, StoreError> {
        let mut index = self.lock();
        let leaving = loop {
            if index.closed {
                return Err(StoreError::Closed);
            }
            let Some(key) = index.spaces.find(place) else {
                return Ok(false);
            };
            if let Some(leaving) = index.take(key) {
                break leaving;
            }
            if !index.busy.contains(&key) {
                return Ok(false);
            }
            index = self.wait(index);
        };
        drop(index);
        self.unlink(vec![leaving])?;
        Ok(true)
    }

    /// The blobs of a space.
    pub(super) fn entries(&self, space: &str) -> Result<Vec<Entry>, StoreError> {
        let mut index = self.lock();
        if index.closed {
            return Err(StoreError::Closed);
        }
        let Some(number) = index.spaces.number(space) else {
            return Ok(Vec::new());
        };
        let of_space = index.chunks.iter().filter(|(key, _)| key.space == number);
        Ok(of_space
            .map(|(key, chunk)| Entry {
                digest: key.digest,
                len: chunk.len,
            })
            .collect())
    }

    /// See [`BlobStore::drop_space`](crate::BlobStore::drop_space).
    pub(super) fn drop_space(&self, space: &str) -> Result<Dropped, StoreError> {
        let entries = self.entries(space)?;
        let mut dropped = Dropped::default();
        for batch in entries.chunks(BATCH) {
            let mut index = self.lock();
            if index.closed {
                return Err(StoreError::Closed);
            }
            let Some(space) = index.spaces.number(space) else {
                break;
            };
            let leaving: Vec<_> = batch
                .iter()
                .filter_map(|entry| {
                    index.take(Key {
                        space,
                        digest: entry.digest,
                    })
                })
                .collect();
            drop(index);
            dropped.blobs += leaving.len() as u64;
            dropped.bytes += leaving.iter().map(|gone| gone.chunk.len).sum::<u64>();
            self.unlink(leaving)?;
        }
        // Directories that are empty now go; a commit that comes later makes them anew.
        let _dirs = self.dirs.write().unwrap_or_else(PoisonError::into_inner);
        let dir = self.layout.space(&crate::place::space_name(space));
        for fan in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir(fan.path());
        }
        let _ = std::fs::remove_dir(dir);
        Ok(dropped)
    }

    pub(super) fn stats(&self) -> Stats {
        let index = self.lock();
        let (blobs, bytes) = (
            index.chunks.len() as u64,
            index.chunks.weight() + index.reserved,
        );
        let squeeze = index
            .squeeze
            .filter(|squeeze| Instant::now() < squeeze.until);
        drop(index);
        let ceiling = squeeze.map_or(u64::MAX, |squeeze| squeeze.ceiling);
        self.counters
            .stats(blobs, bytes, self.config.bytes_max.min(ceiling))
    }

    /// Refuses all operations from now on.
    pub(super) fn refuse(&self) {
        let mut index = self.lock();
        index.closed = true;
        let closing = index.shed_files(0);
        drop(index);
        drop(closing);
        self.changed.notify_all();
    }

    /// Lets another process have the directory.
    pub(super) fn release(&self) {
        self.lock
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}

/// What a blob of `len` bytes takes on a disk that allocates in units of `unit`.
fn footprint(len: u64, unit: u64) -> u64 {
    framed_len(len.min(1 << 50)).next_multiple_of(unit)
}
