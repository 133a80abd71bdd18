//! Fetch each thing once, from whichever source can prove it has it, and hand it to everyone who asked.
//!
//! Every distributed system writes this layer: coalesce callers who want the same thing, pick a
//! source, time it out, try another, race two, resume what broke off, check what came, store it,
//! remember who is slow. Here it is written once. The engine ([`gannet_engine`]) decides, as a plain state
//! machine; this crate gives it a clock, tasks and bytes.
//!
//! # The parts
//!
//! | you bring | what it answers | ready-made |
//! |---|---|---|
//! | [`Transport`] | how one request is put to one source | [`http::HttpTransport`] |
//! | [`Select`] | which sources may serve a key, best first | [`InOrder`], any closure |
//! | [`Judge`] | whether an answer is the datum | [`AcceptAll`], any closure |
//! | [`Store`] | what is held already, and where data is committed | [`NoStore`], `gannet-store` |
//!
//! They make a [`Fetcher`]. [`Fetcher::fetch`] gives a datum as a whole, [`Fetcher::stream`] as it
//! arrives; a [`Plan`](engine::Plan) says how to go about it. The other side, answering those who ask
//! us, is [`serve`]. What can be counted goes out through [`metrics`].
//!
//! ```
//! use bytes::Bytes;
//! use gannet::{
//!     Answer, AttemptError, Body, Fetcher, Request, Transport,
//!     engine::{Fault, GroupId, SourceId, Verdict},
//! };
//!
//! /// Source 1 cannot be reached, source 2 gets it wrong, source 3 doubles.
//! struct Doubling;
//!
//! impl Transport for Doubling {
//!     type Key = u32;
//!     type Meta = ();
//!
//!     async fn open(&self, request: Request<u32, ()>) -> Result<Answer<()>, AttemptError> {
//!         let doubled = match request.source.0 {
//!             1 => return Err(AttemptError::failed(Fault::Unreachable, "no route")),
//!             2 => request.key + 2,
//!             _ => request.key * 2,
//!         };
//!         Ok(Answer::whole((), Bytes::from(doubled.to_string())))
//!     }
//! }
//!
//! fn judge(key: &u32, _: &(), body: &Body) -> Verdict {
//!     let fits = body.to_bytes() == (key * 2).to_string();
//!     if fits { Verdict::Valid } else { Verdict::Invalid }
//! }
//!
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! let fetcher = Fetcher::builder(Doubling).judge(judge).build()?;
//! for n in 1..=3 {
//!     fetcher.add_source(SourceId(n), GroupId(n));
//! }
//! // Two callers, one fetch.
//! let (a, b) = tokio::join!(fetcher.fetch(21).into_future(), fetcher.fetch(21).into_future());
//! assert_eq!(a?.body.to_bytes(), "42");
//! assert_eq!(b?.sources.as_slice(), [SourceId(3)]);
//! # Ok(())
//! # }
//! # use std::future::IntoFuture;
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(f()).unwrap();
//! ```
//!
//! # Guarantees
//!
//! - A key is fetched once at a time, however many ask; each caller gets exactly one outcome, or an
//!   error if the fetcher goes away. None waits for ever on a fetcher that is gone.
//! - Bytes of two versions are never mixed. A source that fails in the middle is continued at the byte
//!   where it stopped, by a source of the same [`identity`](Answer::identity); where there is none, the
//!   caller that has seen bytes is cut ([`StreamError::Cut`]), and others start over unseen.
//! - [`Fetcher::fetch`] gives nothing that the judge has not found valid. A stream gives bytes as they
//!   come, for data whose transport or judge can vouch for them piece by piece, and *ends* only after
//!   the verdict (and after the commit, under [`Commit::BeforeFinish`](engine::Commit)).
//! - Memory is bounded: what is under way by the engine's reservations, each body by a window, what
//!   only slow readers keep by a budget. A slow reader slows nobody.
//! - Dropping is cancelling: a future or reader that is dropped releases its caller, and the last caller
//!   of a fetch that is not detached ends its requests.
//! - Whatever you bring may panic or hang: a panic counts as a fault, a missing verdict or a failed
//!   commit; what hangs is bounded by the plan's timeouts.
//!
//! # Cost
//!
//! One task holds all state, so that nothing in flight is locked; a fetch costs two messages and an
//! attempt one task. Bytes never pass through that task: transports append to a [`body::SharedBody`],
//! and all readers share its segments without a copy.
//!
//! # Logs
//!
//! Spans `fetch` (with its id and key) and `attempt` (id, source, first byte, why) at debug level;
//! events in them say what was asked, how it ended and what the engine decided. No payloads, and no
//! details beyond those that transports give.
//!
//! # Versions
//!
//! Rust 1.92 or later. Feature `http` (on by default): [`http`], with hyper and rustls.

pub mod body;
mod config;
mod driver;
mod error;
mod fetch;
mod fetched;
mod fetcher;
#[cfg(feature = "http")]
pub mod http;
mod judge;
pub mod metrics;
mod select;
pub mod serve;
mod soon;
mod store;
mod transport;

pub use body::Body;
pub use config::Config;
pub use driver::Heartbeat;
pub use error::{ErrorKind, FetchError, StreamError, Tried};
pub use fetch::{AsItArrives, Fetch, Whole};
pub use fetched::{BodyReader, Fetched, Streaming};
pub use fetcher::{Builder, Fetcher, Gauges};
pub use gannet_engine as engine;
pub use judge::{AcceptAll, Answered, Judge};
pub use select::{InOrder, Select};
pub use soon::Soon;
pub use store::{Datum, NoStore, Store};
pub use transport::{Answer, AttemptError, ByteStream, Request, Transport};
