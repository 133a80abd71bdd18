//! Opening what lies below a directory, and nothing else.
//!
//! **Invariant:** no file descriptor that leaves this module names anything outside of the root, a
//! hidden entry (a component that begins with a dot), or an excluded path, however names, symbolic
//! links and renames race with us. On Linux the kernel holds this (`openat2` with
//! `RESOLVE_BENEATH`); where it cannot, each component is opened by itself and symbolic links are
//! refused. Not for writing.

use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{Mode, OFlags, Stat},
    io::Errno,
};
use std::{
    fs::File,
    io,
    path::{Component, Path, PathBuf},
    time::{Duration, SystemTime},
};

/// A directory that is served.
#[derive(Debug)]
pub(super) struct Root {
    dir: OwnedFd,
    /// Its path without symbolic links, to compare with.
    real: PathBuf,
    /// Paths that are never served, without symbolic links.
    exclude: Vec<PathBuf>,
    /// Follow symbolic links that stay inside; off where the kernel cannot check them.
    links: bool,
}

/// What tells one version of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    pub(super) size: u64,
    modified_ns: i128,
    changed_ns: i128,
}

impl Identity {
    pub(super) fn of(stat: &Stat) -> Self {
        let ns = |s: i64, ns: i128| i128::from(s) * 1_000_000_000 + ns;
        Self {
            #[allow(
                clippy::unnecessary_cast,
                reason = "the width differs between platforms"
            )]
            device: stat.st_dev as u64,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified_ns: ns(stat.st_mtime, i128::from(stat.st_mtime_nsec)),
            changed_ns: ns(stat.st_ctime, i128::from(stat.st_ctime_nsec)),
        }
    }

    /// Whether the open file is still of this version. One that has lost its last name meanwhile is,
    /// if nothing but that has changed: replacing a file by rename leaves readers of the old one alone.
    pub(super) fn holds(&self, file: &File) -> Result<bool, Errno> {
        let stat = rustix::fs::fstat(file)?;
        let now = Self::of(&stat);
        let unlinked = stat.st_nlink == 0
            && Self {
                changed_ns: self.changed_ns,
                ..now
            } == *self;
        Ok(now == *self || unlinked)
    }

    /// The strong etag. It does not look like an MD5, which clients would compare with the bytes.
    pub(super) fn etag(&self) -> String {
        let mut hash = blake3::Hasher::new();
        hash.update(&self.device.to_le_bytes());
        hash.update(&self.inode.to_le_bytes());
        hash.update(&self.size.to_le_bytes());
        hash.update(&self.modified_ns.to_le_bytes());
        hash.update(&self.changed_ns.to_le_bytes());
        format!("\"f-{}\"", &hash.finalize().to_hex()[..32])
    }

    /// When it was last written, to the second.
    pub(super) fn modified(&self) -> SystemTime {
        let seconds = u64::try_from(self.modified_ns / 1_000_000_000).unwrap_or(0);
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// How long ago it was last changed in any way; zero for a time to come.
    pub(super) fn age(&self, now: SystemTime) -> Duration {
        let ns = u64::try_from(self.changed_ns).unwrap_or(0);
        let changed = SystemTime::UNIX_EPOCH + Duration::from_nanos(ns);
        now.duration_since(changed).unwrap_or_default()
    }
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Dir,
    Other,
}

pub(super) fn kind(stat: &Stat) -> Kind {
    match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
        rustix::fs::FileType::RegularFile => Kind::File,
        rustix::fs::FileType::Directory => Kind::Dir,
        _ => Kind::Other,
    }
}

impl Root {
    pub(super) fn open(path: &Path, exclude: &[PathBuf]) -> io::Result<Self> {
        let real = path.canonicalize()?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(&real, flags, Mode::empty())?;
        let exclude = exclude.iter().filter_map(|path| resolve(path)).collect();
        let links = sys::links_can_be_checked(dir.as_fd());
        Ok(Self {
            dir,
            real,
            exclude,
            links,
        })
    }

    pub(super) fn real(&self) -> &Path {
        &self.real
    }

