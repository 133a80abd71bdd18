use super::*;
use crate::exit::Exit;
use std::{collections::BTreeMap, fs, path::Path};

/// Settings from texts in each layer.
fn resolve(
    flags: &[(&'static str, &str)],
    environment: &[(&str, &str)],
    file: &str,
) -> Result<Settings> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gannet.toml");
    fs::write(&path, file).unwrap();
    let flags: Texts = flags
        .iter()
        .map(|(name, text)| (*name, vec![(*text).to_owned()]))
        .collect();
    let variables = environment
        .iter()
        .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    Settings::resolve(&Layers::gather(KEYS, flags, Some(&path), variables)?)
}

#[test]
fn the_flag_wins_then_the_environment_then_the_file() {
    let flag: &[(&'static str, &str)] = &[("chunk-size", "1MiB")];
    let variable: &[(&str, &str)] = &[("GANNET_CHUNK_SIZE", "2MiB")];
    let file = "chunk-size = \"4MiB\"";
    let check = |flags, environment, file, want, by: &str| {
        let settings = resolve(flags, environment, file).unwrap();
        assert_eq!(settings.chunk_size.value, Size::mib(want));
        assert!(
            settings.chunk_size.by.to_string().starts_with(by),
            "{}",
            settings.chunk_size.by
        );
    };
    check(flag, variable, file, 1, "flag");
    check(&[], variable, file, 2, "environment");
    check(&[], &[], file, 4, "file /");
    check(&[], &[], "", 8, "default");
}

#[test]
fn nothing_is_ignored_in_silence() {
    let check = |environment: &[(&str, &str)], file: &str, says: &[&str]| {
        let error = resolve(&[], environment, file).unwrap_err();
        assert_eq!(error.exit(), Exit::Usage);
        for text in says {
            assert!(error.to_string().contains(text), "{error}: no \"{text}\"");
        }
    };
    check(
        &[],
        "chunksize = \"4MiB\"",
        &["gannet.toml", "\"chunksize\"", "chunk-size"],
    );
    check(
        &[],
        "chunk_size = \"4MiB\"",
        &["\"chunk_size\"", "try: chunk-size"],
    );
    check(&[], "zzzzzzzzzzzz = 1", &["gannet config"]);
    check(&[], "config = \"other.toml\"", &["\"config\""]);
    check(&[], "[cache]\nlisten = \"x\"", &["\"cache\""]);
    check(
        &[("GANNET_DISKMAX", "1GiB")],
        "",
        &["GANNET_DISKMAX", "GANNET_DISK_MAX"],
    );
    check(
        &[("GANNET_DISK_MAX", "1")],
        "",
        &["GANNET_DISK_MAX: the unit is missing"],
    );
    check(&[("GANNET_AUTH", "")], "", &["GANNET_AUTH: it is empty"]);
    check(
        &[],
        "chunk-size = 4",
        &["chunk-size: expected a text in quotes"],
    );
    check(
        &[],
        "anonymous = \"true\"",
        &["anonymous: expected true or false"],
    );
    check(
        &[],
        "origin-mirror = \"http://x\"",
        &["origin-mirror: expected an array"],
    );
    check(
        &[],
        "origin-concurrency = -1",
        &["\"-1\" is no whole number"],
    );
    check(&[], "a = 1\nlisten = =", &["line 2"]);
}

#[test]
fn lists_and_switches_in_every_layer() {
    let settings = resolve(&[], &[("GANNET_ORIGIN_MIRROR", "http://a  http://b")], "").unwrap();
    assert_eq!(settings.origin_mirror.value, ["http://a", "http://b"]);
    let settings = resolve(&[("anonymous", "false")], &[], "anonymous = true").unwrap();
    assert!(!settings.anonymous.value);
    let settings = resolve(&[], &[], "origin-mirror = [\"http://a\"]\njson-logs = true").unwrap();
    assert_eq!(settings.origin_mirror.value, ["http://a"]);
    assert!(settings.json_logs.value);
}

#[test]
fn settings_that_contradict_each_other_are_refused_with_a_remedy() {
    let check = |flags: &[(&'static str, &str)], want: Option<&str>| {
        let outcome = resolve(flags, &[], "").unwrap().check();
        match (outcome, want) {
            (Ok(()), None) => {}
            (Err(error), Some(want)) => assert!(error.to_string().contains(want), "{error}"),
            (outcome, want) => panic!("{flags:?}: {outcome:?}, not {want:?}"),
        }
    };
    check(&[], None);
    check(&[("listen", "[::1]:9000")], None);
    check(&[("listen", "0.0.0.0:9000")], Some("--auth FILE"));
    check(&[("listen", "[::]:9000")], Some("--anonymous"));
    check(&[("listen", "0.0.0.0:9000"), ("anonymous", "true")], None);
    check(&[("listen", "0.0.0.0:9000"), ("auth", "a.toml")], None);
    check(
        &[("anonymous", "true"), ("auth", "a.toml")],
        Some("contradict"),
    );
    check(&[("tls-cert", "c.pem")], Some("--tls-key"));
    check(&[("tls-key", "c.pem")], Some("--tls-cert"));
    check(&[("chunk-size", "512KiB")], Some("between 1MiB and 64MiB"));
    check(&[("chunk-size", "65MiB")], Some("between 1MiB and 64MiB"));
    check(&[("memory-max", "15MiB")], Some("two chunks"));
    check(&[("origin-concurrency", "0")], Some("nothing could ever"));
    check(&[("hedge-after", "0")], Some("twice"));
}

#[test]
fn what_config_prints_is_a_file_that_gives_the_same() {
    let first = resolve(
        &[
            ("origin", "https://h/\"quoted\""),
            ("anonymous", "true"),
            ("read-ahead", "7"),
        ],
        &[("GANNET_ORIGIN_MIRROR", "http://a http://b")],
        "hedge-after = \"1m30s\"",
    )
    .unwrap();
    let text = show_toml(&first);
    let again = resolve(&[], &[], &text).unwrap();
    let values = |settings: &Settings| {
        settings
            .rows()
            .into_iter()
            .map(|(key, texts, _)| (key.name, texts))
            .collect::<BTreeMap<_, _>>()
    };
    assert_eq!(values(&first), values(&again), "{text}");
    assert!(
        text.contains("# environment") && text.contains("# flag"),
        "{text}"
    );
}

#[test]
fn the_json_form_has_every_key_with_its_type() {
    let settings = resolve(&[("origin-concurrency", "7")], &[], "").unwrap();
    let value: serde_json::Value = serde_json::from_str(&show_json(&settings)).unwrap();
    assert_eq!(value["v"], 1);
    for key in KEYS {
        assert!(
            value["settings"][key.name]["by"].is_string(),
            "{}",
            key.name
        );
    }
    assert_eq!(value["settings"]["origin-concurrency"]["value"], 7);
    assert_eq!(value["settings"]["anonymous"]["value"], false);
    assert_eq!(
        value["settings"]["origin"]["value"],
        serde_json::Value::Null
    );
    assert_eq!(value["settings"]["chunk-size"]["value"], "8MiB");
}

#[test]
fn the_document_names_every_setting_and_its_default() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/CONFIG.md");
    let document = fs::read_to_string(path).unwrap();
    for key in KEYS {
        let row = document
            .lines()
            .find(|line| line.starts_with(&format!("| `{}`", key.name)))
            .unwrap_or_else(|| panic!("docs/CONFIG.md has no row for {}", key.name));
        assert!(
            row.contains(&key.text().replace('|', "\\|")),
            "{}: the text differs: {row}",
            key.name
        );
        if let Some(default) = default_text(key.name) {
            assert!(
                row.contains(&format!("`{default}`")),
                "{}: the default differs: {row}",
                key.name
            );
        }
    }
}

#[test]
fn the_documents_example_is_a_valid_file() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/CONFIG.md");
    let document = fs::read_to_string(path).unwrap();
    let (_, example) = document.split_once("## A file for production").unwrap();
    let example = example
        .split("```")
        .nth(1)
        .unwrap()
        .strip_prefix("toml")
        .unwrap();
    let settings = resolve(&[], &[], example).unwrap();
    settings.check().unwrap();
    assert_eq!(settings.disk_max.value, Size::gib(500));
}

#[test]
fn traces_go_where_they_can_be_taken() {
    let traces = |flags: &[(&'static str, &str)], file: &str| {
        let settings = resolve(flags, &[], file)?;
        settings.check().map(|()| settings.traces())
    };
    assert_eq!(traces(&[], "").unwrap(), None, "off by default");
    assert_eq!(traces(&[], "otlp-sample = 0.5").unwrap(), None);
    let on = traces(&[("otlp", "http://h:4318")], "otlp-sample = 1").unwrap();
    let on = on.expect("a collector");
    assert_eq!(on.sample, 1.0);
    let url = |text: &str| {
        let traces = traces(&[("otlp", text)], "").unwrap().expect("a collector");
        traces.endpoint().unwrap().to_string()
    };
    assert_eq!(url("http://h:4318"), "http://h:4318/v1/traces");
    assert_eq!(url("https://h/"), "https://h/v1/traces");
    assert_eq!(url("http://h/otlp/v1/traces"), "http://h/otlp/v1/traces");
    for bad in ["", "h:4318", "grpc://h:4317", "http://", "http://u:p@h"] {
        assert!(traces(&[("otlp", bad)], "").is_err(), "{bad}");
    }
    for bad in ["2", "-0.1", "NaN", "inf", "1%", ""] {
        assert!(traces(&[("otlp-sample", bad)], "").is_err(), "{bad}");
    }
    assert!(traces(&[], "otlp-sample = 1.5").is_err());
    assert!(traces(&[], "otlp-sample = \"0.5\"").is_err());
}
