//! What waits for the agent: one buffer of whole lines, written to the socket as far as it takes them.
//!
//! * connections write their messages into it directly and [`Outbox::flush`] once per turn: no task in between
//! * past [`ROOM_BYTES`] there is no room: connections stop reading, SCTP's windows close, the far senders wait
//! * answers and presence are added all the same; past [`MAX_BYTES`] of them the client is let go, for it has not read for long

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use tokio::sync::Notify;

use crate::error::Failure;
use crate::wire::ipc::{answer, event};
use crate::wire::{PeerId, RequestId};

/// Bytes past which no message of a peer is added. Half a megabyte beside the socket's own buffer keeps a fast agent busy.
const ROOM_BYTES: usize = 512 << 10;
/// Bytes past which the client is let go.
const MAX_BYTES: usize = 4 << 20;
/// Bytes of memory kept when the buffer is empty.
const KEPT_BYTES: usize = 1 << 20;

/// The agent's end of the socket.
pub(crate) trait Sink {
    /// Writes what fits now. `WouldBlock` when nothing does.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;
}

/// Names one client among those that come after each other, so that late answers do not reach the next one.
pub(crate) type ClientId = u64;

/// Whom a command's answer is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asker {
    pub(crate) client: ClientId,
    pub(crate) id: Option<RequestId>,
}

#[derive(Default)]
pub(crate) struct Outbox {
    buffer: RefCell<Buffer>,
    client: Cell<ClientId>,
    greeted: Cell<bool>,
    /// Messages may be added: the client had its chance to say hello first.
    listening: Cell<bool>,
    /// Woken when bytes wait for the socket to take them.
    pub(crate) blocked: Notify,
    /// Woken when the client must go.
    pub(crate) broken: Notify,
}

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    written: usize,
    sink: Option<Rc<dyn Sink>>,
}

impl Buffer {
    fn waiting(&self) -> usize {
        self.bytes.len() - self.written
    }
}

impl Outbox {
    /// Attaches a client; `None` when there is one already.
    pub(crate) fn attach(&self, sink: Rc<dyn Sink>) -> Option<ClientId> {
        let mut buffer = self.buffer.borrow_mut();
        if buffer.sink.is_some() {
            return None;
        }
        *buffer = Buffer { sink: Some(sink), ..Buffer::default() };
        self.greeted.set(false);
        self.listening.set(false);
        self.client.set(self.client.get() + 1);
        Some(self.client.get())
    }

    /// Forgets the client and what it did not read.
    pub(crate) fn detach(&self) {
        *self.buffer.borrow_mut() = Buffer::default();
    }

    /// Says whether messages of peers may be added. Without a client they wait in the peers' associations.
    pub(crate) fn has_room(&self) -> bool {
        let buffer = self.buffer.borrow();
        self.listening.get() && buffer.sink.is_some() && buffer.waiting() < ROOM_BYTES
    }

    /// Lets messages through from now on. False when they were already.
    pub(crate) fn listen(&self) -> bool {
        !self.listening.replace(true)
    }

    /// Says whether the client reads as fast as it asks; if not, its commands have to wait.
    pub(crate) fn keeps_up(&self) -> bool {
        self.buffer.borrow().waiting() < 2 * ROOM_BYTES
    }

    /// Says whether all was written.
    pub(crate) fn is_empty(&self) -> bool {
        self.buffer.borrow().waiting() == 0
    }

    /// Takes note that this client said hello and wants the lines of protocol 1.
    pub(crate) fn greet(&self) {
        self.greeted.set(true);
    }

    /// Says whether the client said hello.
    pub(crate) fn is_greeted(&self) -> bool {
        self.greeted.get()
    }

    /// Adds a message of a peer, already checked. Ask [`Outbox::has_room`] first.
    pub(crate) fn message(&self, from: &PeerId, body: &[u8]) {
        let mut buffer = self.buffer.borrow_mut();
        if buffer.sink.is_some() {
            event::message(&mut buffer.bytes, from, body);
        }
    }

