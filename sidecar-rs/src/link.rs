//! One connection and its sockets: the task around an [`Engine`], and what others may ask of it in between.
//!
//! * one task and one set of sockets per connection: two connections between the same sockets could not be told apart
//! * a turn: datagrams in, events, messages while the agent has room, waiting sends, datagrams out, the agent's buffer
//! * a send goes to the engine and the wire in the call that asks for it; only what SCTP has no room for waits in a queue
//! * every entry catches panics: a fault ends this connection with reason `internal`, and no other

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;

use self::core::{Core, Turn, Waiting, unreachable, write_all};
pub(crate) use self::core::{Counters, Sent};
use crate::connection::{Engine, EngineError, Identity, Local};
use crate::negotiation::{Generation, Reason, Role};
use crate::outbox::{Asker, Outbox};
use crate::wire::ipc::answer::Path;
use crate::wire::limits::MAX_MESSAGE_BYTES;
use crate::wire::{ConnectionId, PeerId};

mod core;

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
        let core = Core::new(now, engine, setup);
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

    /// Ends this connection after the peer acknowledged what it was sent; what it still sends is not wanted.
    pub(crate) fn leave(&self) {
        self.guarded(|core| core.leaving = true);
        self.retire();
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
            let Turn { again, regained } =
                self.guarded(|core| core.turn(&self.peer, &self.outbox, &self.room)).unwrap_or_default();
            let events = std::mem::take(&mut self.core.borrow_mut().events);
            let again = again || !events.is_empty();
            for event in events {
                on_event(&self, event);
            }
            if self.outbox.flush() || regained {
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
