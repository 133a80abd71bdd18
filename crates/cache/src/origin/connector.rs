//! `object_store` over our own HTTP client: for its credentials, and for the shared store.

use super::{
    BoxFuture,
    env::Environment,
    spec::{OriginConfigError, OriginSpec, Place, parse_endpoint},
};
use gannet::http::{Client, HttpErrorKind as Kind};
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use object_store::{
    ClientConfigKey, ClientOptions, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
        HttpResponseBody, HttpService,
    },
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    prefix::PrefixStore,
};
use std::{sync::Arc, time::Duration};

/// Makes `object_store` send its requests through a [`Client`].
///
/// Of its `ClientOptions`, plain HTTP (refused unless allowed) and default headers are honoured;
/// timeouts and pools are the client's own.
#[derive(Clone, Debug)]
pub struct Connector(Client);

impl Connector {
    /// Through this client.
    pub const fn new(client: Client) -> Self {
        Self(client)
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let allow_http = options.get_config_value(&ClientConfigKey::AllowHttp);
        Ok(HttpClient::new(Service {
            client: self.0.clone(),
            allow_http: allow_http.as_deref() == Some("true"),
            headers: options.get_default_headers().cloned().unwrap_or_default(),
        }))
    }
}

#[derive(Debug)]
struct Service {
    client: Client,
    allow_http: bool,
    headers: http::HeaderMap,
}

impl HttpService for Service {
    // What `#[async_trait]` makes of `async fn call`.
    fn call<'life0, 'async_trait>(
        &'life0 self,
        request: HttpRequest,
    ) -> BoxFuture<'async_trait, Result<HttpResponse, HttpError>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(self.send(request))
    }
}

impl Service {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (mut parts, body) = request.into_parts();
        if !self.allow_http && parts.uri.scheme_str() != Some("https") {
            return Err(HttpError::new(HttpErrorKind::Unknown, PlainHttp));
        }
        for (name, value) in &self.headers {
            parts.headers.entry(name).or_insert_with(|| value.clone());
        }
        if !parts.headers.contains_key(header::USER_AGENT) {
            parts
                .headers
                .insert(header::USER_AGENT, super::wire::USER_AGENT);
        }
        let body = match body.as_bytes() {
            Some(bytes) => bytes.clone(),
            None => body.collect().await?.to_bytes(),
        };
        let request = Request::from_parts(parts, Full::new(body));
        let answer = self.client.send(request).await.map_err(|error| {
            let kind = match error.kind {
                Kind::Refused | Kind::Unreachable | Kind::Tls => HttpErrorKind::Connect,
                Kind::TimedOut => HttpErrorKind::Timeout,
                Kind::Broken => HttpErrorKind::Interrupted,
                Kind::Malformed => HttpErrorKind::Decode,
                _ => HttpErrorKind::Unknown,
            };
            HttpError::new(kind, error)
        })?;
        Ok(answer.map(|body| {
            HttpResponseBody::new(
                body.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error)),
            )
        }))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("plain HTTP is not allowed here")]
struct PlainHttp;

/// Few and short: callers have retries of their own.
fn retries() -> RetryConfig {
    RetryConfig {
        max_retries: 2,
        retry_timeout: Duration::from_secs(20),
        ..RetryConfig::default()
    }
}

pub(super) fn s3_builder(env: &Environment, client: &Client) -> AmazonS3Builder {
    let builder = AmazonS3Builder::new()
        .with_http_connector(Connector::new(client.clone()))
        .with_retry(retries());
    env.lower(&["AWS_"])
        .fold(builder, |builder, (name, value)| {
            match name.parse::<AmazonS3ConfigKey>() {
                // A timeout or a pool size is not for us to pass on.
                Ok(AmazonS3ConfigKey::Client(_)) | Err(_) => builder,
                Ok(key) => builder.with_config(key, value),
            }
        })
}

pub(super) fn azure_builder(env: &Environment, client: &Client) -> MicrosoftAzureBuilder {
    let builder = MicrosoftAzureBuilder::new()
        .with_http_connector(Connector::new(client.clone()))
        .with_retry(retries());
    let names = ["AZURE_", "MSI_", "IDENTITY_"];
    env.lower(&names).fold(builder, |builder, (name, value)| {
        match name.parse::<AzureConfigKey>() {
            Ok(AzureConfigKey::Client(_)) | Err(_) => builder,
            Ok(key) => builder.with_config(key, value),
        }
    })
}

pub(super) fn gcs_builder(env: &Environment, client: &Client) -> GoogleCloudStorageBuilder {
    let builder = GoogleCloudStorageBuilder::new()
        .with_http_connector(Connector::new(client.clone()))
        .with_retry(retries());
    let builder = match env.value("SERVICE_ACCOUNT") {
        Some(path) => builder.with_service_account_path(path),
        None => builder,
    };
    env.lower(&["GOOGLE_"])
        .fold(builder, |builder, (name, value)| {
            match name.parse::<GoogleConfigKey>() {
                Ok(GoogleConfigKey::Client(_)) | Err(_) => builder,
                Ok(key) => builder.with_config(key, value),
            }
        })
}

