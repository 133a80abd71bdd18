//! The flags of `gannet cache`, made from the table of settings.

use super::{KEYS, layers::Texts, value::Shape};
use clap::{
    Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, builder::NonEmptyStringValueParser,
};
use std::path::PathBuf;

/// What the command line sets. Every setting is a flag of the same name.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// The configuration file, if a flag names one.
    pub config: Option<PathBuf>,
    /// What was written, by name of setting.
    pub texts: Texts,
}

impl Args for Flags {
    fn augment_args(mut command: Command) -> Command {
        command = command.arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .value_parser(clap::value_parser!(PathBuf))
                .help("Read settings from this TOML file [env: GANNET_CONFIG]"),
        );
        for key in KEYS {
            let arg = Arg::new(key.name)
                .long(key.name)
                .value_name(key.placeholder)
                .value_parser(NonEmptyStringValueParser::new())
                .help(help(key.name, &key.text()));
            command = command.arg(match key.shape {
                Shape::List => arg.action(ArgAction::Append),
                // `--anonymous` alone, or `--anonymous=false` against a file that says true.
                Shape::Switch => arg
                    .num_args(0..=1)
                    .require_equals(true)
                    .default_missing_value("true"),
                Shape::Text | Shape::Number | Shape::Fraction => arg,
            });
        }
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// The doc text, with the default behind it where there is one to show.
fn help(name: &str, text: &str) -> String {
    let text = text.trim_end_matches('.');
    match super::default_text(name) {
        Some(default) => format!("{text} [default: {default}]"),
        None => text.to_owned(),
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut this = Self::default();
        this.update_from_arg_matches(matches)?;
        Ok(this)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.config = matches.get_one::<PathBuf>("config").cloned();
        for key in KEYS {
            if let Some(texts) = matches.get_many::<String>(key.name) {
                self.texts.insert(key.name, texts.cloned().collect());
            }
        }
        Ok(())
    }
}
