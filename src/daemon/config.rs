//! The node's settings: flag before environment before file before default.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Parser;
use serde::Deserialize;

use crate::dns::{Suffix, SuffixError};
use crate::model::Label;

/// What `--print-default-config` prints: every setting with its unit, range and effect.
pub const DEFAULT_CONFIG: &str = r#"# peerd's settings. A flag goes before the environment (PEERD_NAME, ...), that before this file.

# Where the node keeps its identity and records. Folder, made with mode 0700.
# Default: /var/lib/peerd for root, else $XDG_STATE_HOME/peerd (unset: ~/.local/state/peerd).
#state-dir = "/var/lib/peerd"

# Where peerctl reaches the node. Unix socket, mode 0660.
# Default: /run/peerd/peerd.sock for root, else $XDG_RUNTIME_DIR/peerd/peerd.sock.
#socket = "/run/peerd/peerd.sock"

# The one UDP port of all its traffic. ADDRESS:PORT; [::] takes IPv4 as well; port 0 lets the system choose.
listen = "[::]:51790"

# The node's name in `node ls`, used by init and join. A DNS label. Default: the host's name.
#name = "node-1"

# What is logged to stderr: error, warn, info, debug, trace, or a filter as `info,peerd::router=debug`.
log = "info"

# Domains below which short names of services are answered too: with "cloud66.local", api.cloud66.local is api.
# List of domains, none of them one that names of the outside world end in. Default: none.
#dns-suffixes = ["cloud66.local"]
"#;

/// Runs one node of a peerd cluster in the foreground.
#[derive(Debug, Clone, Parser)]
#[command(name = "peerd", version, about, long_about = None, after_help = "Drive it with peerctl: `peerctl init` starts a cluster, `peerctl join` enters one.")]
pub struct Args {
    /// Settings file, TOML; see --print-default-config
    #[arg(long, env = "PEERD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder of the node's identity and records
    #[arg(long, env = "PEERD_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Control socket
    #[arg(long, env = "PEERD_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// The UDP address of all traffic [default: [::]:51790]
    #[arg(long, env = "PEERD_LISTEN", value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// This node's name [default: the host's name]
    #[arg(long, env = "PEERD_NAME", value_name = "NODE")]
    pub name: Option<Label>,
    /// Log filter: a level, or as `info,peerd::router=debug` [default: info]
    #[arg(long, env = "PEERD_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// Print the settings file with every default and its meaning
    #[arg(long)]
    pub print_default_config: bool,
}

/// The settings in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub state_dir: PathBuf,
    pub socket: PathBuf,
    pub listen: SocketAddr,
    pub name: Option<Label>,
    pub log: String,
    pub dns_suffixes: Vec<Suffix>,
}

/// The file's words; the flags' names.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct File {
    state_dir: Option<PathBuf>,
    socket: Option<PathBuf>,
    listen: Option<SocketAddr>,
    name: Option<String>,
    log: Option<String>,
    #[serde(alias = "dns_suffixes")]
    dns_suffixes: Vec<String>,
}

const KEYS: [&str; 7] = ["state-dir", "socket", "listen", "name", "log", "dns-suffixes", "dns_suffixes"];

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: {message}", path.display())]
    Parse { path: PathBuf, message: String },
    #[error("{}: unknown setting {key:?}{}", path.display(), did_you_mean(.key))]
    UnknownKey { path: PathBuf, key: String },
    #[error("the name {0:?} cannot be a node's: {1}")]
    Name(String, crate::model::LabelError),
    #[error("{0:?} cannot be a DNS suffix: {1}")]
    Suffix(String, SuffixError),
}

fn did_you_mean(key: &str) -> String {
    KEYS.iter()
        .map(|known| (strsim::damerau_levenshtein(key, known), known))
        .min()
        .filter(|(distance, _)| *distance <= 3)
        .map_or_else(String::new, |(_, known)| format!(", did you mean {known:?}?"))
}

