//! `file:///dir`: a directory as an origin. Its sub-directories are buckets, the files below them
//! keys; or, with [`FileOptions::root_bucket`], the directory itself is the one bucket.
//!
//! Guarantees: nothing outside of the directory is read ([`root`]); a version is a device, an inode,
//! a size and two times, and each piece of a read is handed on only if the file is still that
//! version, so that no answer mixes two. Changes through a writable memory map are as old as the
//! kernel says, which may be late: writers should replace files, by rename.
//!
//! All file system work is on the blocking pool, at most [`BLOCKING_MAX`] calls at a time.

mod mime;
mod root;
mod walk;

use super::{
    BoxFuture, Origin, OriginError, OriginStream, encode,
    spec::OriginConfigError,
    token::{from_token, token},
};
use crate::types::{BucketEntry, ListPage, ListQuery, ObjectMeta, ObjectName};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use root::{Identity, Kind, Root};
use rustix::io::Errno;
use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};
use tokio::sync::Semaphore;

/// File system calls of one origin that may be under way at a time.
const BLOCKING_MAX: usize = 64;
/// Bytes of one read call.
const PIECE: usize = 512 * 1024;
/// Kernels may stamp a change with a clock that ticks this rarely (a jiffy, at 100 Hz, twice).
const TICK: Duration = Duration::from_millis(20);
/// Buckets that are listed.
const BUCKETS_MAX: usize = 10_000;

/// What of a directory is served, and how.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileOptions {
    /// Never served, nor anything below.
    pub(crate) exclude: Vec<PathBuf>,
    /// The directory itself is the bucket of this name.
    pub(crate) root_bucket: Option<String>,
}

/// A directory.
#[derive(Debug)]
pub(crate) struct FileOrigin {
    id: String,
    root: Arc<Root>,
    root_bucket: Option<String>,
    blocking: Arc<Semaphore>,
}

impl FileOrigin {
    pub(crate) fn open(path: &Path, options: &FileOptions) -> Result<Self, OriginConfigError> {
        if let Some(bucket) = &options.root_bucket
            && (!encode::is_segment(bucket) || bucket.starts_with('.'))
        {
            return Err(OriginConfigError::Option {
                option: "root-bucket",
                reason: format!(
                    "{bucket:?}: a bucket's name has no slashes and begins with no dot"
                ),
            });
        }
        let root =
            Root::open(path, &options.exclude).map_err(|error| OriginConfigError::Directory {
                path: path.to_owned(),
                reason: error.to_string(),
            })?;
        if root.is_excluded_whole() {
            return Err(OriginConfigError::Option {
                option: "exclude",
                reason: format!(
                    "{} lies in what is never served: nothing would be left",
                    root.real().display()
                ),
            });
        }
        let id = url::Url::from_directory_path(root.real()).map_or_else(
            |()| format!("file://{}", root.real().display()),
            String::from,
        );
        Ok(Self {
            id,
            root: Arc::new(root),
            root_bucket: options.root_bucket.clone(),
            blocking: Arc::new(Semaphore::new(BLOCKING_MAX)),
        })
    }

