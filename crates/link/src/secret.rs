//! A secret that all members share, from a file.

use crate::{LinkError, files};
use arc_swap::ArcSwap;
use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

/// A shorter one could be guessed from one proof that somebody overheard.
const BYTES_MIN: usize = 16;
const BYTES_MAX: usize = 4096;

/// What all members of a cluster know and nobody else does.
///
/// It proves who asks; it hides nothing: whoever can read the network reads what members send each
/// other. The secret itself is not kept, only keys derived from it.
pub struct Secret {
    path: PathBuf,
    keys: ArcSwap<Keys>,
    seen: Mutex<blake3::Hash>,
}

/// What is derived from a secret: a key for each purpose.
pub(crate) struct Keys {
    pub(crate) proof: [u8; 32],
    pub(crate) binding: [u8; 32],
}

impl Secret {
    /// Reads a secret: all bytes of the file but one newline at its end, 16 to 4,096 of them.
    ///
    /// # Errors
    /// [`LinkError::Config`] if the file cannot be read, or holds too little or too much.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, LinkError> {
        let path = path.into();
        let content = files::read(&path, "the cluster's secret")?;
        let keys = ArcSwap::from_pointee(Keys::of(&content, &path)?);
        Ok(Self {
            path,
            keys,
            seen: Mutex::new(blake3::hash(&content)),
        })
    }

    /// See [`crate::Credentials::refresh`].
    pub(crate) fn refresh(&self) -> Result<bool, LinkError> {
        let content = files::read(&self.path, "the cluster's secret")?;
        let hash = blake3::hash(&content);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == hash {
            return Ok(false);
        }
        *seen = hash;
        self.keys.store(Arc::new(Keys::of(&content, &self.path)?));
        Ok(true)
    }

    pub(crate) fn keys(&self) -> Arc<Keys> {
        self.keys.load_full()
    }
}

/// Shows where it is from, never what it is.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Keys {
    fn of(content: &[u8], path: &std::path::Path) -> Result<Self, LinkError> {
        let secret = content
            .strip_suffix(b"\r\n")
            .or_else(|| content.strip_suffix(b"\n"))
            .unwrap_or(content);
        let path = path.display();
        if secret.len() < BYTES_MIN {
            return Err(LinkError::Config(format!(
                "the cluster's secret in {path} has {} bytes, and must have {BYTES_MIN} or more: \
                 make one with `openssl rand -hex 32` and give the same to all members",
                secret.len(),
            )));
        }
        if secret.len() > BYTES_MAX {
            return Err(LinkError::Config(format!(
                "the cluster's secret in {path} has more than {BYTES_MAX} bytes: is it the right file?",
            )));
        }
        Ok(Self {
            proof: blake3::derive_key("gannet link proof 1", secret),
            binding: blake3::derive_key("gannet link binding 1", secret),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(content: &[u8]) -> Result<Secret, LinkError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, content).unwrap();
        Secret::open(path)
    }

    #[test]
    fn one_newline_is_not_part_of_it() {
        let plain = of(b"0123456789abcdef").unwrap();
        for same in [&b"0123456789abcdef\n"[..], b"0123456789abcdef\r\n"] {
            assert_eq!(of(same).unwrap().keys().proof, plain.keys().proof);
        }
        let other = of(b"0123456789abcdef\n\n").unwrap();
        assert_ne!(other.keys().proof, plain.keys().proof);
        assert_ne!(plain.keys().proof, plain.keys().binding);
    }

    #[test]
    fn lengths_are_bounded_and_nothing_is_shown() {
        let error = of(b"0123456789abcde\n").unwrap_err().to_string();
        assert!(
            error.contains("15 bytes") && error.contains("openssl"),
            "{error}"
        );
        assert!(!error.contains("0123456789"), "{error}");
        assert!(of(&[b'x'; BYTES_MAX]).is_ok());
        for longer in [BYTES_MAX + 1, 1 << 20] {
            let error = of(&vec![b'x'; longer]).unwrap_err().to_string();
            assert!(error.contains("more than"), "{error}");
        }
        let shown = format!("{:?}", of(b"0123456789abcdef").unwrap());
        assert!(!shown.contains("0123456789"), "{shown}");
        assert!(matches!(
            Secret::open("/nowhere/at/all"),
            Err(LinkError::Config(text)) if text.contains("/nowhere/at/all")
        ));
    }

    #[test]
    fn is_read_again_when_it_changed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, "0123456789abcdef").unwrap();
        let secret = Secret::open(&path).unwrap();
        let first = secret.keys().proof;
        assert_eq!(secret.refresh(), Ok(false));
        std::fs::write(&path, "short").unwrap();
        assert!(secret.refresh().is_err());
        assert_eq!(secret.keys().proof, first, "the old one stays");
        std::fs::write(&path, "fedcba9876543210").unwrap();
        assert_eq!(secret.refresh(), Ok(true));
        assert_ne!(secret.keys().proof, first);
    }
}
