//! Doors for the fuzz targets to the parsers that are not public. (Those that are: [`ByteRange::parse`],
//! [`Conditions::judge`], [`Target::parse`], [`Rules::parse`].)
//!
//! [`ByteRange::parse`]: super::range::ByteRange::parse
//! [`Conditions::judge`]: super::condition::Conditions::judge
//! [`Target::parse`]: super::target::Target::parse
//! [`Rules::parse`]: super::auth::Rules::parse

use super::{
    h1::head::{self, HeadLimits},
    list::Listing,
    query::Query,
};
use crate::types::ListPage;

/// Reads bytes as the head of an HTTP/1 request.
///
/// # Panics
/// If a head is longer than the bytes it was read from, or than the limit.
pub fn request_head(bytes: &[u8]) {
    let limits = HeadLimits {
        bytes_max: 4096,
        target_max: 1024,
    };
    let mut slots = head::slots();
    if let Ok(Some(head)) = head::parse(bytes, &mut slots, &limits) {
        assert!(head.len <= bytes.len().min(limits.bytes_max));
        assert!(head.target.len() <= limits.target_max);
        assert!(head::complete(bytes, 0), "the end of every head is found");
    }
}

/// Reads the query of a listing, and writes the answer to it.
///
/// # Panics
/// If more entries are asked for than S3 allows.
pub fn listing(query: &str) {
    if let Ok(listing) = Listing::parse("bucket", &Query::parse(Some(query))) {
        assert!(listing.query.keys_max <= 1000);
        listing.to_xml(&ListPage::default());
    }
}
