//! What Azure answers: kinds of blobs, pages of blobs and containers. Pure functions of bytes from
//! outside.

use super::{OriginError, validators};
use crate::{
    origin::xml::{self, XmlError},
    types::{ListEntry, ListPage},
};
use http::{HeaderMap, HeaderName};
use std::time::SystemTime;

const BLOB_TYPE: HeaderName = HeaderName::from_static("x-ms-blob-type");
const RESOURCE_TYPE: HeaderName = HeaderName::from_static("x-ms-resource-type");

/// Refuses whatever is not a block blob.
pub(super) fn block_blob(answer: &HeaderMap) -> Result<(), OriginError> {
    if answer
        .get(&RESOURCE_TYPE)
        .is_some_and(|kind| kind == "directory")
    {
        return Err(OriginError::NoSuchKey);
    }
    match answer.get(&BLOB_TYPE).and_then(|kind| kind.to_str().ok()) {
        Some("BlockBlob") => Ok(()),
        Some(kind) => {
            let kind: String = kind.chars().take(30).collect();
            Err(OriginError::Unsupported(
                format!("a {kind}: only block blobs are served").into(),
            ))
        }
        None => Err(OriginError::Malformed(
            "the answer does not say which kind of blob it is".into(),
        )),
    }
}

/// Cuts a page to `max` entries in order; the last one that stays.
pub(super) fn cut(page: &mut ListPage, max: usize) -> String {
    let mut names: Vec<&str> = page
        .objects
        .iter()
        .map(|object| object.key.as_str())
        .chain(page.prefixes.iter().map(String::as_str))
        .collect();
    names.sort_unstable();
    let last = names
        .get(max.saturating_sub(1))
        .copied()
        .unwrap_or_default()
        .to_owned();
    page.objects.retain(|object| object.key <= last);
    page.prefixes.retain(|prefix| *prefix <= last);
    last
}

/// `EnumerationResults` of blobs: a page without `below`, and the next marker (empty on the last).
pub(super) fn parse_list(body: &[u8], below: &str) -> Result<(ListPage, String), XmlError> {
    let mut page = ListPage::default();
    let mut marker = String::new();
    let mut entry = Entry::default();
    xml::walk(body, |element| {
        if element.path[0] != "EnumerationResults" {
            return Err(XmlError::Unexpected);
        }
        let text = element.text;
        let name = || {
            let name = if element.encoded {
                percent_encoding::percent_decode_str(text)
                    .decode_utf8()
                    .map_err(|_| XmlError::Unexpected)?
                    .into_owned()
            } else {
                text.to_owned()
            };
            name.strip_prefix(below)
                .map(str::to_owned)
                .ok_or(XmlError::Unexpected)
        };
        if element.is(&["Blobs", "Blob", "Name"]) {
            entry.key = Some(name()?);
        } else if element.is(&["Blobs", "Blob", "Properties", "Content-Length"]) {
            entry.size = validators::digits(text.trim());
        } else if element.is(&["Blobs", "Blob", "Properties", "Etag"]) {
            entry.etag = match validators::parse_etag(text) {
                Some(validators::Etag::Strong(etag)) => Some(etag.to_string()),
                _ => None,
            };
        } else if element.is(&["Blobs", "Blob", "Properties", "Last-Modified"]) {
            entry.modified = httpdate::parse_http_date(text.trim()).ok();
        } else if element.is(&["Blobs", "Blob", "Properties", "ResourceType"]) {
            entry.directory = text.trim() == "directory";
        } else if element.is(&["Blobs", "Blob"]) {
            let entry = std::mem::take(&mut entry);
            let key = entry.key.ok_or(XmlError::Unexpected)?;
            if !entry.directory && !key.is_empty() {
                page.objects.push(ListEntry {
                    key,
                    size: entry.size.ok_or(XmlError::Unexpected)?,
                    etag: entry.etag,
                    modified: entry.modified.unwrap_or(SystemTime::UNIX_EPOCH),
                    storage_class: None,
                });
            }
        } else if element.is(&["Blobs", "BlobPrefix", "Name"]) {
            page.prefixes.push(name()?);
        } else if element.is(&["NextMarker"]) {
            text.trim().clone_into(&mut marker);
        }
        Ok(())
    })?;
    Ok((page, marker))
}

