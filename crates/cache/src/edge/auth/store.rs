//! The auth file on disk: read at start, read again when it changes. A broken new file keeps the
//! rules in force and is logged; it never locks everybody out, nor lets anybody in.

use super::{Rules, RulesError};
use arc_swap::ArcSwap;
use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// The largest auth file read, in bytes.
const FILE_LEN_MAX: u64 = 16 << 20;

/// The rules in force, and where they come from.
#[derive(Debug)]
pub struct AuthStore {
    path: Option<PathBuf>,
    rules: ArcSwap<Rules>,
    seen: Mutex<Option<Stamp>>,
}

/// What tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let meta = std::fs::metadata(path)?;
        Ok(Self {
            inode: meta.ino(),
            size: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

/// Why the auth file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("cannot read the auth file {}: {error}", path.display())]
    Read {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// It makes no sense.
    #[error("the auth file {} is refused: {error}", path.display())]
    Rules {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        error: RulesError,
    },
}

impl AuthStore {
    /// Reads the file.
    ///
    /// # Errors
    /// If it cannot be read or makes no sense.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, LoadError> {
        let path = path.into();
        let stamp = Stamp::of(&path).ok();
        let rules = load(&path)?;
        Ok(Self {
            path: Some(path),
            rules: ArcSwap::from_pointee(rules),
            seen: Mutex::new(stamp),
        })
    }

    /// Rules that never change.
    pub fn fixed(rules: Rules) -> Self {
        Self {
            path: None,
            rules: ArcSwap::from_pointee(rules),
            seen: Mutex::new(None),
        }
    }

    /// The rules in force.
    pub fn rules(&self) -> arc_swap::Guard<Arc<Rules>> {
        self.rules.load()
    }

    /// Reads the file again if it changed since it was last looked at: `Ok(true)` if new rules are in
    /// force now. Blocks on the file system.
    ///
    /// # Errors
    /// If the changed file cannot be used. The rules stay, and the same file is not tried again.
    pub fn refresh(&self) -> Result<bool, LoadError> {
        let Some(path) = &self.path else {
            return Ok(false);
        };
        // A file that is gone for a moment (being replaced) is no news.
        let Ok(stamp) = Stamp::of(path) else {
            return Ok(false);
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.replace(stamp) == Some(stamp) {
            return Ok(false);
        }
        self.rules.store(Arc::new(load(path)?));
        Ok(true)
    }
}

fn load(path: &Path) -> Result<Rules, LoadError> {
    let read = || {
        let size = std::fs::metadata(path)?.len();
        if size > FILE_LEN_MAX {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "larger than 16 MiB",
            ));
        }
        std::fs::read_to_string(path)
    };
    let text = read().map_err(|error| LoadError::Read {
        path: path.to_owned(),
        error,
    })?;
    Rules::parse(&text).map_err(|error| LoadError::Rules {
        path: path.to_owned(),
        error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_file_keeps_the_rules_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.toml");
        let key = |id: &str| format!("[[key]]\nid = \"{id}\"\nsecret = \"0123456789abcdef\"\n");
        assert!(matches!(
            AuthStore::open(&path),
            Err(LoadError::Read { .. })
        ));
        std::fs::write(&path, key("A")).unwrap();
        let store = AuthStore::open(&path).unwrap();
        assert!(!store.refresh().unwrap(), "nothing changed");

        std::fs::write(&path, key("A") + &key("LONGER")).unwrap();
        assert!(store.refresh().unwrap());
        assert!(store.rules().key("LONGER").is_some());

        std::fs::write(&path, "nonsense").unwrap();
        assert!(matches!(store.refresh(), Err(LoadError::Rules { .. })));
        assert!(store.rules().key("LONGER").is_some());
        assert!(!store.refresh().unwrap(), "a broken file is reported once");

        std::fs::remove_file(&path).unwrap();
        assert!(!store.refresh().unwrap());
        std::fs::write(&path, key("B")).unwrap();
        assert!(store.refresh().unwrap());
        assert!(store.rules().key("A").is_none() && store.rules().key("B").is_some());
    }
}
