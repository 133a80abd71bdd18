//! What the disk store knows of its files: all of it is in memory, under one lock, and no file is
//! touched while it is held.
//!
//! ```text
//!            reserve              publish
//!  (absent) ---------> busy+reserved -----> held  --take--> busy ---unlink---> (absent)
//!                         |                  ^                 |
//!                         +--- failed        +---- unlink failed
//! ```
//!
//! A place is `busy` while its file comes or goes: whoever wants to write or remove it waits, so that
//! a late unlink never hits a new file. Who holds a place busy waits for nobody.

use super::file::{OpenFile, Touched};
use crate::{Place, evict::S3Fifo, place::space_name};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};
use tokio::time::Instant;

/// A place, with its space by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) space: u32,
    pub(super) digest: [u8; 32],
}

/// A file that is held.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    /// Length of the data.
    pub(super) len: u64,
    /// Told apart from an earlier file of the same place.
    pub(super) generation: u64,
    /// When it was verified, in seconds after the store's start and one more; 0 for never.
    pub(super) verified: u32,
    /// When the file had been touched when it was verified.
    pub(super) touched: Touched,
}

/// A file that has left the index and is to be unlinked.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) key: Key,
    pub(super) chunk: Chunk,
    pub(super) space: Arc<str>,
    /// Closed with this, outside the lock.
    _open: Option<Arc<OpenFile>>,
}

/// How a shortage of the file system is answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Squeeze {
    /// Most bytes until then.
    pub(super) ceiling: u64,
    pub(super) until: Instant,
    /// No commits at all until then: eviction did not help.
    pub(super) refuse_until: Option<Instant>,
}

/// The index.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) chunks: S3Fifo<Key, Chunk>,
    /// Verified files that are open; at most `files_max`.
    files: S3Fifo<Key, Arc<OpenFile>>,
    files_max: u64,
    pub(super) spaces: Spaces,
    /// Files that are being written or unlinked.
    pub(super) busy: HashSet<Key>,
    /// Files that are being opened and verified.
    pub(super) opening: HashSet<Key>,
    /// Bytes of the files that are being written.
    pub(super) reserved: u64,
    pub(super) squeeze: Option<Squeeze>,
    pub(super) closed: bool,
    generation: u64,
}

impl Index {
    pub(super) fn new(files_max: u64) -> Self {
        Self {
            chunks: S3Fifo::new(),
            files: S3Fifo::new(),
            files_max,
            spaces: Spaces::default(),
            busy: HashSet::new(),
            opening: HashSet::new(),
            reserved: 0,
            squeeze: None,
            closed: false,
            generation: 0,
        }
    }

    /// Adds a file that is not verified; false if there is one of this key.
    pub(super) fn add(&mut self, key: Key, len: u64, weight: u64) -> bool {
        self.generation += 1;
        self.chunks.insert(
            key,
            Chunk {
                len,
                generation: self.generation,
                verified: 0,
                touched: Touched::UNKNOWN,
            },
            weight,
        )
    }

    /// The file that was added last under `key`, if it is the one of `generation`.
    pub(super) fn same(&self, key: &Key, generation: u64) -> Option<&Chunk> {
        self.chunks
            .peek(key)
            .filter(|chunk| chunk.generation == generation)
    }

    /// Takes note that a file is right, or (at 0) that it may not be.
    pub(super) fn verified(&mut self, key: &Key, generation: u64, at: u32, touched: Touched) {
        if let Some(chunk) = self.chunks.peek_mut(key)
            && chunk.generation == generation
        {
            chunk.verified = at;
            chunk.touched = touched;
        }
    }

    /// Forgets that a file was verified, and no longer keeps it open; to be closed outside the lock.
    #[must_use]
    pub(super) fn doubt(&mut self, key: &Key, generation: u64) -> Option<Arc<OpenFile>> {
        self.same(key, generation)?;
        self.verified(key, generation, 0, Touched::UNKNOWN);
        self.files.remove(key)
    }

