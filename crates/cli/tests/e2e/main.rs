//! The program as its users meet it: the real binary, real S3 clients, real signals.
//!
//! The clients come from `testkit/install.sh`. Every server is given port 0, and every wait is for a
//! condition.

mod clients;
mod crash;
mod downloads;
mod ending;
mod harness;