impl Config {
    /// The settings that follow from flags and environment (`args`), the file that they name, and the defaults.
    pub fn load(args: &Args, defaults: Defaults) -> Result<Self, ConfigError> {
        let file = match &args.config {
            Some(path) => read(path)?,
            None => File::default(),
        };
        let name = file.name.map(|name| name.parse().map_err(|e| ConfigError::Name(name, e))).transpose()?;
        let suffixes = file.dns_suffixes.into_iter().map(|text| text.parse().map_err(|e| ConfigError::Suffix(text, e)));
        Ok(Self {
            state_dir: args.state_dir.clone().or(file.state_dir).unwrap_or(defaults.state_dir),
            socket: args.socket.clone().or(file.socket).unwrap_or(defaults.socket),
            listen: args.listen.or(file.listen).unwrap_or_else(|| "[::]:51790".parse().expect("an address")),
            name: args.name.clone().or(name),
            log: args.log.clone().or(file.log).unwrap_or_else(|| "info".into()),
            dns_suffixes: suffixes.collect::<Result<_, _>>()?,
        })
    }
}

/// The defaults that depend on who runs the node.
#[derive(Debug, Clone)]
pub struct Defaults {
    pub state_dir: PathBuf,
    pub socket: PathBuf,
}

fn read(path: &Path) -> Result<File, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let parse_error = |e: toml::de::Error| ConfigError::Parse { path: path.to_owned(), message: e.to_string() };
    let table: toml::Table = text.parse().map_err(parse_error)?;
    if let Some(key) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(ConfigError::UnknownKey { path: path.to_owned(), key: key.clone() });
    }
    table.try_into().map_err(parse_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(flags: &[&str]) -> Vec<String> {
        ["peerd"].iter().chain(flags).map(|word| (*word).to_owned()).collect()
    }

    fn load(file: Option<&str>, flags: &[&str]) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("peerd.toml");
        let mut words = words(flags);
        if let Some(text) = file {
            std::fs::write(&path, text).expect("written");
            words.extend(["--config".into(), path.display().to_string()]);
        }
        let args = Args::try_parse_from(words).expect("flags");
        Config::load(&args, Defaults { state_dir: "/s".into(), socket: "/r/p.sock".into() })
    }

    #[test]
    fn the_printed_defaults_are_the_defaults() {
        assert_eq!(load(Some(DEFAULT_CONFIG), &[]).expect("loads"), load(None, &[]).expect("loads"));
    }

    #[test]
    fn a_flag_goes_before_the_file() {
        let config = load(Some("name = 'b'\nlog = 'debug'"), &["--name", "a"]).expect("loads");
        assert_eq!((config.name.expect("a name").as_str(), config.log.as_str()), ("a", "debug"));
    }

    #[test]
    fn an_unknown_setting_is_an_error_that_names_the_nearest() {
        let error = load(Some("liste = '[::]:1'"), &[]).expect_err("refused").to_string();
        assert!(error.ends_with("unknown setting \"liste\", did you mean \"listen\"?"), "{error}");
        let error = load(Some("flavour = 1"), &[]).expect_err("refused").to_string();
        assert!(error.ends_with("unknown setting \"flavour\""), "{error}");
    }

    #[test]
    fn a_suffix_that_would_hide_the_outside_world_is_refused() {
        let config = load(Some("dns_suffixes = ['cloud66.local', 'corp.example.com']"), &[]).expect("loads");
        assert_eq!(
            config.dns_suffixes.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["cloud66.local", "corp.example.com"]
        );
        for bad in
            ["com", "", "a..b", "private-network.internal", "x.private-network.internal", "internal", "10.in-addr.arpa"]
        {
            let error = load(Some(&format!("dns-suffixes = ['{bad}']")), &[]);
            assert!(matches!(error, Err(ConfigError::Suffix(..))), "{bad}");
        }
    }

    #[test]
    fn a_name_that_is_no_label_is_an_error_of_whoever_gave_it() {
        assert!(matches!(load(Some("name = 'a.b'"), &[]), Err(ConfigError::Name(..))));
        assert!(Args::try_parse_from(words(&["--name", "a.b"])).is_err_and(|error| error.exit_code() == 2));
    }
}
