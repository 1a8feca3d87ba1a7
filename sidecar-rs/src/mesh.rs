//! The manager: peers and their connections. Commands and signals go in, events come out; nothing in here waits.
//!
//! * [`Mesh::add_peer`], [`Mesh::remove_peer`], [`Mesh::set_channel`], [`Mesh::send_to`], [`Mesh::broadcast`], [`Mesh::connected_peers`]
//! * what to do is said by each peer's [`Negotiation`]; here it is done to its [`Link`]s
//! * links call back between their turns, so one borrow of the state never meets another

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};

use crate::config::{Config, Dial};
use crate::connection::Identity;
use crate::error::{Code, Failure};
use crate::gather;
use crate::link::{Link, LinkEvent, Sent, Setup};
use crate::negotiation::{Generation, Input, Negotiation, Output, Reason, Role};
use crate::outbox::{Asker, Outbox};
use crate::signaling::State as SignalingState;
use crate::wire::ipc::event;
use crate::wire::limits::{MAX_PEERS, MAX_PENDING_HANDSHAKES, PROTOCOL};
use crate::wire::signaling::{Incoming, Outgoing, Present, Signal};
use crate::wire::{ConnectionId, PeerId};

mod picture;
mod registry;
mod steps;

/// Commands that may wait for one dial; more are answered `busy`.
const MAX_WAITERS: usize = 64;
/// Time between two reports of our links to the registry, at least.
const TOPOLOGY_PAUSE: Duration = Duration::from_millis(500);
/// The list of network interfaces is asked for again after this long.
const ADDRESSES_LIFE: Duration = Duration::from_secs(2);
/// Wait of a dial that finds `MAX_PENDING_HANDSHAKES` under way.
const CROWDED: Duration = Duration::from_millis(500);

/// The manager.
pub(crate) struct Mesh {
    state: RefCell<State>,
    pub(crate) outbox: Rc<Outbox>,
    /// Woken when the next deadline may have come nearer.
    changed: Notify,
    me: std::rc::Weak<Mesh>,
}

struct State {
    config: Config,
    identity: Identity,
    started: Instant,
    me: Option<PeerId>,
    signaling: SignalingState,
    online: BTreeMap<PeerId, Present>,
    /// The registry says who comes and goes.
    extended: bool,
    peers: HashMap<PeerId, Peer>,
    /// Peers to dial when fewer handshakes are under way; bounded by the list of peers.
    to_dial: VecDeque<PeerId>,
    outgoing: mpsc::Sender<Outgoing>,
    stun_servers: Vec<SocketAddr>,
    addresses: (Option<Instant>, Vec<IpAddr>),
    /// Highest generation of a peer that was forgotten: none is given out twice.
    last_generation: Generation,
    topology_due: Option<Instant>,
    /// Links with sends that are not on the wire yet.
    unflushed: Vec<Rc<Link>>,
    closing: bool,
}

struct Peer {
    negotiation: Negotiation,
    links: Vec<Rc<Link>>,
    /// The link that sends go to.
    open: Option<Rc<Link>>,
    /// The connection it replaces, until it has handed out everything; the new one is announced after it.
    retiring: Option<Generation>,
    waiters: Vec<Asker>,
}

impl Peer {
    fn link(&self, generation: Generation) -> Option<&Rc<Link>> {
        self.links.iter().find(|l| l.generation == generation)
    }
}

impl Mesh {
    /// Makes the manager of no peers. A full `outgoing` costs a handshake, which is tried again.
    pub(crate) fn new(config: Config, identity: Identity, outgoing: mpsc::Sender<Outgoing>) -> Rc<Self> {
        Rc::new_cyclic(|me| Self {
            state: RefCell::new(State {
                config,
                identity,
                started: Instant::now(),
                me: None,
                signaling: SignalingState::Connecting { reason: None },
                online: BTreeMap::new(),
                extended: false,
                peers: HashMap::new(),
                to_dial: VecDeque::new(),
                outgoing,
                stun_servers: Vec::new(),
                addresses: (None, Vec::new()),
                last_generation: 0,
                topology_due: None,
                unflushed: Vec::new(),
                closing: false,
            }),
            outbox: Rc::default(),
            changed: Notify::new(),
            me: me.clone(),
        })
    }

