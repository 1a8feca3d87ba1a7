"""Asks inside a turn carry hops, chain, time, budget and trace, whoever makes them; usage comes back as a tree."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chatixia_langchain import Incoming, Mesh
from chatixia_langchain.errors import MeshError, MeshTimeout, RemoteError
from chatixia_langchain.mesh.budget import Budget, Usage
from chatixia_langchain.mesh.context import Turn, current_turn

from .members import Members, echo
from .test_doors import in_thread


def turn(**more: Any) -> Turn:
    """A turn that serves "root" with 30 s left."""
    budget = Budget("m0", 10, 1000, 60_000)
    message = Incoming("root", "x", "c0", "m0", True, hops=1, chain=("root",), ttl_s=30.0, budget=budget, **more)
    return Turn.of(message)


class Keeper:
    """Answers, and keeps what came."""

    def __init__(self, usage: Usage | None = None) -> None:
        self.got: list[Incoming] = []
        self._meta = {"usage": usage.to_json()} if usage else None

    async def __call__(self, incoming: Incoming) -> None:
        self.got.append(incoming)
        await incoming.reply("ok", meta=self._meta)


async def test_every_call_made_in_a_turn_carries_its_place(members: Members) -> None:
    a, keeper = await members.join("a"), Keeper()
    members.serve(await members.join("b"), keeper)
    current_turn.set(turn(trace="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"))
    await a.ask("b", "ask")
    async with a.ask_stream("b", "stream") as stream:
        await stream.reply()
    await a.ask_many("many", to=["b"])
    await a.delivered(await a.send("b", "send"))
    await a.delivered(a.send_nowait("b", "nowait"))
    (receipt,) = (await a.broadcast("all")).values()
    await a.delivered(receipt)  # type: ignore[arg-type]
    await in_thread(lambda: asyncio.run(in_turn(a, "elsewhere")))
    await in_thread(lambda: sync_in_turn(a))
    assert [m.content for m in keeper.got] == [
        "ask", "stream", "many", "send", "nowait", "all", "elsewhere", "sync", "sync stream", "sync many",
    ]  # fmt: skip
    spans = set()
    for message in keeper.got:
        assert (message.hops, message.chain) == (2, ("root", "a")), message.content
        assert message.budget is not None
        assert (message.budget.root, message.budget.tokens) == ("m0", 1000)
        assert message.budget.turns <= 9
        assert message.ttl_s <= 29.75 or not message.expects_reply
        assert message.trace[:36] == "00-4bf92f3577b34da6a3ce929d0e0e4736-"
        spans.add(message.trace[36:])
    assert len(spans) == len(keeper.got)


async def in_turn(mesh: Mesh, content: str) -> None:
    current_turn.set(turn(trace="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"))
    await mesh.ask("b", content)


def sync_in_turn(mesh: Mesh) -> None:
    current_turn.set(turn(trace="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"))
    mesh.sync.ask("b", "sync")
    list(mesh.sync.ask_stream("b", "sync stream"))
    mesh.sync.ask_many("sync many", to=["b"])


async def test_outside_of_a_turn_a_message_carries_none_of_it_but_an_ask_a_new_trace(members: Members) -> None:
    a, keeper = await members.join("a"), Keeper()
    members.serve(await members.join("b"), keeper)
    await a.ask("b", "1")
    await a.ask("b", "2", hops=3, chain=["x", "y"])
    await a.delivered(await a.send("b", "3"))
    first, second, third = keeper.got
    assert (first.hops, first.chain, first.budget) == (0, (), None)
    assert (second.hops, second.chain) == (3, ("x", "y"))
    assert len(first.trace) == len(second.trace) == 55
    assert first.trace[3:35] != second.trace[3:35]
    assert third.trace == ""


async def test_usage_of_replies_is_summed_and_lessens_what_later_asks_may_use(members: Members) -> None:
    used, deeper = Usage(turns=1), Usage(turns=2)
    used.add_model("m", 100, 50)
    deeper.add_model("n", 20, 30)
    used.add_peer("c", deeper)
    a, keeper = await members.join("a"), Keeper(used)
    members.serve(await members.join("b"), keeper)
    here = turn()
    current_turn.set(here)
    await a.ask("b", "1")
    async with a.ask_stream("b", "2") as stream:
        await stream.reply()
    assert here.spent.peers["b"].total()["total_tokens"] == 400
    assert here.spent.all_turns() == 7
    assert keeper.got[1].budget is not None
    assert (keeper.got[1].budget.turns, keeper.got[1].budget.tokens) == (6, 800)
    await a.ask("b", "3")
    with pytest.raises(MeshError, match="turns of request 'm0'") as caught:
        await a.ask("b", "4")
    assert caught.value.code == "budget_exceeded"
    assert len(keeper.got) == 3


async def test_a_nested_ask_ends_before_the_request_it_serves(members: Members) -> None:
    a, _silent = await members.join("a"), await members.join("b")
    here = turn()
    here.deadline = asyncio.get_running_loop().time() + 0.4
    current_turn.set(here)
    with pytest.raises(MeshTimeout):
        await a.ask("b", "x", timeout=60)
    assert asyncio.get_running_loop().time() < here.deadline


async def test_a_malformed_budget_is_refused_by_the_decoder(members: Members) -> None:
    """Strict: a frame whose budget is none is dropped, its channel lives on."""
    a, b = await members.join("a"), await members.join("b")
    members.serve(b, echo)
    await a.ask("b", "opens a channel")
    engine = a._lifetime.engine
    assert engine is not None
    for budget in (
        {"root": "r", "turns": -1, "tokens": 1, "ms": 1},
        {"root": "a b", "turns": 1, "tokens": 1, "ms": 1},
        {},
    ):
        body = '{"type":"agent_prompt","payload":{"message":"x"},"mesh":{"v":1,"kind":"request","id":"q","budget":%s}}'
        engine.core.transport.send("b", (body % str(budget).replace("'", '"')).encode())
    assert (await a.ask("b", "alive")).content == "re:alive"
    assert (await b.status())["counters"]["bad_frames"] == 3


async def test_a_request_that_failed_counts_what_it_used(members: Members) -> None:
    """Else a peer that always fails at the end would cost nothing."""
    used = Usage(turns=1)
    used.add_model("m", 100, 50)

    async def failing(incoming: Incoming) -> None:
        await incoming.fail(RemoteError("broke"), meta={"usage": used.to_json()})

    a = await members.join("a")
    members.serve(await members.join("b"), failing)
    here = turn()
    current_turn.set(here)
    with pytest.raises(RemoteError, match="broke"):
        await a.ask("b", "x")
    with pytest.raises(RemoteError, match="broke"):
        await anext(a.ask_stream("b", "x"))
    assert here.spent.peers["b"].total()["total_tokens"] == 300
    assert here.left().turns == 7
