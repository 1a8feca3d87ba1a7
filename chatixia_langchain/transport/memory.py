"""Members of one process, joined by a `MemoryHub`: for tests, and for `transport="memory"`.

As real as the other transports in what callers can observe: events arrive in a later turn of the loop, in order;
windows fill; channels have generations; a member that leaves is seen by the others. Members may live on different loops
and threads.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from ..errors import Busy, InvalidLine, LinkDown, MessageTooBig, PeerUnreachable
from ..protocol.limits import MAX_MESSAGE_BYTES, WINDOW_BYTES, is_peer_id
from .base import (
    LinkState,
    PeerDown,
    PeerJoined,
    PeerLeft,
    PeerUp,
    Received,
    Sink,
    Transport,
    TransportEvent,
    TransportInfo,
)

logger = logging.getLogger(__name__)

OVERHEAD_BYTES = 64  # what a message costs beside its bytes, so that the window bounds the number of tiny ones too


class _Channel:
    """An open channel; `queued` is what each side has sent and the other side has not taken yet, in bytes."""

    __slots__ = ("generation", "open", "queued")

    def __init__(self, a: str, b: str, generation: int) -> None:
        self.generation, self.open, self.queued = generation, True, {a: 0, b: 0}


class MemoryHub:
    """Where the members of one process meet. Thread-safe.

    Tests may cut (`cut`), forbid (`block`) and allow (`unblock`) channels, and lose messages (`lose`).
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.members: dict[str, MemoryTransport] = {}
        self.channels: dict[frozenset[str], _Channel] = {}
        self.blocked: set[frozenset[str]] = set()
        self.lose: Callable[[str, str, bytes], bool] | None = None
        self._generations = itertools.count(1)

    def transport(self, name: str, *, dial_all: bool = False) -> MemoryTransport:
        """A transport for the member `name`; `dial_all` opens a channel to everyone who is there at its start."""
        return MemoryTransport(self, name, dial_all=dial_all)

    def join(self, member: MemoryTransport) -> None:
        """Add a member; the others hear of it, and it of them. Raises LinkDown when the name is taken."""
        with self.lock:
            if member.peer_id in self.members:
                raise LinkDown(f"{member.peer_id!r} is already in this hub", retryable=False)
            for other in self.members.values():
                other.post(PeerJoined(member.peer_id, card=member.card))
                member.post(PeerJoined(other.peer_id, card=other.card))
            self.members[member.peer_id] = member

    def leave(self, member: MemoryTransport) -> None:
        """Remove a member: its channels close, the others hear of it."""
        with self.lock:
            if self.members.get(member.peer_id) is not member:
                return
            del self.members[member.peer_id]
            for pair in [p for p in self.channels if member.peer_id in p]:
                self._close(pair, "peer left")
            for other in self.members.values():
                other.post(PeerLeft(member.peer_id))

    def open(self, a: str, b: str) -> None:
        """Open a channel unless there is one. Raises PeerUnreachable."""
        with self.lock:
            pair = frozenset((a, b))
            if pair in self.channels:
                return
            if a == b or b not in self.members:
                raise PeerUnreachable(b, "not in this hub")
            if pair in self.blocked:
                raise PeerUnreachable(b, "blocked")
            channel = self.channels[pair] = _Channel(a, b, next(self._generations))
            for me, peer in ((a, b), (b, a)):
                self.members[me].post(PeerUp(peer, channel.generation, path="memory"), channel)

    def cut(self, a: str, b: str, reason: str = "cut") -> None:
        """Close the channel between two members, if there is one; what was not taken yet still arrives before."""
        with self.lock:
            self._close(frozenset((a, b)), reason)

    def block(self, a: str, b: str) -> None:
        """Cut, and let no new channel open until `unblock`."""
        with self.lock:
            self.blocked.add(frozenset((a, b)))
            self._close(frozenset((a, b)), "blocked")

    def unblock(self, a: str, b: str) -> None:
        """Allow channels again."""
        with self.lock:
            self.blocked.discard(frozenset((a, b)))

    def _close(self, pair: frozenset[str], reason: str) -> None:
        channel = self.channels.pop(pair, None)
        if channel is None:
            return
        channel.open = False
        for me in pair:
            (peer,) = pair - {me}
            if me in self.members:
                self.members[me].post(PeerDown(peer, channel.generation, reason), channel)


