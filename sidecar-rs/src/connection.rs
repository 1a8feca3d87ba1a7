//! With `connection/identity.rs` the only place that names the WebRTC crate: one connection to one peer, without sockets and without a clock of its own.
//!
//! Datagrams go in by [`Engine::handle_datagram`] and come out of [`Engine::poll_datagram`]; time is an argument. Order of a
//! turn: datagrams in, [`Engine::poll_event`] until empty, [`Engine::poll_message`] while there is room for messages, sends,
//! [`Engine::poll_datagram`] until empty, sleep until [`Engine::deadline`]. Not polling messages closes SCTP's window, so the
//! far sender waits: that is our back-pressure.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rtc::crypto;
use rtc::data_channel::RTCDataChannelId;
use rtc::peer_connection::configuration::RTCConfigurationBuilder;
use rtc::peer_connection::configuration::setting_engine::{SctpMaxMessageSize, SettingEngineBuilder};
use rtc::peer_connection::event::{RTCDataChannelEvent, RTCPeerConnectionEvent};
use rtc::peer_connection::message::{RTCMessage, TaggedRTCMessage};
use rtc::peer_connection::sdp::RTCSessionDescription;
use rtc::peer_connection::state::RTCPeerConnectionState;
use rtc::peer_connection::transport::{
    CandidateConfig, CandidateHostConfig, CandidateServerReflexiveConfig, RTCIceCandidate, RTCIceCandidateInit,
};
use rtc::peer_connection::{RTCPeerConnection, RTCPeerConnectionBuilder};
use rtc::sansio::Protocol;
use rtc::shared::{TaggedBytesMut, TransportContext, TransportProtocol};
use rtc::statistics::StatsSelector;
use rtc::statistics::report::RTCStatsReportEntry;

use crate::sdp::{self, Remote, SdpError};
use crate::wire::ipc::answer::Path;
use crate::wire::limits::{MAX_CANDIDATES, MAX_MESSAGE_BYTES};

mod identity;
pub use identity::Identity;

/// Label of the one channel; also what old sidecars use.
const LABEL: &str = "mesh";
/// Silence after which ICE calls the path disconnected; pings go out every [`ICE_KEEPALIVE`].
const ICE_DISCONNECTED: Duration = Duration::from_secs(4);
const ICE_KEEPALIVE: Duration = Duration::from_secs(2);
/// Never reached: `negotiation` gives up on a silent path long before, and it is the one to decide.
const ICE_FAILED: Duration = Duration::from_secs(60);
/// The default check interval of 200 ms makes slow connects; 250 checks of 20 ms are as patient.
const ICE_CHECK: (Duration, u16) = (Duration::from_millis(20), 250);
/// More than the window above us (1 MiB), so that SCTP's own window does not close in normal life: reading after it was
/// closed schedules no SACK, and the far side would wait for its next probe.
const SCTP_RECEIVE_BUFFER: u32 = 4 << 20;

/// Datagrams that start lower are STUN (RFC 7983).
const FIRST_DTLS_BYTE: u8 = 20;

/// Why the engine refused. Nothing of this ends the connection by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The peer's text was not acceptable.
    #[error(transparent)]
    Sdp(#[from] SdpError),
    /// Our key or certificate cannot be used.
    #[error("identity: {0}")]
    Identity(String),
    /// The channel is not open.
    #[error("the channel is not open")]
    NotOpen,
    /// The peer has another certificate than the one it is known by.
    #[error("the peer's certificate changed within one connection")]
    FingerprintChanged,
    /// The WebRTC core refused.
    #[error("{0}")]
    Core(String),
}

impl From<rtc::shared::error::Error> for EngineError {
    fn from(error: rtc::shared::error::Error) -> Self {
        Self::Core(error.to_string())
    }
}

impl From<crypto::CryptoError> for EngineError {
    fn from(error: crypto::CryptoError) -> Self {
        Self::Identity(error.to_string())
    }
}

/// An address of ours that a peer may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// A bound socket.
    Host(SocketAddr),
    /// As a STUN server saw us, and the socket it saw.
    Reflexive(SocketAddr, SocketAddr),
}

/// What happened in there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineEvent {
    /// The channel is open: messages may be sent.
    Open,
    /// The peer closed the channel or the connection.
    Closed,
    /// The path answers (again).
    Connected,
    /// The path is silent for [`ICE_DISCONNECTED`].
    Disconnected,
    /// No path, or the handshake broke.
    Failed,
}

