//! Names in the store's directory, and what is found there at the start.
//!
//! ```text
//! DIR/CACHEDIR.TAG                     backup tools leave it alone
//! DIR/lock                             held by the process that uses the store
//! DIR/tmp/N                            blobs being written; removed at the start
//! DIR/v1/SPACE/HH/DIGEST.LEN           a blob; HH are the first two digits of DIGEST
//! ```
//!
//! The length is part of the name, so that the index is rebuilt from directory entries alone: no
//! file is opened or even looked at. 256 directories per space keep each short. What a later
//! version lays out beside `v1` is left alone, and so is what nobody named like a blob.

use super::fs::Fs;
use crate::{
    StoreError,
    frame::LEN_MAX,
    place::{digest_of_hex, hex},
};
use rustix::{fs::FlockOperation, io::Errno};
use std::{
    fs::{DirEntry, File},
    io::{self, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

/// The signature that <https://bford.info/cachedir/> asks for.
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This directory holds a cache of gannet. It can be removed while gannet does not run.\n";

/// Where things lie.
#[derive(Debug)]
pub(super) struct Layout {
    root: PathBuf,
}

/// A blob that was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) digest: [u8; 32],
    pub(super) len: u64,
}

impl Layout {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.into() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn temp(&self, n: u64) -> PathBuf {
        self.root.join("tmp").join(n.to_string())
    }

    fn spaces(&self) -> PathBuf {
        self.root.join("v1")
    }

    /// The directory of a space whose name (as [`space_name`](crate::place::space_name) makes it) is
    /// `name`.
    pub(super) fn space(&self, name: &str) -> PathBuf {
        self.spaces().join(name)
    }

    /// The file of a blob of `len` bytes.
    pub(super) fn file(&self, space: &str, digest: &[u8; 32], len: u64) -> PathBuf {
        let hex = hex(digest);
        let mut path = self.space(space);
        path.push(&hex[..2]);
        path.push(format!("{hex}.{len}"));
        path
    }

    /// Makes the directories that are missing above `file`.
    pub(super) fn make_dirs(&self, fs: &dyn Fs, file: &Path) -> io::Result<()> {
        let dirs: Vec<_> = file
            .ancestors()
            .skip(1)
            .take_while(|dir| *dir != self.root)
            .collect();
        for dir in dirs.into_iter().rev() {
            match fs.make_dir(dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes the root, takes the lock, and removes what was being written when the last process
    /// ended.
    ///
    /// # Errors
    /// [`StoreError::Locked`], or why the directory cannot be used and what to do about it.
    pub(super) fn prepare(&self, fs: &dyn Fs) -> Result<File, StoreError> {
        let context = |what: &str, error: io::Error| {
            let what = format!("cannot {what} {}", self.root.display());
            match StoreError::from_io(&what, &error) {
                StoreError::Transient(_) => StoreError::Unsuitable(
                    format!("{what}: {error}: check the path, or choose another directory").into(),
                ),
                error => error,
            }
        };
        if !self.root.is_dir() {
            if let Some(parent) = self.root.parent() {
                std::fs::create_dir_all(parent).map_err(|error| context("create", error))?;
            }
            fs.make_dir(&self.root)
                .map_err(|error| context("create", error))?;
        }
        let lock = self.lock(&context)?;
        match File::create_new(self.root.join("CACHEDIR.TAG")) {
            Ok(mut tag) => _ = tag.write_all(TAG.as_bytes()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            // A full disk must not keep the store from serving what it has.
            Err(error) => tracing::debug!(%error, "no CACHEDIR.TAG was written"),
        }
        for dir in [self.root.join("tmp"), self.spaces()] {
            match fs.make_dir(&dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(context("write to", error));
                }
                _ => {}
            }
        }
        let temps = std::fs::read_dir(self.root.join("tmp")).map_err(|e| context("read", e))?;
        for temp in temps {
            let temp = temp.map_err(|error| context("read", error))?;
            fs.remove(&temp.path())
                .map_err(|error| context("clean up", error))?;
        }
        Ok(lock)
    }

    fn lock(&self, context: &dyn Fn(&str, io::Error) -> StoreError) -> Result<File, StoreError> {
        let path = self.root.join("lock");
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|error| context("lock", error))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let _ = (&mut file).take(20).read_to_string(&mut text);
                return Err(StoreError::Locked {
                    dir: self.root.clone(),
                    pid: text.trim().parse().ok(),
                });
            }
            Err(error) => return Err(context("lock", error.into())),
        }
        // For the message that the next one gets; nothing depends on it.
        let _ = file.set_len(0);
        let _ = file.rewind();
        let _ = writeln!(file, "{}", std::process::id());
        Ok(file)
    }

    /// Walks over all blobs, by directory entries alone: `found` gets the name of the space's
    /// directory and the blob. What has a blob's name but is no file, or lies under the wrong two
    /// digits, is removed; other strangers are left alone.
    ///
    /// # Errors
    /// A directory that cannot be read.
    pub(super) fn scan(
        &self,
        fs: &dyn Fs,
        mut found: impl FnMut(&Arc<str>, Found) -> Keep,
    ) -> io::Result<()> {
        let mut strangers = 0_u64;
        for space in std::fs::read_dir(self.spaces())? {
            let space = space?;
            let Some(name) = dir_name(&space)? else {
                strangers += 1;
                continue;
            };
            let name: Arc<str> = name.into();
            for fan in std::fs::read_dir(space.path())? {
                let fan = fan?;
                let Some(digits) = dir_name(&fan)?.filter(|digits| digits.len() == 2) else {
                    strangers += 1;
                    continue;
                };
                for file in std::fs::read_dir(fan.path())? {
                    let file = file?;
                    let file_name = file.file_name();
                    let Some((file_name, blob)) = file_name
                        .to_str()
                        .and_then(|name| Some((name, parse(name)?)))
                    else {
                        strangers += 1;
                        continue;
                    };
                    let misplaced = !file_name.starts_with(&digits) || !file.file_type()?.is_file();
                    if misplaced || found(&name, blob) == Keep::No {
                        tracing::warn!(path = %file.path().display(), "removing what is no blob");
                        if let Err(error) = fs.remove(&file.path()) {
                            tracing::warn!(path = %file.path().display(), %error, "it stays");
                        }
                    }
                }
            }
        }
        if strangers > 0 {
            tracing::warn!(dir = %self.root.display(), strangers, "files that are not ours: ignored");
        }
        Ok(())
    }
}

/// What to do with a blob that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    Yes,
    /// There is one of this digest already.
    No,
}

