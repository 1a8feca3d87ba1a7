"""The one answer of a request: sent from any loop, kept, and sent again when the request comes again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from ..delivery.inbox import Answer
from ..delivery.outbox import QUEUED, Entry
from ..errors import MeshClosed, MeshError, MessageTooBig, Undeliverable
from . import frames
from .core import Core, PeerState
from .outgoing import Outgoing
from .types import Incoming

ANSWER_TTL_S = 10.0  # a reply is offered for what is left of the request's time, and at least this long


class Answers:
    """What this mesh answers its peers."""

    def __init__(self, core: Core, out: Outgoing) -> None:
        self.core, self.out = core, out

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
        if peer.session.inbox.running.get(id_) is not incoming:
            return  # cancelled, and perhaps asked again: what the first run says must not end the second
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
                id_,
                frames.error(id_, me, peer.id, answer, corr=corr, conversation=conversation, task=task, meta=meta),
                "error",
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
