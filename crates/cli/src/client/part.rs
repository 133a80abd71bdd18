//! A file that comes in pieces: `FILE.part` holds the bytes so far, `FILE.part.json` which version
//! of which URL they are of.
//!
//! Whatever happens, `FILE` itself is complete or as it was: it appears by a rename. Bytes are only
//! appended to a part whose record names the same URL and a strong etag; a record that cannot be
//! read is the same as none. A lock on the part keeps a second download of the same file away.
//! After a power cut, the last bytes of a part may be wrong: compare the checksum.

use crate::exit::{Error, Exit, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

/// What a part is a part of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The format of this record.
    pub v: u32,
    /// Where it comes from, without the query: that may hold a signature.
    pub url: String,
    /// The version, if the server names one that can be asked for again.
    pub etag: Option<String>,
    /// The length of the whole, if known.
    pub size: Option<u64>,
    /// CRC-32C of the whole as the server gives it (`x-amz-checksum-crc32c`).
    pub crc32c: Option<String>,
    /// SHA-256 of the whole as the server gives it (`x-amz-checksum-sha256`).
    pub sha256: Option<String>,
}

/// Records larger than this are not ours.
const RECORD_BYTES_MAX: u64 = 64 << 10;

/// A download under way.
#[derive(Debug)]
pub struct Part {
    target: PathBuf,
    path: PathBuf,
    record_path: PathBuf,
    file: File,
    record: Option<Record>,
    len: u64,
    sha256: Sha256,
    crc32c: u32,
}

/// What came of a finished download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sums {
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 of the whole.
    pub sha256: [u8; 32],
    /// CRC-32C of the whole.
    pub crc32c: u32,
}

