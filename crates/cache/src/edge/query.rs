//! The query of a request: its parameters, and the sub-resource that it names.

use super::failure::Failure;
use std::borrow::Cow;

/// Decoded parameters, in the order given.
#[derive(Debug, Default)]
pub(crate) struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    pub(crate) fn parse(query: Option<&'a str>) -> Self {
        Self(url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).collect())
    }

    /// A parameter's first value.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_ref())
    }

    /// As [`Query::value`], with an empty value as none.
    pub(crate) fn filled(&self, name: &str) -> Option<&str> {
        self.value(name).filter(|value| !value.is_empty())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(n, _)| n == name)
    }

    /// A number within bounds.
    pub(crate) fn number(
        &self,
        name: &'static str,
        least: u32,
        refusal: &'static str,
    ) -> Result<Option<u32>, Failure> {
        let Some(text) = self.filled(name) else {
            return Ok(None);
        };
        match text
            .parse::<i32>()
            .ok()
            .and_then(|n| u32::try_from(n).ok())
            .filter(|&n| n >= least)
        {
            Some(n) => Ok(Some(n)),
            None => Err(Failure::invalid_argument(refusal, name, text)),
        }
    }
}

/// Whether a query cannot change what a GET or HEAD of an object means: nothing, or the name of the
/// operation that newer SDKs add.
pub(crate) fn is_plain(query: Option<&[u8]>) -> bool {
    matches!(
        query,
        None | Some(b"" | b"x-id=GetObject" | b"x-id=HeadObject")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let query = Query::parse(Some(
            "list-type=2&prefix=a%2Bb+c&max-keys=5&empty=&flag&prefix=x",
        ));
        assert_eq!(query.value("prefix"), Some("a+b c"));
        assert_eq!(query.value("empty"), Some(""));
        assert_eq!(query.filled("empty"), None);
        assert!(query.has("flag") && !query.has("other"));
        assert_eq!(query.number("max-keys", 0, "no").unwrap(), Some(5));
        assert_eq!(query.number("other", 0, "no").unwrap(), None);
        for bad in ["-1", "x", "1.5", "2147483648", " 1"] {
            let text = format!("n={bad}");
            assert!(
                Query::parse(Some(&text)).number("n", 0, "no").is_err(),
                "{bad}"
            );
        }
    }
}
