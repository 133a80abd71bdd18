//! The Python environment that `install.sh` makes: clients of ours, and servers.

use super::installed;
use std::{
    path::PathBuf,
    process::{Command, Output},
};

/// The interpreter of the environment with boto3, awscli, s3fs, fsspec, moto.
///
/// # Panics
///
/// If it is not installed.
pub fn python() -> PathBuf {
    installed("venv/bin/python")
}

/// Runs Python clients against a server, with credentials and nothing of the user's own settings.
#[derive(Clone, Debug)]
pub struct Python {
    env: Vec<(String, String)>,
}

impl Python {
    /// Clients that sign with these keys and talk to this S3 endpoint.
    pub fn new(endpoint: &str, access_key: &str, secret_key: &str) -> Self {
        let env = [
            ("AWS_ENDPOINT_URL", endpoint),
            ("AWS_ACCESS_KEY_ID", access_key),
            ("AWS_SECRET_ACCESS_KEY", secret_key),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_CONFIG_FILE", "/dev/null"),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("NO_PROXY", "*"),
            ("PYTHONDONTWRITEBYTECODE", "1"),
        ];
        Self {
            env: env.map(|(name, value)| (name.into(), value.into())).into(),
        }
    }

    /// Runs a script with these arguments.
    ///
    /// # Panics
    ///
    /// If it fails; its output is quoted.
    pub fn script(&self, script: &str, args: &[&str]) -> String {
        self.checked(self.command("python").args(["-c", script]).args(args))
    }

    /// Runs the AWS command line, as in `aws(&["s3", "ls"])`.
    ///
    /// # Panics
    ///
    /// If it fails; its output is quoted.
    pub fn aws(&self, args: &[&str]) -> String {
        self.checked(self.command("aws").args(args))
    }

    /// A command of the environment, not yet run.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(installed(&format!("venv/bin/{name}")));
        command
            .env_remove("AWS_PROFILE")
            .env_remove("AWS_SESSION_TOKEN");
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    fn checked(&self, command: &mut Command) -> String {
        let Output {
            status,
            stdout,
            stderr,
        } = command
            .output()
            .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        let (stdout, stderr) = (
            String::from_utf8_lossy(&stdout),
            String::from_utf8_lossy(&stderr),
        );
        assert!(
            status.success(),
            "{command:?}: {status}\n{stdout}\n{stderr}"
        );
        stdout.into_owned()
    }
}
