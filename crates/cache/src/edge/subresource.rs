//! The small questions that clients ask about buckets and objects by naming a sub-resource in the
//! query (`?location`, `?versioning`, ...), and what a read-only cache answers to each.

use super::{failure::Failure, query::Query, xml::Xml};
use bytes::Bytes;

/// The region that this endpoint says it is in. Signatures for any region are taken.
pub(crate) const REGION: &str = "us-east-1";

/// What a sub-resource is answered with.
enum Answer {
    /// An empty document with this root.
    Empty(&'static str),
    /// A document with this root, element and text.
    Element(&'static str, &'static str, &'static str),
    /// 404 with this code: the bucket has no such thing.
    Absent(&'static str, &'static str),
}

/// What can be said of a bucket of a cache. Empty location: us-east-1, in AWS's old way of saying it.
const BUCKET: &[(&str, Answer)] = &[
    ("location", Answer::Empty("LocationConstraint")),
    ("versioning", Answer::Empty("VersioningConfiguration")),
    ("logging", Answer::Empty("BucketLoggingStatus")),
    ("notification", Answer::Empty("NotificationConfiguration")),
    ("accelerate", Answer::Empty("AccelerateConfiguration")),
    (
        "requestPayment",
        Answer::Element("RequestPaymentConfiguration", "Payer", "BucketOwner"),
    ),
    (
        "policy",
        Answer::Absent("NoSuchBucketPolicy", "The bucket policy does not exist"),
    ),
    (
        "tagging",
        Answer::Absent("NoSuchTagSet", "The TagSet does not exist"),
    ),
    (
        "cors",
        Answer::Absent(
            "NoSuchCORSConfiguration",
            "The CORS configuration does not exist",
        ),
    ),
    (
        "lifecycle",
        Answer::Absent(
            "NoSuchLifecycleConfiguration",
            "The lifecycle configuration does not exist",
        ),
    ),
    (
        "website",
        Answer::Absent(
            "NoSuchWebsiteConfiguration",
            "The specified bucket does not have a website configuration",
        ),
    ),
    (
        "encryption",
        Answer::Absent(
            "ServerSideEncryptionConfigurationNotFoundError",
            "The server side encryption configuration was not found",
        ),
    ),
    (
        "object-lock",
        Answer::Absent(
            "ObjectLockConfigurationNotFoundError",
            "Object Lock configuration does not exist for this bucket",
        ),
    ),
    (
        "replication",
        Answer::Absent(
            "ReplicationConfigurationNotFoundError",
            "The replication configuration was not found",
        ),
    ),
    (
        "publicAccessBlock",
        Answer::Absent(
            "NoSuchPublicAccessBlockConfiguration",
            "The public access block configuration was not found",
        ),
    ),
    (
        "ownershipControls",
        Answer::Absent(
            "OwnershipControlsNotFoundError",
            "The bucket ownership controls were not found",
        ),
    ),
];

/// What a cache cannot say of a bucket.
const BUCKET_UNKNOWN: &[&str] = &[
    "acl",
    "analytics",
    "attributes",
    "intelligent-tiering",
    "inventory",
    "metadataTable",
    "metrics",
    "policyStatus",
    "session",
    "uploads",
    "versions",
];

/// What a cache does not keep of an object.
const OBJECT_UNKNOWN: &[&str] = &[
    "acl",
    "attributes",
    "legal-hold",
    "retention",
    "tagging",
    "torrent",
    "uploadId",
];

/// Answers for a bucket that exists. `None`: no sub-resource is named, the bucket is to be listed.
pub(crate) fn of_bucket(query: &Query<'_>) -> Option<Result<Bytes, Failure>> {
    if let Some(name) = BUCKET_UNKNOWN.iter().find(|name| query.has(name)) {
        return Some(Err(unknown(name)));
    }
    let (_, answer) = BUCKET.iter().find(|(name, _)| query.has(name))?;
    Some(match answer {
        Answer::Empty(root) => Ok(Xml::document(root, |_| ())),
        Answer::Element(root, tag, text) => Ok(Xml::document(root, |xml| xml.text(tag, text))),
        Answer::Absent(code, message) => Err(Failure::not_found(code, message)),
    })
}

/// Refuses what is asked beside an object's bytes and metadata.
pub(crate) fn of_object(query: &Query<'_>) -> Result<(), Failure> {
    if query.has("versionId") {
        return Err(Failure::not_implemented(
            "versionId is not supported: this cache serves the current version of each object.",
        ));
    }
    match OBJECT_UNKNOWN.iter().find(|name| query.has(name)) {
        Some(name) => Err(unknown(name)),
        None => Ok(()),
    }
}

fn unknown(name: &str) -> Failure {
    Failure::not_implemented(format!("A cache does not keep `{name}`: ask the origin."))
}
