//! Servers are found, reached, asked and believed as they should be: over real TLS, real name servers,
//! and with servers that misbehave.

mod discovery;
mod federation;
mod keys;
mod server;

use gannet_matrix::net::{AddressPolicy, NetConfig, Roots};
use gannet_testkit::{peers::Dnsmasq, tls::Ca};
use server::Server;
use std::time::Duration;

/// This authority, and no other.
fn roots(ca: &Ca) -> Roots {
    Roots::Only(vec![ca.der()])
}

/// As tests need it: loopback is allowed, and nothing takes long.
fn config(ca: &Ca) -> NetConfig {
    let mut config = NetConfig::default();
    let loopback = ["127.0.0.1", "::1"].map(|ip| ip.parse().unwrap());
    config.policy = AddressPolicy::allowing(loopback);
    config.roots = roots(ca);
    // Nobody answers there: names are given, unless a test has a name server.
    config.name_server = Some("127.0.0.1:1".parse().unwrap());
    config.dns_timeout = Duration::from_millis(20);
    config
}

/// Names are asked of this one.
fn ask_names(config: &mut NetConfig, dns: &Dnsmasq) {
    config.name_server = Some(dns.addr());
    config.dns_timeout = Duration::from_secs(30);
    config.resolve_timeout = Duration::from_secs(120);
}

/// Names that lead to a server, at the port of well-knowns and at that of federation.
fn lead(config: &mut NetConfig, name: &str, well_known: &Server, federation: &Server) {
    config.well_known_port = well_known.port();
    config
        .overrides
        .give(name, well_known.port(), well_known.addr);
    config.overrides.give(name, 8448, federation.addr);
}
