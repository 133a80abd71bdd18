//! Listing a tree in the order of S3: keys by their UTF-8 bytes, which is not the order of
//! directories (`a.txt` comes before `a/x`, since `.` is less than `/`).
//!
//! A directory sorts as its name with a slash; then its keys are contiguous, and a walk in depth
//! gives all keys in order. Memory: [`BATCH`] names for each open directory, however many it has: a
//! larger one is read again for its next names. Symbolic links to directories are not walked (they
//! may run in circles); those to files inside the root are listed. Directories as such are no keys.

use super::{
    super::{OriginError, encode},
    failure,
    root::{Identity, Kind, Root, kind},
};
use crate::types::{ListEntry, ListPage};
use rustix::{
    fd::OwnedFd,
    fs::{AtFlags, Dir, FileType},
    io::Errno,
};
use std::{
    collections::{BTreeMap, btree_map::IntoIter},
    ffi::CStr,
    iter::Peekable,
    sync::atomic::{AtomicBool, Ordering},
    time::SystemTime,
};

/// Names of one directory that are held at a time.
const BATCH: usize = 4096;
/// Deeper directories are not listed: each level of a walk holds a file descriptor.
const DEPTH_MAX: usize = 128;

/// What is to be listed.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    /// The bucket's directory, relative to the root; empty where the root is the bucket.
    pub(super) bucket: &'a str,
    pub(super) prefix: &'a str,
    pub(super) delimiter: Option<&'a str>,
    /// Only keys and common prefixes after this one.
    pub(super) after: &'a str,
    pub(super) keys_max: usize,
}

/// What a walk passed over, for the logs.
#[derive(Debug, Default)]
pub(super) struct Skipped {
    /// Names that are not UTF-8, or too long for a key.
    pub(super) names: u64,
    /// Directories beyond [`DEPTH_MAX`], or that may not be read.
    pub(super) dirs: u64,
}

/// One page. Stops early, with an error, once `cancelled` is set.
pub(super) fn page(
    root: &Root,
    wanted: &Wanted<'_>,
    cancelled: &AtomicBool,
) -> Result<(ListPage, Skipped), OriginError> {
    let mut walk = Walk::new(root, wanted, cancelled)?;
    let mut page = ListPage::default();
    let mut last: Option<String> = None;
    while let Some(key) = walk.next()? {
        let rest = &key[wanted.prefix.len()..];
        let rolled = wanted
            .delimiter
            .filter(|d| !d.is_empty())
            .and_then(|delimiter| {
                let at = rest.find(delimiter)?;
                Some(key[..wanted.prefix.len() + at + delimiter.len()].to_owned())
            });
        let full = page.objects.len() + page.prefixes.len() >= wanted.keys_max;
        if let Some(prefix) = rolled {
            if prefix.as_str() > wanted.after {
                if full {
                    page.next = last.map(Into::into);
                    break;
                }
                last = Some(prefix.clone());
                page.prefixes.push(prefix.clone());
            }
            walk.skip(prefix);
            continue;
        }
        if full {
            page.next = last.map(Into::into);
            break;
        }
        let Some(identity) = walk.look(&key) else {
            continue;
        };
        page.objects.push(ListEntry {
            size: identity.size,
            etag: Some(identity.etag()),
            modified: identity.modified(),
            storage_class: None,
            key: key.clone(),
        });
        last = Some(key);
    }
    Ok((page, walk.skipped))
}

/// Keys of a bucket, in order.
struct Walk<'a> {
    root: &'a Root,
    wanted: &'a Wanted<'a>,
    cancelled: &'a AtomicBool,
    stack: Vec<Frame>,
    /// Keys below this are not wanted any more.
    skip: Option<String>,
    skipped: Skipped,
}

/// A directory on the way.
struct Frame {
    dir: OwnedFd,
    /// The keys' common beginning: empty, or ending in a slash.
    path: String,
    names: Peekable<IntoIter<String, bool>>,
    /// The last name of the batch, if the directory has more after it.
    more_after: Option<String>,
}

