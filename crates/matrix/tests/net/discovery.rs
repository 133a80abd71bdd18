//! Finding servers.

use super::{
    ask_names, config, lead, roots,
    server::{Asked, Reply, Server},
};
use gannet_matrix::net::{Discovery, Federation, NetConfig, ResolveErrorKind, Rule};
use gannet_testkit::{
    peers::{Dnsmasq, Zone},
    tls::Ca,
};
use http::Method;
use ruma_common::{OwnedServerName, ServerName};
use std::{net::IpAddr, time::Duration};

const VERSION: &str = "/_matrix/federation/v1/version";

fn name(text: &str) -> OwnedServerName {
    ServerName::parse(text).unwrap()
}

/// Asks a server, by whatever rule it is found; what it saw of the request.
async fn ask(config: &NetConfig, server: &str, at: &Server) -> (Rule, Asked) {
    let federation = Federation::new(config.clone(), None).unwrap();
    let server = name(server);
    let found = federation.discovery().resolve(&server).await;
    let found = found.unwrap_or_else(|error| panic!("{error}: {:#?}", error.steps));
    let answer = federation.send(&server, Method::GET, VERSION, None).await;
    let answer = answer.unwrap_or_else(|error| panic!("{server}: {error}"));
    assert_eq!(answer.peer, at.addr, "{server}");
    (found.rule, at.asked().pop().unwrap())
}

