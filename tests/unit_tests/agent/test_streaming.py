"""A streamed turn shows the text of the agent's own model calls while they run, and ends as any other turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool

from chatixia_langchain import ChatLoop, InboundPolicy, Incoming, LocalMesh, Mesh
from chatixia_langchain.agent.usage import REMOTE_TAG
from chatixia_langchain.testing import ScriptedChat

from .test_mesh_agent import local as local
from .test_mesh_agent import served

ALL = InboundPolicy(tools="all")


async def shown(mesh: Mesh, peer: str, text: str, **options: Any) -> tuple[list[tuple[int, str]], str]:
    """What was streamed, by step, and the reply."""
    steps: dict[int, str] = {}
    async with mesh.ask_stream(peer, text, timeout=20, **options) as stream:
        async for chunk in stream:
            steps[chunk.step] = steps.get(chunk.step, "") + chunk.text
        reply = await stream.reply()
    return sorted(steps.items()), reply.content


def inner_tool() -> Any:
    """A tool that has a model of its own, and a graph of its own, and runs the stand-in of a peer's model."""
    agents = pytest.importorskip("langchain.agents")
    talker = ScriptedChat(rule=lambda m, t: "inside a tool")
    graph = agents.create_agent(ScriptedChat(rule=lambda m, t: "inside a tool's graph"), [])

    @tool
    async def look(what: str) -> str:
        """Look something up."""
        async for _ in talker.astream(what):
            pass
        await graph.ainvoke({"messages": [HumanMessage(what)]})
        return f"found {what}"

    return look


def asks_then_says(messages: list[BaseMessage], _: tuple[str, ...]) -> AIMessage | str:
    if isinstance(messages[-1], ToolMessage):
        return f"it is: {messages[-1].text}"
    call: Any = {"name": "look", "args": {"what": "x"}, "id": f"c{len(messages)}", "type": "tool_call"}
    return AIMessage("let me look", tool_calls=[call])


def graph_agent() -> Any:
    agents = pytest.importorskip("langchain.agents")
    return agents.create_agent(ScriptedChat(rule=asks_then_says), [inner_tool()])


def kept_graph_agent() -> Any:
    agents = pytest.importorskip("langchain.agents")
    memory = pytest.importorskip("langgraph.checkpoint.memory")
    return agents.create_agent(ScriptedChat(rule=asks_then_says), [inner_tool()], checkpointer=memory.InMemorySaver())


def loop_agent() -> Any:
    return ChatLoop(ScriptedChat(rule=asks_then_says), tools=[inner_tool()])


@pytest.mark.parametrize("make", [graph_agent, kept_graph_agent, loop_agent])
async def test_own_steps_are_shown_and_what_runs_below_tools_is_not(local: LocalMesh, make: Callable[[], Any]) -> None:
    a, b = await local.join("a"), await local.join("b")
    async with served(b, make(), policy=ALL):
        steps, reply = await shown(a, "b", "what is x?")
        assert reply == (await a.ask("b", "what is x?", conversation="plain")).content
    assert [text for _, text in steps] == ["let me look", "it is: found x"]
    assert [step for step, _ in steps] == [0, 1]
    assert steps[-1][1] == reply


async def test_an_agent_inside_a_graph_is_the_agents_own(local: LocalMesh) -> None:
    graphs = pytest.importorskip("langgraph.graph")
    builder = graphs.StateGraph(graphs.MessagesState).add_node("inner", graph_agent())
    graph = builder.add_edge(graphs.START, "inner").add_edge("inner", graphs.END).compile()
    a, b = await local.join("a"), await local.join("b")
    async with served(b, graph, policy=ALL):
        steps, reply = await shown(a, "b", "what is x?")
    assert [text for _, text in steps] == ["let me look", "it is: found x"]
    assert reply == "it is: found x"


class Thinking(ScriptedChat):
    """Streams a reasoning block before its text."""

    async def _astream(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> Any:
        blocks: list[Any] = [{"type": "reasoning", "reasoning": "secret"}, {"type": "text", "text": "said"}]
        for index, block in enumerate(blocks):
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=[{**block, "index": index}]))
            if run_manager is not None:
                await run_manager.on_llm_new_token("", chunk=chunk)
            yield chunk


async def test_reasoning_is_not_shown(local: LocalMesh) -> None:
    agents = pytest.importorskip("langchain.agents")
    a, b, c = [await local.join(n) for n in "abc"]
    model = Thinking(rule=lambda m, t: "said")
    async with served(b, agents.create_agent(model, [])), served(c, model):
        for peer in "bc":
            steps, reply = await shown(a, peer, "hi")
            assert [text for _, text in steps] == ["said"]
            assert reply == "said"