class MemoryTransport(Transport):
    """One member of a `MemoryHub`."""

    name = "memory"

    def __init__(self, hub: MemoryHub, peer_id: str, *, dial_all: bool = False) -> None:
        if not is_peer_id(peer_id):
            raise ValueError(f"{peer_id!r} is not a peer id")
        self._hub, self.peer_id, self._dial_all = hub, peer_id, dial_all
        self._sink: Sink | None = None
        # Bounded: messages by the senders' windows, the rest by the number of members and what tests do to them.
        self._inbox: deque[tuple[TransportEvent, _Channel | None]] = deque()
        self._scheduled = False
        self._channels: dict[str, _Channel] = {}  # those whose PeerUp the sink has seen
        self._waiters: dict[str, set[asyncio.Future[None]]] = {}  # anyone waiting for a change at a peer

    async def start(self, sink: Sink) -> TransportInfo:
        """See `Transport.start`. Raises LinkDown when the name is taken."""
        if self._sink is not None:
            raise RuntimeError("this transport was already started")
        self._sink, self._loop, self._thread = sink, asyncio.get_running_loop(), threading.get_ident()
        try:
            self.post(LinkState(True, peer_id=self.peer_id))
            self._hub.join(self)
        except LinkDown:
            self._sink = None
            self._inbox.clear()
            raise
        if self._dial_all:
            for peer in [m for m in self._hub.members if m != self.peer_id]:
                if frozenset((peer, self.peer_id)) not in self._hub.blocked:
                    self._hub.open(self.peer_id, peer)
        return TransportInfo(self.name, self.peer_id)

    def post(self, event: TransportEvent, channel: _Channel | None = None) -> None:
        """Queue an event for this member's loop. Called with the hub's lock held or on the own loop."""
        self._inbox.append((event, channel))
        if self._scheduled:
            return
        self._scheduled = True
        if threading.get_ident() == self._thread:
            self._loop.call_soon(self._drain)
            return
        try:
            self._loop.call_soon_threadsafe(self._drain)
        except RuntimeError:  # its loop was closed without aclose(): nobody is there to hear it
            logger.debug("peer=%s: loop is closed, event dropped", self.peer_id)

    def send(self, peer: str, body: bytes) -> None:
        """See `Transport.send`."""
        channel = self._channels.get(peer)
        if self._sink is None:
            raise LinkDown("this transport is closed")
        if channel is None or not channel.open:
            raise PeerUnreachable(peer)
        if len(body) > MAX_MESSAGE_BYTES:
            raise MessageTooBig(len(body), MAX_MESSAGE_BYTES)
        if b"\n" in body or b"\r" in body:
            raise InvalidLine("a raw line end inside the message")
        cost = len(body) + OVERHEAD_BYTES
        with self._hub.lock:
            other = self._hub.members.get(peer)
            if other is None or not channel.open:
                raise PeerUnreachable(peer)
            if channel.queued[self.peer_id] + cost > WINDOW_BYTES:
                raise Busy(f"the window to {peer!r} is full")
            if self._hub.lose is not None and self._hub.lose(self.peer_id, peer, body):
                return
            channel.queued[self.peer_id] += cost
            other.post(Received(self.peer_id, bytes(body)), channel)

    async def writable(self, peer: str) -> None:
        """See `Transport.writable`."""
        while (channel := self._channels.get(peer)) and channel.open and self._sink is not None:
            if channel.queued[self.peer_id] <= WINDOW_BYTES // 2:
                return
            await self._change(peer)

    async def connect(self, peer: str, *, timeout_s: float = 15.0) -> None:
        """See `Transport.connect`."""
        if self._sink is None:
            raise LinkDown("this transport is closed")
        self._hub.open(self.peer_id, peer)
        try:
            async with asyncio.timeout(timeout_s):
                while peer not in self._channels:
                    await self._change(peer)
                    if self._sink is None:
                        raise LinkDown("this transport is closed")
        except TimeoutError:
            raise PeerUnreachable(peer, f"no channel within {timeout_s:g} s") from None

    async def disconnect(self, peer: str) -> None:
        """See `Transport.disconnect`."""
        self._hub.cut(self.peer_id, peer, "closed")

    async def status(self) -> dict[str, Any]:
        """See `Transport.status`."""
        peers = {
            p: {
                "state": "open",
                "generation": c.generation,
                "path": "memory",
                "rtt_ms": 0.0,
                "queued_bytes": c.queued[self.peer_id],
            }
            for p, c in self._channels.items()
        }
        return {"transport": self.name, "peer_id": self.peer_id, "online": sorted(self._hub.members), "peers": peers}

    async def aclose(self) -> None:
        """See `Transport.aclose`."""
        self._hub.leave(self)
        self._sink = None
        self._inbox.clear()
        self._channels.clear()
        for peer in list(self._waiters):
            self._wake(peer)

    async def _change(self, peer: str) -> None:
        waiter = self._loop.create_future()
        self._waiters.setdefault(peer, set()).add(waiter)
        try:
            await waiter
        finally:
            self._waiters.get(peer, set()).discard(waiter)

    def _wake(self, peer: str) -> None:
        for waiter in self._waiters.pop(peer, ()):
            if not waiter.done():
                waiter.set_result(None)

    def _drain(self) -> None:
        with self._hub.lock:
            self._scheduled = False
            now, self._inbox = self._inbox, deque()
        for event, channel in now:
            if self._sink is None:
                return
            if isinstance(event, Received) and channel is not None:
                self._took(event, channel)
            elif isinstance(event, PeerUp) and channel is not None:
                self._channels[event.peer] = channel
                self._wake(event.peer)
            elif isinstance(event, PeerDown):
                self._channels.pop(event.peer, None)
                self._wake(event.peer)
            self._emit(event)

    def _took(self, event: Received, channel: _Channel) -> None:
        before = channel.queued[event.peer]
        after = channel.queued[event.peer] = max(0, before - len(event.body) - OVERHEAD_BYTES)
        if after <= WINDOW_BYTES // 2 < before:
            sender = self._hub.members.get(event.peer)
            if sender is None:
                return
            try:
                sender._loop.call_soon_threadsafe(sender._wake, self.peer_id)
            except RuntimeError:
                logger.debug("peer=%s: loop is closed", event.peer)