#[derive(Default)]
struct Entry {
    key: Option<String>,
    size: Option<u64>,
    etag: Option<String>,
    modified: Option<SystemTime>,
    directory: bool,
}

/// `EnumerationResults` of containers: their names, and the next marker.
pub(super) fn parse_containers(body: &[u8]) -> Result<(Vec<String>, String), XmlError> {
    let mut names = Vec::new();
    let mut marker = String::new();
    xml::walk(body, |element| {
        if element.path[0] != "EnumerationResults" {
            return Err(XmlError::Unexpected);
        }
        if element.is(&["Containers", "Container", "Name"]) {
            names.push(element.text.trim().to_owned());
        } else if element.is(&["NextMarker"]) {
            element.text.trim().clone_into(&mut marker);
        }
        Ok(())
    })?;
    Ok((names, marker))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::wire;
    use http::HeaderValue;
    use proptest::prelude::*;

    const PAGE: &str = r#"<?xml version="1.0" encoding="utf-8"?><EnumerationResults>
<Blobs><Blob><Name>p/a b</Name><Properties><Last-Modified>Thu, 01 Jan 1970 00:00:09 GMT</Last-Modified>
<Etag>0x8D</Etag><Content-Length>7</Content-Length><BlobType>BlockBlob</BlobType></Properties></Blob>
<Blob><Name Encoded="true">p/%EF%BF%BE</Name><Properties><Content-Length>1</Content-Length></Properties></Blob>
<Blob><Name>p/d</Name><Properties><ResourceType>directory</ResourceType><Content-Length>0</Content-Length></Properties></Blob>
<BlobPrefix><Name>p/x/</Name></BlobPrefix></Blobs><NextMarker>m</NextMarker></EnumerationResults>"#;

    #[test]
    fn a_page() {
        let (page, marker) = parse_list(PAGE.as_bytes(), "p/").unwrap();
        let keys: Vec<&str> = page.objects.iter().map(|o| o.key.as_str()).collect();
        assert_eq!(keys, ["a b", "\u{fffe}"]);
        assert_eq!(page.objects[0].etag.as_deref(), Some("\"0x8D\""));
        assert_eq!(page.prefixes, ["x/"]);
        assert_eq!(marker, "m");
        assert!(parse_list(PAGE.as_bytes(), "other/").is_err());
        assert!(parse_list(b"<Error/>", "").is_err());
    }

    #[test]
    fn a_page_is_cut_in_order() {
        let (mut page, _) = parse_list(PAGE.as_bytes(), "p/").unwrap();
        assert_eq!(cut(&mut page, 2), "x/");
        assert_eq!((page.objects.len(), page.prefixes.len()), (1, 1));
    }

    #[test]
    fn kinds_of_blobs() {
        let of = |kind| wire::with(BLOB_TYPE, HeaderValue::from_static(kind));
        assert!(block_blob(&of("BlockBlob")).is_ok());
        assert!(matches!(
            block_blob(&of("PageBlob")),
            Err(OriginError::Unsupported(_))
        ));
        assert!(matches!(
            block_blob(&HeaderMap::new()),
            Err(OriginError::Malformed(_))
        ));
    }

    proptest! {
        #[test]
        fn never_panics(middle in "(<(Blobs|Blob|Name|/Name|/Blob|/Blobs)>|[%a0]{1,3}){0,30}") {
            let xml = format!("<EnumerationResults>{middle}</EnumerationResults>");
            let _ = (parse_list(xml.as_bytes(), "a"), parse_containers(xml.as_bytes()));
        }
    }
}
