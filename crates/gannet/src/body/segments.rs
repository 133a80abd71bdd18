//! The segments of a body: contiguous, found by offset, and merged where they are small.
//!
//! Transports deliver frames of any size. A frame is readable as it comes, without a copy; once
//! [`BLOCK_BYTES`] of small frames have come in a row, or [`RUN_MAX`] of them, they are copied into one
//! block, so that a chunk of megabytes does not stay thousands of pieces, and so that a small frame does
//! not pin the large receive buffer it was cut from.

use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;

/// Smaller frames are merged.
pub(super) const SMALL_BYTES: usize = 32 << 10;
/// So many bytes of small frames become one block.
pub(super) const BLOCK_BYTES: usize = 64 << 10;
/// So many small frames become one block, however small they are: a frame of one byte takes forty more
/// to be held, and pins the buffer that it came in.
pub(super) const RUN_MAX: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Segments {
    /// Each with its offset; none is empty.
    list: VecDeque<(u64, Bytes)>,
    /// Offset of the first held byte.
    start: u64,
    /// One past the last byte.
    frontier: u64,
    /// The small segments at the end: how many, and their bytes.
    run: (usize, usize),
}

/// Small segments to be copied into one, outside of the lock.
#[derive(Debug)]
pub(super) struct Merge {
    offset: u64,
    parts: Vec<Bytes>,
}

impl Merge {
    /// Copies. At most about [`BLOCK_BYTES`] + [`SMALL_BYTES`].
    pub(super) fn block(&self) -> Bytes {
        let mut block = BytesMut::with_capacity(self.parts.iter().map(Bytes::len).sum());
        self.parts
            .iter()
            .for_each(|part| block.extend_from_slice(part));
        block.freeze()
    }
}

impl Segments {
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    pub(super) fn frontier(&self) -> u64 {
        self.frontier
    }

    pub(super) fn held(&self) -> u64 {
        self.frontier - self.start
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.list.iter().map(|(_, bytes)| bytes)
    }

    /// Appends a segment that is not empty; answers with what is now to be merged, if anything.
    pub(super) fn push(&mut self, bytes: Bytes) -> Option<Merge> {
        let small = bytes.len() < SMALL_BYTES;
        let merge = if small { None } else { self.take_run(2) };
        if small {
            self.run.0 += 1;
            self.run.1 += bytes.len();
        }
        let offset = self.frontier;
        self.frontier += bytes.len() as u64;
        self.list.push_back((offset, bytes));
        if self.run.1 >= BLOCK_BYTES || self.run.0 >= RUN_MAX {
            return self.take_run(2);
        }
        merge
    }

    /// Ends the run of small segments at the end of the list; the job, if it has at least so many.
    pub(super) fn take_run(&mut self, segments_min: usize) -> Option<Merge> {
        let (count, _) = std::mem::take(&mut self.run);
        if count < segments_min {
            return None;
        }
        let run = self.list.range(self.list.len() - count..);
        let (offset, _) = *run.clone().next()?;
        Some(Merge {
            offset,
            parts: run.map(|(_, bytes)| bytes.clone()).collect(),
        })
    }

    /// Puts the block in the place of its parts, if they are all still there.
    pub(super) fn replace(&mut self, merge: &Merge, block: Bytes) {
        let Ok(first) = self
            .list
            .binary_search_by_key(&merge.offset, |(offset, _)| *offset)
        else {
            return;
        };
        let same = merge.parts.len() <= self.list.len() - first
            && (self.list.range(first..).zip(&merge.parts)).all(|((_, held), part)| {
                held.as_ptr() == part.as_ptr() && held.len() == part.len()
            });
        if !same {
            return;
        }
        self.list[first].1 = block;
        if first + merge.parts.len() == self.list.len() {
            self.list.truncate(first + 1);
        } else {
            self.list.drain(first + 1..first + merge.parts.len());
        }
    }

    /// Drops segments from the front while more than so many bytes are held; gives what it dropped,
    /// so that the memory can be freed outside of the lock.
    pub(super) fn shrink(&mut self, held_max: u64) -> Vec<Bytes> {
        let mut dropped = Vec::new();
        while self.held() > held_max {
            let Some((offset, bytes)) = self.list.pop_front() else {
                break;
            };
            self.start = offset + bytes.len() as u64;
            dropped.push(bytes);
        }
        self.run.0 = self.run.0.min(self.list.len());
        dropped
    }

    /// The rest of the segment that holds this offset.
    pub(super) fn at(&self, offset: u64) -> Option<Bytes> {
        if offset < self.start || offset >= self.frontier {
            return None;
        }
        let index = self.list.partition_point(|(start, _)| *start <= offset) - 1;
        let (start, bytes) = &self.list[index];
        Some(bytes.slice((offset - start) as usize..))
    }
}
