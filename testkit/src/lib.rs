//! Real and faulty servers and clients that tests and benchmarks start.
//!
//! * [`content`]: deterministic bytes of any length whose every byte tells which version of the
//!   object it belongs to, so that a mixture of two versions cannot pass unseen;
//! * [`origin`]: an S3/HTTP origin in this process that counts everything and misbehaves on command;
//! * [`client`]: a small HTTP/1.1 client that reports exactly what came over the wire, and stampedes;
//! * [`process`]: child processes that cannot outlive the test that started them;
//! * [`peers`]: servers that we did not write (moto, s3s-fs, nginx, Varnish, dnsmasq, HAProxy, Azurite, a GCS emulator, Synapse)
//!   and the Python clients;
//! * `tls`: certificates.
//!
//! Everything listens on loopback. Helpers panic with a message that says what to do: they run in
//! tests, where a panic is the report. Not for production: no limits on what a peer may send.

pub mod client;
pub mod content;
pub mod origin;
pub mod peers;
pub mod process;
#[cfg(feature = "tls")]
pub mod tls;
