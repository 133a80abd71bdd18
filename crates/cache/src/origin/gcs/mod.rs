//! `gs://bucket/prefix`: Google Cloud Storage, by its JSON API. Without a bucket, all of the
//! project's are.
//!
//! An object's generation is its identity and its etag here: it is unique to each version of a name,
//! and reads demand it (`ifGenerationMatch`). The generation that an answer names is compared; of a
//! server that names none (an emulator), the metadata is asked for once more after the answer has
//! begun, so that the version before and after is known to be the same.
//!
//! Tokens are sent to `https://` endpoints only, whichever the operator names; to an emulator on
//! plain HTTP, none.

mod answers;

use super::{
    BoxFuture, Origin, OriginError, OriginStream, connector, encode,
    scope::Scope,
    spec::{OriginConfigError, OriginSpec, parse_endpoint},
    token::{from_token, token},
    validators,
    wire::{self, About, Answer, Base},
    xml,
};
use crate::types::{BucketEntry, ListPage, ListQuery, ObjectMeta, ObjectName};
use answers::{Bucket, Buckets, Listing, Object, generation_of, start_offset, timestamp};
use gannet::http::Client;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use object_store::gcp::{GcpCredentialProvider, GoogleConfigKey};
use serde::Deserialize;
use std::{ops::Range, sync::Arc};

const GENERATION: HeaderName = HeaderName::from_static("x-goog-generation");
/// Buckets that are listed, in pages of a thousand.
const BUCKETS_MAX: usize = 10_000;
/// Pages without an entry that one listing may pass over.
const PAGES_MAX: usize = 20;
/// The fields of a listing that are of use.
const LIST_FIELDS: &str =
    "kind,prefixes,nextPageToken,items(name,size,generation,updated,storageClass)";

/// A project, a bucket of it, or a prefix of that.
#[derive(Debug)]
pub(crate) struct Gcs {
    id: String,
    client: Client,
    base: Base,
    credentials: Option<GcpCredentialProvider>,
    project: Option<String>,
    scope: Scope,
}

impl Gcs {
    pub(crate) fn open(
        spec: &OriginSpec,
        bucket: Option<String>,
        prefix: String,
    ) -> Result<Self, OriginConfigError> {
        let env = spec.environment();
        if let Some(bucket) = &bucket
            && !is_bucket(bucket)
        {
            return Err(OriginConfigError::Url {
                url: spec.url.clone(),
                reason: format!("{bucket:?} is no bucket's name"),
            });
        }
        let emulator = env.value("STORAGE_EMULATOR_HOST").map(|host| {
            if host.contains("://") {
                host.to_owned()
            } else {
                format!("http://{host}")
            }
        });
        let endpoint = spec.endpoint.clone().or(emulator);
        let own = endpoint.is_some();
        let base = Base::of(&parse_endpoint(
            endpoint
                .as_deref()
                .unwrap_or("https://storage.googleapis.com"),
        )?);
        let client = spec.http_client()?;
        let builder = connector::gcs_builder(&env, &client).with_bucket_name("none");
        let skip = builder.get_config_value(&GoogleConfigKey::SkipSignature);
        // A bearer token is not sent in the clear; emulators want none.
        let credentials = if spec.anonymous || !base.is_tls() || skip.as_deref() == Some("true") {
            None
        } else {
            let store = builder
                .build()
                .map_err(|error| OriginConfigError::Credentials(error.to_string()))?;
            Some(Arc::clone(store.credentials()))
        };
        let service = if own {
            format!("gs+{base}")
        } else {
            "gs:/".to_owned()
        };
        let scope = Scope::new(bucket, prefix, is_bucket);
        let project = ["GOOGLE_CLOUD_PROJECT", "GOOGLE_PROJECT", "GCLOUD_PROJECT"]
            .iter()
            .find_map(|name| env.value(name))
            .map(str::to_owned);
        Ok(Self {
            id: scope.id(service),
            client,
            base,
            credentials,
            project,
            scope,
        })
    }

    /// The object's path: its name is one segment, slashes encoded.
    fn path(&self, name: &ObjectName) -> Result<String, OriginError> {
        let key = self.scope.key(name)?;
        if key == "." || key == ".." {
            return Err(OriginError::NoSuchKey);
        }
        let mut path = format!("/storage/v1/b/{}/o/", name.bucket);
        encode::push_segment(&mut path, &key);
        Ok(path)
    }

