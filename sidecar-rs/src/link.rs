//! One connection and its sockets: the task around an [`Engine`], and what others may ask of it in between.
//!
//! * one task and one set of sockets per connection: two connections between the same sockets could not be told apart
//! * a turn: datagrams in, events, messages while the agent has room, waiting sends, datagrams out, the agent's buffer
//! * a send goes to the engine and the wire in the call that asks for it; only what SCTP has no room for waits in a queue
//! * every entry catches panics: a fault ends this connection with reason `internal`, and no other

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::connection::{Engine, EngineError, EngineEvent, Identity, Local};
use crate::error::{Code, Failure};
use crate::gather::Stun;
use crate::negotiation::{Generation, Reason, Role};
use crate::outbox::{Asker, Outbox};
use crate::udp::Port;
use crate::wire::ipc::answer::Path;
use crate::wire::limits::{MAX_MESSAGE_BYTES, WINDOW_BYTES};
use crate::wire::{ConnectionId, PeerId, json};

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
const FAR: Duration = Duration::from_secs(3600);

/// What happened on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinkEvent {
    Opened,
    Silent,
    Heard,
    /// A way to reach us, for the peer.
    Candidate(String),
    /// No more ways to reach us will come.
    EndOfCandidates,
    Ended(Reason),
    /// A retired connection has handed out everything.
    Retired,
}

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

struct Waiting {
    asker: Option<Asker>,
    body: Bytes,
}

/// One connection to one peer.
pub(crate) struct Link {
    pub(crate) peer: PeerId,
    pub(crate) generation: Generation,
    pub(crate) connection: Option<ConnectionId>,
    pub(crate) role: Role,
    pub(crate) protocol: Cell<u32>,
    /// The agent was told that it is open.
    pub(crate) announced: Cell<bool>,
    core: RefCell<Core>,
    outbox: Rc<Outbox>,
    wake: Notify,
    room: Notify,
    armed: Cell<Instant>,
}

struct Core {
    /// `None` once closed or broken.
    engine: Option<Engine>,
    ports: Vec<Port>,
    stuns: Vec<Stun>,
    gathering: bool,
    /// Bounded: with ids by `WINDOW_BYTES`, without by its client not being read.
    queue: VecDeque<Waiting>,
    queued_bytes: usize,
    counters: Counters,
    opened: bool,
    /// Messages may be handed to the agent: it was told of this connection.
    reading: bool,
    /// The peer closed: hand out the rest, then end.
    closed_by_peer: Option<Instant>,
    retiring: Option<Instant>,
    outstanding: usize,
    progress_at: Instant,
    heard_at: Instant,
    /// When a message went either way.
    used_at: Instant,
    events: Vec<LinkEvent>,
}

/// What a new connection needs to know.
pub(crate) struct Setup<'a> {
    pub(crate) identity: &'a Identity,
    pub(crate) loopback: bool,
    pub(crate) addresses: &'a [IpAddr],
    pub(crate) stun_servers: &'a [SocketAddr],
}

impl Link {
    /// Binds sockets and makes the engine. Talks to nobody yet.
    pub(crate) fn new(
        peer: PeerId,
        generation: Generation,
        connection: Option<ConnectionId>,
        role: Role,
        setup: &Setup<'_>,
        outbox: Rc<Outbox>,
    ) -> Result<Rc<Self>, EngineError> {
        let now = Instant::now();
        let engine = Engine::new(now, setup.identity, setup.loopback)?;
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
        let core = Core {
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
            outstanding: 0,
            progress_at: now,
            heard_at: now,
            used_at: now,
            events: Vec::new(),
        };
        Ok(Rc::new(Self {
            peer,
            generation,
            connection,
            role,
            protocol: Cell::new(0),
            announced: Cell::new(false),
            core: RefCell::new(core),
            outbox,
            wake: Notify::new(),
            room: Notify::new(),
            armed: Cell::new(now),
        }))
    }

