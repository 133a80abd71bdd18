//! What stands on the command line: names, ids, times. Errors say what would be right.

use gannet_matrix::verify::rules::Rules;
use ruma_common::{
    EventId, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, RoomVersionId, ServerName,
};
use std::net::{IpAddr, SocketAddr};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The name of a homeserver.
pub(super) fn server(text: &str) -> Result<OwnedServerName, String> {
    let wrong = |error| format!("{error}; a name is like example.org or example.org:8448");
    ServerName::parse(text).map_err(wrong)
}

/// The id of a room.
pub(super) fn room(text: &str) -> Result<OwnedRoomId, String> {
    let wrong = |error| format!("{error}; an id is like '!abc:example.org', an alias is none");
    RoomId::parse(text).map_err(wrong)
}

/// The id of an event.
pub(super) fn event(text: &str) -> Result<OwnedEventId, String> {
    let wrong =
        |error| format!("{error}; an id is like '$abc', in quotes, or the shell takes it away");
    EventId::parse(text).map_err(wrong)
}

/// A version of rooms whose rules are known.
pub(super) fn version(text: &str) -> Result<RoomVersionId, String> {
    let version = RoomVersionId::try_from(text).map_err(|error| error.to_string())?;
    match Rules::of(&version) {
        Ok(_) => Ok(version),
        Err(flaw) => Err(format!("{flaw}; 1 to 12 are")),
    }
}

/// The address of a name server, at port 53 if none is said.
pub(super) fn name_server(text: &str) -> Result<SocketAddr, String> {
    let ip = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
    ip.or_else(|_| text.parse())
        .map_err(|_| "an address is like 192.0.2.53 or 192.0.2.53:5353".to_owned())
}

/// A point in time, as milliseconds since 1970.
pub(super) fn moment(text: &str) -> Result<u64, String> {
    let wrong = || {
        "a time is like 2026-01-31T12:00:00Z, or milliseconds since 1970 as in 1769860800000"
            .to_owned()
    };
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map_err(|_| wrong());
    }
    let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| wrong())?;
    u64::try_from(time.unix_timestamp_nanos() / 1_000_000).map_err(|_| wrong())
}

/// A point in time for people.
pub(super) fn shown(ms: u64) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms / 1000) * 1_000_000_000);
    let text = time.ok().and_then(|time| time.format(&Rfc3339).ok());
    text.unwrap_or_else(|| format!("{ms} ms after 1970"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let check = |text: &str, ms: Option<u64>| assert_eq!(moment(text).ok(), ms, "{text}");
        check("0", Some(0));
        check("1769860800123", Some(1_769_860_800_123));
        check("1970-01-01T00:00:01Z", Some(1000));
        check("2026-01-31T12:00:00.5Z", Some(1_769_860_800_500));
        check("2026-01-31T14:00:00+02:00", Some(1_769_860_800_000));
        for bad in [
            "",
            "-1",
            "1969-12-31T23:59:58Z",
            "2026-01-31",
            "yesterday",
            "99999999999999999999",
        ] {
            check(bad, None);
        }
        assert_eq!(shown(1_769_860_800_123), "2026-01-31T12:00:00Z");
        assert_eq!(shown(u64::MAX), "18446744073709551615 ms after 1970");
    }

    #[test]
    fn addresses_of_name_servers() {
        let check = |text: &str, shown: Option<&str>| {
            let addr = name_server(text).ok().map(|addr| addr.to_string());
            assert_eq!(addr.as_deref(), shown, "{text}");
        };
        check("192.0.2.53", Some("192.0.2.53:53"));
        check("::1", Some("[::1]:53"));
        check("[::1]:54", Some("[::1]:54"));
        check("dns.example.org", None);
    }

    #[test]
    fn versions_of_rooms() {
        assert_eq!(version("11"), Ok(RoomVersionId::V11));
        assert!(version("org.example.99").is_err());
        assert!(version("").is_err());
    }
}
