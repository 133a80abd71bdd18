//! `az://account/container/prefix`: Azure Blob Storage, block blobs only. Without a container, all of
//! the account's are buckets.
//!
//! Page and append blobs are written in place, and their etags do not vouch for ranges the way that a
//! cache needs: they are refused, on HEAD and on each read. Azure resolves `.` and `..` in names, so
//! that keys with such segments are refused too. Listings cannot start after a key there: pages
//! before it are read and passed over, a bounded number for each request.

mod answers;

use super::{
    BoxFuture, Origin, OriginError, OriginStream, connector, encode,
    env::Environment,
    headers,
    scope::Scope,
    spec::{OriginConfigError, OriginSpec, parse_endpoint},
    token::{from_token, token},
    validators,
    wire::{self, About, Answer, Base},
};
use crate::types::{BucketEntry, ListPage, ListQuery, ObjectMeta, ObjectName};
use answers::{block_blob, cut, parse_containers, parse_list};
use gannet::http::Client;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use object_store::{
    azure::{AzureAuthorizer, AzureConfigKey, AzureCredential, AzureCredentialProvider},
    client::{HttpRequest, HttpRequestBody},
};
use std::{ops::Range, sync::Arc, time::SystemTime};
use url::Url;

const VERSION: HeaderName = HeaderName::from_static("x-ms-version");
/// The version of the service that we speak; `object_store` signs for the same.
const VERSION_SPOKEN: HeaderValue = HeaderValue::from_static("2023-11-03");
/// The account that every emulator has, and its well-known key.
const EMULATOR_ACCOUNT: &str = "devstoreaccount1";
const EMULATOR_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
/// Pages of 5,000 that one listing may pass over to reach its start.
const PAGES_MAX: usize = 20;
/// Buckets that are listed.
const BUCKETS_MAX: usize = 10_000;

/// A storage account, a container of it, or a prefix of that.
#[derive(Debug)]
pub(crate) struct Azure {
    id: String,
    client: Client,
    base: Base,
    account: String,
    credentials: Option<AzureCredentialProvider>,
    scope: Scope,
}

impl Azure {
    pub(crate) fn open(
        spec: &OriginSpec,
        account: String,
        container: Option<String>,
        prefix: String,
    ) -> Result<Self, OriginConfigError> {
        let env = spec.environment();
        if let Some(container) = &container
            && !is_container(container)
        {
            return Err(OriginConfigError::Url {
                url: spec.url.clone(),
                reason: format!("{container:?} is no container's name"),
            });
        }
        let endpoint = spec
            .endpoint
            .as_deref()
            .or_else(|| env.value("AZURE_STORAGE_ENDPOINT"));
        let (url, own) = match endpoint {
            Some(endpoint) => (parse_endpoint(&service_url(endpoint, &account))?, true),
            None => (
                parse_endpoint(&format!("https://{account}.blob.core.windows.net"))?,
                false,
            ),
        };
        let base = Base::of(&url);
        let client = spec.http_client()?;
        let builder = connector::azure_builder(&env, &client)
            .with_account(&account)
            .with_container_name("none");
        let skip = builder.get_config_value(&AzureConfigKey::SkipSignature);
        let credentials = if spec.anonymous || skip.as_deref() == Some("true") {
            None
        } else {
            let builder = match emulator_key(&env, &account).filter(|_| own) {
                Some(key) => builder.with_access_key(key),
                None => builder,
            };
            let store = builder
                .build()
                .map_err(|error| OriginConfigError::Credentials(error.to_string()))?;
            Some(Arc::clone(store.credentials()))
        };
        let service = if own {
            format!("az+{base}")
        } else {
            format!("az://{account}")
        };
        let scope = Scope::new(container, prefix, is_container);
        Ok(Self {
            id: scope.id(service),
            client,
            base,
            account,
            credentials,
            scope,
        })
    }

    /// The blob's path, percent-encoded.
    fn path(&self, name: &ObjectName) -> Result<String, OriginError> {
        let key = self.scope.key(name)?;
        if encode::has_dot_segment(&name.key.replace('\\', "/")) {
            return Err(OriginError::Invalid(
                "keys with '.' or '..' between slashes are refused: Azure resolves them".into(),
            ));
        }
        let mut path = format!("/{}/", name.bucket);
        encode::push_path(&mut path, &key);
        Ok(path)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        headers: HeaderMap,
    ) -> Result<Answer, OriginError> {
        let mut uri = format!("{}{path}", self.base);
        if !query.is_empty() {
            uri.push('?');
            uri.push_str(&encode::query(query));
        }
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = method;
        *request.uri_mut() = uri.parse().map_err(|error| {
            OriginError::Invalid(format!("no request can name it: {error}").into())
        })?;
        *request.headers_mut() = headers;
        request.headers_mut().insert(VERSION, VERSION_SPOKEN);
        if let Some(credentials) = &self.credentials {
            let credential = credentials.get_credential().await.map_err(no_credentials)?;
            self.check_credential(&credential)?;
            AzureAuthorizer::new(&credential, &self.account)
                .try_authorize(&mut request)
                .map_err(no_credentials)?;
        }
        let (parts, _) = request.into_parts();
        wire::send(
            &self.client,
            parts.method,
            &parts.uri.to_string(),
            parts.headers,
        )
        .await
    }

