//! The error words of the wire, one per row of `protocol/errors.json`.
//!
//! * [`Code`]: the word, whether a retry makes sense, and whether the refused work may have run.
//! * [`Failure`]: a code and the sentence that names what was wrong; what an `error` line is made from.

use std::fmt;

/// Says whether the refused work may have been done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Executed {
    /// It was not done and will not be.
    No,
    /// Nobody here can tell.
    Unknown,
}

impl Executed {
    /// Gives the word that stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Unknown => "unknown",
        }
    }
}

macro_rules! codes {
    ($($name:ident $word:literal $retryable:literal $executed:ident),+ $(,)?) => {
        /// An error code of the protocol. `tests/vectors.rs` holds this list equal to `protocol/errors.json`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        #[allow(missing_docs)]
        pub enum Code { $($name),+ }

        impl Code {
            /// Every code, in the order of `protocol/errors.json`.
            pub const ALL: &[Code] = &[$(Code::$name),+];

            /// Gives the word that stands on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$name => $word),+ }
            }

            /// Says whether the same request may succeed later.
            pub fn retryable(self) -> bool {
                match self { $(Code::$name => $retryable),+ }
            }

            /// Says whether the request may have been carried out.
            pub fn executed(self) -> Executed {
                match self { $(Code::$name => Executed::$executed),+ }
            }
        }
    };
}

codes! {
    InvalidLine "invalid_line" false No,
    LineTooLong "line_too_long" false No,
    UnknownType "unknown_type" false No,
    ProtocolMismatch "protocol_mismatch" false No,
    Busy "busy" true No,
    WindowExceeded "window_exceeded" true No,
    MessageTooBig "message_too_big" false No,
    PeerUnreachable "peer_unreachable" true No,
    PeerOffline "peer_offline" true No,
    PeerGone "peer_gone" true Unknown,
    Timeout "timeout" true Unknown,
    Cancelled "cancelled" false Unknown,
    Undeliverable "undeliverable" true Unknown,
    MeshClosed "mesh_closed" false Unknown,
    LinkDown "link_down" true Unknown,
    HandlerFailed "handler_failed" false Unknown,
    Refused "refused" false No,
    UnknownSkill "unknown_skill" false No,
    HopLimit "hop_limit" false No,
    Unauthorized "unauthorized" false No,
    Forbidden "forbidden" false No,
    NotFound "not_found" false No,
    ForgedSender "forged_sender" false No,
    RateLimited "rate_limited" true No,
    Superseded "superseded" false No,
    Internal "internal" false Unknown,
    BudgetExceeded "budget_exceeded" false No,
    Repeated "repeated" false No,
    ToolRefused "tool_refused" false No,
    Interrupted "interrupted" false Unknown,
    Held "held" true No,
    IdentityMismatch "identity_mismatch" false No,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal: the wire's code and a sentence that names what was wrong. Never holds a body or a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Failure {
    /// The word for programs.
    pub code: Code,
    /// The sentence for people.
    pub message: String,
}

impl Failure {
    /// Makes a refusal; an over-long sentence is cut at 300 characters, so that input cannot be echoed at length.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if let Some((cut, _)) = message.char_indices().nth(300) {
            message.truncate(cut);
        }
        Self { code, message }
    }

    /// Makes an `invalid_line`, the refusal of everything that is not what the protocol expects.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidLine, message)
    }
}