    /// Opens a regular file, or whatever else the path names: the caller looks at its [`Stat`].
    /// Never blocks on a fifo.
    pub(super) fn open_file(&self, path: &str) -> Result<(File, Stat), Errno> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = self.open_at(path, flags)?;
        let stat = rustix::fs::fstat(&fd)?;
        Ok((File::from(fd), stat))
    }

    /// Opens a directory; the empty path is the root.
    pub(super) fn open_dir(&self, path: &str) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if path.is_empty() {
            return rustix::fs::openat(&self.dir, ".", flags, Mode::empty());
        }
        self.open_at(path, flags)
    }

    /// What a path names, symbolic links followed where they stay inside.
    pub(super) fn stat(&self, path: &str) -> Result<Stat, Errno> {
        let fd = self.open_at(path, sys::LOOK | OFlags::CLOEXEC)?;
        rustix::fs::fstat(&fd)
    }

    fn open_at(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        if !is_visible(path) || self.excludes(path) {
            return Err(Errno::NOENT);
        }
        match sys::open_beneath(self.dir.as_fd(), path, flags, false) {
            Err(Errno::LOOP) if self.links => {
                let fd = sys::open_beneath(self.dir.as_fd(), path, flags, true)?;
                // A link may lead to what is hidden or excluded: look at where it led.
                match sys::real_path(fd.as_fd()) {
                    Some(real) if self.serves(&real) => Ok(fd),
                    _ => Err(Errno::NOENT),
                }
            }
            other => other,
        }
    }

    fn serves(&self, real: &Path) -> bool {
        let Ok(below) = real.strip_prefix(&self.real) else {
            return false;
        };
        let visible = below.components().all(|component| match component {
            Component::Normal(name) => !name.as_encoded_bytes().starts_with(b"."),
            _ => false,
        });
        visible && !self.is_excluded(real)
    }

    /// Whether the root itself is excluded.
    pub(super) fn is_excluded_whole(&self) -> bool {
        self.is_excluded(&self.real)
    }

    /// Whether a path relative to the root is excluded by name.
    pub(super) fn excludes(&self, path: &str) -> bool {
        !self.exclude.is_empty() && self.is_excluded(&self.real.join(path))
    }

    fn is_excluded(&self, real: &Path) -> bool {
        self.exclude.iter().any(|path| real.starts_with(path))
    }
}

/// Whether each component of a path is a plain name that is not hidden.
fn is_visible(path: &str) -> bool {
    !path.contains('\0')
        && path
            .split('/')
            .all(|name| !name.is_empty() && !name.starts_with('.'))
}

/// A path without symbolic links, though its end may not be there yet (a data directory that is
/// made later).
fn resolve(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    let mut missing = Vec::new();
    for ancestor in path.ancestors() {
        if let Ok(real) = ancestor.canonicalize() {
            return Some(
                missing
                    .iter()
                    .rev()
                    .fold(real, |path, name| path.join(name)),
            );
        }
        missing.push(ancestor.file_name()?);
    }
    None
}

#[cfg(target_os = "linux")]
mod sys {
    use super::{PathBuf, by_component};
    use rustix::{
        fd::{AsRawFd, BorrowedFd, OwnedFd},
        fs::{Mode, OFlags, ResolveFlags},
        io::Errno,
    };
    use std::os::unix::ffi::OsStringExt;

    /// Looking without reading: works on files that may not be read, and wakes no device.
    pub(super) const LOOK: OFlags = OFlags::PATH;

    /// How often a lookup that a rename disturbed is tried.
    const TRIES: usize = 16;

