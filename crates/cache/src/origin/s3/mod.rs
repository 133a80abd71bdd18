//! `s3://`: Amazon S3 and whatever speaks like it.
//!
//! Requests are built and signed here, byte for byte: any key that S3 can hold can be asked for.
//! With a bucket in the URL, that bucket is the only one; with a prefix too, keys are those below
//! it, and keys with `.` or `..` segments are refused, since servers on file systems would resolve
//! them. Reads carry If-Match, and the answer's etag is compared all the same, because some servers
//! ignore it. A bucket in another region is found by the region that S3 names, once.

mod answers;
mod place;
mod profile;

use super::{
    BoxFuture, Origin, OriginError, OriginStream, connector, encode,
    env::Environment,
    headers,
    scope::Scope,
    sigv4,
    spec::{OriginConfigError, OriginSpec, parse_endpoint},
    validators,
    wire::{self, About, Answer, Base},
    xml,
};
use crate::types::{BucketEntry, ListPage, ListQuery, ObjectMeta, ObjectName};
use gannet::http::Client;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use object_store::aws::{AmazonS3ConfigKey, AwsCredentialProvider};
use place::{Addressing, Target};
use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

const BUCKET_REGION: HeaderName = HeaderName::from_static("x-amz-bucket-region");
/// Buckets whose regions are remembered.
const REGIONS_MAX: usize = 1000;

/// An S3 account, a bucket of it, or a prefix of that.
#[derive(Debug)]
pub(crate) struct S3 {
    id: String,
    client: Client,
    addressing: Addressing,
    credentials: Option<AwsCredentialProvider>,
    /// The region of buckets that have not named another.
    region: String,
    regions: Mutex<HashMap<String, String>>,
    scope: Scope,
}

impl S3 {
    pub(crate) fn open(
        spec: &OriginSpec,
        bucket: Option<String>,
        prefix: String,
    ) -> Result<Self, OriginConfigError> {
        let env = spec.environment();
        if let Some(bucket) = &bucket
            && !place::is_bucket(bucket)
        {
            return Err(OriginConfigError::Url {
                url: spec.url.clone(),
                reason: format!(
                    "{bucket:?} is no bucket's name: letters, digits, '.', '-' and '_'"
                ),
            });
        }
        let endpoint = spec
            .endpoint
            .as_deref()
            .or_else(|| env.value("AWS_ENDPOINT_URL_S3"))
            .or_else(|| env.value("AWS_ENDPOINT_URL"))
            .map(parse_endpoint)
            .transpose()?;
        let profile = profile::Profile::load(&env);
        let region = spec
            .region
            .as_deref()
            .or_else(|| env.value("AWS_REGION"))
            .or_else(|| env.value("AWS_DEFAULT_REGION"))
            .or(profile.region.as_deref())
            .unwrap_or("us-east-1")
            .to_owned();
        if !place::is_region(&region) {
            return Err(OriginConfigError::Option {
                option: "region",
                reason: format!("{region:?} is none: write eu-central-1, say"),
            });
        }
        let client = spec.http_client()?;
        let credentials = credentials(spec, &env, &region, profile, &client)?;
        let service = match &endpoint {
            Some(endpoint) => format!("s3+{}", Base::of(endpoint)),
            None => "s3:/".to_owned(),
        };
        let scope = Scope::new(bucket, prefix, place::is_bucket);
        Ok(Self {
            id: scope.id(service),
            client,
            addressing: Addressing::new(endpoint.as_ref().map(Base::of), spec.path_style),
            credentials,
            region,
            regions: Mutex::default(),
            scope,
        })
    }

    /// The key as the origin knows it.
    fn key(&self, name: &ObjectName) -> Result<String, OriginError> {
        let key = self.scope.key(name)?;
        if !self.scope.prefix().is_empty() && encode::has_dot_segment(&name.key) {
            return Err(OriginError::Invalid(
                "with a prefix, keys with '.' or '..' between slashes are refused".into(),
            ));
        }
        Ok(key)
    }