    /// The bucket's directory relative to the root.
    fn bucket_dir<'a>(&self, bucket: &'a str) -> Result<&'a str, OriginError> {
        match &self.root_bucket {
            Some(name) if name == bucket => Ok(""),
            Some(_) => Err(OriginError::NoSuchBucket),
            None if encode::is_segment(bucket) => Ok(bucket),
            None => Err(OriginError::NoSuchBucket),
        }
    }

    /// Opens a regular file and its version.
    async fn open_object(&self, name: &ObjectName) -> Result<(File, Identity), OriginError> {
        let bucket = self.bucket_dir(&name.bucket)?.to_owned();
        if name.key.is_empty() || name.key.len() > encode::KEY_BYTES_MAX {
            return Err(OriginError::NoSuchKey);
        }
        let path = if bucket.is_empty() {
            name.key.to_string()
        } else {
            format!("{bucket}/{}", name.key)
        };
        let root = Arc::clone(&self.root);
        blocking(&self.blocking, move || match root.open_file(&path) {
            Ok((file, stat)) => match root::kind(&stat) {
                Kind::File => Ok((file, Identity::of(&stat))),
                Kind::Dir => Err(OriginError::NoSuchKey),
                Kind::Other => Err(OriginError::Unsupported(
                    "neither a file nor a directory".into(),
                )),
            },
            Err(errno) => match failure(errno) {
                OriginError::NoSuchKey if root.open_dir(&bucket).is_err() => {
                    Err(OriginError::NoSuchBucket)
                }
                error => Err(error),
            },
        })
        .await
    }

    async fn read_range(
        &self,
        name: &ObjectName,
        etag: &str,
        range: Range<u64>,
    ) -> Result<OriginStream, OriginError> {
        let (file, identity) = self.open_object(name).await?;
        if identity.etag() != etag {
            return Err(OriginError::Changed);
        }
        if range.is_empty() || range.end > identity.size {
            return Err(OriginError::Invalid(
                "the range is not within the file".into(),
            ));
        }
        // A further change within the same tick of the kernel's clock would leave the times as they
        // are: wait the tick out, so that whatever is written from now on shows.
        let age = identity.age(SystemTime::now());
        if age < TICK {
            tokio::time::sleep(TICK - age).await;
        }
        let permits = Arc::clone(&self.blocking);
        let reading = Reading {
            file: Arc::new(file),
            identity,
            range,
        };
        Ok(Box::pin(futures_util::stream::try_unfold(
            reading,
            move |mut reading| {
                let permits = Arc::clone(&permits);
                async move {
                    if reading.range.is_empty() {
                        return Ok(None);
                    }
                    let (file, identity, at) = (
                        Arc::clone(&reading.file),
                        reading.identity,
                        reading.range.clone(),
                    );
                    let piece =
                        blocking(&permits, move || read_piece(&file, &identity, at)).await?;
                    reading.range.start += piece.len() as u64;
                    Ok(Some((piece, reading)))
                }
            },
        )))
    }

    async fn list_page(&self, query: &ListQuery) -> Result<ListPage, OriginError> {
        let bucket = self.bucket_dir(&query.bucket)?.to_owned();
        let after = match &query.token {
            Some(token) => Some(from_token(token)?),
            None => query.start_after.as_deref().map(str::to_owned),
        };
        let query = query.clone();
        let cancelled = Arc::new(AtomicBool::new(false));
        let _cancel = CancelOnDrop(Arc::clone(&cancelled));
        let root = Arc::clone(&self.root);
        let (mut page, skipped) = blocking(&self.blocking, move || {
            let wanted = walk::Wanted {
                bucket: &bucket,
                prefix: &query.prefix,
                delimiter: query.delimiter.as_deref(),
                after: after.as_deref().unwrap_or_default(),
                keys_max: usize::from(query.keys_max),
            };
            walk::page(&root, &wanted, &cancelled)
        })
        .await?;
        if skipped.names + skipped.dirs > 0 {
            tracing::debug!(
                origin = self.id,
                names = skipped.names,
                dirs = skipped.dirs,
                "passed over in a listing: names that are no keys, directories that cannot be read"
            );
        }
        page.next = page.next.map(|last| token(&last));
        Ok(page)
    }
}

impl Origin for FileOrigin {
    fn id(&self) -> &str {
        &self.id
    }

    fn head<'a>(&'a self, name: &'a ObjectName) -> BoxFuture<'a, Result<ObjectMeta, OriginError>> {
        Box::pin(async move {
            let (_, identity) = self.open_object(name).await?;
            let mut headers = HeaderMap::new();
            let content_type = mime::content_type(&name.key);
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
            Ok(ObjectMeta {
                size: identity.size,
                etag: identity.etag().into(),
                modified: identity.modified(),
                headers: Arc::new(headers),
            })
        })
    }

