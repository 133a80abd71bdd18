//! The edge over real loopback sockets, in front of a backend that is a plain map.

mod auth;
mod differential;
mod hostile;
mod lists;
mod objects;
mod support;
mod transport;