    /// Refuses to send in the clear what whoever reads it could use, and what no header can hold.
    fn check_credential(&self, credential: &AzureCredential) -> Result<(), OriginError> {
        match credential {
            AzureCredential::AccessKey(_) => Ok(()),
            _ if !self.base.is_tls() && !self.base.is_loopback() => Err(OriginError::Local(
                "tokens and signatures are not sent over plain HTTP: use an https:// endpoint"
                    .into(),
            )),
            AzureCredential::BearerToken(token) => {
                wire::header_value(token).map(|_| ()).map_err(|_| {
                    OriginError::Local(
                        "the bearer token holds characters that no header can".into(),
                    )
                })
            }
            AzureCredential::SASToken(_) => Ok(()),
        }
    }

    async fn look(&self, name: &ObjectName) -> Result<ObjectMeta, OriginError> {
        let path = self.path(name)?;
        let answer = self
            .send(Method::HEAD, &path, &[], HeaderMap::new())
            .await?;
        if answer.status != StatusCode::OK {
            return Err(answer.into_error(About::Object).await);
        }
        block_blob(&answer.headers)?;
        let headers = &answer.headers;
        Ok(ObjectMeta {
            size: validators::content_length(headers)
                .ok_or_else(|| OriginError::Malformed("no Content-Length".into()))?,
            etag: validators::strong_etag(headers).ok_or(OriginError::MissingEtag)?,
            modified: validators::last_modified(headers).unwrap_or(SystemTime::UNIX_EPOCH),
            headers: Arc::new(headers::pick(headers, headers::AZURE)?),
        })
    }

    async fn read_range(
        &self,
        name: &ObjectName,
        etag: &str,
        size: Option<u64>,
        range: Range<u64>,
    ) -> Result<OriginStream, OriginError> {
        let path = self.path(name)?;
        let headers = wire::read_headers(etag, &range)?;
        let answer = self.send(Method::GET, &path, &[], headers).await?;
        if !answer.status.is_success() {
            return Err(answer.into_error(About::Object).await);
        }
        block_blob(&answer.headers)?;
        wire::same_version(&answer.headers, etag)?;
        wire::ranged(answer, size, &range, wire::SKIP_BYTES_MAX)
    }

    async fn list_page(&self, query: &ListQuery) -> Result<ListPage, OriginError> {
        let (prefix, delimiter) = self.scope.listing(query)?;
        if query.keys_max == 0 {
            return Ok(ListPage::default());
        }
        // A token holds Azure's marker, and what the first page was to start after.
        let (mut marker, after) = match &query.token {
            Some(token) => {
                let held = from_token(token)?;
                let (marker, after) = held.split_once('\n').ok_or_else(|| {
                    OriginError::Invalid("not a continuation token of this origin".into())
                })?;
                (marker.to_owned(), after.to_owned())
            }
            None => (
                String::new(),
                query.start_after.as_deref().unwrap_or_default().to_owned(),
            ),
        };
        let keys_max = query.keys_max.to_string();
        let path = format!("/{}", query.bucket);
        for _ in 0..PAGES_MAX {
            // Passing over is done in the largest steps; what is handed on, in those asked for.
            let size = if after.is_empty() {
                keys_max.as_str()
            } else {
                "5000"
            };
            let mut pairs = vec![
                ("restype", "container"),
                ("comp", "list"),
                ("maxresults", size),
                ("prefix", prefix.as_str()),
            ];
            pairs.extend(delimiter.map(|delimiter| ("delimiter", delimiter)));
            if !marker.is_empty() {
                pairs.push(("marker", marker.as_str()));
            }
            let answer = self
                .send(Method::GET, &path, &pairs, HeaderMap::new())
                .await?;
            let below = self.scope.prefix();
            let (mut page, next) = answer
                .read(About::Bucket, |body| parse_list(body, below))
                .await?;
            let last = next.is_empty();
            page.objects
                .retain(|object| object.key.as_str() > after.as_str());
            page.prefixes
                .retain(|prefix| prefix.as_str() > after.as_str());
            let found = page.objects.len() + page.prefixes.len();
            if found == 0 && !last {
                marker = next;
                continue;
            }
            if found > usize::from(query.keys_max) {
                // Too much of the large page is left: cut it, and come back to the same one.
                let cut = cut(&mut page, usize::from(query.keys_max));
                page.next = Some(token(&format!("{marker}\n{cut}")));
            } else if !last {
                page.next = Some(token(&format!("{next}\n")));
            }
            return Ok(page);
        }
        // Nothing yet: an empty page that says where to go on.
        let next = Some(token(&format!("{marker}\n{after}")));
        Ok(ListPage {
            next,
            ..ListPage::default()
        })
    }