fn dir_name(entry: &DirEntry) -> io::Result<Option<String>> {
    Ok(if entry.file_type()?.is_dir() {
        entry.file_name().into_string().ok()
    } else {
        None
    })
}

/// What the name of a blob's file says, if it is one, and the only one, for it.
fn parse(name: &str) -> Option<Found> {
    let (digest, len) = name.split_at_checked(64)?;
    let len = len.strip_prefix('.')?;
    let plain = len.bytes().all(|byte| byte.is_ascii_digit())
        && (len == "0" || !len.starts_with('0'))
        && len.len() < 20;
    let len = len.parse().ok().filter(|len| plain && *len <= LEN_MAX)?;
    Some(Found {
        digest: digest_of_hex(digest.as_bytes())?,
        len,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::space_name;

    #[test]
    fn names() {
        let digest = *blake3::hash(b"k").as_bytes();
        let path = Layout::new(Path::new("/d")).file(&space_name("../A"), &digest, 7);
        let hex = hex(&digest);
        assert_eq!(
            path.to_str().unwrap(),
            format!("/d/v1/=2e.=2f=41/{}/{hex}.7", &hex[..2])
        );
        let found = parse(path.file_name().unwrap().to_str().unwrap()).unwrap();
        assert_eq!((found.digest, found.len), (digest, 7));
        let bad = [
            "",
            ".",
            ".-1",
            ".+1",
            ".07",
            ".7x",
            "7",
            ".1099511627777",
            ".99999999999999999999",
        ];
        for bad in bad {
            assert!(parse(&format!("{hex}{bad}")).is_none(), "{bad}");
        }
        assert!(parse(&format!("{}é.7", &hex[..63])).is_none());
        assert!(parse(&format!("{hex}.0")).is_some());
    }
}
