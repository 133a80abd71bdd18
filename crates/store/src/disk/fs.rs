//! The operations on files that the store is made of, each of which may fail or be the last.
//!
//! A trait, so that tests can cut at every one of them. Files are written once through a
//! descriptor, read by `pread` and `sendfile`, and **never mapped**: a mapped file that somebody
//! truncates kills the process with SIGBUS at the next touch of the page, and a read error of the
//! medium does the same. A short `pread` or `sendfile` is an error like any other, and no unsafe
//! code is needed.

use bytes::Bytes;
use rustix::{
    fs::{Mode, OFlags, RenameFlags},
    io::Errno,
};
use std::{
    fmt,
    fs::File,
    io::{self, IoSlice, Write as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
};

/// What a file system has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Bytes in all.
    pub(super) total: u64,
    /// Bytes that are free to us.
    pub(super) free: u64,
    /// Its unit of allocation in bytes.
    pub(super) unit: u64,
}

/// Operations on files. All block.
pub(super) trait Fs: fmt::Debug + Send + Sync + 'static {
    /// Creates a file that is not there yet.
    fn create(&self, path: &Path) -> io::Result<File>;
    /// Writes all of `parts` at the file's cursor.
    fn write(&self, file: &File, parts: &[Bytes]) -> io::Result<()>;
    /// Waits until the file (or directory) is on the medium.
    fn sync(&self, file: &File) -> io::Result<()>;
    /// Gives a file a name that is not taken yet, atomically.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file another name that is not taken yet, atomically.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file, or whatever is in its place.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes a directory; its parent is there.
    fn make_dir(&self, path: &Path) -> io::Result<()>;
    /// Opens for reading: neither a link followed, nor a pipe waited for.
    fn open(&self, path: &Path) -> io::Result<File>;
    /// Reads until `buffer` is full or the file ends.
    fn read(&self, file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize>;
    /// What the file system of `dir` has.
    fn room(&self, dir: &Path) -> io::Result<Room>;
}

/// The real ones.
#[derive(Debug)]
pub(super) struct RealFs;

/// Parts written by one call.
const PARTS_MAX: usize = 64;

impl Fs for RealFs {
    fn create(&self, path: &Path) -> io::Result<File> {
        File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
    }

    fn write(&self, mut file: &File, parts: &[Bytes]) -> io::Result<()> {
        for parts in parts.chunks(PARTS_MAX) {
            let mut slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
            let mut rest = &mut slices[..];
            IoSlice::advance_slices(&mut rest, 0);
            while !rest.is_empty() {
                match file.write_vectored(rest) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => IoSlice::advance_slices(&mut rest, written),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
        {
            use rustix::fs::{CWD, renameat_with};
            Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
        }
        #[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
        {
            let _ = (from, to, RenameFlags::empty());
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match std::fs::remove_file(path) {
            // Unlinking a directory is EISDIR on Linux and EPERM elsewhere.
            Err(error) if path.symlink_metadata().is_ok_and(|found| found.is_dir()) => {
                std::fs::remove_dir_all(path).map_err(|_| error)
            }
            result => result,
        }
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new().mode(0o700).create(path)
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        #[cfg(target_os = "linux")]
        match rustix::fs::open(path, flags | OFlags::NOATIME, Mode::empty()) {
            // Only the owner of a file may leave its access time alone.
            Err(Errno::PERM) => {}
            result => return Ok(result?.into()),
        }
        Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
    }

    fn read(&self, file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let mut len = 0;
        while len < buffer.len() {
            match file.read_at(&mut buffer[len..], at + len as u64) {
                Ok(0) => break,
                Ok(more) => len += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(len)
    }

    fn room(&self, dir: &Path) -> io::Result<Room> {
        let room = rustix::fs::statvfs(dir)?;
        let unit = room.f_frsize.clamp(512, 1 << 20);
        let bytes = |blocks: u64| blocks.saturating_mul(room.f_frsize);
        Ok(Room {
            total: bytes(room.f_blocks),
            free: bytes(room.f_bavail),
            unit,
        })
    }
}

/// Whether the file system or a quota has no room.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Whether a process or the system has too many files open.
pub(super) fn is_out_of_files(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE)
    )
}

/// Whether the file system cannot rename without replacing.
pub(super) fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP)
    ) || error.kind() == io::ErrorKind::Unsupported
}

/// Whether the error speaks of what is stored (a bad medium, a link or a directory in the place of a
/// file), not of our means to read it.
pub(super) fn is_of_the_copy(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::IO | Errno::LOOP | Errno::ISDIR | Errno::NXIO | Errno::NODEV | Errno::NOTDIR)
    )
}
