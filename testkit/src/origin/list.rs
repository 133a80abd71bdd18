//! S3 XML: listings and errors.

use super::State;
use crate::client::encode_key;
use std::fmt::Write;

/// Decoded parameters of a query string.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(query: &str) -> Self {
        let decode = |text: &str| {
            percent_encoding::percent_decode_str(&text.replace('+', " "))
                .decode_utf8_lossy()
                .into_owned()
        };
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(name, value)| (decode(name), decode(value)))
                .collect(),
        )
    }

    pub(super) fn param(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }
}

/// What is wrong, in S3's words.
pub(super) fn error(code: &str, message: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code>\
         <Message>{}</Message><RequestId>0000000000000000</RequestId></Error>",
        escape(message)
    )
}

/// ListBuckets.
pub(super) fn buckets(state: &State) -> String {
    let mut xml = String::from(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <ListAllMyBucketsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
         <Owner><ID>testkit</ID></Owner><Buckets>",
    );
    for name in state.buckets.keys() {
        let _ = write!(
            xml,
            "<Bucket><Name>{}</Name><CreationDate>2024-01-01T00:00:00.000Z</CreationDate></Bucket>",
            escape(name)
        );
    }
    xml + "</Buckets></ListAllMyBucketsResult>"
}

/// ListObjects, V1 or V2 as asked; none if there is no such bucket.
pub(super) fn objects(state: &State, bucket: &str, query: &Query) -> Option<String> {
    let objects = state.buckets.get(bucket)?;
    let v2 = query.param("list-type") == Some("2");
    let prefix = query.param("prefix").unwrap_or("");
    let delimiter = query.param("delimiter").unwrap_or("");
    let encode = query.param("encoding-type") == Some("url");
    let keys_max = query
        .param("max-keys")
        .and_then(|n| n.parse().ok())
        .unwrap_or(1000)
        .min(1000);
    let after = if v2 {
        let token = query
            .param("continuation-token")
            .and_then(|token| token.strip_prefix("t:"));
        token.or_else(|| query.param("start-after"))
    } else {
        query.param("marker")
    }
    .unwrap_or("");
    let text = |key: &str| if encode { encode_key(key) } else { escape(key) };

    let mut body = String::new();
    let mut count = 0;
    let mut last = String::new();
    let mut truncated = false;
    for (key, object) in objects
        .range(prefix.to_owned()..)
        .take_while(|(k, _)| k.starts_with(prefix))
    {
        let rolled = match key[prefix.len()..].find(delimiter) {
            Some(at) if !delimiter.is_empty() => Some(&key[..prefix.len() + at + delimiter.len()]),
            _ => None,
        };
        let name = rolled.unwrap_or(key);
        if name <= after || (rolled.is_some() && name == last) {
            continue;
        }
        if count == keys_max {
            truncated = true;
            break;
        }
        count += 1;
        name.clone_into(&mut last);
        let _ = match rolled {
            Some(name) => write!(
                body,
                "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>",
                text(name)
            ),
            None => write!(
                body,
                "<Contents><Key>{}</Key><LastModified>{}</LastModified><ETag>{}</ETag>\
                 <Size>{}</Size><StorageClass>STANDARD</StorageClass></Contents>",
                text(key),
                iso8601(object.modified),
                escape(&object.etag),
                object.size
            ),
        };
    }
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
         <Name>{}</Name><Prefix>{}</Prefix><MaxKeys>{keys_max}</MaxKeys>\
         <IsTruncated>{truncated}</IsTruncated>",
        escape(bucket),
        text(prefix),
    );
    if v2 {
        let _ = write!(xml, "<KeyCount>{count}</KeyCount>");
    }
    if !delimiter.is_empty() {
        let _ = write!(xml, "<Delimiter>{}</Delimiter>", text(delimiter));
    }
    if encode {
        xml.push_str("<EncodingType>url</EncodingType>");
    }
    if truncated && v2 {
        let _ = write!(
            xml,
            "<NextContinuationToken>t:{}</NextContinuationToken>",
            escape(&last)
        );
    } else if truncated {
        let _ = write!(xml, "<NextMarker>{}</NextMarker>", text(&last));
    }
    Some(xml + &body + "</ListBucketResult>")
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => {
                let _ = write!(out, "&#{};", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// `2023-11-14T22:13:20.000Z`, from the fixed layout of an HTTP date (RFC 9110, 5.6.7).
fn iso8601(time: std::time::SystemTime) -> String {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let date = httpdate::fmt_http_date(time);
    let month = MONTHS.find(&date[8..11]).map_or(1, |at| at / 3 + 1);
    format!(
        "{}-{month:02}-{}T{}.000Z",
        &date[12..16],
        &date[5..7],
        &date[17..25]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
        assert_eq!(iso8601(time), "2023-11-14T22:13:20.000Z");
    }
}
