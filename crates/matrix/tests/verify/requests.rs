//! Requests in a server's name: the header, as it is made, as servers send it, and as enemies do.

use crate::events::*;
use gannet_matrix::verify::{
    flaw::Flaw,
    keyset::KeySet,
    xmatrix::{Request, X_MATRIX_BYTES_MAX, XMatrix, XMatrixError},
};
use ruma_common::{CanonicalJsonValue, ServerName};
use serde_json::json;

const NOW_MS: u64 = 1_700_000_000_000;

fn request<'a>(
    origin: &'a ServerName,
    destination: &'a ServerName,
    content: Option<&'a CanonicalJsonValue>,
) -> Request<'a> {
    Request {
        method: "POST",
        uri: "/_matrix/federation/v1/get_missing_events/!room:a.example?x=1",
        origin,
        destination,
        content,
    }
}

#[test]
fn a_request_is_proved_by_its_header() {
    let (a, b) = (server("a.example"), server("b.example:8448"));
    let content = object(json!({"limit": 10, "latest_events": ["$x"]})).into();
    let asked = request(&a.name, &b.name, Some(&content));
    let header = XMatrix::sign(&asked, &a.key).unwrap();
    let text = header.to_string();
    assert!(
        text.starts_with(
            "X-Matrix origin=\"a.example\",destination=\"b.example:8448\",key=\"ed25519:a_1\",sig=\""
        ),
        "{text}"
    );
    let read = XMatrix::parse(text.as_bytes()).unwrap();
    assert_eq!(read, header);
    let keys = keys(&[&a], NOW_MS);
    assert_eq!(read.check(&asked, &keys, NOW_MS), Ok(()));

    // Anything else than what was signed.
    let other = object(json!({"limit": 11, "latest_events": ["$x"]})).into();
    for request in [
        Request {
            method: "PUT",
            ..asked
        },
        Request { uri: "/", ..asked },
        Request {
            content: None,
            ..asked
        },
        Request {
            content: Some(&other),
            ..asked
        },
    ] {
        assert!(matches!(
            read.check(&request, &keys, NOW_MS),
            Err(Flaw::BadSignature { .. })
        ));
    }
    for request in [
        Request {
            origin: &b.name,
            ..asked
        },
        Request {
            destination: &a.name,
            ..asked
        },
    ] {
        assert!(matches!(
            read.check(&request, &keys, NOW_MS),
            Err(Flaw::WrongServer { .. })
        ));
    }
    assert!(matches!(
        read.check(&asked, &keys, NOW_MS + 1),
        Err(Flaw::KeyNotValid { .. })
    ));
    assert!(matches!(
        read.check(&asked, &KeySet::new(), NOW_MS),
        Err(Flaw::NoKey { .. })
    ));
}

#[test]
fn the_forms_that_servers_send() {
    let (a, b) = (server("a.example"), server("b.example"));
    let header = XMatrix::sign(&request(&a.name, &b.name, None), &a.key).unwrap();
    let text = header.to_string();
    let sig = text.rsplit("sig=\"").next().unwrap().trim_end_matches('"');
    for text in [
        format!("X-Matrix origin=a.example,destination=b.example,key=ed25519:a_1,sig={sig}"),
        format!(
            "x-matrix  ORIGIN=\"a.example\" , destination = \"b.example\",Key=\"ed25519:a_1\",sig=\"{sig}==\""
        ),
        format!(
            "X-Matrix ,,key=\"ed25519:a_1\",new=\"a \\\" , b\",new=2,sig={sig},origin=\"a\\.example\",destination=b.example,"
        ),
    ] {
        assert_eq!(
            XMatrix::parse(text.as_bytes()),
            Ok(header.clone()),
            "{text}"
        );
    }
    let old = format!("X-Matrix origin=a.example,key=\"ed25519:a_1\",sig=\"{sig}\"");
    assert_eq!(XMatrix::parse(old.as_bytes()).unwrap().destination, None);
}

#[test]
fn the_forms_that_enemies_send() {
    use XMatrixError::{Parameter, Scheme, Syntax, TooLong, Twice};
    for (text, want) in [
        ("", Scheme),
        ("X-Matrix", Scheme),
        ("Bearer x", Scheme),
        ("X-Matrixorigin=a", Scheme),
        ("\u{e9}-Matrix x", Scheme),
        ("X-Matrix ", Parameter("origin")),
        ("X-Matrix origin", Syntax),
        ("X-Matrix =a", Syntax),
        ("X-Matrix origin=", Syntax),
        ("X-Matrix origin=\"a", Syntax),
        ("X-Matrix origin=\"a\\", Syntax),
        ("X-Matrix origin=\"a\"key=b", Syntax),
        ("X-Matrix or igin=a", Syntax),
        ("X-Matrix origin=a b", Syntax),
        ("X-Matrix origin=a\"b", Syntax),
        ("X-Matrix origin=a,origin=b", Twice("origin")),
        ("X-Matrix origin=\"\"", Parameter("origin")),
        ("X-Matrix origin=a", Parameter("key")),
        (
            "X-Matrix origin=a/b,key=ed25519:1,sig=x",
            Parameter("origin"),
        ),
        ("X-Matrix origin=a,key=ed25519:,sig=x", Parameter("key")),
        ("X-Matrix origin=a,key=rsa:1,sig=x", Parameter("key")),
        ("X-Matrix origin=a,key=ed25519:1", Parameter("sig")),
        ("X-Matrix origin=a,key=ed25519:1,sig=abcd", Parameter("sig")),
    ] {
        assert_eq!(XMatrix::parse(text.as_bytes()), Err(want), "{text}");
    }
    let long = vec![b' '; X_MATRIX_BYTES_MAX + 1];
    assert_eq!(XMatrix::parse(&long), Err(TooLong));
    assert_eq!(XMatrix::parse(b"X-Matrix \xff=a"), Err(Syntax));
}
