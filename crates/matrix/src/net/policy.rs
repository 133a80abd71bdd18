//! Which addresses may be connected to.
//!
//! Names of servers come from strangers, and so do the records behind them: without a rule, whoever
//! sends an event makes us knock at any port of our own network. So an address is looked at after it was
//! looked up, and the very address that was looked at is the one that is connected to: there is no
//! second look-up in between that could bring another.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// A block of addresses, such as `10.0.0.0/8` or `fd00::/8`; one without a prefix length is a single
/// address.
///
/// ```
/// use gannet_matrix::net::Cidr;
///
/// let block: Cidr = "10.0.0.0/8".parse()?;
/// assert!(block.contains("10.1.2.3".parse().unwrap()));
/// assert!(block.contains("::ffff:10.1.2.3".parse().unwrap()), "an IPv4 address in IPv6 is the same host");
/// assert!("10.0.0.1/8".parse::<Cidr>().is_err(), "which one was meant?");
/// # Ok::<_, gannet_matrix::net::BadCidr>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    first: IpAddr,
    prefix: u8,
}

/// What is no block of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no block of addresses ({why}): write one like 10.0.0.0/8, fd00::/8 or 127.0.0.1"
)]
pub struct BadCidr {
    text: String,
    why: &'static str,
}

/// An address as a number, and how many bits it has.
fn bits(ip: IpAddr) -> (u128, u8) {
    match ip {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)), 32),
        IpAddr::V6(ip) => (u128::from(ip), 128),
    }
}

/// The bits that are not of the prefix.
fn host_bits(number: u128, prefix: u8, width: u8) -> u128 {
    match u32::from(width - prefix) {
        128 => number,
        free => number & ((1 << free) - 1),
    }
}

impl Cidr {
    const fn v4(a: u8, b: u8, c: u8, prefix: u8) -> Self {
        Self {
            first: IpAddr::V4(Ipv4Addr::new(a, b, c, 0)),
            prefix,
        }
    }

    const fn v6(a: u16, b: u16, c: u16, prefix: u8) -> Self {
        Self {
            first: IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)),
            prefix,
        }
    }

    /// Whether an address is in the block. An IPv4 address in IPv6 (`::ffff:10.0.0.1`) is in the blocks
    /// of the IPv4 address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ((first, width), (number, other)) = (bits(self.first), bits(ip.to_canonical()));
        let differs = first ^ number;
        width == other && differs == host_bits(differs, self.prefix, width)
    }
}

impl FromStr for Cidr {
    type Err = BadCidr;

