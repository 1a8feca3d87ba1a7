//! What a connection holds between its turns, and the turn itself. No task, no waiting.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;

use super::{LinkEvent, Setup};
use crate::connection::{Engine, EngineError, EngineEvent, Local};
use crate::error::{Code, Failure};
use crate::gather::Stun;
use crate::negotiation::Reason;
use crate::outbox::{Asker, Outbox};
use crate::udp::Port;
use crate::wire::limits::WINDOW_BYTES;
use crate::wire::{PeerId, json};

/// Bytes SCTP may hold for one peer; what comes on top waits in the queue.
const SEND_LIMIT_BYTES: usize = 1 << 20;
/// System calls per socket and turn (up to 64 datagrams each), then the others get their turn.
const READS_PER_TURN: usize = 4;
/// Messages handed to the agent per turn.
const MESSAGES_PER_TURN: u64 = 512;
/// Sent data without acknowledgement, while the peer says nothing at all but pings: the association is stuck. A peer whose
/// agent does not read answers SCTP's probes, at longer and longer intervals; it is given up at the first gap of this size.
const STUCK_AFTER: Duration = Duration::from_secs(8);
/// A connection that is to end may take this long to hand out what it has, each way.
const RETIRE_SEND: Duration = Duration::from_secs(2);
const RETIRE_READ: Duration = Duration::from_secs(30);

/// What became of a send.
#[derive(Debug)]
pub(crate) enum Sent {
    /// Handed to SCTP.
    Now,
    /// Waits for room; answered later if it has an id, else its client should wait for [`Link::room`].
    Queued,
    /// Refused.
    Refused(Failure),
}

/// Numbers of one connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) messages_sent: u64,
    pub(crate) messages_received: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
}

/// What one round found out.
#[derive(Default)]
pub(super) struct Turn {
    /// There is more to do at once.
    pub(super) again: bool,
    /// The agent took bytes, and there is room again for messages of all peers.
    pub(super) regained: bool,
}

pub(super) struct Waiting {
    pub(super) asker: Option<Asker>,
    body: Bytes,
}

pub(super) struct Core {
    /// `None` once closed or broken.
    pub(super) engine: Option<Engine>,
    pub(super) ports: Vec<Port>,
    stuns: Vec<Stun>,
    gathering: bool,
    /// Bounded: with ids by `WINDOW_BYTES`, without by its client not being read.
    pub(super) queue: VecDeque<Waiting>,
    pub(super) queued_bytes: usize,
    pub(super) counters: Counters,
    opened: bool,
    /// Messages may be handed to the agent: it was told of this connection.
    pub(super) reading: bool,
    /// The peer closed: hand out the rest, then end.
    closed_by_peer: Option<Instant>,
    pub(super) retiring: Option<Instant>,
    /// Nobody wants what the peer still sends: we are the ones who leave.
    pub(super) leaving: bool,
    outstanding: usize,
    progress_at: Instant,
    heard_at: Instant,
    /// When a message went either way.
    pub(super) used_at: Instant,
    pub(super) events: Vec<LinkEvent>,
}

impl Core {
    /// Binds sockets around an engine.
    pub(super) fn new(now: Instant, engine: Engine, setup: &Setup<'_>) -> Self {
        let mut ports = Vec::new();
        for ip in setup.addresses {
            match Port::bind(*ip) {
                Ok(port) => ports.push(port),
                Err(error) => tracing::debug!(%ip, %error, "address not usable"),
            }
        }
        let question = |port: &Port, server| Stun::new(now, port.local(), server, rand::random());
        let stuns = (setup.stun_servers.iter())
            .flat_map(|server| ports.iter().filter_map(|port| question(port, *server)))
            .collect();
        Self {
            engine: Some(engine),
            ports,
            stuns,
            gathering: true,
            queue: VecDeque::new(),
            queued_bytes: 0,
            counters: Counters::default(),
            opened: false,
            reading: false,
            closed_by_peer: None,
            retiring: None,
            leaving: false,
            outstanding: 0,
            progress_at: now,
            heard_at: now,
            used_at: now,
            events: Vec::new(),
        }
    }

