//! Key documents on disk: a file a server, replaced as a whole.
//!
//! What is read is checked as if it had just come, but for the time, which is when it did come. A file
//! that cannot be read, or is not what it should be, is as good as absent.

use super::record::Held;
use crate::verify::keys::{KEY_DOCUMENT_BYTES_MAX, KeyDocument};
use bytes::Bytes;
use ruma_common::{OwnedServerName, ServerName};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    fmt::Write as _,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::SystemTime,
};

/// Documents in one file.
const DOCUMENTS_MAX: usize = 16;
/// The largest file that is read: texts in JSON may take twice their bytes.
const FILE_BYTES_MAX: u64 = (2 * KEY_DOCUMENT_BYTES_MAX * DOCUMENTS_MAX) as u64;
const VERSION: u32 = 1;

/// A directory of key documents.
#[derive(Debug)]
pub(crate) struct Disk {
    dir: PathBuf,
    files_max: usize,
    files: AtomicUsize,
    temporary: AtomicU64,
}

#[derive(Deserialize, Serialize)]
struct File {
    version: u32,
    server: OwnedServerName,
    documents: Vec<Entry>,
}

#[derive(Deserialize, Serialize)]
struct Entry {
    came_ms: u64,
    direct: bool,
    /// As it came.
    raw: String,
}

impl Disk {
    /// Opens a directory, which is made if there is none.
    pub(crate) fn open(dir: &Path, files_max: usize) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut files = 0;
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                // Of a process that did not come to its end.
                Some("tmp") => drop(fs::remove_file(path)),
                _ => files += 1,
            }
        }
        Ok(Self {
            dir: dir.to_owned(),
            files_max: files_max.max(1),
            files: AtomicUsize::new(files),
            temporary: AtomicU64::new(0),
        })
    }

    /// Names of servers may be too long for files, and differ in nothing but case.
    fn path(&self, server: &ServerName) -> PathBuf {
        let mut name = String::new();
        for byte in &Sha256::digest(server.as_str())[..20] {
            let _ = write!(name, "{byte:02x}");
        }
        self.dir.join(name + ".keys.json")
    }

    /// What is held of a server. Blocks.
    pub(crate) fn read(&self, server: &ServerName, now_ms: u64) -> Vec<Held> {
        let path = self.path(server);
        match Self::parse(&path, server, now_ms) {
            Ok(documents) => documents,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a file of keys is of no use");
                Vec::new()
            }
        }
    }

    fn parse(path: &Path, server: &ServerName, now_ms: u64) -> io::Result<Vec<Held>> {
        let mut text = Vec::new();
        let file = fs::File::open(path)?;
        file.take(FILE_BYTES_MAX).read_to_end(&mut text)?;
        let file: File = serde_json::from_slice(&text)?;
        if file.version != VERSION || file.server != server {
            return Err(io::Error::other("of another version, or another server"));
        }
        let mut documents = Vec::new();
        for entry in file.documents.into_iter().take(DOCUMENTS_MAX) {
            // A clock that was wrong once must not make keys valid for longer than they are.
            let came_ms = entry.came_ms.min(now_ms);
            let raw = Bytes::from(entry.raw);
            let document = KeyDocument::parse_and_check(raw, server, came_ms);
            documents.push(Held {
                document: Arc::new(document.map_err(io::Error::other)?),
                came_ms,
                direct: entry.direct,
            });
        }
        Ok(documents)
    }

    /// Replaces what is held of a server. Blocks.
    pub(crate) fn write(&self, server: &ServerName, documents: &[Held]) -> io::Result<()> {
        let documents = documents.iter().map(|held| Entry {
            came_ms: held.came_ms,
            direct: held.direct,
            // What was parsed as JSON is UTF-8.
            raw: String::from_utf8_lossy(held.document.raw()).into_owned(),
        });
        let file = File {
            version: VERSION,
            server: server.to_owned(),
            documents: documents.collect(),
        };
        let text = serde_json::to_vec(&file)?;
        let path = self.path(server);
        let is_new = !path.exists();
        if is_new && self.files.load(Relaxed) >= self.files_max {
            self.drop_oldest()?;
        }
        let temporary = self.temporary.fetch_add(1, Relaxed);
        let temporary = format!("{}-{temporary}.tmp", std::process::id());
        let temporary = self.dir.join(temporary);
        let written = fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, &path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        } else if is_new {
            self.files.fetch_add(1, Relaxed);
        }
        written
    }

    /// Makes room: strangers decide how many servers there are.
    fn drop_oldest(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            files.push((modified.unwrap_or(SystemTime::UNIX_EPOCH), entry.path()));
        }
        files.sort();
        // Some more than one, so that this is not done for each.
        let stay = (self.files_max - self.files_max / 8).min(self.files_max - 1);
        let goes = files.len().saturating_sub(stay);
        for (_, path) in files.drain(..goes) {
            let _ = fs::remove_file(path);
        }
        self.files.store(files.len(), Relaxed);
        Ok(())
    }
}
