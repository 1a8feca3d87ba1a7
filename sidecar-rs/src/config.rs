//! The settings of one sidecar: read once at start, from flags and the environment, and passed down.
//!
//! * a flag wins over its variable; an empty variable counts as unset, as compose files write them
//! * what is secret, or may hold a secret, has no flag: argv is readable by every user of the machine
//! * every mistake is found here, by name, before a socket is opened

use std::net::IpAddr;
use std::path::PathBuf;

use crate::wire::PeerId;
use crate::wire::limits::MAX_PEERS;

mod args;
mod ice;
mod secret;
mod urls;

pub use args::{Args, VERSION_LINE};
pub(crate) use ice::from_registry as ice_servers_from_registry;
pub use ice::{IceConfig, IceServer, IceTransportPolicy, Turn};
pub use secret::Secret;
pub use urls::RegistryUrls;

/// When to dial the peers the registry names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dial {
    /// All of them, as soon as they are known. Default.
    PeerList,
    /// Each when the agent first sends to it or asks to connect.
    OnDemand,
}

/// How log lines look on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people. Default.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where the API key comes from. A file is read anew at each token exchange, so that a rotated key is picked up.
#[derive(Clone, Debug)]
pub enum Credential {
    /// The key itself, from `API_KEY` or `API_KEY_FD`.
    Value(Secret),
    /// A file that holds it, from `API_KEY_FILE`.
    File(PathBuf),
}

/// The settings of one sidecar. `Debug` prints secrets as `***`.
#[derive(Clone, Debug)]
pub struct Config {
    /// Unix socket for the agent; `IPC_SOCKET`. Default `/tmp/chatixia-sidecar.sock`.
    pub ipc_socket: PathBuf,
    /// Where the registry is; `SIGNALING_URL`, `TOKEN_URL`.
    pub registry: RegistryUrls,
    /// Proof for the token exchange.
    pub credential: Credential,
    /// The name we insist on; `PEER_ID`. `None` takes the one the registry gives.
    pub peer_id: Option<PeerId>,
    /// STUN and TURN, interfaces, policy.
    pub ice: IceConfig,
    /// `DIAL`.
    pub dial: Dial,
    /// Peers connected at once, at most; `MAX_PEERS`. Default 1024.
    pub max_peers: usize,
    /// PEM with our key and certificate; `IDENTITY_FILE`. `None` makes a fresh one per start.
    pub identity_file: Option<PathBuf>,
    /// End when stdin ends, which it does when the parent does; `EXIT_ON_STDIN_EOF`. Default no.
    pub exit_on_stdin_eof: bool,
    /// Filter in the syntax of tracing-subscriber; `RUST_LOG`. Default `info`.
    pub log_filter: String,
    /// `LOG_FORMAT`.
    pub log_format: LogFormat,
}

/// A setting that is missing or wrong. Never holds the value of a secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Neither flag nor variable is there.
    #[error("{name} is not set: {hint}")]
    Missing {
        /// The variable.
        name: &'static str,
        /// What to do about it.
        hint: &'static str,
    },
    /// The value cannot be used.
    #[error("{name}: {why}")]
    Invalid {
        /// The variable.
        name: &'static str,
        /// What was wrong with it.
        why: String,
    },
}

impl ConfigError {
    fn invalid(name: &'static str, why: impl Into<String>) -> Self {
        Self::Invalid { name, why: why.into() }
    }
}

/// Flags first, then the environment; empty means unset.
struct Source<'a> {
    env: &'a dyn Fn(&str) -> Option<String>,
}

impl Source<'_> {
    fn env(&self, name: &str) -> Option<String> {
        (self.env)(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty())
    }

    fn get(&self, flag: &Option<String>, name: &str) -> Option<String> {
        flag.clone().filter(|v| !v.is_empty()).or_else(|| self.env(name))
    }

    fn choice<T: Copy>(&self, flag: &Option<String>, name: &'static str, of: &[(&str, T)]) -> Result<T, ConfigError> {
        let Some(value) = self.get(flag, name) else { return Ok(of[0].1) };
        of.iter().find(|(word, _)| *word == value).map(|(_, meaning)| *meaning).ok_or_else(|| {
            let words: Vec<&str> = of.iter().map(|(word, _)| *word).collect();
            ConfigError::invalid(name, format!("{value:?} is none of {}", words.join(", ")))
        })
    }

    fn switch(&self, flag: &Option<String>, name: &'static str) -> Result<Option<bool>, ConfigError> {
        match self.get(flag, name).as_deref() {
            None => Ok(None),
            Some("1" | "true" | "yes" | "on") => Ok(Some(true)),
            Some("0" | "false" | "no" | "off") => Ok(Some(false)),
            Some(other) => Err(ConfigError::invalid(name, format!("{other:?} is neither 1 nor 0"))),
        }
    }
}

impl Config {
    /// Reads the settings of this process. Fails with the name of the first setting that is missing or wrong.
    pub fn from_process(args: &Args) -> Result<Self, ConfigError> {
        Self::load(args, &|name| std::env::var(name).ok())
    }

