//! What `gannet config` prints.

use super::{Settings, Shape};
use serde_json::json;
use std::fmt::Write as _;

/// The settings as a configuration file that would give the same, with who set each.
pub fn show_toml(settings: &Settings) -> String {
    let mut out = String::new();
    for (key, texts, by) in settings.rows() {
        let line = match &texts {
            Some(texts) => format!("{} = {}", key.name, in_toml(key.shape, texts)),
            None => format!("# {} is not set", key.name),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{line:<44}  # {by}");
    }
    out
}

fn in_toml(shape: Shape, texts: &[String]) -> String {
    let quote = |text: &String| toml::Value::from(text.as_str()).to_string();
    match shape {
        Shape::List => format!(
            "[{}]",
            texts.iter().map(quote).collect::<Vec<_>>().join(", ")
        ),
        Shape::Text => texts.iter().map(quote).collect(),
        Shape::Number | Shape::Fraction | Shape::Switch => texts.concat(),
    }
}

/// The same as one JSON object: `{"v":1,"settings":{"listen":{"value":"...","by":"flag"},...}}`.
pub fn show_json(settings: &Settings) -> String {
    let mut rows = serde_json::Map::new();
    for (key, texts, by) in settings.rows() {
        let value = match (texts, key.shape) {
            (None, _) => serde_json::Value::Null,
            (Some(texts), Shape::List) => json!(texts),
            (Some(texts), Shape::Text) => json!(texts.concat()),
            (Some(texts), Shape::Number | Shape::Fraction | Shape::Switch) => {
                serde_json::from_str(&texts.concat()).unwrap_or_else(|_| json!(texts.concat()))
            }
        };
        rows.insert(
            key.name.to_owned(),
            json!({ "value": value, "by": by.to_string() }),
        );
    }
    json!({ "v": 1, "settings": rows }).to_string()
}
