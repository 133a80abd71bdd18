//! A file under a directory, for the line that a newcomer can try.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Looked at, at most: the start must not wait for a huge directory.
const ENTRIES_MAX: usize = 2_000;
const DEPTH_MAX: usize = 4;

/// What needs no encoding in a path.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// `bucket/key` of some file, percent-encoded; the first in the order of names, and as high up as
/// there is one.
pub(super) fn sample(root: &Path, exclude: &[PathBuf]) -> Option<String> {
    let mut left = ENTRIES_MAX;
    (1..=DEPTH_MAX)
        .find_map(|depth| find(root, depth, exclude, &mut left))
        .and_then(|path| {
            let path = path.strip_prefix(root).ok()?.to_str()?.to_owned();
            Some(utf8_percent_encode(&path, PLAIN).to_string())
        })
}

/// A file exactly `depth` directories below.
fn find(directory: &Path, depth: usize, exclude: &[PathBuf], left: &mut usize) -> Option<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(directory)
        .ok()?
        .take(*left)
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| visible(path) && !exclude.iter().any(|excluded| path.starts_with(excluded)))
        .collect();
    *left -= entries.len().min(*left);
    entries.sort();
    if depth == 0 {
        return entries.into_iter().find(|path| {
            // Links may lead out of the root, where nothing is served.
            fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() > 0)
        });
    }
    entries
        .into_iter()
        .filter(|path| fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()))
        .find_map(|path| find(&path, depth - 1, exclude, left))
}

fn visible(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| !name.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_is_served() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"x").unwrap();
        };
        let sample = |exclude: &[&str]| {
            let exclude: Vec<PathBuf> = exclude.iter().map(|path| root.path().join(path)).collect();
            sample(root.path(), &exclude)
        };
        assert_eq!(sample(&[]), None);
        put("not-in-a-bucket");
        put(".git/config");
        assert_eq!(sample(&[]), None);
        put("b/deep/er/x");
        assert_eq!(sample(&[]).as_deref(), Some("b/deep/er/x"));
        put("c/a b+c");
        assert_eq!(sample(&[]).as_deref(), Some("c/a%20b%2Bc"));
        assert_eq!(sample(&["c"]).as_deref(), Some("b/deep/er/x"));
    }
}
