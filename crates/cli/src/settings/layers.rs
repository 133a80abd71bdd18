//! Where settings come from: flag > environment > file > default. Nothing is ignored in silence: a
//! key or a variable that is not known is an error that names the nearest one that is.

use super::value::{Shape, Value};
use crate::exit::{Error, Result};
use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
};

/// What is known of a setting without its value.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name in the file; the flag is `--name`, the variable `GANNET_NAME`.
    pub name: &'static str,
    /// How it is written.
    pub shape: Shape,
    /// What stands for its value in the help.
    pub placeholder: &'static str,
    /// What it does: the lines of its doc comment.
    pub doc: &'static [&'static str],
}

impl Key {
    /// Its environment variable.
    pub fn variable(&self) -> String {
        format!(
            "GANNET_{}",
            self.name.to_ascii_uppercase().replace('-', "_")
        )
    }

    /// What it does, as running text.
    pub fn text(&self) -> String {
        self.doc
            .iter()
            .map(|line| line.trim())
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// Who set a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetBy {
    /// The command line.
    Flag,
    /// An environment variable.
    Environment,
    /// The configuration file.
    File(PathBuf),
    /// Nobody.
    Default,
}

impl fmt::Display for SetBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Environment => f.write_str("environment"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// What was written where, by name of setting.
pub type Texts = BTreeMap<&'static str, Vec<String>>;

/// The three layers above the defaults.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    flags: Texts,
    environment: Texts,
    file: Texts,
    path: PathBuf,
}

/// Configuration files larger than this are not read.
const FILE_BYTES_MAX: u64 = 1 << 20;

impl Layers {
    /// Gathers the layers. `variables` is the environment, of which only `GANNET_*` is looked at.
    pub fn gather(
        keys: &[Key],
        flags: Texts,
        config: Option<&Path>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self> {
        let (environment, named) = read_environment(keys, variables)?;
        let path = config.map(Path::to_path_buf).or(named);
        let (file, path) = match path {
            Some(path) => (read_file(keys, &path)?, path),
            None => (Texts::new(), PathBuf::new()),
        };
        Ok(Self {
            flags,
            environment,
            file,
            path,
        })
    }

    /// The value of a setting and who set it.
    pub fn take<T: Value>(&self, key: &Key, default: T) -> Result<(T, SetBy)> {
        let (texts, by) = if let Some(texts) = self.flags.get(key.name) {
            (texts, SetBy::Flag)
        } else if let Some(texts) = self.environment.get(key.name) {
            (texts, SetBy::Environment)
        } else if let Some(texts) = self.file.get(key.name) {
            (texts, SetBy::File(self.path.clone()))
        } else {
            return Ok((default, SetBy::Default));
        };
        let value = T::read(texts).map_err(|why| {
            Error::usage(match &by {
                SetBy::Flag => format!("--{}: {why}", key.name),
                SetBy::Environment => format!("{}: {why}", key.variable()),
                SetBy::File(path) => format!("{}: {}: {why}", path.display(), key.name),
                SetBy::Default => why,
            })
        })?;
        Ok((value, by))
    }
}

/// The `GANNET_*` variables, and the file that `GANNET_CONFIG` names.
fn read_environment(
    keys: &[Key],
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<(Texts, Option<PathBuf>)> {
    let mut texts = Texts::new();
    let mut config = None;
    for (name, text) in variables {
        if !name.starts_with("GANNET_") || OTHERS.contains(&name.as_str()) {
            continue;
        }
        if name == "GANNET_CONFIG" {
            config = Some(PathBuf::from(text));
        } else if let Some(key) = keys.iter().find(|key| key.variable() == name) {
            let many = match key.shape {
                Shape::List => text.split_whitespace().map(str::to_owned).collect(),
                _ => vec![text],
            };
            texts.insert(key.name, many);
        } else if !from_kubernetes(&name) {
            let known = keys
                .iter()
                .map(Key::variable)
                .chain([String::from("GANNET_CONFIG")]);
            return Err(unknown("the environment sets", &name, known));
        }
    }
    Ok((texts, config))
}

/// Variables of the client commands, which the cache has no use for.
const OTHERS: &[&str] = &["GANNET_TOKEN"];

/// Kubernetes puts variables of its own making into every container of a namespace that has a
/// service named `gannet` or `gannet-...`: `GANNET_SERVICE_HOST`, `GANNET_PORT_9000_TCP_ADDR`, ...
fn from_kubernetes(name: &str) -> bool {
    name.contains("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| {
            name.contains("_PORT_")
                && name
                    .split_once("_PORT_")
                    .is_some_and(|(_, rest)| rest.contains(protocol))
        })
}

/// The settings in a TOML file.
fn read_file(keys: &[Key], path: &Path) -> Result<Texts> {
    let say = |error: std::io::Error| {
        Error::usage(format!(
            "cannot read the configuration {}: {error}",
            path.display()
        ))
    };
    if fs::metadata(path).map_err(say)?.len() > FILE_BYTES_MAX {
        return Err(Error::usage(format!(
            "{} is too large to be a configuration",
            path.display()
        )));
    }
    let text = fs::read_to_string(path).map_err(say)?;
    parse_file(keys, &text).map_err(|error| error.context(path.display()))
}

/// The settings in the text of a TOML file.
pub fn parse_file(keys: &[Key], text: &str) -> Result<Texts> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(0, |span| {
            text.as_bytes()
                .iter()
                .take(span.start)
                .filter(|byte| **byte == b'\n')
                .count()
                + 1
        });
        Error::usage(format!("line {line}: {}", error.message()))
    })?;
    let mut texts = Texts::new();
    for (name, value) in table {
        let Some(key) = keys.iter().find(|key| key.name == name) else {
            let known = keys.iter().map(|key| key.name.to_owned());
            return Err(unknown("it sets", &name, known));
        };
        let read = from_toml(key.shape, &value)
            .ok_or_else(|| Error::usage(format!("{name}: expected {}", example(key.shape))))?;
        texts.insert(key.name, read);
    }
    Ok(texts)
}