impl Part {
    /// Opens the part of `target`, taking up what is there if it is of `url` and can be continued.
    /// Reads it once for the checksums.
    pub fn open(target: &Path, url: &str) -> Result<Self> {
        let path = beside(target, ".part");
        let record_path = beside(target, ".part.json");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|error| {
                Error::from(error).context(format!("cannot open {}", path.display()))
            })?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let text = format!(
                    "{} is being downloaded by another process",
                    target.display()
                );
                return Err(Error::new(Exit::Failure, text));
            }
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        let record = read_record(&record_path).filter(|record| record.url == url);
        let mut this = Self {
            target: target.to_path_buf(),
            path,
            record_path,
            file,
            record,
            len: 0,
            sha256: Sha256::new(),
            crc32c: 0,
        };
        if this
            .record
            .as_ref()
            .is_some_and(|record| record.etag.is_some())
        {
            this.take_up()?;
        } else {
            this.discard()?;
        }
        Ok(this)
    }

    /// Bytes so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What it is a part of, if a server has said so.
    pub fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    /// Starts anew, with another version.
    pub fn restart(&mut self, record: Record) -> Result {
        self.discard()?;
        let text = serde_json::to_vec(&record).map_err(std::io::Error::from)?;
        // Before the first byte: bytes without a record are never continued.
        fs::write(&self.record_path, text)?;
        self.record = Some(record);
        Ok(())
    }

    /// Forgets the version and its bytes.
    pub fn discard(&mut self) -> Result {
        self.record = None;
        remove(&self.record_path)?;
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.len = 0;
        self.sha256 = Sha256::new();
        self.crc32c = 0;
        Ok(())
    }

    /// Appends what came.
    pub fn append(&mut self, piece: &[u8]) -> Result {
        self.file.write_all(piece).map_err(|error| {
            Error::from(error).context(format!("cannot write {}", self.path.display()))
        })?;
        self.count(piece);
        Ok(())
    }

    /// The checksums of what is there.
    pub fn sums(&self) -> Sums {
        Sums {
            bytes: self.len,
            sha256: self.sha256.clone().finalize().into(),
            crc32c: self.crc32c,
        }
    }

    /// Makes it the target, durably.
    pub fn publish(self) -> Result {
        let say = |error: std::io::Error| {
            Error::from(error).context(format!("cannot finish {}", self.target.display()))
        };
        self.file.sync_all().map_err(say)?;
        fs::rename(&self.path, &self.target).map_err(say)?;
        remove(&self.record_path)?;
        let directory = match self.target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(say)
    }

    fn take_up(&mut self) -> Result {
        let mut block = vec![0; 1 << 20];
        loop {
            match self.file.read(&mut block) {
                Ok(0) => break,
                Ok(n) => self.count(&block[..n]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        let size = self.record.as_ref().and_then(|record| record.size);
        if size.is_some_and(|size| self.len > size) {
            self.discard()?;
        }
        Ok(())
    }

    fn count(&mut self, piece: &[u8]) {
        self.len += piece.len() as u64;
        self.sha256.update(piece);
        self.crc32c = crc32c::crc32c_append(self.crc32c, piece);
    }
}

fn beside(target: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(target);
    name.push(suffix);
    name.into()
}

fn read_record(path: &Path) -> Option<Record> {
    let mut text = Vec::new();
    File::open(path)
        .ok()?
        .take(RECORD_BYTES_MAX)
        .read_to_end(&mut text)
        .ok()?;
    serde_json::from_slice::<Record>(&text)
        .ok()
        .filter(|record| record.v == 1)
}

fn remove(path: &Path) -> Result {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(etag: Option<&str>, size: u64) -> Record {
        Record {
            v: 1,
            url: "http://h/b/k".to_owned(),
            etag: etag.map(str::to_owned),
            size: Some(size),
            crc32c: None,
            sha256: None,
        }
    }

    /// Writes `have` under `record`, opens it again for `url`, and gives what was taken up.
    fn reopened(record: Record, have: &[u8], url: &str) -> u64 {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("f");
        let mut part = Part::open(&target, "http://h/b/k").unwrap();
        part.restart(record).unwrap();
        part.append(have).unwrap();
        drop(part);
        let part = Part::open(&target, url).unwrap();
        assert_eq!(
            part.sums().sha256,
            <[u8; 32]>::from(Sha256::digest(&have[..part.len() as usize]))
        );
        part.len()
    }

    #[test]
    fn only_a_part_of_the_same_version_is_taken_up() {
        let url = "http://h/b/k";
        assert_eq!(reopened(record(Some("\"e\""), 10), b"hello", url), 5);
        assert_eq!(
            reopened(record(Some("\"e\""), 10), b"hello", "http://h/b/other"),
            0
        );
        assert_eq!(reopened(record(None, 10), b"hello", url), 0);
        assert_eq!(reopened(record(Some("\"e\""), 3), b"hello", url), 0);
        assert_eq!(
            reopened(
                Record {
                    v: 2,
                    ..record(Some("\"e\""), 10)
                },
                b"hello",
                url
            ),
            0
        );
    }

    #[test]
    fn a_record_that_cannot_be_read_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("f");
        fs::write(beside(&target, ".part"), b"hello").unwrap();
        fs::write(beside(&target, ".part.json"), b"{\"v\":1,").unwrap();
        assert!(Part::open(&target, "http://h/b/k").unwrap().is_empty());
    }

    #[test]
    fn the_target_appears_whole_and_nothing_is_left_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("f");
        fs::write(&target, b"old").unwrap();
        let mut part = Part::open(&target, "http://h/b/k").unwrap();
        part.restart(record(Some("\"e\""), 5)).unwrap();
        part.append(b"hello").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"old");
        assert_eq!(part.sums().crc32c, crc32c::crc32c(b"hello"));
        part.publish().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"hello");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn two_downloads_of_one_file_exclude_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("f");
        let first = Part::open(&target, "http://h/b/k").unwrap();
        let second = Part::open(&target, "http://h/b/k").unwrap_err();
        assert!(second.to_string().contains("another process"), "{second}");
        drop(first);
        assert!(Part::open(&target, "http://h/b/k").is_ok());
    }
}