    async fn all_containers(&self) -> Result<Vec<BucketEntry>, OriginError> {
        if let Some(only) = self.scope.only() {
            return Ok(only);
        }
        let mut found = Vec::new();
        let mut marker = String::new();
        while found.len() < BUCKETS_MAX {
            let mut pairs = vec![("comp", "list")];
            if !marker.is_empty() {
                pairs.push(("marker", marker.as_str()));
            }
            let answer = self
                .send(Method::GET, "/", &pairs, HeaderMap::new())
                .await?;
            let (names, next) = answer.read(About::Service, parse_containers).await?;
            let before = found.len();
            found.extend(names.into_iter().map(|name| BucketEntry {
                name,
                created: None,
            }));
            if next.is_empty() || found.len() == before {
                break;
            }
            marker = next;
        }
        Ok(found)
    }
}

impl Origin for Azure {
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
        Box::pin(self.all_containers())
    }

    fn head_bucket<'a>(&'a self, bucket: &'a str) -> BoxFuture<'a, Result<(), OriginError>> {
        Box::pin(async move {
            self.scope.check_bucket(bucket)?;
            let path = format!("/{bucket}");
            let query = [("restype", "container")];
            let answer = self
                .send(Method::HEAD, &path, &query, HeaderMap::new())
                .await?;
            if answer.status.is_success() {
                return Ok(());
            }
            Err(answer.into_error(About::Bucket).await)
        })
    }
}

/// Where the account's blob service answers: an endpoint that is an address or `localhost`, and has
/// no path, is an emulator's, with the account in the path.
pub(super) fn service_url(endpoint: &str, account: &str) -> String {
    let endpoint = endpoint.trim_end_matches('/');
    let emulator = Url::parse(endpoint).is_ok_and(|url| {
        let address = !matches!(url.host(), Some(url::Host::Domain(name)) if name != "localhost");
        address && url.path() == "/"
    });
    if emulator {
        format!("{endpoint}/{account}")
    } else {
        endpoint.to_owned()
    }
}

/// The emulator's well-known key, for its account, unless the environment has another credential.
pub(super) fn emulator_key(env: &Environment, account: &str) -> Option<&'static str> {
    let others = [
        "AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_STORAGE_ACCESS_KEY",
        "AZURE_STORAGE_SAS_TOKEN",
        "AZURE_STORAGE_SAS_KEY",
    ];
    let own = others.iter().any(|name| env.value(name).is_some());
    (account == EMULATOR_ACCOUNT && !own).then_some(EMULATOR_KEY)
}

fn is_container(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (3..=63).contains(&name.len()) && name.bytes().all(plain)
        || matches!(name, "$root" | "$web" | "$logs")
}

fn no_credentials(error: object_store::Error) -> OriginError {
    tracing::debug!(%error, "no credentials");
    OriginError::Local(
        "no Azure credentials to be had: set AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, or \
         AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, or read the origin anonymously"
            .into(),
    )
}

/// See [`super::fuzz`].
pub(super) fn fuzz(bytes: &[u8]) {
    let _ = (parse_list(bytes, "p/"), parse_containers(bytes));
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn endpoints() {
        for (endpoint, url) in [
            ("http://127.0.0.1:10000", "http://127.0.0.1:10000/acct"),
            ("http://127.0.0.1:10000/acct", "http://127.0.0.1:10000/acct"),
            ("http://localhost:1/", "http://localhost:1/acct"),
            (
                "https://acct.blob.core.chinacloudapi.cn",
                "https://acct.blob.core.chinacloudapi.cn",
            ),
        ] {
            assert_eq!(service_url(endpoint, "acct"), url);
        }
    }

    #[tokio::test]
    async fn tokens_are_not_sent_in_the_clear() {
        let spec = OriginSpec {
            endpoint: Some("http://10.0.0.1:10000".into()),
            env: Some(
                [("AZURE_STORAGE_SAS_TOKEN", "sv=1&sig=x")]
                    .into_iter()
                    .collect(),
            ),
            ..OriginSpec::new("az://acct/cont")
        };
        let origin = Azure::open(&spec, "acct".into(), Some("cont".into()), String::new()).unwrap();
        let name = ObjectName {
            bucket: "cont".into(),
            key: "k".into(),
        };
        let error = origin.head(&name).await.unwrap_err().to_string();
        assert!(error.contains("plain HTTP"), "{error}");
    }
}
