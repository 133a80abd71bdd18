//! The client side: HTTP for `gannet get` and `gannet warm`, and files that can be resumed.

pub mod content_range;
pub mod http;
pub mod part;
pub mod progress;
