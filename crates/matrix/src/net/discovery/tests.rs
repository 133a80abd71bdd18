//! What is kept for how long, over a world of a test's and a clock that stands still.

use super::{
    machine::Place,
    wellknown::Useless,
    world::{PlaceError, WellKnown, World},
    *,
};
use crate::net::dns::{DnsError, Looked, Looking};
use futures_util::future::BoxFuture;
use http::StatusCode;
use std::collections::BTreeMap;

/// What a question takes that nobody answers.
const QUESTION: Duration = Duration::from_secs(6);

type Told = Result<(&'static str, u64), Useless>;

/// What the world says, and how often it was asked.
#[derive(Default)]
struct Says {
    well_known: Option<Told>,
    /// Addresses, and for how many seconds they hold; hangs where there is nothing.
    addresses: Option<Result<(&'static str, u64), DnsError>>,
    services: Vec<Service>,
    /// Whether nobody answers a question for services.
    services_silent: bool,
    asked: BTreeMap<&'static str, u32>,
}

#[derive(Clone, Default)]
struct Scripted(Arc<Mutex<Says>>);

impl Scripted {
    fn asked(&self, what: &'static str) -> u32 {
        *locked(&self.0).asked.entry(what).or_default()
    }

    fn count(&self, what: &'static str) {
        *locked(&self.0).asked.entry(what).or_default() += 1;
    }
}

impl World for Scripted {
    fn well_known<'a>(&'a self, _: &'a str) -> BoxFuture<'a, WellKnown> {
        self.count("well-known");
        let told = locked(&self.0).well_known.clone();
        let gone = Err(Useless::Status(StatusCode::NOT_FOUND));
        let result = told.unwrap_or(gone).map(|(server, seconds)| {
            let server = ServerName::parse(server).unwrap();
            (server, Duration::from_secs(seconds))
        });
        let steps = Vec::new();
        async move { WellKnown { result, steps } }.boxed()
    }

    fn services<'a>(&'a self, _: &'a str) -> Looking<'a, Vec<Service>> {
        self.count("services");
        let says = locked(&self.0);
        let (found, silent) = (says.services.clone(), says.services_silent);
        let lasts = Duration::MAX;
        async move {
            match silent {
                true => Err(DnsError::TimedOut(QUESTION)),
                false => Ok(Looked { found, lasts }),
            }
        }
        .boxed()
    }

    fn addresses<'a>(
        &'a self,
        place: &'a Place,
        ask: bool,
    ) -> BoxFuture<'a, Result<Looked<Vec<SocketAddr>>, PlaceError>> {
        let silent = Err(DnsError::Silent);
        let says = match ask {
            true => {
                self.count("addresses");
                locked(&self.0).addresses.clone()
            }
            false => Some(silent),
        };
        let (host, port) = match place {
            Place::Addr(addr) => (addr.ip().to_string(), addr.port()),
            Place::Name(host, port) => (host.clone(), *port),
        };
        async move {
            match says {
                None => std::future::pending().await,
                Some(Err(error)) => Err(PlaceError::Dns(host, error)),
                Some(Ok((ip, seconds))) => Ok(Looked {
                    found: vec![SocketAddr::new(ip.parse().unwrap(), port)],
                    lasts: Duration::from_secs(seconds),
                }),
            }
        }
        .boxed()
    }
}

fn discovery(says: Says) -> (Scripted, Discovery) {
    let world = Scripted(Arc::new(Mutex::new(says)));
    let discovery = Discovery::of(&NetConfig::default(), Box::new(world.clone()));
    (world, discovery)
}

async fn resolve(discovery: &Discovery) -> Answer {
    let server = <&ServerName>::try_from("a.test").unwrap();
    discovery.resolve(server).await
}

