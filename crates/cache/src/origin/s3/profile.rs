//! Keys and a region from `~/.aws/credentials` and `~/.aws/config`, for the profile that
//! `AWS_PROFILE` names, as the AWS tools read them. Static keys only: a profile that assumes a role
//! or signs on elsewhere gives none.

use super::Environment;
use object_store::aws::AwsCredential;
use std::{collections::HashMap, path::PathBuf};

/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What a profile says.
#[derive(Debug, Default)]
pub(super) struct Profile {
    pub(super) credential: Option<AwsCredential>,
    pub(super) region: Option<String>,
}

impl Profile {
    /// Reads both files; what is missing or unreadable gives nothing.
    pub(super) fn load(env: &Environment) -> Self {
        let home = |name: &str| Some(PathBuf::from(env.value("HOME")?).join(".aws").join(name));
        let file = |variable: &str, name: &str| {
            let path = env
                .value(variable)
                .map(PathBuf::from)
                .or_else(|| home(name))?;
            let small =
                std::fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() <= FILE_BYTES_MAX);
            small.then(|| std::fs::read_to_string(&path).ok()).flatten()
        };
        let name = env.value("AWS_PROFILE").unwrap_or("default");
        let credentials = file("AWS_SHARED_CREDENTIALS_FILE", "credentials").unwrap_or_default();
        let config = file("AWS_CONFIG_FILE", "config").unwrap_or_default();
        Self::parse(name, &credentials, &config)
    }

    pub(super) fn parse(name: &str, credentials: &str, config: &str) -> Self {
        let mut keys = section(config, |title| {
            title.strip_prefix("profile ").map(str::trim) == Some(name)
                || (title == "default" && name == "default")
        });
        keys.extend(section(credentials, |title| title == name));
        let mut take = |key: &str| keys.remove(key).filter(|value| !value.is_empty());
        let region = take("region");
        let credential = match (take("aws_access_key_id"), take("aws_secret_access_key")) {
            (Some(key_id), Some(secret_key)) => Some(AwsCredential {
                key_id,
                secret_key,
                token: take("aws_session_token"),
            }),
            _ => None,
        };
        Self { credential, region }
    }
}

/// The keys of one section of an INI file; nested ones (indented lines) are left out.
fn section(text: &str, wanted: impl Fn(&str) -> bool) -> HashMap<String, String> {
    let mut inside = false;
    let mut keys = HashMap::new();
    for line in text.lines() {
        let plain = line.trim();
        if let Some(title) = plain
            .strip_prefix('[')
            .and_then(|rest| rest.split_once(']'))
        {
            inside = wanted(title.0.trim());
        } else if inside
            && !line.starts_with([' ', '\t', '#', ';'])
            && let Some((key, value)) = plain.split_once('=')
        {
            keys.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREDENTIALS: &str = "# mine\n[default]\naws_access_key_id = A\naws_secret_access_key=S=1\n\
        [work]\naws_access_key_id=B\naws_secret_access_key=T\naws_session_token=tok\n[half]\naws_access_key_id=C\n";
    const CONFIG: &str = "[default]\nregion=eu-west-1\ns3 =\n  region = nested\n[profile work]\nregion = us-west-2\n";

    #[test]
    fn profiles() {
        for (name, key, secret, token, region) in [
            ("default", Some("A"), "S=1", None, Some("eu-west-1")),
            ("work", Some("B"), "T", Some("tok"), Some("us-west-2")),
            ("half", None, "", None, None),
            ("none", None, "", None, None),
        ] {
            let profile = Profile::parse(name, CREDENTIALS, CONFIG);
            assert_eq!(profile.region.as_deref(), region, "{name}");
            assert_eq!(
                profile.credential.as_ref().map(|c| c.key_id.as_str()),
                key,
                "{name}"
            );
            if let Some(credential) = profile.credential {
                assert_eq!(credential.secret_key, secret);
                assert_eq!(credential.token.as_deref(), token);
            }
        }
    }

    #[test]
    fn files_are_found_by_the_environment() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(".aws")).unwrap();
        std::fs::write(dir.path().join(".aws/credentials"), CREDENTIALS).unwrap();
        let home = dir.path().to_str().unwrap();
        let env = |profile: &str| {
            [("HOME", home), ("AWS_PROFILE", profile)]
                .into_iter()
                .collect()
        };
        assert_eq!(Profile::load(&env("work")).credential.unwrap().key_id, "B");
        assert!(Profile::load(&Environment::default()).credential.is_none());
    }
}
