//! Settings: options, else the environment, else the settings file. The only place of this
//! crate that reads the environment.

use std::env;
use std::fs;
use std::io::{ErrorKind, IsTerminal};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::text::{FileError, parse_toml};
use serde::Deserialize;

use crate::cli::{ColorChoice, Global};
use crate::client::{ClientSettings, SetupError, Token};
use crate::output::{Detail, Output};

/// Settings that are no good.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The settings file is wrong.
    #[error(transparent)]
    File(FileError),
    /// A file can't be read.
    #[error("failed to read the {what} `{}`", path.display())]
    Read {
        /// What it is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Nobody has said where the broker is.
    #[error("no broker is given")]
    NoBroker,
    /// Nobody has said where the token is.
    #[error("no token file is given")]
    NoToken,
    /// The client can't be made of them.
    #[error(transparent)]
    Client(#[from] SetupError),
}

impl ConfigError {
    /// What to do about it.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::NoBroker => Some(
                "use `--broker URL`, the environment's PILOT_BROKER, or `broker = \"URL\"` in ~/.config/workspace-pilot/submit.toml",
            ),
            Self::NoToken => Some(
                "use `--token-file FILE`, the environment's PILOT_TOKEN_FILE, or `token_file = \"FILE\"` in ~/.config/workspace-pilot/submit.toml; the broker's administrator makes tokens",
            ),
            Self::File(_) | Self::Read { .. } | Self::Client(_) => None,
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct SettingsFile {
    broker: Option<String>,
    token_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
}

/// What this crate takes from the environment.
#[derive(Default, Debug)]
pub struct Environment {
    broker: Option<String>,
    token_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    settings_dir: Option<PathBuf>,
    colour: bool,
    stdout_tty: bool,
    stderr_tty: bool,
}

impl Environment {
    /// Reads the process's environment.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the module that reads the environment"
    )]
    pub fn read() -> Self {
        let set = |name: &str| env::var_os(name).filter(|v| !v.is_empty());
        let stdout_tty = std::io::stdout().is_terminal();
        let dumb = set("TERM").is_none_or(|t| t == "dumb");
        Self {
            broker: set("PILOT_BROKER").map(|v| v.to_string_lossy().into_owned()),
            token_file: set("PILOT_TOKEN_FILE").map(PathBuf::from),
            ca_file: set("PILOT_CA_FILE").map(PathBuf::from),
            settings_dir: set("XDG_CONFIG_HOME")
                .map(PathBuf::from)
                .or_else(|| set("HOME").map(|h| PathBuf::from(h).join(".config"))),
            colour: stdout_tty && !dumb && set("NO_COLOR").is_none(),
            stdout_tty,
            stderr_tty: std::io::stderr().is_terminal() && !dumb,
        }
    }
}

/// How results are to be shown.
pub fn output(global: &Global, environment: &Environment) -> Output {
    Output {
        detail: match (global.json, global.quiet) {
            (true, _) => Detail::Json,
            (false, true) => Detail::Quiet,
            (false, false) => Detail::Human,
        },
        colour: match global.color.unwrap_or_default() {
            ColorChoice::Auto => environment.colour,
            ColorChoice::Always => true,
            ColorChoice::Never => false,
        },
        wrap: environment.stdout_tty,
        live: environment.stderr_tty && !global.json && !global.quiet,
    }
}

/// How to reach the broker.
///
/// # Errors
/// A setting is missing or wrong, or a file that it names can't be read.
pub fn client(
    global: &Global,
    environment: &Environment,
    output: &Output,
) -> Result<ClientSettings, ConfigError> {
    let file = settings_file(global, environment)?;
    let broker = global
        .broker
        .clone()
        .or_else(|| environment.broker.clone())
        .or(file.broker)
        .ok_or(ConfigError::NoBroker)?;
    let token_file = global
        .token_file
        .clone()
        .or_else(|| environment.token_file.clone())
        .or(file.token_file)
        .ok_or(ConfigError::NoToken)?;
    let mut settings = ClientSettings::new(broker);
    settings.token = Some(token(&token_file, output)?);
    settings.ca_file = global
        .ca_file
        .clone()
        .or_else(|| environment.ca_file.clone())
        .or(file.ca_file);
    if let Some(timeout) = global.timeout {
        settings.retry.give_up_after = timeout.as_duration();
        settings.answer_timeout = timeout.as_duration().max(Duration::from_secs(1));
    }
    Ok(settings)
}