async def test_a_peers_model_is_shown_by_whoever_asked_it(local: LocalMesh) -> None:
    """Runs with the remote tag stand for a peer's model: its text is no text of this agent."""
    graphs = pytest.importorskip("langgraph.graph")
    remote = ScriptedChat(rule=lambda m, t: "a peer's words").with_config(tags=[REMOTE_TAG])
    own = ScriptedChat(rule=lambda m, t: "own words")

    async def node(state: Any) -> Any:
        await remote.ainvoke(state["messages"])
        return {"messages": [await own.ainvoke(state["messages"])]}

    builder = graphs.StateGraph(graphs.MessagesState).add_node("n", node)
    graph = builder.add_edge(graphs.START, "n").add_edge("n", graphs.END).compile()
    a, b = await local.join("a"), await local.join("b")
    async with served(b, graph):
        assert await shown(a, "b", "hi") == ([(0, "own words")], "own words")


async def speaks(message: Incoming) -> str:
    for word in ("piece ", "by ", "piece"):
        await message.chunk(word)
    return "piece by piece"


@pytest.mark.parametrize(
    ("agent", "said"),
    [
        (ScriptedChat(rule=lambda m, t: "a model says"), "a model says"),
        (ScriptedChat(rule=lambda m, t: "a chain says") | StrOutputParser(), "a chain says"),
        (RunnableLambda(lambda messages: AIMessage("a lambda says")), "a lambda says"),
        (FakeListChatModel(responses=["a fake says"]), "a fake says"),
        (speaks, "piece by piece"),
    ],
    ids=["model", "chain", "lambda", "fake", "function"],
)
async def test_every_kind_of_agent_streams(local: LocalMesh, agent: Any, said: str) -> None:
    a, b = await local.join("a"), await local.join("b")
    async with served(b, agent):
        assert await shown(a, "b", "hi") == ([(0, said)], said)


async def test_a_model_that_does_not_stream_is_shown_whole(local: LocalMesh) -> None:
    agents = pytest.importorskip("langchain.agents")

    class Whole(ScriptedChat):
        disable_streaming: bool = True

    a, b = await local.join("a"), await local.join("b")
    async with served(b, agents.create_agent(Whole(rule=lambda m, t: "all at once"), [])):
        assert await shown(a, "b", "hi") == ([(0, "all at once")], "all at once")


async def test_a_plain_ask_is_not_streamed_inside(local: LocalMesh) -> None:
    """Streaming costs the agent time; it is done for listeners only."""
    streamed: list[bool] = []

    class Noting(ScriptedChat):
        async def _astream(self, *args: Any, **more: Any) -> AsyncIterator[Any]:
            streamed.append(True)
            async for chunk in super()._astream(*args, **more):
                yield chunk

    agents = pytest.importorskip("langchain.agents")
    a, b = await local.join("a"), await local.join("b")
    async with served(b, agents.create_agent(Noting(rule=lambda m, t: "ok"), [])):
        assert (await a.ask("b", "hi")).content == "ok"
        assert not streamed
        assert await shown(a, "b", "hi") == ([(0, "ok")], "ok")
        assert streamed


async def test_closing_the_stream_cancels_the_run_and_the_next_turn_is_whole(local: LocalMesh) -> None:
    """The tool of the graph sees the cancellation; its call gets an error result before the next turn."""
    agents = pytest.importorskip("langchain.agents")
    memory = pytest.importorskip("langgraph.checkpoint.memory")
    seen: list[list[str]] = []
    running, cancelled = asyncio.Event(), asyncio.Event()

    @tool
    async def look(what: str) -> str:
        """Look for very long."""
        running.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return "never"

    def rule(messages: list[BaseMessage], tools: tuple[str, ...]) -> AIMessage | str:
        seen.append([m.type for m in messages])
        return "fine" if "second" in messages[-1].text else asks_then_says(messages, tools)

    a, b = await local.join("a"), await local.join("b")
    graph = agents.create_agent(ScriptedChat(rule=rule), [look], checkpointer=memory.InMemorySaver())
    async with served(b, graph, policy=ALL):
        async with a.ask_stream("b", "first", conversation="c") as stream:
            assert (await anext(aiter(stream))).text
            await asyncio.wait_for(running.wait(), 5)
        await asyncio.wait_for(cancelled.wait(), 5)
        assert (await a.ask("b", "second", conversation="c")).content == "fine"
    assert seen[-1] == ["human", "ai", "tool", "human"]


async def test_a_request_that_was_cancelled_in_the_middle_may_be_asked_again(local: LocalMesh) -> None:
    """Its asker knows that it was cut off: it is run again, unlike one that a restart cut off."""
    agents = pytest.importorskip("langchain.agents")
    memory = pytest.importorskip("langgraph.checkpoint.memory")
    running, gate = asyncio.Event(), asyncio.Event()

    @tool
    async def look(what: str) -> str:
        """Look until the gate opens."""
        running.set()
        await gate.wait()
        return "found"

    a, b = await local.join("a"), await local.join("b")
    graph = agents.create_agent(ScriptedChat(rule=asks_then_says), [look], checkpointer=memory.InMemorySaver())
    async with served(b, graph, policy=ALL):
        first = asyncio.create_task(a.ask("b", "look", conversation="c", message_id="m1"))
        await asyncio.wait_for(running.wait(), 5)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        gate.set()
        assert (await a.ask("b", "look", conversation="c", message_id="m1", timeout=10)).content == "it is: found"
        assert (await a.ask("b", "look", conversation="c", message_id="m1", timeout=10)).content == "it is: found"