async fn pass(seconds: u64) {
    time::advance(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn records_and_well_knowns_are_kept_apart() {
    let (world, discovery) = discovery(Says {
        well_known: Some(Ok(("b.test:1", 3600))),
        addresses: Some(Ok(("1.1.1.1", 120))),
        ..Says::default()
    });
    let asked = || (world.asked("well-known"), world.asked("addresses"));
    for (passes, want) in [
        (0, (1, 1)),
        (119, (1, 1)),
        (1, (1, 2)),
        (3479, (1, 3)),
        // Of the well-known's hour a second is left, but records are kept for a minute.
        (59, (1, 3)),
        (1, (2, 4)),
    ] {
        pass(passes).await;
        let found = resolve(&discovery).await.unwrap();
        assert_eq!(found.rule, Rule::DelegatedPort);
        assert_eq!(asked(), want, "after {passes} s");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_not_found_is_looked_for_later() {
    let (world, discovery) = discovery(Says {
        addresses: Some(Err(DnsError::NoSuchName)),
        ..Says::default()
    });
    for (passes, looks) in [(0, 1), (29, 1), (1, 2)] {
        pass(passes).await;
        let error = resolve(&discovery).await.unwrap_err();
        assert!(matches!(error.kind, ResolveErrorKind::Dns(_)), "{error}");
        assert_eq!(world.asked("addresses"), looks);
    }
    assert_eq!(
        world.asked("well-known"),
        1,
        "that it is not there holds for a minute"
    );
    locked(&world.0).addresses = Some(Ok(("1.1.1.1", 7200)));
    pass(30).await;
    let found = resolve(&discovery).await.unwrap();
    assert_eq!(found.rule, Rule::Fallback);
    assert_eq!(world.asked("well-known"), 2);
    // The next is after two minutes, for it was of no use twice.
    pass(119).await;
    resolve(&discovery).await.unwrap();
    assert_eq!(world.asked("well-known"), 2);
    pass(1).await;
    resolve(&discovery).await.unwrap();
    assert_eq!(world.asked("well-known"), 3);
}

#[tokio::test(start_paused = true)]
async fn a_delegation_outlives_an_outage_but_not_its_end() {
    let (world, discovery) = discovery(Says {
        well_known: Some(Ok(("b.test:1", 600))),
        addresses: Some(Ok(("1.1.1.1", 60))),
        ..Says::default()
    });
    resolve(&discovery).await.unwrap();
    locked(&world.0).well_known = Some(Err(Useless::Unreachable("no route".into())));
    pass(600).await;
    let found = resolve(&discovery).await.unwrap();
    assert_eq!(found.rule, Rule::DelegatedPort);
    let steps: Vec<String> = found.steps.iter().map(ToString::to_string).collect();
    assert!(
        steps[0].contains("as it was before -> m.server is b.test:1"),
        "{steps:?}"
    );
    locked(&world.0).well_known = None;
    pass(60).await;
    assert_eq!(resolve(&discovery).await.unwrap().rule, Rule::Fallback);
}

#[tokio::test(start_paused = true)]
async fn name_servers_that_hang_are_not_waited_for() {
    let (_world, discovery) = discovery(Says::default());
    let error = resolve(&discovery).await.unwrap_err();
    let timeout = NetConfig::default().resolve_timeout;
    assert_eq!(error.kind, ResolveErrorKind::TimedOut(timeout));
}

/// Three questions that nobody answers, six seconds each, are longer than whoever asks has time.
#[tokio::test(start_paused = true)]
async fn silent_name_servers_are_not_asked_again_and_again() {
    let silence = || Some(Err(Useless::Silence("nobody answers".into())));
    for (well_known, addresses, asked) in [
        // Nobody answered anything.
        (silence(), Err(DnsError::TimedOut(QUESTION)), (1, 0)),
        // Those for the address do answer, and others do not know SRV.
        (None, Ok(("1.1.1.1", 60)), (1, 1)),
    ] {
        let found = addresses.is_ok();
        let (world, discovery) = discovery(Says {
            well_known,
            addresses: Some(addresses),
            services_silent: true,
            ..Says::default()
        });
        let answer = resolve(&discovery).await;
        assert_eq!(
            (world.asked("services"), world.asked("addresses")),
            asked,
            "{answer:?}"
        );
        match answer {
            Ok(resolved) => assert!(found && resolved.rule == Rule::Fallback, "{resolved:?}"),
            Err(error) => {
                assert!(!found, "{error}");
                let said = error.to_string();
                assert!(said.ends_with("name servers keep silent"), "{said}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_doubted_is_looked_up_soon() {
    let (world, discovery) = discovery(Says {
        addresses: Some(Ok(("1.1.1.1", 3600))),
        well_known: Some(Ok(("b.test:1", 7200))),
        ..Says::default()
    });
    let found = resolve(&discovery).await.unwrap();
    for (passes, looks) in [(0, 1), (29, 1), (1, 2)] {
        pass(passes).await;
        discovery.doubt(&found);
        resolve(&discovery).await.unwrap();
        assert_eq!(world.asked("addresses"), looks);
    }
    assert_eq!(world.asked("well-known"), 1);
}

#[tokio::test(start_paused = true)]
async fn all_targets_of_a_service_are_looked_up_once() {
    let service = |port, target: &str| Service {
        priority: port,
        weight: 0,
        port,
        target: target.to_owned(),
    };
    let (world, discovery) = discovery(Says {
        addresses: Some(Ok(("1.1.1.1", 3600))),
        services: vec![
            service(2, "y.test"),
            service(1, "x.test"),
            service(1, "z.test"),
        ],
        ..Says::default()
    });
    let found = resolve(&discovery).await.unwrap();
    assert_eq!(found.rule, Rule::Service);
    // One address at one port is one place.
    let addrs = ["1.1.1.1:1", "1.1.1.1:2"].map(|addr| addr.parse().unwrap());
    assert_eq!(found.addrs, addrs);
    assert_eq!((world.asked("services"), world.asked("addresses")), (1, 3));
    assert_eq!(found.steps.len(), 4);
}

proptest::proptest! {
    /// What the fuzz target demands holds for pieces that parsers fear, in any order.
    #[test]
    fn whatever_comes_is_read_or_refused(
        pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..12),
    ) {
        fuzz(pieces.concat().as_bytes());
    }
}

const PIECES: &[&str] = &[
    "location:",
    "cache-control:",
    "expires:",
    "age:",
    "date:",
    "\n",
    "\n\n",
    "https://",
    "//",
    "/",
    "a.test",
    "B.test",
    ":0",
    ":443",
    ":8443",
    ":99999",
    ":",
    "?",
    "#",
    "@",
    "[::1]",
    "[",
    "]",
    "..",
    "%zz",
    "\\",
    "max-age=",
    "99999999999999999999",
    "-1",
    "7",
    ",",
    "no-store",
    "Sun, 06 Nov 1994 08:49:37 GMT",
    "{\"m.server\":\"",
    "\"}",
    "\u{e9}",
    " ",
    "x",
];