/// One connection.
pub struct Engine {
    pc: RTCPeerConnection,
    channel: Option<RTCDataChannelId>,
    open: bool,
    loopback: bool,
    remote: Option<Remote>,
    /// Candidates that came before the description; bounded by `MAX_CANDIDATES`.
    early: Vec<RTCIceCandidateInit>,
    remote_candidates: usize,
    /// Kinds of the peer's candidates, for the picture of the path.
    kinds: HashMap<SocketAddr, &'static str>,
    /// Where the last encrypted datagram went: the pair in use.
    in_use: Option<SocketAddr>,
    events: VecDeque<EngineEvent>,
}

impl Engine {
    /// Makes a connection that talks to nobody yet. `loopback` allows candidates on this machine.
    pub fn new(now: Instant, identity: &Identity, loopback: bool) -> Result<Self, EngineError> {
        let settings = SettingEngineBuilder::new()
            .with_ice_timeouts(Some(ICE_DISCONNECTED), Some(ICE_FAILED), Some(ICE_KEEPALIVE))
            .with_ice_connection_attempts(Some(ICE_CHECK.0), Some(ICE_CHECK.1))
            .with_host_acceptance_min_wait(Some(Duration::ZERO))
            .with_srflx_acceptance_min_wait(Some(Duration::from_millis(100)))
            .with_prflx_acceptance_min_wait(Some(Duration::from_millis(100)))
            .with_relay_acceptance_min_wait(Some(Duration::from_millis(200)))
            .with_include_loopback_candidate(loopback)
            .with_sctp_max_message_size(SctpMaxMessageSize::Bounded(MAX_MESSAGE_BYTES as u32))
            .with_sctp_max_receive_buffer_size(SCTP_RECEIVE_BUFFER)
            .build();
        let certificates = vec![identity.certificate.clone()];
        let configuration = RTCConfigurationBuilder::new().with_certificates(certificates).build();
        let pc = RTCPeerConnectionBuilder::new()
            .with_configuration(configuration)
            .with_setting_engine(settings)
            .build(now)?;
        Ok(Self {
            pc,
            channel: None,
            open: false,
            loopback,
            remote: None,
            early: Vec::new(),
            remote_candidates: 0,
            kinds: HashMap::new(),
            in_use: None,
            events: VecDeque::new(),
        })
    }

    /// Describes us to the peer, asking for a connection; `restart` asks for a new path for this one. The text holds the
    /// `locals`, because an old peer drops candidates that come before it handled the offer.
    pub fn offer(&mut self, now: Instant, locals: &[Local], restart: bool) -> Result<String, EngineError> {
        if self.channel.is_none() {
            self.channel = Some(self.pc.create_data_channel(LABEL, None)?.id());
        }
        if restart {
            self.pc.restart_ice();
            self.remote_candidates = 0;
        }
        let offer = self.pc.create_offer(None)?;
        self.pc.set_local_description(now, offer)?;
        self.describe(locals)
    }

    /// Takes the peer's offer and describes us in return.
    pub fn accept_offer(&mut self, now: Instant, sdp: &str, locals: &[Local]) -> Result<String, EngineError> {
        let remote = self.check(sdp)?;
        self.pc.set_remote_description(now, RTCSessionDescription::offer(remote.sdp.clone())?)?;
        self.remote = Some(remote);
        let answer = self.pc.create_answer(None)?;
        self.pc.set_local_description(now, answer)?;
        let text = self.describe(locals)?;
        self.flush_early();
        Ok(text)
    }

    /// Takes the peer's answer to our offer.
    pub fn accept_answer(&mut self, now: Instant, sdp: &str) -> Result<(), EngineError> {
        let remote = self.check(sdp)?;
        self.pc.set_remote_description(now, RTCSessionDescription::answer(remote.sdp.clone())?)?;
        self.remote = Some(remote);
        self.flush_early();
        Ok(())
    }

    fn check(&mut self, sdp: &str) -> Result<Remote, EngineError> {
        let remote = sdp::check(sdp, self.loopback)?;
        if self.remote.as_ref().is_some_and(|r| r.fingerprint != remote.fingerprint) {
            return Err(EngineError::FingerprintChanged);
        }
        for line in remote.sdp.lines().filter_map(|l| l.strip_prefix("a=candidate:")) {
            self.note_kind(line);
        }
        self.remote_candidates = remote.candidates;
        Ok(remote)
    }

