//! From flags to what asks: the network, the keys, the store, the service.

use super::flags::Flags;
use crate::{
    exit::{Error, Exit, Result},
    output::note,
};
use gannet_matrix::{
    Builder, Ceilings, GivenKeys, Matrix,
    net::{AddressPolicy, Federation, Homeserver, KeyRing, KeyRingConfig, NetConfig, Roots, Sign},
    verify::{
        keyset::{KeySet, VerifyKey},
        sign::SigningKey,
    },
};
use gannet_store::{BlobStore as _, DiskConfig, DiskStore, StoreError};
use ruma_common::ServerName;
use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use zeroize::Zeroizing;

/// The largest file of keys or certificates that is read.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// What is being stored at the end is given this long.
const GRACE: Duration = Duration::from_secs(5);

/// What asks.
pub(super) struct Service {
    pub(super) matrix: Matrix,
    store: Option<Arc<DiskStore>>,
}

impl Service {
    /// Starts it in the name of a homeserver.
    pub(super) async fn start(flags: &Flags) -> Result<Self> {
        let (Some(name), Some(key)) = (&flags.server_name, &flags.signing_key) else {
            return Err(Error::usage("in whose name? Servers answer other homeservers only")
                .remedy(
                    "--server-name NAME --signing-key FILE: those of your homeserver; Synapse's key \
                     is signing_key_path in homeserver.yaml",
                ));
        };
        let key = signing_key(key)?;
        let own = own_keys(name, &key);
        let sign = Homeserver::new(name.clone(), key);
        let federation = federation(flags, Some(Arc::new(sign)))?;
        let ring = ring(flags, federation.clone())?;
        let keys = GivenKeys::new(own, Arc::new(ring));
        let store = match &flags.store {
            Some(dir) => Some(Arc::new(open_store(dir).await?)),
            None => None,
        };
        let builder = Builder::new(
            name.clone(),
            Arc::new(federation),
            Arc::new(keys),
            Ceilings::default(),
        );
        let mut builder = builder.deny(flags.deny.iter().cloned());
        if let Some(store) = &store {
            builder = builder.store(store.clone());
        }
        let matrix = builder.build().map_err(|error| Error::failure(&error))?;
        Ok(Self { matrix, store })
    }

    /// Ends it: what was fetched is in the store afterwards.
    pub(super) async fn end(self) {
        self.matrix.shutdown(GRACE).await;
        if let Some(store) = self.store {
            store.close().await;
        }
    }
}

/// What the homeserver itself signs with: its name need not lead to it from here.
fn own_keys(name: &ServerName, key: &SigningKey) -> KeySet {
    let mut own = KeySet::new();
    let public = VerifyKey {
        bytes: key.public_key(),
        valid_until_ms: u64::MAX,
    };
    own.insert_key(name, key.id(), public);
    own
}

/// The network, with or without a name to sign with.
pub(super) fn federation(flags: &Flags, sign: Option<Arc<dyn Sign>>) -> Result<Federation> {
    let mut config = NetConfig::default();
    config.policy = AddressPolicy::allowing(flags.allow_private.iter().copied());
    config.overrides.extend(flags.resolve.iter().cloned());
    config.name_server = flags.name_server;
    if let Some(path) = &flags.ca {
        let context = || format!("--ca {}", path.display());
        let pem = read(path).map_err(|error| error.context(context()))?;
        config.roots =
            Roots::only_pem(&pem).map_err(|error| Error::usage(error).context(context()))?;
    }
    Federation::new(config, sign).map_err(Error::usage)
}

/// Whose keys are whose.
pub(super) fn ring(flags: &Flags, federation: Federation) -> Result<KeyRing> {
    let mut config = KeyRingConfig::default();
    let kept = flags.store.as_ref().map(|store| store.join("keys"));
    config.dir = flags.keys.clone().or(kept);
    config.notaries.clone_from(&flags.notary);
    KeyRing::open(federation, config).map_err(|error| {
        Error::failure(&error).remedy("--keys DIR, a directory that can be written to")
    })
}

async fn open_store(dir: &Path) -> Result<DiskStore> {
    let failed = |error: Error| error.context(format!("--store {}", dir.display()));
    fs::create_dir_all(dir).map_err(|error| failed(error.into()))?;
    let mut config = DiskConfig::new(dir.join("events"));
    // Commands are short: what is read is verified as it is read.
    config.scrub_rate = 0;
    DiskStore::open(config).await.map_err(|error| {
        let locked = matches!(error, StoreError::Locked { .. });
        let error = failed(Error::failure(&error));
        match locked {
            true => error.remedy(
                "another --store, or wait for the other process; several share one with gannet matrix serve",
            ),
            false => error,
        }
    })
}

/// The first key of a file in Synapse's format.
fn signing_key(path: &Path) -> Result<SigningKey> {
    let failed = |error: Error| error.context(format!("--signing-key {}", path.display()));
    let secret = secret(path, "speak for your homeserver").map_err(failed)?;
    // The parser's errors say nothing of what is in the file; that of UTF-8 neither.
    let text = std::str::from_utf8(&secret).map_err(|_| failed(not_a_key("it is no text")))?;
    let keys = SigningKey::parse_file(text).map_err(|error| failed(not_a_key(error)))?;
    let first = keys.into_iter().next();
    first.ok_or_else(|| failed(not_a_key("there is no key in it")))
}

/// A file that others should not be able to read, for they `can` do something with it then.
pub(super) fn secret(path: &Path, can: &str) -> Result<Zeroizing<Vec<u8>>> {
    let secret = Zeroizing::new(read(path)?);
    let mode = fs::metadata(path).map(|meta| meta.permissions().mode());
    if mode.is_ok_and(|mode| mode & 0o077 != 0) {
        note(&format!(
            "warning: {} can be read by others, who can {can} then: chmod 600 it",
            path.display()
        ));
    }
    Ok(secret)
}

fn not_a_key(why: impl std::fmt::Display) -> Error {
    Error::usage(why).remedy("a file as Synapse makes it: ed25519 a_abcd, and the seed in base64")
}

/// A file as a whole, read into memory that is not moved while it grows.
fn read(path: &Path) -> Result<Vec<u8>> {
    let no_file = |error: std::io::Error| {
        let missing = error.kind() == std::io::ErrorKind::NotFound;
        Error::new(if missing { Exit::Usage } else { Exit::Failure }, error)
    };
    let file = File::open(path).map_err(no_file)?;
    let len = file.metadata().map_err(no_file)?.len();
    if len > FILE_BYTES_MAX {
        return Err(Error::usage(format!("{len} bytes are too many")));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0) + 1);
    let mut limited = file.take(FILE_BYTES_MAX);
    limited.read_to_end(&mut bytes).map_err(no_file)?;
    Ok(bytes)
}

/// `FILE.part`, in which a result grows.
pub(super) fn part_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    name.into()
}
