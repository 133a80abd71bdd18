//! What is known of objects: metadata for a while, and for a shorter one that there is nothing to know.
//!
//! An entry is an answer of the origin, good or bad, kept until its time is over, until a purge, or
//! until a read finds that the origin has another version by now. Bounded in number and bytes. Looking
//! objects up once for all who ask is the fetcher's part, not this module's.

use crate::{
    ttl::{Found, TtlMap},
    types::{ObjectError, ObjectMeta, ObjectName},
};
use std::{sync::Arc, time::Duration};

/// What the origin said of an object.
pub(crate) type Known = Result<Arc<ObjectMeta>, ObjectError>;

/// How long answers are believed, and how many are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MetaConfig {
    /// Metadata \[5 min\].
    pub(crate) ttl: Duration,
    /// Not found, unsupported, no etag \[60 s\].
    pub(crate) negative_ttl: Duration,
    /// Entries \[1 Mi\].
    pub(crate) entries_max: usize,
    /// Bytes of names and headers \[64 MiB\].
    pub(crate) bytes_max: usize,
}

impl Default for MetaConfig {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(300),
            negative_ttl: Duration::from_secs(60),
            entries_max: 1 << 20,
            bytes_max: 64 << 20,
        }
    }
}

/// The metadata cache.
#[derive(Debug)]
pub(crate) struct MetaCache {
    map: TtlMap<ObjectName, Known>,
    config: MetaConfig,
}

impl MetaCache {
    pub(crate) fn new(config: MetaConfig) -> Self {
        Self {
            map: TtlMap::new(config.entries_max, config.bytes_max),
            config,
        }
    }

    /// What is known. `ageing` says, once for each entry, that it is time to ask again ahead of its
    /// end; an absent object is not refreshed ahead.
    pub(crate) fn get(&self, name: &ObjectName) -> Option<Found<Known>> {
        let mut found = self.map.get(name)?;
        found.ageing &= found.value.is_ok();
        Some(found)
    }

    /// What has come to be known of late; not what is due to be asked again.
    pub(crate) fn young(&self, name: &ObjectName) -> Option<Known> {
        self.map.young(name)
    }

    /// Keeps an answer of the origin, unless it is of a kind that says nothing of the object: for so
    /// long, as another member says that has it from there, and no longer than we believe answers.
    pub(crate) fn insert(&self, name: &ObjectName, known: &Known, fresh: Duration) {
        if let Some(ttl) = self.ttl(known) {
            let weight = weight(name, known);
            self.map
                .insert(name.clone(), known.clone(), weight, ttl.min(fresh));
        }
    }

    /// For how long an answer of the origin is believed; `None` if it says nothing of the object.
    fn ttl(&self, known: &Known) -> Option<Duration> {
        match known {
            Ok(_) => Some(self.config.ttl),
            Err(error) if is_lasting(error) => Some(self.config.negative_ttl),
            Err(_) => None,
        }
    }

    /// For how long what is known will still be believed.
    pub(crate) fn fresh_for(&self, name: &ObjectName) -> Option<Duration> {
        self.map.left(name)
    }

    /// Drops this version, if it is what is known: the origin has another by now. Metadata that came
    /// since stays.
    pub(crate) fn drop_version(&self, name: &ObjectName, etag: &str) -> bool {
        self.map.remove_if(name, |known| {
            known.as_ref().is_ok_and(|meta| &*meta.etag == etag)
        })
    }

    /// Drops what is known of all objects under a prefix, and returns it.
    pub(crate) fn purge(&self, bucket: Option<&str>, prefix: &str) -> Vec<(ObjectName, Known)> {
        self.map.drain(|name| {
            bucket.is_none_or(|bucket| &*name.bucket == bucket) && name.key.starts_with(prefix)
        })
    }

    /// Entries held.
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }
}

/// Whether an error says something of the object that will hold for a while, rather than of the way
/// to it.
pub(crate) fn is_lasting(error: &ObjectError) -> bool {
    matches!(
        error,
        ObjectError::NoSuchKey
            | ObjectError::NoSuchBucket
            | ObjectError::MissingEtag
            | ObjectError::Unsupported(_)
    )
}

fn weight(name: &ObjectName, known: &Known) -> usize {
    const ENTRY: usize = 256;
    let headers = known.as_ref().map_or(0, |meta| {
        let headers = meta.headers.iter();
        meta.etag.len()
            + headers
                .map(|(k, v)| k.as_str().len() + v.len() + 64)
                .sum::<usize>()
    });
    ENTRY + 2 * (name.bucket.len() + name.key.len()) + headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    fn name(key: &str) -> ObjectName {
        ObjectName {
            bucket: "b".into(),
            key: key.into(),
        }
    }

    fn meta(etag: &str) -> Known {
        Ok(Arc::new(ObjectMeta {
            size: 1,
            etag: etag.into(),
            modified: SystemTime::UNIX_EPOCH,
            headers: Arc::default(),
        }))
    }

    fn etag(cache: &MetaCache, key: &str) -> Option<String> {
        let known = cache.get(&name(key))?.value;
        Some(known.map_or_else(|e| e.to_string(), |m| m.etag.to_string()))
    }

    #[tokio::test(start_paused = true)]
    async fn good_and_bad_answers_last_as_long_as_they_should() {
        let cache = MetaCache::new(MetaConfig::default());
        cache.insert(&name("here"), &meta("\"1\""), Duration::MAX);
        cache.insert(&name("absent"), &Err(ObjectError::NoSuchKey), Duration::MAX);
        cache.insert(
            &name("blob"),
            &Err(ObjectError::Unsupported("page blob".into())),
            Duration::MAX,
        );
        cache.insert(&name("bare"), &Err(ObjectError::MissingEtag), Duration::MAX);
        for passing in [
            ObjectError::Unavailable("x".into()),
            ObjectError::SlowDown("x".into()),
            ObjectError::AccessDenied,
        ] {
            cache.insert(&name("passing"), &Err(passing), Duration::MAX);
            assert!(cache.get(&name("passing")).is_none());
        }
        assert_eq!(cache.len(), 4);
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(etag(&cache, "absent").as_deref(), Some("no such key"));
        assert!(etag(&cache, "blob").is_some() && etag(&cache, "bare").is_some());
        assert!(!cache.get(&name("absent")).is_some_and(|found| found.ageing));
        tokio::time::advance(Duration::from_secs(2)).await;
        for gone in ["absent", "blob", "bare"] {
            assert!(cache.get(&name(gone)).is_none(), "{gone}");
        }
        assert_eq!(etag(&cache, "here").as_deref(), Some("\"1\""));
        tokio::time::advance(Duration::from_secs(240)).await;
        assert!(cache.get(&name("here")).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_stale_version_is_dropped() {
        let cache = MetaCache::new(MetaConfig::default());
        cache.insert(&name("k"), &meta("\"new\""), Duration::MAX);
        assert!(!cache.drop_version(&name("k"), "\"old\""));
        assert_eq!(etag(&cache, "k").as_deref(), Some("\"new\""));
        assert!(cache.drop_version(&name("k"), "\"new\""));
        assert!(cache.get(&name("k")).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn purges_by_bucket_and_prefix() {
        let cache = MetaCache::new(MetaConfig::default());
        for key in ["a/1", "a/2", "b/1"] {
            cache.insert(&name(key), &meta("\"x\""), Duration::MAX);
        }
        assert_eq!(cache.purge(Some("other"), "").len(), 0);
        assert_eq!(cache.purge(Some("b"), "a/").len(), 2);
        assert_eq!(cache.purge(None, "").len(), 1);
    }
}
