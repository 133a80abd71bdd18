//! Who is a member, and who is not.

use crate::{
    harness::{PATIENCE, program},
    members::{MIB, Members, all_right, gets_by_chunk},
};
use gannet_testkit::{
    origin::{Object, Origin},
    process::{Process, free_port},
    tls::Ca,
};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose};

const CHUNKS: u64 = 6;
const ARGS: [&str; 2] = ["--chunk-size=1MiB", "--hedge-after=10s"];

/// The names of members.
const OURS: &str = "*.cache.test";

/// The flags of one that this authority calls so, and that takes those for members that it has signed and
/// whose names match.
fn flags_of(ca: &Ca, members: &Members, name: &str, san: &str) -> Vec<String> {
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let (certificate, key) = ca.issue(&params);
    // Each has files of its own, whatever it is called.
    let id = free_port();
    let file = |what: &str, pem: &str| members.file(&format!("{what}-{id}"), pem);
    vec![
        format!("--cluster-ca={}", file("ca", &ca.pem())),
        format!("--cluster-cert={}", file("cert", &certificate.pem())),
        format!("--cluster-key={}", file("key", &key.serialize_pem())),
        format!("--cluster-san={san}"),
    ]
}

/// A cluster of two and a stranger that takes itself for the third: it gets nothing from them, and
/// they nothing from it; each side refuses, and counts that; and clients of all three are right.
async fn a_stranger_is_refused(members: Members, origin: &Origin) {
    let object = origin.put("b", "k", Object::generated(1, CHUNKS * MIB));
    all_right(&members.stampede("b/k", 6).await, &object.sha256());
    let gets = gets_by_chunk(origin, "k", MIB);
    assert_eq!(gets.len() as u64, CHUNKS);
    let stranger = &members.members[2];
    let name = "gannet_cluster_bytes_total{direction=\"received\"}";
    assert!(stranger.metric(name).await < 1.0, "it got nothing");
    let refused = async |n: usize| {
        let name = "gannet_cluster_refused_total";
        members.members[n].metric(name).await
    };
    assert!(
        refused(0).await + refused(1).await + refused(2).await > 0.0,
        "it was counted"
    );
}

/// Two that share a secret, and a third with these flags.
async fn beside_a_secret(flags: impl Fn(&Members) -> Vec<String>) {
    let origin = Origin::start();
    let mut members = Members::new(3, &origin, &ARGS);
    let secret = members.file("secret", "a secret of two of them");
    members.launch(|members, n| {
        let mut more = members.peers(n);
        if n < 2 {
            more.push(format!("--cluster-secret={secret}"));
        } else {
            more.extend(flags(members));
        }
        more
    });
    members.until_ready().await;
    a_stranger_is_refused(members, &origin).await;
}

/// Two with certificates, and a third with these flags.
async fn beside_certificates(flags: impl Fn(&Members, &Ca) -> Vec<String>) {
    let origin = Origin::start();
    let ca = Ca::new();
    let mut members = Members::new(3, &origin, &ARGS);
    members.launch(|members, n| {
        let mut more = members.peers(n);
        more.extend(match n {
            0 => flags_of(&ca, members, "zero.cache.test", OURS),
            1 => flags_of(&ca, members, "one.cache.test", OURS),
            _ => flags(members, &ca),
        });
        more
    });
    members.until_ready().await;
    a_stranger_is_refused(members, &origin).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret() {
    beside_a_secret(|_| Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_secret() {
    beside_a_secret(|members| {
        let secret = members.file("other", "a secret of nobody else");
        vec![format!("--cluster-secret={secret}")]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_certificate() {
    beside_certificates(|_, _| Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_a_foreign_authority() {
    beside_certificates(|members, _| flags_of(&Ca::new(), members, "two.cache.test", OURS)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_name() {
    beside_certificates(|members, ca| flags_of(ca, members, "two.other.test", "*.other.test"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_with_certificates_read_once() {
    let origin = Origin::start();
    let object = origin.put("b", "k", Object::generated(1, CHUNKS * MIB));
    let ca = Ca::new();
    let mut members = Members::new(3, &origin, &ARGS);
    members.launch(|members, n| {
        let mut more = members.peers(n);
        more.extend(flags_of(&ca, members, &format!("m{n}.cache.test"), OURS));
        more
    });
    members.until_ready().await;
    all_right(&members.stampede("b/k", 12).await, &object.sha256());
    let counts = origin.counts_of("b", "k");
    assert_eq!((counts.gets, counts.heads), (CHUNKS, 1));
    assert!(members.metric("gannet_cluster_bytes_total").await > 0.0);
}

/// Starts one that must not start; what it says.
fn refused(members: &Members, flags: &[String]) -> String {
    let mut command = program();
    let data = members.file("data-of-nobody", "");
    let address = [
        "--listen=127.0.0.1:0",
        "--ops-listen=127.0.0.1:0",
        "--origin=http://127.0.0.1:1",
        "--peers=10.0.0.1:9001,10.0.0.2:9001",
    ];
    command.arg("cache").args(address).args(flags);
    command.arg(format!("--data={data}-directory"));
    let mut process = Process::spawn("gannet", &mut command);
    let ended = process.wait(PATIENCE);
    assert_eq!(ended.code(), Some(2), "{}", process.log());
    process.log()
}

#[test]
fn nobody_starts_with_credentials_that_the_others_would_refuse() {
    let members = Members::new(1, &Origin::start(), &ARGS);
    let off = [
        "--internal-listen=0.0.0.0:0".to_owned(),
        "--advertise=10.0.0.1:9001".to_owned(),
    ];
    let said = refused(&members, &off);
    assert!(said.contains("--cluster-secret"), "{said}");
    let ca = Ca::new();
    let foreign_name = flags_of(&ca, &members, "one.other.test", OURS);
    let mut foreign_ca = flags_of(&Ca::new(), &members, "one.cache.test", OURS);
    let ours = flags_of(&ca, &members, "one.cache.test", OURS);
    foreign_ca[0].clone_from(&ours[0]);
    for mut flags in [foreign_name, foreign_ca] {
        flags.push("--internal-listen=127.0.0.1:0".to_owned());
        let said = refused(&members, &flags);
        assert!(said.contains("issue one from the CA in"), "{said}");
    }
}