fn check(seen: &(Rule, Asked), rule: &str, host: &str, sni: Option<&str>) {
    let (by, asked) = seen;
    let what = (by.number(), &*asked.host, asked.sni.as_deref());
    assert_eq!(what, (rule, host, sni));
    assert_eq!(asked.path, VERSION);
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_and_ports() {
    let ca = Ca::new();
    let fine = |_: &Asked| Reply::text(200, "{}");
    let v4 = Server::start(&ca, &["127.0.0.1", "a.test"], fine).await;
    let v6: IpAddr = "::1".parse().unwrap();
    let v6 = Server::start_at(v6, &ca, &["::1"], fine).await;
    let mut config = config(&ca);
    // Clients send no addresses as SNI.
    let literal = v4.addr.to_string();
    check(&ask(&config, &literal, &v4).await, "1", &literal, None);
    let literal = v6.addr.to_string();
    check(&ask(&config, &literal, &v6).await, "1", &literal, None);
    config.overrides.give("127.0.0.1", 8448, v4.addr);
    check(
        &ask(&config, "127.0.0.1", &v4).await,
        "1",
        "127.0.0.1",
        None,
    );
    let port = format!("a.test:{}", v4.port());
    config.overrides.give("a.test", v4.port(), v4.addr);
    check(&ask(&config, &port, &v4).await, "2", &port, Some("a.test"));
}

#[tokio::test(flavor = "multi_thread")]
async fn delegation_services_and_the_port_of_old() {
    let ca = Ca::new();
    let names = [
        "a.test",
        "b.test",
        "c.test",
        "d.test",
        "e.test",
        "127.0.0.1",
    ];
    let federation = Server::start(&ca, &names, |_| Reply::text(200, "{}")).await;
    let port = federation.port();
    let well_known = Server::start(&ca, &names, move |asked| match &*asked.host {
        host if host.starts_with("a.test") => {
            Reply::text(200, &format!(r#"{{"m.server":"b.test:{port}"}}"#))
        }
        // Where c delegates to is delegated on, which nobody may look at.
        host if host.starts_with("c.test") => Reply::text(200, r#"{"m.server":"e.test"}"#),
        host if host.starts_with("d.test") => {
            Reply::text(200, &format!(r#"{{"m.server":"127.0.0.1:{port}"}}"#))
        }
        host if host.starts_with("e.test") => Reply::text(200, r#"{"m.server":"a.test"}"#),
        _ => Reply::status(404),
    })
    .await;
    let home: IpAddr = "127.0.0.1".parse().unwrap();
    let zone = [
        "a.test",
        "b.test",
        "c.test",
        "d.test",
        "e.test",
        "there.test",
    ]
    .iter()
    .fold(Zone::new(), |zone, name| zone.host(name, home))
    .alias("alias.test", "there.test")
    .service("_matrix-fed._tcp.e.test", "there.test", port, 1)
    .service("_matrix._tcp.e.test", "nowhere.test", port, 1)
    .service("_matrix._tcp.b.test", "alias.test", port, 1);
    let dns = Dnsmasq::start(&zone);
    let mut config = config(&ca);
    ask_names(&mut config, &dns);
    config.well_known_port = well_known.port();
    let sni = Some("b.test");
    let delegated = format!("b.test:{port}");
    let seen = ask(&config, "a.test", &federation).await;
    check(&seen, "3.2", &delegated, sni);
    let seen = ask(&config, "c.test", &federation).await;
    check(&seen, "3.3", "e.test", Some("e.test"));
    let seen = ask(&config, "d.test", &federation).await;
    check(&seen, "3.1", &format!("127.0.0.1:{port}"), None);
    let looked = |host: &str| {
        let asked = well_known.asked().into_iter();
        asked.filter(|asked| asked.host.starts_with(host)).count()
    };
    assert_eq!(looked("e.test"), 0, "a delegation of a delegation is none");
    // No well-known: the deprecated service, through an alias.
    let seen = ask(&config, "b.test", &federation).await;
    check(&seen, "5", "b.test", sni);
    // Nothing at all.
    config.overrides.give("there.test", 8448, federation.addr);
    let error = Federation::new(config.clone(), None).unwrap();
    let error = error
        .discovery()
        .resolve(&name("gone.test"))
        .await
        .unwrap_err();
    assert!(matches!(error.kind, ResolveErrorKind::Dns(_)), "{error}");
    assert!(
        error.to_string().contains("there is no such name"),
        "{error}"
    );
}

/// Well-knowns that are of no use are as good as none, and it is told what is wrong with them.
#[tokio::test(flavor = "multi_thread")]
async fn well_knowns_that_misbehave() {
    let ca = Ca::new();
    let cases: &[(&str, &str)] = &[
        ("loop.test", "leads back to"),
        ("chain.test", "more than 5 redirects"),
        ("plain.test", "which is no https address"),
        (
            "private.test",
            "127.0.0.9 is not connected to, for it is loopback",
        ),
        ("giant.test", "larger than 50 KiB"),
        ("liar.test", "larger than 50 KiB"),
        // Where the time ends, the answer as a whole and its body are late at once.
        ("slow.test", "within 300ms"),
        ("hang.test", "no answer within 300ms"),
        ("broken.test", "no JSON object"),
        ("odd.test", "is no server name"),
        ("failing.test", "the answer is 500"),
        ("missing.test", "the answer is 404"),
        ("wrong.test", "its certificate is not for wrong.test"),
    ];
    let names: Vec<&str> = cases.iter().map(|(name, _)| *name).collect();
    let federation = Server::start(&ca, &names, |_| Reply::text(200, "{}")).await;
    let certified = &names[..names.len() - 1];
    let well_known = Server::start(&ca, certified, |asked| {
        let host = asked.host.split(':').next().unwrap();
        let port = asked.host.split(':').nth(1).unwrap();
        match host {
            "loop.test" if asked.path == "/a" => Reply::redirect("/.well-known/matrix/server"),
            "loop.test" => Reply::redirect("/a"),
            "chain.test" => Reply::redirect(&format!("{}x", asked.path)),
            "plain.test" => Reply::redirect("http://plain.test/"),
            "private.test" => Reply::redirect(&format!("https://127.0.0.9:{port}/")),
            "giant.test" => Reply::Drip(vec![b' '; 60 << 10].into(), Duration::ZERO),
            "liar.test" => Reply::text(200, &" ".repeat(1 << 20)),
            "slow.test" => Reply::Drip((&b" "[..]).into(), Duration::from_millis(20)),
            "hang.test" => Reply::Hang,
            "broken.test" => Reply::text(200, "<html>"),
            "odd.test" => Reply::text(200, r#"{"m.server":"https://odd.test"}"#),
            "failing.test" => Reply::status(500),
            _ => Reply::status(404),
        }
    })
    .await;
    for (server, what) in cases {
        let mut config = config(&ca);
        config.well_known_timeout = match *server {
            "slow.test" | "hang.test" => Duration::from_millis(300),
            _ => Duration::from_secs(60),
        };
        lead(&mut config, server, &well_known, &federation);
        let found = Discovery::new(&config)
            .unwrap()
            .resolve(&name(server))
            .await;
        let found = found.unwrap();
        let steps = format!("{:#?}", found.steps);
        assert_eq!(found.rule, Rule::Fallback, "{steps}");
        assert_eq!(found.addrs, [federation.addr], "{steps}");
        assert!(steps.contains(what), "{server}: {what}: {steps}");
    }
    let chain = well_known.asked().into_iter();
    let chain = chain.filter(|asked| asked.host.starts_with("chain"));
    assert_eq!(chain.count(), 6, "the first, and five redirects");
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_lead_to_other_hosts() {
    let ca = Ca::new();
    let federation = Server::start(&ca, &["a.test"], |_| Reply::text(200, "{}")).await;
    let other = Server::start(&ca, &["www.a.test"], |_| {
        Reply::text(200, r#"{"m.server":"1.2.3.4:5"}"#)
    })
    .await;
    let there = format!("https://www.a.test:{}/elsewhere", other.port());
    let well_known = Server::start(&ca, &["a.test"], move |_| Reply::redirect(&there)).await;
    let mut config = config(&ca);
    lead(&mut config, "a.test", &well_known, &federation);
    config
        .overrides
        .give("www.a.test", other.port(), other.addr);
    let found = Discovery::new(&config).unwrap();
    let found = found.resolve(&name("a.test")).await.unwrap();
    assert_eq!(found.rule, Rule::DelegatedLiteral);
    assert_eq!(found.addrs, ["1.2.3.4:5".parse().unwrap()]);
    assert_eq!(other.asked()[0].path, "/elsewhere");
    assert_eq!(other.asked()[0].sni.as_deref(), Some("www.a.test"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_private_is_touched() {
    let ca = Ca::new();
    let server = Server::start(&ca, &["a.test", "127.0.0.1"], |_| Reply::text(200, "{}")).await;
    let mut config = NetConfig::default();
    config.roots = roots(&ca);
    let zone = Zone::new().host("a.test", server.addr.ip());
    let dns = Dnsmasq::start(&zone);
    ask_names(&mut config, &dns);
    config.well_known_port = server.port();
    config.overrides.give("b.test", 8448, server.addr);
    for asked in [
        "a.test".to_owned(),
        format!("a.test:{}", server.port()),
        server.addr.to_string(),
        format!("[::ffff:127.0.0.1]:{}", server.port()),
        "b.test:8448".to_owned(),
    ] {
        let federation = Federation::new(config.clone(), None).unwrap();
        let sent = federation
            .send(&name(&asked), Method::GET, VERSION, None)
            .await;
        let error = sent.unwrap_err();
        let refused = error.refused_address();
        assert_eq!(
            refused.map(|refused| refused.range),
            Some("loopback"),
            "{asked}: {error}"
        );
        assert!(
            error.to_string().contains("--allow-private 127.0.0.1"),
            "{error}"
        );
    }
    assert_eq!(server.connections(), 0);
}

/// However many ask, a server is looked for once; and what was found is kept.
#[tokio::test(flavor = "multi_thread")]
async fn looked_for_once() {
    let ca = Ca::new();
    let federation = Server::start(&ca, &["a.test"], |_| Reply::text(200, "{}")).await;
    let well_known = Server::start(&ca, &["a.test"], |_| Reply::status(404)).await;
    let mut config = config(&ca);
    lead(&mut config, "a.test", &well_known, &federation);
    let discovery = Discovery::new(&config).unwrap();
    let server = name("a.test");
    let looks = (0..100).map(|_| discovery.resolve(&server));
    let found = futures_util::future::join_all(looks).await;
    assert!(found.iter().all(Result::is_ok));
    assert_eq!(well_known.asked().len(), 1);
    discovery.resolve(&server).await.unwrap();
    assert_eq!(well_known.asked().len(), 1);
    discovery.explain(&server).await.unwrap();
    assert_eq!(well_known.asked().len(), 2, "to explain is to look again");
    discovery.forget(&server);
    discovery.resolve(&server).await.unwrap();
    assert_eq!(well_known.asked().len(), 3);
}

/// A host that is silent at the port of well-knowns, and well at that of federation; and somebody who has
/// less time than it takes to find that out.
#[tokio::test(flavor = "multi_thread")]
async fn a_search_that_nobody_waits_for_comes_to_its_end() {
    let ca = Ca::new();
    let federation = Server::start(&ca, &["a.test"], |_| Reply::text(200, "{}")).await;
    let well_known = Server::start(&ca, &["a.test"], |_| Reply::Hang).await;
    let mut config = config(&ca);
    config.well_known_timeout = Duration::from_secs(1);
    lead(&mut config, "a.test", &well_known, &federation);
    let discovery = Discovery::new(&config).unwrap();
    let server = name("a.test");
    let hasty = tokio::time::timeout(Duration::from_millis(100), discovery.resolve(&server));
    hasty.await.unwrap_err();
    let found = discovery.resolve(&server).await.unwrap();
    assert_eq!(found.rule, Rule::Fallback);
    assert_eq!(well_known.asked().len(), 1, "not begun anew");
}