    fn describe(&mut self, locals: &[Local]) -> Result<String, EngineError> {
        for local in locals {
            self.add_local(*local)?;
        }
        Ok(self.pc.local_description().ok_or(EngineError::NotOpen)?.sdp)
    }

    /// Gives the engine an address of ours; the candidate line is for the peer.
    pub fn add_local(&mut self, local: Local) -> Result<String, EngineError> {
        let base = |a: SocketAddr| CandidateConfig {
            network: "udp".into(),
            address: a.ip().to_string(),
            port: a.port(),
            component: 1,
            ..Default::default()
        };
        let candidate = match local {
            Local::Host(a) => {
                CandidateHostConfig { base_config: base(a), ..Default::default() }.new_candidate_host()?
            }
            Local::Reflexive(a, b) => {
                let (rel_addr, rel_port) = (b.ip().to_string(), b.port());
                let config =
                    CandidateServerReflexiveConfig { base_config: base(a), rel_addr, rel_port, ..Default::default() };
                config.new_candidate_server_reflexive()?
            }
        };
        let init = RTCIceCandidate::from(&candidate).to_json()?;
        let line = init.candidate.clone();
        self.pc.add_local_candidate(init)?;
        Ok(line)
    }

    /// Takes one candidate of the peer, before or after its description. One we do not use is no error.
    pub fn add_remote(&mut self, text: &str) -> Result<(), EngineError> {
        if text.is_empty() {
            return Ok(()); // the end of them; there is nothing we would do differently
        }
        self.remote_candidates += 1;
        if self.remote_candidates > MAX_CANDIDATES {
            return Err(SdpError::TooManyCandidates.into());
        }
        if sdp::candidate(text, self.loopback)?.is_none() {
            return Ok(());
        }
        self.note_kind(text);
        let (sdp_mid, sdp_mline_index) = (Some("0".to_owned()), Some(0));
        let init = RTCIceCandidateInit { candidate: text.into(), sdp_mid, sdp_mline_index, ..Default::default() };
        match self.remote {
            Some(_) => self.pc.add_remote_candidate(init)?,
            None => self.early.push(init),
        }
        Ok(())
    }

    fn flush_early(&mut self) {
        for init in std::mem::take(&mut self.early) {
            // One bad candidate is not worth a connection: the others may do.
            if let Err(error) = self.pc.add_remote_candidate(init) {
                tracing::debug!(%error, "candidate refused");
            }
        }
    }

    fn note_kind(&mut self, candidate: &str) {
        let Ok(Some(address)) = sdp::candidate(candidate, true) else { return };
        let mut words = candidate.split_ascii_whitespace().skip_while(|w| *w != "typ").skip(1);
        let kind = words.next().map_or("host", kind_word);
        if self.kinds.len() < 2 * MAX_CANDIDATES {
            self.kinds.insert(address, kind);
        }
    }

    /// Takes a datagram from the wire. Garbage does nothing.
    pub fn handle_datagram(&mut self, now: Instant, local_addr: SocketAddr, peer_addr: SocketAddr, datagram: &[u8]) {
        let transport =
            TransportContext { local_addr, peer_addr, ecn: None, transport_protocol: TransportProtocol::UDP };
        let message = BytesMut::from(datagram);
        if let Err(error) = self.pc.handle_read(TaggedBytesMut { now, transport, message }) {
            tracing::trace!(%error, "datagram ignored");
        }
    }

    /// Gives the next datagram for the wire: from our address, to the peer's.
    pub fn poll_datagram(&mut self) -> Option<(SocketAddr, SocketAddr, BytesMut)> {
        let m = self.pc.poll_write()?;
        if m.message.first().is_some_and(|first| *first >= FIRST_DTLS_BYTE) {
            self.in_use = Some(m.transport.peer_addr);
        }
        Some((m.transport.local_addr, m.transport.peer_addr, m.message))
    }

    /// Gives the time of the next [`Engine::handle_timeout`].
    pub fn deadline(&mut self) -> Option<Instant> {
        self.pc.poll_timeout()
    }

