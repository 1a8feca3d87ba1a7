"""What peers are told of a turn: its text, what it waits for, or that it failed, and nothing of our insides."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from ..errors import Cancelled, MeshError, RemoteError
from ..mesh.budget import Usage
from ..mesh.mesh import Mesh
from ..mesh.types import Incoming
from . import text
from .lane import HELD_MARGIN_S, fail_held
from .paused import Paused, Pauses
from .policy import InboundPolicy
from .supervisor import for_peer

logger = logging.getLogger(__name__)

LOCAL = "local"  # the path of a decision that was made on this side; peers' messages have that of their transport


class Answers:
    """Answers requests. Where the policy lets only this side decide, a request of a paused turn waits here."""

    def __init__(self, mesh: Mesh, policy: InboundPolicy, pauses: Pauses) -> None:
        self._mesh, self._policy, self._pauses = mesh, policy, pauses
        self._owed: dict[str, Incoming] = {}  # by thread; as many as threads are paused on a request that still waits
        self._timers: set[asyncio.Task[None]] = set()  # one for each of them

    def owed(self, thread: str) -> Incoming | None:
        """The request that waits for the decision on a paused thread."""
        return self._owed.get(thread)

    async def aclose(self) -> None:
        """Stop waiting: requests that wait get no answer, as all whose agent goes away."""
        for timer in self._timers:
            timer.cancel()
        await asyncio.gather(*self._timers, return_exceptions=True)

    async def ended(self, thread: str, last: Incoming, answer: str, usage: Usage | None = None) -> None:
        """A turn ended with `answer`."""
        if last.broadcast and self._policy.reply_to_broadcasts:
            await self._send_back(last, answer)
        meta = {"usage": usage.to_json()} if usage is not None else None
        for request in self._settled(thread, last):
            await self._reply(request, answer, meta)

    async def failed(self, thread: str, last: Incoming, error: BaseException, usage: Usage | None = None) -> None:
        """A turn failed. The peer learns that, not how: a traceback tells a stranger too much."""
        told = error if isinstance(error, Cancelled) else for_peer(error)
        if told is None:
            told = RemoteError(f"{self._mesh.name!r} failed while it worked on the request", executed="yes")
        meta = {"usage": usage.to_json()} if usage is not None else None
        for request in self._settled(thread, last):
            await request.fail(told, meta=meta)

    async def paused(self, thread: str, paused: Paused, request: Incoming, usage: Usage | None = None) -> None:
        """A turn waits for a decision: tell the peer, or let its request wait for the decision of this side."""
        if not request.expects_reply:
            return
        if self._policy.approvals == "local" and request.path != LOCAL:
            self._owe(thread, request)
            return
        meta: dict[str, Any] = {"interrupts": [{"id": i.id, "value": i.value} for i in paused.interrupts]}
        if usage is not None:
            meta["usage"] = usage.to_json()
        await self._reply(request, text.waits_for_decision(len(paused.interrupts)), meta)

    def _settled(self, thread: str, last: Incoming) -> list[Incoming]:
        """Whom the end of a turn is told: who asked, and who waited for the decision that it goes back to."""
        owed = self._owed.pop(thread, None)
        return [last] if owed is None or owed is last else [last, owed]

    def _owe(self, thread: str, request: Incoming) -> None:
        self._owed[thread] = request
        self._pauses.waiting(thread, True)
        timer = asyncio.create_task(self._wait(thread, request), name=f"mesh-owed-{request.message_id}")
        self._timers.add(timer)
        timer.add_done_callback(self._timers.discard)

    async def _wait(self, thread: str, request: Incoming) -> None:
        """Until the asker gives up, or its time is nearly over: then it hears why."""
        try:
            async with asyncio.timeout(max(0.0, request.ttl_s - HELD_MARGIN_S)):
                await request.cancelled.wait()
        except TimeoutError:
            await fail_held(request)  # does nothing once it was answered
        if self._owed.get(thread) is request:
            del self._owed[thread]
            self._pauses.waiting(thread, False)

    async def _send_back(self, broadcast: Incoming, answer: str) -> None:
        hops, chain = broadcast.hops + 1, (*broadcast.chain, self._mesh.name)
        try:
            await self._mesh.send(broadcast.peer, answer, conversation=broadcast.conversation, hops=hops, chain=chain)
        except (MeshError, ValueError) as exc:
            logger.warning("answer not sent peer=%s id=%s: %s", broadcast.peer, broadcast.message_id, exc)

    async def _reply(self, request: Incoming, answer: str, meta: dict[str, Any] | None) -> None:
        try:
            await request.reply(answer, meta=meta)
        except MeshError as exc:  # too big, say: the mesh told the peer so
            logger.warning("answer not sent peer=%s id=%s: %s", request.peer, request.message_id, exc)
        except ValueError as exc:  # lone surrogates, say
            logger.warning("answer not sent peer=%s id=%s: %s", request.peer, request.message_id, exc)
            await request.fail(RemoteError("the answer is not text that can be sent", executed="yes"))
