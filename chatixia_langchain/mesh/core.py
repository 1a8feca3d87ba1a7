"""What the parts of a mesh share: peers, pending requests, counters, the one timer, and the tasks.

All of it belongs to the mesh's loop. Time is the loop's monotonic clock, in seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Mapping
from math import inf
from typing import Any

from ..config import MeshConfig
from ..delivery.ids import IdSource
from ..delivery.pending import Pending
from ..delivery.session import Session
from ..protocol.limits import MAX_MESSAGE_BYTES
from ..transport.base import Transport, TransportInfo
from .feed import Feed
from .keys import own_card
from .types import Incoming, Peer, PeerEvent

logger = logging.getLogger(__name__)

MAX_PEERS = 4_096  # peers ever seen; past it, those that are offline and have no traffic are forgotten


class PeerState:
    """What this side knows of one peer, and its traffic with it."""

    __slots__ = (
        "cancels", "card_known", "card_skills", "description", "dial", "dial_error", "dial_failures", "distrust",
        "doubt", "fingerprint", "generation", "hello_sent", "id", "mailbox", "max_bytes", "nudge", "old", "online",
        "path", "protocol", "refused", "room_waiters", "seen", "session", "stuck_since", "up", "writable",
    )  # fmt: skip

    def __init__(self, id: str, config: MeshConfig) -> None:
        self.id = id
        self.session = Session(max_messages=config.max_inflight_per_peer)
        self.up = self.online = self.seen = False
        self.generation, self.protocol, self.max_bytes = 0, 1, MAX_MESSAGE_BYTES
        self.path = self.fingerprint = self.description = self.dial_error = ""
        self.card_skills: tuple[Mapping[str, Any], ...] = ()
        self.card_known = asyncio.Event()  # the directory told what the peer says of itself, be it nothing
        self.distrust = ""  # why it is not who it is said to be: nothing goes to it
        self.hello_sent = False  # on this channel
        self.old = False  # its agent acknowledges nothing
        self.mailbox = False  # no channel, and messages go through the mailbox now
        self.doubt = False  # there is a channel, but the peer wrote by mailbox: it may be dead without our knowing yet
        self.stuck_since: float | None = None  # since when there is work and no channel
        self.dial: asyncio.Task[None] | None = None
        self.dial_failures = 0
        self.nudge = asyncio.Event()  # wakes a dial that pauses
        self.writable: asyncio.Task[None] | None = None
        self.refused: list[str] = []  # ids to answer busy in this turn of the loop; bounded by the peer's window
        self.cancels: dict[str, float] = {}  # requests to cancel, again until it is heard, and until when; bounded
        self.room_waiters: deque[asyncio.Future[None]] = deque()  # senders that wait for the window, in order

    def view(self) -> Peer:
        """The peer as users see it."""
        state = "connected" if self.up else "online" if self.online else "offline"
        path = self.path if self.up else "mailbox" if self.mailbox else ""
        return Peer(self.id, state, self.description, self.card_skills, path, self.fingerprint, self.protocol)  # type: ignore[arg-type]


class Core:
    """The shared state of one mesh, and its clock."""

    def __init__(self, config: MeshConfig, transport: Transport) -> None:
        self.config = config
        self.name = config.name
        self.loop = asyncio.get_running_loop()
        self.now = self.loop.time
        self.ids = IdSource()
        self.card = own_card(config)  # what the mesh's root signed for us, "" for nothing
        self.transport = transport
        self.info = TransportInfo(transport.name, config.name)
        self.mailbox: Transport | None = None  # the second path
        self.peers: dict[str, PeerState] = {}
        self.pending = Pending()
        self.inbox: Feed[Incoming] = Feed(config.max_inbox)  # full: the sender is answered busy and tries again
        self.event_feeds: list[Feed[PeerEvent]] = []
        self.link_up = False
        self.link_since = 0.0
        self.closing = False
        self.counters: Counter[str] = Counter()
        self.lookup: Callable[[str], None] | None = None  # ask the registry's directory about a peer
        self.on_tick: Callable[[float], float] = lambda _now: inf
        self._snapshot: dict[str, Peer] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._tasks: set[asyncio.Task[Any]] = set()

    # peers

    def peer(self, id: str) -> PeerState:
        """The state of peer `id`, made on first use."""
        state = self.peers.get(id)
        if state is None:
            if len(self.peers) >= MAX_PEERS:
                self._forget_idle()
            state = self.peers[id] = PeerState(id, self.config)
        return state

    def has_work(self, peer: PeerState) -> bool:
        """True when something waits to go to `peer`, or a reply of it is awaited, if only that it stopped."""
        waits = bool(len(peer.session.outbox)) or next(self.pending.of(peer.id), None) is not None
        return waits or any(until > self.now() for until in peer.cancels.values())

    def changed(self) -> None:
        """A peer changed: the next look at `snapshot` sees it."""
        self._snapshot = None

    def snapshot(self) -> dict[str, Peer]:
        """All peers as users see them. May be called from any thread."""
        view = self._snapshot
        if view is None:
            self._snapshot = view = {p.id: p.view() for p in list(self.peers.values()) if p.seen}
        return view

    def emit(self, event: PeerEvent) -> None:
        """Tell everyone who listens to peer events."""
        self.changed()
        for feed in self.event_feeds:
            feed.put(event)

    def _forget_idle(self) -> None:
        for p in list(self.peers.values()):
            if not (p.up or p.online or p.session.inbox.running or self.has_work(p)):
                del self.peers[p.id]

    # the one timer

    def wake(self, at: float) -> None:
        """Run `on_tick` no later than `at`."""
        if at >= self._timer_at or self.closing:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self.loop.call_at(at, self._fire)

    def _fire(self) -> None:
        self._timer, self._timer_at = None, inf
        try:
            next_at = self.on_tick(self.now())
        except Exception:
            logger.exception("agent=%s: the timer failed", self.name)  # the mesh lives on; try again soon
            next_at = self.now() + 0.1
        if next_at < inf:
            self.wake(max(next_at, self.now() + 0.001))  # a wrong `next_at` must not spin

    # tasks

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run `work` beside; it ends with the mesh. A failure is logged and ends nothing else."""
        task = self.loop.create_task(self._guard(work, name), name=f"{self.name}:{name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guard(self, work: Coroutine[Any, Any, None], name: str) -> None:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except Exception:
            logger.exception("agent=%s: task %s failed", self.name, name)

    async def stop(self) -> None:
        """Cancel the timer and the tasks, and wait for them."""
        self.closing = True
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