    fn read<'a>(
        &'a self,
        name: &'a ObjectName,
        etag: &'a str,
        _size: Option<u64>, // A part of our etags.
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<OriginStream, OriginError>> {
        Box::pin(self.read_range(name, etag, range))
    }

    fn list<'a>(&'a self, query: &'a ListQuery) -> BoxFuture<'a, Result<ListPage, OriginError>> {
        Box::pin(self.list_page(query))
    }

    fn buckets(&self) -> BoxFuture<'_, Result<Vec<BucketEntry>, OriginError>> {
        Box::pin(async move {
            let names = if let Some(name) = &self.root_bucket {
                vec![(name.clone(), None)]
            } else {
                let root = Arc::clone(&self.root);
                blocking(&self.blocking, move || {
                    walk::dirs(&root, BUCKETS_MAX).map_err(failure)
                })
                .await?
                .into_iter()
                // When it was made is not known everywhere: when it last changed will do.
                .map(|(name, modified)| (name, Some(modified)))
                .collect()
            };
            Ok(names
                .into_iter()
                .map(|(name, created)| BucketEntry { name, created })
                .collect())
        })
    }

    fn head_bucket<'a>(&'a self, bucket: &'a str) -> BoxFuture<'a, Result<(), OriginError>> {
        Box::pin(async move {
            let dir = self.bucket_dir(bucket)?.to_owned();
            let root = Arc::clone(&self.root);
            blocking(&self.blocking, move || match root.open_dir(&dir) {
                Ok(_) => Ok(()),
                Err(errno) => Err(match failure(errno) {
                    OriginError::NoSuchKey => OriginError::NoSuchBucket,
                    error => error,
                }),
            })
            .await
        })
    }
}

/// What is left to read of a file.
struct Reading {
    file: Arc<File>,
    identity: Identity,
    range: Range<u64>,
}

/// Reads the next piece, and vouches that it is of this version.
fn read_piece(file: &File, identity: &Identity, at: Range<u64>) -> Result<Bytes, OriginError> {
    let want = usize::try_from(at.end - at.start)
        .unwrap_or(usize::MAX)
        .min(PIECE);
    let mut piece = Vec::with_capacity(want);
    let mut cursor = file;
    cursor
        .seek(SeekFrom::Start(at.start))
        .map_err(|error| io_failure(&error))?;
    let read = cursor.take(want as u64).read_to_end(&mut piece);
    // Whatever happened, a version that is gone explains it.
    if !identity.holds(file).map_err(failure)? {
        return Err(OriginError::Changed);
    }
    read.map_err(|error| io_failure(&error))?;
    if piece.len() < want {
        return Err(OriginError::Truncated(
            "the file ends before its size".into(),
        ));
    }
    Ok(piece.into())
}

/// Runs `work` on the blocking pool once there is a place. The place is held until the work ends,
/// though nobody waits for it any more.
async fn blocking<T: Send + 'static>(
    permits: &Arc<Semaphore>,
    work: impl FnOnce() -> Result<T, OriginError> + Send + 'static,
) -> Result<T, OriginError> {
    let permit = Arc::clone(permits)
        .acquire_owned()
        .await
        .map_err(|_| OriginError::Local("shutting down".into()))?;
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        work()
    })
    .await
    .unwrap_or_else(|error| {
        Err(OriginError::Local(
            format!("file system task: {error}").into(),
        ))
    })
}

/// Ends a walk whose caller has gone.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn failure(errno: Errno) -> OriginError {
    match errno {
        // Links out of the root, too long names, sockets: for the client they are not there.
        Errno::NOENT
        | Errno::NOTDIR
        | Errno::LOOP
        | Errno::XDEV
        | Errno::NAMETOOLONG
        | Errno::NXIO
        | Errno::INVAL => OriginError::NoSuchKey,
        Errno::ACCESS | Errno::PERM => OriginError::Denied("permission denied".into()),
        Errno::MFILE | Errno::NFILE => OriginError::Local("too many open files".into()),
        Errno::STALE => OriginError::Changed,
        other => OriginError::Server(other.to_string().into()),
    }
}

