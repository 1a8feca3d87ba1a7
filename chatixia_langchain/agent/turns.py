"""What is to be done with a message: run it, answer it again, hold it, or take it as a decision.

- a message that was worked on before is answered from its thread, and never run again;
- a thread that is paused takes nothing but a decision on what it waits with.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from ..errors import Cancelled, MeshError, RemoteError
from ..mesh.types import Incoming
from .answers import LOCAL
from .held_mail import HeldMail
from .history import History
from .outcome import Runner
from .paused import Decision, Paused, Pauses
from .policy import InboundPolicy
from .serving import Serving

logger = logging.getLogger(__name__)


class Turns:
    """Decides on the messages of one agent, for a `Router`; `Serving` runs them."""

    def __init__(self, runner: Runner, policy: InboundPolicy, pauses: Pauses, mail: HeldMail, serving: Serving) -> None:
        self._runner, self._policy, self._pauses, self._mail, self._serving = runner, policy, pauses, mail, serving
        self._answers = serving.answers

    async def take(self, thread: str, batch: list[Incoming]) -> bool:
        """See `Router`. Only the cancellation of the whole agent leaves it."""
        batch = [m for m in batch if not m.cancelled.is_set()]
        if not batch:
            return True
        last = batch[-1]
        if last.expects_reply and not last.ttl_s:
            await last.fail(Cancelled("its time was over before its turn came", executed="no"))
            return True
        try:
            return await self._take(thread, batch)
        except Exception as exc:
            logger.exception("no turn peer=%s id=%s", last.peer, last.message_id)
            await self._answers.failed(thread, last, exc)
            return True

    async def again(self, thread: str, request: Incoming) -> bool:
        """See `Router`."""
        try:
            history = await self._runner.look(thread)
            if not _repeats(request, history, history.ids()):
                return False
            await self._again(thread, request, history, request.message_id)
        except Exception as exc:
            logger.exception("no answer peer=%s id=%s", request.peer, request.message_id)
            await self._answers.failed(thread, request, exc)
        return True

    async def held(self, messages: list[Incoming]) -> None:
        """See `Router`."""
        try:
            await self._mail.keep(messages)
        except Exception:  # they still wait in memory
            logger.exception("held mail not written ids=%s", [m.message_id for m in messages])

    async def pause(self, thread: str, peer: str, conversation: str) -> Paused | None:
        """What a thread waits with, by its checkpointer's word; None when it is not paused."""
        history = await self._runner.look(thread)
        if not history.interrupts:
            await self._pauses.drop(thread)
            return None
        known = self._pauses.get(thread)
        if known is None or known.message_id != history.last_id or known.interrupts != history.interrupts:
            known = Paused.found(peer, conversation, history)
            await self._pauses.put(thread, known)
        return known

    async def _take(self, thread: str, batch: list[Incoming]) -> bool:
        last = batch[-1]
        try:
            decision = Decision.read(last)
        except MeshError as exc:
            await last.fail(exc)
            return True
        history = await self._runner.look(thread)
        if decision is not None:
            await self._decide(thread, last, decision, history)
            return True
        known = history.ids()
        new = [m for m in batch if not _repeats(m, history, known)]
        if last.expects_reply and not new:  # a request has a batch of its own
            await self._again(thread, last, history, last.message_id)
            return True
        if history.interrupts:
            await self.pause(thread, last.peer, last.conversation)
            return not new
        if new:
            await self._serving.run(thread, new, history)
        await self._mail.done(batch)
        return True

    async def _again(self, thread: str, request: Incoming, history: History, id_: str) -> None:
        """Answer a request that was worked on before a restart: with what its turn came to."""
        if history.interrupts and history.last_id == id_:
            paused = await self.pause(thread, request.peer, request.conversation)
            if paused is not None:
                await self._answers.paused(thread, paused, request)
            return
        answer = history.answer(id_)
        if answer is None:
            await request.fail(RemoteError("the agent was restarted in the middle of this request", executed="unknown"))
        else:
            await self._answers.ended(thread, request, answer)

    async def _decide(self, thread: str, message: Incoming, decision: Decision, history: History) -> None:
        if not await self._pauses.begin(thread, message.message_id):
            await self._again(thread, message, history, decision.of)
            return
        fault = self._fault(decision, history, local=message.path == LOCAL)
        if fault:
            await message.fail(MeshError(fault, code="refused", executed="no"))
        else:
            await self._serving.run(thread, [message], history, decision.values)

    def _fault(self, decision: Decision, history: History, *, local: bool) -> str:
        """Why a decision cannot be taken up, "" when it can."""
        waits = {i.id for i in history.interrupts}
        if not waits:
            return "this conversation waits for no decision"
        if decision.of != history.last_id:
            return f"this conversation waits with message {history.last_id!r}, not with {decision.of!r}"
        if not local and (self._policy.approvals == "local" or not history.last.get("asked")):
            return "what this conversation waits with is decided on its agent's side"
        unknown = sorted(set(decision.values) - waits)
        return f"it waits with no interrupt {unknown[0]!r}; with: {', '.join(sorted(waits))}" if unknown else ""


def _repeats(message: Incoming, history: History, known: Collection[str]) -> bool:
    """True for a message that was worked on, and is not to be worked on again.

    A request that its asker cancelled in the middle, and now asks again, is to be.
    """
    id_ = message.message_id
    if id_ not in known:
        return False
    paused = bool(history.interrupts) and history.last_id == id_
    return message.attempt == 1 or paused or history.answer(id_) is not None