/// An object store to keep chunks in, by a URL such as [`super::open`] takes (`s3://bucket/prefix`,
/// `az://account/container/prefix`, `gs://bucket/prefix`), over `client`. What it holds lies below
/// the prefix.
///
/// # Errors
///
/// If the URL is another one, names no bucket, or the credentials are half there. Connects to
/// nothing yet.
pub fn object_store(
    spec: &OriginSpec,
    client: &Client,
) -> Result<Arc<dyn ObjectStore>, OriginConfigError> {
    let env = spec.environment();
    let endpoint = spec.endpoint.as_deref().map(parse_endpoint).transpose()?;
    let plain = endpoint
        .as_ref()
        .is_some_and(|endpoint| endpoint.scheme() == "http");
    let endpoint = endpoint.map(|endpoint| endpoint.as_str().trim_end_matches('/').to_owned());
    let none = || OriginConfigError::Url {
        url: spec.url.clone(),
        reason: "a store is s3://bucket, az://account/container or gs://bucket".to_owned(),
    };
    let failed = |error: object_store::Error| OriginConfigError::Credentials(error.to_string());
    let (store, prefix): (Arc<dyn ObjectStore>, String) = match Place::parse(&spec.url)? {
        Place::S3 { bucket, prefix } => {
            let bucket = bucket.ok_or_else(none)?;
            let mut builder = s3_builder(&env, client).with_bucket_name(bucket);
            if let Some(region) = &spec.region {
                builder = builder.with_region(region);
            }
            if let Some(endpoint) = endpoint {
                builder = builder.with_endpoint(endpoint).with_allow_http(plain);
            }
            if spec.anonymous {
                builder = builder.with_skip_signature(true);
            }
            if let Some(path_style) = spec.path_style {
                builder = builder.with_virtual_hosted_style_request(!path_style);
            }
            (Arc::new(builder.build().map_err(failed)?), prefix)
        }
        Place::Azure {
            account,
            container,
            prefix,
        } => {
            let container = container.ok_or_else(none)?;
            let mut builder = azure_builder(&env, client)
                .with_account(&account)
                .with_container_name(container);
            if let Some(endpoint) = endpoint {
                let url = super::azure::service_url(&endpoint, &account);
                builder = builder.with_endpoint(url).with_allow_http(plain);
                if let Some(key) = super::azure::emulator_key(&env, &account) {
                    builder = builder.with_access_key(key);
                }
            }
            if spec.anonymous {
                builder = builder.with_skip_signature(true);
            }
            (Arc::new(builder.build().map_err(failed)?), prefix)
        }
        Place::Gcs { bucket, prefix } => {
            let bucket = bucket.ok_or_else(none)?;
            let mut builder = gcs_builder(&env, client).with_bucket_name(bucket);
            if let Some(endpoint) = endpoint {
                let options = ClientOptions::new().with_allow_http(plain);
                builder = builder
                    .with_base_url(&endpoint)
                    .with_client_options(options);
            }
            if spec.anonymous || plain {
                builder = builder.with_skip_signature(true);
            }
            (Arc::new(builder.build().map_err(failed)?), prefix)
        }
        Place::Http { .. } | Place::File { .. } => return Err(none()),
    };
    if prefix.is_empty() {
        return Ok(store);
    }
    Ok(Arc::new(PrefixStore::new(store, prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gannet::http::ClientConfig;
    use object_store::ObjectStoreExt;

    fn open(url: &str) -> Result<Arc<dyn ObjectStore>, OriginConfigError> {
        let mut config = ClientConfig::default();
        config.system_roots = false;
        let spec = OriginSpec {
            endpoint: Some("http://127.0.0.1:1".into()),
            env: Some(
                [
                    ("AWS_ACCESS_KEY_ID", "id"),
                    ("AWS_SECRET_ACCESS_KEY", "key"),
                ]
                .into_iter()
                .collect(),
            ),
            ..OriginSpec::new(url)
        };
        object_store(&spec, &Client::new(config).unwrap())
    }

    #[tokio::test]
    async fn stores_are_made_by_url() {
        for url in [
            "s3://b",
            "s3://b/p",
            "az://devstoreaccount1/c/p",
            "gs://b/p",
        ] {
            let store = open(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            let error = store.head(&"x".into()).await;
            assert!(error.is_err(), "nobody listens at port 1");
        }
        for url in ["s3://", "az://account", "http://h/x", "file:///tmp"] {
            assert!(open(url).is_err(), "{url}");
        }
    }

    #[tokio::test]
    async fn plain_http_is_refused_unless_allowed() {
        let client = Client::new(ClientConfig::default()).unwrap();
        let http = Connector::new(client)
            .connect(&ClientOptions::new())
            .unwrap();
        let mut request = HttpRequest::new(object_store::client::HttpRequestBody::empty());
        *request.uri_mut() = "http://127.0.0.1:1/".parse().unwrap();
        let error = http.execute(request).await.unwrap_err();
        assert!(error.to_string().contains("HTTP"), "{error}");
        assert_eq!(error.kind(), HttpErrorKind::Unknown);
    }
}
