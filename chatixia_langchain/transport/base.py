"""The interface of all transports. Best effort and first-in-first-out per peer; a transport owes honesty, not delivery.

The conversation with a transport:
- `await start(sink)`: connects; returns when this side is usable, or raises saying why it is not;
- from then on the transport calls `sink(event)` on the event loop for everything that happens. The sink returns
  quickly, never blocks and never raises;
- `await connect(peer)` makes a channel where there is none; `send(peer, body)` hands over one message at once
  or raises;
- `await aclose()` ends it: no event comes after it returned. It may be called twice, and from any task.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ..protocol.limits import MAX_MESSAGE_BYTES

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PeerUp:
    """A channel to `peer` opened. `protocol` 0 means an old chatixia-mesh peer, which acknowledges nothing.

    `path` is for people: "host/host", "srflx/host", "memory", "mailbox".
    """

    peer: str
    generation: int = 0
    protocol: int = 1
    max_message_bytes: int = MAX_MESSAGE_BYTES
    fingerprint: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True)
class PeerDown:
    """The channel to `peer` is gone; `generation` is that of its `PeerUp`."""

    peer: str
    generation: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PeerJoined:
    """The registry says that `peer` is online; there may be no channel yet.

    `card` is what the peer says of itself, where there is no registry to ask.
    """

    peer: str
    fingerprint: str = ""
    protocol: int = 1
    card: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class PeerLeft:
    """The registry says that `peer` went offline. An open channel may live on."""

    peer: str


class Received(msgspec.Struct, frozen=True):  # made for each message: a frozen dataclass takes five times as long
    """One message from `peer`, who is the peer of the channel and not what the message says."""

    peer: str
    body: bytes


@dataclass(frozen=True, slots=True)
class LinkState:
    """The way to the sidecar (or the registry) came up or broke. All `PeerDown`s come before `up=False`."""

    up: bool
    reason: str = ""
    peer_id: str = ""


TransportEvent = PeerUp | PeerDown | PeerJoined | PeerLeft | Received | LinkState
Sink = Callable[[TransportEvent], None]


@dataclass(slots=True)
class TransportInfo:
    """What `start` found out. `peer_id` is the name this side has in the mesh."""

    name: str
    peer_id: str
    version: str = ""
    fingerprint: str = ""
    max_message_bytes: int = MAX_MESSAGE_BYTES
    detail: dict[str, Any] = field(default_factory=dict)


class Transport(ABC):
    """One way to reach peers. All methods are called on the loop that `start` ran on."""

    name: str = "?"
    why: str = ""
    """Why it was chosen, for people."""
    card: Mapping[str, Any] | None = None
    """What other agents may know of this one. Set before `start`; transports with a registry leave it to that."""
    _sink: Sink | None = None

    def _emit(self, event: TransportEvent) -> None:
        """Hand `event` to the sink, if this transport is open. A sink that raises must not end a reader."""
        if self._sink is None:
            return
        try:
            self._sink(event)
        except Exception:
            logger.exception("the sink raised at %s", type(event).__name__)

    @abstractmethod
    async def start(self, sink: Sink) -> TransportInfo:
        """Connect.

        Raises SidecarNotFound, SidecarFailed, RegistryRefused or LinkDown; after an error the transport is closed.
        """

    @abstractmethod
    def send(self, peer: str, body: bytes) -> None:
        """Hand over one message (one line of JSON). Returning means: on its way, best effort, in order.

        Never waits. Raises PeerUnreachable (no open channel), MessageTooBig, LinkDown, InvalidLine (not one line with
        an object), Busy (the window to this peer is full: call again after `await writable(peer)`).
        """

    @abstractmethod
    async def writable(self, peer: str) -> None:
        """Return when `send` to `peer` is worth another try: its window has room, or it is gone."""

    @abstractmethod
    async def connect(self, peer: str, *, timeout_s: float = 15.0) -> None:
        """Make a channel to `peer` (no-op when there is one). Concurrent calls share one dial.

        Raises PeerUnreachable or LinkDown. Cancelling is safe: the dial goes on in the background.
        """

    @abstractmethod
    async def disconnect(self, peer: str) -> None:
        """Close the channel to `peer`; the peer is told."""

    @abstractmethod
    async def status(self) -> dict[str, Any]:
        """What this transport knows of its links, JSON-plain: `{"peers": {id: {"state", "path", "rtt_ms", ...}}}`."""

    @abstractmethod
    async def aclose(self) -> None:
        """Stop reading, close the channels, free everything. Idempotent; from any task of the loop."""
