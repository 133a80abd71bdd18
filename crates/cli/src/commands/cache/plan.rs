//! From settings to the configuration of a cache: what is a path becomes a file that was read, what
//! is a URL an origin, what is not set a default that depends on the machine.

use super::cluster;
use crate::{
    exit::{Error, Result},
    settings::Settings,
};
use gannet_cache::{
    CacheConfig, DiskTier, ReadConfig,
    edge::{Access, AuthStore, EdgeConfig, TlsConfig},
    origin::OriginSpec,
};
use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::Arc,
};
use url::Url;

/// Longer tokens are not ours.
const TOKEN_BYTES_MAX: u64 = 4096;

/// The cache that these settings describe.
pub(super) fn config(settings: &Settings) -> Result<CacheConfig> {
    let disk = disk(settings)?;
    let origin = origin(settings, disk.as_ref().map(|disk| disk.dir.as_path()))?;
    let mirrors = settings
        .origin_mirror
        .value
        .iter()
        .map(|url| mirror(settings, url));
    Ok(CacheConfig {
        origin,
        mirrors: mirrors.collect(),
        listen: settings.listen.value,
        edge: edge(settings)?,
        ops_listen: Some(settings.ops_listen.value),
        ops_token: settings
            .ops_token_file
            .value
            .as_deref()
            .map(token)
            .transpose()?,
        disk,
        store: settings.store.value.as_deref().map(|url| OriginSpec {
            ca: settings.origin_ca.value.clone(),
            ..with_endpoint(url)
        }),
        cluster: cluster::config(settings)?,
        read: read(settings),
        traces: settings.traces(),
    })
}

fn read(settings: &Settings) -> ReadConfig {
    ReadConfig {
        chunk_bytes: settings.chunk_size.value.0,
        memory_bytes_max: settings.memory_max.value.0,
        read_ahead: settings.read_ahead.value,
        hedge_after: settings.hedge_after.value.0,
        origin_concurrency_max: settings.origin_concurrency.value,
        queue_timeout: settings.queue_timeout.value.0,
        meta_ttl: settings.meta_ttl.value.0,
        negative_ttl: settings.negative_ttl.value.0,
        listing_ttl: settings.list_ttl.value.0,
        ..ReadConfig::default()
    }
}

fn edge(settings: &Settings) -> Result<EdgeConfig> {
    let access = match &settings.auth.value {
        Some(path) => {
            let store =
                AuthStore::open(path).map_err(|error| Error::usage(error).context("--auth"))?;
            Access::File(Arc::new(store))
        }
        None => Access::Anonymous,
    };
    let mut edge = EdgeConfig::new(access);
    edge.domains = settings.domain.value.iter().cloned().collect();
    edge.limits.notice = settings.notice.value.0;
    edge.limits.drain_max = settings.drain.value.0;
    if let (Some(cert), Some(key)) = (&settings.tls_cert.value, &settings.tls_key.value) {
        edge.tls = Some(TlsConfig {
            cert: cert.clone(),
            key: key.clone(),
            client_ca: settings.tls_client_ca.value.clone(),
        });
    }
    Ok(edge)
}

fn origin(settings: &Settings, data: Option<&Path>) -> Result<OriginSpec> {
    let mut spec = match &settings.origin.value {
        Some(url) => with_endpoint(url),
        None => {
            let here = env::current_dir()
                .map_err(|error| Error::from(error).context("cannot tell the current directory"))?;
            let url = Url::from_directory_path(&here)
                .map_err(|()| Error::usage("the current directory has no absolute path"))?;
            OriginSpec::new(url)
        }
    };
    if let Some(endpoint) = &settings.origin_endpoint.value {
        spec.endpoint = Some(endpoint.clone());
    }
    spec.region.clone_from(&settings.origin_region.value);
    spec.anonymous = settings.origin_anonymous.value;
    spec.allow_weak = settings.origin_allow_weak.value;
    // A directory has no use for it; that is said, unless a mirror or a store has.
    let alone = settings.origin_mirror.value.is_empty() && settings.store.value.is_none();
    if alone || directory(&spec.url).is_none() {
        spec.ca.clone_from(&settings.origin_ca.value);
    }
    if let (Some(data), Some(root)) = (data, directory(&spec.url)) {
        if absolute(&root).starts_with(absolute(data)) {
            let text = format!(
                "--data {} holds the origin {}: nothing would be left to serve",
                data.display(),
                root.display()
            );
            return Err(Error::usage(text).remedy("another directory for --data"));
        }
        spec.exclude = vec![absolute(data)];
    }
    Ok(spec)
}

/// A mirror is read as the origin is, as far as the options go with its kind.
fn mirror(settings: &Settings, url: &str) -> OriginSpec {
    let mut spec = with_endpoint(url);
    spec.anonymous = settings.origin_anonymous.value;
    if directory(url).is_none() {
        spec.ca.clone_from(&settings.origin_ca.value);
    }
    if url.starts_with("s3://") {
        spec.region.clone_from(&settings.origin_region.value);
    }
    if url.starts_with("http") {
        spec.allow_weak = settings.origin_allow_weak.value;
    }
    spec
}

/// `s3://bucket/prefix?endpoint=http://host:9000`: mirrors and stores have no flag for it.
fn with_endpoint(url: &str) -> OriginSpec {
    match url.split_once("?endpoint=") {
        Some((before, endpoint)) if !url.starts_with("http") => {
            let mut spec = OriginSpec::new(before);
            spec.endpoint = Some(endpoint.to_owned());
            spec
        }
        _ => OriginSpec::new(url),
    }
}

