//! Who offers, who answers, which connection counts, when to give one up: a machine per peer, without I/O and without a clock.
//!
//! * glare: when both offer at once, the offer of the lower id stands; the other side drops its own and answers
//! * a connection has a name (made up by the offerer) and a generation (counted here); news of an old one is ignored
//! * an offer beside an open connection replaces it once the new channel opens
//! * silence: waited out for a while, then an ICE restart by the offerer, then the connection is given up and a new one dialled
//!   (an SCTP association that was cut off for long never recovers, so hoping would be silence)
//! * dialling again: after a jittered wait, and only a peer that is wanted and may be online

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::wire::ConnectionId;
use crate::wire::limits::{HANDSHAKE_TIMEOUT, MAX_CANDIDATES};

mod news;
pub use news::{Generation, Input, Output, Reason, Role};

/// After ICE called the path silent (4 s), wait this long, then ask for an ICE restart.
const RESTART_AFTER: Duration = Duration::from_millis(1500);
/// After ICE called the path silent, give the connection up. With the 4 s before it, a dead peer is noticed within 9 s.
const GIVE_UP_AFTER: Duration = Duration::from_secs(5);
/// The answerer of a lost connection lets the offerer dial first.
const ANSWERER_PATIENCE: Duration = Duration::from_secs(3);
/// Failed dials in a row after which a peer is left alone until there is news of it. Old registries never say who left.
const MAX_FAILURES: u32 = 8;

#[derive(Clone, Debug)]
struct Slot {
    generation: Generation,
    connection: Option<ConnectionId>,
    role: Role,
    protocol: u32,
    answered: bool,
    deadline: Instant,
    silent_since: Option<Instant>,
    restarted: bool,
}

/// The machine of one peer.
#[derive(Debug)]
pub struct Negotiation {
    /// Our id is the lower one of the two.
    lower: bool,
    last_generation: Generation,
    open: Option<Slot>,
    pending: Option<Slot>,
    /// Candidates of a connection we have not heard of yet; the oldest goes when there are more than `MAX_CANDIDATES`.
    early: VecDeque<(ConnectionId, String)>,
    wanted: bool,
    online: bool,
    /// The registry said so, and has not taken it back.
    left: bool,
    failures: u32,
    backoff: Backoff,
    retry_at: Option<Instant>,
    opened_at: Option<Instant>,
}

/// The source of randomness: names of connections and jitter.
pub type Random<'a> = &'a mut dyn FnMut() -> u64;

