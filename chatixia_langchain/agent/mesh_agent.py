"""`MeshAgent`: messages of peers become conversations of an agent, and its answers go back.

async with Mesh("researcher", registry=url, api_key=key, description="finds facts") as mesh:
    await MeshAgent(mesh, create_agent(model, tools)).serve()
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.messages import HumanMessage, add_notification_metadata
from langchain_core.runnables import RunnableConfig

from ..errors import Busy, Cancelled, MeshError, RemoteError
from ..mesh.mesh import Mesh
from ..mesh.types import Incoming
from . import text
from .context import Turn, current_turn
from .conversation import Router, thread_id
from .policy import InboundPolicy as InboundPolicy  # the public name is taken from here
from .runner import runner_of
from .store import ConversationStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TurnEvent:
    """One turn began, ended or failed: for logs and displays. `answer` is "" unless it ended."""

    kind: str
    thread_id: str
    messages: tuple[Incoming, ...]
    answer: str = ""
    error: str = ""


class MeshAgent:
    """Serves `agent` to the mesh.

    `agent` is a compiled graph, a chat model, an `AsyncOpenAI` client (with `model_name`), a `ChatLoop`, any Runnable
    over messages, or an async function of one `Incoming`. Its history is kept by its checkpointer where it has one,
    else here, bounded, in memory.

    What a peer wrote reaches the model as a `HumanMessage` named after the peer, fenced and labelled as data. A
    request is always answered: by the agent's last text, or by an error that tells the peer nothing of our insides.
    Messages and broadcasts expect no reply and get none.

    `max_concurrency` bounds the turns at once (of requests of the same number of hops), `max_queue` the messages that
    wait in one conversation: a request past it is refused as busy, anything else waits. `max_hops` (default 8) is that
    of the policy.
    """

    def __init__(
        self,
        mesh: Mesh,
        agent: Any,
        *,
        policy: InboundPolicy | None = None,
        max_concurrency: int = 8,
        max_queue: int = 64,
        max_hops: int | None = None,
        model_name: str | None = None,
        store: ConversationStore | None = None,
        recursion_limit: int = 25,
        on_turn: Callable[[TurnEvent], None] | None = None,
    ) -> None:
        self.mesh = mesh
        self._run = runner_of(agent, model_name=model_name, store=store)
        self._policy = policy or InboundPolicy()
        if max_hops is not None:
            self._policy = replace(self._policy, max_hops=max_hops)
        self._limits = (max_concurrency, max_queue)
        self._recursion_limit = recursion_limit
        self._on_turn = on_turn or (lambda event: None)

    def thread_id(self, peer: str, conversation: str) -> str:
        """The `thread_id` that a peer's conversation has in the agent's checkpointer."""
        return thread_id(self.mesh.name, peer, conversation)

    async def serve(self) -> None:
        """Serve until the mesh is closed or this call is cancelled; turns that run then are cancelled. On any loop."""
        await self.mesh.call(self._serve)

    async def _serve(self) -> None:
        concurrency, queue = self._limits
        skills = [str(skill.get("name")) for skill in self.mesh.config.skills]
        router = Router(self.mesh.name, self._turn, max_concurrency=concurrency, max_queue=queue)
        try:
            async for message in self.mesh.incoming():
                refusal = self._policy.refuse(self.mesh.name, message, skills)
                if refusal is not None:
                    logger.warning("refused peer=%s id=%s code=%s", message.peer, message.message_id, refusal.code)
                    await message.fail(refusal)
                    continue
                try:
                    await router.feed(message)
                except Busy as exc:
                    logger.warning("no room peer=%s id=%s: %s", message.peer, message.message_id, exc)
                    await message.fail(exc)
        finally:
            await router.aclose()

    async def _turn(self, thread: str, batch: list[Incoming]) -> None:
        """Run one turn and answer its request. Only the cancellation of the whole agent leaves it."""
        batch = [m for m in batch if not m.cancelled.is_set()]
        if not batch:
            return
        last = batch[-1]
        if last.expects_reply and not last.ttl_s:
            await last.fail(Cancelled("its time was over before its turn came", executed="no"))
            return
        self._tell(TurnEvent("began", thread, tuple(batch)))
        work = asyncio.create_task(self._work(thread, batch), name=f"mesh-turn-{last.message_id}")
        gone = asyncio.create_task(last.cancelled.wait(), name=f"mesh-cancel-{last.message_id}")
        try:
            async with asyncio.timeout(last.ttl_s if last.expects_reply else None):
                await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            logger.info("turn ran out of time peer=%s id=%s", last.peer, last.message_id)
        finally:
            for task in (work, gone):
                if not task.done():
                    task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
        await self._answer(thread, batch, work)

    def _tell(self, event: TurnEvent) -> None:
        try:
            self._on_turn(event)
        except Exception:  # a display that breaks must not cost a peer its answer
            logger.exception("on_turn raised kind=%s thread=%s", event.kind, event.thread_id)

    async def _work(self, thread: str, batch: list[Incoming]) -> str:
        last = batch[-1]
        current_turn.set(Turn.of(last))
        config: RunnableConfig = {
            "configurable": {"thread_id": thread},
            "run_name": "mesh-turn",
            "tags": ["chatixia"],
            "metadata": {"mesh": {"peer": last.peer, "conversation": last.conversation, "message_id": last.message_id}},
            "recursion_limit": self._recursion_limit,
        }
        return await self._run(batch, [_human(m) for m in batch], config)

    async def _answer(self, thread: str, batch: list[Incoming], work: asyncio.Task[str]) -> None:
        last = batch[-1]
        if work.cancelled():
            self._tell(TurnEvent("failed", thread, tuple(batch), error="cancelled"))
            await last.fail(Cancelled("the request was cancelled, or its time is over"))
            return
        error = work.exception()
        if error is None:
            self._tell(TurnEvent("ended", thread, tuple(batch), answer=work.result()))
            if last.broadcast and self._policy.reply_to_broadcasts:
                await self._send_back(last, work.result())
            await self._reply(last, work.result())
            return
        # The peer learns that we failed, not how: a traceback tells a stranger too much.
        logger.error("turn failed peer=%s id=%s", last.peer, last.message_id, exc_info=error)
        self._tell(TurnEvent("failed", thread, tuple(batch), error=type(error).__name__))
        await last.fail(RemoteError(f"{self.mesh.name!r} failed while it worked on the request", executed="yes"))

    async def _send_back(self, broadcast: Incoming, answer: str) -> None:
        place: dict[str, Any] = {"hops": broadcast.hops + 1, "chain": (*broadcast.chain, self.mesh.name)}
        try:
            await self.mesh.send(broadcast.peer, answer, conversation=broadcast.conversation, **place)
        except (MeshError, ValueError) as exc:
            logger.warning("answer not sent peer=%s id=%s: %s", broadcast.peer, broadcast.message_id, exc)

    async def _reply(self, request: Incoming, answer: str) -> None:
        try:
            await request.reply(answer)
        except MeshError as exc:  # too big, say: the mesh told the peer so
            logger.warning("answer not sent peer=%s id=%s: %s", request.peer, request.message_id, exc)
        except ValueError as exc:  # lone surrogates, say
            logger.warning("answer not sent peer=%s id=%s: %s", request.peer, request.message_id, exc)
            await request.fail(RemoteError("the answer is not text that can be sent", executed="yes"))


def _human(message: Incoming) -> HumanMessage:
    """The message for a model: our own object, our own id, plain text. Nothing a peer sent is deserialised."""
    human = HumanMessage(text.from_peer(message), name=text.safe_name(message.peer))
    data = {"peer": message.peer, "conversation": message.conversation, "message_id": message.message_id}
    return add_notification_metadata(human, source="chatixia_mesh", data=data)