    fn region_of(&self, bucket: Option<&str>) -> String {
        let regions = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
        bucket
            .and_then(|bucket| regions.get(bucket))
            .unwrap_or(&self.region)
            .clone()
    }

    fn learn_region(&self, bucket: &str, region: &str) {
        let mut regions = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
        if regions.len() >= REGIONS_MAX {
            regions.clear();
        }
        regions.insert(bucket.to_owned(), region.to_owned());
    }

    /// Sends a request, again if S3 says that the bucket is in another region.
    async fn call(&self, request: &Call<'_>) -> Result<Answer, OriginError> {
        let mut region = self.region_of(request.bucket);
        let mut moved = false;
        loop {
            let answer = self.send(request, &region).await?;
            if !matches!(answer.status.as_u16(), 301 | 307 | 308 | 400) {
                return Ok(answer);
            }
            let (status, headers) = (answer.status, answer.headers.clone());
            let body = answers::error(answer).await;
            let named = validators::sole(&headers, &BUCKET_REGION).map(str::to_owned);
            let named = named
                .or_else(|| body.region.clone())
                .filter(|named| place::is_region(named));
            match (request.bucket, named) {
                (Some(bucket), Some(named)) if named != region && !moved => {
                    tracing::debug!(bucket, %region, %named, "the bucket is in another region");
                    self.learn_region(bucket, &named);
                    region = named;
                    moved = true;
                }
                _ if status.is_redirection() || body.code == "AuthorizationHeaderMalformed" => {
                    return Err(OriginError::Invalid(
                        format!(
                            "{status}: {}: {}: the bucket may be in another region than {region} \
                             (set AWS_REGION) or at another endpoint",
                            body.code, body.message
                        )
                        .into(),
                    ));
                }
                _ => return Err(wire::classify(status, &headers, &body, request.about())),
            }
        }
    }

    async fn send(&self, call: &Call<'_>, region: &str) -> Result<Answer, OriginError> {
        let Target {
            scheme,
            host,
            mut path,
        } = self.addressing.target(call.bucket, region);
        if let Some(key) = call.key {
            path.push('/');
            encode::push_path(&mut path, key);
        }
        if path.is_empty() {
            path.push('/');
        }
        let query = encode::query(call.query);
        let mut headers = call.headers.clone();
        headers.insert(header::HOST, wire::header_value(&host)?);
        headers.extend(call.amz.iter().cloned());
        if let Some(credentials) = &self.credentials {
            let credential = credentials.get_credential().await.map_err(no_credentials)?;
            let signed = sigv4::sign(
                &sigv4::ToSign {
                    method: &call.method,
                    host: &host,
                    path: &path,
                    query: &query,
                    amz: call.amz,
                    region,
                    at: SystemTime::now(),
                },
                &credential,
            )?;
            headers.extend(signed);
        }
        let mut uri = format!("{scheme}://{host}{path}");
        if !query.is_empty() {
            uri.push('?');
            uri.push_str(&query);
        }
        wire::send(&self.client, call.method.clone(), &uri, headers).await
    }

    async fn look(&self, name: &ObjectName) -> Result<ObjectMeta, OriginError> {
        let key = self.key(name)?;
        let checksums = [(
            HeaderName::from_static("x-amz-checksum-mode"),
            HeaderValue::from_static("ENABLED"),
        )];
        let answer = self
            .call(&Call {
                amz: &checksums,
                ..Call::new(Method::HEAD, Some(&name.bucket), Some(&key))
            })
            .await?;
        if answer.status != StatusCode::OK {
            return Err(answer.into_error(About::Object).await);
        }
        answers::meta(&answer.headers)
    }

