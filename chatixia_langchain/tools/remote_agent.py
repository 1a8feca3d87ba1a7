"""`RemoteAgent`: the agent of a peer as a Runnable."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing, contextmanager
from itertools import count
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.messages.utils import convert_to_messages
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import Runnable, RunnableConfig

from ..agent import text
from ..mesh.mesh import Mesh
from .base import Call
from .exchange import Exchange

RemoteInput = str | BaseMessage | PromptValue | Sequence[Any] | Mapping[str, Any]


class RemoteAgent(Runnable[RemoteInput, Any]):
    """The agent of a peer, on another machine, as a Runnable: a node of a graph, a link of a chain, a sub-agent.

    What goes to the peer is text: a string, or the human messages since the last answer in a list of messages, or,
    where there are none, the last answer of another agent. Never the whole history, system messages or tool calls: the
    peer keeps its own history of the conversation.

    What comes back is an `AIMessage` named after the peer: `usage_metadata` is what the peer and those it asked used,
    `response_metadata["mesh"]` is a `MeshToolArtifact`. Given a state, a mapping with `messages`, a state with that one
    message comes back.

    Setup:
        The mesh must be started, in this loop, another loop or (by `with Mesh(...)`) a thread of its own.

    Instantiation:
        `RemoteAgent(mesh, "researcher")`. `name` is that of its runs in traces (default: the peer's). With `skill` each
        call is one of that skill: a mapping is its arguments, text its `message`. `timeout` is in seconds (default: the
        mesh's `request_timeout_s`).

    Invocation:
        `invoke`, `ainvoke`, `batch`, `abatch`; `stream` and `astream` yield `AIMessageChunk`s while the peer writes:
        those of one step of the peer have one id. Ending a stream early cancels the peer's run. `thread_id` in the
        config continues the conversation with the peer; without one each call is a new conversation. A sync call on
        the mesh's own loop raises RuntimeError at once.

    Within an agent:
        `graph.add_node("researcher", RemoteAgent(mesh, "researcher"))`, or `prompt | RemoteAgent(...) | parser`. In a
        node the message id comes from thread, step and text, so a node that runs again is answered again and not
        worked on again; the same text twice in one node, one after the other, is one question. If the peer's agent
        pauses for a human, so does the graph: `interrupt()` with the peer's name on it.

    Raises MeshError as `Mesh.ask` does, and for what cannot be sent; RemoteInterrupted when the peer pauses and there
    is no graph to pause; ValueError for an input that has nothing to ask.
    """

    def __init__(
        self,
        mesh: Mesh,
        peer: str,
        *,
        name: str | None = None,
        skill: str | None = None,
        timeout: float | None = None,
    ) -> None:
        self.mesh, self.peer, self.skill, self.timeout_s = mesh, peer, skill, timeout
        self.name = name or peer
        self._running: set[str] = set()  # message ids of questions that wait: as many as the caller has at once
        self._lock = threading.Lock()  # sync calls come from many threads

    def __repr__(self) -> str:
        return f"RemoteAgent({self.peer!r})"

    def invoke(self, input: RemoteInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Ask, and block for the answer. Raises RuntimeError on the mesh's own loop."""
        return self._call_with_config(self._answer, input, config, run_type="chain", **kwargs)

    async def ainvoke(self, input: RemoteInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Ask, and await the answer, on any loop."""
        return await self._acall_with_config(self._aanswer, input, config, run_type="chain", **kwargs)

    def stream(self, input: RemoteInput, config: RunnableConfig | None = None, **kwargs: Any | None) -> Iterator[Any]:
        """Ask, and yield the answer while it is written. Raises RuntimeError on the mesh's own loop."""
        parts = self._transform_stream_with_config(iter([input]), self._parts, config, run_type="chain", **kwargs)
        with closing(parts):  # type: ignore[type-var]  # a generator
            yield from parts

    async def astream(
        self, input: RemoteInput, config: RunnableConfig | None = None, **kwargs: Any | None
    ) -> AsyncIterator[Any]:
        """Ask, and yield the answer while it is written, on any loop."""
        parts = self._atransform_stream_with_config(_only(input), self._aparts, config, run_type="chain", **kwargs)
        async with aclosing(parts):  # type: ignore[type-var]  # a generator
            async for part in parts:
                yield part

    def batch(
        self,
        inputs: list[RemoteInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any | None,
    ) -> list[Any]:
        """Ask all, side by side in threads. Raises RuntimeError on the mesh's own loop."""
        self.mesh.call_sync(_nothing)  # blocking that thread would leave the others without their answers
        return super().batch(inputs, config, return_exceptions=return_exceptions, **kwargs)

    def _answer(self, input: RemoteInput, run_manager: CallbackManagerForChainRun, config: RunnableConfig) -> Any:
        with self._exchange(input, run_manager, config) as exchange:
            exchange.answer()
            return _output(input, exchange.message())

    async def _aanswer(
        self, input: RemoteInput, run_manager: AsyncCallbackManagerForChainRun, config: RunnableConfig
    ) -> Any:
        with self._exchange(input, run_manager, config) as exchange:
            await exchange.aanswer()
            return _output(input, exchange.message())

    def _parts(
        self, inputs: Iterator[RemoteInput], run_manager: CallbackManagerForChainRun, config: RunnableConfig
    ) -> Iterator[Any]:
        for given in inputs:
            if _is_state(given):
                yield self._answer(given, run_manager, config)
                continue
            with self._exchange(given, run_manager, config) as exchange:
                yield from exchange.stream()

    async def _aparts(
        self, inputs: AsyncIterator[RemoteInput], run_manager: AsyncCallbackManagerForChainRun, config: RunnableConfig
    ) -> AsyncIterator[Any]:
        async for given in inputs:
            if _is_state(given):
                yield await self._aanswer(given, run_manager, config)
                continue
            with self._exchange(given, run_manager, config) as exchange:
                async with aclosing(exchange.astream()) as chunks:
                    async for chunk in chunks:
                        yield chunk

    @contextmanager
    def _exchange(self, input: RemoteInput, run_manager: Any, config: RunnableConfig) -> Iterator[Exchange]:
        options: dict[str, Any] = {"timeout": self.timeout_s, "skill": self.skill}
        content = ""
        if self.skill is not None and isinstance(input, Mapping) and not _is_state(input):
            options["arguments"] = dict(input)
        else:
            content = question(input, self.peer)
        call = self._enter(config, content or repr(options))
        try:
            yield Exchange(self.mesh, self.peer, content, options | call.options(), run_manager)
        finally:
            self._running.discard(call.message_id or "")

    def _enter(self, config: RunnableConfig, content: str) -> Call:
        """The place of a call. The same text that is asked twice at once, by `abatch` say, is two questions."""
        with self._lock:
            for nth in count():
                call = Call.in_node(self.mesh.name, config, content, to=self.peer, nth=nth)
                if call.message_id is None:
                    break
                if call.message_id not in self._running:
                    self._running.add(call.message_id)
                    break
        return call


def question(given: RemoteInput, peer: str) -> str:
    """The text of an input that `peer` must see. Pure; see `RemoteAgent`.

    Raises ValueError when there is none, TypeError for what is no input.
    """
    if isinstance(given, str):
        return given
    if isinstance(given, PromptValue):
        messages = given.to_messages()
    elif isinstance(given, Mapping):
        if "messages" not in given:
            raise ValueError(f"a state needs 'messages', this mapping has: {', '.join(map(str, given))}")
        return question(given["messages"], peer)
    elif isinstance(given, BaseMessage | Sequence):
        messages = convert_to_messages([given] if isinstance(given, BaseMessage) else given)
    else:
        raise TypeError(f"the input is a {type(given).__name__}: give text, messages, or a state with messages")
    asked: list[str] = []
    for message in reversed(messages):
        said = str(message.text)
        if isinstance(message, HumanMessage):
            asked.append(said)
        elif isinstance(message, AIMessage) and said and not message.tool_calls:
            if not any(asked) and message.name != text.safe_name(peer):
                asked.append(said)  # another agent's words, and nobody spoke since: they are what is to be answered
            break
    if not any(asked):
        raise ValueError(f"nothing to ask {peer!r}: no text of a human, or of another agent, since its last answer")
    return "\n\n".join(said for said in reversed(asked) if said)


def _is_state(given: Any) -> bool:
    return isinstance(given, Mapping) and "messages" in given


def _output(given: RemoteInput, answer: AIMessage) -> Any:
    return {"messages": [answer]} if _is_state(given) else answer


async def _only(given: RemoteInput) -> AsyncIterator[RemoteInput]:
    yield given


async def _nothing() -> None:
    pass
