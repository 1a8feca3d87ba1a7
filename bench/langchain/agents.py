"""The agents that every system runs: a specialist whose model says the time, a planner that asks it, and an echo.

The specialist's words are readings of the machine's monotonic clock, made as each word leaves the model: whoever reads
a word, in whichever process, knows how long it was on its way.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolCall, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import BaseTool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph

ORDER = re.compile(r"say (\d+) words, one each (\d+) us")


def order(words: int, pace_us: int = 0) -> str:
    """The prompt that makes the specialist say so many words at that pace."""
    return f"say {words} words, one each {pace_us} us"


class StampChat(BaseChatModel):
    """Says what the last `order` asks for, with nothing between the words but the pace and one turn of the loop."""

    @property
    def _llm_type(self) -> str:
        return "stamps"

    async def _words(self, messages: list[BaseMessage]) -> AsyncIterator[str]:
        last = next(m for m in reversed(messages) if isinstance(m, HumanMessage))
        count, pace_us = map(int, ORDER.search(last.text).groups())
        began = time.monotonic()
        for n in range(count):
            wait = began + n * pace_us / 1e6 - time.monotonic() if pace_us else 0
            await asyncio.sleep(max(wait, 0))  # a real model's words come off a socket: the loop gets its turn
            yield f"{time.monotonic_ns()} "

    async def _astream(self, messages, stop=None, run_manager=None, **_: Any) -> AsyncIterator[ChatGenerationChunk]:
        async for word in self._words(messages):
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))

    async def _agenerate(self, messages, stop=None, run_manager=None, **_: Any) -> ChatResult:
        text = "".join([word async for word in self._words(messages)])
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])

    def _generate(self, messages, stop=None, run_manager=None, **_: Any) -> ChatResult:
        raise NotImplementedError("everything here is async")


class PlannerChat(BaseChatModel):
    """Calls the tool `specialist` once with what the user said, then ends."""

    @property
    def _llm_type(self) -> str:
        return "planner"

    def bind_tools(self, tools, **_: Any):
        return self

    async def _agenerate(self, messages, stop=None, run_manager=None, **_: Any) -> ChatResult:
        last = messages[-1]
        if isinstance(last, ToolMessage):
            said = AIMessage(f"done: {last.text}")
        else:
            # Ids of its own, as real models give: the same id in a thread is the same request, and not run again.
            call = ToolCall(name="specialist", args={"message": last.text}, id=f"call-{uuid4().hex}")
            said = AIMessage("", tool_calls=[call])
        return ChatResult(generations=[ChatGeneration(message=said)])

    def _generate(self, messages, stop=None, run_manager=None, **_: Any) -> ChatResult:
        raise NotImplementedError("everything here is async")


def specialist(*, checkpointer: Any = True):
    """The graph that is served; `checkpointer=None` where the server brings its own."""
    return create_agent(StampChat(), checkpointer=InMemorySaver() if checkpointer is True else checkpointer)


def planner(tool: BaseTool):
    """The graph that calls: its one tool is the specialist, wherever that runs."""
    return create_agent(PlannerChat(), [tool])


def echo_graph():
    """A graph without a model: one node that says what it heard."""

    async def say(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(state["messages"][-1].text)]}

    graph = StateGraph(MessagesState)
    graph.add_node("say", say)
    graph.add_edge(START, "say")
    graph.add_edge("say", END)
    return graph.compile()


def served_specialist():
    """For a LangGraph server, which makes the checkpointer itself."""
    return specialist(checkpointer=None)
