//! The commands, one module each.

pub mod cache;
pub mod config;
pub mod get;
pub mod matrix;
pub mod status;
pub mod warm;