    /// Runs `f` on the core; a panic in there ends this connection only.
    fn guarded<T>(&self, f: impl FnOnce(&mut Core) -> T) -> Option<T> {
        let mut core = self.core.borrow_mut();
        match catch_unwind(AssertUnwindSafe(|| f(&mut core))) {
            Ok(value) => Some(value),
            Err(_) => {
                tracing::error!(peer = %self.peer, generation = self.generation, "a fault ended this connection");
                core.engine = None;
                core.events.push(LinkEvent::Ended(Reason::Internal));
                self.wake.notify_one();
                None
            }
        }
    }

    fn engine<T>(&self, f: impl FnOnce(&mut Engine, &[Local]) -> Result<T, EngineError>) -> Result<T, EngineError> {
        let done = self.guarded(|core| {
            let locals: Vec<Local> = core.ports.iter().map(|p| Local::Host(p.local())).collect();
            core.engine.as_mut().ok_or(EngineError::NotOpen).and_then(|engine| f(engine, &locals))
        });
        self.wake.notify_one();
        done.unwrap_or(Err(EngineError::NotOpen))
    }

    /// Describes us in an offer.
    pub(crate) fn offer(&self, restart: bool) -> Result<String, EngineError> {
        self.engine(|engine, locals| engine.offer(Instant::now(), locals, restart))
    }

    /// Takes an offer and describes us in an answer.
    pub(crate) fn accept_offer(&self, sdp: &str) -> Result<String, EngineError> {
        self.engine(|engine, locals| engine.accept_offer(Instant::now(), sdp, locals))
    }

    /// Takes the answer.
    pub(crate) fn accept_answer(&self, sdp: &str) -> Result<(), EngineError> {
        self.engine(|engine, _| engine.accept_answer(Instant::now(), sdp))
    }

    /// Takes a candidate.
    pub(crate) fn add_remote(&self, candidate: &str) -> Result<(), EngineError> {
        self.engine(|engine, _| engine.add_remote(candidate))
    }

    /// Lets messages flow to the agent, which has been told of this connection.
    pub(crate) fn start_reading(&self) {
        self.announced.set(true);
        self.guarded(|core| core.reading = true);
        self.wake.notify_one();
    }

    /// Sends a body, or queues it. Call [`Link::flush`] after the last of a batch.
    pub(crate) fn send(&self, asker: Option<Asker>, body: &Bytes, wait: bool) -> Sent {
        self.guarded(|core| core.send(asker, body, wait)).unwrap_or_else(|| Sent::Refused(unreachable(&self.peer)))
    }

    /// Puts what is ready on the wire.
    pub(crate) fn flush(&self) {
        let deadline = self.guarded(|core| {
            core.write();
            core.deadline()
        });
        // The task sleeps until its old deadline; only an earlier one is news to it.
        if deadline.flatten().is_some_and(|at| at < self.armed.get()) {
            self.wake.notify_one();
        }
    }

    /// Waits until the queue is empty or the connection ended.
    pub(crate) async fn room(&self) {
        let blocked = || self.guarded(|core| core.engine.is_some() && !core.queue.is_empty()).unwrap_or(false);
        while blocked() {
            self.room.notified().await;
        }
    }

    /// Runs the task again, because the agent has room.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Hands what was not given to SCTP yet to the connection that takes over.
    pub(crate) fn hand_over(&self, to: &Link) {
        let (mut queue, bytes) = {
            let mut core = self.core.borrow_mut();
            (std::mem::take(&mut core.queue), std::mem::take(&mut core.queued_bytes))
        };
        self.room.notify_one();
        let mut core = to.core.borrow_mut();
        core.queue.append(&mut queue);
        core.queued_bytes += bytes;
        drop(core);
        to.wake.notify_one();
    }

    /// Ends this connection after what is under way each way has been handed out.
    pub(crate) fn retire(&self) {
        self.guarded(|core| core.retiring = Some(Instant::now()));
        self.wake.notify_one();
    }