    /// As [`Config::from_process`], with the environment passed in.
    pub fn load(args: &Args, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let source = Source { env };
        let registry = RegistryUrls::new(
            source.get(&args.signaling_url, "SIGNALING_URL"),
            source.get(&args.token_url, "TOKEN_URL"),
        )?;
        let peer_id = match source.get(&args.peer_id, "PEER_ID") {
            None => None,
            Some(text) => Some(text.parse().map_err(|e| ConfigError::invalid("PEER_ID", format!("{e}")))?),
        };
        let max_peers = match source.get(&args.max_peers, "MAX_PEERS") {
            None => MAX_PEERS,
            Some(text) => (text.parse().ok().filter(|n| (1..=MAX_PEERS).contains(n)))
                .ok_or_else(|| ConfigError::invalid("MAX_PEERS", format!("{text:?} is not 1 to {MAX_PEERS}")))?,
        };
        Ok(Self {
            ipc_socket: source
                .get(&args.ipc_socket, "IPC_SOCKET")
                .map_or_else(|| PathBuf::from("/tmp/chatixia-sidecar.sock"), PathBuf::from),
            credential: Credential::load(args, &source)?,
            peer_id,
            ice: ice_config(args, &source, &registry)?,
            registry,
            dial: source.choice(&args.dial, "DIAL", &[("peer_list", Dial::PeerList), ("on_demand", Dial::OnDemand)])?,
            max_peers,
            identity_file: source.get(&args.identity_file, "IDENTITY_FILE").map(PathBuf::from),
            exit_on_stdin_eof: args.exit_on_stdin_eof || source.switch(&None, "EXIT_ON_STDIN_EOF")?.unwrap_or(false),
            log_filter: source.get(&args.log, "RUST_LOG").unwrap_or_else(|| "info".to_owned()),
            log_format: source.choice(
                &args.log_format,
                "LOG_FORMAT",
                &[("text", LogFormat::Text), ("json", LogFormat::Json)],
            )?,
        })
    }
}

fn ice_config(args: &Args, source: &Source<'_>, registry: &RegistryUrls) -> Result<IceConfig, ConfigError> {
    let policy = source.choice(
        &args.ice_transport_policy,
        "ICE_TRANSPORT_POLICY",
        &[("all", IceTransportPolicy::All), ("relay", IceTransportPolicy::Relay)],
    )?;
    let mut bind = Vec::new();
    for part in source.get(&args.ice_bind, "ICE_BIND").unwrap_or_default().split(',').map(str::trim) {
        if !part.is_empty() {
            let ip: IpAddr =
                part.parse().map_err(|_| ConfigError::invalid("ICE_BIND", format!("{part:?} is no IP address")))?;
            bind.push(ip);
        }
    }
    // Loopback candidates help nobody but agents of one machine, and those have the registry on loopback too.
    let allow_loopback = source.switch(&args.ice_allow_loopback, "ICE_ALLOW_LOOPBACK")?;
    Ok(IceConfig {
        servers: ice::read_servers(source.env("ICE_SERVERS").as_deref())?,
        turn: ice::Turn::from_env(&|name| source.env(name))?,
        policy,
        allow_loopback: allow_loopback.unwrap_or_else(|| registry.is_loopback()),
        bind,
    })
}

impl Credential {
    fn load(args: &Args, source: &Source<'_>) -> Result<Self, ConfigError> {
        if let Some(key) = source.env("API_KEY") {
            return Ok(Self::Value(Secret::new(key)));
        }
        if let Some(number) = source.env("API_KEY_FD") {
            let valid = number.parse::<u32>().is_ok();
            let read = valid.then(|| std::fs::read_to_string(format!("/dev/fd/{number}")));
            return match read {
                Some(Ok(key)) if !key.trim().is_empty() => Ok(Self::Value(Secret::new(key.trim()))),
                Some(Ok(_)) => Err(ConfigError::invalid("API_KEY_FD", format!("descriptor {number} holds no key"))),
                Some(Err(e)) => Err(ConfigError::invalid("API_KEY_FD", format!("descriptor {number}: {e}"))),
                None => Err(ConfigError::invalid("API_KEY_FD", format!("{number:?} is no descriptor number"))),
            };
        }
        if let Some(path) = source.get(&args.api_key_file, "API_KEY_FILE") {
            let credential = Self::File(path.into());
            credential.read().map_err(|why| ConfigError::invalid("API_KEY_FILE", why))?;
            return Ok(credential);
        }
        Err(ConfigError::Missing {
            name: "API_KEY",
            hint: "set API_KEY or API_KEY_FILE to a key the registry knows (`chatixia-langchain registry init` writes one)",
        })
    }

    /// Gives the key. Fails with a sentence when its file cannot be read or is empty.
    pub fn read(&self) -> Result<Secret, String> {
        match self {
            Self::Value(key) => Ok(key.clone()),
            Self::File(path) => match std::fs::read_to_string(path) {
                Ok(key) if !key.trim().is_empty() => Ok(Secret::new(key.trim())),
                Ok(_) => Err(format!("{} is empty", path.display())),
                Err(e) => Err(format!("{}: {e}", path.display())),
            },
        }
    }
}

#[cfg(test)]
mod tests;
