//! What is needed to measure over iroh: a relay on loopback, and the transport that knows it.

use kitsune2_api::{Config, DynTransportFactory};
use kitsune2_test_utils::bootstrap::TestBootstrapSrv;
use kitsune2_transport_iroh::{IrohTransportConfig, IrohTransportFactory, IrohTransportModConfig};

/// A relay, for as long as it is not dropped.
pub(crate) struct Relay(TestBootstrapSrv);

impl Relay {
    pub(crate) async fn start() -> Self {
        Self(TestBootstrapSrv::new(false).await)
    }

    pub(crate) fn url(&self) -> String {
        format!("{}/relay", self.0.addr())
    }
}

pub(crate) fn transport() -> DynTransportFactory {
    IrohTransportFactory::create()
}

pub(crate) fn configure(config: &Config, relay: &str) {
    let iroh_transport = IrohTransportConfig {
        relay_url: Some(relay.to_owned()),
        relay_allow_plain_text: true,
        ..IrohTransportConfig::default()
    };
    let config = config.set_module_config(&IrohTransportModConfig { iroh_transport });
    config.expect("a module's settings");
}
