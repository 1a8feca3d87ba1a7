"""Whatever a user calls an agent, as one `Runner`: see `runner_of`. Compiled graphs are in `graph_runner.py`."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import Runnable

from ..mesh.types import Incoming
from .chat_loop import ChatLoop
from .graph_runner import GraphRunner, StatelessGraph, is_graph
from .history import History
from .models import is_openai_client
from .outcome import Job, Outcome, Runner, answer_text
from .store import ConversationStore, MemoryStore
from .streaming import Emit, stream_runnable


def runner_of(agent: Any, *, model_name: str | None = None, store: ConversationStore | None = None) -> Runner:
    """Make the runner for `agent`: a compiled graph, a chat model, an AsyncOpenAI client, a ChatLoop, any Runnable
    over messages, or an async function of one Incoming.

    Raises TypeError for anything else.
    """
    if isinstance(agent, ChatLoop):
        return LoopRunner(agent)
    if isinstance(agent, BaseChatModel) or is_openai_client(agent):
        return LoopRunner(ChatLoop(agent, model_name=model_name, store=store))
    if is_graph(agent):
        return GraphRunner(agent) if agent.checkpointer else StatelessGraph(agent, store or MemoryStore())
    if isinstance(agent, Runnable):
        return RunnableRunner(agent, store or MemoryStore())
    if inspect.iscoroutinefunction(agent) or inspect.iscoroutinefunction(getattr(agent, "__call__", None)):  # noqa: B004
        return FunctionRunner(agent)
    raise TypeError(
        f"cannot serve a {type(agent).__name__}: give a compiled graph, a chat model, an AsyncOpenAI client, "
        "a ChatLoop, a Runnable over messages, or an async function of one Incoming"
    )


class LoopRunner:
    """A `ChatLoop`, which keeps its own history."""

    def __init__(self, loop: ChatLoop) -> None:
        self._loop = loop

    async def look(self, thread: str) -> History:
        """What the loop's store has."""
        return History(await self._loop.store.load(thread))

    async def run(self, job: Job) -> Outcome:
        """Run one turn of the loop."""
        steps = Steps(job.emit)
        last: AIMessage = AIMessage("")
        async for part in self._loop.astream(job.messages(), thread_id=job.thread, config=job.config):
            if isinstance(part, AIMessageChunk):
                await steps.delta(str(part.text))
            elif isinstance(part, AIMessage):
                await steps.end(str(part.text))
                last = part
        return Outcome(str(last.text))


class Steps:
    """Deltas of one model call after the other, as `Emit` wants them."""

    def __init__(self, emit: Emit | None) -> None:
        self._emit, self._step, self._said = emit, 0, False

    async def delta(self, text: str) -> None:
        """Show a piece of the present step."""
        if self._emit is not None and text:
            self._said = True
            await self._emit(text, self._step)

    async def end(self, text: str) -> None:
        """A model call is over; `text` is all it said, shown now if the model does not stream."""
        if not self._said:
            await self.delta(text)
        self._step, self._said = self._step + 1, False


class RunnableRunner:
    """Any Runnable over messages; its history is kept here."""

    def __init__(self, agent: Runnable[Any, Any], store: ConversationStore) -> None:
        self._agent, self._store = agent, store

    async def look(self, thread: str) -> History:
        """What the store has."""
        return History(await self._store.load(thread))

    async def run(self, job: Job) -> Outcome:
        """Run one turn over the whole history, and keep it when it ended."""
        came = job.messages()
        given = [*job.history.messages, *came]
        if job.emit is None:
            result = await self._agent.ainvoke(given, job.config)
        else:
            result = await stream_runnable(self._agent, given, job.config, job.emit)
        answer = answer_text(result)
        await self._store.append(job.thread, [*came, AIMessage(answer)])
        return Outcome(answer)


class FunctionRunner:
    """An async function of one `Incoming`. It keeps what it wants to keep, and may call `incoming.chunk` itself."""

    def __init__(self, function: Callable[[Incoming], Awaitable[Any]]) -> None:
        self._function = function

    async def look(self, thread: str) -> History:
        """Nothing: functions keep no history here."""
        return History()

    async def run(self, job: Job) -> Outcome:
        """Call the function for each message; the answer is what the last call returned."""
        answer = ""
        for message in job.came:
            answer = answer_text(await self._function(message))
        return Outcome(answer)
