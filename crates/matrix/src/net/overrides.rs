//! Addresses that are given rather than looked up: `--resolve HOST:PORT:ADDRESS`, as curl has it.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

/// Addresses that are used in place of those that a name service would give, for a host and a port.
///
/// The [policy](super::AddressPolicy) holds for them as for any other. A name is still what
/// certificates are compared with and what the `Host` header says.
///
/// ```
/// use gannet_matrix::net::Overrides;
///
/// let given: Overrides = ["matrix.example.org:8448:192.0.2.7".parse()?].into_iter().collect();
/// assert_eq!(given.find("Matrix.Example.org", 8448), Some("192.0.2.7:8448".parse().unwrap()));
/// assert_eq!(given.find("matrix.example.org", 443), None);
/// # Ok::<_, gannet_matrix::net::BadOverride>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides(HashMap<(String, u16), SocketAddr>);

/// One address that is given: `HOST:PORT:ADDRESS`, the address with a port of its own or without, and
/// IPv6 addresses in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The host, a name or an address without brackets.
    pub host: String,
    /// The port that would be connected to.
    pub port: u16,
    /// What is connected to in its place.
    pub addr: SocketAddr,
}

/// What names no address for a host and a port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} gives no address: write HOST:PORT:ADDRESS, as in matrix.example.org:8448:192.0.2.7")]
pub struct BadOverride(String);

impl FromStr for Override {
    type Err = BadOverride;

    fn from_str(text: &str) -> Result<Self, BadOverride> {
        let parse = || {
            let (host, rest) = match text.strip_prefix('[') {
                Some(rest) => rest.split_once("]:")?,
                None => text.split_once(':')?,
            };
            let (port, addr) = rest.split_once(':')?;
            let port = port.parse().ok()?;
            let ip = addr
                .strip_prefix('[')
                .and_then(|addr| addr.strip_suffix(']'));
            let ip = ip.unwrap_or(addr).parse::<IpAddr>().ok();
            let addr = match ip {
                Some(ip) => SocketAddr::new(ip, port),
                None => addr.parse().ok()?,
            };
            let host = normal(host);
            (!host.is_empty()).then_some(Self { host, port, addr })
        };
        parse().ok_or_else(|| BadOverride(text.chars().take(300).collect()))
    }
}

/// A host as it is looked for: lower case, without the dot at the end; addresses in one spelling.
fn normal(host: &str) -> String {
    let host = host.strip_prefix('[').unwrap_or(host);
    let host = host.strip_suffix(']').unwrap_or(host);
    match host.parse::<IpAddr>() {
        Ok(ip) => ip.to_string(),
        Err(_) => host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase(),
    }
}

impl Overrides {
    /// None: everything is looked up.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives an address for a host and a port.
    pub fn give(&mut self, host: &str, port: u16, addr: SocketAddr) {
        self.0.insert((normal(host), port), addr);
    }

    /// The address that was given for a host and a port.
    pub fn find(&self, host: &str, port: u16) -> Option<SocketAddr> {
        if self.0.is_empty() {
            return None;
        }
        self.0.get(&(normal(host), port)).copied()
    }
}

impl Extend<Override> for Overrides {
    fn extend<I: IntoIterator<Item = Override>>(&mut self, given: I) {
        for Override { host, port, addr } in given {
            self.give(&host, port, addr);
        }
    }
}

impl FromIterator<Override> for Overrides {
    fn from_iter<I: IntoIterator<Item = Override>>(given: I) -> Self {
        let mut overrides = Self::new();
        overrides.extend(given);
        overrides
    }
}

impl fmt::Display for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}:{}", self.host, self.port, self.addr),
            false => write!(f, "{}:{}:{}", self.host, self.port, self.addr),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_and_shown() {
        let check = |text: &str, shown: Option<&str>| {
            let given = text.parse::<Override>().ok();
            assert_eq!(
                given.map(|given| given.to_string()).as_deref(),
                shown,
                "{text}"
            );
        };
        check("a:1:1.2.3.4", Some("a:1:1.2.3.4:1"));
        check("A.b.:1:1.2.3.4:5", Some("a.b:1:1.2.3.4:5"));
        check("a:1:::1", Some("a:1:[::1]:1"));
        check("a:1:[::1]", Some("a:1:[::1]:1"));
        check("[::1]:8448:[::1]:9", Some("[::1]:8448:[::1]:9"));
        for bad in [
            "",
            "a",
            "a:1",
            "a:b:1.2.3.4",
            ":1:1.2.3.4",
            "a:1:b",
            "a:70000:1.2.3.4",
            "[::1:1",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn later_ones_win_and_addresses_have_one_spelling() {
        let texts = ["[0::1]:1:127.0.0.1:2", "[::1]:1:127.0.0.1:3"];
        let given: Overrides = texts
            .map(|text| text.parse().unwrap())
            .into_iter()
            .collect();
        let addr: SocketAddr = "127.0.0.1:3".parse().unwrap();
        assert_eq!(given.find("::1", 1), Some(addr));
        assert_eq!(given.find("[::1]", 1), Some(addr));
        assert_eq!(given.find("::1", 2), None);
    }
}
