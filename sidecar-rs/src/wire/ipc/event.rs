//! Events for the agent. Each function appends one line and its LF.
//!
//! Where a function takes an `Option`, `None` gives the line of the original protocol, for clients that said no hello.

use serde::Serialize;

use super::answer::{Path, frame};
use crate::wire::PeerId;

/// What a client that said hello learns of a new channel. Field order is wire order.
#[derive(Clone, Debug, Serialize)]
pub struct Opened {
    /// Counts the connections to this peer.
    pub generation: u64,
    /// The peer's protocol number, 0 for an old sidecar.
    pub protocol: u32,
    /// `sha-256 AB:CD:..` of the peer's certificate.
    pub fingerprint: Option<String>,
    /// Bytes of one body the peer takes.
    pub max_message_bytes: usize,
    /// The candidate pair in use.
    pub path: Option<Path>,
}

/// Appends a `message`. `body` is one line of JSON, checked by [`crate::wire::json::check_message`].
pub fn message(out: &mut Vec<u8>, from_peer: &PeerId, body: &[u8]) {
    debug_assert!(!body.contains(&b'\n'), "an unchecked body could forge a line");
    out.reserve(body.len() + 128);
    out.extend_from_slice(br#"{"type":"message","payload":{"from_peer":""#);
    out.extend_from_slice(from_peer.as_str().as_bytes());
    out.extend_from_slice(br#"","message":"#);
    out.extend_from_slice(body);
    out.extend_from_slice(b"}}\n");
}

/// Appends a `peer_connected`.
pub fn peer_connected(out: &mut Vec<u8>, peer_id: &PeerId, opened: Option<&Opened>) {
    #[derive(Serialize)]
    struct Payload<'a> {
        peer_id: &'a PeerId,
        #[serde(flatten)]
        opened: Option<&'a Opened>,
    }
    frame(out, "peer_connected", None, &Payload { peer_id, opened });
}

/// Appends a `peer_disconnected`; `end` is the connection's generation and why it ended.
pub fn peer_disconnected(out: &mut Vec<u8>, peer_id: &PeerId, end: Option<(u64, &str)>) {
    #[derive(Serialize)]
    struct Payload<'a> {
        peer_id: &'a PeerId,
        #[serde(skip_serializing_if = "Option::is_none")]
        generation: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'a str>,
    }
    let (generation, reason) = end.unzip();
    frame(out, "peer_disconnected", None, &Payload { peer_id, generation, reason });
}

/// Appends a `peer_joined`: the registry says that this peer is online.
pub fn peer_joined(out: &mut Vec<u8>, peer_id: &PeerId, fingerprint: Option<&str>, protocol: Option<u32>) {
    presence(out, "peer_joined", peer_id, fingerprint, protocol);
}

/// Appends a `peer_left`: the registry says that this peer is offline.
pub fn peer_left(out: &mut Vec<u8>, peer_id: &PeerId) {
    presence(out, "peer_left", peer_id, None, None);
}

fn presence(out: &mut Vec<u8>, kind: &str, peer_id: &PeerId, fingerprint: Option<&str>, protocol: Option<u32>) {
    #[derive(Serialize)]
    struct Payload<'a> {
        peer_id: &'a PeerId,
        #[serde(skip_serializing_if = "Option::is_none")]
        fingerprint: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        protocol: Option<u32>,
    }
    frame(out, kind, None, &Payload { peer_id, fingerprint, protocol });
}

/// Appends a `signaling`: `connecting`, `connected` or `refused`, our name (`""` while unknown), and why.
pub fn signaling(out: &mut Vec<u8>, state: &str, peer_id: Option<&PeerId>, reason: Option<&str>) {
    #[derive(Serialize)]
    struct Payload<'a> {
        state: &'a str,
        peer_id: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'a str>,
    }
    let peer_id = peer_id.map_or("", PeerId::as_str);
    frame(out, "signaling", None, &Payload { state, peer_id, reason });
}