    /// Adds a line by one of the functions of [`event`] or [`answer`].
    pub(crate) fn line(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut buffer = self.buffer.borrow_mut();
        if buffer.sink.is_none() {
            return;
        }
        write(&mut buffer.bytes);
        if buffer.waiting() > MAX_BYTES {
            self.broken.notify_one();
        }
    }

    /// Adds the answer to a command, unless its client has gone. A command without an id gets no `ok`.
    pub(crate) fn ok(&self, asker: &Asker) {
        if asker.client == self.client.get()
            && let Some(id) = &asker.id
        {
            self.line(|out| answer::ok(out, id));
        }
    }

    /// Adds the refusal of a command, unless its client has gone.
    pub(crate) fn error(&self, asker: &Asker, failure: &Failure) {
        if asker.client == self.client.get() {
            self.line(|out| answer::error(out, asker.id.as_ref(), failure));
        }
    }

    /// Writes what the socket takes. True when there is room now and was none before.
    pub(crate) fn flush(&self) -> bool {
        let mut buffer = self.buffer.borrow_mut();
        let had_room = buffer.waiting() < ROOM_BYTES;
        let Some(sink) = buffer.sink.clone() else { return false };
        while buffer.waiting() > 0 {
            match sink.try_write(&buffer.bytes[buffer.written..]) {
                Ok(written) if written > 0 => buffer.written += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked.notify_one();
                    break;
                }
                // Nobody reads any more; the reader of the same socket notices and detaches.
                _ => {
                    self.broken.notify_one();
                    break;
                }
            }
        }
        buffer.compact();
        !had_room && buffer.waiting() < ROOM_BYTES
    }
}

impl Buffer {
    fn compact(&mut self) {
        if self.waiting() == 0 {
            self.bytes.clear();
            self.written = 0;
            if self.bytes.capacity() > KEPT_BYTES {
                self.bytes = Vec::new();
            }
        } else if self.written > ROOM_BYTES {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Slow {
        room: Cell<usize>,
        got: RefCell<Vec<u8>>,
    }

    impl Sink for Slow {
        fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
            let n = bytes.len().min(self.room.get());
            if n == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.room.set(self.room.get() - n);
            self.got.borrow_mut().extend_from_slice(&bytes[..n]);
            Ok(n)
        }
    }

    #[test]
    fn a_slow_client_costs_a_bounded_buffer_and_loses_nothing() {
        let (outbox, sink, peer) = (Outbox::default(), Rc::new(Slow::default()), "a".parse().unwrap());
        assert!(!outbox.has_room(), "nobody is there");
        let first = outbox.attach(sink.clone()).unwrap();
        assert!(outbox.attach(sink.clone()).is_none(), "one at a time");
        assert!(!outbox.has_room(), "it may want to say hello");
        assert!(outbox.listen() && !outbox.listen());
        let mut added = 0;
        while outbox.has_room() {
            outbox.message(&peer, format!("{{\"n\":{added}}}").as_bytes());
            outbox.flush();
            added += 1;
        }
        assert!(outbox.buffer.borrow().waiting() < ROOM_BYTES + 1000);
        let mut regained = 0;
        while !outbox.is_empty() {
            sink.room.set(10_000);
            regained += u32::from(outbox.flush());
        }
        assert_eq!(regained, 1);
        let got = String::from_utf8(sink.got.borrow().clone()).unwrap();
        for (n, line) in got.lines().enumerate() {
            assert_eq!(line, format!(r#"{{"type":"message","payload":{{"from_peer":"a","message":{{"n":{n}}}}}}}"#));
        }
        assert_eq!(got.lines().count(), added);
        outbox.detach();
        assert_eq!(outbox.attach(sink), Some(first + 1));
    }

    #[test]
    fn a_late_answer_does_not_reach_the_next_client() {
        let (outbox, sink) = (Outbox::default(), Rc::new(Slow::default()));
        sink.room.set(1000);
        let client = outbox.attach(sink.clone()).unwrap();
        outbox.detach();
        outbox.attach(sink.clone());
        outbox.ok(&Asker { client, id: Some(1.into()) });
        outbox.flush();
        assert!(sink.got.borrow().is_empty());
    }
}
