"""What a question costs, through three agents: summed as a tree, by model, and each token once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.runnables import RunnableConfig

from chatixia_langchain import (
    ChatLoop,
    InboundPolicy,
    Incoming,
    LocalMesh,
    Mesh,
    MeshAgent,
    MeshError,
    MeshTool,
    RemoteAgent,
)
from chatixia_langchain.errors import RemoteError
from chatixia_langchain.mesh.budget import Budget, Usage
from chatixia_langchain.mesh.context import Turn, current_turn
from chatixia_langchain.testing import ScriptedChat


def tokens(a: int, b: int) -> dict[str, int]:
    return {"input_tokens": a, "output_tokens": b, "total_tokens": a + b}


def model(name: str, a: int, b: int, *, asks: str = "") -> ScriptedChat:
    """Uses `a` and `b` tokens a call; with `asks` it asks that peer first, so that a turn is two calls."""

    def rule(messages: list[BaseMessage], bound: tuple[str, ...]) -> AIMessage:
        usage: Any = tokens(a, b)
        known: dict[str, Any] = {"usage_metadata": usage, "response_metadata": {"model_name": name}}
        last = messages[-1]
        if asks and not isinstance(last, ToolMessage):
            call = {"name": f"ask_{asks}", "args": {"message": f"{name} asks"}, "id": f"c{len(messages)}"}
            return AIMessage("", tool_calls=[call], **known)
        return AIMessage(f"{name} says {last.text if asks else 'so'}", **known)

    return ScriptedChat(rule=rule)


@asynccontextmanager
async def chain(kind: str) -> AsyncIterator[Mesh]:
    """The user's mesh; `a` asks `b`, and `b`, an agent of this kind, asks `c`."""
    agents = pytest.importorskip("langchain.agents")
    async with LocalMesh(transport="memory") as local:
        user, a, b, c = [await local.join(n) for n in ("user", "a", "b", "c")]
        tool = MeshTool(b, peer="c")

        async def function(message: Incoming) -> str:
            return (await b.ask("c", "b asks")).content

        async def streaming(message: Incoming, config: RunnableConfig | None = None) -> str:
            whole = [chunk.text async for chunk in b.ask_stream("c", "b asks")]
            return "".join(whole)

        middle: dict[str, Any] = {
            "loop": ChatLoop(model("mid", 10, 1, asks="c"), tools=[tool]),
            "graph": agents.create_agent(model("mid", 10, 1, asks="c"), [tool]),
            "remote": model("mid", 20, 2) | RemoteAgent(b, "c"),  # its events pass by the callbacks of b's turn
            "function": function,
            "stream": streaming,
        }
        policy = InboundPolicy(tools=["ask_b", "ask_c"])
        top = agents.create_agent(model("big", 100, 10, asks="b"), [MeshTool(a, peer="b")])
        served = [(a, top), (b, middle[kind]), (c, model("small", 3, 2))]
        tasks = [asyncio.create_task(MeshAgent(mesh, agent, policy=policy).serve()) for mesh, agent in served]
        try:
            yield user
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


KINDS = {"loop": True, "graph": True, "remote": True, "function": False, "stream": False}  # has b a model of its own?


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_reply_has_the_usage_of_all_below_as_a_tree(kind: str, streamed: bool) -> None:
    async with chain(kind) as user:
        if streamed:
            stream = user.ask_stream("a", "go")
            assert [chunk async for chunk in stream]
            reply = await stream.reply()
        else:
            reply = await user.ask("a", "go")
    small = {"turns": 1, "models": {"small": tokens(3, 2)}}
    middle: dict[str, Any] = {"turns": 1, "peers": {"c": small}}
    if KINDS[kind]:
        middle["models"] = {"mid": tokens(20, 2)}
    assert reply.usage.to_json() == {"turns": 1, "models": {"big": tokens(200, 20)}, "peers": {"b": middle}}
    assert reply.usage.total() == (tokens(223, 24) if KINDS[kind] else tokens(203, 22))
    assert reply.usage.all_turns() == 3


@pytest.mark.parametrize("way", ["tool", "agent"])
async def test_callers_artifact_and_message_have_it_too(way: str) -> None:
    async with chain("graph") as user:
        if way == "tool":
            call = {"name": "ask_a", "args": {"message": "go"}, "id": "c1", "type": "tool_call"}
            result = await MeshTool(user, peer="a").ainvoke(call)
            tree = result.artifact["usage"]
        else:
            answer = await RemoteAgent(user, "a").ainvoke("go")
            assert answer.usage_metadata == tokens(223, 24)
            tree = answer.response_metadata["mesh"]["usage"]
    assert tree["models"] == {"big": tokens(200, 20)}
    assert tree["peers"]["b"]["peers"]["c"]["models"] == {"small": tokens(3, 2)}


async def test_tokens_of_peers_count_against_the_budget_of_the_request() -> None:
    """The receiver adds what its own peers say that they used, whoever pays them."""
    async with LocalMesh(transport="memory") as local:
        user, a, b = [await local.join(n) for n in ("user", "a", "b")]
        asked: list[int] = []

        async def asking(message: Incoming) -> str:
            for n in range(5):
                await a.ask("b", f"question {n}")
                asked.append(n)
            return "done"

        policy = InboundPolicy(max_tokens=250)
        pairs = [(a, asking), (b, model("m", 90, 10))]
        tasks = [asyncio.create_task(MeshAgent(mesh, agent, policy=policy).serve()) for mesh, agent in pairs]
        with pytest.raises(MeshError, match="tokens") as caught:
            await user.ask("a", "go")
        assert caught.value.code == "budget_exceeded"
        assert len(asked) == 3, "the third question was asked with 50 tokens left; a call of a model is not cut off"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_failed_turns_are_booked_too() -> None:
    """Whoever makes an agent fail at its end, again and again, uses up the budget as others do."""
    async with LocalMesh(transport="memory") as local:
        user, a = await local.join("user"), await local.join("a")
        paid = model("m", 90, 10)  # called by a plain function: no config, and no callbacks of ours in it

        async def failing(message: Incoming) -> str:
            await paid.ainvoke("x")
            raise RuntimeError("after the model was paid")

        serving = asyncio.create_task(MeshAgent(a, failing, policy=InboundPolicy(max_tokens=150)).serve())
        codes = []
        # One root request: the user is itself inside a turn, as an agent in the middle is.
        root = Incoming("x", "x", "c", "root", True, budget=Budget("root", 50, 10_000, 60_000))
        current_turn.set(Turn.of(root))
        for n in range(3):
            with pytest.raises(MeshError) as caught:
                await user.ask("a", f"question {n}")
            codes.append(caught.value.code)
        assert codes == ["handler_failed", "handler_failed", "budget_exceeded"]
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_a_turn_that_fails_tells_what_it_used() -> None:
    """What failed has cost something too: else an agent that fails at the end of each turn would be free."""

    def rule(messages: list[BaseMessage], bound: tuple[str, ...]) -> AIMessage:
        if isinstance(messages[-1], ToolMessage):
            raise RuntimeError("the model server went away")
        usage: Any = tokens(7, 2)
        return AIMessage("", tool_calls=[{"name": "none", "args": {}, "id": "c1"}], usage_metadata=usage)

    async with LocalMesh(transport="memory") as local:
        user, a = await local.join("user"), await local.join("a")
        serving = asyncio.create_task(MeshAgent(a, ChatLoop(ScriptedChat(rule=rule))).serve())
        with pytest.raises(RemoteError) as failed:
            await user.ask("a", "x")
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    assert Usage.decode(failed.value.meta["usage"]).total() == tokens(7, 2)