/// The directory of a `file://` URL.
pub(super) fn directory(url: &str) -> Option<PathBuf> {
    let url = Url::parse(url).ok()?;
    (url.scheme() == "file").then(|| url.to_file_path().ok())?
}

fn disk(settings: &Settings) -> Result<Option<DiskTier>> {
    let bytes_max = settings.disk_max.value.0;
    if bytes_max == 0 {
        return Ok(None);
    }
    let dir = match &settings.data.value {
        Some(dir) => dir.clone(),
        None => default_data(|name| env::var_os(name).filter(|text| !text.is_empty())).ok_or_else(
            || {
                Error::usage(
                    "there is no directory for the cache: neither $CACHE_DIRECTORY, \
                          $XDG_CACHE_HOME nor $HOME is set",
                )
                .remedy("--data DIR, or --disk-max 0 for none")
            },
        )?,
    };
    Ok(Some(DiskTier { dir, bytes_max }))
}

/// Where caches go on this machine.
fn default_data(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<PathBuf> {
    // systemd joins several with colons.
    let systemd = variable("CACHE_DIRECTORY").and_then(|paths| env::split_paths(&paths).next());
    systemd
        .or_else(|| Some(PathBuf::from(variable("XDG_CACHE_HOME")?).join("gannet")))
        .or_else(|| {
            Some(
                PathBuf::from(variable("HOME")?)
                    .join(".cache")
                    .join("gannet"),
            )
        })
}

/// The path without links, as far as it exists; whether or not it does.
fn absolute(path: &Path) -> PathBuf {
    path.canonicalize()
        .or_else(|_| std::path::absolute(path))
        .unwrap_or_else(|_| path.to_path_buf())
}

fn token(path: &Path) -> Result<String> {
    let say = |why: &dyn std::fmt::Display| {
        Error::usage(format!("--ops-token-file: {}: {why}", path.display()))
    };
    let meta = fs::metadata(path).map_err(|error| say(&error))?;
    if meta.len() > TOKEN_BYTES_MAX {
        return Err(say(&"too large to be a token"));
    }
    let text = fs::read_to_string(path).map_err(|error| say(&error))?;
    let token = text.trim();
    if token.len() < 16 {
        return Err(say(&"shorter than 16 characters: it could be guessed"));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{KEYS, Layers, Texts};

    fn settings(flags: &[(&'static str, &str)]) -> Settings {
        let texts: Texts = flags
            .iter()
            .map(|(name, text)| (*name, vec![(*text).to_owned()]))
            .collect();
        Settings::resolve(&Layers::gather(KEYS, texts, None, []).unwrap()).unwrap()
    }

    #[test]
    fn the_defaults_are_the_librarys() {
        let read = read(&settings(&[]));
        assert_eq!(format!("{read:?}"), format!("{:?}", ReadConfig::default()));
        let edge = edge(&settings(&[])).unwrap();
        let want = EdgeConfig::new(Access::Anonymous);
        assert_eq!(format!("{edge:?}"), format!("{want:?}"));
    }

    #[test]
    fn the_data_directory_depends_on_the_machine() {
        let check = |variables: &[(&str, &str)], want: Option<&str>| {
            let look = |name: &str| {
                variables
                    .iter()
                    .find(|(set, _)| *set == name)
                    .map(|(_, text)| (*text).into())
            };
            assert_eq!(default_data(look), want.map(PathBuf::from), "{variables:?}");
        };
        check(&[], None);
        check(&[("HOME", "/h")], Some("/h/.cache/gannet"));
        check(
            &[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")],
            Some("/x/gannet"),
        );
        check(&[("HOME", "/h"), ("CACHE_DIRECTORY", "/c:/d")], Some("/c"));
    }

    #[test]
    fn the_cache_is_not_served_by_itself() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let url = format!("file://{}", root.display());
        let data = root.join("data");
        let plan = |data: &Path| {
            config(&settings(&[
                ("origin", &url),
                ("data", data.to_str().unwrap()),
            ]))
        };
        assert_eq!(plan(&data).unwrap().origin.exclude, [data]);
        assert!(
            plan(&root)
                .unwrap_err()
                .to_string()
                .contains("nothing would be left")
        );
        assert!(plan(root.parent().unwrap()).is_err());
    }

    #[test]
    fn endpoints_of_mirrors_and_stores_are_in_their_urls() {
        let check = |url: &str, want: (&str, Option<&str>)| {
            let spec = with_endpoint(url);
            assert_eq!((spec.url.as_str(), spec.endpoint.as_deref()), want);
        };
        check("s3://b/p", ("s3://b/p", None));
        check(
            "s3://b/p?endpoint=http://h:1",
            ("s3://b/p", Some("http://h:1")),
        );
        check("http://h/p?endpoint=x", ("http://h/p?endpoint=x", None));
    }

    #[test]
    fn tokens_are_read_or_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let check = |text: &str, want: Option<&str>| {
            fs::write(&path, text).unwrap();
            assert_eq!(token(&path).ok().as_deref(), want, "{text:?}");
        };
        check("0123456789abcdef\n", Some("0123456789abcdef"));
        check("short\n", None);
        check(&"x".repeat(5000), None);
    }
}
