//! Listings: passed through to the origin once for all who ask at the same time, and kept for a
//! moment, so that a thousand jobs that begin with the same `ls` cost the origin one.
//!
//! Short on purpose: a listing says what is there, and a new object should show soon.

use crate::{
    key::CacheKey,
    ttl::TtlMap,
    types::{BucketEntry, ListPage, ListQuery, ObjectError},
};
use std::{sync::Arc, time::Duration};

/// How long listings are believed, and how many bytes of them are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListingConfig {
    /// \[5 s\]
    pub(crate) ttl: Duration,
    /// Pages, and buckets known to be there or not \[16 Ki\].
    pub(crate) entries_max: usize,
    /// Bytes of pages \[32 MiB\].
    pub(crate) bytes_max: usize,
}

impl Default for ListingConfig {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(5),
            entries_max: 16 << 10,
            bytes_max: 32 << 20,
        }
    }
}

/// Pages of listings, the list of buckets, and which buckets are there.
#[derive(Debug)]
pub(crate) struct Listings {
    pages: TtlMap<Arc<ListQuery>, Arc<ListPage>>,
    buckets: TtlMap<(), Arc<[BucketEntry]>>,
    bucket: TtlMap<Arc<str>, Result<(), ObjectError>>,
    ttl: Duration,
}

impl Listings {
    pub(crate) fn new(config: ListingConfig) -> Self {
        Self {
            pages: TtlMap::new(config.entries_max, config.bytes_max),
            buckets: TtlMap::new(1, usize::MAX),
            bucket: TtlMap::new(config.entries_max, usize::MAX),
            ttl: config.ttl,
        }
    }

    pub(crate) fn page(&self, query: &ListQuery) -> Option<Arc<ListPage>> {
        self.pages.get(query).map(|found| found.value)
    }

    /// Keeps a page for so long, as another member says that has it from the origin, and no longer than
    /// we believe listings; the same below.
    pub(crate) fn keep_page(&self, query: &Arc<ListQuery>, page: &Arc<ListPage>, fresh: Duration) {
        let (weight, ttl) = (weight(query, page), self.ttl.min(fresh));
        self.pages
            .insert(Arc::clone(query), Arc::clone(page), weight, ttl);
    }

    pub(crate) fn buckets(&self) -> Option<Arc<[BucketEntry]>> {
        self.buckets.get(&()).map(|found| found.value)
    }

    pub(crate) fn keep_buckets(&self, buckets: &Arc<[BucketEntry]>, fresh: Duration) {
        let ttl = self.ttl.min(fresh);
        self.buckets.insert((), Arc::clone(buckets), 1, ttl);
    }

    pub(crate) fn bucket(&self, bucket: &str) -> Option<Result<(), ObjectError>> {
        self.bucket.get(bucket).map(|found| found.value)
    }

    /// Keeps whether a bucket is there, unless the answer says nothing of it.
    pub(crate) fn keep_bucket(
        &self,
        bucket: &Arc<str>,
        answer: &Result<(), ObjectError>,
        fresh: Duration,
    ) {
        if matches!(answer, Ok(()) | Err(ObjectError::NoSuchBucket)) {
            let ttl = self.ttl.min(fresh);
            self.bucket
                .insert(Arc::clone(bucket), answer.clone(), 1, ttl);
        }
    }

    /// For how long a page, the buckets, or a bucket will still be believed.
    pub(crate) fn fresh_for(&self, key: &CacheKey) -> Option<Duration> {
        match key {
            CacheKey::List(query) => self.pages.left(query),
            CacheKey::Buckets => self.buckets.left(&()),
            CacheKey::Bucket(bucket) => self.bucket.left(bucket),
            CacheKey::Head(_) | CacheKey::Chunk(_) => None,
        }
    }

    /// Drops everything about a bucket, or about all.
    pub(crate) fn purge(&self, bucket: Option<&str>) -> usize {
        let meant = |name: &str| bucket.is_none_or(|bucket| name == bucket);
        self.buckets.remove(&());
        self.bucket.drain(|name| meant(name));
        self.pages.drain(|query| meant(&query.bucket)).len()
    }
}

fn weight(query: &ListQuery, page: &ListPage) -> usize {
    let objects = page.objects.iter().map(|object| {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        object.key.len() + text(&object.etag) + text(&object.storage_class) + 112
    });
    let prefixes = page.prefixes.iter().map(|prefix| prefix.len() + 24);
    256 + query.prefix.len() + objects.sum::<usize>() + prefixes.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(bucket: &str, prefix: &str) -> Arc<ListQuery> {
        Arc::new(ListQuery {
            bucket: bucket.into(),
            prefix: prefix.into(),
            delimiter: None,
            start_after: None,
            token: None,
            keys_max: 1000,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn pages_last_a_moment() {
        let listings = Listings::new(ListingConfig::default());
        listings.keep_page(&query("b", "x"), &Arc::default(), Duration::MAX);
        assert!(listings.page(&query("b", "x")).is_some());
        assert!(listings.page(&query("b", "y")).is_none());
        tokio::time::advance(Duration::from_secs(6)).await;
        assert!(listings.page(&query("b", "x")).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn buckets_are_remembered_only_when_that_is_sure() {
        let listings = Listings::new(ListingConfig::default());
        listings.keep_bucket(&"a".into(), &Ok(()), Duration::MAX);
        listings.keep_bucket(&"b".into(), &Err(ObjectError::NoSuchBucket), Duration::MAX);
        listings.keep_bucket(&"c".into(), &Err(ObjectError::AccessDenied), Duration::MAX);
        assert!(matches!(listings.bucket("a"), Some(Ok(()))));
        assert!(matches!(
            listings.bucket("b"),
            Some(Err(ObjectError::NoSuchBucket))
        ));
        assert!(listings.bucket("c").is_none());
        listings.keep_page(&query("a", ""), &Arc::default(), Duration::MAX);
        listings.keep_page(&query("b", ""), &Arc::default(), Duration::MAX);
        assert_eq!(listings.purge(Some("a")), 1);
        assert!(listings.bucket("a").is_none() && listings.bucket("b").is_some());
        assert_eq!(listings.purge(None), 1);
    }
}
