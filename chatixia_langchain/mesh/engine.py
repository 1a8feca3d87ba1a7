"""The parts of one mesh put together, and the sink that its transport calls.

The sink is synchronous: state machines first, then futures and queues. It never waits and never raises.
"""

from __future__ import annotations

import asyncio
import logging

from ..config import MeshConfig
from ..errors import IdentityMismatch, MeshClosed, MeshError, Undeliverable
from ..transport.base import LinkState, PeerDown, PeerJoined, PeerLeft, PeerUp, Received, Transport, TransportEvent
from .answers import Answers
from .core import Core, PeerState
from .directory import read_card
from .gate import Gate
from .keys import make_trust
from .outgoing import Outgoing
from .paths import Paths
from .receiver import Receiver
from .requests import Requests
from .types import PeerEvent, Receipt

logger = logging.getLogger(__name__)

LINGER_S = 1.0  # how long closing waits for acknowledgements of what was sent just before


class Engine:
    """Everything of a running mesh that is not its public face. Lives on one loop."""

    def __init__(self, config: MeshConfig, transport: Transport) -> None:
        self.core = Core(config, transport)
        self.out = Outgoing(self.core)
        self.paths = self.out.paths = Paths(self.core, self.out)
        self.requests = Requests(self.core, self.out)
        self.receiver = Receiver(self.core, self.out, Answers(self.core, self.out))
        self.core.on_tick = self.out.tick
        self.trust = make_trust(config)
        self._gate: Gate | None = None
        if self.trust.strict and transport.name != "memory":  # nobody is between members of one process
            self._gate = Gate(self.core, self.trust, passed=self._up, refused=self._refuse)
        self._path = "memory" if transport.name == "memory" else "channel"
        self._up_waiters: set[asyncio.Future[None]] = set()

    def event(self, event: TransportEvent) -> None:
        """The sink of the primary transport."""
        if isinstance(event, Received):  # first: the hot one
            if (
                self._gate is not None
                and self._gate.holds(event.peer)
                and not self._gate.received(event.peer, event.body)
            ):
                return
            self.receiver.received(
                event.peer, event.body, "mailbox" if self.core.transport.name == "mailbox" else self._path
            )
        elif isinstance(event, PeerUp):
            (self._up if self._gate is None else self._gate.opened)(event)
        elif isinstance(event, PeerDown):
            if self._gate is not None:
                self._gate.closed(event)
            self._down(event)
        elif isinstance(event, PeerJoined):
            self._joined(event)
        elif isinstance(event, PeerLeft):
            self._left(event)
        else:
            self._link(event)

    def mailbox_event(self, event: TransportEvent) -> None:
        """The sink of the mailbox, when it is the second path: only its messages count."""
        if not isinstance(event, Received):
            return
        self.core.counters["by_mailbox"] += 1
        peer = self.core.peer(event.peer)
        self._seen(peer)
        if not peer.up and not peer.mailbox and self.core.mailbox is not None:
            self.paths.use_mailbox(peer)  # it found no channel to us: answer the same way, at once
        elif peer.up and not peer.doubt and self.core.mailbox is not None:
            self.paths.doubt(peer)
        self.receiver.received(event.peer, event.body, "mailbox")
        self.out.flush(peer)

    def _up(self, event: PeerUp) -> None:
        core, peer = self.core, self.core.peer(event.peer)
        peer.up, peer.generation, peer.protocol = True, event.generation, event.protocol
        peer.max_bytes, peer.path = event.max_message_bytes, event.path
        peer.fingerprint = event.fingerprint or peer.fingerprint
        peer.old = event.protocol == 0
        peer.hello_sent = False
        peer.distrust = ""
        self._seen(peer)
        self.paths.found(peer)
        if not peer.old and event.path != "mailbox":
            self.receiver.say_hello(peer)
        self.out.send_acks(peer)  # first: behind all that goes again they might never get through a channel that breaks
        self.out.cancel_again(peer)
        peer.session.outbox.requeue()
        self.out.flush(peer)
        core.emit(PeerEvent("connected", peer.id))
        self._wake_waiters()

    def _refuse(self, peer_id: str, why: str) -> None:
        """A channel leads to another than it is said to."""
        self.core.counters["refused_identities"] += 1
        self._distrust(self.core.peer(peer_id), why)

    def _distrust(self, peer: PeerState, why: str) -> None:
        """Send nothing to `peer`, and tell whoever waits."""
        if peer.distrust != why:
            logger.error("agent=%s peer=%s: refused: %s", self.core.name, peer.id, why)
            self.core.emit(PeerEvent("refused", peer.id, why))
        peer.distrust = why
        self.paths.refused(peer, IdentityMismatch(peer.id, why))

    def _down(self, event: PeerDown) -> None:
        peer = self.core.peers.get(event.peer)
        if peer is None or not peer.up or event.generation != peer.generation:
            return  # the end of an older channel
        peer.up = False
        peer.path = ""
        if peer.writable is not None:
            peer.writable.cancel()
        self.core.emit(PeerEvent("disconnected", peer.id, event.reason))
        if self.core.has_work(peer):
            self.paths.seek(peer)

    def _joined(self, event: PeerJoined) -> None:
        peer = self.core.peer(event.peer)
        new = not peer.online
        peer.online = True
        peer.protocol = event.protocol if not peer.up else peer.protocol
        peer.fingerprint = event.fingerprint or peer.fingerprint
        if self._gate is not None and not peer.up:
            peer.distrust = ""  # it may be another now
            if why := self.trust.announced(peer.id, event.fingerprint):
                self._distrust(peer, why)
        if event.card is not None:
            peer.description, peer.card_skills = read_card({"card": event.card})
            self.core.changed()
        self._seen(peer)
        peer.nudge.set()  # a dial that pauses goes on at once
        if new:
            if self.core.lookup is not None:
                self.core.lookup(peer.id)
            self.core.emit(PeerEvent("joined", peer.id))
        self._wake_waiters()

    def _left(self, event: PeerLeft) -> None:
        peer = self.core.peers.get(event.peer)
        if peer is not None and peer.online:
            peer.online = False
            self.core.emit(PeerEvent("left", peer.id))

    def _link(self, event: LinkState) -> None:
        if event.up and event.peer_id:
            self.core.name = event.peer_id
        if not event.up:
            logger.warning("agent=%s: the link is down: %s", self.core.name, event.reason)
        self.paths.link_changed(event.up)

    def _seen(self, peer: PeerState) -> None:
        if not peer.seen:
            peer.seen = True
            self.core.changed()

    # waiting for a peer

    async def wait_for(self, peer_id: str) -> None:
        """Return when the peer is online or connected. Raises MeshClosed."""
        while True:
            peer = self.core.peers.get(peer_id)
            if peer is not None and (peer.up or peer.online):
                return
            if self.core.closing:
                raise MeshClosed("the mesh was closed")
            waiter: asyncio.Future[None] = self.core.loop.create_future()
            self._up_waiters.add(waiter)
            try:
                await self._news(peer_id, waiter)
            finally:
                self._up_waiters.discard(waiter)

    async def _news(self, peer_id: str, waiter: asyncio.Future[None]) -> None:
        if self.core.transport.name != "mailbox":
            await waiter
            return
        try:  # nobody announces peers there: ask for this one
            await self.core.transport.connect(peer_id)
            async with asyncio.timeout(1.0):
                await waiter
        except (MeshError, TimeoutError) as exc:
            logger.debug("peer=%s: not there yet: %s", peer_id, exc)
            await asyncio.wait([waiter], timeout=0.5)

    def _wake_waiters(self) -> None:
        for waiter in self._up_waiters:
            if not waiter.done():
                waiter.set_result(None)

    # the end

    def fail_all(self) -> None:
        """Refuse new work, and tell everyone who waits."""
        core = self.core
        core.closing = True
        if self._gate is not None:
            self._gate.stop()
        for waiting in core.pending.clear():
            entry = core.peer(waiting.peer).session.outbox.drop(waiting.id)
            if not waiting.owner.done():
                executed = "no" if entry is not None and entry.tries == 0 else "unknown"
                waiting.owner.set_exception(MeshClosed("the mesh was closed before the answer came", executed=executed))  # type: ignore[arg-type]
        for peer in core.peers.values():
            self.out.send_acks(peer)
            for room in peer.room_waiters:
                if not room.done():
                    room.set_exception(MeshClosed("the mesh was closed", executed="no"))
            for incoming in peer.session.inbox.running.values():
                incoming.cancelled.set()
        core.inbox.close()
        for feed in core.event_feeds:
            feed.close()
        self._wake_waiters()

    async def linger(self) -> None:
        """Give what was sent just before a moment to be acknowledged, where there is a channel or one is being made."""
        end = self.core.now() + LINGER_S
        peers = self.core.peers
        while self.core.now() < end and any(map(_may_still_go, peers.values())):  # noqa: ASYNC110
            await asyncio.sleep(0.005)  # only while closing, for a second at most

    def drop_all(self) -> None:
        """Settle what is left: it will not be delivered by this mesh."""
        for peer in self.core.peers.values():
            left = list(peer.session.outbox.entries.values())
            if left:
                logger.warning("peer=%s: closed with %d messages that were not acknowledged", peer.id, len(left))
            for entry in left:
                peer.session.outbox.drop(entry.id)
                if isinstance(entry.owner, Receipt):
                    executed = "unknown" if entry.tries else "no"
                    why = Undeliverable("the mesh was closed before it was acknowledged", executed=executed)  # type: ignore[arg-type]
                    entry.owner.settle("undeliverable", path=self.out.label(entry.path), reason=str(why))


def _may_still_go(peer: PeerState) -> bool:
    return bool(len(peer.session.outbox)) and (peer.up or (peer.online and peer.dial is not None))