    /// Sends a body, or queues it.
    pub(super) fn send(&mut self, asker: Option<Asker>, body: &Bytes, wait: bool) -> Sent {
        let Some(engine) = &mut self.engine else {
            return Sent::Refused(Failure::new(Code::PeerUnreachable, "closed"));
        };
        self.used_at = Instant::now();
        #[cfg(test)]
        assert!(&body[..] != b"{\"fault\":1}", "the fault that a test asks for");
        let limit = engine.remote().map_or(0, |r| r.max_message_bytes);
        if body.len() > limit {
            let message = format!("message of {} bytes, the peer takes {limit}", body.len());
            return Sent::Refused(Failure::new(Code::MessageTooBig, message));
        }
        if self.queue.is_empty() && engine.outstanding() < SEND_LIMIT_BYTES {
            return match hand(engine, &mut self.counters, body) {
                Ok(()) => Sent::Now,
                Err(error) => Sent::Refused(Failure::new(Code::PeerUnreachable, error.to_string())),
            };
        }
        if !wait && self.queued_bytes + body.len() > WINDOW_BYTES {
            let message = format!("{} bytes wait for this peer, limit {WINDOW_BYTES}", self.queued_bytes);
            return Sent::Refused(Failure::new(Code::WindowExceeded, message));
        }
        self.queued_bytes += body.len();
        self.queue.push_back(Waiting { asker, body: body.clone() });
        Sent::Queued
    }

    /// One round.
    pub(super) fn turn(&mut self, peer: &PeerId, outbox: &Outbox, room: &Notify) -> Turn {
        let now = Instant::now();
        let mut again = self.receive(now);
        for _ in 0..8 {
            self.take_events(now);
            let Some(engine) = &mut self.engine else { break };
            if engine.deadline().is_none_or(|at| at > now) {
                break;
            }
            engine.handle_timeout(now);
        }
        let drained = self.read(now, peer, outbox, &mut again);
        // Before our acknowledgement goes out: the agent waits for this, the peer does not.
        let regained = outbox.flush();
        self.pump(outbox, room);
        self.watch(now, drained);
        self.ask_stun(now);
        self.write();
        Turn { again, regained }
    }

    fn receive(&mut self, now: Instant) -> bool {
        let Self { engine: Some(engine), ports, stuns, heard_at, events, .. } = self else { return false };
        let mut more = false;
        for port in ports {
            let local = port.local();
            more = false;
            for _ in 0..READS_PER_TURN {
                more = port.receive(|from, datagram| {
                    if datagram.first().is_some_and(|b| *b >= 20) {
                        *heard_at = now; // not a ping of ICE: the association lives
                    } else if let Some(answer) =
                        stuns.iter_mut().filter(|s| s.local == local).find_map(|s| s.receive(from, datagram))
                    {
                        if let Some(address) = answer.filter(|a| *a != local)
                            && let Ok(line) = engine.add_local(Local::Reflexive(address, local))
                        {
                            events.push(LinkEvent::Candidate(line));
                        }
                        return;
                    }
                    engine.handle_datagram(now, local, from, datagram);
                });
                if !more {
                    break;
                }
            }
        }
        more
    }

    fn take_events(&mut self, now: Instant) {
        let Some(engine) = &mut self.engine else { return };
        while let Some(event) = engine.poll_event() {
            match event {
                EngineEvent::Open => {
                    self.opened = true;
                    self.events.push(LinkEvent::Opened);
                }
                EngineEvent::Connected => self.events.push(LinkEvent::Heard),
                EngineEvent::Disconnected => self.events.push(LinkEvent::Silent),
                EngineEvent::Failed => self.events.push(LinkEvent::Ended(Reason::Failed)),
                EngineEvent::Closed => {
                    self.closed_by_peer.get_or_insert(now);
                }
            }
        }
    }

    /// Hands messages to the agent. True when there are none left.
    fn read(&mut self, now: Instant, peer: &PeerId, outbox: &Outbox, again: &mut bool) -> bool {
        let Some(engine) = &mut self.engine else { return true };
        if self.leaving {
            while engine.poll_message().is_some() {}
            return true;
        }
        if !self.reading {
            return false;
        }
        let before = self.counters.messages_received;
        let drained = loop {
            if self.counters.messages_received - before >= MESSAGES_PER_TURN {
                *again = true;
                break false;
            }
            if !outbox.has_room() {
                break false;
            }
            let Some(body) = engine.poll_message() else { break true };
            if let Err(failure) = json::check_message(&body) {
                tracing::debug!(%peer, %failure, "message of the peer dropped");
                continue;
            }
            self.counters.messages_received += 1;
            self.counters.bytes_received += body.len() as u64;
            outbox.message(peer, &body);
        };
        if self.counters.messages_received > before {
            self.used_at = now;
        }
        drained
    }

