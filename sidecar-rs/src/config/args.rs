//! The command line. Every flag has a variable; the variables that may hold a secret have no flag.

use clap::Parser;

/// What `--version` prints after the program's name.
pub const VERSION_LINE: &str = concat!(env!("CARGO_PKG_VERSION"), " (protocol 1)");

const ONLY_ENVIRONMENT: &str = "\
Only by environment, because they are or may hold secrets:
  API_KEY        key for the registry (a device token `dt_..` works too)
  API_KEY_FD     descriptor number to read the key from, once
  ICE_SERVERS    JSON list as in RTCConfiguration, or comma list of stun:, turn: and turns: URLs [default: what the registry's /api/config says]
  TURN_URL       a TURN server, with either
  TURN_SECRET      the shared secret of its REST credentials, or
  TURN_USERNAME, TURN_PASSWORD   a fixed account

Exit codes: 0 ended as asked, 1 failed while running, 2 a setting is missing or wrong.";

/// WebRTC sidecar of one agent: connects it to its peers directly and talks to it over a Unix socket.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "chatixia-sidecar", version = VERSION_LINE, after_help = ONLY_ENVIRONMENT)]
pub struct Args {
    /// Check the settings and whether the registry takes us, one line each, and end: exit 0 if all is well, else 1
    #[arg(long)]
    pub check: bool,

    /// Unix socket for the agent [env: IPC_SOCKET] [default: /tmp/chatixia-sidecar.sock]
    #[arg(long, value_name = "PATH")]
    pub ipc_socket: Option<String>,

    /// WebSocket of the registry, ws:// or wss:// [env: SIGNALING_URL] [default: from TOKEN_URL]
    #[arg(long, value_name = "URL")]
    pub signaling_url: Option<String>,

    /// Where the registry hands out tokens, http:// or https:// [env: TOKEN_URL] [default: from SIGNALING_URL]
    #[arg(long, value_name = "URL")]
    pub token_url: Option<String>,

    /// File that holds the API key, read again for each token [env: API_KEY_FILE]
    #[arg(long, value_name = "PATH")]
    pub api_key_file: Option<String>,

    /// Name to insist on [env: PEER_ID] [default: the one the registry gives]
    #[arg(long, value_name = "ID")]
    pub peer_id: Option<String>,

    /// `all`, or `relay` to use TURN only [env: ICE_TRANSPORT_POLICY] [default: all]
    #[arg(long, value_name = "POLICY")]
    pub ice_transport_policy: Option<String>,

    /// Use loopback addresses, 1 or 0 [env: ICE_ALLOW_LOOPBACK] [default: 1 if the registry is on loopback]
    #[arg(long, value_name = "0|1")]
    pub ice_allow_loopback: Option<String>,

    /// Comma list of local addresses to use [env: ICE_BIND] [default: all]
    #[arg(long, value_name = "IPS")]
    pub ice_bind: Option<String>,

    /// `peer_list` connects to every peer at once, `on_demand` when first needed [env: DIAL] [default: peer_list]
    #[arg(long, value_name = "MODE")]
    pub dial: Option<String>,

    /// Peers connected at once, at most [env: MAX_PEERS] [default: 1024]
    #[arg(long, value_name = "N")]
    pub max_peers: Option<String>,

    /// PEM file with our key and certificate [env: IDENTITY_FILE] [default: a fresh one per start]
    #[arg(long, value_name = "PATH")]
    pub identity_file: Option<String>,

    /// End when stdin ends, so that the sidecar never outlives its parent [env: EXIT_ON_STDIN_EOF=1]
    #[arg(long)]
    pub exit_on_stdin_eof: bool,

    /// Log filter, such as `info` or `chatixia_sidecar=debug` [env: RUST_LOG] [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,

    /// `text` or `json`, to stderr [env: LOG_FORMAT] [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}
