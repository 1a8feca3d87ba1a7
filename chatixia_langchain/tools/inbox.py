"""Mail for an agent that works: what peers send while it runs, when no `MeshAgent` serves the mesh.

- messages are taken out of the mesh's inbox before a model call; what nobody takes waits there, and senders are told
  busy once it is full
- a request is held open until `mesh_reply` answers it, under a reference that is made here: ids are the peers' own
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from langchain_core.runnables import RunnableConfig
from pydantic import BaseModel, Field

from ..agent import text
from ..agent.policy import InboundPolicy
from ..agent.served import served
from ..errors import MeshError, RemoteError
from ..mesh.mesh import Mesh
from ..mesh.types import Incoming
from .base import Injected, tool_runtime
from .door import DoorTool

logger = logging.getLogger(__name__)

REPLY = "mesh_reply"
MAX_TAKEN = 32  # messages before one model call: more would not fit its attention, and the rest comes before the next
MAX_OPEN = 256  # requests held open; past it nothing is taken, and the mesh's inbox fills
MAX_ANSWERED = 256  # answers remembered, so that a tool node that runs again is not told that it failed


class ReplyInput(BaseModel):
    """Arguments of an answer."""

    message_id: str = Field(description="The message_id that came with the question.")
    content: str = Field(description="The answer.")
    runtime: Injected = None


class Inbox:
    """The mail of one mesh. All methods on the mesh's loop."""

    def __init__(self, mesh: Mesh, policy: InboundPolicy) -> None:
        self._mesh, self._policy = mesh, policy
        self._open: dict[str, tuple[float, Incoming]] = {}  # by reference, with the deadline
        self._answered: dict[str, tuple[str, str]] = {}  # by reference: digest of the answer, peer

    async def take(self) -> list[tuple[str, Incoming]]:
        """What came in, oldest first, each with its reference ("" for one that expects no reply)."""
        taken: list[tuple[str, Incoming]] = []
        if self._mesh in served:
            return taken
        self._forget()
        mail = self._mesh.incoming()
        while len(taken) < MAX_TAKEN and len(self._open) < MAX_OPEN:
            message = mail.nowait()
            if message is None:
                break
            refused = self._policy.refuse(self._mesh.name, message)
            if refused is not None:
                logger.warning("refused peer=%s id=%s code=%s", message.peer, message.message_id, refused.code)
                await message.fail(refused)
            elif not message.cancelled.is_set():
                taken.append((self._hold(message), message))
        return taken

    def waits(self, references: Iterable[str]) -> bool:
        """True when one of these requests still waits for its answer. From any thread."""
        return any(r in self._open for r in references)

    async def answer(self, reference: str, content: str) -> str:
        """Answer a request, and return the peer's name.

        Raises ValueError when nobody waits for it, and MessageTooBig.
        """
        if self._answered.get(reference, ("", ""))[0] == _digest(content):  # the tool node runs again
            return self._answered[reference][1]
        self._forget()
        if reference not in self._open:
            raise ValueError(text.no_such_request(reference))
        _, message = self._open[reference]
        try:
            await message.reply(content)
        except MeshError:  # too big, say: the peer was told so. A ValueError leaves it open: another text may go.
            del self._open[reference]
            raise
        del self._open[reference]
        self._answered[reference] = _digest(content), message.peer
        if len(self._answered) > MAX_ANSWERED:
            del self._answered[next(iter(self._answered))]
        return message.peer

    async def close(self, references: Iterable[str]) -> None:
        """Fail those of these requests that were not answered: their agent is done."""
        for reference in references:
            _, message = self._open.pop(reference, (0.0, None))
            if message is not None:
                logger.info("not answered peer=%s id=%s", message.peer, message.message_id)
                await message.fail(
                    RemoteError(f"{self._mesh.name!r} ended its work without an answer to this", executed="yes")
                )

    def _hold(self, message: Incoming) -> str:
        if not message.expects_reply:
            return ""
        reference = "m-" + _digest(f"{message.peer}\0{message.message_id}")
        self._open[reference] = (asyncio.get_running_loop().time() + message.ttl_s, message)
        return reference

    def _forget(self) -> None:
        now = asyncio.get_running_loop().time()
        over = [r for r, (deadline, m) in self._open.items() if now >= deadline or m.cancelled.is_set()]
        for reference in over:
            del self._open[reference]


def _digest(what: str) -> str:
    return hashlib.sha256(what.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class MeshReplyTool(DoorTool):
    """Answer a request that came in with the mail. Only the run that was shown it can answer it.

    Instantiation:
        By `MeshMiddleware(mesh, inbox=True)`.

    Invocation:
        By the model: `{"message_id": ..., "content": ...}`, with the id that stands beside the question.

    Within an agent:
        It is offered while a question of this run waits.
    """

    name: str = REPLY
    description: str = text.REPLY
    args_schema: Any = ReplyInput
    inbox: Inbox = Field(exclude=True, repr=False)

    async def _work(
        self, arguments: dict[str, Any], runtime: Any, config: RunnableConfig | None
    ) -> tuple[str, dict[str, Any]]:
        reference = arguments["message_id"]
        state = getattr(tool_runtime(runtime), "state", None)
        shown = state.get("mesh_requests") or () if isinstance(state, Mapping) else ()
        if reference not in shown:
            raise ValueError(text.no_such_request(reference))
        peer = await self.inbox.answer(reference, arguments["content"])
        return text.replied(peer), {"peer": peer, "message_id": reference}
