//! Stores for verified data: memory, local disk, any object store.
//!
//! A store keeps blobs, each put once under a [`Place`] and never changed. Whoever puts a blob has
//! verified it; the store's promise is that what it serves is, byte for byte, what was put, or
//! nothing: every copy outside memory carries checksums, and one that fails them is dropped and
//! counted, never served.
//!
//! | store | holds | survives | made for |
//! |---|---|---|---|
//! | [`MemoryStore`] | segments by reference | nothing | the hottest blobs |
//! | [`DiskStore`] | one file per blob | restart, kill -9, power loss, a full disk | `sendfile` |
//! | [`ObjectBlobStore`] | one object per blob | the node | what a cluster shares |
//!
//! All three pass one suite, `conformance` (behind the feature of that name). Not for: deciding what to fetch or to keep where (the
//! caller joins the tiers), and not for data that changes.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use gannet_store::{BlobStore, MemoryConfig, MemoryStore, Place, Put};
//!
//! let store = MemoryStore::new(MemoryConfig { bytes_max: 1 << 20 });
//! let place = Place::derive("models", [b"weights.bin".as_slice(), b"\"etag\""]);
//! let segments = vec![bytes::Bytes::from_static(b"verified bytes")];
//! assert_eq!(store.put(&place, segments.clone()).await?, Put::Stored);
//! assert_eq!(store.put(&place, segments).await?, Put::Exists);
//! let blob = store.open(&place).await?.expect("just put");
//! assert_eq!(blob.to_bytes(0..8).await?, "verified");
//! # Ok::<_, gannet_store::StoreError>(()) }).unwrap();
//! ```
mod blob;
mod disk;
mod error;
mod evict;
mod frame;
mod memory;
#[cfg(feature = "object")]
mod object;
mod place;
mod stats;
mod store;

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;

pub use blob::{Blob, BlobSource, BlobStream, FileView};
pub use disk::{DiskConfig, DiskStore};
pub use error::StoreError;
#[doc(hidden)]
pub use frame::fuzz;
pub use memory::{MemoryConfig, MemoryStore};
#[cfg(feature = "object")]
pub use object::{ObjectBlobStore, ObjectConfig};
pub use place::Place;
pub use stats::Stats;
pub use store::{BlobStore, BoxFuture, Dropped, Entry, EntryStream, Put};
