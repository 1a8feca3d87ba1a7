"""Ask, send, broadcast and answer, on the mesh's own loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from math import inf
from typing import Any

from ..delivery.inbox import Answer
from ..delivery.outbox import QUEUED, Entry
from ..delivery.pending import Waiting
from ..errors import Busy, MeshClosed, MeshError, MeshTimeout, MessageTooBig, PeerUnreachable, Undeliverable
from ..protocol.envelope import Frame
from ..protocol.limits import is_message_id, is_peer_id
from . import frames
from .context import Turn, place_of
from .core import Core, PeerState
from .outgoing import Outgoing
from .trace import child
from .types import Incoming, Receipt, Reply

SEND_TTL_S = 300.0  # as long as the registry's mailbox keeps a message by default
BROADCAST_ROOM_S = 2.0  # one slow peer must not hold up the answer about all the others
ANSWER_TTL_S = 10.0  # a reply is offered for what is left of the request's time, and at least this long


class Requests:
    """What users ask of a mesh."""

    def __init__(self, core: Core, out: Outgoing) -> None:
        self.core, self.out = core, out

    def target(self, peer: str) -> PeerState:
        """The state of a peer that is about to be written to. Raises MeshClosed, ValueError, PeerUnreachable."""
        core = self.core
        if core.closing:
            raise MeshClosed(f"the mesh of {core.name!r} is closed", executed="no")
        state = core.peers.get(peer)
        if state is None:
            if not is_peer_id(peer):
                raise ValueError(f"peer {peer!r} is not a peer id")
            state = core.peer(peer)
        if peer == core.name:
            raise PeerUnreachable(peer, "that is this agent itself")
        return state

    async def ask(
        self,
        peer: str,
        content: str,
        turn: Turn | None = None,
        sink: Any = None,
        *,
        conversation: str | None = None,
        timeout: float | None = None,
        message_id: str | None = None,
        skill: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        hops: int | None = None,
        chain: Iterable[str] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Reply:
        """See `Mesh.ask`. `turn` is the turn it is made in; `sink` takes chunks of the answer while it is written."""
        core = self.core
        to = self.target(peer)
        wait_s = core.config.request_timeout_s if timeout is None else timeout
        place = place_of(turn, core.name, hops, chain)
        if turn is not None:
            wait_s = turn.timeout(wait_s)
        id_ = self._id(message_id)
        if id_ in core.pending:
            raise ValueError(f"message id {id_!r} waits for a reply already")
        conversation = conversation or id_
        body = frames.message(
            "request", id_, core.name, peer, content,
            conversation=conversation, epoch=core.ids.epoch, ttl_s=wait_s, place=place, trace=child(place.trace),
            skill=skill, arguments=arguments, meta=meta, stream=sink is not None,
        )  # fmt: skip
        self._check_size(to, body)
        started = core.now()
        deadline = started + wait_s
        if to.room_waiters or not to.session.outbox.has_room(len(body)):
            try:
                await self.out.room(to, len(body), deadline)
            except Busy as exc:
                raise MeshTimeout(
                    f"no room to ask {peer!r} within {wait_s:.3g} s: {exc.message}", executed="no"
                ) from None
            self.target(peer)  # closed meanwhile?
        answer: asyncio.Future[tuple[Frame, str]] = core.loop.create_future()
        core.pending.add(Waiting(id_, peer, started, deadline, answer, sink))
        try:
            self.out.submit(to, Entry(id_, body, "request", started, deadline))
            core.wake(deadline)
            frame, path = await answer
        except BaseException:
            if id_ in core.pending:  # cancelled by the caller
                self.out.abandon(to, id_)
            raise
        part = frame.mesh
        meta = part.meta if part is not None and part.meta else {}
        reply = Reply(frame.text(), peer, conversation, id_, path, core.now() - started, meta)
        if turn is not None:
            turn.spent.add_peer(peer, reply.usage)
        return reply

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
        conversation = conversation or id_
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
        names = [p.id for p in core.peers.values() if p.up or p.online] if to is None else list(dict.fromkeys(to))
        options["conversation"] = conversation or core.ids.next()
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

    # answers

    async def answer(
        self,
        peer: PeerState,
        incoming: Incoming,
        task: bool,
        old: bool,
        answer: str | MeshError,
        meta: Mapping[str, Any] | None,
    ) -> None:
        """Send the one answer to a request, from any loop; `old`: to an agent of the existing mesh.

        Raises MessageTooBig (the asker is told too) and MeshClosed.
        """
        core = self.core
        if core.closing or not core.loop.is_running():
            raise MeshClosed(f"the mesh of {core.name!r} is closed: the answer was not sent")
        if asyncio.get_running_loop() is not core.loop:
            work = self.answer(peer, incoming, task, old, answer, meta)
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, core.loop))
        elif old:
            self._answer_old(peer, incoming, task, answer)
        else:
            self._answer_once(peer, incoming, task, answer, meta)

    def _answer_once(
        self, peer: PeerState, incoming: Incoming, task: bool, answer: str | MeshError, meta: Mapping[str, Any] | None
    ) -> None:
        id_ = incoming.message_id
        too_big: MessageTooBig | None = None
        kept = self._answer(peer, incoming, task, answer, meta)
        if len(kept.body) > peer.max_bytes:
            too_big = MessageTooBig(len(kept.body), peer.max_bytes)
            told = MeshError(f"the answer is too big: {too_big.message}", code=too_big.code, executed="yes")
            kept = self._answer(peer, incoming, task, told, None)
        if peer.session.inbox.answer(id_, kept):
            self._offer(peer, kept, incoming.ttl_s)
            peer.session.acks.implied(id_)
        if too_big is not None:
            raise too_big

    def _answer(
        self, peer: PeerState, incoming: Incoming, task: bool, answer: str | MeshError, meta: Mapping[str, Any] | None
    ) -> Answer:
        me, corr, conversation, id_ = self.core.name, incoming.message_id, incoming.conversation, self.core.ids.next()
        if isinstance(answer, MeshError):
            return Answer(
                id_, frames.error(id_, me, peer.id, answer, corr=corr, conversation=conversation, task=task), "error"
            )
        body = frames.reply(id_, me, peer.id, answer, corr=corr, conversation=conversation, task=task, meta=meta)
        return Answer(id_, body, "reply")

    def answer_again(self, peer: PeerState, id_: str, conversation: str, task: bool) -> None:
        """A request that was answered came again: its answer goes again, and it is not run again."""
        core = self.core
        kept = peer.session.inbox.again(id_)
        if kept is None:
            fault = Undeliverable(
                "this request was answered before, and its answer is no longer kept", retryable=False, executed="yes"
            )
            new = core.ids.next()
            kept = Answer(
                new,
                frames.error(new, core.name, peer.id, fault, corr=id_, conversation=conversation, task=task),
                "error",
            )
        waiting = peer.session.outbox.entries.get(kept.id)
        if waiting is not None and waiting.state == QUEUED:
            return  # it is about to go
        # Under an id of its own: an acknowledgement of the first copy, still on its way, must not end this one.
        # It takes the place of that one: on a wire that breaks again and again copies would pile up.
        new = core.ids.next()
        copy = Answer(new, frames.with_id(kept.body, new), kept.kind)
        peer.session.outbox.drop(kept.id)
        peer.session.inbox.replace(id_, copy)
        self._offer(peer, copy, ANSWER_TTL_S)

    def _offer(self, peer: PeerState, answer: Answer, ttl_s: float) -> None:
        now = self.core.now()
        self.out.submit(peer, Entry(answer.id, answer.body, answer.kind, now, now + max(ttl_s, ANSWER_TTL_S)))

    def _answer_old(self, peer: PeerState, incoming: Incoming, task: bool, answer: str | MeshError) -> None:
        """Best effort, nothing comes back."""
        core = self.core
        words = {"fault": answer.message} if isinstance(answer, MeshError) else {"result": answer}
        body = frames.old_reply(core.name, peer.id, corr=incoming.message_id, task=task, **words)
        if len(body) > peer.max_bytes:
            raise MessageTooBig(len(body), peer.max_bytes)
        if not peer.old:  # an agent that can acknowledge, but did not ask in that way
            self.out.control(peer, body)
            return
        now = core.now()
        self.out.submit(peer, Entry(core.ids.next(), body, "reply", now, now + ANSWER_TTL_S))

    def _id(self, given: str | None) -> str:
        if given is None:
            return self.core.ids.next()
        if not is_message_id(given):
            raise ValueError(f"message_id {given!r} is not 1 to 64 of A-Z a-z 0-9 _ -")
        return given

    def _check_size(self, peer: PeerState, body: bytes) -> None:
        if len(body) > peer.max_bytes:
            raise MessageTooBig(len(body), peer.max_bytes)
