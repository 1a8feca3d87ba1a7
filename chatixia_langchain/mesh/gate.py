"""Between a transport and the mesh: a channel is no peer before it has shown whose it is.

- a channel opens: we say hello, with our card, and wait for the other side's; nothing else passes, either way
- its hello names both ends and brings its card; with the certificate of the channel, `Trust` decides
- good: the channel passes, and from then on costs nothing. Not good: whoever asks hears why, and what comes over it is
  dropped; it is closed only after a while, since who dials again and again would otherwise keep us busy

Both ends are named inside a channel that DTLS has authenticated: a registry that tells the two sides different names of
each other is found out (the unknown key-share of RFC 8844).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from ..errors import InvalidLine, MeshError
from ..protocol.envelope import Frame, decode
from ..transport.base import PeerDown, PeerUp
from ..trust.judge import Trust
from . import frames
from .core import Core

logger = logging.getLogger(__name__)

HELLO_S: Final = 10.0  # a peer that says no hello for so long is none of ours, or dead
SHUT_S: Final = 30.0  # how long a refused channel is left open, unheard


class Gate:
    """Holds the channels whose peers have not shown who they are. Only for a `trust` that is strict."""

    def __init__(
        self, core: Core, trust: Trust, *, passed: Callable[[PeerUp], None], refused: Callable[[str, str], None]
    ) -> None:
        self._core, self._trust = core, trust
        self._passed, self._refused = passed, refused
        # As many as the transport lets connect. Waiting: no hello yet. Shut: refused, and left open for a while.
        self._waiting: dict[str, tuple[PeerUp, asyncio.TimerHandle]] = {}
        self._shut: dict[str, tuple[PeerUp, asyncio.TimerHandle]] = {}

    def holds(self, peer: str) -> bool:
        """True while `peer` has a channel and has not shown who it is."""
        return peer in self._waiting or peer in self._shut

    def opened(self, event: PeerUp) -> None:
        """A channel opened."""
        self._drop(event.peer)
        if event.protocol == 0:
            self._unverified(event, "is an agent of the existing mesh, which cannot show who it is")
            return
        timer = self._core.loop.call_later(HELLO_S, self._late, event)
        self._waiting[event.peer] = event, timer
        try:
            hello = frames.hello(self._core.name, event.peer, self._core.ids.epoch, self._core.card)
            self._core.transport.send(event.peer, hello)
        except MeshError as exc:  # it broke already: PeerDown follows
            logger.debug("peer=%s: no hello sent: %s", event.peer, exc)

    def closed(self, event: PeerDown) -> None:
        """A channel ended."""
        held = self._waiting.get(event.peer) or self._shut.get(event.peer)
        if held is not None and held[0].generation == event.generation:
            self._drop(event.peer)

    def received(self, peer: str, body: bytes) -> bool:
        """Something came over a channel that is held. True when that was its hello, and it passed."""
        if peer in self._shut:
            self._core.counters["from_refused"] += 1
            return False
        event, _ = self._waiting[peer]
        try:
            frame = decode(body)
        except InvalidLine:
            frame = Frame("ping")
        if frame.mesh is None or frame.mesh.kind != "hello":
            self._core.counters["before_hello"] += 1
            logger.warning("peer=%s: sent something before its hello, which was dropped", peer)
            return False
        self._drop(peer)
        why = self._names(peer, frame) or self._judge(event, frame)
        if why:
            self._refuse(event, why)
            return False
        self._passed(event)
        return True

    def stop(self) -> None:
        """The mesh ends."""
        for peer in [*self._waiting, *self._shut]:
            self._drop(peer)

    def _refuse(self, event: PeerUp, why: str) -> None:
        timer = self._core.loop.call_later(SHUT_S, self._close, event)
        self._shut[event.peer] = event, timer
        self._refused(event.peer, why)

    def _close(self, event: PeerUp) -> None:
        self._drop(event.peer)
        self._core.spawn(self._core.transport.disconnect(event.peer), f"refused {event.peer}")

    def _names(self, peer: str, frame: Frame) -> str:
        if frame.source_agent == peer and frame.target_agent == self._core.name:
            return ""
        return f"{peer!r} says that it is {frame.source_agent[:64]!r} and speaks to {frame.target_agent[:64]!r}"

    def _judge(self, event: PeerUp, frame: Frame) -> str:
        card = (frame.mesh.meta or {}).get("card") if frame.mesh is not None else None
        return self._trust.judge(event.peer, event.fingerprint, card if isinstance(card, str) else "", time.time())

    def _late(self, event: PeerUp) -> None:
        self._drop(event.peer)
        self._unverified(event, f"said no hello within {HELLO_S:g} s")

    def _unverified(self, event: PeerUp, why: str) -> None:
        if self._core.config.allow_unverified:
            logger.warning("peer=%s: %s; allowed by allow_unverified", event.peer, why)
            self._passed(event)
        else:
            self._refuse(event, f"{event.peer!r} {why}; allow_unverified=True would let it in")

    def _drop(self, peer: str) -> None:
        for channels in (self._waiting, self._shut):
            held = channels.pop(peer, None)
            if held is not None:
                held[1].cancel()