    fn from_str(text: &str) -> Result<Self, BadCidr> {
        let bad = |why| BadCidr {
            text: text.chars().take(64).collect(),
            why,
        };
        let (ip, prefix) = match text.split_once('/') {
            Some((ip, prefix)) => (ip, Some(prefix)),
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| bad("no address"))?;
        let (number, width) = bits(ip);
        let prefix = match prefix {
            None => width,
            Some(prefix) => {
                let digits = prefix.bytes().all(|byte| byte.is_ascii_digit());
                let prefix = prefix
                    .parse()
                    .ok()
                    .filter(|prefix| digits && *prefix <= width);
                prefix.ok_or_else(|| bad("no prefix length"))?
            }
        };
        if host_bits(number, prefix, width) != 0 {
            return Err(bad("bits beyond the prefix are set"));
        }
        if ip.to_canonical() != ip {
            return Err(bad("write the IPv4 address"));
        }
        Ok(Self { first: ip, prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What is not of the public Internet, and why (IANA's registries of special-purpose addresses).
const SPECIAL: &[(Cidr, &str)] = &[
    (Cidr::v4(0, 0, 0, 8), "unspecified"),
    (Cidr::v4(10, 0, 0, 8), "private"),
    (Cidr::v4(100, 64, 0, 10), "shared by carriers (CGNAT)"),
    (Cidr::v4(127, 0, 0, 8), "loopback"),
    (Cidr::v4(169, 254, 0, 16), "link-local"),
    (Cidr::v4(172, 16, 0, 12), "private"),
    (Cidr::v4(192, 0, 0, 24), "reserved for protocols"),
    (Cidr::v4(192, 0, 2, 24), "for documentation"),
    (Cidr::v4(192, 88, 99, 24), "6to4 relays"),
    (Cidr::v4(192, 168, 0, 16), "private"),
    (Cidr::v4(198, 18, 0, 15), "for benchmarks"),
    (Cidr::v4(198, 51, 100, 24), "for documentation"),
    (Cidr::v4(203, 0, 113, 24), "for documentation"),
    (Cidr::v4(224, 0, 0, 4), "multicast"),
    (Cidr::v4(240, 0, 0, 4), "reserved"),
    // 64:ff9b::/96 is the well-known prefix of NAT64, and 64:ff9b:1::/48 the local one.
    (Cidr::v6(0x64, 0xff9b, 0, 96), "NAT64"),
    (Cidr::v6(0x64, 0xff9b, 1, 48), "NAT64"),
    (Cidr::v6(0x100, 0, 0, 64), "discarded"),
    (Cidr::v6(0x2001, 0, 0, 32), "Teredo"),
    (Cidr::v6(0x2001, 0, 0, 23), "reserved for protocols"),
    (Cidr::v6(0x2001, 0xdb8, 0, 32), "for documentation"),
    (Cidr::v6(0x2002, 0, 0, 16), "6to4"),
    (Cidr::v6(0x3fff, 0, 0, 20), "for documentation"),
    (Cidr::v6(0xfc00, 0, 0, 7), "private"),
    (Cidr::v6(0xfe80, 0, 0, 10), "link-local"),
    (Cidr::v6(0xfec0, 0, 0, 10), "site-local"),
    (Cidr::v6(0xff00, 0, 0, 8), "multicast"),
];

/// All that is routed of IPv6; what is outside is reserved, whatever it may become.
const ROUTED: Cidr = Cidr::v6(0x2000, 0, 0, 3);

/// What an address is if it is not of the public Internet.
fn special(ip: IpAddr) -> Option<&'static str> {
    if let IpAddr::V6(ip) = ip {
        if ip.is_loopback() {
            return Some("loopback");
        }
        if ip.is_unspecified() {
            return Some("unspecified");
        }
    }
    let found = SPECIAL.iter().find(|(block, _)| block.contains(ip));
    let reserved = ip.is_ipv6() && !ROUTED.contains(ip);
    found
        .map(|(_, why)| *why)
        .or_else(|| reserved.then_some("reserved"))
}

/// The IPv4 address that packets to this address end up at, where a translator is in between.
fn behind(ip: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(ip) = ip else { return None };
    let parts = ip.segments();
    let v4 = match parts {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))
        }
        _ => return None,
    };
    Some(IpAddr::V4(v4))
}

/// Which addresses may be connected to: those of the public Internet, and those that are allowed
/// beside.
///
/// ```
/// use gannet_matrix::net::AddressPolicy;
///
/// let policy = AddressPolicy::allowing(["192.168.7.0/24".parse()?]);
/// assert!(policy.check("1.1.1.1".parse().unwrap()).is_ok());
/// assert!(policy.check("192.168.7.1".parse().unwrap()).is_ok());
/// assert!(policy.check("192.168.8.1".parse().unwrap()).is_err());
/// # Ok::<_, gannet_matrix::net::BadCidr>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressPolicy {
    allowed: Vec<Cidr>,
}

/// An address that is not connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{ip} is not connected to, for it is {range}: allow it with --allow-private {ip} if it is meant"
)]
pub struct RefusedAddress {
    /// The address.
    pub ip: IpAddr,
    /// What kind of address it is.
    pub range: &'static str,
}

impl AddressPolicy {
    /// The public Internet, and these blocks.
    pub fn allowing(blocks: impl IntoIterator<Item = Cidr>) -> Self {
        Self {
            allowed: blocks.into_iter().collect(),
        }
    }

