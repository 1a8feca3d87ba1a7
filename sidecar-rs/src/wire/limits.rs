//! The numbers both languages obey. `tests/vectors.rs` holds them equal to `protocol/limits.json`.

use std::time::Duration;

/// Number of the protocol spoken here.
pub const PROTOCOL: u32 = 1;
/// Bytes of one message body, at most.
pub const MAX_MESSAGE_BYTES: usize = 262_144;
/// Bytes of one IPC line without its LF, at most: a body and the frame around it.
pub const MAX_LINE_BYTES: usize = 270_336;
/// Levels of nested arrays and objects, at most.
pub const MAX_JSON_DEPTH: usize = 64;
/// Bytes of unanswered sends to one peer, at most.
pub const WINDOW_BYTES: usize = 1_048_576;
/// Bytes of one message body that a peer without protocol number takes.
pub const OLD_PEER_MAX_MESSAGE_BYTES: usize = 65_535;
/// Characters of a request id, at most.
pub const MAX_ID_CHARS: usize = 64;
/// Bytes of one signaling frame, at most.
pub const MAX_SIGNAL_BYTES: usize = 65_536;
/// Bytes of one session description, at most.
pub const MAX_SDP_BYTES: usize = 16_384;
/// Bytes of one candidate line, at most.
pub const MAX_CANDIDATE_BYTES: usize = 512;
/// Candidates taken for one connection, at most.
pub const MAX_CANDIDATES: usize = 32;
/// Peers known at once, at most.
pub const MAX_PEERS: usize = 1024;
/// Connections that are being made at once, at most.
pub const MAX_PENDING_HANDSHAKES: usize = 32;
/// Time a connection may take to open.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_millis(15_000);
/// Time between two heartbeats to the registry.
pub const HEARTBEAT: Duration = Duration::from_millis(20_000);
/// What a peer id looks like; [`super::PeerId`] checks it by hand.
pub const PEER_ID_PATTERN: &str = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$";
/// What an envelope's message id looks like. The sidecar never opens envelopes; it is here so that the list is whole.
pub const MESSAGE_ID_PATTERN: &str = "^[A-Za-z0-9_-]{1,64}$";
