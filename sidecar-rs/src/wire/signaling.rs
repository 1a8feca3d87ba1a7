//! The frames between a sidecar and the registry.
//!
//! * registry -> us: [`Incoming`], by [`decode`]
//! * us -> registry: [`Outgoing`], by [`Outgoing::encode`]
//!
//! Old sidecars and old registries send the same frames without `protocol`, `connection` and `details`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::limits::{MAX_CANDIDATE_BYTES, MAX_SDP_BYTES, MAX_SIGNAL_BYTES, PROTOCOL};
use super::{ConnectionId, PeerId, json};
use crate::error::{Code, Failure};

mod payload;

use payload::{CandidatePayload, ErrorPayload, JoinedPayload, LeftPayload, PeerListPayload, SdpPayload};

/// Bytes of the largest frame we read: a `peer_list` of `MAX_PEERS` with details. Relayed frames end at `MAX_SIGNAL_BYTES`.
pub const MAX_FRAME_BYTES: usize = 1 << 20;

/// A peer the registry says is online.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// Its name.
    pub peer_id: PeerId,
    /// `sha-256 AB:CD:..` of its certificate, when the registry knows it.
    pub fingerprint: Option<String>,
    /// Its protocol number, 0 for an old sidecar.
    pub protocol: u32,
}

impl Present {
    fn new(peer_id: PeerId, fingerprint: Option<String>, protocol: Option<u32>) -> Self {
        // A registry may write `""` for a peer that registered without one.
        let fingerprint = fingerprint.filter(|text| !text.is_empty());
        Self { peer_id, fingerprint, protocol: protocol.unwrap_or(0) }
    }
}

/// What one sidecar tells another through the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// A session description that asks for a connection.
    Offer {
        /// The session description.
        sdp: String,
        /// The sender's protocol number, 0 for an old sidecar.
        protocol: u32,
        /// Name of the connection; `None` from an old sidecar.
        connection: Option<ConnectionId>,
        /// Asks for an ICE restart of that connection instead of a new one.
        restart: bool,
    },
    /// The answer to an offer.
    Answer {
        /// The session description.
        sdp: String,
        /// As in `Offer`.
        protocol: u32,
        /// As in the offer; `None` means the current one.
        connection: Option<ConnectionId>,
    },
    /// A way to reach the sender. An empty `candidate` ends them.
    Candidate {
        /// The candidate line.
        candidate: String,
        /// Media section by name.
        sdp_mid: Option<String>,
        /// Media section by number.
        sdp_mline_index: Option<u16>,
        /// As in `Answer`.
        connection: Option<ConnectionId>,
    },
}

/// A frame from the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// Who is online, once per register.
    PeerList {
        /// Everybody but us.
        peers: Vec<Present>,
        /// The registry speaks protocol 1: it sent `details`.
        extended: bool,
    },
    /// A peer came online.
    PeerJoined(Present),
    /// A peer went offline.
    PeerLeft(PeerId),
    /// Another sidecar speaks to us. The registry vouches for `from`.
    Signal {
        /// Who.
        from: PeerId,
        /// What.
        signal: Signal,
    },
    /// The registry refuses something.
    Error {
        /// Its code, as it came: a newer registry may have newer codes.
        code: String,
        /// Its sentence, cut at 300 characters.
        message: String,
        /// The peer it is about.
        target_id: Option<PeerId>,
    },
}

/// State of one link, for the registry's picture of the network.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Link {
    /// The other end.
    pub peer: PeerId,
    /// `connecting`, `open` or `disconnected`.
    pub state: &'static str,
    /// The candidate pair in use.
    pub path: Option<super::ipc::answer::Path>,
    /// Round trip time in milliseconds.
    pub rtt_ms: Option<f64>,
}

/// A frame to the registry.
#[derive(Clone, Debug, PartialEq)]
pub enum Outgoing {
    /// Says who we are; first frame of a connection.
    Register {
        /// `sha-256 AB:CD:..` of our certificate.
        fingerprint: String,
        /// When this process started, milliseconds since 1970: the newer of two sockets of one peer wins.
        generation: u64,
    },
    /// Speaks to another sidecar.
    Signal {
        /// To whom.
        to: PeerId,
        /// What.
        signal: Signal,
    },
    /// Says that we are alive.
    Heartbeat,
    /// Reports our links. Only for a registry that speaks protocol 1.
    Topology(Vec<Link>),
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(rename = "type")]
    kind: String,
    peer_id: String,
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// Reads one frame.
///
/// Unknown fields are ignored, and so are peers of a list whose id we could not address anyhow. Fails with `invalid_line`,
/// `line_too_long`, or `unknown_type` for a frame that a newer registry may know.
pub fn decode(frame: &[u8]) -> Result<Incoming, Failure> {
    if frame.len() > MAX_FRAME_BYTES {
        return Err(too_long(frame.len(), MAX_FRAME_BYTES));
    }
    let text = json::text(frame)?;
    if !text.trim_start().starts_with('{') {
        return Err(Failure::invalid("a frame must be a JSON object"));
    }
    let head: Head<'_> = serde_json::from_str(text).map_err(|e| Failure::invalid(e.to_string()))?;
    json::check_frame(text)?;
    let payload = head.payload;
    match head.kind.as_str() {
        "peer_list" => parse::<PeerListPayload>(payload).map(PeerListPayload::into_incoming),
        "peer_joined" => Ok(Incoming::PeerJoined(parse::<JoinedPayload>(payload)?.into())),
        "peer_left" => Ok(Incoming::PeerLeft(parse::<LeftPayload>(payload)?.peer_id)),
        "error" => parse::<ErrorPayload>(payload).map(ErrorPayload::into_incoming),
        "offer" | "answer" | "ice_candidate" => {
            if frame.len() > MAX_SIGNAL_BYTES {
                return Err(too_long(frame.len(), MAX_SIGNAL_BYTES));
            }
            let from = head.peer_id.parse().map_err(|e| Failure::invalid(format!("peer_id: {e}")))?;
            Ok(Incoming::Signal { from, signal: signal(&head.kind, payload)? })
        }
        other => Err(Failure::new(Code::UnknownType, format!("unknown type {other:?}"))),
    }
}

