//! What [`Negotiation`](crate::negotiation::Negotiation) says is to be done, done.

use super::*;

impl Mesh {
    /// Tells a peer's negotiation a piece of news and does what it says. An unknown peer has no news.
    pub(super) fn step(&self, state: &mut State, id: &PeerId, input: Input) {
        let Some(peer) = state.peers.get_mut(id) else { return };
        let outputs = peer.negotiation.handle(Instant::now(), input, &mut rand::random);
        self.apply(state, id, outputs);
    }

    pub(super) fn apply(&self, state: &mut State, id: &PeerId, outputs: Vec<Output>) {
        for output in outputs {
            self.apply_one(state, id, output);
        }
        if let Some(peer) = state.peers.get(id)
            && peer.negotiation.is_idle()
            && peer.links.is_empty()
            && peer.waiters.is_empty()
            && !state.online.contains_key(id)
        {
            state.last_generation = state.last_generation.max(peer.negotiation.last_generation());
            state.peers.remove(id);
        }
        self.changed.notify_one();
    }

    fn apply_one(&self, state: &mut State, id: &PeerId, output: Output) {
        match output {
            Output::Offer { generation, connection } => {
                let Some(link) = self.make_link(state, id, generation, Some(connection), Role::Offerer) else { return };
                self.describe(state, &link, false);
            }
            Output::Restart { generation, .. } => {
                if let Some(link) = state.link(id, generation) {
                    tracing::info!(peer = %id, generation, "asking for a new path");
                    self.describe(state, &link, true);
                }
            }
            Output::Accept { generation, connection, sdp, protocol } => {
                let Some(link) = self.make_link(state, id, generation, connection, Role::Answerer) else { return };
                link.protocol.set(protocol);
                self.answer(state, &link, &sdp);
            }
            Output::AcceptRestart { generation, sdp, .. } => {
                if let Some(link) = state.link(id, generation) {
                    self.answer(state, &link, &sdp);
                }
            }
            Output::TakeAnswer { generation, sdp, protocol } => {
                let Some(link) = state.link(id, generation) else { return };
                link.protocol.set(protocol);
                if let Err(error) = link.accept_answer(&sdp) {
                    tracing::warn!(peer = %id, generation, %error, "answer refused");
                    self.step(state, id, Input::Ended(generation, Reason::Failed));
                }
            }
            Output::TakeCandidate { generation, candidate } => {
                let Some(link) = state.link(id, generation) else { return };
                if let Err(error) = link.add_remote(&candidate) {
                    tracing::debug!(peer = %id, generation, %error, "candidate refused");
                }
            }
            Output::Up { generation, replaces } => self.set_channel(state, id, generation, replaces),
            Output::Down { generation, reason } => self.down(state, id, generation, reason),
            Output::Abandon { generation, reason } => {
                tracing::debug!(peer = %id, generation, reason = reason.as_str(), "connection abandoned");
                state.drop_link(id, generation);
            }
            Output::DialFailed(reason) => {
                let Some(peer) = state.peers.get_mut(id).filter(|p| p.open.is_none()) else { return };
                let failure = Failure::new(Code::PeerUnreachable, format!("no channel to {id}: {}", reason.as_str()));
                for asker in peer.waiters.drain(..) {
                    self.outbox.error(&asker, &failure);
                }
            }
        }
    }

    fn make_link(
        &self,
        state: &mut State,
        id: &PeerId,
        generation: Generation,
        connection: Option<ConnectionId>,
        role: Role,
    ) -> Option<Rc<Link>> {
        let addresses = state.addresses();
        let setup = Setup {
            identity: &state.identity,
            loopback: state.config.ice.allow_loopback,
            addresses: &addresses,
            stun_servers: &state.stun_servers,
        };
        let link = match Link::new(id.clone(), generation, connection, role, &setup, self.outbox.clone()) {
            Ok(link) => link,
            Err(error) => {
                tracing::error!(peer = %id, generation, %error, "no connection could be made");
                self.step(state, id, Input::Ended(generation, Reason::Failed));
                return None;
            }
        };
        state.peers.get_mut(id)?.links.push(link.clone());
        let (on_event, on_room) = (self.me.clone(), self.me.clone());
        let task = link.clone().run(
            move |link, event| {
                if let Some(mesh) = on_event.upgrade() {
                    mesh.link_event(link, event);
                }
            },
            move || {
                if let Some(mesh) = on_room.upgrade() {
                    mesh.wake_links();
                }
            },
        );
        let span = tracing::info_span!("peer", %id, generation);
        tokio::task::spawn_local(tracing::Instrument::instrument(task, span));
        Some(link)
    }

    fn describe(&self, state: &mut State, link: &Link, restart: bool) {
        match link.offer(restart) {
            Ok(sdp) => {
                let signal = Signal::Offer { sdp, protocol: PROTOCOL, connection: link.connection, restart };
                state.signal_out(&link.peer, signal);
            }
            Err(error) => {
                tracing::warn!(peer = %link.peer, generation = link.generation, %error, "no offer could be made");
                if !restart {
                    self.step(state, &link.peer, Input::Ended(link.generation, Reason::Failed));
                }
            }
        }
    }

