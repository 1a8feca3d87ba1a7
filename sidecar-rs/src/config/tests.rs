use std::collections::HashMap;

use clap::{CommandFactory, Parser};

use super::*;

const BASE: &[(&str, &str)] = &[("SIGNALING_URL", "ws://127.0.0.1:8080/ws"), ("API_KEY", "k-secret")];

fn load(flags: &[&str], env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let args = Args::try_parse_from([&["chatixia-sidecar"], flags].concat()).unwrap();
    let env: HashMap<&str, &str> = env.iter().copied().collect();
    Config::load(&args, &|name| env.get(name).map(|value| (*value).to_owned()))
}

fn with(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    [BASE, more].concat()
}

fn fault(env: &[(&str, &str)]) -> String {
    load(&[], env).unwrap_err().to_string()
}

#[test]
fn the_least_one_can_set_gives_the_defaults() {
    let config = load(&[], BASE).unwrap();
    assert_eq!(config.registry.token, "http://127.0.0.1:8080/api/token");
    assert_eq!(config.registry.config, "http://127.0.0.1:8080/api/config");
    assert_eq!(config.ipc_socket.to_str(), Some("/tmp/chatixia-sidecar.sock"));
    assert_eq!((config.dial, config.max_peers, config.log_format), (Dial::PeerList, MAX_PEERS, LogFormat::Text));
    assert_eq!((config.peer_id, config.identity_file, config.exit_on_stdin_eof), (None, None, false));
    assert_eq!(config.ice.policy, IceTransportPolicy::All);
    assert!(config.ice.allow_loopback, "the registry is on loopback");
    assert!(config.ice.servers.is_none() && config.ice.servers_now(&[], 0).is_empty());
    assert_eq!(config.log_filter, "info");
}

#[test]
fn each_address_can_be_told_from_the_other() {
    let urls = |signaling: Option<&str>, token: Option<&str>| {
        RegistryUrls::new(signaling.map(str::to_owned), token.map(str::to_owned)).unwrap()
    };
    let from_ws = urls(Some("wss://mesh.example/base/ws"), None);
    assert_eq!(from_ws.token, "https://mesh.example/base/api/token");
    let from_token = urls(None, Some("https://mesh.example:8443/api/token"));
    assert_eq!(from_token.signaling, "wss://mesh.example:8443/ws");
    assert_eq!(from_token.config, "https://mesh.example:8443/api/config");
    assert!(!from_token.is_loopback() && !from_token.is_plain_text());
    assert!(urls(Some("ws://mesh.example/ws"), None).is_plain_text());
    for loopback in ["ws://localhost/ws", "ws://127.9.9.9:1/ws", "ws://[::1]:8080/ws"] {
        let urls = urls(Some(loopback), None);
        assert!(urls.is_loopback() && !urls.is_plain_text(), "{loopback}");
    }
}

#[test]
fn what_is_missing_is_named() {
    assert_eq!(
        fault(&[("API_KEY", "k")]),
        "SIGNALING_URL is not set: set it to the registry's WebSocket, such as wss://mesh.example/ws"
    );
    let no_key = fault(&[("SIGNALING_URL", "ws://localhost/ws"), ("API_KEY", "  ")]);
    assert!(no_key.starts_with("API_KEY is not set: set API_KEY or API_KEY_FILE"), "{no_key}");
}

