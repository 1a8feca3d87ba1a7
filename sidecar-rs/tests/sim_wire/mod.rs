//! The simulated wire of `sim.rs`: two engines, a queue of datagrams with arrival times, a seeded random source.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use chatixia_sidecar::connection::{Engine, EngineEvent, Identity, Local};

/// What the wire does to datagrams.
#[derive(Clone, Copy, Default)]
pub(crate) struct Wire {
    pub(crate) delay: Duration,
    pub(crate) loss_per_mille: u32,
    pub(crate) late_per_mille: u32,
    pub(crate) dead: bool,
}

/// One end.
pub(crate) struct End {
    pub(crate) engine: Engine,
    pub(crate) address: SocketAddr,
    pub(crate) received: Vec<Vec<u8>>,
    pub(crate) reading: bool,
    pub(crate) open: bool,
    pub(crate) closed: bool,
    pub(crate) disconnected: bool,
    now: Instant,
}

impl End {
    fn new(now: Instant, address: &str) -> Self {
        let identity = Identity::generate().expect("an identity");
        let engine = Engine::new(now, &identity, false).expect("an engine");
        let address = address.parse().expect("an address");
        Self { engine, address, received: vec![], reading: true, open: false, closed: false, disconnected: false, now }
    }

    pub(crate) fn send(&mut self, text: &str) {
        self.engine.send(self.now, text).expect("open");
    }

    fn turn(&mut self, now: Instant) {
        self.now = now;
        loop {
            while let Some(event) = self.engine.poll_event() {
                match event {
                    EngineEvent::Open => self.open = true,
                    EngineEvent::Closed => self.closed = true,
                    EngineEvent::Connected => self.disconnected = false,
                    EngineEvent::Disconnected => self.disconnected = true,
                    _ => {}
                }
            }
            while self.reading
                && let Some(message) = self.engine.poll_message()
            {
                self.received.push(message.to_vec());
            }
            match self.engine.deadline() {
                Some(at) if at <= now => self.engine.handle_timeout(now),
                _ => break,
            }
        }
    }
}

/// Whether A sent it, from, to, and what.
type Datagram = (bool, SocketAddr, SocketAddr, Vec<u8>);

pub(crate) struct Sim {
    pub(crate) now: Instant,
    pub(crate) wire: Wire,
    pub(crate) a: End,
    pub(crate) b: End,
    /// By arrival time, and in the order of sending.
    queue: BTreeMap<(Instant, u64), Datagram>,
    serial: u64,
    random: u64,
}

impl Sim {
    pub(crate) fn new(wire: Wire) -> Self {
        let now = Instant::now();
        let (a, b) = (End::new(now, "192.0.2.1:1000"), End::new(now, "192.0.2.2:2000"));
        Self { now, wire, a, b, queue: BTreeMap::new(), serial: 0, random: 0x9E37_79B9_7F4A_7C15 }
    }

    pub(crate) fn connect(&mut self) {
        self.negotiate(false);
        self.run_until(Duration::from_secs(20), |s| s.a.open && s.b.open);
    }

    pub(crate) fn restart(&mut self) {
        self.negotiate(true);
    }

    fn negotiate(&mut self, restart: bool) {
        let offer = self.a.engine.offer(self.now, &[Local::Host(self.a.address)], restart).expect("an offer");
        let answer = self.b.engine.accept_offer(self.now, &offer, &[Local::Host(self.b.address)]).expect("an answer");
        self.a.engine.accept_answer(self.now, &answer).expect("taken");
        if !restart {
            assert!(offer.contains("192.0.2.1 1000"), "no candidate in the offer: {offer}");
        }
    }

    /// Gives B a datagram that seems to come from A.
    pub(crate) fn inject(&mut self, datagram: &[u8]) {
        self.b.engine.handle_datagram(self.now, self.b.address, self.a.address, datagram);
        self.b.turn(self.now);
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
    }

    pub(crate) fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) {
        let end = self.now + limit;
        while self.step(end) {
            if done(self) {
                return;
            }
        }
        let (a, b) = (&self.a, &self.b);
        panic!(
            "not done after {limit:?}: open {} {}, received {} {}",
            a.open,
            b.open,
            a.received.len(),
            b.received.len()
        );
    }

    fn chance(&mut self, per_mille: u32) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % 1000) < u64::from(per_mille)
    }

    fn step(&mut self, end: Instant) -> bool {
        self.a.turn(self.now);
        self.b.turn(self.now);
        for from_a in [true, false] {
            let mut out = Vec::new();
            let engine = if from_a { &mut self.a.engine } else { &mut self.b.engine };
            while let Some((local, to, bytes)) = engine.poll_datagram() {
                out.push((local, to, bytes.to_vec()));
            }
            for (local, to, bytes) in out {
                if self.wire.dead || self.chance(self.wire.loss_per_mille) {
                    continue;
                }
                let late = if self.chance(self.wire.late_per_mille) { self.wire.delay } else { Duration::ZERO };
                self.serial += 1;
                self.queue.insert((self.now + self.wire.delay + late, self.serial), (from_a, local, to, bytes));
            }
        }
        let arrival = self.queue.keys().next().map(|(at, _)| *at);
        let deadlines = [arrival, self.a.engine.deadline(), self.b.engine.deadline()];
        let next = deadlines.into_iter().flatten().min().unwrap_or(end).max(self.now + Duration::from_micros(100));
        if next > end {
            self.now = end;
            return false;
        }
        self.now = next;
        while let Some((&(at, serial), _)) = self.queue.iter().next() {
            if at > self.now {
                break;
            }
            if let Some((from_a, from, to, bytes)) = self.queue.remove(&(at, serial)) {
                let end = if from_a { &mut self.b } else { &mut self.a };
                end.engine.handle_datagram(self.now, to, from, &bytes);
            }
        }
        true
    }
}