fn from_toml(shape: Shape, value: &toml::Value) -> Option<Vec<String>> {
    match (shape, value) {
        (Shape::Text, toml::Value::String(text)) => Some(vec![text.clone()]),
        (Shape::Number, toml::Value::Integer(number)) => Some(vec![number.to_string()]),
        (Shape::Fraction, toml::Value::Integer(number)) => Some(vec![number.to_string()]),
        (Shape::Fraction, toml::Value::Float(number)) => Some(vec![number.to_string()]),
        (Shape::Switch, toml::Value::Boolean(on)) => Some(vec![on.to_string()]),
        (Shape::List, toml::Value::Array(values)) => values
            .iter()
            .map(|value| value.as_str().map(str::to_owned))
            .collect(),
        _ => None,
    }
}

fn example(shape: Shape) -> &'static str {
    match shape {
        Shape::Text => "a text in quotes",
        Shape::Number => "a whole number",
        Shape::Fraction => "a number from 0 to 1",
        Shape::Switch => "true or false",
        Shape::List => "an array of texts in quotes",
    }
}

fn unknown(where_: &str, name: &str, known: impl Iterator<Item = String>) -> Error {
    let error = Error::usage(format!(
        "{where_} \"{}\", which is not known",
        name.escape_debug()
    ));
    match nearest(name, known) {
        Some(nearest) => error.remedy(format!("{nearest} (the nearest that is known)")),
        None => error.remedy("gannet config (lists all that are known)"),
    }
}

/// The known name that is the fewest edits away, if that is near enough to have been meant.
fn nearest(name: &str, known: impl Iterator<Item = String>) -> Option<String> {
    if name.len() > 64 {
        return None;
    }
    let plain = |text: &str| text.to_ascii_lowercase().replace('_', "-");
    let wanted = plain(name);
    known
        .map(|known| (edits(&wanted, &plain(&known)), known))
        .min()
        .filter(|(edits, known)| *edits <= 1 + known.len() / 3)
        .map(|(_, known)| known)
}

/// Levenshtein's distance, by one row of his table at a time.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        let check = |a, b, want| {
            assert_eq!(edits(a, b), want, "{a} {b}");
            assert_eq!(edits(b, a), want, "{b} {a}");
        };
        check("", "", 0);
        check("", "abc", 3);
        check("kitten", "sitting", 3);
        check("listen", "listen", 0);
        check("lisen", "listen", 1);
    }

    #[test]
    fn the_variables_of_a_kubernetes_service_are_not_settings() {
        for name in [
            "GANNET_SERVICE_HOST",
            "GANNET_SERVICE_PORT_HTTP",
            "GANNET_PORT",
            "GANNET_EDGE_PORT_9000_TCP_ADDR",
        ] {
            assert!(from_kubernetes(name), "{name}");
        }
        assert!(!from_kubernetes("GANNET_LISTEN"));
        assert!(!from_kubernetes("GANNET_DISK_MAX"));
    }
}