impl<'a> Walk<'a> {
    fn new(
        root: &'a Root,
        wanted: &'a Wanted<'a>,
        cancelled: &'a AtomicBool,
    ) -> Result<Self, OriginError> {
        // The bucket itself, or the deepest directory that holds the whole prefix.
        let above = wanted
            .prefix
            .rfind('/')
            .map_or("", |slash| &wanted.prefix[..=slash]);
        let bucket = root
            .open_dir(wanted.bucket)
            .map_err(|errno| match failure(errno) {
                OriginError::NoSuchKey => OriginError::NoSuchBucket,
                error => error,
            })?;
        let mut walk = Self {
            root,
            wanted,
            cancelled,
            stack: Vec::new(),
            skip: None,
            skipped: Skipped::default(),
        };
        let dir = if above.is_empty() {
            Some(bucket)
        } else {
            root.open_dir(&walk.place(above.trim_end_matches('/'))).ok()
        };
        // `a//b` or `/a` name nothing in a directory.
        let plain = !above.starts_with('/') && !above.contains("//");
        if let Some(dir) = dir.filter(|_| plain) {
            walk.enter(dir, above.to_owned())?;
        }
        Ok(walk)
    }

    /// A key's place relative to the root.
    fn place(&self, key: &str) -> String {
        if self.wanted.bucket.is_empty() {
            key.to_owned()
        } else {
            format!("{}/{key}", self.wanted.bucket)
        }
    }

    fn skip(&mut self, prefix: String) {
        while self
            .stack
            .last()
            .is_some_and(|frame| frame.path.starts_with(&prefix))
        {
            self.stack.pop();
        }
        self.skip = Some(prefix);
    }

    fn enter(&mut self, dir: OwnedFd, path: String) -> Result<(), OriginError> {
        if self.stack.len() >= DEPTH_MAX {
            self.skipped.dirs += 1;
            return Ok(());
        }
        let mut frame = Frame {
            dir,
            path,
            names: BTreeMap::new().into_iter().peekable(),
            more_after: None,
        };
        self.fill(&mut frame, None)?;
        self.stack.push(frame);
        Ok(())
    }

    /// Reads the smallest [`BATCH`] names after `from` that may lead to wanted keys.
    fn fill(&mut self, frame: &mut Frame, from: Option<&str>) -> Result<(), OriginError> {
        frame.more_after = None;
        let mut names: BTreeMap<String, bool> = BTreeMap::new();
        let entries = Dir::read_from(&frame.dir).map_err(failure)?;
        let mut full = String::new();
        for entry in entries {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(OriginError::Local("cancelled".into()));
            }
            // Half a directory must not pass for a whole one.
            let entry = entry.map_err(failure)?;
            let raw: &CStr = entry.file_name();
            if raw.to_bytes().starts_with(b".") {
                continue;
            }
            let Ok(name) = raw.to_str() else {
                self.skipped.names += 1;
                continue;
            };
            full.clear();
            full.push_str(&frame.path);
            full.push_str(name);
            let Some(is_dir) = self.is_dir(&frame.dir, raw, entry.file_type(), &full) else {
                continue;
            };
            if is_dir {
                full.push('/');
            }
            if full.len() > encode::KEY_BYTES_MAX {
                self.skipped.names += 1;
                continue;
            }
            if !self.leads_to_wanted(&full, is_dir) {
                continue;
            }
            let sort = &full[frame.path.len()..];
            if from.is_some_and(|from| sort <= from) {
                continue;
            }
            if names.len() >= BATCH {
                frame.more_after = Some(String::new());
                match names.last_key_value() {
                    Some((largest, _)) if sort < largest.as_str() => {
                        names.pop_last();
                    }
                    _ => continue,
                }
            }
            names.insert(sort.to_owned(), is_dir);
        }
        if let (Some(after), Some((largest, _))) = (&mut frame.more_after, names.last_key_value()) {
            after.clone_from(largest);
        }
        frame.names = names.into_iter().peekable();
        Ok(())
    }

    /// Whether a name is a directory; none for what is never listed.
    fn is_dir(&self, dir: &OwnedFd, name: &CStr, told: FileType, key: &str) -> Option<bool> {
        let told = match told {
            FileType::Unknown => {
                let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
                FileType::from_raw_mode(stat.st_mode)
            }
            told => told,
        };
        let found = match told {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Dir,
            FileType::Symlink => match kind(&self.root.stat(&self.place(key)).ok()?) {
                Kind::File => Kind::File,
                Kind::Dir | Kind::Other => Kind::Other,
            },
            _ => Kind::Other,
        };
        match found {
            Kind::File | Kind::Dir if self.root.excludes(&self.place(key)) => None,
            Kind::File => Some(false),
            Kind::Dir => Some(true),
            Kind::Other => None,
        }
    }

    /// Whether a key, or some key below a directory (`full` ends in a slash), may be wanted.
    fn leads_to_wanted(&self, full: &str, is_dir: bool) -> bool {
        let Wanted { prefix, after, .. } = *self.wanted;
        if self
            .skip
            .as_deref()
            .is_some_and(|skip| full.starts_with(skip))
        {
            return false;
        }
        if is_dir {
            (full.starts_with(prefix) || prefix.starts_with(full))
                && (full > after || after.starts_with(full))
        } else {
            full.starts_with(prefix) && full > after
        }
    }

    fn next(&mut self) -> Result<Option<String>, OriginError> {
        loop {
            let Some(mut frame) = self.stack.pop() else {
                return Ok(None);
            };
            let Some((name, is_dir)) = frame.names.next() else {
                if let Some(from) = frame.more_after.take() {
                    self.fill(&mut frame, Some(&from))?;
                    self.stack.push(frame);
                }
                continue;
            };
            let full = format!("{}{name}", frame.path);
            let dead_end = !self.leads_to_wanted(&full, is_dir);
            let dir = (is_dir && !dead_end)
                .then(|| self.root.open_dir(&self.place(full.trim_end_matches('/'))));
            self.stack.push(frame);
            match dir {
                _ if dead_end => {}
                None => return Ok(Some(full)),
                Some(Ok(dir)) => self.enter(dir, full)?,
                // Excluded, gone, or not ours to read.
                Some(Err(errno)) => match failure(errno) {
                    OriginError::NoSuchKey | OriginError::Denied(_) => self.skipped.dirs += 1,
                    error => return Err(error),
                },
            }
        }
    }

    /// The file behind the key that `next` gave last; none if it has gone meanwhile.
    fn look(&self, key: &str) -> Option<Identity> {
        let frame = self.stack.last()?;
        let name = key.strip_prefix(&frame.path)?;
        let stat = rustix::fs::statat(&frame.dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let stat = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => self.root.stat(&self.place(key)).ok()?,
            _ => stat,
        };
        (kind(&stat) == Kind::File).then(|| Identity::of(&stat))
    }
}

