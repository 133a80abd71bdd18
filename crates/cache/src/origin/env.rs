//! The environment that credentials are read from: the process's own, or one given.

use std::{collections::BTreeMap, fmt};

/// Environment variables. Printing it prints names only, since values are secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The process's environment as it is now; names and values that are not UTF-8 are left out.
    pub fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self(std::env::vars_os().filter_map(text).collect())
    }

    /// The value of a variable, if it is set and not empty.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// Variables whose names begin with one of these, in lower case, as `object_store` knows them.
    pub(crate) fn lower<'a>(
        &'a self,
        prefixes: &'a [&'a str],
    ) -> impl Iterator<Item = (String, &'a str)> {
        self.0
            .iter()
            .filter(|(name, value)| {
                !value.is_empty() && prefixes.iter().any(|prefix| name.starts_with(prefix))
            })
            .map(|(name, value)| (name.to_ascii_lowercase(), value.as_str()))
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_not_printed() {
        let env: Environment = [("AWS_SECRET_ACCESS_KEY", "hunter2"), ("EMPTY", "")]
            .into_iter()
            .collect();
        assert_eq!(format!("{env:?}"), r#"{"AWS_SECRET_ACCESS_KEY", "EMPTY"}"#);
        assert_eq!(env.value("EMPTY"), None);
        assert_eq!(
            env.lower(&["AWS_"]).next(),
            Some(("aws_secret_access_key".into(), "hunter2"))
        );
    }
}