    // --- what the agent asks ---

    /// Sends a body to one peer. `wait`: the client is held back instead of refused when the peer is slow.
    pub(crate) fn send_to(&self, asker: &Asker, target: &PeerId, body: &Bytes) -> Result<Option<Rc<Link>>, Failure> {
        let state = &mut *self.state.borrow_mut();
        let Some(link) = state.peers.get(target).and_then(|p| p.open.as_ref()) else {
            if state.config.dial == Dial::OnDemand && state.may_exist(target) {
                self.dial(state, target, false);
            }
            return Err(Failure::new(Code::PeerUnreachable, format!("no open channel to {target}")));
        };
        let wait = asker.id.is_none();
        match link.send(Some(asker.clone()), body, wait) {
            Sent::Refused(failure) => return Err(failure),
            Sent::Now => self.outbox.ok(asker),
            Sent::Queued if wait => {
                let link = link.clone();
                state.note_unflushed(&link);
                return Ok(Some(link));
            }
            Sent::Queued => {}
        }
        let link = link.clone();
        state.note_unflushed(&link);
        Ok(None)
    }

    /// Sends a body to every peer with an open channel. Gives the ones that have it, the ones that have not, and the ones to wait for.
    #[allow(clippy::type_complexity)]
    pub(crate) fn broadcast(&self, wait: bool, body: &Bytes) -> (Vec<PeerId>, Vec<(PeerId, Code)>, Vec<Rc<Link>>) {
        let state = &mut *self.state.borrow_mut();
        let links: Vec<Rc<Link>> = state.peers.values().filter_map(|p| p.open.clone()).collect();
        let (mut sent, mut failed, mut slow) = (Vec::new(), Vec::new(), Vec::new());
        for link in links {
            match link.send(None, body, wait) {
                Sent::Refused(failure) => failed.push((link.peer.clone(), failure.code)),
                Sent::Now => sent.push(link.peer.clone()),
                Sent::Queued => {
                    sent.push(link.peer.clone());
                    slow.extend(wait.then(|| link.clone()));
                }
            }
            state.note_unflushed(&link);
        }
        sent.sort();
        (sent, failed, slow)
    }

    /// Puts on the wire what was sent since the last call: once per batch of lines.
    pub(crate) fn flush(&self) {
        let links = std::mem::take(&mut self.state.borrow_mut().unflushed);
        links.iter().for_each(|link| link.flush());
    }

    /// Lists the peers with an open channel.
    pub(crate) fn connected_peers(&self) -> Vec<PeerId> {
        let state = self.state.borrow();
        let mut ids: Vec<PeerId> =
            state.peers.iter().filter(|(_, p)| p.open.is_some()).map(|(id, _)| id.clone()).collect();
        ids.sort();
        ids
    }

    /// Dials a peer and answers when its channel is open or could not be made.
    pub(crate) fn connect(&self, asker: Asker, target: &PeerId) {
        let state = &mut *self.state.borrow_mut();
        if state.peers.get(target).is_some_and(|p| p.open.is_some()) {
            return self.outbox.ok(&asker);
        }
        let refusal = match state.me.as_ref() {
            None => Some("the registry does not know us yet".to_owned()),
            Some(me) if me == target => Some(format!("{target} is this very sidecar")),
            Some(_) if !state.may_exist(target) => Some(format!("{target} is not online")),
            Some(_) => None,
        };
        if let Some(message) = refusal {
            return self.outbox.error(&asker, &Failure::new(Code::PeerUnreachable, message));
        }
        self.dial(state, target, true);
        match state.peers.get_mut(target) {
            Some(peer) if peer.waiters.len() < MAX_WAITERS => peer.waiters.push(asker),
            _ => self.outbox.error(&asker, &Failure::new(Code::Busy, format!("too many wait for {target} already"))),
        }
    }