fn io_failure(error: &std::io::Error) -> OriginError {
    match Errno::from_io_error(error) {
        Some(errno) => failure(errno),
        None => OriginError::Server(error.to_string().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::TryStreamExt;
    use std::io::Write;

    fn name(bucket: &str, key: &str) -> ObjectName {
        ObjectName {
            bucket: bucket.into(),
            key: key.into(),
        }
    }

    fn origin(root_bucket: Option<&str>) -> (tempfile::TempDir, FileOrigin) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("b")).unwrap();
        let options = FileOptions {
            exclude: Vec::new(),
            root_bucket: root_bucket.map(Into::into),
        };
        let origin = FileOrigin::open(dir.path(), &options).unwrap();
        (dir, origin)
    }

    #[tokio::test]
    async fn an_overwrite_in_place_ends_the_read() {
        let (dir, origin) = origin(None);
        let path = dir.path().join("b/big");
        let old = vec![1u8; 3 * PIECE];
        std::fs::write(&path, &old).unwrap();
        let name = name("b", "big");
        let meta = origin.head(&name).await.unwrap();
        let mut stream = origin
            .read(&name, &meta.etag, None, 0..meta.size)
            .await
            .unwrap();
        let first = stream.try_next().await.unwrap().unwrap();
        assert_eq!(first, old[..PIECE]);
        let mut file = File::options().write(true).open(&path).unwrap();
        file.write_all(&vec![2u8; 3 * PIECE]).unwrap();
        assert!(matches!(stream.try_next().await, Err(OriginError::Changed)));
        assert!(
            stream.try_next().await.unwrap().is_none(),
            "an error is the last item"
        );
        assert!(matches!(
            origin.read(&name, &meta.etag, None, 0..1).await.map(|_| ()),
            Err(OriginError::Changed)
        ));
    }

    /// Readers during overwrites, in place and by rename: each reads one version, or is told.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_read_mixes_two_versions() {
        const SIZE: usize = PIECE + PIECE / 2;
        let (dir, origin) = origin(None);
        let path = dir.path().join("b/f");
        std::fs::write(&path, vec![0u8; SIZE]).unwrap();
        let (origin, name) = (Arc::new(origin), name("b", "f"));
        let (mut whole, mut told) = (0, 0);
        for version in 1..=40u8 {
            let path = path.clone();
            let writer = tokio::task::spawn_blocking(move || {
                let new = vec![version; SIZE];
                if version % 4 == 0 {
                    let fresh = path.with_file_name("fresh");
                    std::fs::write(&fresh, new).unwrap();
                    std::fs::rename(fresh, path).unwrap();
                } else {
                    let mut file = File::options().write(true).open(path).unwrap();
                    new.chunks(64 * 1024)
                        .for_each(|part| file.write_all(part).unwrap());
                }
            });
            let readers: Vec<_> = (0..8)
                .map(|_| {
                    let (origin, name) = (Arc::clone(&origin), name.clone());
                    tokio::spawn(async move {
                        let meta = origin.head(&name).await?;
                        let stream = origin.read(&name, &meta.etag, None, 0..meta.size).await?;
                        let pieces: Vec<Bytes> = stream.try_collect().await?;
                        Ok::<_, OriginError>(pieces.concat())
                    })
                })
                .collect();
            writer.await.unwrap();
            for reader in readers {
                match reader.await.unwrap() {
                    Ok(bytes) => {
                        assert!(bytes == vec![bytes[0]; SIZE], "{version}: mixed");
                        whole += 1;
                    }
                    Err(OriginError::Changed) => told += 1,
                    Err(error) => panic!("{version}: {error:?}"),
                }
            }
        }
        assert_eq!(whole + told, 320);
        let meta = origin.head(&name).await.unwrap();
        let stream = origin
            .read(&name, &meta.etag, None, 0..meta.size)
            .await
            .unwrap();
        let last: Vec<Bytes> = stream.try_collect().await.unwrap();
        assert!(last.concat() == vec![40; SIZE]);
    }

    #[tokio::test]
    async fn a_replaced_file_is_read_to_its_end() {
        let (dir, origin) = origin(None);
        let path = dir.path().join("b/f");
        std::fs::write(&path, vec![1u8; 2 * PIECE]).unwrap();
        let name = name("b", "f");
        let meta = origin.head(&name).await.unwrap();
        let mut stream = origin
            .read(&name, &meta.etag, None, 1..meta.size)
            .await
            .unwrap();
        let first = stream.try_next().await.unwrap().unwrap();
        std::fs::write(dir.path().join("b/new"), "new").unwrap();
        std::fs::rename(dir.path().join("b/new"), &path).unwrap();
        let rest: Vec<Bytes> = stream.try_collect().await.unwrap();
        assert_eq!(
            [first].into_iter().chain(rest).collect::<Vec<_>>().concat(),
            vec![1u8; 2 * PIECE - 1]
        );
    }

    #[tokio::test]
    async fn names_that_are_no_objects() {
        let (dir, origin) = origin(None);
        std::fs::create_dir(dir.path().join("b/sub")).unwrap();
        for (bucket, key, missing) in [
            ("b", "missing", "no such key"),
            ("b", "sub", "no such key"),
            ("b", "sub/", "no such key"),
            ("b", "", "no such key"),
            ("b", "../b/f", "no such key"),
            ("nope", "f", "no such bucket"),
            ("..", "f", "no such bucket"),
            ("", "f", "no such bucket"),
            ("b/sub", "f", "no such bucket"),
        ] {
            let error = origin.head(&name(bucket, key)).await.unwrap_err();
            assert_eq!(error.to_string(), missing, "{bucket}/{key}");
        }
        assert!(origin.head_bucket("b").await.is_ok());
        assert!(matches!(
            origin.head_bucket("nope").await,
            Err(OriginError::NoSuchBucket)
        ));
    }

    #[tokio::test]
    async fn the_root_as_a_bucket() {
        let (dir, origin) = origin(Some("here"));
        std::fs::write(dir.path().join("top"), "top").unwrap();
        std::fs::write(dir.path().join("b/low"), "low").unwrap();
        assert_eq!(origin.head(&name("here", "top")).await.unwrap().size, 3);
        assert_eq!(origin.head(&name("here", "b/low")).await.unwrap().size, 3);
        assert!(matches!(
            origin.head(&name("b", "low")).await,
            Err(OriginError::NoSuchBucket)
        ));
        let buckets = origin.buckets().await.unwrap();
        assert_eq!(
            buckets.iter().map(|b| b.name.as_str()).collect::<Vec<_>>(),
            ["here"]
        );
        let query = ListQuery {
            bucket: "here".into(),
            prefix: "".into(),
            delimiter: None,
            start_after: None,
            token: None,
            keys_max: 1,
        };
        let page = origin.list(&query).await.unwrap();
        assert_eq!(page.objects[0].key, "b/low");
        let page = origin
            .list(&ListQuery {
                token: page.next,
                ..query.clone()
            })
            .await
            .unwrap();
        assert_eq!(page.objects[0].key, "top");
        assert!(page.next.is_none());
        let bad = ListQuery {
            token: Some("!".into()),
            ..query
        };
        assert!(matches!(
            origin.list(&bad).await,
            Err(OriginError::Invalid(_))
        ));
    }

    #[test]
    fn a_directory_must_not_be_excluded_whole() {
        let dir = tempfile::tempdir().unwrap();
        for exclude in [dir.path(), dir.path().parent().unwrap()] {
            let options = FileOptions {
                exclude: vec![exclude.to_owned()],
                root_bucket: None,
            };
            let error = FileOrigin::open(dir.path(), &options).unwrap_err();
            assert!(error.to_string().contains("never served"), "{error}");
        }
    }

    #[test]
    fn a_directory_must_be_there() {
        let error = FileOrigin::open(Path::new("/nowhere/at/all"), &FileOptions::default());
        assert!(error.unwrap_err().to_string().contains("/nowhere/at/all"));
    }
}