    /// The open file of a chunk.
    pub(super) fn open_file(&self, key: &Key) -> Option<&Arc<OpenFile>> {
        self.files.hit(key)
    }

    /// Keeps a file open; returns those that had to go for it, to be closed outside the lock.
    #[must_use]
    pub(super) fn keep_open(&mut self, key: Key, file: Arc<OpenFile>) -> Vec<Arc<OpenFile>> {
        let mut closing = Vec::new();
        closing.extend(self.files.remove(&key));
        // Room first: the newcomer must not be the one to go.
        closing.extend(self.shed_files(self.files_max - 1));
        self.files.insert(key, file, 1);
        closing
    }

    /// Takes out open files until `max` are left.
    #[must_use]
    pub(super) fn shed_files(&mut self, max: u64) -> Vec<Arc<OpenFile>> {
        let mut closing = Vec::new();
        while self.files.weight() > max {
            let Some((_, file, _)) = self.files.evict(self.files_max) else {
                break;
            };
            closing.push(file);
        }
        closing
    }

    /// Open files that are kept.
    pub(super) fn files(&self) -> u64 {
        self.files.weight()
    }

    /// Takes a file out of the index and marks it busy; [`Leaving`] must be unlinked.
    pub(super) fn take(&mut self, key: Key) -> Option<Leaving> {
        let chunk = self.chunks.remove(&key)?;
        Some(self.leaving(key, chunk))
    }

    /// As [`take`](Self::take), of the file that is worth least; with its weight.
    pub(super) fn evict(&mut self, budget: u64) -> Option<(Leaving, u64)> {
        let (key, chunk, weight) = self.chunks.evict(budget)?;
        Some((self.leaving(key, chunk), weight))
    }

    fn leaving(&mut self, key: Key, chunk: Chunk) -> Leaving {
        self.busy.insert(key);
        let space = self.spaces.name(key.space);
        Leaving {
            key,
            chunk,
            space,
            _open: self.files.remove(&key),
        }
    }
}

/// The spaces, by number. There are as many as directories, however many strangers are asked for.
#[derive(Debug, Default)]
pub(super) struct Spaces {
    names: Vec<Arc<str>>,
    by_name: HashMap<Arc<str>, u32>,
    /// The spaces in clear that were seen, to spare the encoding.
    by_space: HashMap<Arc<str>, u32>,
}

impl Spaces {
    /// The key of a place, if its space is known.
    pub(super) fn find(&mut self, place: &Place) -> Option<Key> {
        Some(Key {
            space: self.number(place.space())?,
            digest: *place.digest(),
        })
    }

    /// The key of a place.
    pub(super) fn key(&mut self, place: &Place) -> Key {
        let space = self.number(place.space()).unwrap_or_else(|| {
            let number = self.intern(&space_name(place.space()).into());
            self.by_space.insert(place.space().clone(), number);
            number
        });
        Key {
            space,
            digest: *place.digest(),
        }
    }

    /// The number of a space in clear, if there is one.
    pub(super) fn number(&mut self, space: &str) -> Option<u32> {
        if let Some(number) = self.by_space.get(space) {
            return Some(*number);
        }
        let number = *self.by_name.get(&*space_name(space))?;
        self.by_space.insert(space.into(), number);
        Some(number)
    }

    /// The number of a space by its directory's name.
    pub(super) fn intern(&mut self, name: &Arc<str>) -> u32 {
        if let Some(number) = self.by_name.get(name) {
            return *number;
        }
        let number = u32::try_from(self.names.len()).expect("fewer than 2^32 directories are here");
        self.names.push(name.clone());
        self.by_name.insert(name.clone(), number);
        number
    }

    /// The name of a space's directory.
    pub(super) fn name(&self, number: u32) -> Arc<str> {
        self.names[number as usize].clone()
    }
}
