"""What the mesh hands to its users: peers, replies, receipts, incoming messages. Plain data; times in seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from ..errors import MeshError
from .budget import Budget, Usage

Path = Literal["channel", "mailbox", "memory"]
PeerState = Literal["connected", "online", "offline"]

DETACHED = "detached"
"""Key of a request's `meta`. True: the work goes on when the asker's agent is restarted, for it will ask again."""

MAX_INTERRUPTS = 64  # of one reply; an agent that asks more at once is not asking a human


@dataclass(frozen=True, slots=True)
class Peer:
    """One other agent. `connected` has an open channel, `online` is known to the registry, `offline` was seen before.

    `description` and `skills` come from the peer's card and are text that the peer wrote: data, never instructions.
    """

    id: str
    state: PeerState
    description: str = ""
    skills: tuple[Mapping[str, Any], ...] = ()
    path: str = ""
    fingerprint: str = ""
    protocol: int = 1


@dataclass(frozen=True, slots=True)
class PeerEvent:
    """A peer changed: `joined`/`left` by the registry's word, `connected`/`disconnected` by its channel.

    `refused`: what answered at this name is not the peer that is known by it; `reason` says why.
    """

    kind: Literal["joined", "left", "connected", "disconnected", "refused"]
    peer: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RemoteInterrupt:
    """One question a peer's agent waits with: resume it by `id`. `value` is JSON that the peer wrote: data."""

    id: str
    value: Any


class ReplyChunk(msgspec.Struct, frozen=True):  # made for each token: a frozen dataclass takes five times as long
    """A piece of a reply while it is written. `step` counts the model calls of the peer's turn, from 0."""

    text: str
    step: int = 0


class Reply(msgspec.Struct, frozen=True):  # on the hot path, as above
    """The answer to an `ask`. `path` tells how it came, `latency_s` how long it took from the call."""

    content: str
    peer: str
    conversation: str
    message_id: str
    path: str
    latency_s: float = 0.0
    meta: Mapping[str, Any] = {}

    @property
    def usage(self) -> Usage:
        """What the peer says that it used for this request; empty when it says nothing that makes sense."""
        return Usage.decode(self.meta.get("usage"))

    @property
    def interrupts(self) -> tuple[RemoteInterrupt, ...]:
        """What the peer's agent waits for; empty for a finished answer. What makes no sense is left out."""
        raw = self.meta.get("interrupts")
        if not isinstance(raw, list):
            return ()
        good = [i for i in raw[:MAX_INTERRUPTS] if isinstance(i, dict) and isinstance(i.get("id"), str)]
        return tuple(RemoteInterrupt(i["id"], i.get("value")) for i in good)


@dataclass(slots=True)
class Receipt:
    """A message was accepted by this side's outbox; `await delivered()` tells what became of it.

    `state`: `accepted`, then once and for all `delivered` (the peer's agent has it), `sent` (an old peer that
    acknowledges nothing) or `undeliverable` (`reason` says why). `path` is how it went, "" until known.
    """

    message_id: str
    peer: str
    conversation: str
    state: Literal["accepted", "delivered", "sent", "undeliverable"] = "accepted"
    path: str = ""
    reason: str = ""
    _done: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    async def delivered(self) -> Receipt:
        """Wait for the final state, at most the time to live, and return self; raises nothing but CancelledError.

        On the mesh's own loop only; other loops use `mesh.delivered(receipt)`.
        """
        await self._done.wait()
        return self

    def settle(self, state: Literal["delivered", "sent", "undeliverable"], *, path: str = "", reason: str = "") -> None:
        """Set the final state (the first one wins). Called by the mesh."""
        if self.state == "accepted":
            self.state, self.path, self.reason = state, path, reason
            self._done.set()


@dataclass(slots=True)
class Incoming:
    """One message that a peer's agent sent to this one.

    `content` is text the peer wrote: data. `skill` and `arguments` are set when the peer calls a named skill. `ttl_s`
    is what is left of its time. `expects_reply` is True for an `ask`: then exactly one of `reply` and `fail` is sent
    (later calls do nothing), from any loop. `cancelled` is set when the asker waits no longer: wait for it on the
    mesh's own loop, look at it (`is_set`) anywhere. `stream` is True when the asker wants `chunk`s of the answer.
    `budget` is what the asker grants to the whole tree, `trace` a W3C traceparent: both as the peer says, unchecked.
    """

    peer: str
    content: str
    conversation: str
    message_id: str
    expects_reply: bool
    hops: int = 0
    ttl_s: float = 60.0
    broadcast: bool = False
    skill: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    chain: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    path: str = ""
    attempt: int = 1
    stream: bool = False
    budget: Budget | None = None
    trace: str = ""
    cancelled: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    _answer: Callable[[str | MeshError, Mapping[str, Any] | None], Awaitable[None]] | None = field(
        default=None, repr=False
    )
    _chunk: Callable[[str, int], None] | None = field(default=None, repr=False)

    async def chunk(self, text: str, step: int = 0) -> None:
        """Show the asker a piece of the answer before it is whole; `step` counts the model calls of this turn.

        From any loop, and never waits for the peer. Does nothing when the asker did not ask for it, after the answer,
        once cancelled, and over the mailbox. What finds no room is dropped: the reply holds the whole text.
        Raises TypeError or ValueError for what cannot be sent.
        """
        if self._chunk is not None and self._answer is not None and not self.cancelled.is_set():
            self._chunk(text, step)

    async def reply(self, content: str, *, meta: Mapping[str, Any] | None = None) -> None:
        """Answer the request. Does nothing for a message that expects no reply, and after the first answer."""
        await self._once(content, meta)

    async def fail(self, error: MeshError, *, meta: Mapping[str, Any] | None = None) -> None:
        """Answer the request with an error: its code, retryable and executed reach the asker, and `meta`."""
        await self._once(error, meta)

    async def _once(self, answer: str | MeshError, meta: Mapping[str, Any] | None) -> None:
        send, self._answer = self._answer, None
        if send is None:
            return
        try:
            await send(answer, meta)
        except (ValueError, TypeError):  # text that cannot be written as UTF-8, say: the request may still be failed
            self._answer = send
            raise