#[test]
fn what_is_wrong_is_named() {
    for (name, value) in [
        ("SIGNALING_URL", "http://localhost/ws"),
        ("SIGNALING_URL", "ws://user:pw@localhost/ws"),
        ("SIGNALING_URL", "ws://localhost/ws?token=x"),
        ("SIGNALING_URL", "no url"),
        ("TOKEN_URL", "ws://localhost/api/token"),
        ("PEER_ID", "../x"),
        ("MAX_PEERS", "0"),
        ("MAX_PEERS", "1025"),
        ("MAX_PEERS", "many"),
        ("DIAL", "always"),
        ("LOG_FORMAT", "xml"),
        ("ICE_TRANSPORT_POLICY", "none"),
        ("ICE_ALLOW_LOOPBACK", "maybe"),
        ("ICE_BIND", "eth0"),
        ("ICE_SERVERS", "http://stun.example"),
        ("ICE_SERVERS", r#"[{"urls":7}]"#),
        ("TURN_URL", "turn:turn.example"),
        ("EXIT_ON_STDIN_EOF", "perhaps"),
    ] {
        let error = fault(&with(&[(name, value)]));
        assert!(error.starts_with(&format!("{name}: ")), "{name}={value}: {error}");
    }
}

#[test]
fn a_flag_wins_and_an_empty_variable_is_unset() {
    let env = with(&[("PEER_ID", "from-env"), ("DIAL", ""), ("LOG_FORMAT", "json"), ("EXIT_ON_STDIN_EOF", "1")]);
    let config = load(&["--peer-id", "from-flag", "--ipc-socket", "/tmp/x.sock", "--max-peers", "9"], &env).unwrap();
    assert_eq!(config.peer_id.unwrap().as_str(), "from-flag");
    assert_eq!(config.ipc_socket.to_str(), Some("/tmp/x.sock"));
    assert_eq!((config.max_peers, config.dial, config.log_format), (9, Dial::PeerList, LogFormat::Json));
    assert!(config.exit_on_stdin_eof);
}

#[test]
fn no_secret_is_printed() {
    let env = with(&[
        ("ICE_SERVERS", r#"[{"urls":"turn:t.example","username":"u","credential":"turn-secret"}]"#),
        ("TURN_URL", "turn:t.example"),
        ("TURN_SECRET", "shared-secret"),
    ]);
    let config = load(&[], &env).unwrap();
    let printed = format!("{config:?} {:?}", config.ice.servers_now(&[], 0));
    assert!(!printed.contains("secret"), "{printed}");
    assert!(printed.contains("***"));
    let broken = r#"[{"urls":"turn:t.example","credential":["turn-secret"]}]"#;
    let error = fault(&with(&[("ICE_SERVERS", broken)]));
    assert!(!error.contains("turn-secret"), "{error}");
}

#[test]
fn no_flag_takes_a_secret_and_help_names_every_variable() {
    let mut command = Args::command();
    for argument in command.get_arguments() {
        let flag = argument.get_long().unwrap_or_default();
        assert!(!["key", "secret", "password", "token", "servers"].iter().any(|word| flag.ends_with(word)), "--{flag}");
    }
    let help = command.render_long_help().to_string();
    for name in [
        "IPC_SOCKET",
        "SIGNALING_URL",
        "TOKEN_URL",
        "API_KEY",
        "API_KEY_FILE",
        "API_KEY_FD",
        "PEER_ID",
        "ICE_SERVERS",
        "TURN_URL",
        "TURN_SECRET",
        "TURN_USERNAME",
        "TURN_PASSWORD",
        "ICE_TRANSPORT_POLICY",
        "ICE_ALLOW_LOOPBACK",
        "ICE_BIND",
        "DIAL",
        "MAX_PEERS",
        "RUST_LOG",
        "LOG_FORMAT",
        "EXIT_ON_STDIN_EOF",
        "IDENTITY_FILE",
    ] {
        assert!(help.contains(name), "--help does not name {name}");
    }
    assert_eq!(command.render_version(), "chatixia-sidecar 0.1.0 (protocol 1)\n");
}

#[test]
fn a_key_file_is_read_at_each_use() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let name = path.to_str().unwrap();
    let urls = ("SIGNALING_URL", "ws://localhost/ws");
    let missing = load(&[], &[urls, ("API_KEY_FILE", name)]).unwrap_err().to_string();
    assert!(missing.starts_with("API_KEY_FILE: ") && missing.contains(name), "{missing}");
    std::fs::write(&path, "first\n").unwrap();
    let config = load(&["--api-key-file", name], &[urls]).unwrap();
    assert_eq!(config.credential.read().unwrap().expose(), "first");
    std::fs::write(&path, "second").unwrap();
    assert_eq!(config.credential.read().unwrap().expose(), "second");
    std::fs::write(&path, " \n").unwrap();
    assert_eq!(config.credential.read(), Err(format!("{name} is empty")));
}

#[test]
fn a_key_can_come_by_descriptor() {
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"piped\n").unwrap();
    drop(writer);
    let number = reader.as_raw_fd().to_string();
    let config = load(&[], &[BASE[0], ("API_KEY_FD", &number)]).unwrap();
    assert_eq!(config.credential.read().unwrap().expose(), "piped");
    assert!(fault(&[BASE[0], ("API_KEY_FD", "x")]).starts_with("API_KEY_FD: "));
}

#[test]
fn servers_come_as_json_or_as_a_list() {
    let urls = |text: &'static str| -> Vec<String> {
        let config = load(&[], &with(&[("ICE_SERVERS", text)])).unwrap();
        config.ice.servers_now(&[], 0).into_iter().flat_map(|server| server.urls).collect()
    };
    assert_eq!(urls("stun:a.example:3478, turn:b.example"), ["stun:a.example:3478", "turn:b.example"]);
    assert_eq!(
        urls(r#"[{"urls":["stun:a"]},{"urls":"turns:b","username":"u","credential":"c"}]"#),
        ["stun:a", "turns:b"]
    );
    let config = load(&[], &with(&[("ICE_SERVERS", "[]")])).unwrap();
    let offered =
        ice::from_registry(br#"{"iceServers":[{"urls":["stun:r"]},{"urls":["http://x"]}],"more":1}"#).unwrap();
    assert_eq!(offered.len(), 1, "what cannot be used is left out");
    assert!(config.ice.servers_now(&offered, 0).is_empty(), "an empty list means none at all");
    assert_eq!(load(&[], BASE).unwrap().ice.servers_now(&offered, 0), offered);
}

#[test]
fn a_shared_turn_secret_makes_an_account_for_a_day() {
    let config = load(&[], &with(&[("TURN_URL", "turn:t.example"), ("TURN_SECRET", "north")])).unwrap();
    let server = &config.ice.servers_now(&[], 1_700_000_000)[0];
    assert_eq!(server.username.as_deref(), Some("1700086400:mesh"));
    // As `printf 1700086400:mesh | openssl dgst -sha1 -hmac north -binary | base64` prints it.
    assert_eq!(server.credential.as_ref().unwrap().expose(), "PwvwIbD1nbVuLZYwx0IOhKST9Kg=");
    let config = load(&[], &with(&[("TURN_URL", "turn:t"), ("TURN_USERNAME", "u"), ("TURN_PASSWORD", "p")])).unwrap();
    assert_eq!(config.ice.servers_now(&[], 0)[0].username.as_deref(), Some("u"));
}