    /// Does what is due by now.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.pc.poll_timeout().is_some_and(|t| t <= now)
            && let Err(error) = self.pc.handle_timeout(now)
        {
            tracing::debug!(%error, "timer");
        }
    }

    /// Gives the next thing that happened.
    pub fn poll_event(&mut self) -> Option<EngineEvent> {
        while let Some(event) = self.pc.poll_event() {
            match event {
                RTCPeerConnectionEvent::OnConnectionStateChangeEvent(state) => {
                    let event = match state {
                        RTCPeerConnectionState::Connected => EngineEvent::Connected,
                        RTCPeerConnectionState::Disconnected => EngineEvent::Disconnected,
                        RTCPeerConnectionState::Failed => EngineEvent::Failed,
                        RTCPeerConnectionState::Closed => EngineEvent::Closed,
                        _ => continue,
                    };
                    self.events.push_back(event);
                }
                RTCPeerConnectionEvent::OnDataChannel(event) => self.channel_event(event),
                _ => {}
            }
        }
        self.events.pop_front()
    }

    fn channel_event(&mut self, event: RTCDataChannelEvent) {
        match event {
            RTCDataChannelEvent::OnOpen(id) => {
                let ours = self.channel.is_none_or(|c| c == id);
                let Some(mut channel) = self.pc.data_channel(id) else { return };
                if !ours || channel.label() != LABEL || !channel.ordered() {
                    let _ = channel.close(); // a channel we have no use for; closing it is all we owe
                    return;
                }
                self.channel = Some(id);
                self.open = true;
                self.events.push_back(EngineEvent::Open);
            }
            RTCDataChannelEvent::OnClose(id) if Some(id) == self.channel => {
                self.open = false;
                self.events.push_back(EngineEvent::Closed);
            }
            _ => {}
        }
    }

    /// Gives the next message of the peer. Call only while there is room for it.
    pub fn poll_message(&mut self) -> Option<BytesMut> {
        while let Some(TaggedRTCMessage { message, .. }) = self.pc.poll_read() {
            if let RTCMessage::DataChannelMessage(id, message) = message
                && Some(id) == self.channel
            {
                return Some(message.data);
            }
        }
        None
    }

    /// Hands a text message to SCTP. Look at [`Engine::outstanding`] first: there is no bound in here.
    pub fn send(&mut self, now: Instant, text: &str) -> Result<(), EngineError> {
        let id = self.channel.filter(|_| self.open).ok_or(EngineError::NotOpen)?;
        self.pc.data_channel(id).ok_or(EngineError::NotOpen)?.send_text(now, text)?;
        Ok(())
    }

    /// Gives the bytes that SCTP holds and the peer has not acknowledged.
    pub fn outstanding(&mut self) -> usize {
        let Some(id) = self.channel else { return 0 };
        self.pc.data_channel(id).map_or(0, |c| c.outstanding_bytes())
    }

    /// Gives what the peer's description said, once there is one.
    pub fn remote(&self) -> Option<&Remote> {
        self.remote.as_ref()
    }

    /// Gives the candidate pair in use and its round trip time in milliseconds, as ICE measured it.
    pub fn path(&mut self, now: Instant) -> (Option<Path>, Option<f64>) {
        let report = self.pc.get_stats(now, StatsSelector::None);
        let Some(pair) = report.candidate_pairs().find(|p| p.nominated) else { return (None, None) };
        let rtt = (pair.current_round_trip_time > 0.0).then_some(pair.current_round_trip_time * 1e3);
        let local = match report.get(&format!("RTCLocalIceCandidate_{}", pair.local_candidate_id)) {
            Some(RTCStatsReportEntry::LocalCandidate(c)) => kind_word(&c.candidate_type.to_string()),
            _ => "prflx",
        };
        // By address: a peer whose first ping came before its candidate line is not peer-reflexive for that.
        let remote = self.in_use.and_then(|address| self.kinds.get(&address).copied()).unwrap_or("prflx");
        let path = Path { local, remote, protocol: "udp" };
        (Some(path), rtt)
    }

    /// Tells the peer that we leave, after what SCTP still holds. Poll datagrams once more, then drop.
    pub fn close(&mut self) {
        self.open = false;
        if let Err(error) = self.pc.close() {
            tracing::debug!(%error, "close");
        }
    }
}

fn kind_word(word: &str) -> &'static str {
    match word {
        "host" => "host",
        "srflx" => "srflx",
        "relay" => "relay",
        _ => "prflx",
    }
}