fn too_long(size: usize, limit: usize) -> Failure {
    Failure::new(Code::LineTooLong, format!("frame of {size} bytes, limit {limit}"))
}

fn parse<'a, T: Deserialize<'a>>(payload: &'a RawValue) -> Result<T, Failure> {
    if !payload.get().starts_with('{') {
        return Err(Failure::invalid("payload must be an object"));
    }
    serde_json::from_str(payload.get()).map_err(|e| Failure::invalid(format!("payload: {e}")))
}

fn signal(kind: &str, payload: &RawValue) -> Result<Signal, Failure> {
    if kind == "ice_candidate" {
        let p: CandidatePayload = parse(payload)?;
        check_size("candidate", &p.candidate, MAX_CANDIDATE_BYTES)?;
        check_size("sdpMid", p.sdp_mid.as_deref().unwrap_or_default(), 64)?;
        let CandidatePayload { candidate, sdp_mid, sdp_mline_index, connection } = p;
        return Ok(Signal::Candidate { candidate, sdp_mid, sdp_mline_index, connection });
    }
    let SdpPayload { sdp, protocol, connection, restart } = parse(payload)?;
    check_size("sdp", &sdp, MAX_SDP_BYTES)?;
    let (protocol, restart) = (protocol.unwrap_or(0), restart.unwrap_or(false));
    Ok(match kind {
        "offer" => Signal::Offer { sdp, protocol, connection, restart },
        _ => Signal::Answer { sdp, protocol, connection },
    })
}

fn check_size(name: &str, text: &str, limit: usize) -> Result<(), Failure> {
    match text.len() > limit {
        true => Err(Failure::invalid(format!("{name} of {} bytes, limit {limit}", text.len()))),
        false => Ok(()),
    }
}

impl Signal {
    /// Gives the name of the connection this is about.
    pub fn connection(&self) -> Option<ConnectionId> {
        match self {
            Self::Offer { connection, .. } | Self::Answer { connection, .. } => *connection,
            Self::Candidate { connection, .. } => *connection,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Offer { .. } => "offer",
            Self::Answer { .. } => "answer",
            Self::Candidate { .. } => "ice_candidate",
        }
    }
}

impl Outgoing {
    /// Says whether only a registry that speaks protocol 1 may get this; old ones warn, old peers may stumble.
    pub fn needs_protocol_1(&self) -> bool {
        match self {
            Self::Topology(_) => true,
            Self::Signal { signal: Signal::Candidate { candidate, .. }, .. } => candidate.is_empty(),
            _ => false,
        }
    }

    /// Writes the frame, sent by `me`. Protocol and connection number travel always: old sides ignore them.
    pub fn encode(&self, me: &PeerId) -> String {
        match self {
            Self::Register { fingerprint, generation } => {
                #[derive(Serialize)]
                struct Payload<'a> {
                    protocol: u32,
                    fingerprint: &'a str,
                    generation: u64,
                }
                frame("register", me, None, &Payload { protocol: PROTOCOL, fingerprint, generation: *generation })
            }
            Self::Heartbeat => frame("heartbeat", me, None, &BTreeMap::<&str, ()>::new()),
            Self::Topology(links) => frame("topology", me, None, &BTreeMap::from([("links", links)])),
            Self::Signal { to, signal } => {
                let to = Some(to);
                match signal.clone() {
                    Signal::Offer { sdp, protocol, connection, restart } => {
                        let restart = restart.then_some(true);
                        let payload = SdpPayload { sdp, protocol: Some(protocol), connection, restart };
                        frame(signal.kind(), me, to, &payload)
                    }
                    Signal::Answer { sdp, protocol, connection } => {
                        let payload = SdpPayload { sdp, protocol: Some(protocol), connection, restart: None };
                        frame(signal.kind(), me, to, &payload)
                    }
                    Signal::Candidate { candidate, sdp_mid, sdp_mline_index, connection } => {
                        let payload = CandidatePayload { candidate, sdp_mid, sdp_mline_index, connection };
                        frame(signal.kind(), me, to, &payload)
                    }
                }
            }
        }
    }
}

fn frame(kind: &str, me: &PeerId, target_id: Option<&PeerId>, payload: &impl Serialize) -> String {
    #[derive(Serialize)]
    struct Frame<'a, P> {
        #[serde(rename = "type")]
        kind: &'a str,
        peer_id: &'a PeerId,
        #[serde(skip_serializing_if = "Option::is_none")]
        target_id: Option<&'a PeerId>,
        payload: &'a P,
    }
    serde_json::to_string(&Frame { kind, peer_id: me, target_id, payload }).expect("our own types always serialize")
}