    pub(super) fn open_beneath(
        root: BorrowedFd<'_>,
        path: &str,
        flags: OFlags,
        links: bool,
    ) -> Result<OwnedFd, Errno> {
        let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        if !links {
            resolve |= ResolveFlags::NO_SYMLINKS;
        }
        for _ in 0..TRIES {
            match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                // An old kernel, or a sandbox that hides the call.
                Err(Errno::NOSYS | Errno::PERM) if !links => {
                    return by_component(root, path, flags);
                }
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    pub(super) fn links_can_be_checked(root: BorrowedFd<'_>) -> bool {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let openat2 = rustix::fs::openat2(root, ".", flags, Mode::empty(), ResolveFlags::BENEATH);
        openat2.is_ok() && real_path(root).is_some()
    }

    pub(super) fn real_path(fd: BorrowedFd<'_>) -> Option<PathBuf> {
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let path = rustix::fs::readlink(link, Vec::new()).ok()?;
        Some(PathBuf::from(std::ffi::OsString::from_vec(
            path.into_bytes(),
        )))
    }
}

#[cfg(not(target_os = "linux"))]
mod sys {
    use super::{PathBuf, by_component};
    use rustix::{
        fd::{BorrowedFd, OwnedFd},
        fs::OFlags,
        io::Errno,
    };

    pub(super) const LOOK: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK);

    pub(super) fn open_beneath(
        root: BorrowedFd<'_>,
        path: &str,
        flags: OFlags,
        _links: bool,
    ) -> Result<OwnedFd, Errno> {
        by_component(root, path, flags)
    }

    pub(super) fn links_can_be_checked(_root: BorrowedFd<'_>) -> bool {
        false
    }

    pub(super) fn real_path(_fd: BorrowedFd<'_>) -> Option<PathBuf> {
        None
    }
}

/// Opens a path one component after the other, each below the last and none a symbolic link.
fn by_component(
    root: rustix::fd::BorrowedFd<'_>,
    path: &str,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let step = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut dir: Option<OwnedFd> = None;
    let mut names = path.split('/').peekable();
    while let Some(name) = names.next() {
        let at = dir.as_ref().map_or(root, AsFd::as_fd);
        let flags = if names.peek().is_some() {
            step
        } else {
            flags | OFlags::NOFOLLOW
        };
        let fd = rustix::fs::openat(at, name, flags, Mode::empty())?;
        dir = Some(fd);
    }
    dir.ok_or(Errno::NOENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write, os::unix::fs::symlink};

    fn tree() -> tempfile::TempDir {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("root");
        for dir in ["root/b/sub", "root/.git", "root/data/chunks", "root/b/.hid"] {
            std::fs::create_dir_all(outer.path().join(dir)).unwrap();
        }
        for file in [
            "secret",
            "root/b/f",
            "root/b/sub/g",
            "root/.git/config",
            "root/data/chunks/x",
            "root/b/.hid/h",
        ] {
            std::fs::write(outer.path().join(file), file).unwrap();
        }
        symlink("f", root.join("b/inside")).unwrap();
        symlink("../../secret", root.join("b/out")).unwrap();
        symlink(outer.path().join("secret"), root.join("b/absolute")).unwrap();
        symlink("../.git/config", root.join("b/to-hidden")).unwrap();
        symlink("../data/chunks", root.join("b/to-data")).unwrap();
        symlink("sub", root.join("b/to-sub")).unwrap();
        symlink("loop", root.join("b/loop")).unwrap();
        symlink("/proc/self/root", root.join("b/magic")).unwrap();
        outer
    }

    const CASES: &[(&str, bool)] = &[
        ("b/f", true),
        ("b/sub/g", true),
        ("b/inside", true),
        ("b/to-sub/g", true),
        ("b/out", false),
        ("b/absolute", false),
        ("b/to-hidden", false),
        ("b/to-data/x", false),
        ("b/loop", false),
        ("b/magic/etc/passwd", false),
        ("b/.hid/h", false),
        (".git/config", false),
        ("data/chunks/x", false),
        ("data", false),
        ("../secret", false),
        ("b/../b/f", false),
        ("b/./f", false),
        ("b//f", false),
        ("/etc/passwd", false),
        ("b/f/", false),
        ("b/f\0", false),
        ("b/missing", false),
        ("", false),
    ];

    #[test]
    fn nothing_outside_hidden_or_excluded_is_opened() {
        let outer = tree();
        let root = Root::open(
            &outer.path().join("root"),
            &[outer.path().join("root/data")],
        )
        .unwrap();
        assert!(root.links, "this test wants openat2 and /proc");
        for (path, opens) in CASES {
            assert_eq!(root.open_file(path).is_ok(), *opens, "{path:?}");
        }
    }

    #[test]
    fn without_openat2_links_are_refused_and_the_rest_is_the_same() {
        let outer = tree();
        let root = Root::open(
            &outer.path().join("root"),
            &[outer.path().join("root/data")],
        )
        .unwrap();
        for (path, opens) in CASES {
            let linked = ["b/inside", "b/to-sub/g"].contains(path);
            let fd = is_visible(path)
                .then(|| by_component(root.dir.as_fd(), path, OFlags::RDONLY))
                .and_then(Result::ok);
            let excluded = path.starts_with("data");
            assert_eq!(fd.is_some() && !excluded, *opens && !linked, "{path:?}");
        }
    }

    #[test]
    fn a_directory_yet_to_be_made_is_excluded_too() {
        let outer = tree();
        let path = outer.path().join("root");
        let root = Root::open(&path, &[path.join("later/data")]).unwrap();
        std::fs::create_dir_all(path.join("later/data")).unwrap();
        std::fs::write(path.join("later/data/x"), "x").unwrap();
        std::fs::write(path.join("later/y"), "y").unwrap();
        assert!(root.open_file("later/data/x").is_err());
        assert!(root.open_file("later/y").is_ok());
    }

    #[test]
    fn a_fifo_does_not_block() {
        let outer = tree();
        let path = outer.path().join("root/b/fifo");
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&path)
                .status()
                .unwrap()
                .success()
        );
        let root = Root::open(&outer.path().join("root"), &[]).unwrap();
        let (_file, stat) = root.open_file("b/fifo").unwrap();
        assert_eq!(kind(&stat), Kind::Other);
    }

    #[test]
    fn identity_follows_each_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "one").unwrap();
        let of = || Identity::of(&rustix::fs::stat(&path).unwrap());
        let before = of();
        assert_eq!(before.etag(), of().etag());
        // The same inode, length and mtime: only the change time tells.
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(5))
            .unwrap();
        assert_ne!(before.etag(), of().etag());
        let (now, open) = (of(), File::open(&path).unwrap());
        assert!(now.holds(&open).unwrap() && !before.holds(&open).unwrap());
        std::fs::remove_file(&path).unwrap();
        assert!(
            now.holds(&open).unwrap(),
            "unlinked, and otherwise the same"
        );
        (&file).write_all(b"two").unwrap();
        assert!(!now.holds(&open).unwrap(), "written to after that");
        assert!(before.etag().starts_with("\"f-"));
        assert_eq!(before.age(SystemTime::UNIX_EPOCH), Duration::ZERO);
    }
}