    fn answer(&self, state: &mut State, link: &Link, sdp: &str) {
        match link.accept_offer(sdp) {
            Ok(sdp) => {
                state.signal_out(&link.peer, Signal::Answer { sdp, protocol: PROTOCOL, connection: link.connection });
            }
            Err(error) => {
                tracing::warn!(peer = %link.peer, generation = link.generation, %error, "offer refused");
                // A refused restart leaves the old path as it was.
                if !link.announced.get() {
                    self.step(state, &link.peer, Input::Ended(link.generation, Reason::Failed));
                }
            }
        }
    }

    /// Lets sends go to this connection from now on, and announces it: at once, or after the one it replaces is done.
    fn set_channel(&self, state: &mut State, id: &PeerId, generation: Generation, replaces: Option<Generation>) {
        let (Some(link), Some(peer)) = (state.link(id, generation), state.peers.get_mut(id)) else { return };
        peer.open = Some(link.clone());
        match replaces.and_then(|old| peer.link(old)).cloned() {
            Some(old) => {
                // Three in a row: what the first still had is lost with it, its agent is told.
                if let Some(older) = peer.retiring.replace(old.generation) {
                    self.finish_retired(state, id, older);
                }
                old.hand_over(&link);
                old.retire();
            }
            None if peer.retiring.is_none() => self.announce(state, &link),
            None => {}
        }
        self.make_room(state, id);
        state.topology_due.get_or_insert(Instant::now() + TOPOLOGY_PAUSE);
    }

    fn announce(&self, state: &mut State, link: &Rc<Link>) {
        let id = &link.peer;
        tracing::info!(peer = %id, generation = link.generation, "channel open");
        let opened = self.outbox.is_greeted().then(|| super::picture::opened(link));
        self.outbox.line(|out| event::peer_connected(out, id, opened.as_ref()));
        link.start_reading();
        if let Some(peer) = state.peers.get_mut(id) {
            peer.waiters.drain(..).for_each(|asker| self.outbox.ok(&asker));
        }
    }

    fn down(&self, state: &mut State, id: &PeerId, generation: Generation, reason: Reason) {
        if let Some(peer) = state.peers.get_mut(id)
            && peer.open.as_ref().is_some_and(|l| l.generation == generation)
        {
            peer.open = None;
        }
        self.say_disconnected(state, id, generation, reason);
        match (reason, state.link(id, generation)) {
            // Our own wish, so there is time: closing at once would lose what is on its way.
            (Reason::Local | Reason::Idle, Some(link)) => link.leave(),
            _ => state.drop_link(id, generation),
        }
        state.topology_due.get_or_insert(Instant::now() + TOPOLOGY_PAUSE);
    }

    fn say_disconnected(&self, state: &State, id: &PeerId, generation: Generation, reason: Reason) {
        let Some(link) = state.link(id, generation).filter(|l| l.announced.replace(false)) else { return };
        tracing::info!(peer = %id, generation, reason = reason.as_str(), "channel closed");
        let end = self.outbox.is_greeted().then_some((link.generation, reason.as_str()));
        self.outbox.line(|out| event::peer_disconnected(out, id, end));
    }

    /// A connection has handed out everything. If it was replaced: say so, then announce its successor.
    pub(super) fn retired(&self, state: &mut State, id: &PeerId, generation: Generation) {
        let Some(peer) = state.peers.get_mut(id) else { return };
        if peer.retiring != Some(generation) {
            state.drop_link(id, generation);
            return self.apply(state, id, Vec::new()); // forgets the peer, if this was all
        }
        peer.retiring = None;
        self.finish_retired(state, id, generation);
        if let Some(link) = state.peers.get(id).and_then(|p| p.open.clone()).filter(|l| !l.announced.get()) {
            self.announce(state, &link);
        }
    }

    fn finish_retired(&self, state: &mut State, id: &PeerId, generation: Generation) {
        self.say_disconnected(state, id, generation, Reason::Replaced);
        state.drop_link(id, generation);
    }

    /// Closes the connection that was not used for longest when there are more than `max_peers`.
    fn make_room(&self, state: &mut State, newest: &PeerId) {
        let open = || state.peers.values().filter_map(|p| p.open.as_ref());
        if open().count() <= state.config.max_peers {
            return;
        }
        let idle = open().filter(|l| l.peer != *newest).min_by_key(|l| l.used_at()).map(|l| l.peer.clone());
        if let Some(id) = idle {
            tracing::info!(peer = %id, "closed for room: least recently used");
            self.step(state, &id, Input::Leave(Reason::Idle));
        }
    }
}

impl State {
    pub(super) fn link(&self, id: &PeerId, generation: Generation) -> Option<Rc<Link>> {
        self.peers.get(id)?.link(generation).cloned()
    }

    fn drop_link(&mut self, id: &PeerId, generation: Generation) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        if let Some(at) = peer.links.iter().position(|l| l.generation == generation) {
            peer.links.swap_remove(at).close();
        }
    }
}