    /// Moves what waits to SCTP, as far as there is room.
    fn pump(&mut self, outbox: &Outbox, room: &Notify) {
        let Some(engine) = &mut self.engine else { return };
        if self.queue.is_empty() {
            return;
        }
        while engine.outstanding() < SEND_LIMIT_BYTES
            && let Some(waiting) = self.queue.pop_front()
        {
            self.queued_bytes -= waiting.body.len();
            match (hand(engine, &mut self.counters, &waiting.body), waiting.asker) {
                (Ok(()), Some(asker)) => outbox.ok(&asker),
                (Err(error), Some(asker)) => {
                    outbox.error(&asker, &Failure::new(Code::PeerUnreachable, error.to_string()));
                }
                _ => {}
            }
        }
        if self.queue.is_empty() {
            room.notify_one();
        }
    }

    /// Looks after the ends of a connection: closed by the peer, retired, stuck.
    fn watch(&mut self, now: Instant, drained: bool) {
        let Some(engine) = &mut self.engine else { return };
        let outstanding = engine.outstanding();
        if outstanding != self.outstanding || outstanding == 0 {
            self.outstanding = outstanding;
            self.progress_at = now;
        }
        let waited = |since: Instant, limit| now.saturating_duration_since(since) >= limit;
        if let Some(since) = self.closed_by_peer {
            if drained || !self.opened || waited(since, RETIRE_READ) {
                self.events.push(match self.retiring {
                    Some(_) => LinkEvent::Retired,
                    None => LinkEvent::Ended(Reason::Closed),
                });
            }
        } else if let Some(since) = self.retiring {
            let sent = outstanding == 0 && self.queue.is_empty() || waited(since, RETIRE_SEND);
            if sent && (drained || waited(since, RETIRE_READ)) {
                self.events.push(LinkEvent::Retired);
            }
        } else if waited(self.progress_at, STUCK_AFTER) && waited(self.heard_at, STUCK_AFTER) {
            self.events.push(LinkEvent::Ended(Reason::Stuck));
        }
    }

    fn ask_stun(&mut self, now: Instant) {
        for stun in &mut self.stuns {
            if let Some((server, packet)) = stun.poll(now)
                && let Some(port) = self.ports.iter_mut().find(|p| p.local() == stun.local)
            {
                port.send(server, &packet);
                port.flush();
            }
        }
        if self.gathering && self.stuns.iter().all(|s| s.deadline().is_none()) {
            self.gathering = false;
            self.events.push(LinkEvent::EndOfCandidates);
        }
    }

    /// Puts on the wire what the engine has for it.
    pub(super) fn write(&mut self) {
        if let Some(engine) = &mut self.engine {
            write_all(engine, &mut self.ports);
        }
    }

    /// Gives the time of the next round.
    pub(super) fn deadline(&mut self) -> Option<Instant> {
        let engine = self.engine.as_mut()?.deadline();
        let stun = self.stuns.iter().filter_map(Stun::deadline).min();
        let stuck = (self.outstanding > 0).then(|| self.progress_at.max(self.heard_at) + STUCK_AFTER);
        let ending = self.retiring.or(self.closed_by_peer).map(|_| Instant::now() + Duration::from_millis(100));
        [engine, stun, stuck, ending].into_iter().flatten().min()
    }
}

fn hand(engine: &mut Engine, counters: &mut Counters, body: &Bytes) -> Result<(), EngineError> {
    // The body was read as text when its line came in; a look at its bytes is cheaper than trusting that for ever.
    let text = std::str::from_utf8(body).map_err(|e| EngineError::Core(e.to_string()))?;
    engine.send(Instant::now(), text)?;
    counters.messages_sent += 1;
    counters.bytes_sent += body.len() as u64;
    Ok(())
}

pub(super) fn write_all(engine: &mut Engine, ports: &mut [Port]) {
    while let Some((local, to, packet)) = engine.poll_datagram() {
        if let Some(port) = ports.iter_mut().find(|p| p.local() == local) {
            port.send(to, &packet);
        }
    }
    ports.iter_mut().for_each(Port::flush);
}

pub(super) fn unreachable(peer: &PeerId) -> Failure {
    Failure::new(Code::PeerUnreachable, format!("no open channel to {peer}"))
}