    async fn send(
        &self,
        path: &str,
        query: &[(&str, &str)],
        mut headers: HeaderMap,
    ) -> Result<Answer, OriginError> {
        if let Some(credentials) = &self.credentials {
            let credential = credentials.get_credential().await.map_err(no_credentials)?;
            if !credential.bearer.is_empty() {
                let bearer = HeaderValue::from_str(&format!("Bearer {}", credential.bearer));
                let mut bearer = bearer.map_err(|_| {
                    OriginError::Local(
                        "the bearer token holds characters that no header can".into(),
                    )
                })?;
                bearer.set_sensitive(true);
                headers.insert(header::AUTHORIZATION, bearer);
            }
        }
        let mut uri = format!("{}{path}", self.base);
        if !query.is_empty() {
            uri.push('?');
            uri.push_str(&encode::query(query));
        }
        wire::send(&self.client, Method::GET, &uri, headers).await
    }

    /// Sends a request whose answer is JSON.
    async fn ask<T: for<'a> Deserialize<'a>>(
        &self,
        path: &str,
        query: &[(&str, &str)],
        about: About,
    ) -> Result<T, OriginError> {
        let answer = self.send(path, query, HeaderMap::new()).await?;
        if answer.status != StatusCode::OK {
            return Err(failure(answer, about).await);
        }
        let body = answer.collect(wire::ANSWER_BYTES_MAX).await?;
        serde_json::from_slice(&body)
            .map_err(|error| OriginError::Malformed(format!("JSON: {error}").into()))
    }

    async fn look(&self, name: &ObjectName) -> Result<ObjectMeta, OriginError> {
        let path = self.path(name)?;
        let object: Object = self.ask(&path, &[("alt", "json")], About::Object).await?;
        object.meta()
    }

    async fn read_range(
        &self,
        name: &ObjectName,
        etag: &str,
        size: Option<u64>,
        range: Range<u64>,
    ) -> Result<OriginStream, OriginError> {
        let path = self.path(name)?;
        let Some(generation) = generation_of(etag) else {
            return Err(OriginError::Changed);
        };
        let mut headers = wire::read_headers(etag, &range)?;
        // The generation is the condition; this etag is ours, not Google's.
        headers.remove(header::IF_MATCH);
        // Objects that are stored compressed would be decompressed for whoever does not take gzip,
        // and have other ranges then.
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        let query = [("alt", "media"), ("ifGenerationMatch", generation)];
        let answer = self.send(&path, &query, headers).await?;
        if !answer.status.is_success() {
            return Err(failure(answer, About::Object).await);
        }
        match validators::sole(&answer.headers, &GENERATION) {
            Some(found) if found == generation => {}
            Some(_) => return Err(OriginError::Changed),
            None => {
                let now: Object = self.ask(&path, &[("alt", "json")], About::Object).await?;
                if now.generation.as_deref() != Some(generation) {
                    return Err(OriginError::Changed);
                }
            }
        }
        wire::ranged(answer, size, &range, wire::SKIP_BYTES_MAX)
    }

