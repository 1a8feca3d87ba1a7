"""Traps of LangGraph under messages that come whenever they want: each shown on the bare graph, then avoided.

The one of mail for a paused thread is in `test_approval.py`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool

from chatixia_langchain import InboundPolicy, Incoming, LocalMesh, Mesh, MeshError, MeshTool
from chatixia_langchain.testing import ScriptedChat

from .test_approval import said
from .test_mesh_agent import local as local
from .test_mesh_agent import served

agents = pytest.importorskip("langchain.agents")
graphs = pytest.importorskip("langgraph.graph")
memory = pytest.importorskip("langgraph.checkpoint.memory")
prebuilt = pytest.importorskip("langgraph.prebuilt")
types = pytest.importorskip("langgraph.types")

ALL = InboundPolicy(tools="all")


class Slow(ScriptedChat):
    """Thinks for a moment, as models do: turns that may overlap do."""

    async def _agenerate(self, *args: Any, **more: Any) -> Any:
        await asyncio.sleep(0.02)
        return self._generate(*args, **more)


async def test_trap_concurrent_turns_on_one_thread_lose_nothing(local: LocalMesh) -> None:
    def rule(messages: list[BaseMessage], _: tuple[str, ...]) -> str:
        return ",".join(m.text.split("\n")[2] for m in messages if isinstance(m, HumanMessage))

    graph = agents.create_agent(Slow(rule=rule), [], checkpointer=memory.InMemorySaver())
    config: Any = {"configurable": {"thread_id": "bare"}}
    await asyncio.gather(*(graph.ainvoke({"messages": [HumanMessage(f"\n\n{n}")]}, config) for n in "abc"))
    state = await graph.aget_state(config)
    kept = [m.text.strip() for m in state.values["messages"] if isinstance(m, HumanMessage)]
    assert len(kept) < 3, "the trap: of turns at once on one thread only one is kept"

    a, b = await local.join("a"), await local.join("b")
    async with served(b, graph):
        await asyncio.gather(*(a.ask("b", n, conversation="c", timeout=10) for n in "abc"))
        assert (await a.ask("b", "all?", conversation="c", timeout=10)).content == "a,b,c,all?"


async def test_trap_a_tool_that_raises_leaves_no_dangling_call(local: LocalMesh) -> None:
    seen: list[list[str]] = []

    @tool
    async def ask_bob(message: str) -> str:
        """Ask Bob."""
        raise OSError("the wire is cut")

    def rule(messages: list[BaseMessage], _: tuple[str, ...]) -> AIMessage | str:
        seen.append([m.type for m in messages])
        if said(messages[-1]) == "ask":
            call: Any = {"name": "ask_bob", "args": {"message": "?"}, "id": "c1", "type": "tool_call"}
            return AIMessage("", tool_calls=[call])
        return "fine"

    graph = agents.create_agent(ScriptedChat(rule=rule), [ask_bob], checkpointer=memory.InMemorySaver())
    config: Any = {"configurable": {"thread_id": "bare"}}
    with pytest.raises(OSError, match="cut"):
        await graph.ainvoke({"messages": [HumanMessage("\n\nask")]}, config)
    await graph.ainvoke({"messages": [HumanMessage("\n\nhi")]}, config)
    assert seen[-1] == ["human", "ai", "human"], "the trap: providers refuse such a history, from now on"

    a, b = await local.join("a"), await local.join("b")
    async with served(b, graph, policy=ALL):
        with pytest.raises(MeshError):
            await a.ask("b", "ask", conversation="c")
        assert (await a.ask("b", "hi", conversation="c")).content == "fine"
        assert seen[-1] == ["human", "ai", "tool", "human"]
        assert (await a.ask("b", "ho", conversation="c")).content == "fine"
        assert seen[-1] == ["human", "ai", "tool", "human", "ai", "human"], "repaired once, and kept"


async def test_trap_a_node_that_runs_again_is_no_second_request(local: LocalMesh) -> None:
    """A node that is resumed runs from its start. What it asks of a peer then has the same id."""
    a, b = await local.join("a"), await local.join("b")
    runs, entered = list[str](), list[str]()

    async def effect(message: Incoming) -> str:
        runs.append(message.message_id)
        return "done"

    ask = prebuilt.ToolNode([MeshTool(a, peer="b")])

    async def node(state: Any, config: RunnableConfig) -> Any:
        entered.append("node")
        out = await ask.ainvoke(state, config)
        types.interrupt("go on?")
        return out

    call: Any = {"name": "ask_b", "args": {"message": "do it"}, "id": "c1", "type": "tool_call"}
    builder = graphs.StateGraph(graphs.MessagesState).add_node("n", node)
    graph = builder.add_edge(graphs.START, "n").add_edge("n", graphs.END).compile(checkpointer=memory.InMemorySaver())
    config: Any = {"configurable": {"thread_id": "T"}}
    async with served(b, effect):
        await graph.ainvoke({"messages": [AIMessage("", tool_calls=[call])]}, config)
        out = await graph.ainvoke(types.Command(resume="yes"), config)
    assert isinstance(out["messages"][-1], ToolMessage)
    assert out["messages"][-1].text == "done"
    assert (len(entered), len(runs)) == (2, 1), "the trap is the first number, ours the second"


@pytest.mark.parametrize("limit", [1, 4])
async def test_trap_agents_that_answer_every_message_stop(
    local: LocalMesh, limit: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Each message makes the other send one. The hops they carry, made here and not by the model, end it."""
    a, b = await local.join("a"), await local.join("b")
    came: list[str] = []

    def eager(mesh: Mesh) -> Any:
        async def agent(message: Incoming) -> str:
            came.append(message.content)
            await mesh.send(message.peer, f"and {len(came)}?", conversation=message.conversation)
            return ""

        return agent

    policy = InboundPolicy(max_hops=limit, max_visits=limit)
    with caplog.at_level(logging.WARNING):
        async with served(a, eager(a), policy=policy), served(b, eager(b), policy=policy):
            await a.send("b", "hello", conversation="c")
            async with asyncio.timeout(10):
                while "agents, the limit is" not in caplog.text:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
    assert len(came) == limit


async def test_trap_errors_get_no_answer(local: LocalMesh) -> None:
    """An agent that fails tells whoever asked, and nobody else: an error for an error would never end."""
    a, b = await local.join("a"), await local.join("b")
    came: list[Incoming] = []

    async def breaks(message: Incoming) -> str:
        came.append(message)
        raise RuntimeError("no")

    async with served(a, breaks), served(b, breaks):
        await (await a.send("b", "a message", conversation="c")).delivered()
        await a.broadcast("to all", conversation="c")
        with pytest.raises(MeshError):
            await a.ask("b", "a question", conversation="c")
        await asyncio.sleep(0.1)
    assert {m.content for m in came} == {"a message", "to all", "a question"}
    assert {m.peer for m in came} == {"a"}, "nothing came back"
