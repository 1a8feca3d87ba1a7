//! What is on the wire, as types. Nothing in here does I/O.
//!
//! * [`ids`]: peers, requests, connections
//! * [`json`]: the checks that every foreign text passes: one object, not too deep, valid text, one line
//! * [`ipc`]: commands from the agent, answers and events to it
//! * [`signaling`]: frames to and from the registry
//! * [`limits`]: the numbers of `protocol/limits.json`

pub mod ids;
pub mod ipc;
pub mod json;
pub mod limits;
pub mod signaling;

pub use ids::{ConnectionId, PeerId, RequestId};
