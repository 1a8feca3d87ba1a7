//! The WebRTC sidecar of one agent: it connects the agent to its peers directly and talks to it over a Unix socket.
//!
//! It is a pipe. Bodies are one line of JSON that it never opens; conversations, acknowledgements and retries are the agents'.
//!
//! * [`config`], [`check`]: settings and whether they work
//! * [`supervisor`]: builds the parts and takes them down in order
//! * `mesh`: the manager of peers and channels; `link`: one connection, its sockets and its task
//! * [`negotiation`]: who offers, who answers, what to do about silence (pure)
//! * [`connection`]: the only place that names the WebRTC crate (no sockets, no clock); [`sdp`]: what we take from a peer's text
//! * `udp`, `gather`: sockets with offload; addresses and STUN
//! * [`signaling`]: the only WebSocket; `ipc`: the only Unix socket; `outbox`: what waits for the agent
//! * [`wire`], [`lines`], [`error`], [`backoff`]: the contract as types, and small pure things

pub mod backoff;
pub mod check;
pub mod config;
pub mod connection;
pub mod error;
mod gather;
mod ipc;
pub mod lines;
mod link;
mod mesh;
pub mod negotiation;
mod outbox;
pub mod sdp;
pub mod signaling;
pub mod supervisor;
mod udp;
pub mod wire;
