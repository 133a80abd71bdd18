//! Putting a blob: a place is reserved, room is made, a file is written under another name and published.

use super::{Shared, footprint};
use crate::{
    Place, Put, StoreError,
    disk::{
        file::Touched,
        fs,
        index::{Index, Key, Squeeze},
    },
    frame::{Frame, LEN_MAX},
};
use bytes::Bytes;
use std::{
    fs::File,
    io,
    path::Path,
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::time::Instant;

/// How long a lowered budget holds after the file system was full.
const SQUEEZE: Duration = Duration::from_secs(30);
/// How long commits are refused after eviction did not make room.
const REFUSE: Duration = Duration::from_secs(5);

/// How writing a file ended.
enum Written {
    Published,
    /// There was a file of this name that the index does not know.
    Found,
}

impl Shared {
    /// See [`BlobStore::put`](crate::BlobStore::put).
    pub(in crate::disk) fn put(
        self: &Arc<Self>,
        place: &Place,
        segments: &[Bytes],
    ) -> Result<Put, StoreError> {
        let end = self.try_put(place, segments);
        self.counters.commit(&end);
        end
    }

    fn try_put(self: &Arc<Self>, place: &Place, segments: &[Bytes]) -> Result<Put, StoreError> {
        let len = segments.iter().map(|segment| segment.len() as u64).sum();
        let need = footprint(len, self.unit);
        if len > LEN_MAX || need > self.config.bytes_max {
            return Err(StoreError::TooLarge {
                need,
                max: self.config.bytes_max,
            });
        }
        let Some((key, space)) = self.reserve(place, need)? else {
            return Ok(Put::Exists);
        };
        let frame = Frame::of(segments);
        let path = self.layout.file(&space, &key.digest, len);
        let mut written = self.write(&path, &space, &key, &frame, segments);
        if written.as_ref().is_err_and(fs::is_full) {
            self.make_room(need);
            written = self.write(&path, &space, &key, &frame, segments);
        }
        // To be served at once: what was just written need not be read to be believed. That no file
        // can be opened is no reason to fail the commit.
        let opened = match written {
            Ok(Written::Published) => self.fs.open(&path).ok(),
            _ => None,
        };
        let opened = opened.and_then(|file| Some((Touched::of(&file).ok()?, file)));
        let now = self.now();
        let mut index = self.lock();
        index.reserved -= need;
        index.busy.remove(&key);
        self.changed.notify_all();
        match written {
            Ok(Written::Published) => {
                index.add(key, len, need);
                let mut closing = Vec::new();
                let generation = index.chunks.peek(&key).map(|chunk| chunk.generation);
                if let (Some((touched, file)), Some(generation)) = (opened, generation) {
                    index.verified(&key, generation, now, touched);
                    let file = self.open_file(place, key, generation, (file, frame, touched));
                    closing = index.keep_open(key, file);
                }
                drop(index);
                drop(closing);
                Ok(Put::Stored)
            }
            Ok(Written::Found) => {
                // Verified when it is opened.
                index.add(key, len, need);
                Ok(Put::Exists)
            }
            Err(error) if fs::is_full(&error) => {
                if let Some(squeeze) = &mut index.squeeze {
                    squeeze.refuse_until = Some(Instant::now() + REFUSE);
                }
                tracing::warn!(%error, need, "the file system has no room, and eviction did not help");
                Err(self.full(need))
            }
            Err(error) => Err(StoreError::from_io(
                &format!("cannot write {}", path.display()),
                &error,
            )),
        }
    }

    fn full(&self, need: u64) -> StoreError {
        StoreError::Full {
            at: self.layout.root().display().to_string().into(),
            need,
        }
    }

    /// Reserves room for a file and makes it; the key is busy then. None if the place is held.
    fn reserve(&self, place: &Place, need: u64) -> Result<Option<(Key, Arc<str>)>, StoreError> {
        let mut index = self.lock();
        let key = index.spaces.key(place);
        drop(index);
        let (mut index, limit) = loop {
            let room = self.fs.room(self.layout.root());
            let room =
                room.map_err(|error| StoreError::from_io("cannot ask for free space", &error))?;
            let mut index = self.lock();
            if index.closed {
                return Err(StoreError::Closed);
            }
            if index.chunks.peek(&key).is_some() {
                return Ok(None);
            }
            if index.busy.contains(&key) {
                drop(self.wait(index));
                continue;
            }
            let now = Instant::now();
            if index.squeeze.is_some_and(|squeeze| squeeze.until <= now) {
                index.squeeze = None;
            }
            let squeeze = index.squeeze;
            if squeeze
                .and_then(|squeeze| squeeze.refuse_until)
                .is_some_and(|until| now < until)
            {
                return Err(self.full(need));
            }
            let free = room.free.saturating_sub(self.free_min);
            let limit = self
                .config
                .bytes_max
                .min(index.chunks.weight().saturating_add(free))
                .min(squeeze.map_or(u64::MAX, |squeeze| squeeze.ceiling));
            if index.reserved + need <= limit {
                break (index, limit);
            }
            if index.reserved == 0 {
                return Err(self.full(need));
            }
            // Others write what would have to go for this one: once they are done, it can.
            drop(self.wait(index));
        };
        let over = |index: &Index, _| index.chunks.weight() + index.reserved + need > limit;
        let leaving = self.evict_while(&mut index, limit, over);
        index.reserved += need;
        index.busy.insert(key);
        let space = index.spaces.name(key.space);
        drop(index);
        if let Err(error) = self.unlink(leaving) {
            let mut index = self.lock();
            index.reserved -= need;
            index.busy.remove(&key);
            self.changed.notify_all();
            return Err(error);
        }
        Ok(Some((key, space)))
    }

    /// The file system is full though there should have been room: evicts as much as is needed, and
    /// stays below what is left for a while.
    fn make_room(&self, need: u64) {
        let mut index = self.lock();
        let budget = index.chunks.weight();
        let leaving = self.evict_while(&mut index, budget, |_, freed| freed < need);
        let ceiling = index.chunks.weight() + index.reserved;
        let until = Instant::now() + SQUEEZE;
        index.squeeze = Some(Squeeze {
            ceiling,
            until,
            refuse_until: None,
        });
        drop(index);
        tracing::warn!(
            need,
            ceiling,
            "the file system is full: the disk budget is lowered"
        );
        let _ = self.unlink(leaving);
    }

    /// Writes a file under another name and publishes it; leaves nothing behind if that fails.
    fn write(
        &self,
        path: &Path,
        space: &str,
        key: &Key,
        frame: &Frame,
        segments: &[Bytes],
    ) -> io::Result<Written> {
        let temp = self.layout.temp(self.temps.fetch_add(1, Relaxed));
        let end = self
            .write_temp(&temp, space, key, frame, segments)
            .and_then(|()| {
                let end = self.publish(&temp, path)?;
                if self.config.sync
                    && let Some(dir) = path.parent()
                {
                    self.fs.sync(&File::open(dir)?)?;
                }
                Ok(end)
            });
        if !matches!(end, Ok(Written::Published)) {
            match self.fs.remove(&temp) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %temp.display(), %error, "left for the next start to remove");
                }
                _ => {}
            }
        }
        end
    }

    fn write_temp(
        &self,
        temp: &Path,
        space: &str,
        key: &Key,
        frame: &Frame,
        segments: &[Bytes],
    ) -> io::Result<()> {
        let file = match self.fs.create(temp) {
            // Somebody cleaned up too much.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.layout.make_dirs(&*self.fs, temp)?;
                self.fs.create(temp)?
            }
            // Too many files are open: some of them are ours, and not in use.
            Err(error) if fs::is_out_of_files(&error) && self.shed_files() => {
                self.fs.create(temp)?
            }
            file => file?,
        };
        self.fs.write(&file, segments)?;
        let fixed = Bytes::copy_from_slice(&frame.fixed(space, &key.digest));
        self.fs.write(&file, &[frame.table().into(), fixed])?;
        if self.config.sync {
            self.fs.sync(&file)?;
        }
        Ok(())
    }

    fn publish(&self, temp: &Path, path: &Path) -> io::Result<Written> {
        let _dirs = self.dirs.read().unwrap_or_else(PoisonError::into_inner);
        let name = || match self.fs.rename(temp, path) {
            // The other name shares the bytes: left behind, it costs nothing.
            Err(error) if fs::is_unsupported(&error) => self
                .fs
                .link(temp, path)
                .inspect(|()| _ = self.fs.remove(temp)),
            renamed => renamed,
        };
        let named = match name() {
            // The first blob of its directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.layout.make_dirs(&*self.fs, path)?;
                name()
            }
            named => named,
        };
        match named {
            Ok(()) => Ok(Written::Published),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Written::Found),
            Err(error) => Err(error),
        }
    }
}