/// Visible sub-directories of the root, in order, at most `max`.
pub(super) fn dirs(root: &Root, max: usize) -> Result<Vec<(String, SystemTime)>, Errno> {
    let dir = root.open_dir("")?;
    let mut names = BTreeMap::new();
    for entry in Dir::read_from(&dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else {
            continue;
        };
        if name.starts_with('.')
            || !matches!(
                entry.file_type(),
                FileType::Directory | FileType::Symlink | FileType::Unknown
            )
        {
            continue;
        }
        if let Ok(stat) = root.stat(name)
            && kind(&stat) == Kind::Dir
        {
            names.insert(name.to_owned(), Identity::of(&stat).modified());
            if names.len() > max {
                names.pop_last();
            }
        }
    }
    Ok(names.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;

    fn make(root: &Path, keys: &[String]) -> Vec<String> {
        let mut made = Vec::new();
        for key in keys {
            let path = root.join("b").join(key);
            if std::fs::create_dir_all(path.parent().unwrap()).is_ok()
                && !path.is_dir()
                && std::fs::write(&path, key).is_ok()
            {
                made.push(key.clone());
            }
        }
        made.sort();
        made.dedup();
        made
    }

    /// S3's listing of sorted keys, said plainly.
    fn model(keys: &[String], prefix: &str, delimiter: Option<&str>, after: &str) -> Vec<String> {
        let mut out: Vec<String> = keys
            .iter()
            .filter(|key| key.starts_with(prefix))
            .map(
                |key| match delimiter.and_then(|d| Some((d, key[prefix.len()..].find(d)?))) {
                    Some((d, at)) => key[..prefix.len() + at + d.len()].to_owned(),
                    None => key.clone(),
                },
            )
            .filter(|entry| entry.as_str() > after)
            .collect();
        out.dedup();
        out
    }

    fn all(
        root: &Root,
        prefix: &str,
        delimiter: Option<&str>,
        after: &str,
        keys_max: usize,
    ) -> Vec<String> {
        let mut out: Vec<String> = Vec::new();
        let mut after = after.to_owned();
        loop {
            let wanted = Wanted {
                bucket: "b",
                prefix,
                delimiter,
                after: &after,
                keys_max,
            };
            let (page, _) = page(root, &wanted, &AtomicBool::new(false)).unwrap();
            assert!(page.objects.len() + page.prefixes.len() <= keys_max);
            let mut names: Vec<String> = page.objects.into_iter().map(|o| o.key).collect();
            names.extend(page.prefixes);
            names.sort();
            out.extend(names);
            match page.next {
                Some(next) => after = next.to_string(),
                None => return out,
            }
        }
    }

    #[test]
    fn order_is_of_keys_not_of_directories() {
        let dir = tempfile::tempdir().unwrap();
        let keys = ["a/x", "a.txt", "a-b", "a0", "ü/1", "z"].map(String::from);
        let made = make(dir.path(), &keys);
        let root = Root::open(dir.path(), &[]).unwrap();
        assert_eq!(all(&root, "", None, "", 1), made);
        assert_eq!(made[..4], ["a-b", "a.txt", "a/x", "a0"]);
        assert_eq!(
            all(&root, "", Some("/"), "", 2),
            ["a-b", "a.txt", "a/", "a0", "z", "ü/"]
        );
    }

    #[test]
    fn what_is_no_key_is_not_listed() {
        let dir = tempfile::tempdir().unwrap();
        make(
            dir.path(),
            &["f", ".hidden", "d/.x/y", "d/g", "data/chunk"].map(String::from),
        );
        std::fs::create_dir(dir.path().join("b/empty")).unwrap();
        std::os::unix::fs::symlink("f", dir.path().join("b/link")).unwrap();
        std::os::unix::fs::symlink(".", dir.path().join("b/circle")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("b/out")).unwrap();
        let odd = std::os::unix::ffi::OsStringExt::from_vec(b"b/\xff".to_vec());
        std::fs::write(dir.path().join(Path::new::<std::ffi::OsString>(&odd)), "x").unwrap();
        let root = Root::open(dir.path(), &[dir.path().join("b/data")]).unwrap();
        assert_eq!(all(&root, "", None, "", 10), ["d/g", "f", "link"]);
        assert_eq!(all(&root, "", Some("/"), "", 10), ["d/", "f", "link"]);
        let wanted = Wanted {
            bucket: "b",
            prefix: "",
            delimiter: None,
            after: "",
            keys_max: 10,
        };
        let (_, skipped) = page(&root, &wanted, &AtomicBool::new(false)).unwrap();
        assert_eq!(skipped.names, 1);
        assert!(
            page(&root, &wanted, &AtomicBool::new(true)).is_err(),
            "cancelled"
        );
        let found = dirs(&root, 10).unwrap();
        let [(name, modified)] = &found[..] else {
            panic!("{found:?}");
        };
        assert!(name == "b" && *modified > SystemTime::UNIX_EPOCH);
    }

    #[test]
    fn a_directory_larger_than_a_batch() {
        let dir = tempfile::tempdir().unwrap();
        let keys: Vec<String> = (0..BATCH + 100).map(|i| format!("n{i:05}")).collect();
        let made = make(dir.path(), &keys);
        let root = Root::open(dir.path(), &[]).unwrap();
        assert_eq!(all(&root, "", None, "", 100_000), made);
        assert_eq!(
            all(&root, "", None, "n04000", 1000).len(),
            made.len() - 4001
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        #[test]
        fn lists_as_s3_does(
            keys in proptest::collection::vec("[ab/.!ü]{1,7}", 0..20),
            prefix in "[ab/]{0,3}",
            delimiter in proptest::option::of("[/b]|a/"),
            after in "[ab/.]{0,4}",
            keys_max in 1usize..5,
        ) {
            let plain = |key: &String| key.split('/').all(|n| !n.is_empty() && !n.starts_with('.'));
            let keys: Vec<String> = keys.into_iter().filter(plain).collect();
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join("b")).unwrap();
            let made = make(dir.path(), &keys);
            let root = Root::open(dir.path(), &[]).unwrap();
            let listed = all(&root, &prefix, delimiter.as_deref(), &after, keys_max);
            prop_assert_eq!(listed, model(&made, &prefix, delimiter.as_deref(), &after));
        }
    }
}