    /// Closes the channel to a peer, telling it. Nothing to close is fine.
    pub(crate) fn remove_peer(&self, target: &PeerId, reason: Reason) {
        let state = &mut *self.state.borrow_mut();
        state.to_dial.retain(|id| id != target);
        self.step(state, target, Input::Leave(reason));
    }

    /// Closes every channel, telling the peers; no new ones are made.
    pub(crate) fn close(&self) {
        let state = &mut *self.state.borrow_mut();
        state.closing = true;
        state.to_dial.clear();
        let ids: Vec<PeerId> = state.peers.keys().cloned().collect();
        for id in &ids {
            self.step(state, id, Input::Leave(Reason::Local));
        }
    }

    /// Says whether every connection is closed, and what it was given has been taken.
    pub(crate) fn is_closed(&self) -> bool {
        self.state.borrow().peers.values().all(|p| p.links.is_empty())
    }

    /// Closes what is not closed yet, now.
    pub(crate) fn abort(&self) {
        let links: Vec<Rc<Link>> = self.state.borrow_mut().peers.values_mut().flat_map(|p| p.links.drain(..)).collect();
        links.iter().for_each(|link| link.close());
    }

    /// Runs all links again, because the agent has room (or is there at all).
    pub(crate) fn wake_links(&self) {
        self.state.borrow().peers.values().flat_map(|p| &p.links).for_each(|link| link.wake());
    }

    // --- peers ---

    /// Gives the entry of a peer, made if need be; `None` when there are too many or we have no name yet.
    fn add_peer<'a>(&self, state: &'a mut State, id: &PeerId) -> Option<&'a mut Peer> {
        if !state.peers.contains_key(id) {
            let me = state.me.as_ref()?;
            if state.peers.len() >= MAX_PEERS {
                return None;
            }
            let mut negotiation = Negotiation::new(me < id, state.last_generation);
            if state.online.contains_key(id) {
                negotiation.handle(Instant::now(), Input::Joined, &mut rand::random);
            }
            let peer = Peer { negotiation, links: Vec::new(), open: None, retiring: None, waiters: Vec::new() };
            state.peers.insert(id.clone(), peer);
        }
        state.peers.get_mut(id)
    }

    fn dial(&self, state: &mut State, id: &PeerId, now: bool) {
        let crowded = state.pending() >= MAX_PENDING_HANDSHAKES;
        if state.closing || self.add_peer(state, id).is_none() {
            return;
        }
        if !crowded || now {
            self.step(state, id, Input::Dial { now });
        } else if !state.to_dial.contains(id) {
            state.to_dial.push_back(id.clone());
        }
    }

    /// Takes an event of a link; called by its task, between its turns.
    pub(crate) fn link_event(&self, link: &Rc<Link>, event: LinkEvent) {
        let state = &mut *self.state.borrow_mut();
        let (id, generation) = (&link.peer, link.generation);
        match event {
            LinkEvent::Opened => self.step(state, id, Input::Opened(generation)),
            LinkEvent::Silent => {
                tracing::info!(peer = %id, generation, "the path is silent");
                self.step(state, id, Input::Silent(generation));
                state.topology_due.get_or_insert(Instant::now() + TOPOLOGY_PAUSE);
            }
            LinkEvent::Heard => self.step(state, id, Input::Heard(generation)),
            LinkEvent::Ended(Reason::Internal) => {
                // The engine is gone, so whatever this link was, it is nothing now.
                self.step(state, id, Input::Ended(generation, Reason::Internal));
                self.retired(state, id, generation);
            }
            LinkEvent::Ended(reason) => self.step(state, id, Input::Ended(generation, reason)),
            LinkEvent::Retired => self.retired(state, id, generation),
            LinkEvent::Candidate(candidate) => state.signal_candidate(link, candidate),
            LinkEvent::EndOfCandidates if link.protocol.get() > 0 => state.signal_candidate(link, String::new()),
            LinkEvent::EndOfCandidates => {}
        }
    }

    // --- time ---

    /// Runs until dropped: does what is due.
    pub(crate) async fn clock(&self) {
        loop {
            let deadline = self.state.borrow().deadline().unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                () = tokio::time::sleep_until(deadline.into()) => self.tick(),
                () = self.changed.notified() => {}
            }
        }
    }

    fn tick(&self) {
        let state = &mut *self.state.borrow_mut();
        let now = Instant::now();
        let due = |p: &Peer| p.negotiation.deadline().is_some_and(|at| at <= now);
        let ids: Vec<PeerId> = state.peers.iter().filter(|(_, p)| due(p)).map(|(id, _)| id.clone()).collect();
        for id in ids {
            let crowded = state.pending() >= MAX_PENDING_HANDSHAKES;
            let Some(peer) = state.peers.get_mut(&id) else { continue };
            if crowded && peer.negotiation.current().is_none() {
                peer.negotiation.postpone(now + CROWDED);
                continue;
            }
            let outputs = peer.negotiation.tick(now, &mut rand::random);
            self.apply(state, &id, outputs);
        }
        while state.pending() < MAX_PENDING_HANDSHAKES
            && let Some(id) = state.to_dial.pop_front()
        {
            self.step(state, &id, Input::Dial { now: false });
        }
        if state.topology_due.is_some_and(|at| at <= now) {
            state.topology_due = None;
            state.report_topology();
        }
        self.outbox.flush();
    }
}

