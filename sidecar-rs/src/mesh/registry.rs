//! What the registry says: our name, who is online, what other sidecars want of us.

use super::*;

impl Mesh {
    /// Takes a new state of the conversation with the registry.
    pub(crate) fn signaling_state(&self, new: SignalingState) {
        let state = &mut *self.state.borrow_mut();
        if let SignalingState::Connected { peer_id } = &new {
            state.me = Some(peer_id.clone());
        }
        state.signaling = new;
        if self.outbox.is_greeted() {
            self.outbox.line(|out| {
                event::signaling(out, state.signaling.as_str(), state.me.as_ref(), state.signaling.reason())
            });
        }
        self.outbox.flush();
    }

    /// Takes the addresses of the STUN servers to ask from now on.
    pub(crate) fn stun_servers(&self, servers: Vec<SocketAddr>) {
        self.state.borrow_mut().stun_servers = servers;
    }

    /// Takes a frame of the registry.
    pub(crate) fn incoming(&self, incoming: Incoming) {
        let state = &mut *self.state.borrow_mut();
        match incoming {
            Incoming::PeerList { peers, extended } => self.peer_list(state, peers, extended),
            Incoming::PeerJoined(present) => self.joined(state, present),
            Incoming::PeerLeft(id) => self.left(state, &id),
            Incoming::Error { code, message, target_id } => {
                tracing::debug!(%code, %message, "the registry refused a frame");
                if code == Code::PeerOffline.as_str()
                    && let Some(id) = target_id
                {
                    self.left(state, &id);
                }
            }
            Incoming::Signal { from, signal } => self.signal(state, &from, signal),
        }
        self.outbox.flush();
    }

    pub(super) fn peer_list(&self, state: &mut State, peers: Vec<Present>, extended: bool) {
        state.extended = extended;
        let gone: Vec<PeerId> =
            state.online.keys().filter(|id| !peers.iter().any(|p| p.peer_id == **id)).cloned().collect();
        gone.iter().for_each(|id| self.left(state, id));
        for present in peers {
            let id = present.peer_id.clone();
            if state.me.as_ref() == Some(&id) {
                continue;
            }
            self.joined(state, present);
            // We are the newcomer here, and the newcomer offers. An open channel stays as it is.
            if state.config.dial == Dial::PeerList {
                self.dial(state, &id, false);
            }
        }
        state.topology_due.get_or_insert(Instant::now() + TOPOLOGY_PAUSE);
    }

    pub(super) fn joined(&self, state: &mut State, present: Present) {
        let id = present.peer_id.clone();
        if state.me.as_ref() == Some(&id) || state.online.len() >= MAX_PEERS {
            return;
        }
        if self.outbox.is_greeted() && state.online.get(&id) != Some(&present) {
            let protocol = (present.protocol > 0).then_some(present.protocol);
            self.outbox.line(|out| event::peer_joined(out, &id, present.fingerprint.as_deref(), protocol));
        }
        state.online.insert(id.clone(), present);
        if state.peers.contains_key(&id) {
            self.step(state, &id, Input::Joined);
        }
    }

    pub(super) fn left(&self, state: &mut State, id: &PeerId) {
        state.to_dial.retain(|waiting| waiting != id);
        if state.online.remove(id).is_some() && self.outbox.is_greeted() {
            self.outbox.line(|out| event::peer_left(out, id));
        }
        if state.peers.contains_key(id) {
            self.step(state, id, Input::Left);
        }
    }

    pub(super) fn signal(&self, state: &mut State, from: &PeerId, signal: Signal) {
        if state.closing || state.me.as_ref() == Some(from) {
            return;
        }
        let input = match signal {
            Signal::Offer { sdp, protocol, connection, restart } => {
                // Both sides may have as many under way; an offer beyond that is lost and will be made again.
                if !restart && state.pending() >= 2 * MAX_PENDING_HANDSHAKES {
                    return tracing::warn!(peer = %from, "offer not taken: too many handshakes under way");
                }
                if self.add_peer(state, from).is_none() {
                    return tracing::warn!(peer = %from, "offer not taken: too many peers");
                }
                Input::Offer { connection, sdp, protocol, restart }
            }
            Signal::Answer { sdp, protocol, connection } => Input::Answer { connection, sdp, protocol },
            Signal::Candidate { candidate, connection, .. } if !candidate.is_empty() => {
                if self.add_peer(state, from).is_none() {
                    return;
                }
                Input::Candidate { connection, candidate }
            }
            Signal::Candidate { .. } => return, // the end of them changes nothing here
        };
        self.step(state, from, input);
    }
}
