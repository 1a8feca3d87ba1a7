"""The text of an agent's own model calls while they run: deltas with the number of the call, counted from 0.

Not what tools say, not the models inside tools, not what a peer's model says (its text is shown by whoever asked it),
not reasoning. What a stream lacks is in the answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, GenerationChunk, LLMResult
from langchain_core.runnables import Runnable, RunnableConfig

from .usage import REMOTE_TAG

Emit = Callable[[str, int], Awaitable[None]]
"""Takes a delta of text and the number of the model call it belongs to."""

HIDDEN_TAGS = frozenset({REMOTE_TAG, "nostream"})  # "nostream" is langgraph's own word for "do not show this"


class OwnText(AsyncCallbackHandler):
    """Emits the text of the chat models that run in a turn, but for those below a tool."""

    run_inline = True  # a run must be known before its children

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._inside: set[UUID] = set()  # runs of tools, and all below them: as many as the turn has
        self._steps: dict[UUID, int] = {}  # our own model calls by run
        self._silent: set[UUID] = set()  # those that have said nothing yet

    def _below(self, run_id: UUID, parent_run_id: UUID | None) -> bool:
        if parent_run_id in self._inside:
            self._inside.add(run_id)
        return run_id in self._inside

    async def on_tool_start(self, serialized: dict[str, Any], input_str: str, *, run_id: UUID, **_: Any) -> None:
        """Note that all below is a tool's."""
        self._inside.add(run_id)

    async def on_chain_start(
        self, serialized: Any, inputs: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **_: Any
    ) -> None:
        """Note what is below a tool."""
        self._below(run_id, parent_run_id)

    async def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        **_: Any,
    ) -> None:
        """Count a model call of the agent's own."""
        if not self._below(run_id, parent_run_id) and HIDDEN_TAGS.isdisjoint(tags or ()):
            self._steps[run_id] = len(self._steps)
            self._silent.add(run_id)

    async def on_llm_new_token(
        self, token: Any, *, chunk: GenerationChunk | ChatGenerationChunk | None = None, run_id: UUID, **_: Any
    ) -> None:
        """Emit a delta."""
        await self._say(run_id, chunk.message.text if isinstance(chunk, ChatGenerationChunk) else "")

    async def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        """Emit the text of a model that does not stream."""
        if run_id in self._silent:
            message = getattr(response.generations[0][0], "message", None) if response.generations else None
            await self._say(run_id, message.text if isinstance(message, BaseMessage) else "")

    async def _say(self, run_id: UUID, said: str) -> None:
        step = self._steps.get(run_id)
        if step is not None and said:
            self._silent.discard(run_id)
            await self._emit(str(said), step)


async def stream_graph(graph: Runnable[Any, Any], given: Any, config: RunnableConfig, emit: Emit, **how: Any) -> Any:
    """Run a compiled graph, emit its own text, and return its last state, `__interrupt__` in it when it paused.

    The mode "messages" is asked for because it makes models stream; the text itself comes by the callback, which also
    knows what runs below a tool.
    """
    callbacks = [*_callbacks(config), OwnText(emit)]
    parts: Any = graph.astream(given, {**config, "callbacks": callbacks}, stream_mode=["messages", "values"], **how)
    state: Any = {}
    async with aclosing(parts):
        async for mode, part in parts:
            if mode == "values":
                state = part
    return state


async def stream_runnable(agent: Runnable[Any, Any], given: Any, config: RunnableConfig, emit: Emit) -> Any:
    """Run any Runnable, emit its output where that is text or a message, and return the whole output."""
    whole: Any = None
    parts: Any = agent.astream(given, config)
    async with aclosing(parts):
        async for part in parts:
            whole = part if whole is None else _sum(whole, part)
            if isinstance(part, str | BaseMessage):
                said = part if isinstance(part, str) else str(part.text)
                if said:
                    await emit(said, 0)
    return whole


def _sum(whole: Any, part: Any) -> Any:
    try:
        return whole + part
    except TypeError:  # outputs that do not add up: the last one is the output, as in langchain-core
        return part


def _callbacks(config: RunnableConfig) -> Sequence[Any]:
    given = config.get("callbacks")
    return given if isinstance(given, list) else []