impl Negotiation {
    /// Makes the machine; `lower` says whether our id is the lower one, which settles glare. Counts on from `last_generation`.
    pub fn new(lower: bool, last_generation: Generation) -> Self {
        Self {
            lower,
            last_generation,
            open: None,
            pending: None,
            early: VecDeque::new(),
            wanted: false,
            online: false,
            left: false,
            failures: 0,
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(30), Duration::from_secs(60)),
            retry_at: None,
            opened_at: None,
        }
    }

    /// Takes one piece of news and says what to do.
    pub fn handle(&mut self, now: Instant, input: Input, random: Random<'_>) -> Vec<Output> {
        let mut out = Vec::new();
        match input {
            Input::Dial { now: urgent } => {
                self.wanted = true;
                if self.pending.is_none() && self.open.is_none() && (urgent || self.retry_at.is_none()) {
                    self.offer(now, random, &mut out);
                }
            }
            Input::Offer { connection, sdp, protocol, restart } => {
                self.online = true;
                self.left = false;
                self.take_offer(now, connection, sdp, protocol, restart, &mut out);
            }
            Input::Answer { connection, sdp, protocol } => self.take_answer(connection, sdp, protocol, &mut out),
            Input::Candidate { connection, candidate } => self.take_candidate(connection, candidate, &mut out),
            Input::Opened(generation) => self.opened(now, generation, &mut out),
            Input::Silent(generation) => {
                if let Some(slot) = self.slot(generation) {
                    slot.silent_since.get_or_insert(now);
                }
            }
            Input::Heard(generation) => {
                if let Some(slot) = self.slot(generation) {
                    slot.silent_since = None;
                    slot.restarted = false;
                }
            }
            Input::Ended(generation, reason) => self.ended(now, generation, reason, random, &mut out),
            Input::Leave(reason) => {
                self.wanted = false;
                self.retry_at = None;
                if let Some(slot) = self.pending.take() {
                    abandon(slot.generation, reason, &mut out);
                }
                if let Some(slot) = self.open.take() {
                    out.push(Output::Down { generation: slot.generation, reason });
                }
            }
            Input::Joined => {
                self.online = true;
                self.left = false;
                self.failures = 0;
            }
            Input::Left => {
                // An open channel lives on: the registry may be the one that lost touch.
                self.online = false;
                self.left = true;
                self.retry_at = None;
                if let Some(slot) = self.pending.take_if(|s| s.role == Role::Offerer && !s.answered) {
                    abandon(slot.generation, Reason::Offline, &mut out);
                }
            }
        }
        out
    }

    /// How long a silent path is waited for; a peer that the registry misses too is not.
    fn patience(&self) -> Duration {
        if self.left { Duration::ZERO } else { GIVE_UP_AFTER }
    }

    /// Puts off a dial that is due.
    pub fn postpone(&mut self, until: Instant) {
        self.retry_at = self.retry_at.map(|at| at.max(until));
    }

    /// Does what is due by now.
    pub fn tick(&mut self, now: Instant, random: Random<'_>) -> Vec<Output> {
        let mut out = Vec::new();
        if self.pending.as_ref().is_some_and(|s| s.deadline <= now)
            && let Some(generation) = self.pending.as_ref().map(|s| s.generation)
        {
            self.ended(now, generation, Reason::Timeout, random, &mut out);
        }
        let patience = self.patience();
        if let Some(slot) = &mut self.open
            && let Some(since) = slot.silent_since
        {
            if now >= since + patience {
                let generation = slot.generation;
                self.ended(now, generation, Reason::Timeout, random, &mut out);
            } else if now >= since + RESTART_AFTER && !slot.restarted {
                slot.restarted = true;
                // An old peer would take it for a new connection; without an answer the give-up comes as planned.
                if slot.role == Role::Offerer && slot.protocol > 0 {
                    out.push(Output::Restart { generation: slot.generation, connection: slot.connection });
                }
            }
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            if self.pending.is_none() && self.open.is_none() && self.wanted {
                self.offer(now, random, &mut out);
            }
        }
        out
    }

    /// Gives the time of the next [`Negotiation::tick`].
    pub fn deadline(&self) -> Option<Instant> {
        let silent = self.open.as_ref().and_then(|s| {
            let wait = if s.restarted { self.patience() } else { self.patience().min(RESTART_AFTER) };
            s.silent_since.map(|since| since + wait)
        });
        [self.pending.as_ref().map(|s| s.deadline), silent, self.retry_at].into_iter().flatten().min()
    }

    /// Gives the generation that counts: the open one, or else the one being made.
    pub fn current(&self) -> Option<Generation> {
        self.open.as_ref().or(self.pending.as_ref()).map(|s| s.generation)
    }

    /// Gives the generation of the newest connection.
    pub fn last_generation(&self) -> Generation {
        self.last_generation
    }

    /// Says whether the path of the open connection is silent.
    pub fn is_silent(&self) -> bool {
        self.open.as_ref().is_some_and(|s| s.silent_since.is_some())
    }

    /// Says whether a connection is being made.
    pub fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Says whether somebody waits for nothing: no connection, none being made, none planned.
    pub fn is_idle(&self) -> bool {
        self.open.is_none() && self.pending.is_none() && self.retry_at.is_none()
    }

    fn slot(&mut self, generation: Generation) -> Option<&mut Slot> {
        [self.open.as_mut(), self.pending.as_mut()].into_iter().flatten().find(|s| s.generation == generation)
    }

    fn new_slot(&mut self, now: Instant, role: Role, connection: Option<ConnectionId>, protocol: u32) -> Generation {
        self.last_generation += 1;
        let generation = self.last_generation;
        let answered = role == Role::Answerer;
        let deadline = now + HANDSHAKE_TIMEOUT;
        let slot =
            Slot { generation, connection, role, protocol, answered, deadline, silent_since: None, restarted: false };
        self.pending = Some(slot);
        self.retry_at = None;
        generation
    }

    fn offer(&mut self, now: Instant, random: Random<'_>, out: &mut Vec<Output>) {
        let connection = ConnectionId::new(random());
        let generation = self.new_slot(now, Role::Offerer, Some(connection), 0);
        out.push(Output::Offer { generation, connection });
    }

    fn take_offer(
        &mut self,
        now: Instant,
        connection: Option<ConnectionId>,
        sdp: String,
        protocol: u32,
        restart: bool,
        out: &mut Vec<Output>,
    ) {
        if restart {
            // Of a connection we do not have: the peer will give it up and dial anew.
            if let Some(slot) = self.open.as_ref().filter(|s| s.connection == connection && s.role == Role::Answerer) {
                out.push(Output::AcceptRestart { generation: slot.generation, connection, sdp });
            }
            return;
        }
        let known =
            |slot: &Option<Slot>| connection.is_some() && slot.as_ref().is_some_and(|s| s.connection == connection);
        if known(&self.open) || known(&self.pending) {
            return; // said twice
        }
        if let Some(slot) = &self.pending {
            if slot.role == Role::Offerer && !slot.answered && self.lower {
                return; // glare: ours stands, the peer is about to answer it
            }
            let generation = slot.generation;
            self.pending = None;
            out.push(Output::Abandon { generation, reason: Reason::Replaced });
        }
        let generation = self.new_slot(now, Role::Answerer, connection, protocol);
        out.push(Output::Accept { generation, connection, sdp, protocol });
        let early = std::mem::take(&mut self.early);
        for (of, candidate) in early {
            match connection == Some(of) {
                true => out.push(Output::TakeCandidate { generation, candidate }),
                false => self.early.push_back((of, candidate)),
            }
        }
    }

    fn take_answer(&mut self, connection: Option<ConnectionId>, sdp: String, protocol: u32, out: &mut Vec<Output>) {
        let of =
            |slot: &&mut Slot| slot.role == Role::Offerer && (connection.is_none() || slot.connection == connection);
        // An answer to a restart comes for the open one.
        let Some(slot) = self.pending.as_mut().filter(of).or(self.open.as_mut().filter(of)) else { return };
        if slot.answered && !slot.restarted {
            return; // said twice
        }
        slot.answered = true;
        slot.protocol = protocol;
        out.push(Output::TakeAnswer { generation: slot.generation, sdp, protocol });
    }

    fn take_candidate(&mut self, connection: Option<ConnectionId>, candidate: String, out: &mut Vec<Output>) {
        let of = |slot: &&Slot| connection.is_none() || slot.connection == connection;
        if let Some(slot) = self.pending.as_ref().filter(of).or(self.open.as_ref().filter(of)) {
            out.push(Output::TakeCandidate { generation: slot.generation, candidate });
        } else if let Some(connection) = connection {
            if self.early.len() >= MAX_CANDIDATES {
                self.early.pop_front();
            }
            self.early.push_back((connection, candidate));
        }
    }

    fn opened(&mut self, now: Instant, generation: Generation, out: &mut Vec<Output>) {
        if self.pending.as_ref().is_none_or(|s| s.generation != generation) {
            return;
        }
        let replaces = self.open.take().map(|s| s.generation);
        self.open = self.pending.take();
        self.opened_at = Some(now);
        self.wanted = true;
        self.failures = 0;
        out.push(Output::Up { generation, replaces });
    }

    fn ended(
        &mut self,
        now: Instant,
        generation: Generation,
        reason: Reason,
        random: Random<'_>,
        out: &mut Vec<Output>,
    ) {
        let mut patience = Duration::ZERO;
        if self.pending.as_ref().is_some_and(|s| s.generation == generation) {
            self.pending = None;
            self.failures = self.failures.saturating_add(1);
            abandon(generation, reason, out);
        } else if let Some(slot) = self.open.take_if(|s| s.generation == generation) {
            self.backoff.lived(self.opened_at.take().map_or(Duration::ZERO, |at| now.saturating_duration_since(at)));
            if slot.role == Role::Answerer {
                patience = ANSWERER_PATIENCE;
            }
            out.push(Output::Down { generation, reason });
        } else {
            return; // an older generation: nobody cares any more
        }
        // Who closed comes back by itself; whom we may never reach is left alone.
        self.wanted &= reason != Reason::Closed;
        let again = self.wanted && self.online && self.failures < MAX_FAILURES;
        if again && self.pending.is_none() && self.open.is_none() {
            let chance = random() as f64 / u64::MAX as f64;
            self.retry_at = Some(now + self.backoff.next(chance) + patience);
        }
    }
}

fn abandon(generation: Generation, reason: Reason, out: &mut Vec<Output>) {
    out.push(Output::Abandon { generation, reason });
    out.push(Output::DialFailed(reason));
}

#[cfg(test)]
mod tests;