impl State {
    /// Says whether a dial can make sense: an old registry does not say who is online.
    fn may_exist(&self, id: &PeerId) -> bool {
        self.online.contains_key(id) || !self.extended || !matches!(self.signaling, SignalingState::Connected { .. })
    }

    fn pending(&self) -> usize {
        self.peers.values().filter(|p| p.negotiation.is_pending()).count()
    }

    fn deadline(&self) -> Option<Instant> {
        let next = self.peers.values().filter_map(|p| p.negotiation.deadline()).min();
        let dial = (!self.to_dial.is_empty()).then(|| Instant::now() + Duration::from_millis(50));
        [next, dial, self.topology_due].into_iter().flatten().min()
    }

    fn note_unflushed(&mut self, link: &Rc<Link>) {
        if !self.unflushed.iter().any(|l| Rc::ptr_eq(l, link)) {
            self.unflushed.push(link.clone());
        }
    }

    fn addresses(&mut self) -> Vec<IpAddr> {
        let now = Instant::now();
        if self.addresses.0.is_none_or(|at| now - at > ADDRESSES_LIFE) {
            self.addresses = (Some(now), gather::local_addresses(&self.config.ice));
        }
        self.addresses.1.clone()
    }

    fn signal_out(&self, to: &PeerId, signal: Signal) {
        if self.outgoing.try_send(Outgoing::Signal { to: to.clone(), signal }).is_err() {
            tracing::warn!(peer = %to, "signal lost: the way to the registry is full");
        }
    }

    fn signal_candidate(&self, link: &Link, candidate: String) {
        let (sdp_mid, sdp_mline_index) = (Some("0".to_owned()), Some(0));
        let signal = Signal::Candidate { candidate, sdp_mid, sdp_mline_index, connection: link.connection };
        self.signal_out(&link.peer, signal);
    }

    fn report_topology(&self) {
        if self.extended && self.outgoing.try_send(Outgoing::Topology(self.links())).is_err() {
            tracing::debug!("topology not reported: the way to the registry is full");
        }
    }
}

#[cfg(test)]
mod tests;
