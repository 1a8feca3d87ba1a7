//! The words of the machine: what it is told, and what it says is to be done.

use crate::wire::ConnectionId;

/// Counts the connections to one peer.
pub type Generation = u64;

/// Which side of a connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We made it up.
    Offerer,
    /// The peer did.
    Answerer,
}

/// Why a connection ended; the word goes to the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The peer closed it.
    Closed,
    /// Our agent asked for it, or we end.
    Local,
    /// Closed by us for room: least recently used.
    Idle,
    /// A newer connection to the same peer took over.
    Replaced,
    /// The path was silent for too long.
    Timeout,
    /// The path answers, but what was sent is not taken.
    Stuck,
    /// The handshake or the path broke.
    Failed,
    /// The registry says that the peer is not online.
    Offline,
    /// A fault of this software.
    Internal,
}

impl Reason {
    /// Gives the word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Local => "local",
            Self::Idle => "idle",
            Self::Replaced => "replaced",
            Self::Timeout => "timeout",
            Self::Stuck => "stuck",
            Self::Failed => "failed",
            Self::Offline => "offline",
            Self::Internal => "internal",
        }
    }
}

/// News for the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A channel is wanted. `now` also cuts short the wait after a failed dial.
    Dial {
        /// Somebody is waiting for it.
        now: bool,
    },
    /// The peer offers a connection.
    Offer { connection: Option<ConnectionId>, sdp: String, protocol: u32, restart: bool },
    /// The peer answers ours.
    Answer { connection: Option<ConnectionId>, sdp: String, protocol: u32 },
    /// A way to reach the peer.
    Candidate { connection: Option<ConnectionId>, candidate: String },
    /// The channel opened.
    Opened(Generation),
    /// The path is silent.
    Silent(Generation),
    /// The path answers again.
    Heard(Generation),
    /// The connection ended or is to end, for this reason.
    Ended(Generation, Reason),
    /// We leave this peer and do not come back by ourselves.
    Leave(Reason),
    /// The registry says that the peer is online.
    Joined,
    /// The registry says that the peer is not online.
    Left,
}

/// What is to be done. In order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Make a connection and offer it.
    Offer { generation: Generation, connection: ConnectionId },
    /// Make a connection from the peer's offer and answer it.
    Accept { generation: Generation, connection: Option<ConnectionId>, sdp: String, protocol: u32 },
    /// Offer an ICE restart.
    Restart { generation: Generation, connection: Option<ConnectionId> },
    /// Take the peer's ICE restart and answer it.
    AcceptRestart { generation: Generation, connection: Option<ConnectionId>, sdp: String },
    /// Take the peer's answer.
    TakeAnswer { generation: Generation, sdp: String, protocol: u32 },
    /// Take a candidate of the peer.
    TakeCandidate { generation: Generation, candidate: String },
    /// The channel may be used; `replaces` names the open connection it takes over from.
    Up { generation: Generation, replaces: Option<Generation> },
    /// An open connection ended; close it.
    Down { generation: Generation, reason: Reason },
    /// A connection that never opened ended; close it.
    Abandon { generation: Generation, reason: Reason },
    /// A dial came to nothing.
    DialFailed(Reason),
}
