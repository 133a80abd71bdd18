//! In place of iroh where it is not built in: no scene asks for it.

use kitsune2_api::{Config, DynTransportFactory};

pub(crate) enum Relay {}

impl Relay {
    pub(crate) async fn start() -> Self {
        panic!("built without the feature iroh")
    }

    pub(crate) fn url(&self) -> String {
        match *self {}
    }
}

pub(crate) fn transport() -> DynTransportFactory {
    panic!("built without the feature iroh")
}

pub(crate) fn configure(_: &Config, _: &str) {}
