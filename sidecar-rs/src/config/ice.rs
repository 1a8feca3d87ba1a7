//! STUN and TURN servers, from the environment and from the registry's `/api/config`.

use std::net::IpAddr;

use serde::Deserialize;

use super::{ConfigError, Secret};

/// Servers taken from one list, at most; more only slow the gathering down.
const MAX_SERVERS: usize = 16;
/// Lifetime of credentials made from `TURN_SECRET`.
const TURN_LIFETIME_S: u64 = 86_400;

/// Which candidates may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IceTransportPolicy {
    /// Every kind. Default.
    All,
    /// Relayed ones only.
    Relay,
}

/// One entry of `iceServers`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct IceServer {
    /// `stun:`, `turn:` or `turns:` URLs.
    #[serde(deserialize_with = "one_or_many")]
    pub urls: Vec<String>,
    /// For TURN.
    pub username: Option<String>,
    /// For TURN.
    pub credential: Option<Secret>,
}

/// Settings of the gathering.
#[derive(Clone, Debug)]
pub struct IceConfig {
    /// Servers that were configured; `None` asks the registry.
    pub servers: Option<Vec<IceServer>>,
    /// The one TURN server of the old variables.
    pub turn: Option<Turn>,
    /// Which candidates may be used.
    pub policy: IceTransportPolicy,
    /// Whether loopback addresses may be used, ours and the peers'.
    pub allow_loopback: bool,
    /// Local addresses to use; empty means all.
    pub bind: Vec<IpAddr>,
}

impl IceConfig {
    /// Joins what was configured with what the registry said, which counts only if no list was configured.
    ///
    /// `unix_s` is the time now; credentials made from `TURN_SECRET` end a day later, so call it again before that.
    pub fn servers_now(&self, from_registry: &[IceServer], unix_s: u64) -> Vec<IceServer> {
        let mut servers = self.servers.clone().unwrap_or_else(|| from_registry.to_vec());
        servers.extend(self.turn.as_ref().map(|turn| turn.server(unix_s)));
        servers
    }
}

/// A TURN server as the old variables name it.
#[derive(Clone, Debug)]
pub struct Turn {
    url: String,
    account: Account,
}

#[derive(Clone, Debug)]
enum Account {
    Fixed {
        username: String,
        password: Secret,
    },
    /// The REST scheme: a user name that is an expiry time, and its HMAC as the password.
    Shared(Secret),
}

impl Turn {
    pub(super) fn from_env(env: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>, ConfigError> {
        let Some(url) = env("TURN_URL") else { return Ok(None) };
        check_url(&url).map_err(|why| ConfigError::invalid("TURN_URL", why))?;
        let account = match (env("TURN_SECRET"), env("TURN_USERNAME"), env("TURN_PASSWORD")) {
            (Some(secret), _, _) => Account::Shared(Secret::new(secret)),
            (None, Some(username), Some(password)) => Account::Fixed { username, password: Secret::new(password) },
            _ => return Err(ConfigError::invalid("TURN_URL", "needs TURN_SECRET, or TURN_USERNAME and TURN_PASSWORD")),
        };
        Ok(Some(Self { url, account }))
    }

    fn server(&self, unix_s: u64) -> IceServer {
        let (username, credential) = match &self.account {
            Account::Fixed { username, password } => (username.clone(), password.clone()),
            Account::Shared(secret) => {
                let username = format!("{}:mesh", unix_s + TURN_LIFETIME_S);
                let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.expose().as_bytes());
                let tag = ring::hmac::sign(&key, username.as_bytes());
                use base64::Engine as _;
                let credential = base64::engine::general_purpose::STANDARD.encode(tag);
                (username, Secret::new(credential))
            }
        };
        IceServer { urls: vec![self.url.clone()], username: Some(username), credential: Some(credential) }
    }
}

/// Reads `ICE_SERVERS`: JSON, or a comma list of URLs. An empty JSON list means: no servers, whatever the registry says.
pub(super) fn read_servers(text: Option<&str>) -> Result<Option<Vec<IceServer>>, ConfigError> {
    let Some(text) = text else { return Ok(None) };
    // The message of serde_json may quote a value, and the value may be a password: so its place only.
    let invalid = |why: String| ConfigError::invalid("ICE_SERVERS", why);
    let servers: Vec<IceServer> = if text.starts_with('[') {
        serde_json::from_str(text).map_err(|e| {
            invalid(format!("not a JSON list of {{\"urls\": ..}}: fault at line {} column {}", e.line(), e.column()))
        })?
    } else {
        let urls = text.split(',').map(str::trim).filter(|url| !url.is_empty());
        urls.map(|url| IceServer { urls: vec![url.to_owned()], username: None, credential: None }).collect()
    };
    if servers.len() > MAX_SERVERS {
        return Err(invalid(format!("{} servers, limit {MAX_SERVERS}", servers.len())));
    }
    for url in servers.iter().flat_map(|server| &server.urls) {
        check_url(url).map_err(invalid)?;
    }
    Ok(Some(servers))
}

/// Reads the answer of `/api/config`; entries we cannot use are left out, for a newer registry may know more kinds.
pub(crate) fn from_registry(body: &[u8]) -> Result<Vec<IceServer>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(rename = "iceServers", default)]
        ice_servers: Vec<IceServer>,
    }
    let mut servers = serde_json::from_slice::<Answer>(body)?.ice_servers;
    servers.retain(|server| !server.urls.is_empty() && server.urls.iter().all(|url| check_url(url).is_ok()));
    servers.truncate(MAX_SERVERS);
    Ok(servers)
}

fn check_url(url: &str) -> Result<(), String> {
    let known =
        ["stun:", "turn:", "turns:"].iter().any(|scheme| url.strip_prefix(scheme).is_some_and(|r| !r.is_empty()));
    match known && url.len() <= 512 && !url.contains(|c: char| c.is_whitespace() || c.is_control()) {
        true => Ok(()),
        // Not quoted: `turn:user:password@host` is a common mistake.
        false => Err("a server is stun:HOST, turn:HOST or turns:HOST".to_owned()),
    }
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(url) => vec![url],
        OneOrMany::Many(urls) => urls,
    })
}
