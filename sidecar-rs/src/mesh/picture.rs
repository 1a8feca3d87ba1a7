//! The whole picture, for the agent (`status`, and the present told after `hello`) and for the registry (`topology`).

use super::*;
use crate::wire::RequestId;
use crate::wire::ipc::answer::{self, PeerStatus, Status};
use crate::wire::ipc::event::Opened;
use crate::wire::limits::{MAX_LINE_BYTES, MAX_MESSAGE_BYTES, WINDOW_BYTES};
use crate::wire::signaling::Link as LinkReport;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What a client that said hello learns of a new channel.
pub(super) fn opened(link: &Link) -> Opened {
    let (fingerprint, max_message_bytes) = link.remote();
    let (path, _) = link.path();
    Opened { generation: link.generation, protocol: link.protocol.get(), fingerprint, max_message_bytes, path }
}

impl Mesh {
    /// Answers `hello` and tells the present: the registry, who is online, which channels are open.
    pub(crate) fn greet(&self, id: Option<&RequestId>) {
        let state = self.state.borrow();
        self.outbox.greet();
        let hello = answer::Hello {
            protocol: PROTOCOL,
            version: VERSION,
            peer_id: state.me.as_ref().map_or("", PeerId::as_str),
            fingerprint: state.identity.fingerprint(),
            max_message_bytes: MAX_MESSAGE_BYTES,
            max_line_bytes: MAX_LINE_BYTES,
            window_bytes: WINDOW_BYTES,
        };
        let outbox = &self.outbox;
        outbox.line(|out| answer::hello(out, id, &hello));
        outbox.line(|out| event::signaling(out, state.signaling.as_str(), state.me.as_ref(), state.signaling.reason()));
        for (id, present) in &state.online {
            let protocol = (present.protocol > 0).then_some(present.protocol);
            outbox.line(|out| event::peer_joined(out, id, present.fingerprint.as_deref(), protocol));
        }
        let announced = state.peers.values().flat_map(|p| &p.links).filter(|l| l.announced.get());
        for link in announced {
            outbox.line(|out| event::peer_connected(out, &link.peer, Some(&opened(link))));
        }
    }

    /// Answers `status`.
    pub(crate) fn status(&self, id: Option<&RequestId>) {
        let state = self.state.borrow();
        let peers = state.peers.iter().filter_map(|(id, peer)| Some((id.clone(), status_of(peer)?))).collect();
        let status = Status {
            peer_id: state.me.as_ref().map_or("", PeerId::as_str),
            version: VERSION,
            protocol: PROTOCOL,
            fingerprint: state.identity.fingerprint(),
            uptime_s: state.started.elapsed().as_secs(),
            signaling: state.signaling.as_str(),
            online: state.online.keys().cloned().collect(),
            peers,
        };
        self.outbox.line(|out| answer::status(out, id, &status));
    }
}

impl Peer {
    fn state(&self) -> &'static str {
        match (&self.open, self.negotiation.is_pending()) {
            (Some(_), _) if self.negotiation.is_silent() => "disconnected",
            (Some(_), _) => "open",
            (None, true) => "connecting",
            (None, false) => "disconnected",
        }
    }
}

fn status_of(peer: &Peer) -> Option<PeerStatus> {
    let link = peer.open.as_ref().or_else(|| peer.links.iter().max_by_key(|l| l.generation));
    let link = link?;
    let (path, rtt_ms) = link.path();
    let (fingerprint, max_message_bytes) = link.remote();
    let n = link.counters();
    Some(PeerStatus {
        state: peer.state(),
        generation: link.generation,
        connection: link.connection.map_or(String::new(), |c| c.to_string()),
        role: if link.role == Role::Offerer { "offerer" } else { "answerer" },
        protocol: link.protocol.get(),
        fingerprint,
        path,
        rtt_ms,
        // The core speaks no other version, and a channel opens over nothing else.
        dtls: peer.open.is_some().then_some("DTLS 1.2"),
        max_message_bytes,
        messages_sent: n.messages_sent,
        messages_received: n.messages_received,
        bytes_sent: n.bytes_sent,
        bytes_received: n.bytes_received,
    })
}

impl State {
    pub(super) fn links(&self) -> Vec<LinkReport> {
        let report = |(id, peer): (&PeerId, &Peer)| {
            let link = peer.open.as_ref()?;
            let (path, rtt_ms) = link.path();
            Some(LinkReport { peer: id.clone(), state: peer.state(), path, rtt_ms })
        };
        self.peers.iter().filter_map(report).collect()
    }
}
