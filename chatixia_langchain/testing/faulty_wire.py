"""The in-process wire of `FakeMesh`: a `MemoryHub` whose members' frames are lost, doubled and late.

- faults happen on arrival, below delivery: what is above sees what it would see of a bad network
- a lost frame breaks its channel, as real channels do: they are reliable while they live. What came behind it is lost
  too, both ends hear of it and dial again. With `silent` it vanishes alone, and the channel lives on
- a delay line per peer keeps the order, unless `reorder` is on
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial

from ..errors import PeerUnreachable
from ..transport.base import PeerUp, Received, Sink, TransportEvent, TransportInfo
from ..transport.memory import MemoryHub, MemoryTransport
from .faults import Fates, Faults, WireCounts

logger = logging.getLogger(__name__)

REDIAL_S = 0.005  # a new channel is not free: without a pause a bad wire would keep the loop busy with nothing else


class FaultyHub(MemoryHub):
    """Where the members of one `FakeMesh` meet. `isolated` members have no channel to anybody."""

    def __init__(self, faults: Faults, *, silent: bool = False) -> None:
        super().__init__()
        self.faults, self.silent = faults, silent
        self.counts = WireCounts()
        self.isolated: set[str] = set()

    def open(self, a: str, b: str) -> None:
        """See `MemoryHub.open`."""
        with self.lock:
            if self.isolated & {a, b}:
                raise PeerUnreachable(b, "partitioned")
            super().open(a, b)

    def part(self, a: str, b: str | None) -> None:
        """Cut `a` off from `b`, or from everybody, now and later, until `heal`."""
        if b is not None:
            self.block(a, b)
            return
        with self.lock:
            self.isolated.add(a)
            for other in list(self.members):
                self.cut(a, other, "partitioned")

    def heal(self) -> None:
        """End all partitions."""
        with self.lock:
            self.isolated.clear()
            self.blocked.clear()


class FaultyTransport(MemoryTransport):
    """One member's end of the wire."""

    def __init__(self, hub: FaultyHub, peer_id: str) -> None:
        super().__init__(hub, peer_id)
        self._wire = hub
        self._fates: dict[str, Fates] = {}  # by sender
        self._broken: set[str] = set()  # a frame of theirs was lost: the rest of the channel is lost with it
        # Bounded by the senders' windows: what waits here is not acknowledged.
        self._late: dict[str, deque[tuple[float, TransportEvent]]] = {}
        self._timers: set[asyncio.TimerHandle] = set()
        self._up: Sink | None = None

    async def start(self, sink: Sink) -> TransportInfo:
        """See `Transport.start`."""
        self._up = sink
        return await super().start(self._arrived)

    async def connect(self, peer: str, *, timeout_s: float = 15.0) -> None:
        """See `Transport.connect`."""
        if peer not in self._channels:
            await asyncio.sleep(REDIAL_S)
        await super().connect(peer, timeout_s=timeout_s)

    async def aclose(self) -> None:
        """See `Transport.aclose`."""
        self._up = None
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._late.clear()
        await super().aclose()

    def _arrived(self, event: TransportEvent) -> None:
        peer = getattr(event, "peer", "")
        if isinstance(event, PeerUp):
            self._broken.discard(peer)
        if isinstance(event, Received):
            self._frame(event)
        else:
            self._after(0.0, peer, event)

    def _frame(self, event: Received) -> None:
        counts, peer = self._wire.counts, event.peer
        with self._wire.lock:  # members may live on several threads
            counts.sent += 1
            if peer in self._broken:
                counts.lost += 1
                return
            fates = self._fates.get(peer) or self._fates.setdefault(peer, self._wire.faults.between(peer, self.peer_id))
            fate = fates.next()
            counts.lost += fate.lost
            counts.doubled += len(fate.delays_s) > 1
        if fate.lost and not self._wire.silent:
            self._break(peer)
        for delay_s in fate.delays_s:
            self._after(delay_s, peer, event)

    def _break(self, peer: str) -> None:
        self._wire.counts.breaks += 1
        self._broken.add(peer)
        self._wire.cut(self.peer_id, peer, "the fake wire broke")

    def _after(self, delay_s: float, peer: str, event: TransportEvent) -> None:
        """Hand `event` on after its delay, and not before what came from the same peer earlier."""
        now = self._loop.time()
        line = self._late.setdefault(peer, deque())
        if self._wire.faults.reorder and delay_s:
            self._at(now + delay_s, partial(self._hand, event))
        elif not delay_s and not line:
            self._hand(event)
        else:
            line.append((max(now + delay_s, line[-1][0] if line else 0.0), event))
            if len(line) == 1:
                self._at(line[0][0], partial(self._release, peer))

    def _release(self, peer: str) -> None:
        line = self._late.get(peer)
        while line and line[0][0] <= self._loop.time():
            self._hand(line[0][1])
            line.popleft()  # after: what arrives meanwhile must queue behind it
        if line:
            self._at(line[0][0], partial(self._release, peer))

    def _at(self, when: float, work: Callable[[], None]) -> None:
        if self._up is None:  # closed
            return

        def fire() -> None:
            self._timers.discard(timer)
            work()

        timer = self._loop.call_at(when, fire)
        self._timers.add(timer)

    def _hand(self, event: TransportEvent) -> None:
        if self._up is None:
            return
        try:
            self._up(event)
        except Exception:
            logger.exception("peer=%s: the sink raised at %s", self.peer_id, type(event).__name__)
