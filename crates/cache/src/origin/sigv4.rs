//! AWS Signature Version 4, as S3 wants it, for requests without a body.
//!
//! `object_store`'s own signer reads the path through a URL parser, which resolves `a/../b` and
//! signs another object than the one asked for; this one signs the bytes that go on the wire. For
//! all other paths a test holds the two equal.
//!
//! Source: <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>

use super::OriginError;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderName, HeaderValue, Method, header};
use object_store::aws::AwsCredential;
use sha2::{Digest, Sha256};
use std::{fmt::Write as _, time::SystemTime};
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

/// SHA-256 of nothing: the payload of a GET or HEAD.
const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const AMZ_DATE: HeaderName = HeaderName::from_static("x-amz-date");
const AMZ_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const AMZ_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");
const STAMP: &[BorrowedFormatItem<'_>] =
    format_description!("[year][month][day]T[hour][minute][second]Z");

/// What is signed: the request as it goes on the wire.
#[derive(Debug)]
pub(crate) struct ToSign<'a> {
    /// GET or HEAD.
    pub(crate) method: &'a Method,
    /// The Host header.
    pub(crate) host: &'a str,
    /// The path, percent-encoded once.
    pub(crate) path: &'a str,
    /// The query, in canonical order ([`super::encode::query`]).
    pub(crate) query: &'a str,
    /// Further `x-amz-*` headers, lower case, sorted by name.
    pub(crate) amz: &'a [(HeaderName, HeaderValue)],
    /// The region of the bucket.
    pub(crate) region: &'a str,
    /// Now.
    pub(crate) at: SystemTime,
}

/// The headers that sign a request: `Authorization` and the `x-amz-*` that it covers, without those
/// in [`ToSign::amz`].
pub(crate) fn sign(
    request: &ToSign<'_>,
    credential: &AwsCredential,
) -> Result<Vec<(HeaderName, HeaderValue)>, OriginError> {
    let stamp = OffsetDateTime::from(request.at)
        .format(STAMP)
        .map_err(|_| OriginError::Local("the clock is outside of what can be signed".into()))?;
    let day = &stamp[..8];

    let mut added = vec![
        (AMZ_SHA256, HeaderValue::from_static(EMPTY_SHA256)),
        (AMZ_DATE, value(&stamp)?),
    ];
    if let Some(token) = &credential.token {
        let mut token = value(token)?;
        token.set_sensitive(true);
        added.push((AMZ_TOKEN, token));
    }

    let mut covered: Vec<(&str, &str)> = vec![("host", request.host)];
    for (name, value) in request.amz.iter().chain(&added) {
        let text = value
            .to_str()
            .map_err(|_| OriginError::Local("unsignable header".into()))?;
        covered.push((name.as_str(), text.trim()));
    }
    covered.sort_unstable();
    let names = covered
        .iter()
        .map(|(name, _)| *name)
        .collect::<Vec<_>>()
        .join(";");

    let mut canonical = format!("{}\n{}\n{}\n", request.method, request.path, request.query);
    for (name, value) in &covered {
        let _ = writeln!(canonical, "{name}:{value}");
    }
    let _ = write!(canonical, "\n{names}\n{EMPTY_SHA256}");

    let scope = format!("{day}/{}/s3/aws4_request", request.region);
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}",
        hex(&Sha256::digest(canonical.as_bytes()))
    );

    let secret = format!("AWS4{}", credential.secret_key);
    let key = [day, request.region, "s3", "aws4_request"]
        .iter()
        .fold(secret.into_bytes(), |key, part| {
            hmac(&key, part.as_bytes()).to_vec()
        });
    let signature = hex(&hmac(&key, to_sign.as_bytes()));

    let mut authorization = value(&format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
        credential.key_id
    ))?;
    authorization.set_sensitive(true);
    added.push((header::AUTHORIZATION, authorization));
    Ok(added)
}

fn value(text: &str) -> Result<HeaderValue, OriginError> {
    HeaderValue::from_str(text).map_err(|_| {
        OriginError::Local("the credentials hold characters that no header can".into())
    })
}

fn hmac(key: &[u8], data: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(data);
    mac.finalize().into_bytes().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
            let _ = write!(out, "{byte:02x}");
            out
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::encode;
    use object_store::{
        aws::AwsAuthorizer,
        client::{HttpRequest, HttpRequestBody},
    };
    use proptest::prelude::*;
    use std::time::Duration;

    fn credential(token: Option<&str>) -> AwsCredential {
        AwsCredential {
            key_id: "AKIAIOSFODNN7EXAMPLE".into(),
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
            token: token.map(Into::into),
        }
    }

    fn authorization(headers: &[(HeaderName, HeaderValue)]) -> &str {
        let found = headers
            .iter()
            .find(|(name, _)| name == header::AUTHORIZATION);
        found.unwrap().1.to_str().unwrap()
    }

    /// The example "GET Bucket (List Objects)" of the specification.
    #[test]
    fn the_specifications_example() {
        let headers = sign(
            &ToSign {
                method: &Method::GET,
                host: "examplebucket.s3.amazonaws.com",
                path: "/",
                query: &encode::query(&[("prefix", "J"), ("max-keys", "2")]),
                amz: &[],
                region: "us-east-1",
                at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_369_353_600),
            },
            &credential(None),
        )
        .unwrap();
        let expected = "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7";
        assert!(authorization(&headers).ends_with(expected), "{headers:?}");
    }

    #[test]
    fn secrets_are_not_printed() {
        let headers = sign(
            &ToSign {
                method: &Method::GET,
                host: "h",
                path: "/",
                query: "",
                amz: &[],
                region: "r",
                at: SystemTime::UNIX_EPOCH,
            },
            &credential(Some("the-token")),
        )
        .unwrap();
        let printed = format!("{headers:?}");
        assert!(
            !printed.contains("the-token") && !printed.contains("Signature="),
            "{printed}"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// Where a URL parser leaves the path alone, `object_store` signs the same.
        #[test]
        fn agrees_with_object_store(
            key in "[a-zA-Z0-9 +%?#&=ü€~_-]{1,20}(/[a-zA-Z0-9 +]{1,9}){0,3}/?",
            prefix in ".{0,20}",
            token in proptest::option::of("[a-zA-Z0-9/+=]{1,40}"),
        ) {
            let credential = credential(token.as_deref());
            let mut path = String::from("/bucket/");
            encode::push_path(&mut path, &key);
            let query = encode::query(&[("prefix", &prefix), ("list-type", "2")]);
            let mut request = HttpRequest::new(HttpRequestBody::empty());
            *request.uri_mut() = format!("http://127.0.0.1:9000{path}?{query}").parse().unwrap();
            AwsAuthorizer::new(&credential, "s3", "eu-west-1").try_authorize(&mut request, None).unwrap();

            let stamp = request.headers()["x-amz-date"].to_str().unwrap();
            let at = time::PrimitiveDateTime::parse(stamp, STAMP).unwrap().assume_utc().into();
            let ours = sign(
                &ToSign {
                    method: &Method::GET,
                    host: "127.0.0.1:9000",
                    path: &path,
                    query: &query,
                    amz: &[],
                    region: "eu-west-1",
                    at,
                },
                &credential,
            )
            .unwrap();
            prop_assert_eq!(authorization(&ours), request.headers()["authorization"].to_str().unwrap());
        }
    }
}