    /// Whether an address may be connected to.
    ///
    /// One that a translator leads on to an IPv4 address (NAT64, 6to4) must be allowed, and so must the
    /// address behind it.
    ///
    /// # Errors
    ///
    /// If it may not: what it is.
    pub fn check(&self, ip: IpAddr) -> Result<(), RefusedAddress> {
        let ip = ip.to_canonical();
        for ip in [Some(ip), behind(ip)].into_iter().flatten() {
            if let Some(range) = special(ip)
                && !self.allowed.iter().any(|block| block.contains(ip))
            {
                return Err(RefusedAddress { ip, range });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_not_public_is_refused() {
        let check = |ip: &str, range: Option<&str>| {
            let refused = AddressPolicy::default().check(ip.parse().unwrap());
            assert_eq!(refused.err().map(|refused| refused.range), range, "{ip}");
        };
        for public in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700::1",
            "2001:200::1",
            "2a00::1",
            "::ffff:8.8.8.8",
        ] {
            check(public, None);
        }
        for (ip, range) in [
            ("0.0.0.0", "unspecified"),
            ("0.1.2.3", "unspecified"),
            ("10.0.0.1", "private"),
            ("100.64.0.1", "shared by carriers (CGNAT)"),
            ("100.127.255.255", "shared by carriers (CGNAT)"),
            ("127.0.0.1", "loopback"),
            ("127.255.255.254", "loopback"),
            ("169.254.169.254", "link-local"),
            ("172.16.0.1", "private"),
            ("172.31.255.255", "private"),
            ("192.0.0.8", "reserved for protocols"),
            ("192.0.2.1", "for documentation"),
            ("192.88.99.1", "6to4 relays"),
            ("192.168.1.1", "private"),
            ("198.19.0.1", "for benchmarks"),
            ("198.51.100.1", "for documentation"),
            ("203.0.113.1", "for documentation"),
            ("224.0.0.1", "multicast"),
            ("240.0.0.1", "reserved"),
            ("255.255.255.255", "reserved"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("::7f00:1", "reserved"),
            ("::ffff:127.0.0.1", "loopback"),
            ("::ffff:10.1.1.1", "private"),
            ("64:ff9b::a00:1", "NAT64"),
            ("64:ff9b::808:808", "NAT64"),
            ("64:ff9b:1::1", "NAT64"),
            ("100::1", "discarded"),
            ("2001::1", "Teredo"),
            ("2001:10::1", "reserved for protocols"),
            ("2001:db8::1", "for documentation"),
            ("2002:a00:1::1", "6to4"),
            ("3fff::1", "for documentation"),
            ("4000::1", "reserved"),
            ("fd00::1", "private"),
            ("fe80::1", "link-local"),
            ("fec0::1", "site-local"),
            ("ff02::1", "multicast"),
        ] {
            check(ip, Some(range));
        }
    }

    #[test]
    fn what_is_allowed_passes_and_nothing_beside() {
        let blocks = ["10.0.0.0/8", "fd00::/16", "127.0.0.1", "64:ff9b::/96"];
        let policy = AddressPolicy::allowing(blocks.map(|block| block.parse().unwrap()));
        let check = |ip: &str, passes: bool| {
            assert_eq!(policy.check(ip.parse().unwrap()).is_ok(), passes, "{ip}");
        };
        check("10.255.0.1", true);
        check("::ffff:10.255.0.1", true);
        check("127.0.0.1", true);
        check("127.0.0.2", false);
        check("fd00::1", true);
        check("fd01::1", false);
        // The translator is allowed, and what is behind it is looked at as well.
        check("64:ff9b::808:808", true);
        check("64:ff9b::a00:1", true);
        check("64:ff9b::c0a8:1", false);
        check("2002:808:808::1", false);
        let all = AddressPolicy::allowing(["0.0.0.0/0", "::/0"].map(|all| all.parse().unwrap()));
        assert_eq!(all.check("169.254.169.254".parse().unwrap()), Ok(()));
        assert_eq!(all.check("::1".parse().unwrap()), Ok(()));
    }

    #[test]
    fn blocks() {
        for text in [
            "",
            "/",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.1/8",
            "::/129",
            "a/8",
            "10.0.0.0/8/8",
            "::ffff:10.0.0.0/104",
            "fe80::1%eth0",
        ] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
        for text in [
            "10.0.0.0/8",
            "0.0.0.0/0",
            "::/0",
            "fd00::/8",
            "1.2.3.4/32",
            "::1/128",
        ] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn a_block_contains_what_shares_its_prefix(ip: u32, other: u32, prefix in 0u8..=32) {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            let block = Cidr { first: IpAddr::V4((ip & mask).into()), prefix };
            prop_assert_eq!(block.contains(IpAddr::V4(other.into())), ip & mask == other & mask);
            prop_assert!(block.contains(IpAddr::V4(ip.into())));
            prop_assert_eq!(block.to_string().parse::<Cidr>().unwrap(), block);
        }
    }
}
