"""Agents over real data channels: nested questions, conversations, a peer that goes away in the middle of a turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage

from chatixia_langchain import ChatLoop, InboundPolicy, Incoming, LocalMesh, Mesh, MeshAgent, MeshTool
from chatixia_langchain.testing import ScriptedChat, ask_then_answer

from ..mesh.conftest import webrtc as webrtc  # a fixture

POLICY = InboundPolicy(tools=["ask_librarian"])  # the one tool with which a peer's turn here may act


@asynccontextmanager
async def served(*pairs: tuple[Mesh, Any]) -> AsyncIterator[None]:
    """Serve agents for the length of the block."""
    tasks = [asyncio.create_task(MeshAgent(mesh, agent, policy=POLICY).serve()) for mesh, agent in pairs]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def asking(peer: str) -> ScriptedChat:
    """A model that asks `peer` everything it is asked, and passes the answer on."""
    return ScriptedChat(rule=ask_then_answer(f"ask_{peer}", lambda q: {"message": q}, lambda r: f"{peer} says: {r}"))


async def test_a_question_through_three_agents_of_three_kinds(webrtc: LocalMesh) -> None:
    """A graph asks a loop, which asks a function: hops and chain grow, all by data channels."""
    agents = pytest.importorskip("langchain.agents")
    planner, researcher, librarian = [await webrtc.join(n) for n in ("planner", "researcher", "librarian")]
    came: list[Incoming] = []

    async def library(message: Incoming) -> str:
        came.append(message)
        return "42"

    loop = ChatLoop(asking("librarian"), tools=[MeshTool(researcher, peer="librarian")])
    graph = agents.create_agent(asking("researcher"), [MeshTool(planner, peer="researcher")])
    for peer in ("researcher", "librarian"):
        await planner.wait_for_peer(peer)
    async with served((researcher, loop), (librarian, library)):
        out = await graph.ainvoke({"messages": [HumanMessage("what?")]}, {"configurable": {"thread_id": "T"}})
    assert out["messages"][-1].text == "researcher says: librarian says: 42"
    (result,) = [m for m in out["messages"] if isinstance(m, ToolMessage)]
    assert result.artifact["path"] == "channel"
    (message,) = came
    assert (message.hops, message.chain, message.path) == (1, ("researcher",), "channel")
    assert message.ttl_s < 60, "what is left of the outer question's time"


async def test_twenty_conversations_at_once_each_remember_their_own(webrtc: LocalMesh) -> None:
    asker, memory = await webrtc.join("asker"), await webrtc.join("memory")

    def rule(messages: list[BaseMessage], _: tuple[str, ...]) -> str:
        return " ".join(m.text.split("\n")[2] for m in messages if isinstance(m, HumanMessage))

    await asker.wait_for_peer("memory")
    async with served((memory, ScriptedChat(rule=rule))):

        async def talk(name: str) -> list[str]:
            asked = [await asker.ask("memory", f"{name}{n}", conversation=name) for n in range(3)]
            return [reply.content for reply in asked]

        names = [f"c{n}-" for n in range(20)]
        told = await asyncio.gather(*(talk(name) for name in names))
    assert told == [[f"{n}0", f"{n}0 {n}1", f"{n}0 {n}1 {n}2"] for n in names]


async def test_a_peer_that_leaves_in_the_middle_becomes_a_tool_error(webrtc: LocalMesh) -> None:
    """The asker's turn goes on: its model reads what went wrong."""
    asker, leaver = await webrtc.join("asker"), await webrtc.join("leaver")
    began = asyncio.Event()

    async def never(message: Incoming) -> str:
        began.set()
        await asyncio.sleep(60)
        return "late"

    await asker.wait_for_peer("leaver")
    async with served((leaver, never)):
        loop = ChatLoop(asking("leaver"), tools=[MeshTool(asker, peer="leaver", timeout=30)])
        turn = asyncio.create_task(loop.ainvoke("hello?"))
        await asyncio.wait_for(began.wait(), 20)
        await leaver.aclose()
        answer = (await asyncio.wait_for(turn, 40)).text
    assert answer.startswith("leaver says: [peer_gone]")
    assert "Whether the peer ran the request is unknown. Trying again may help." in answer