    /// Tells the peer, refuses what waits, lets the sockets go. The task ends by itself.
    pub(crate) fn close(&self) {
        self.guarded(|core| {
            if let Some(mut engine) = core.engine.take() {
                engine.close();
                write_all(&mut engine, &mut core.ports);
            }
        });
        let waiting: Vec<Waiting> = self.core.borrow_mut().queue.drain(..).collect();
        for asker in waiting.into_iter().filter_map(|w| w.asker) {
            self.outbox.error(&asker, &unreachable(&self.peer));
        }
        self.room.notify_one();
        self.wake.notify_one();
    }

    /// Gives the time of the last message either way.
    pub(crate) fn used_at(&self) -> Instant {
        self.core.borrow().used_at
    }

    /// Gives the numbers.
    pub(crate) fn counters(&self) -> Counters {
        self.core.borrow().counters
    }

    /// Gives the path in use and its round trip time in milliseconds.
    pub(crate) fn path(&self) -> (Option<Path>, Option<f64>) {
        self.guarded(|core| core.engine.as_mut().map(|e| e.path(Instant::now()))).flatten().unwrap_or_default()
    }

    /// Gives the peer's fingerprint and the bytes of one message it takes, as its description said.
    pub(crate) fn remote(&self) -> (Option<String>, usize) {
        let core = self.core.borrow();
        match core.engine.as_ref().and_then(Engine::remote) {
            Some(remote) => (Some(remote.fingerprint.clone()), remote.max_message_bytes),
            None => (None, MAX_MESSAGE_BYTES),
        }
    }

    /// The task: turns until the connection is closed. `on_event` is called between turns, never within one.
    pub(crate) async fn run(self: Rc<Self>, on_event: impl Fn(&Rc<Link>, LinkEvent), on_room: impl Fn()) {
        let mut sleep = std::pin::pin!(tokio::time::sleep(FAR));
        loop {
            let again = self.guarded(|core| core.turn(&self.peer, &self.outbox, &self.room)).unwrap_or(false);
            let events = std::mem::take(&mut self.core.borrow_mut().events);
            let again = again || !events.is_empty();
            for event in events {
                on_event(&self, event);
            }
            if self.outbox.flush() {
                on_room();
            }
            let deadline = {
                let mut core = self.core.borrow_mut();
                if core.engine.is_none() && core.events.is_empty() {
                    return;
                }
                core.deadline()
            };
            if again {
                tokio::task::yield_now().await;
                continue;
            }
            let now = Instant::now();
            // A floor, so that a deadline that stays in the past (it would be a bug) is no busy loop.
            let at = deadline.unwrap_or(now + FAR).max(now + Duration::from_micros(200));
            if at < self.armed.get() || self.armed.get() <= now {
                self.armed.set(at);
                sleep.as_mut().reset(at.into());
            }
            let mut woken = std::pin::pin!(self.wake.notified());
            poll_fn(|cx| {
                let ports = self.core.borrow().ports.iter().any(|port| port.poll_readable(cx).is_ready());
                match ports || woken.as_mut().poll(cx).is_ready() || sleep.as_mut().poll(cx).is_ready() {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }
            })
            .await;
        }
    }
}

impl Core {
    fn send(&mut self, asker: Option<Asker>, body: &Bytes, wait: bool) -> Sent {
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

    /// One round. True when there is more to do at once.
    fn turn(&mut self, peer: &PeerId, outbox: &Outbox, room: &Notify) -> bool {
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
        self.pump(outbox, room);
        self.watch(now, drained);
        self.ask_stun(now);
        self.write();
        again
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

    fn write(&mut self) {
        if let Some(engine) = &mut self.engine {
            write_all(engine, &mut self.ports);
        }
    }

    fn deadline(&mut self) -> Option<Instant> {
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

fn write_all(engine: &mut Engine, ports: &mut [Port]) {
    while let Some((local, to, packet)) = engine.poll_datagram() {
        if let Some(port) = ports.iter_mut().find(|p| p.local() == local) {
            port.send(to, &packet);
        }
    }
    ports.iter_mut().for_each(Port::flush);
}

fn unreachable(peer: &PeerId) -> Failure {
    Failure::new(Code::PeerUnreachable, format!("no open channel to {peer}"))
}
