"""`MeshAgent`: messages of peers become conversations of an agent, and its answers go back.

async with Mesh("researcher", registry=url, api_key=key, description="finds facts") as mesh:
    await MeshAgent(mesh, create_agent(model, tools)).serve()
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import Busy, MeshClosed, MeshError
from ..mesh.mesh import Mesh
from ..mesh.types import Incoming
from .answers import LOCAL, Answers
from .conversation import Router, thread_id
from .database import Database
from .held_mail import HeldMail
from .paused import Paused, Pauses
from .policy import InboundPolicy as InboundPolicy  # the public name is taken from here
from .runner import runner_of
from .served import served
from .serving import Serving
from .serving import TurnEvent as TurnEvent
from .skills import SkillChecks
from .sqlite_store import SQLiteStore
from .store import ConversationStore
from .supervisor import Supervisor
from .turns import Turns

logger = logging.getLogger(__name__)

DATABASE = "agent.sqlite"  # in the mesh's `state_dir`
DECISION_S = 300.0  # for the turn that goes on after a decision of this side


class MeshAgent:
    """Serves an agent to the mesh: messages of peers become its conversations, and its answers go back.

    What a peer wrote reaches the model as a `HumanMessage` named after the peer, fenced and labelled as data. A
    request is always answered: by the agent's last text, by what it waits for, or by an error that tells the peer
    nothing of our insides. Messages and broadcasts expect no reply and get none.

    What a turn started by a peer may use is the policy's to say: by default no tool that acts (`InboundPolicy`).

    A graph that pauses (`interrupt`) holds further mail of that conversation until a decision comes: from the peer that
    asked, or, with `InboundPolicy(approvals="local")`, from this side by `paused()` and `resume()`. With a `state_dir`
    what waits outlives the process, mail included. Requests that wait in vain are failed as `held`.

    Setup:
        The mesh must be started before `serve`. One mesh is served by one agent.

    Instantiation:
        `MeshAgent(mesh, agent)`, where `agent` is a compiled graph, a chat model, an `AsyncOpenAI` client (with
        `model_name`), a `ChatLoop`, any Runnable over messages, or an async function of one `Incoming`. Its history is
        kept by its checkpointer where it has one, else here: bounded, in `store`, in the mesh's `state_dir` if that is
        set, else in memory.

        `max_concurrency` bounds the turns at once (of requests of the same number of hops), `max_queue` the messages
        that wait in one conversation: a request past it is refused as busy, anything else waits, or, while the
        conversation is paused, is dropped with a warning. `max_hops` (default 8) is that of the policy. `on_turn` hears
        what turns do.

    Invocation:
        `await served.serve()` until it is cancelled or the mesh is closed.

    Within an agent:
        What the agent asks of other peers in a turn carries the place and the budget of the request it serves; tools
        made of the same mesh need nothing for it.

    Raises TypeError for an agent that cannot be served.
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
        self.mesh, self._agent = mesh, agent
        policy = policy or InboundPolicy()
        if max_hops is not None:
            policy = replace(policy, max_hops=max_hops)
        self._supervisor = Supervisor(policy)
        folder = mesh.config.state_dir
        self._file = Database(Path(folder) / DATABASE) if folder else None
        if store is None and self._file is not None:
            store = SQLiteStore(self._file)
        runner = runner_of(agent, model_name=model_name, store=store)
        self._pauses = Pauses(self._file)
        answers = Answers(mesh, policy, self._pauses)
        show = on_turn or (lambda event: None)
        self._serving = Serving(
            mesh.config.name,
            runner,
            self._supervisor,
            self._pauses,
            answers,
            limit=recursion_limit,
            on_turn=show,
        )
        self._mail = HeldMail(self._file)
        self._turns = Turns(runner, policy, self._pauses, self._mail, self._serving)
        self._limits = (max_concurrency, max_queue)
        self._skills = SkillChecks(mesh.config.skills)
        self._router: Router | None = None
        self._deciding: set[asyncio.Future[str]] = set()  # calls of `resume` that wait: the lanes bound them

    def thread_id(self, peer: str, conversation: str) -> str:
        """The `thread_id` that a peer's conversation has in the agent's checkpointer."""
        return thread_id(self.mesh.name, peer, conversation)

    async def serve(self) -> None:
        """Serve until the mesh is closed or this call is cancelled; turns that run then are cancelled. On any loop."""
        await self.mesh.call(self._serve)

    def paused(self) -> list[Paused]:
        """The conversations that wait for a decision, oldest first; after a restart those that `state_dir` has."""
        return self._pauses.all()

    async def resume(self, peer: str, conversation: str, values: Mapping[str, Any]) -> str:
        """Decide what a paused conversation waits with: `values` by interrupt id. On any loop.

        Returns the text that the turn then ends with; where it paused again, `paused` has it again. The peer's request,
        if it still waits, is answered too. Cancelling stops the waiting only.

        Raises MeshError: `refused` when nothing waits there or an id is unknown, `busy`, and what the turn fails with.
        """
        return await self.mesh.call(self._resume, peer, conversation, values)

    async def _resume(self, peer: str, conversation: str, values: Mapping[str, Any]) -> str:
        router = self._router
        if router is None:
            raise MeshError("the agent is not serving", code="refused", executed="no")
        paused = await self._turns.pause(self.thread_id(peer, conversation), peer, conversation)
        if paused is None:
            why = f"conversation {conversation!r} of {peer!r} waits for no decision"
            raise MeshError(why, code="refused", executed="no")
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._deciding.add(done)
        try:
            await router.feed(_decision(paused, values, done))
            return await done
        finally:
            self._deciding.discard(done)

    async def _serve(self) -> None:
        concurrency, queue = self._limits
        await self._pauses.load()
        self._supervisor.warn(self.mesh.name, self._agent)
        router = self._router = Router(
            self.mesh.name, self._turns, max_concurrency=concurrency, max_queue=queue, on_drop=self._dropped
        )
        served.add(self.mesh)
        try:
            for held in await self._mail.load():
                router.restore(held)
            async for message in self.mesh.incoming():
                await self._take(router, message)
        finally:
            served.discard(self.mesh)
            self._router = None
            await router.aclose()
            await self._serving.answers.aclose()
            for done in self._deciding:
                if not done.done():
                    done.set_exception(
                        MeshClosed("the agent stopped serving before the turn ended", executed="unknown")
                    )
            if self._file is not None:
                await self._file.close()

    async def _take(self, router: Router, message: Incoming) -> None:
        policy = self._supervisor.policy
        refusal = policy.refuse(self.mesh.name, message, self._skills.names) or self._skills.refuse(message)
        if refusal is None:
            try:
                await router.feed(message)
            except Busy as exc:
                refusal = exc
        if refusal is not None:
            logger.warning("refused peer=%s id=%s: %s", message.peer, message.message_id, refusal)
            await message.fail(refusal)

    def _dropped(self, thread: str, message: Incoming) -> None:
        self._serving.tell(TurnEvent("dropped", thread, (message,)))


def _decision(paused: Paused, values: Mapping[str, Any], done: asyncio.Future[str]) -> Incoming:
    """A decision of this side, in the form of a peer's; what it comes to goes to `done`."""

    async def answer(result: str | MeshError, _: Mapping[str, Any] | None) -> None:
        if done.done():
            return
        if isinstance(result, MeshError):
            done.set_exception(result)
        else:
            done.set_result(result)

    return Incoming(
        paused.peer,
        "",
        paused.conversation,
        f"decision-{uuid.uuid4().hex}",
        True,
        hops=paused.hops,
        ttl_s=DECISION_S,
        chain=paused.chain,
        meta={"resume": {"of": paused.message_id, "values": dict(values)}},
        path=LOCAL,
        _answer=answer,
    )