    async fn read_range(
        &self,
        name: &ObjectName,
        etag: &str,
        size: Option<u64>,
        range: Range<u64>,
    ) -> Result<OriginStream, OriginError> {
        let key = self.key(name)?;
        let answer = self
            .call(&Call {
                headers: wire::read_headers(etag, &range)?,
                ..Call::new(Method::GET, Some(&name.bucket), Some(&key))
            })
            .await?;
        if !answer.status.is_success() {
            return Err(answer.into_error(About::Object).await);
        }
        wire::same_version(&answer.headers, etag)?;
        wire::ranged(answer, size, &range, wire::SKIP_BYTES_MAX)
    }

    async fn list_page(&self, query: &ListQuery) -> Result<ListPage, OriginError> {
        let (prefix, delimiter) = self.scope.listing(query)?;
        let start_after = query
            .start_after
            .as_ref()
            .map(|key| format!("{}{key}", self.scope.prefix()));
        let keys_max = query.keys_max.to_string();
        let mut pairs = vec![
            ("list-type", "2"),
            ("encoding-type", "url"),
            ("max-keys", keys_max.as_str()),
            ("prefix", prefix.as_str()),
        ];
        pairs.extend(delimiter.map(|delimiter| ("delimiter", delimiter)));
        pairs.extend(
            query
                .token
                .as_deref()
                .map(|token| ("continuation-token", token)),
        );
        if query.token.is_none() {
            pairs.extend(start_after.as_deref().map(|after| ("start-after", after)));
        }
        let answer = self
            .call(&Call {
                query: &pairs,
                ..Call::new(Method::GET, Some(&query.bucket), None)
            })
            .await?;
        let below = self.scope.prefix();
        answer
            .read(About::Bucket, |body| answers::list(body, below))
            .await
    }

    async fn all_buckets(&self) -> Result<Vec<BucketEntry>, OriginError> {
        if let Some(only) = self.scope.only() {
            return Ok(only);
        }
        let answer = self.call(&Call::new(Method::GET, None, None)).await?;
        answer.read(About::Service, answers::buckets).await
    }
}

impl Origin for S3 {
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
            let answer = self
                .call(&Call::new(Method::HEAD, Some(bucket), None))
                .await?;
            if answer.status.is_success() {
                return Ok(());
            }
            Err(answer.into_error(About::Bucket).await)
        })
    }
}

/// One request, before it is addressed and signed.
struct Call<'a> {
    method: Method,
    bucket: Option<&'a str>,
    key: Option<&'a str>,
    query: &'a [(&'a str, &'a str)],
    /// Headers that are not signed.
    headers: HeaderMap,
    /// Headers that are, sorted by name.
    amz: &'a [(HeaderName, HeaderValue)],
}

impl<'a> Call<'a> {
    fn new(method: Method, bucket: Option<&'a str>, key: Option<&'a str>) -> Self {
        Self {
            method,
            bucket,
            key,
            query: &[],
            headers: HeaderMap::new(),
            amz: &[],
        }
    }

    fn about(&self) -> About {
        match (self.bucket, self.key) {
            (_, Some(_)) => About::Object,
            (Some(_), None) => About::Bucket,
            (None, None) => About::Service,
        }
    }
}

/// Credentials: none where the operator says so; else the environment's, a profile's, or those of
/// the machine that we run on.
fn credentials(
    spec: &OriginSpec,
    env: &Environment,
    region: &str,
    profile: profile::Profile,
    client: &Client,
) -> Result<Option<AwsCredentialProvider>, OriginConfigError> {
    let builder = connector::s3_builder(env, client)
        .with_bucket_name("none")
        .with_region(region);
    let skip = builder.get_config_value(&AmazonS3ConfigKey::SkipSignature);
    if spec.anonymous || skip.is_some_and(|skip| skip.eq_ignore_ascii_case("true") || skip == "1") {
        return Ok(None);
    }
    let elsewhere = [
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ];
    let elsewhere = elsewhere.iter().any(|name| env.value(name).is_some());
    if let Some(name) = env.value("AWS_PROFILE")
        && profile.credential.is_none()
        && !elsewhere
    {
        return Err(OriginConfigError::Credentials(format!(
            "the profile {name:?} has no aws_access_key_id and aws_secret_access_key; for one that \
             signs on or assumes a role, run: eval \"$(aws configure export-credentials --profile \
             {name} --format env)\""
        )));
    }
    if let Some(credential) = profile.credential
        && !elsewhere
    {
        return Ok(Some(Arc::new(object_store::StaticCredentialProvider::new(
            credential,
        ))));
    }
    let store = builder
        .build()
        .map_err(|error| OriginConfigError::Credentials(error.to_string()))?;
    Ok(Some(Arc::clone(store.credentials())))
}

