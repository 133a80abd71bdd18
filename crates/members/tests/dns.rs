//! Members by name, against a real name server.

mod looks;

use gannet_members::{Discovery, Family};
use gannet_testkit::peers::{Dnsmasq, Zone};
use looks::{Looks, members};
use std::{net::SocketAddr, time::Duration};

fn by_name(name: &str, server: SocketAddr) -> Discovery {
    of_family(name, server, Family::Any)
}

fn of_family(name: &str, server: SocketAddr, family: Family) -> Discovery {
    Discovery::Dns {
        name: name.parse().unwrap(),
        server: Some(server),
        every: Duration::from_secs(1),
        port: 9001,
        family,
    }
}

fn zone(name: &str, ips: &[&str]) -> Zone {
    ips.iter()
        .fold(Zone::new(), |zone, ip| zone.host(name, ip.parse().unwrap()))
}

#[tokio::test]
async fn a_list_that_is_given_is_told_at_once() {
    let mut looks = Looks::watch(Discovery::Fixed(members("b:1,a:1*2,A.test:1"))).await;
    assert_eq!(looks.next().await, Some(members("a.test:1,a:1*2,b:1")));
    looks.watching.leave().await;
}

#[tokio::test]
async fn members_come_change_and_go() {
    let name = "cache.test";
    let mut server = Dnsmasq::start(&zone(name, &["10.0.0.1"]));
    let mut looks = Looks::watch(by_name(name, server.addr())).await;
    looks.until_some(&members("10.0.0.1:9001")).await;
    // All records say that they hold for an hour.
    server.serve(&zone(name, &["10.0.0.2", "fd00::1", "10.0.0.1"]));
    looks
        .until_some(&members("10.0.0.1:9001,10.0.0.2:9001,[fd00::1]:9001"))
        .await;
    // An IPv4 address in IPv6 is the same member.
    server.serve(&zone(name, &["::ffff:10.0.0.2", "10.0.0.2"]));
    looks.until_some(&members("10.0.0.2:9001")).await;
    let alias = zone("other.test", &["10.0.0.9"]).alias(name, "other.test");
    server.serve(&alias);
    looks.until_some(&members("10.0.0.9:9001")).await;
}

/// Where each member has an address of either family, each is one member all the same.
#[tokio::test]
async fn of_two_families_the_own_counts() {
    let (name, service) = ("cache.test", "_gannet._tcp.cache.test");
    let both = zone(name, &["10.0.0.1", "fd00::1", "10.0.0.2", "fd00::2"])
        .host("a.test", "10.0.0.1".parse().unwrap())
        .host("a.test", "fd00::1".parse().unwrap())
        .service(service, "a.test", 9001, 1);
    let server = Dnsmasq::start(&both);
    for (own, named, of_service) in [
        ("10.0.0.9:1", "10.0.0.1:9001,10.0.0.2:9001", "10.0.0.1:9001"),
        (
            "[fd00::9]:1",
            "[fd00::1]:9001,[fd00::2]:9001",
            "[fd00::1]:9001",
        ),
        (
            "own.test:1",
            "10.0.0.1:9001,10.0.0.2:9001,[fd00::1]:9001,[fd00::2]:9001",
            "10.0.0.1:9001,[fd00::1]:9001",
        ),
    ] {
        let family = Family::of(&members(own)[0]);
        for (name, expected) in [(name, named), (service, of_service)] {
            let mut looks = Looks::watch(of_family(name, server.addr(), family)).await;
            assert_eq!(looks.next().await, Some(members(expected)), "{own}, {name}");
        }
    }
}

#[tokio::test]
async fn failures_are_told_until_one_works() {
    let name = "cache.test";
    let mut server = Dnsmasq::start(&zone("other.test", &["10.0.0.1"]));
    let mut looks = Looks::watch(by_name(name, server.addr())).await;
    looks.until_failed(3).await;
    server.serve(&zone(name, &["10.0.0.1"]));
    looks.until_some(&members("10.0.0.1:9001")).await;
    server.stop();
    looks.until_failed(3).await;
    // The name is there, without an address.
    server.serve(&Zone::new().service(name, "other.test", 1, 1));
    looks.until_failed(2).await;
    server.serve(&zone(name, &["10.0.0.3"]));
    looks.until_some(&members("10.0.0.3:9001")).await;
}

#[tokio::test]
async fn services_bring_ports_and_weights() {
    let name = "_gannet._tcp.cache.test";
    let zone = Zone::new()
        .host("a.test", "10.0.0.1".parse().unwrap())
        .host("b.test", "10.0.0.2".parse().unwrap())
        .service(name, "a.test", 9001, 0)
        .service(name, "a.test", 9002, 3)
        .service(name, "b.test", 9001, 65535);
    let mut server = Dnsmasq::start(&zone);
    let mut looks = Looks::watch(by_name(name, server.addr())).await;
    let all = "10.0.0.1:9001,10.0.0.1:9002*3,10.0.0.2:9001*65535";
    looks.until_some(&members(all)).await;
    // One whose name has no address hides nobody.
    server.serve(&zone.service(name, "gone.test", 9001, 1));
    looks.until_failed_or_some(&members(all), 3).await;
    server.serve(&Zone::new().service(name, "gone.test", 9001, 1));
    looks.until_failed(2).await;
}

#[tokio::test]
async fn a_large_cluster_comes_over_tcp() {
    let ips: Vec<String> = (0..1500)
        .map(|n| format!("10.0.{}.{}", n / 250, 1 + n % 250))
        .collect();
    let name = "cache.test";
    let server = Dnsmasq::start(&zone(
        name,
        &ips.iter().map(String::as_str).collect::<Vec<_>>(),
    ));
    let mut looks = Looks::watch(by_name(name, server.addr())).await;
    let mut all = members(
        &ips.iter()
            .map(|ip| format!("{ip}:9001"))
            .collect::<Vec<_>>()
            .join(","),
    );
    all.sort();
    looks.until_some(&all).await;
}
