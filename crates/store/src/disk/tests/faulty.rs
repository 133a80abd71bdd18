//! Operations on files of which one goes wrong.

use super::super::fs::{Fs, RealFs, Room};
use bytes::Bytes;
use rustix::io::Errno;
use std::{
    fs::File,
    io,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};

/// What happens at the chosen operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The process dies before it.
    DieBefore,
    /// The process dies in its middle: half of a write is done, all of what is atomic.
    DieWithin,
    /// The operation fails, and the process goes on.
    Fail(Errno),
}

/// The real operations, but for one.
#[derive(Debug)]
pub(super) struct Faulty {
    /// The number of the operation that goes wrong.
    pub(super) at: u64,
    pub(super) fault: Fault,
    /// The file system cannot rename without replacing.
    pub(super) links: bool,
    /// The file system says that it has all the room in the world.
    pub(super) boundless: bool,
    pub(super) ops: AtomicU64,
    pub(super) dead: AtomicBool,
}

impl Faulty {
    pub(super) fn new(at: u64, fault: Fault) -> Self {
        let (ops, dead) = (AtomicU64::new(0), AtomicBool::new(false));
        Self {
            at,
            fault,
            links: false,
            boundless: false,
            ops,
            dead,
        }
    }

    /// Without a fault.
    pub(super) fn none() -> Self {
        Self::new(u64::MAX, Fault::DieBefore)
    }

    /// Whether the operation that goes wrong was reached.
    pub(super) fn struck(&self) -> bool {
        self.ops.load(SeqCst) > self.at
    }

    fn act<T>(
        &self,
        whole: impl FnOnce() -> io::Result<T>,
        half: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<T> {
        let dead = || Err(io::Error::other("the process is dead"));
        if self.dead.load(SeqCst) {
            return dead();
        }
        if self.ops.fetch_add(1, SeqCst) != self.at {
            return whole();
        }
        if let Fault::Fail(errno) = self.fault {
            return Err(errno.into());
        }
        self.dead.store(true, SeqCst);
        if self.fault == Fault::DieWithin {
            let _ = half();
        }
        dead()
    }

    /// An operation that is done or not done.
    fn atomic<T>(&self, whole: impl Fn() -> io::Result<T>) -> io::Result<T> {
        self.act(&whole, || whole().map(drop))
    }
}

impl Fs for Faulty {
    fn create(&self, path: &Path) -> io::Result<File> {
        self.atomic(|| RealFs.create(path))
    }

    fn write(&self, file: &File, parts: &[Bytes]) -> io::Result<()> {
        let all = Bytes::from(parts.concat());
        let half = [all.slice(..all.len() / 2)];
        self.act(|| RealFs.write(file, parts), || RealFs.write(file, &half))
    }

    fn sync(&self, _file: &File) -> io::Result<()> {
        // What is on the medium after a process has died is what the kernel had.
        self.atomic(|| Ok(()))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.links {
            return Err(Errno::INVAL.into());
        }
        self.atomic(|| RealFs.rename(from, to))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.atomic(|| RealFs.link(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = self.atomic(|| RealFs.remove(path));
        match removed {
            // Then it is not there indeed: somebody else was faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                RealFs.remove(path).and(Err(error))
            }
            removed => removed,
        }
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.atomic(|| RealFs.make_dir(path))
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        self.atomic(|| RealFs.open(path))
    }

    fn read(&self, file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        self.act(|| RealFs.read(file, buffer, at), || Ok(()))
    }

    fn room(&self, dir: &Path) -> io::Result<Room> {
        let room = self.atomic(|| RealFs.room(dir))?;
        Ok(if self.boundless {
            Room {
                free: 1 << 50,
                ..room
            }
        } else {
            room
        })
    }
}
