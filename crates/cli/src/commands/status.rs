//! `gannet cache status`: a cluster as one of its members sees it.

use crate::{
    client::http::{Client, Refusal, next_piece, parse_url},
    exit::{Error, Exit, Result},
    output,
};
use clap::Args;
use http::HeaderMap;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use std::fmt::Write as _;

/// The longest answer that is read: a thousand members and a thousand chunks.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Arguments of `gannet cache status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Where a member's ops listener is.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9002")]
    pub ops: String,
    /// Show who coordinates this object, and each of its chunks if the member knows it.
    #[arg(long, value_name = "BUCKET/KEY")]
    pub object: Option<String>,
    /// Print the member's answer as it is.
    #[arg(long)]
    pub json: bool,
}

/// Asks, and shows the answer.
pub async fn run(args: &StatusArgs) -> Result {
    let mut url = format!("{}/admin/status", args.ops.trim_end_matches('/'));
    if let Some(object) = &args.object {
        if !object
            .split_once('/')
            .is_some_and(|(b, k)| !b.is_empty() && !k.is_empty())
        {
            return Err(Error::usage(format!("--object {object}: not BUCKET/KEY")));
        }
        let object = utf8_percent_encode(object, NON_ALPHANUMERIC);
        write!(url, "?object={object}").unwrap_or(());
    }
    let url = parse_url(&url).map_err(|error| error.context("--ops"))?;
    let answer = Client::new(None)?.get(&url, HeaderMap::new()).await;
    let mut body = match answer {
        Ok(answer) => answer.into_body(),
        Err(Refusal::Passing { error, .. } | Refusal::Final(error)) => {
            return Err(error.remedy("--ops URL, where a member's --ops-listen is"));
        }
        Err(Refusal::Changed) => return Err(Error::new(Exit::Failure, "an odd answer")),
    };
    let mut text = Vec::new();
    while let Some(piece) = next_piece(&mut body).await? {
        if text.len() + piece.len() > ANSWER_BYTES_MAX {
            return Err(Error::new(Exit::Failure, "the answer is too long"));
        }
        text.extend_from_slice(&piece);
    }
    let status: Value = serde_json::from_slice(&text)
        .map_err(|error| Error::failure(&error).context("what answered is no gannet cache"))?;
    if args.json {
        return output::line(&status.to_string());
    }
    output::line(show(&status).trim_end())
}

/// The answer for people. What a field lacks is left out: the member may be of another version.
fn show(status: &Value) -> String {
    let mut shown = String::new();
    let text = |value: &Value| plain(value.as_str().unwrap_or("-"));
    let mut line = |text: String| {
        shown.push_str(&text);
        shown.push('\n');
    };
    line(format!("origin   {}", text(&status["origin"])));
    match status["members"].as_array() {
        None => line("cluster  none: started without --internal-listen".to_owned()),
        Some(members) => {
            let settled = if status["settled"] == true {
                ""
            } else {
                ", not settled yet"
            };
            line(format!(
                "cluster  {} members as {} sees them{settled}",
                members.len(),
                text(&status["self"])
            ));
            let width = members.iter().map(|m| text(&m["address"]).len()).max();
            let width = width.unwrap_or(0).max(7);
            line(format!("  {:width$}  weight  health   answers", "member"));
            for member in members {
                let (health, answers) = if member["self"] == true {
                    ("itself".to_owned(), String::new())
                } else {
                    let answers = match (member["answered_ms"].as_f64(), member["error"].as_str()) {
                        (Some(ms), _) => format!("in {ms:.1} ms"),
                        (_, Some(error)) => format!("no: {}", plain(error)),
                        _ => "not asked".to_owned(),
                    };
                    (text(&member["health"]), answers)
                };
                let row = format!(
                    "  {:width$}  {:<6}  {health:<8} {answers}",
                    text(&member["address"]),
                    member["weight"].as_u64().unwrap_or(1),
                );
                line(row.trim_end().to_owned());
            }
        }
    }
    let fills = &status["fills"];
    let number = |name: &str| fills[name].as_u64().unwrap_or(0);
    line(format!(
        "fills    {} fetches under way, {} requests, {} callers waiting",
        number("fetches"),
        number("attempts"),
        number("waiters")
    ));
    match status["shared_store_well"].as_bool() {
        Some(true) => line("store    well".to_owned()),
        Some(false) => line("store    failing, and left alone for a while".to_owned()),
        None => {}
    }
    let object = &status["object"];
    if object.is_object() {
        let pair = |ranked: &Value| {
            let first = text(&ranked["coordinator"]);
            match ranked["runner_up"].as_str() {
                Some(second) => format!("{first}, else {}", plain(second)),
                None => first,
            }
        };
        line(format!(
            "object   {}/{}",
            text(&object["bucket"]),
            text(&object["key"])
        ));
        line(format!("  metadata  {}", pair(&object["head"])));
        match object["chunks"].as_array() {
            Some(chunks) => {
                for (n, chunk) in chunks.iter().enumerate() {
                    line(format!("  chunk {n:<4}{}", pair(chunk)));
                }
                let all = object["chunks_all"].as_u64().unwrap_or(0);
                if all > chunks.len() as u64 {
                    line(format!("  of {all} chunks"));
                }
            }
            None => line("  chunks    not known: this member has not looked it up".to_owned()),
        }
    }
    shown
}

/// Fit for a terminal.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(400).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_cluster_is_shown() {
        let status = json!({
            "v": 1, "origin": "s3://", "self": "a:1", "settled": true,
            "fills": { "fetches": 2, "attempts": 1, "waiters": 9 }, "shared_store_well": false,
            "members": [
                { "address": "a:1", "weight": 1, "self": true },
                { "address": "long-name:1", "weight": 2, "self": false, "health": "Healthy", "answered_ms": 0.44 },
                { "address": "c:1", "weight": 1, "self": false, "health": null, "error": "refused\u{1b}[31m" },
            ],
            "object": {
                "bucket": "b", "key": "k", "head": { "coordinator": "a:1", "runner_up": "c:1" },
                "chunks_all": 2, "chunks": [ { "coordinator": "c:1", "runner_up": null } ],
            },
        });
        let expected = "\
origin   s3://
cluster  3 members as a:1 sees them
  member       weight  health   answers
  a:1          1       itself
  long-name:1  2       Healthy  in 0.4 ms
  c:1          1       -        no: refused[31m
fills    2 fetches under way, 1 requests, 9 callers waiting
store    failing, and left alone for a while
object   b/k
  metadata  a:1, else c:1
  chunk 0   c:1
  of 2 chunks
";
        assert_eq!(show(&status), expected);
        let alone = show(&json!({ "origin": "file:///x" }));
        assert!(alone.contains("none: started without"), "{alone}");
    }
}
