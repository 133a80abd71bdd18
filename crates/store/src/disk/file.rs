//! A stored file that is open and verified, and how one comes to be that.

use super::{
    fs::{self, Fs},
    index::Key,
    pool::Pool,
    store::Shared,
};
use crate::{
    BlobSource, BlobStream, FileView, Place, StoreError,
    frame::{BLOCK, FIXED, Fixed, Frame, framed_len, table_len},
};
use bytes::Bytes;
use futures_util::stream;
use std::{
    fmt,
    fs::File,
    io,
    ops::Range,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{Arc, Weak},
};

/// Most bytes that are read at once.
const PIECE: u64 = 8 * BLOCK;

/// A file of a blob, open, its checksums read. An unlinked one stays readable.
pub(super) struct OpenFile {
    pub(super) place: Place,
    pub(super) key: Key,
    pub(super) generation: u64,
    pub(super) frame: Frame,
    pub(super) file: Arc<File>,
    /// As of before it was verified.
    pub(super) touched: Touched,
    pub(super) store: Weak<Shared>,
    pub(super) fs: Arc<dyn Fs>,
    pub(super) pool: Arc<Pool>,
}

impl fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes of {:?} in {:?}",
            self.frame.len, self.place, self.file
        )
    }
}

/// When a file was last changed by anybody, in its bytes, length or names: the inode's ctime, which
/// nobody can set. A verification says nothing of a file that was touched since.
///
/// It finds what is done through the file system, at once and for the price of one `fstat`; what the
/// medium does by itself is for the scrubber. Where the clock of the file system is coarse, a change
/// within the same tick (some milliseconds) as the look before the verification is missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Touched(i64, i64);

impl Touched {
    /// Of a file that was not looked at: equal to no other.
    pub(super) const UNKNOWN: Self = Self(i64::MIN, i64::MIN);

    /// One system call.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let found = file.metadata()?;
        Ok(Self(found.ctime(), found.ctime_nsec()))
    }
}

/// Why a file cannot be served.
#[derive(Debug)]
pub(super) enum Bad {
    /// It is not there.
    Lost,
    /// It is not what was written.
    Copy(String),
    /// It may be right, but we cannot read it now.
    Means(StoreError),
}

impl Bad {
    fn from_io(path: &Path, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::NotFound {
            Self::Lost
        } else if fs::is_of_the_copy(error) {
            Self::Copy(error.to_string())
        } else if fs::is_out_of_files(error) {
            Self::Means(StoreError::Transient(
                format!("{error}: raise the limit of open files (ulimit -n)").into(),
            ))
        } else {
            let what = format!("cannot read {}", path.display());
            Self::Means(StoreError::from_io(&what, error))
        }
    }
}

/// Opens the file of a blob of `len` bytes and reads its checksums; the data is not looked at. Says
/// when it was touched as of before that.
pub(super) fn open(
    fs: &dyn Fs,
    path: &Path,
    space: &str,
    digest: &[u8; 32],
    len: u64,
) -> Result<(File, Frame, Touched), Bad> {
    let from_io = |error: io::Error| Bad::from_io(path, &error);
    let file = fs.open(path).map_err(from_io)?;
    let found = file.metadata().map_err(from_io)?;
    let touched = Touched(found.ctime(), found.ctime_nsec());
    if !found.is_file() {
        return Err(Bad::Copy("it is no file".into()));
    }
    if found.len() != framed_len(len) {
        return Err(Bad::Copy(format!(
            "{} bytes instead of {}",
            found.len(),
            framed_len(len)
        )));
    }
    // The length fits: the file has it.
    let mut tail = vec![0; table_len(len) as usize + FIXED];
    if fs.read(&file, &mut tail, len).map_err(from_io)? < tail.len() {
        return Err(Bad::Copy("it is short".into()));
    }
    let (table, fixed) = tail.split_at(tail.len() - FIXED);
    let fixed = Fixed::parse(fixed, space, digest).map_err(|what| Bad::Copy(what.into()))?;
    if fixed.len != len {
        return Err(Bad::Copy("the length".into()));
    }
    let frame = Frame::parse(&fixed, table).map_err(|what| Bad::Copy(what.into()))?;
    Ok((file, frame, touched))
}

/// Reads all of the data and compares it with its checksums.
pub(super) fn verify(fs: &dyn Fs, path: &Path, file: &File, frame: &Frame) -> Result<(), Bad> {
    let mut buffer = vec![0; PIECE.min(frame.len) as usize];
    let mut at = 0;
    while at < frame.len {
        let piece = &mut buffer[..PIECE.min(frame.len - at) as usize];
        let read = fs
            .read(file, piece, at)
            .map_err(|error| Bad::from_io(path, &error))?;
        if read < piece.len() {
            return Err(Bad::Copy("it is short".into()));
        }
        if !frame.verify(at / BLOCK, piece) {
            return Err(Bad::Copy(format!("a block from byte {at} on")));
        }
        at += read as u64;
    }
    Ok(())
}

impl OpenFile {
    /// Whether nobody has touched the file since it was verified.
    pub(super) fn is_untouched(&self) -> bool {
        Touched::of(&self.file).is_ok_and(|now| now == self.touched)
    }

    /// Reads up to a piece of `range`, verified.
    fn read(&self, range: Range<u64>) -> Result<Bytes, StoreError> {
        let mut blocks = self.frame.aligned(&range);
        blocks.end = blocks.end.min(blocks.start + PIECE);
        let mut buffer = vec![0; (blocks.end - blocks.start) as usize];
        let wrong = match self.fs.read(&self.file, &mut buffer, blocks.start) {
            Ok(read) if read < buffer.len() => "it is short".into(),
            Ok(_) if !self.frame.verify(blocks.start / BLOCK, &buffer) => {
                format!("a block from byte {} on", blocks.start)
            }
            Ok(_) => {
                let end = range.end.min(blocks.end);
                let part = (range.start - blocks.start) as usize..(end - blocks.start) as usize;
                return Ok(Bytes::from(buffer).slice(part));
            }
            Err(error) if fs::is_of_the_copy(&error) => error.to_string(),
            Err(error) => {
                return Err(StoreError::from_io(
                    &format!("cannot read {:?}", self.place),
                    &error,
                ));
            }
        };
        self.condemn(&wrong);
        Err(StoreError::Corrupt {
            place: self.place.clone(),
            what: wrong.into(),
        })
    }
}

impl BlobSource for OpenFile {
    fn len(&self) -> u64 {
        self.frame.len
    }

    fn file(&self) -> Option<FileView> {
        Some(FileView {
            file: self.file.clone(),
            offset: 0,
        })
    }

    fn stream(self: Arc<Self>, range: Range<u64>) -> BlobStream {
        Box::pin(stream::try_unfold((self, range), async |(file, range)| {
            if range.is_empty() {
                return Ok(None);
            }
            let (reader, wanted) = (file.clone(), range.clone());
            let piece = file.pool.run(move || reader.read(wanted)).await??;
            let rest = range.start + piece.len() as u64..range.end;
            Ok(Some((piece, (file, rest))))
        }))
    }

    fn condemn(&self, what: &str) {
        if let Some(store) = self.store.upgrade() {
            store.condemn(self.key, self.generation, what);
        }
    }
}