    async fn list_page(&self, query: &ListQuery) -> Result<ListPage, OriginError> {
        let (prefix, delimiter) = self.scope.listing(query)?;
        if query.keys_max == 0 {
            return Ok(ListPage::default());
        }
        // Pages begin at a name, not at a token of Google's: so that a page can be cut anywhere.
        let after = match &query.token {
            Some(token) => from_token(token)?,
            None => query.start_after.as_deref().unwrap_or_default().to_owned(),
        };
        let below = self.scope.prefix();
        let from = start_offset(&after, &query.prefix, delimiter);
        let from = from.map(|from| format!("{below}{from}"));
        // One more than asked for, since the first may be the one to start after.
        let results_max = (u32::from(query.keys_max) + 1).to_string();
        let path = format!("/storage/v1/b/{}/o", query.bucket);
        let mut page_token: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let mut pairs = vec![
                ("alt", "json"),
                ("fields", LIST_FIELDS),
                ("maxResults", results_max.as_str()),
                ("prefix", prefix.as_str()),
            ];
            pairs.extend(delimiter.map(|delimiter| ("delimiter", delimiter)));
            pairs.extend(from.as_deref().map(|from| ("startOffset", from)));
            pairs.extend(page_token.as_deref().map(|token| ("pageToken", token)));
            let listing: Listing = self.ask(&path, &pairs, About::Bucket).await?;
            page_token = listing.more().map(str::to_owned);
            let page = listing.page(below, &after, usize::from(query.keys_max))?;
            // Google may give fewer than there are, none even, and say that there is more.
            if page_token.is_none() || !page.objects.is_empty() || !page.prefixes.is_empty() {
                return Ok(page);
            }
        }
        Err(OriginError::Server(
            "a listing of many pages without an entry".into(),
        ))
    }

    async fn all_buckets(&self) -> Result<Vec<BucketEntry>, OriginError> {
        if let Some(only) = self.scope.only() {
            return Ok(only);
        }
        let Some(project) = &self.project else {
            return Err(OriginError::Unsupported(
                "buckets are listed by project: set GOOGLE_CLOUD_PROJECT, or name one: gs://bucket"
                    .into(),
            ));
        };
        let mut found: Vec<BucketEntry> = Vec::new();
        let mut page_token = String::new();
        while found.len() < BUCKETS_MAX {
            let mut pairs = vec![("project", project.as_str()), ("maxResults", "1000")];
            if !page_token.is_empty() {
                pairs.push(("pageToken", page_token.as_str()));
            }
            let listing: Buckets = self.ask("/storage/v1/b", &pairs, About::Service).await?;
            if listing.items.is_empty() {
                break;
            }
            found.extend(listing.items.into_iter().map(|bucket| BucketEntry {
                created: bucket.time_created.as_deref().and_then(timestamp),
                name: bucket.name,
            }));
            match listing.next_page_token {
                Some(next) if !next.is_empty() => page_token = next,
                _ => break,
            }
        }
        Ok(found)
    }
}

impl Origin for Gcs {
    fn id(&self) -> &str {
        &self.id
    }

    fn head<'a>(&'a self, name: &'a ObjectName) -> BoxFuture<'a, Result<ObjectMeta, OriginError>> {
        Box::pin(self.look(name))
    }

    fn read<'a>(
        &'a self,
        name: &'a ObjectName,
        etag: &'a str,
        size: Option<u64>,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<OriginStream, OriginError>> {
        Box::pin(self.read_range(name, etag, size, range))
    }

    fn list<'a>(&'a self, query: &'a ListQuery) -> BoxFuture<'a, Result<ListPage, OriginError>> {
        Box::pin(self.list_page(query))
    }

    fn buckets(&self) -> BoxFuture<'_, Result<Vec<BucketEntry>, OriginError>> {
        Box::pin(self.all_buckets())
    }

    fn head_bucket<'a>(&'a self, bucket: &'a str) -> BoxFuture<'a, Result<(), OriginError>> {
        Box::pin(async move {
            self.scope.check_bucket(bucket)?;
            let path = format!("/storage/v1/b/{bucket}");
            let _: Bucket = self
                .ask(&path, &[("fields", "name")], About::Bucket)
                .await?;
            Ok(())
        })
    }
}

/// Google allows dots and underscores; some buckets are domains.
fn is_bucket(name: &str) -> bool {
    (3..=222).contains(&name.len())
        && name.bytes().all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.')
        })
        && !name.contains("..")
}

/// The error of an answer, whose body is JSON here.
async fn failure(answer: Answer, about: About) -> OriginError {
    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct Body {
        error: Inner,
    }
    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct Inner {
        message: String,
    }
    let (status, headers) = (answer.status, answer.headers.clone());
    let body = answer.collect(64 << 10).await.unwrap_or_default();
    let message = serde_json::from_slice::<Body>(&body)
        .unwrap_or_default()
        .error
        .message;
    let message: String = message.chars().take(300).collect();
    if status == StatusCode::NOT_FOUND && message.contains("bucket does not exist") {
        return OriginError::NoSuchBucket;
    }
    let body = xml::ErrorBody {
        message,
        ..xml::ErrorBody::default()
    };
    wire::classify(status, &headers, &body, about)
}

/// See [`super::fuzz`].
pub(super) fn fuzz(bytes: &[u8]) {
    if let Ok(listing) = serde_json::from_slice::<Listing>(bytes) {
        let _ = listing.page("p/", "", 2);
    }
    if let Ok(object) = serde_json::from_slice::<Object>(bytes) {
        let _ = object.meta();
    }
}

fn no_credentials(error: object_store::Error) -> OriginError {
    tracing::debug!(%error, "no credentials");
    OriginError::Local(
        "no Google credentials to be had: set GOOGLE_APPLICATION_CREDENTIALS to a key file, or read \
         the origin anonymously"
            .into(),
    )
}
