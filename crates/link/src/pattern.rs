//! Which names members have.

use crate::LinkError;

/// What a member's certificate must name: a DNS name, `*.suffix`, a URI, or `uri/*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    text: String,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Dns,
    /// `*.suffix`: one label and the suffix.
    DnsBelow,
    Uri,
    /// `uri/*`: the URI and one segment.
    UriBelow,
}

impl Pattern {
    pub(crate) fn parse(text: &str) -> Result<Self, LinkError> {
        let bad = |why: &str| {
            LinkError::Config(format!(
                "`{text}` is no pattern for the names of members: {why}; say a DNS name, `*.` and a \
                 suffix for one more label, a URI, or a URI with `/*` for one more segment"
            ))
        };
        if text.is_empty() {
            return Err(bad("it is empty"));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(bad("it has bytes that no name has"));
        }
        let (fixed, kind) = if text.contains("://") {
            match text.strip_suffix("/*") {
                Some(fixed) => (fixed, Kind::UriBelow),
                None => (text, Kind::Uri),
            }
        } else {
            match text.strip_prefix("*.") {
                Some(fixed) => (fixed, Kind::DnsBelow),
                None => (text, Kind::Dns),
            }
        };
        if fixed.contains('*') {
            return Err(bad("a star stands for one whole label or segment only"));
        }
        if matches!(kind, Kind::Dns | Kind::DnsBelow) {
            let label = |label: &str| {
                !label.is_empty()
                    && label
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            };
            if !fixed.split('.').all(label) {
                return Err(bad("it is no DNS name"));
            }
        } else if fixed.ends_with('/') {
            return Err(bad("it ends in a slash"));
        }
        Ok(Self {
            text: text.to_owned(),
            kind,
        })
    }

    /// Whether a name in a certificate, a DNS name or a URI, is one of a member. A wildcard in a
    /// certificate is taken as written: `*.suffix` stands for names that all match `*.suffix`, and it
    /// matches no name that is spelt out.
    fn matches(&self, name: &str, uri: bool) -> bool {
        match self.kind {
            Kind::Dns => !uri && name.eq_ignore_ascii_case(&self.text),
            Kind::DnsBelow => {
                let suffix = &self.text[2..];
                !uri && name.split_once('.').is_some_and(|(label, rest)| {
                    !label.is_empty() && rest.eq_ignore_ascii_case(suffix)
                })
            }
            Kind::Uri => uri && name == self.text,
            Kind::UriBelow => {
                let fixed = &self.text[..self.text.len() - 2];
                uri && name
                    .rsplit_once('/')
                    .is_some_and(|(rest, segment)| !segment.is_empty() && rest == fixed)
            }
        }
    }

    /// The first name of a certificate that is one of a member.
    pub(crate) fn first<'a>(
        &self,
        dns: impl Iterator<Item = &'a str>,
        uris: impl Iterator<Item = &'a str>,
    ) -> Option<&'a str> {
        dns.map(|name| (name, false))
            .chain(uris.map(|name| (name, true)))
            .find(|&(name, uri)| self.matches(name, uri))
            .map(|(name, _)| name)
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_exactly_what_it_says() {
        let check = |pattern: &str, name: &str, expected: bool| {
            let matched = Pattern::parse(pattern)
                .unwrap()
                .matches(name, name.contains("://"));
            assert_eq!(matched, expected, "{pattern} against {name}");
        };
        check("a.cluster.local", "a.cluster.local", true);
        check("a.cluster.local", "A.Cluster.LOCAL", true);
        check("a.cluster.local", "b.cluster.local", false);
        check("a.cluster.local", "x.a.cluster.local", false);
        check("a.cluster.local", "*.cluster.local", false);
        check("*.cluster.local", "a.cluster.local", true);
        check("*.cluster.local", "a.CLUSTER.local", true);
        check("*.cluster.local", "*.cluster.local", true);
        check("*.cluster.local", "cluster.local", false);
        check("*.cluster.local", ".cluster.local", false);
        check("*.cluster.local", "a.b.cluster.local", false);
        check("*.cluster.local", "a.evilcluster.local", false);
        check("*.cluster.local", "a.cluster.local.evil", false);
        check("spiffe://c/gannet", "spiffe://c/gannet", true);
        check("spiffe://c/gannet", "spiffe://c/gannet/x", false);
        check("spiffe://c/gannet/*", "spiffe://c/gannet/0", true);
        check("spiffe://c/gannet/*", "spiffe://c/gannet/", false);
        check("spiffe://c/gannet/*", "spiffe://c/gannet/0/1", false);
        check("spiffe://c/gannet/*", "spiffe://c/gannet", false);
    }

    #[test]
    fn a_dns_pattern_matches_no_uri_and_the_other_way_round() {
        let dns = Pattern::parse("cluster").unwrap();
        assert!(!dns.matches("cluster", true));
        let uri = Pattern::parse("a://b").unwrap();
        assert!(!uri.matches("a://b", false));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for bad in [
            "",
            "*",
            "*.",
            "*.*.a",
            "a.*.b",
            "a*.b",
            "a..b",
            ".a",
            "a.",
            "a b",
            "spiffe://*/a",
            "spiffe://a/",
            "a,b",
        ] {
            let error = Pattern::parse(bad).unwrap_err().to_string();
            assert!(error.contains("say a DNS name"), "{bad}: {error}");
        }
    }
}
