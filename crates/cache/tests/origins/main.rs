//! Origins against servers that we did not write, and against one that means harm.

mod clouds;
mod hostile;
mod real;
mod script;

use futures_util::TryStreamExt;
use gannet_cache::{
    origin::{Environment, Origin, OriginError, OriginSpec, open},
    types::{ListQuery, ObjectName},
};
use std::{ops::Range, sync::Arc};

/// An origin that takes nothing from the environment of the tests but these variables.
fn origin(url: &str, endpoint: Option<&str>, env: &[(&str, &str)]) -> Arc<dyn Origin> {
    let spec = OriginSpec {
        endpoint: endpoint.map(Into::into),
        env: Some(env.iter().copied().collect::<Environment>()),
        anonymous: env.is_empty() && !url.starts_with("az"),
        ..OriginSpec::new(url)
    };
    open(&spec).unwrap_or_else(|error| panic!("{url}: {error}"))
}

/// An origin at an endpoint that is asked without credentials.
fn anonymous(url: &str, endpoint: &str) -> Arc<dyn Origin> {
    let spec = OriginSpec {
        endpoint: Some(endpoint.to_owned()),
        anonymous: true,
        env: Some(Environment::default()),
        ..OriginSpec::new(url)
    };
    open(&spec).unwrap()
}

fn name(bucket: &str, key: &str) -> ObjectName {
    ObjectName {
        bucket: bucket.into(),
        key: key.into(),
    }
}

/// Reads a range to its end.
async fn read(
    origin: &dyn Origin,
    name: &ObjectName,
    etag: &str,
    range: Range<u64>,
) -> Result<Vec<u8>, OriginError> {
    let stream = origin.read(name, etag, None, range).await?;
    let pieces: Vec<_> = stream.try_collect().await?;
    Ok(pieces.concat())
}

/// Everything that a listing holds, page by page: keys and common prefixes, in order.
async fn list_all(
    origin: &dyn Origin,
    bucket: &str,
    prefix: &str,
    delimiter: Option<&str>,
    start_after: Option<&str>,
    keys_max: u16,
) -> Result<Vec<String>, OriginError> {
    let mut query = ListQuery {
        bucket: bucket.into(),
        prefix: prefix.into(),
        delimiter: delimiter.map(Into::into),
        start_after: start_after.map(Into::into),
        token: None,
        keys_max,
    };
    let mut all = Vec::new();
    for _ in 0..10_000 {
        let page = origin.list(&query).await?;
        assert!(page.objects.len() + page.prefixes.len() <= usize::from(keys_max));
        let mut names: Vec<String> = page.objects.into_iter().map(|object| object.key).collect();
        names.extend(page.prefixes);
        names.sort_unstable();
        all.extend(names);
        match page.next {
            Some(next) => query.token = Some(next),
            None => return Ok(all),
        }
    }
    panic!("a listing without end");
}

/// S3's listing of keys, said plainly.
fn model(keys: &[&str], prefix: &str, delimiter: Option<&str>, after: &str) -> Vec<String> {
    let mut keys: Vec<&str> = keys.to_vec();
    keys.sort_unstable();
    let mut out: Vec<String> = keys
        .into_iter()
        .filter(|key| key.starts_with(prefix))
        .map(|key| {
            match delimiter
                .and_then(|delimiter| Some((delimiter, key[prefix.len()..].find(delimiter)?)))
            {
                Some((delimiter, at)) => key[..prefix.len() + at + delimiter.len()].to_owned(),
                None => key.to_owned(),
            }
        })
        .filter(|entry| entry.as_str() > after)
        .collect();
    out.dedup();
    out
}
