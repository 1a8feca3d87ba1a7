"""`ChatLoop`: the small agent loop without langgraph. Model, tools, results, until the model has said all.

    loop = ChatLoop(AsyncOpenAI(), model_name="gpt-4o", tools=[MeshTool(mesh, peer="researcher")])
    answer = await loop.ainvoke("what is known of X?", thread_id="t1")

- each tool call has a result before the next step and before the loop ends, cancelled turns excepted: those are not
  stored
- a thread's turns run one after another; the history is stored when a turn is whole
- in a turn that a peer started, tools that the policy keeps back are not offered, and a call of one is an error result
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool

from . import text
from .guard import allowed
from .models import port_of
from .store import ConversationStore, MemoryStore
from .tool_calls import assemble, ended, failed, run_all

TOOL_TIMEOUT_S = 120.0  # a tool that says nothing for this long will not say anything


class ChatLoop:
    """An agent of one model and some tools, without langgraph.

    Setup:
        Nothing for a LangChain chat model; the extra `openai` for `openai.AsyncOpenAI`.

    Instantiation:
        `ChatLoop(model, tools=[...])`, or `ChatLoop(AsyncOpenAI(), model_name="gpt-5-mini", tools=[...])`. `max_steps`
        bounds the model calls of one turn, `tool_timeout_s` each tool. `store` keeps the conversations (default:
        bounded, in memory).

    Invocation:
        `await loop.ainvoke("hello", thread_id="t1")`; `astream` yields chunks and whole messages as they come. Without
        a `thread_id` nothing is kept.

    Within an agent:
        It is one: `MeshAgent(mesh, loop)` serves it. Tools that the policy keeps from a peer's turn are not offered.

    Raises TypeError for another kind of model, ValueError for a missing model name or two tools of one name.
    """

    def __init__(
        self,
        model: Any,
        *,
        model_name: str | None = None,
        tools: Sequence[BaseTool] = (),
        system_prompt: str | None = None,
        store: ConversationStore | None = None,
        max_steps: int = 8,
        tool_timeout_s: float = TOOL_TIMEOUT_S,
    ) -> None:
        self._port = port_of(model, model_name)
        self._tools = {t.name: t for t in tools}
        if len(self._tools) != len(tools):
            raise ValueError(f"two tools have the same name: {sorted(t.name for t in tools)}")
        self._system = [SystemMessage(system_prompt)] if system_prompt else []
        self._store: ConversationStore = store if store is not None else MemoryStore()
        self._max_steps, self._tool_timeout_s = max_steps, tool_timeout_s
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def tools_by_name(self) -> Mapping[str, BaseTool]:
        """The tools of this agent."""
        return self._tools

    @property
    def store(self) -> ConversationStore:
        """Where its conversations are kept."""
        return self._store

    async def ainvoke(
        self, messages: str | Sequence[BaseMessage], *, thread_id: str = "", config: RunnableConfig | None = None
    ) -> AIMessage:
        """Run one turn and return the last message.

        `thread_id` continues a conversation; "" makes one that is not kept.
        """
        last: BaseMessage = AIMessage("")
        async for message in self.astream(messages, thread_id=thread_id, config=config):
            if not isinstance(message, AIMessageChunk):
                last = message
        return last if isinstance(last, AIMessage) else AIMessage(last.text)

    async def astream(
        self, messages: str | Sequence[BaseMessage], *, thread_id: str = "", config: RunnableConfig | None = None
    ) -> AsyncIterator[BaseMessage]:
        """Run one turn; yields AIMessageChunks as they come, each AIMessage when it is whole, and each ToolMessage."""
        given = [HumanMessage(messages)] if isinstance(messages, str) else list(messages)
        config = _with_thread(config, thread_id)
        lock = self._locks.setdefault(thread_id, asyncio.Lock()) if thread_id else asyncio.Lock()
        async with lock:
            history = await self._store.load(thread_id) if thread_id else []
            new: list[BaseMessage] = []
            async for message in self._turn([*self._system, *history, *given], new, config):
                yield message
            if thread_id:
                await self._store.append(thread_id, [*given, *new])

    async def _turn(
        self, before: list[BaseMessage], new: list[BaseMessage], config: RunnableConfig
    ) -> AsyncIterator[BaseMessage]:
        for step in range(1, self._max_steps + 1):
            chunks: list[BaseMessage] = []
            async for chunk in self._port.step([*before, *new], allowed(self._tools.values()), config):
                chunks.append(chunk)
                if isinstance(chunk, AIMessageChunk):
                    yield chunk
            answer, asked = assemble(chunks)
            note = text.unfinished(ended(answer)) if not asked else ""
            if note:
                answer = answer.model_copy(update={"content": f"{answer.text}\n{note}".lstrip()})
            new.append(answer)
            yield answer
            if not asked:
                return
            results: list[ToolMessage]
            if step == self._max_steps:
                results = [failed(a.call, text.NOT_RUN_STEPS) for a in asked]
            else:
                results = await run_all(asked, self._tools, config, self._tool_timeout_s)
            for result in results:
                new.append(result)
                yield result
        new.append(AIMessage(text.STEP_LIMIT))
        yield new[-1]


def _with_thread(config: RunnableConfig | None, thread_id: str) -> RunnableConfig:
    made: RunnableConfig = {**(config or {})}
    if thread_id:
        made["configurable"] = {**made.get("configurable", {}), "thread_id": thread_id}
    return made
