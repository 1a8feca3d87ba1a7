"""Ask, send and broadcast, on the mesh's own loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping
from math import inf
from typing import Any

from ..delivery.outbox import Entry
from ..delivery.pending import Waiting
from ..errors import (
    Busy,
    IdentityMismatch,
    MeshClosed,
    MeshError,
    MeshTimeout,
    MessageTooBig,
    PeerUnreachable,
    RemoteError,
)
from ..protocol.envelope import MAX_CONVERSATION_CHARS, Frame
from ..protocol.limits import is_message_id, is_peer_id
from . import frames
from .budget import Usage
from .context import Turn, place_of
from .core import Core, PeerState
from .fanout import several
from .outgoing import Outgoing
from .trace import LANGSMITH, ask_span, child, langsmith_run, recording
from .types import Receipt, Reply

SEND_TTL_S = 300.0  # as long as the registry's mailbox keeps a message by default
BROADCAST_ROOM_S = 2.0  # one slow peer must not hold up the answer about all the others


class Requests:
    """What users ask of a mesh."""

    def __init__(self, core: Core, out: Outgoing) -> None:
        self.core, self.out = core, out

    def target(self, peer: str) -> PeerState:
        """The state of a peer that is about to be written to.

        Raises MeshClosed, ValueError, PeerUnreachable, IdentityMismatch.
        """
        core = self.core
        if core.closing:
            raise MeshClosed(f"the mesh of {core.name!r} is closed", executed="no")
        state = core.peers.get(peer)
        if state is None:
            if not is_peer_id(peer):
                raise ValueError(f"peer {peer!r} is not a peer id")
            state = core.peer(peer)
        if state.distrust:
            raise IdentityMismatch(peer, state.distrust)
        if peer == core.name:
            raise PeerUnreachable(peer, "that is this agent itself")
        return state

    def ask(
        self, peer: str, content: str, turn: Turn | None = None, sink: Any = None, **options: Any
    ) -> Coroutine[Any, Any, Reply]:
        """See `Mesh.ask`. `turn` is the turn it is made in; `sink` takes chunks of the answer while it is written."""
        if recording():
            return self._traced(peer, content, turn, sink, **options)
        return self._ask(peer, content, turn, sink, **options)

    async def _traced(self, peer: str, content: str, turn: Turn | None, sink: Any, **options: Any) -> Reply:
        with ask_span(peer, "" if turn is None else turn.trace) as span:
            reply = await self._ask(peer, content, turn, sink, span.header, **options)
            span.answered(reply)
            return reply

    async def _ask(
        self,
        peer: str,
        content: str,
        turn: Turn | None,
        sink: Any,
        header: str = "",
        *,
        timeout: float | None = None,
        message_id: str | None = None,
        conversation: str | None = None,
        skill: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        hops: int | None = None,
        chain: Iterable[str] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Reply:
        core = self.core
        to = self.target(peer)
        wait_s = core.config.request_timeout_s if timeout is None else timeout
        if turn is not None:
            wait_s = turn.timeout(wait_s)
        id_ = self._id(message_id)
        if id_ in core.pending:
            raise ValueError(f"message id {id_!r} waits for a reply already")
        conversation = _conversation(conversation) or id_
        place = place_of(turn, core.name, hops, chain)
        run = langsmith_run()
        if run:
            meta = {**(meta or {}), LANGSMITH: run}
        body = frames.message(
            "request", id_, core.name, peer, content,
            conversation=conversation, epoch=core.ids.epoch, ttl_s=wait_s, place=place, stream=sink is not None,
            trace=header or child(place.trace), skill=skill, arguments=arguments, meta=meta,
        )  # fmt: skip
        self._check_size(to, body)
        started = core.now()
        deadline = started + wait_s
        if to.room_waiters or not to.session.outbox.has_room(len(body)):
            await self._room_to_ask(to, len(body), deadline, wait_s)
        try:
            frame, path = await self._exchange(to, id_, body, started, deadline, sink)
        except RemoteError as exc:
            if turn is not None:  # what failed has cost something too
                turn.spent.add_peer(peer, Usage.decode(exc.meta.get("usage")))
            raise
        part = frame.mesh
        said = part.meta if part is not None and part.meta else {}
        reply = Reply(frame.text(), peer, conversation, id_, path, core.now() - started, said)
        if turn is not None:
            turn.spent.add_peer(peer, reply.usage)
        return reply

    async def _exchange(
        self, to: PeerState, id_: str, body: bytes, started: float, deadline: float, sink: Any
    ) -> tuple[Frame, str]:
        """Send a request and wait for what answers it, and the path it came by."""
        core = self.core
        answer: asyncio.Future[tuple[Frame, str]] = core.loop.create_future()
        to.cancels.pop(id_, None)  # it is asked again
        core.pending.add(Waiting(id_, to.id, started, deadline, answer, sink))
        try:
            self.out.submit(to, Entry(id_, body, "request", started, deadline))
            core.wake(deadline)
            return await answer
        except BaseException:
            if id_ in core.pending:  # cancelled by the caller
                self.out.abandon(to, id_)
            raise

    async def _room_to_ask(self, to: PeerState, size: int, deadline: float, wait_s: float) -> None:
        try:
            await self.out.room(to, size, deadline)
        except Busy as exc:
            why = f"no room to ask {to.id!r} within {wait_s:.3g} s: {exc.message}"
            raise MeshTimeout(why, executed="no") from None
        self.target(to.id)  # closed meanwhile?

    async def send(
        self, peer: str, content: str, turn: Turn | None = None, room_s: float = inf, **options: Any
    ) -> Receipt:
        """See `Mesh.send`. `room_s`: wait for room no longer than this."""
        to, entry = self._entry(peer, content, turn, **options)
        if to.room_waiters or not to.session.outbox.has_room(len(entry.body)):
            await self.out.room(to, len(entry.body), min(entry.deadline, entry.accepted + room_s))
            self.target(peer)  # closed meanwhile?
        self.out.submit(to, entry)
        return entry.owner  # type: ignore[no-any-return]

    def send_nowait(self, peer: str, content: str, turn: Turn | None = None, **options: Any) -> Receipt:
        """See `Mesh.send_nowait`."""
        to, entry = self._entry(peer, content, turn, **options)
        if to.room_waiters or not to.session.outbox.has_room(len(entry.body)):
            raise Busy(f"the window to {peer!r} is full")
        self.out.submit(to, entry)
        return entry.owner  # type: ignore[no-any-return]

    def _entry(
        self,
        peer: str,
        content: str,
        turn: Turn | None,
        *,
        conversation: str | None = None,
        ttl: float | None = None,
        message_id: str | None = None,
        hops: int | None = None,
        chain: Iterable[str] | None = None,
        meta: Mapping[str, Any] | None = None,
        broadcast: bool = False,
    ) -> tuple[PeerState, Entry]:
        core = self.core
        to = self.target(peer)
        ttl_s = SEND_TTL_S if ttl is None else ttl
        id_ = self._id(message_id)
        conversation = _conversation(conversation) or id_
        place = place_of(turn, core.name, hops, chain)
        body = frames.message(
            "message", id_, core.name, peer, content,
            conversation=conversation, epoch=core.ids.epoch, ttl_s=ttl_s, place=place,
            trace=child(place.trace) if place.trace else "", broadcast=broadcast, meta=meta,
        )  # fmt: skip
        self._check_size(to, body)
        now = core.now()
        return to, Entry(id_, body, "message", now, now + ttl_s, Receipt(id_, peer, conversation))

    async def broadcast(
        self,
        content: str,
        to: Iterable[str] | None,
        turn: Turn | None = None,
        *,
        conversation: str | None = None,
        **options: Any,
    ) -> dict[str, Receipt | MeshError]:
        """See `Mesh.broadcast`."""
        core = self.core
        if core.closing:
            raise MeshClosed(f"the mesh of {core.name!r} is closed", executed="no")
        names = [p.id for p in core.peers.values() if p.up or p.online] if to is None else several(to)
        options["conversation"] = _conversation(conversation) or core.ids.next()
        results = await asyncio.gather(*(self._one(name, content, turn, options) for name in names))
        return dict(zip(names, results, strict=True))

    async def _one(self, peer: str, content: str, turn: Turn | None, options: Mapping[str, Any]) -> Receipt | MeshError:
        """One share of a broadcast: a failure is its result, so that it spoils no other."""
        try:
            receipt = await self.send(peer, content, turn, BROADCAST_ROOM_S, broadcast=True, **options)
            to = self.core.peers[peer]
            if not (to.up or to.seen):  # nobody knows it: the answer comes within seconds, and is better than a promise
                await receipt.delivered()
        except MeshError as exc:
            return exc
        except ValueError as exc:
            return MeshError(str(exc), code="invalid_line", executed="no")
        if receipt.state == "undeliverable":
            return PeerUnreachable(peer, to.dial_error or "not known here")
        return receipt

    def _id(self, given: str | None) -> str:
        if given is None:
            return self.core.ids.next()
        if not is_message_id(given):
            raise ValueError(f"message_id {given!r} is not 1 to 64 of A-Z a-z 0-9 _ -")
        return given

    def _check_size(self, peer: PeerState, body: bytes) -> None:
        if len(body) > peer.max_bytes:
            raise MessageTooBig(len(body), peer.max_bytes)


def _conversation(given: str | None) -> str:
    """The id of a conversation, "" for none. What the peer could not read is refused here: there it is only dropped."""
    if given is not None and not isinstance(given, str):
        raise TypeError(f"conversation is a {type(given).__name__}, it must be a str")
    if given is not None and len(given) > MAX_CONVERSATION_CHARS:
        raise ValueError(f"conversation has {len(given)} characters, the limit is {MAX_CONVERSATION_CHARS}")
    return given or ""
