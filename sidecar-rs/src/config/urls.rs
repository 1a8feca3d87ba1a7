//! Where the registry is: two addresses, each of which can be told from the other.

use std::net::IpAddr;

use hyper::Uri;

use super::ConfigError;

/// The registry's addresses, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryUrls {
    /// `ws://` or `wss://`, usually ending in `/ws`.
    pub signaling: Uri,
    /// `http://` or `https://`, usually ending in `/api/token`.
    pub token: Uri,
    /// As `token`, ending in `/api/config`.
    pub config: Uri,
}

impl RegistryUrls {
    /// Checks what is given and tells the rest from it. Fails with the name of the variable.
    pub fn new(signaling: Option<String>, token: Option<String>) -> Result<Self, ConfigError> {
        let signaling = signaling.map(|text| parse("SIGNALING_URL", &text, ["ws", "wss"])).transpose()?;
        let token = token.map(|text| parse("TOKEN_URL", &text, ["http", "https"])).transpose()?;
        let (signaling, token) = match (signaling, token) {
            (Some(signaling), Some(token)) => (signaling, token),
            (Some(signaling), None) => {
                let token = sibling(&signaling, "TOKEN_URL", &["/ws"], "/api/token")?;
                (signaling, token)
            }
            (None, Some(token)) => (sibling(&token, "SIGNALING_URL", &["/api/token"], "/ws")?, token),
            (None, None) => {
                let hint = "set it to the registry's WebSocket, such as wss://mesh.example/ws";
                return Err(ConfigError::Missing { name: "SIGNALING_URL", hint });
            }
        };
        let config = sibling(&token, "TOKEN_URL", &["/api/token", "/token"], "/api/config")?;
        Ok(Self { signaling, token, config })
    }

    /// Says whether the registry is on this machine.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.signaling)
    }

    /// Says whether keys and tokens would cross a network in clear text.
    pub fn is_plain_text(&self) -> bool {
        [&self.signaling, &self.token]
            .iter()
            .any(|uri| matches!(uri.scheme_str(), Some("ws" | "http")) && !is_loopback(uri))
    }
}

fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn parse(name: &'static str, text: &str, schemes: [&str; 2]) -> Result<Uri, ConfigError> {
    let uri: Uri = text.parse().map_err(|e| ConfigError::invalid(name, format!("not a URL: {e}")))?;
    let scheme = uri.scheme_str().unwrap_or_default();
    if !schemes.contains(&scheme) || uri.host().unwrap_or_default().is_empty() {
        return Err(ConfigError::invalid(name, format!("must be {}://HOST.. or {}://HOST..", schemes[0], schemes[1])));
    }
    // `user:password@` would end up in logs, and the registry knows no such accounts.
    if uri.authority().is_some_and(|a| a.as_str().contains('@')) {
        return Err(ConfigError::invalid(name, "must not hold a user or password"));
    }
    if uri.query().is_some() {
        return Err(ConfigError::invalid(name, "must not hold a query"));
    }
    Ok(uri)
}

/// Exchanges the end of the path and, between the two families, the scheme.
fn sibling(uri: &Uri, name: &'static str, ends: &[&str], new_end: &str) -> Result<Uri, ConfigError> {
    let path = uri.path().trim_end_matches('/');
    let base = ends.iter().find_map(|end| path.strip_suffix(end)).unwrap_or(path);
    let to_ws = new_end == "/ws";
    let scheme = match uri.scheme_str() {
        Some("wss" | "https") if to_ws => "wss",
        Some("wss" | "https") => "https",
        _ if to_ws => "ws",
        _ => "http",
    };
    let authority = uri.authority().map_or("", |a| a.as_str());
    format!("{scheme}://{authority}{base}{new_end}").parse().map_err(|e| ConfigError::invalid(name, format!("{e}")))
}
