//! The payloads of signaling frames as JSON has them; [`super`] holds what they mean.

use std::collections::HashMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Incoming, Present};
use crate::wire::limits::MAX_PEERS;
use crate::wire::{ConnectionId, PeerId};

#[derive(Serialize, Deserialize)]
pub(super) struct SdpPayload {
    pub(super) sdp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) protocol: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) connection: Option<ConnectionId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) restart: Option<bool>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct CandidatePayload {
    pub(super) candidate: String,
    #[serde(rename = "sdpMid")]
    pub(super) sdp_mid: Option<String>,
    #[serde(rename = "sdpMLineIndex")]
    pub(super) sdp_mline_index: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) connection: Option<ConnectionId>,
}

#[derive(Deserialize)]
pub(super) struct PeerListPayload {
    pub(super) peers: Vec<String>,
    pub(super) details: Option<HashMap<String, DetailPayload>>,
}

#[derive(Deserialize)]
pub(super) struct DetailPayload {
    pub(super) fingerprint: Option<String>,
    pub(super) protocol: Option<u32>,
}

#[derive(Deserialize)]
pub(super) struct JoinedPayload {
    pub(super) peer_id: PeerId,
    pub(super) fingerprint: Option<String>,
    pub(super) protocol: Option<u32>,
}

#[derive(Deserialize)]
pub(super) struct LeftPayload {
    pub(super) peer_id: PeerId,
}

#[derive(Deserialize)]
pub(super) struct ErrorPayload {
    pub(super) code: String,
    #[serde(default)]
    pub(super) message: String,
    pub(super) target_id: Option<String>,
}

impl PeerListPayload {
    pub(super) fn into_incoming(self) -> Incoming {
        let extended = self.details.is_some();
        let mut details = self.details.unwrap_or_default();
        let peers = self.peers.iter().filter_map(|name| {
            let detail = details.remove(name);
            let (fingerprint, protocol) = detail.map_or((None, None), |d| (d.fingerprint, d.protocol));
            Some(Present::new(PeerId::from_str(name).ok()?, fingerprint, protocol))
        });
        // Beyond the cap we could not connect to them either; they still can dial us.
        Incoming::PeerList { peers: peers.take(MAX_PEERS).collect(), extended }
    }
}

impl From<JoinedPayload> for Present {
    fn from(p: JoinedPayload) -> Self {
        Self::new(p.peer_id, p.fingerprint, p.protocol)
    }
}

impl ErrorPayload {
    pub(super) fn into_incoming(self) -> Incoming {
        Incoming::Error {
            code: self.code.chars().take(64).collect(),
            message: self.message.chars().take(300).collect(),
            target_id: self.target_id.and_then(|id| id.parse().ok()),
        }
    }
}