fn token(path: &Path, output: &Output) -> Result<Token, ConfigError> {
    let read = |source| ConfigError::Read {
        what: "token file",
        path: path.to_owned(),
        source,
    };
    let text = fs::read_to_string(path).map_err(read)?;
    let mode = fs::metadata(path).map_err(read)?.permissions().mode();
    if mode & 0o077 != 0 {
        output.note(&format!(
            "other users of this machine can read or change your token: chmod 600 {}",
            path.display()
        ));
    }
    Ok(Token::new(&text)?)
}

/// The settings file; paths in it are taken from its directory.
fn settings_file(global: &Global, environment: &Environment) -> Result<SettingsFile, ConfigError> {
    let usual = || {
        Some(
            environment
                .settings_dir
                .as_ref()?
                .join("workspace-pilot/submit.toml"),
        )
    };
    let Some(path) = global.config.clone().or_else(usual) else {
        return Ok(SettingsFile::default());
    };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound && global.config.is_none() => {
            return Ok(SettingsFile::default());
        }
        Err(source) => {
            return Err(ConfigError::Read {
                what: "settings file",
                path,
                source,
            });
        }
    };
    let mut file: SettingsFile =
        parse_toml(&path.display().to_string(), &text).map_err(ConfigError::File)?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    for setting in [&mut file.token_file, &mut file.ca_file] {
        *setting = setting.take().map(|p| dir.join(p));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet() -> Output {
        Output {
            detail: Detail::Quiet,
            colour: false,
            wrap: false,
            live: false,
        }
    }

    #[test]
    fn options_win_over_the_environment_and_that_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("t"), "wp1.a.b\n").unwrap();
        let config = dir.path().join("submit.toml");
        fs::write(&config, "broker = \"https://file\"\ntoken_file = \"t\"\n").unwrap();
        let mut global = Global {
            config: Some(config),
            ..Global::default()
        };
        let mut environment = Environment::default();
        let broker = |g: &Global, e: &Environment| client(g, e, &quiet()).unwrap().broker;
        assert_eq!(broker(&global, &environment), "https://file");
        environment.broker = Some("https://env".into());
        assert_eq!(broker(&global, &environment), "https://env");
        global.broker = Some("https://option".into());
        assert_eq!(broker(&global, &environment), "https://option");
    }

    #[test]
    fn colours_are_for_terminals_that_want_them() {
        let colour = |choice: Option<ColorChoice>, environment: bool| {
            let global = Global {
                color: choice,
                ..Global::default()
            };
            let environment = Environment {
                colour: environment,
                ..Environment::default()
            };
            output(&global, &environment).colour
        };
        assert!(colour(None, true) && !colour(None, false));
        assert!(colour(Some(ColorChoice::Always), false));
        assert!(!colour(Some(ColorChoice::Never), true));
    }

    #[test]
    fn a_missing_setting_says_where_it_can_be_given() {
        let nothing = client(&Global::default(), &Environment::default(), &quiet()).unwrap_err();
        assert!(nothing.help().unwrap().contains("PILOT_BROKER"));
        let global = Global {
            broker: Some("https://b".into()),
            ..Global::default()
        };
        let no_token = client(&global, &Environment::default(), &quiet()).unwrap_err();
        assert!(no_token.help().unwrap().contains("PILOT_TOKEN_FILE"));
    }

    #[test]
    fn a_wrong_settings_file_shows_the_line() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("submit.toml");
        fs::write(&config, "brokr = \"https://file\"\n").unwrap();
        let global = Global {
            config: Some(config),
            ..Global::default()
        };
        let e = client(&global, &Environment::default(), &quiet()).unwrap_err();
        assert!(e.to_string().contains("did you mean `broker`?"), "{e}");
    }
}
