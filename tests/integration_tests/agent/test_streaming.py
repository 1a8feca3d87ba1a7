"""Streamed turns over real data channels: tokens before the model is done, and closing ends the run over there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.tools import tool

from chatixia_langchain import ChatLoop, InboundPolicy, LocalMesh, MeshAgent
from chatixia_langchain.testing import ScriptedChat

from ..mesh.conftest import webrtc as webrtc  # a fixture
from .test_agents import served

agents = pytest.importorskip("langchain.agents")
memory = pytest.importorskip("langgraph.checkpoint.memory")


@asynccontextmanager
async def serving(agent: MeshAgent) -> AsyncIterator[None]:
    task = asyncio.create_task(agent.serve())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Gated(ScriptedChat):
    """Says "one ", and nothing more until the gate opens."""

    gate: Any

    async def _astream(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> AsyncIterator[Any]:
        for word in ("one ", "two ", "three"):
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=word))
            if run_manager is not None:
                await run_manager.on_llm_new_token(word, chunk=chunk)
            yield chunk
            await self.gate.wait()


@pytest.mark.parametrize("kind", ["graph", "kept graph", "loop", "model"])
async def test_the_first_token_comes_while_the_model_still_speaks(webrtc: LocalMesh, kind: str) -> None:
    """The model cannot go on before its first token was seen here: were it held back, this would never end."""
    a, b = await webrtc.join("a"), await webrtc.join("b")
    gate = asyncio.Event()
    model = Gated(rule=lambda m, t: "one two three", gate=gate)
    agent = {
        "graph": lambda: agents.create_agent(model, []),
        "kept graph": lambda: agents.create_agent(model, [], checkpointer=memory.InMemorySaver()),
        "loop": lambda: ChatLoop(model),
        "model": lambda: model,
    }[kind]()
    await a.wait_for_peer("b")
    async with served((b, agent)), asyncio.timeout(30), a.ask_stream("b", "count", timeout=30) as stream:
        first = await anext(aiter(stream))
        assert (first.text, first.step) == ("one ", 0)
        gate.set()
        rest = "".join([chunk.text async for chunk in stream])
        assert rest == "two three"
        assert (await stream.reply()).content == "one two three"


async def test_closing_a_stream_cancels_the_tool_that_runs_over_there(webrtc: LocalMesh) -> None:
    """And the conversation goes on afterwards, with a history that is whole."""
    a, b = await webrtc.join("a"), await webrtc.join("b")
    running, cancelled = asyncio.Event(), asyncio.Event()
    seen: list[list[str]] = []

    @tool
    async def dig(where: str) -> str:
        """Dig for very long."""
        running.set()
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return "never"

    def rule(messages: list[BaseMessage], _: tuple[str, ...]) -> AIMessage | str:
        seen.append([m.type for m in messages])
        if isinstance(messages[-1], ToolMessage) or "again" in messages[-1].text:
            return "stopped"
        call: Any = {"name": "dig", "args": {"where": "here"}, "id": "c1", "type": "tool_call"}
        return AIMessage("digging now", tool_calls=[call])

    graph = agents.create_agent(ScriptedChat(rule=rule), [dig], checkpointer=memory.InMemorySaver())
    await a.wait_for_peer("b")
    async with serving(MeshAgent(b, graph, policy=InboundPolicy(tools="all"))):
        async with a.ask_stream("b", "dig", conversation="c", timeout=60) as stream:
            assert (await anext(aiter(stream))).text
            await asyncio.wait_for(running.wait(), 20)
        await asyncio.wait_for(cancelled.wait(), 5)
        assert (await a.ask("b", "again?", conversation="c", timeout=20)).content == "stopped"
    assert seen[-1] == ["human", "ai", "tool", "human"]
