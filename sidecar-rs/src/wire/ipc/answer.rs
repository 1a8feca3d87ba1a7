//! Answers to commands. Each function appends one line and its LF.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::error::{Code, Failure};
use crate::wire::{PeerId, RequestId};

/// What a client learns from `hello`. Field order is wire order.
#[derive(Clone, Debug, Serialize)]
pub struct Hello<'a> {
    /// Our protocol number.
    pub protocol: u32,
    /// Version of this program.
    pub version: &'a str,
    /// Our name, `""` until the registry has given one out.
    pub peer_id: &'a str,
    /// `sha-256 AB:CD:..` of our certificate.
    pub fingerprint: &'a str,
    /// Bytes of one body.
    pub max_message_bytes: usize,
    /// Bytes of one line we read.
    pub max_line_bytes: usize,
    /// Bytes of unanswered sends to one peer.
    pub window_bytes: usize,
}

/// The whole picture. Field order is wire order.
#[derive(Clone, Debug, Serialize)]
pub struct Status<'a> {
    /// As in [`Hello`].
    pub peer_id: &'a str,
    /// As in [`Hello`].
    pub version: &'a str,
    /// As in [`Hello`].
    pub protocol: u32,
    /// As in [`Hello`].
    pub fingerprint: &'a str,
    /// Seconds since start.
    pub uptime_s: u64,
    /// `connecting`, `connected` or `refused`.
    pub signaling: &'a str,
    /// Peers that the registry says are online.
    pub online: Vec<PeerId>,
    /// Peers we have or had a connection to.
    pub peers: BTreeMap<PeerId, PeerStatus>,
}

/// One peer in [`Status`]. Field order is wire order.
#[derive(Clone, Debug, Serialize)]
pub struct PeerStatus {
    /// `connecting`, `open` or `disconnected`.
    pub state: &'static str,
    /// Counts the connections to this peer.
    pub generation: u64,
    /// Name of the connection as the offerer made it up, 16 hex digits; empty for an old offerer.
    pub connection: String,
    /// `offerer` or `answerer`.
    pub role: &'static str,
    /// The peer's protocol number, 0 for an old sidecar.
    pub protocol: u32,
    /// The peer's certificate, as in [`Hello`].
    pub fingerprint: Option<String>,
    /// The candidate pair in use.
    pub path: Option<Path>,
    /// Round trip time in milliseconds as ICE measured it.
    pub rtt_ms: Option<f64>,
    /// `DTLS 1.2`.
    pub dtls: Option<&'static str>,
    /// Bytes of one body the peer takes.
    pub max_message_bytes: usize,
    /// Messages handed to SCTP.
    pub messages_sent: u64,
    /// Messages handed to the agent.
    pub messages_received: u64,
    /// Their bytes.
    pub bytes_sent: u64,
    /// Their bytes.
    pub bytes_received: u64,
}

/// A candidate pair: `host`, `srflx`, `prflx` or `relay` at either end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Path {
    /// Kind of our candidate.
    pub local: &'static str,
    /// Kind of the peer's candidate.
    pub remote: &'static str,
    /// `udp`.
    pub protocol: &'static str,
}

/// Appends `ok {}`.
pub fn ok(out: &mut Vec<u8>, id: &RequestId) {
    out.extend_from_slice(br#"{"type":"ok","id":"#);
    out.extend_from_slice(id.as_json().as_bytes());
    out.extend_from_slice(b",\"payload\":{}}\n");
}

/// Appends the `ok` of a broadcast: who has it now, and why the others have not.
pub fn broadcast_ok<'a>(
    out: &mut Vec<u8>,
    id: &RequestId,
    sent: impl IntoIterator<Item = &'a PeerId>,
    failed: impl IntoIterator<Item = (&'a PeerId, Code)>,
) {
    #[derive(Serialize)]
    struct Payload<'a> {
        sent: Vec<&'a PeerId>,
        failed: BTreeMap<&'a PeerId, &'static str>,
    }
    let failed = failed.into_iter().map(|(peer, code)| (peer, code.as_str())).collect();
    frame(out, "ok", Some(id), &Payload { sent: sent.into_iter().collect(), failed });
}

/// Appends an `error`, with the id of the command that failed, or as an event.
pub fn error(out: &mut Vec<u8>, id: Option<&RequestId>, failure: &Failure) {
    #[derive(Serialize)]
    struct Payload<'a> {
        code: &'a str,
        message: &'a str,
        retryable: bool,
        executed: &'a str,
    }
    let Failure { code, message } = failure;
    let executed = code.executed().as_str();
    frame(out, "error", id, &Payload { code: code.as_str(), message, retryable: code.retryable(), executed });
}

/// Appends a `peer_list`: the peers with an open channel.
pub fn peer_list<'a>(out: &mut Vec<u8>, id: Option<&RequestId>, peers: impl IntoIterator<Item = &'a PeerId>) {
    #[derive(Serialize)]
    struct Payload<'a> {
        peers: Vec<&'a PeerId>,
    }
    frame(out, "peer_list", id, &Payload { peers: peers.into_iter().collect() });
}

/// Appends the answer to `hello`.
pub fn hello(out: &mut Vec<u8>, id: Option<&RequestId>, hello: &Hello<'_>) {
    frame(out, "hello", id, hello);
}

/// Appends the answer to `status`.
pub fn status(out: &mut Vec<u8>, id: Option<&RequestId>, status: &Status<'_>) {
    frame(out, "status", id, status);
}

/// Appends `{"type":..,"id":..,"payload":..}` and LF. `kind` is one of our own words and needs no escaping.
pub(super) fn frame(out: &mut Vec<u8>, kind: &str, id: Option<&RequestId>, payload: &impl Serialize) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.push(b'"');
    if let Some(id) = id {
        out.extend_from_slice(b",\"id\":");
        out.extend_from_slice(id.as_json().as_bytes());
    }
    out.extend_from_slice(b",\"payload\":");
    // Fails for maps with keys that are no strings and for failing writers; here is neither.
    serde_json::to_writer(&mut *out, payload).expect("our own types always serialize into memory");
    out.extend_from_slice(b"}\n");
}