fn no_credentials(error: object_store::Error) -> OriginError {
    tracing::debug!(%error, "no credentials");
    OriginError::Local(
        "no AWS credentials to be had: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile, \
         or read the origin anonymously"
            .into(),
    )
}

/// See [`super::fuzz`].
pub(super) fn fuzz(bytes: &[u8]) {
    let _ = (answers::list(bytes, "p/"), answers::buckets(bytes));
    let _ = profile::Profile::parse("p", &String::from_utf8_lossy(bytes), "");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(url: &str, env: &[(&str, &str)]) -> Result<S3, OriginConfigError> {
        let spec = OriginSpec {
            env: Some(env.iter().copied().collect()),
            anonymous: !env.iter().any(|(name, _)| name.contains("KEY")),
            ..OriginSpec::new(url)
        };
        match super::super::spec::Place::parse(url)? {
            super::super::spec::Place::S3 { bucket, prefix } => S3::open(&spec, bucket, prefix),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn the_id_names_endpoint_bucket_and_prefix_and_no_secret() {
        for (url, env, id) in [
            ("s3://", &[][..], "s3:/"),
            ("s3://b/p/q/", &[][..], "s3://b/p/q"),
            (
                "s3://b",
                &[("AWS_ENDPOINT_URL_S3", "http://h:9/x/")][..],
                "s3+http://h:9/x/b",
            ),
            (
                "s3://b",
                &[
                    ("AWS_ACCESS_KEY_ID", "id"),
                    ("AWS_SECRET_ACCESS_KEY", "hunter2"),
                ][..],
                "s3://b",
            ),
        ] {
            let origin = open(url, env).unwrap();
            assert_eq!(origin.id(), id);
            assert!(!format!("{origin:?}").contains("hunter2"));
        }
    }

    #[tokio::test]
    async fn half_a_credential_and_odd_regions_are_refused() {
        let error = open("s3://b", &[("AWS_ACCESS_KEY_ID", "id")])
            .unwrap_err()
            .to_string();
        assert!(error.contains("credentials"), "{error}");
        let error = open("s3://b", &[("AWS_REGION", "evil.example/")])
            .unwrap_err()
            .to_string();
        assert!(error.contains("region"), "{error}");
        let error = open("s3://b%2f", &[]).unwrap_err().to_string();
        assert!(error.contains("bucket"), "{error}");
    }

    #[tokio::test]
    async fn names_are_checked_before_anything_is_sent() {
        let origin = open("s3://b/p", &[("AWS_ENDPOINT_URL", "http://127.0.0.1:1")]).unwrap();
        let head = |bucket: &str, key: &str| {
            let name = ObjectName {
                bucket: bucket.into(),
                key: key.into(),
            };
            let origin = &origin;
            async move { origin.head(&name).await.unwrap_err() }
        };
        assert!(matches!(
            head("other", "k").await,
            OriginError::NoSuchBucket
        ));
        assert!(matches!(head("b", "").await, OriginError::NoSuchKey));
        assert!(matches!(head("b", "../k").await, OriginError::Invalid(_)));
        assert!(matches!(
            head("b", &"k".repeat(1023)).await,
            OriginError::Invalid(_)
        ));
        assert!(matches!(head("b", "k").await, OriginError::Connect(_)));
    }
}
