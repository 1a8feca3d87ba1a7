"""Compiled LangGraph graphs: with a checkpointer they keep their own history, may pause, and go on where they stopped.

langgraph itself is imported only when a paused graph goes on: then it is there.
"""

from __future__ import annotations

import json
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, RemoveMessage
from langchain_core.runnables import Runnable

from ..mesh.types import RemoteInterrupt
from .history import History
from .orphans import repairs
from .outcome import Job, Outcome, answer_text
from .store import ConversationStore
from .streaming import stream_graph

REMOVE_ALL = "__remove_all__"  # langgraph's word in a RemoveMessage: what follows it replaces the whole history


def is_graph(agent: Any) -> bool:
    """True for a compiled graph."""
    return isinstance(agent, Runnable) and hasattr(agent, "checkpointer") and hasattr(agent, "aget_state")


class GraphRunner:
    """A graph with a checkpointer."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph

    async def look(self, thread: str) -> History:
        """What the checkpointer has.

        A task that failed after its question was answered can be asked no more: such a thread is not paused, its turn
        was cut off.
        """
        state = await self._graph.aget_state({"configurable": {"thread_id": thread}})
        values = state.values if isinstance(state.values, dict) else {}
        failed = any(task.error is not None for task in state.tasks)
        return History(
            list(values.get("messages", ())),
            () if failed else _plain(state.interrupts),
            bool(state.next),
        )

    async def run(self, job: Job) -> Outcome:
        """Run one turn, or go on with the one that is paused."""
        given: Any
        if job.resume is None:
            given = {"messages": _mended(job)}
        else:
            from langgraph.types import Command

            given = Command(resume=dict(job.resume))
        # "sync": what a step did is on disk before the next begins. Else a tool could act, the process die, and the
        # same message come again as one that nobody knows.
        result = await _run(self._graph, given, job, durability="sync")
        if not _is_paused(result):
            return Outcome(answer_text(result))
        # Of several questions only some may have been answered: the checkpointer has those that are open.
        return Outcome(interrupts=(await self.look(job.thread)).interrupts)


class StatelessGraph:
    """A graph without a checkpointer; its history is kept here."""

    def __init__(self, graph: Any, store: ConversationStore) -> None:
        self._graph, self._store = graph, store

    async def look(self, thread: str) -> History:
        """What the store has."""
        return History(await self._store.load(thread))

    async def run(self, job: Job) -> Outcome:
        """Run one turn over the whole history, and keep its messages and its answer.

        Raises RuntimeError when the graph pauses: without a checkpointer it could never go on.
        """
        came = job.messages()
        result = await _run(self._graph, {"messages": [*job.history.messages, *came]}, job)
        if _is_paused(result):
            raise RuntimeError("the graph paused on an interrupt, and has no checkpointer: compile it with one")
        answer = answer_text(result)
        await self._store.append(job.thread, [*came, AIMessage(answer)])
        return Outcome(answer)


async def _run(graph: Any, given: Any, job: Job, **how: Any) -> Any:
    if job.emit is None:
        return await graph.ainvoke(given, job.config, **how)
    return await stream_graph(graph, given, job.config, job.emit, **how)


def _is_paused(result: Any) -> bool:
    return isinstance(result, dict) and bool(result.get("__interrupt__"))


def _plain(interrupts: Any) -> tuple[RemoteInterrupt, ...]:
    """Interrupts as they can travel: what is no JSON in their values becomes its `str`."""
    return tuple(RemoteInterrupt(i.id, json.loads(json.dumps(i.value, default=str))) for i in interrupts)


def _mended(job: Job) -> list[BaseMessage]:
    """The messages of a turn, after error results for calls of earlier turns that got none."""
    had = list(job.history.messages)
    whole = repairs(had)
    if whole[: len(had)] == had:  # at the end, as a turn that was cut off leaves it: results are simply added
        return [*whole[len(had) :], *job.messages()]
    return [RemoveMessage(REMOVE_ALL), *whole, *job.messages()]
