"""Decisions that are made where the agent runs, by `MeshAgent.paused` and `MeshAgent.resume`."""

from __future__ import annotations

import asyncio

import pytest
from langchain_core.tools import tool

from chatixia_langchain import InboundPolicy, Mesh, MeshError
from chatixia_langchain.testing import ScriptedChat

from ...support import until
from .test_approval import ALL, LOCAL, Desk, agents, all_of, deletes, memory, types
from .test_approval import pair as pair
from .test_mesh_agent import local as local
from .test_mesh_agent import served


async def test_where_this_side_decides_the_request_waits_for_it(pair: tuple[Mesh, Mesh]) -> None:
    a, b = pair
    desk = Desk()
    async with served(b, desk.graph(memory.InMemorySaver()), policy=LOCAL) as agent:
        asked = asyncio.create_task(a.ask("b", "delete x, y", conversation="c", timeout=20))
        while not agent.paused() or not agent.paused()[0].waiting:
            await asyncio.sleep(0.01)
        (entry,) = agent.paused()
        with pytest.raises(MeshError, match="decided on its agent's side"):
            await a.ask(
                "b", "", conversation="c",
                meta={"resume": {"of": entry.message_id, "values": {entry.interrupts[0].id: "yes"}}},
            )  # fmt: skip
        with pytest.raises(MeshError, match="no interrupt"):
            await agent.resume("a", "c", {"nonsense": 1})
        told = await agent.resume("a", "c", {entry.interrupts[0].id: "yes"})
        assert "human's decision on 1 question" in told
        assert not asked.done()
        (entry,) = agent.paused()
        assert await agent.resume("a", "c", {entry.interrupts[0].id: "no"}) == "x: ['yes']; y: ['no']"
        assert (await asked).content == "x: ['yes']; y: ['no']"
        assert agent.paused() == []
        with pytest.raises(MeshError, match="waits for no decision"):
            await agent.resume("a", "c", {"x": 1})


async def test_a_request_whose_human_is_away_is_failed_as_held_and_can_be_decided_later(
    pair: tuple[Mesh, Mesh],
) -> None:
    a, b = pair
    desk = Desk()
    async with served(b, desk.graph(memory.InMemorySaver()), policy=LOCAL) as agent:
        with pytest.raises(MeshError) as caught:
            await a.ask("b", "delete x", conversation="c", timeout=0.8)
        assert caught.value.code == "held"
        (entry,) = agent.paused()
        assert not entry.waiting
        assert await agent.resume("a", "c", {entry.interrupts[0].id: "yes"}) == "x: ['yes']"
    assert desk.done == ["x"]


@pytest.mark.parametrize("policy", [ALL, LOCAL])
async def test_what_a_message_without_reply_waits_with_is_decided_here_only(
    pair: tuple[Mesh, Mesh], policy: InboundPolicy
) -> None:
    a, b = pair
    desk = Desk()
    async with served(b, desk.graph(memory.InMemorySaver()), policy=policy) as agent:
        receipt = await a.send("b", "delete x", conversation="c")
        while not agent.paused():
            await asyncio.sleep(0.01)
        (entry,) = agent.paused()
        values = {entry.interrupts[0].id: "yes"}
        resume = {"of": receipt.message_id, "values": values}
        with pytest.raises(MeshError, match="decided on its agent's side"):
            await a.ask("b", "", conversation="c", meta={"resume": resume})
        assert await agent.resume("a", "c", values) == "x: ['yes']"
    assert desk.done == ["x"]


async def test_a_decision_that_an_ending_agent_leaves_behind_is_told(pair: tuple[Mesh, Mesh]) -> None:
    a, b = pair
    started = asyncio.Event()

    @tool
    async def delete(what: str) -> str:
        """Delete something."""
        types.interrupt("sure?")
        started.set()
        await asyncio.sleep(60)
        return "never"

    graph = agents.create_agent(ScriptedChat(rule=deletes), [delete], checkpointer=memory.InMemorySaver())
    async with served(b, graph, policy=ALL) as agent:
        paused = await a.ask("b", "delete x", conversation="c")
        deciding = asyncio.create_task(agent.resume("a", "c", all_of(paused, "yes")))
        await asyncio.wait_for(started.wait(), 5)
    with pytest.raises(MeshError, match="stopped serving"):
        await asyncio.wait_for(deciding, 5)
    with pytest.raises(MeshError, match="not serving"):
        await agent.resume("a", "c", {})


async def test_where_this_side_decides_the_asker_still_streams(pair: tuple[Mesh, Mesh]) -> None:
    a, b = pair
    async with served(b, Desk().graph(memory.InMemorySaver()), policy=LOCAL) as agent:

        async def listen() -> list[str]:
            async with a.ask_stream("b", "delete x", conversation="c", timeout=20) as stream:
                return [chunk.text async for chunk in stream]

        listening = asyncio.create_task(listen())
        await until(agent.paused)
        await agent.resume("a", "c", {agent.paused()[0].interrupts[0].id: "yes"})
        pieces = await listening
        assert ("".join(pieces), len(pieces) > 1) == ("x: ['yes']", True)
