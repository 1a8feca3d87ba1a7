"""Tokens of a turn: by model, once, and no further call when they are used up."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool

from chatixia_langchain import MeshError
from chatixia_langchain.agent.chat_loop import ChatLoop
from chatixia_langchain.agent.usage import REMOTE_TAG, UsageCounter
from chatixia_langchain.testing import ScriptedChat

from .peer_turn import peer_turn


def tokens(a: int, b: int) -> dict[str, int]:
    return {"input_tokens": a, "output_tokens": b, "total_tokens": a + b}


def using(model: str, said: str = "ok", a: int = 3, b: int = 2) -> ScriptedChat:
    """A model that says what it used, as providers' models do."""
    usage: Any = tokens(a, b)
    answer = AIMessage(said, usage_metadata=usage, response_metadata={"model_name": model} if model else {})
    return ScriptedChat(rule=lambda messages, _: answer, model_name="")


@pytest.mark.parametrize("stream", [True, False])
async def test_tokens_are_summed_by_model(stream: bool) -> None:
    with peer_turn() as (turn, callbacks):
        for model in (using("big"), using("small", a=1, b=1), using("big"), using("")):
            bound = model.with_config(callbacks=callbacks)
            if stream:
                assert [c async for c in bound.astream("x")]
            else:
                await bound.ainvoke("x")
    assert turn.spent.models == {"big": tokens(6, 4), "small": tokens(1, 1), "unknown": tokens(3, 2)}
    assert turn.spent.all_turns() == 1


async def test_sync_models_in_threads_are_counted_too() -> None:
    with peer_turn() as (turn, callbacks):
        await RunnableLambda(lambda x: using("m").invoke(x).text).abatch(["a", "b", "c"], {"callbacks": callbacks})
    assert turn.spent.models == {"m": tokens(9, 6)}


async def test_runs_of_a_peers_model_are_not_counted_here() -> None:
    """They come with the peer's reply; their events pass by here only to be seen."""
    with peer_turn() as (turn, callbacks):
        await using("theirs").ainvoke("x", {"callbacks": callbacks, "tags": [REMOTE_TAG]})
        await using("ours").ainvoke("x", {"callbacks": callbacks})
    assert turn.spent.models == {"ours": tokens(3, 2)}


async def test_failed_call_is_forgotten() -> None:
    def broken(messages: list[BaseMessage], _: tuple[str, ...]) -> str:
        raise ConnectionError("away")

    with peer_turn() as (turn, callbacks):
        (counter,) = [c for c in callbacks if isinstance(c, UsageCounter)]
        with pytest.raises(ConnectionError):
            await ScriptedChat(rule=broken).ainvoke("x", {"callbacks": callbacks})
    assert turn.spent.models == {}
    assert counter._models == {}


@tool
def step(n: int) -> str:
    """Go on."""
    return str(n)


step.metadata = {"readOnlyHint": True}


def endless(messages: list[BaseMessage], _: tuple[str, ...]) -> AIMessage:
    """Calls a tool for ever, 50 tokens a step."""
    usage: Any = tokens(30, 20)
    return AIMessage(
        "", tool_calls=[{"name": "step", "args": {"n": 1}, "id": f"c{len(messages)}"}], usage_metadata=usage
    )


@pytest.mark.parametrize("kind", ["loop", "graph"])
async def test_turn_ends_when_its_tokens_are_used_up(kind: str) -> None:
    """The next model call is refused, and the error says how much there was."""
    agents = pytest.importorskip("langchain.agents")
    model = ScriptedChat(rule=endless)
    loop, graph = ChatLoop(model, tools=[step], max_steps=50), agents.create_agent(model, [step])
    go = [HumanMessage("go")]
    with peer_turn(max_tokens=200) as (turn, callbacks), pytest.raises(MeshError, match="the 200 tokens") as caught:
        await (
            loop.ainvoke(go, config={"callbacks": callbacks})
            if kind == "loop"
            else graph.ainvoke({"messages": go}, {"callbacks": callbacks})
        )
    assert caught.value.code == "budget_exceeded"
    assert turn.spent.total()["total_tokens"] == 200


async def test_turn_ends_when_its_time_is_used_up() -> None:
    """A tool that took long is not followed by another call of a model."""
    with peer_turn(max_seconds=60) as (turn, callbacks):
        turn.started -= 60
        with pytest.raises(MeshError, match="ms that request"):
            await using("m").ainvoke("x", {"callbacks": callbacks})
        loop = ChatLoop(ScriptedChat(rule=endless), tools=[step])
        with pytest.raises(MeshError, match="ms that request"):
            await loop.ainvoke("go", config={"callbacks": callbacks})
    assert turn.spent.models == {}


async def test_loop_messages_have_the_usage_of_their_own_step() -> None:
    def rule(messages: list[BaseMessage], _: tuple[str, ...]) -> AIMessage:
        done = isinstance(messages[-1], ToolMessage)
        call = [] if done else [{"name": "step", "args": {"n": 1}, "id": "c"}]
        usage: Any = tokens(10 if done else 7, 1)
        return AIMessage("done" if done else "", tool_calls=call, usage_metadata=usage)

    with peer_turn() as (turn, callbacks):
        answer = await ChatLoop(ScriptedChat(rule=rule), tools=[step]).ainvoke("go", config={"callbacks": callbacks})
    assert answer.usage_metadata == tokens(10, 1)
    assert turn.spent.total() == tokens(17, 2)
