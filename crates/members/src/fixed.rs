//! Members that are given.

use crate::found::{MEMBERS_MAX, reachable};
use gannet_cluster::Member;
use std::{collections::BTreeSet, net::SocketAddr, num::NonZeroU16};

/// What is wrong with a list of members.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadPeers {
    /// Nothing, or a comma too many.
    #[error("a member is missing: write ip:port or host:port, with commas between them")]
    Missing,
    /// No address of a member.
    #[error("{0:?} is no address of a member: write ip:port, [ip]:port or host:port")]
    Address(String),
    /// What stands behind the `*` is no weight.
    #[error("{0:?}: the weight behind the * is a whole number from 1 to 65535")]
    Weight(String),
    /// A member twice.
    #[error("{0:?} is there twice: name each member once")]
    Twice(String),
    /// More members than a cluster may have.
    #[error("{0} members: 4096 are the most")]
    TooMany(usize),
}

pub(crate) fn parse(text: &str) -> Result<Vec<Member>, BadPeers> {
    let mut seen = BTreeSet::new();
    let mut members = Vec::new();
    for part in text.split(',') {
        let member = member(part.trim())?;
        if !seen.insert(member.address().to_owned()) {
            return Err(BadPeers::Twice(member.address().to_owned()));
        }
        members.push(member);
    }
    match members.len() {
        count if count > MEMBERS_MAX => Err(BadPeers::TooMany(count)),
        _ => Ok(members),
    }
}

pub(crate) fn member(text: &str) -> Result<Member, BadPeers> {
    if text.is_empty() {
        return Err(BadPeers::Missing);
    }
    let Some((address, weight)) = text.split_once('*') else {
        return Ok(Member::new(&self::address(text)?));
    };
    // Digits only: `parse` would take a sign as well.
    let digits = weight.bytes().all(|byte| byte.is_ascii_digit());
    match weight.parse::<NonZeroU16>() {
        Ok(weight) if digits => Ok(Member::weighted(&self::address(address)?, weight)),
        _ => Err(BadPeers::Weight(text.to_owned())),
    }
}

/// The one way to write an address.
pub(crate) fn address(text: &str) -> Result<String, BadPeers> {
    let bad = || BadPeers::Address(text.to_owned());
    if let Ok(addr) = text.parse::<SocketAddr>() {
        // A scope (`fe80::1%2`) is of one machine only, and others would not know what it means.
        let scoped = matches!(addr, SocketAddr::V6(addr) if addr.scope_id() != 0);
        return match reachable(addr.ip(), addr.port()) {
            Some(addr) if !scoped => Ok(addr.to_string()),
            _ => Err(bad()),
        };
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse::<NonZeroU16>().map_err(|_| bad())?;
    if !digits || !is_host(host) {
        return Err(bad());
    }
    // Names do not differ by case, or by the dot at their end; identities do.
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    Ok(format!("{host}:{port}"))
}

/// Whether a name may be one of a host. Those that end in a number are none: they are addresses
/// with a slip (`10.0.0.256`).
pub(crate) fn is_host(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len())
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or(name);
    name.len() <= 253
        && name.split('.').all(is_label)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_members() {
        let check = |text: &str, wanted: &str| {
            let found = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(format!("{found:?}"), wanted, "{text}");
        };
        check("10.0.0.1:9001", "[10.0.0.1:9001]");
        check(
            "10.0.0.1:9001, 10.0.0.2:9001*2",
            "[10.0.0.1:9001, 10.0.0.2:9001*2]",
        );
        check("b:1*65535,a:1*1", "[b:1*65535, a:1]");
        check(
            "Cache-0.cache.Default.svc.:9001",
            "[cache-0.cache.default.svc:9001]",
        );
        check("[2001:DB8::0:1]:9", "[[2001:db8::1]:9]");
        check("[::ffff:10.0.0.1]:9", "[10.0.0.1:9]");
    }

    #[test]
    fn says_what_is_wrong() {
        let check = |text: &str, wanted: BadPeers| assert_eq!(parse(text), Err(wanted), "{text}");
        for text in ["", ",", "a:1,", "a:1,,b:1", "  "] {
            check(text, BadPeers::Missing);
        }
        for text in [
            "a",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            ":1",
            "10.0.0.256:1",
            "10.0.0.1",
            "::1:9",
            "0.0.0.0:9",
            "[fe80::1%3]:9",
            "http://a:1",
            "a b:1",
            "-a:1",
            "a..b:1",
            "a:1:2",
            "[::1]",
            "\u{e9}:1",
        ] {
            check(text, BadPeers::Address(text.into()));
        }
        for text in ["a:1*", "a:1*0", "a:1*65536", "a:1*+2", "a:1*2*3", "a:1* 2"] {
            check(text, BadPeers::Weight(text.into()));
        }
        check("a:1,b:1,A.:1*2", BadPeers::Twice("a:1".into()));
        check(
            "[::ffff:1.2.3.4]:1,1.2.3.4:1",
            BadPeers::Twice("1.2.3.4:1".into()),
        );
        let many: Vec<_> = (0..4097).map(|n| format!("m{n}x:1")).collect();
        check(&many.join(","), BadPeers::TooMany(4097));
    }

    proptest! {
        #[test]
        fn what_is_read_is_read_again(text in "[a-c0-9.:*,\\[\\]-]{0,30}") {
            if let Ok(members) = parse(&text) {
                let again: Vec<_> = members.iter().map(|member| format!("{member:?}")).collect();
                prop_assert_eq!(parse(&again.join(",")), Ok(members));
            }
        }
    }
}
