//! What a look has found, made the same on every member that found the same.

use gannet_cluster::Member;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Members that a look brings at most.
pub(crate) const MEMBERS_MAX: usize = 4096;

/// In order of address, each once, with its greatest weight. What is beyond the bound is cut after
/// sorting, so that all who found the same cut the same.
pub(crate) fn in_order(mut members: Vec<Member>) -> Vec<Member> {
    members.sort_by(|a, b| {
        let by_weight = || b.weight().cmp(&a.weight());
        a.address().cmp(b.address()).then_with(by_weight)
    });
    members.dedup_by(|b, a| a.address() == b.address());
    if members.len() > MEMBERS_MAX {
        tracing::warn!(
            found = members.len(),
            kept = MEMBERS_MAX,
            "too many members"
        );
        members.truncate(MEMBERS_MAX);
    }
    members
}

/// The address that members share for one: IPv4 inside IPv6 is IPv4. `None` where nobody can be
/// reached: name servers that block something answer with 0.0.0.0.
pub(crate) fn reachable(ip: IpAddr, port: u16) -> Option<SocketAddr> {
    let ip = ip.to_canonical();
    let nobody = ip.is_unspecified() || ip.is_multicast() || ip == Ipv4Addr::BROADCAST;
    (!nobody && port != 0).then(|| SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU16;

    #[test]
    fn all_cut_the_same() {
        let members: Vec<_> = (0..5000)
            .map(|n| Member::new(&format!("m{n:04}:1")))
            .collect();
        let mut other = members.clone();
        other.reverse();
        other.push(Member::weighted("m0007:1", NonZeroU16::new(2).unwrap()));
        let (one, other) = (in_order(members), in_order(other));
        assert_eq!((one.len(), other.len()), (MEMBERS_MAX, MEMBERS_MAX));
        assert_eq!(
            (other[7].address(), other[7].weight().get()),
            ("m0007:1", 2)
        );
        assert_eq!((&one[..7], &one[8..]), (&other[..7], &other[8..]));
    }

    #[test]
    fn addresses_are_written_in_one_way() {
        let check = |ip: &str, wanted: Option<&str>| {
            let found = reachable(ip.parse().unwrap(), 9).map(|addr| addr.to_string());
            assert_eq!(found.as_deref(), wanted, "{ip}");
        };
        check("10.0.0.1", Some("10.0.0.1:9"));
        check("::ffff:10.0.0.1", Some("10.0.0.1:9"));
        check("2001:DB8:0::1", Some("[2001:db8::1]:9"));
        for nobody in [
            "0.0.0.0",
            "::",
            "::ffff:0.0.0.0",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
        ] {
            check(nobody, None);
        }
        assert_eq!(reachable(Ipv4Addr::LOCALHOST.into(), 0), None);
    }
}
