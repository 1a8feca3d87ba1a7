//! Real sidecar processes, real sockets, real WebRTC on loopback, and a registry in the test. One property a file; one binary,
//! because each would link the whole WebRTC stack again.

mod agent;
mod registry;
mod sidecar;

mod agent_restart;
mod back_pressure;
mod dial_modes;
mod garbage_datagrams;
mod garbage_lines;
mod glare;
mod large_messages;
mod old_peers;
mod parent_ends;
mod peer_killed;
mod registry_restart;
mod second_client;
mod seed_lines;
mod slow_reader;
mod status;
mod terminate;
