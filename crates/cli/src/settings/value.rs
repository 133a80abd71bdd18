//! The types a setting can have, and how each is written on a command line and in TOML.

use crate::units::{Fraction, Size, Span};
use std::{net::SocketAddr, path::PathBuf};

/// How a setting is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One text.
    Text,
    /// One whole number, bare in TOML.
    Number,
    /// A part of one, bare in TOML.
    Fraction,
    /// `true` or `false`; as a flag it may stand alone.
    Switch,
    /// Any number of texts: a repeated flag, an array in TOML, separated by spaces in an environment
    /// variable.
    List,
}

/// A type that a setting can have. Every source of settings is brought to texts first, so that a
/// value has one grammar wherever it is written.
pub trait Value: Clone + Sized {
    /// How it is written.
    const SHAPE: Shape;

    /// Reads it; exactly one text, but for lists.
    fn read(texts: &[String]) -> Result<Self, String>;

    /// What [`read`](Self::read) takes; none where it is not set.
    fn write(&self) -> Option<Vec<String>>;
}

/// A value that is one text.
macro_rules! one_text {
    ($type:ty, $shape:expr, $read:expr, $write:expr) => {
        impl Value for $type {
            const SHAPE: Shape = $shape;

            fn read(texts: &[String]) -> Result<Self, String> {
                match texts {
                    [text] => $read(text.as_str()),
                    _ => Err("expected one value".to_owned()),
                }
            }

            fn write(&self) -> Option<Vec<String>> {
                Some(vec![$write(self)])
            }
        }
    };
}

one_text!(String, Shape::Text, plain, Self::clone);
one_text!(
    bool,
    Shape::Switch,
    |text| match text {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(format!(
            "\"{}\" is neither true nor false",
            other.escape_debug()
        )),
    },
    Self::to_string
);
one_text!(
    u32,
    Shape::Number,
    |text: &str| text
        .parse()
        .map_err(|_| format!("\"{}\" is no whole number below 2^32", text.escape_debug())),
    Self::to_string
);
one_text!(
    Fraction,
    Shape::Fraction,
    |text: &str| text.parse().map_err(|error| format!("{error}")),
    Self::to_string
);
one_text!(
    Size,
    Shape::Text,
    |text: &str| text.parse().map_err(|error| format!("{error}")),
    Self::to_string
);
one_text!(
    Span,
    Shape::Text,
    |text: &str| text.parse().map_err(|error| format!("{error}")),
    Self::to_string
);
one_text!(
    SocketAddr,
    Shape::Text,
    |text: &str| text.parse().map_err(|_| format!(
        "\"{}\" is no address with a port, such as 127.0.0.1:9000, 0.0.0.0:9000 or [::1]:9000",
        text.escape_debug()
    )),
    Self::to_string
);
one_text!(
    PathBuf,
    Shape::Text,
    |text: &str| plain(text).map(Self::from),
    |path: &Self| path.to_string_lossy().into_owned()
);

impl Value for Vec<String> {
    const SHAPE: Shape = Shape::List;

    fn read(texts: &[String]) -> Result<Self, String> {
        texts.iter().map(|text| plain(text)).collect()
    }

    fn write(&self) -> Option<Vec<String>> {
        Some(self.clone())
    }
}

impl<T: Value> Value for Option<T> {
    const SHAPE: Shape = T::SHAPE;

    fn read(texts: &[String]) -> Result<Self, String> {
        T::read(texts).map(Some)
    }

    fn write(&self) -> Option<Vec<String>> {
        self.as_ref().and_then(T::write)
    }
}

/// A text with something in it: `--auth ""` is a variable that was not set, not a wish.
fn plain(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        Err("it is empty".to_owned())
    } else {
        Ok(text.to_owned())
    }
}
