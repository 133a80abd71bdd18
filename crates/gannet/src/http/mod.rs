//! HTTP: a plain client, and a transport on top of it.
//!
//! [`Client`] sends one request and gives one answer: no redirects, no retries (but
//! on a kept connection that the server has given up meanwhile), nothing decompressed. Failures are told apart as the engine wants them ([`HttpError::fault`]), statuses
//! likewise ([`end_of_status`]).

mod client;
mod connect;
mod status;
mod transport;

#[cfg(test)]
mod tests;

pub use client::{Client, ClientConfig, ConfigError, HttpError, HttpErrorKind};
pub use status::{end_of_status, retry_after};
pub use transport::{HttpMeta, HttpTransport};
