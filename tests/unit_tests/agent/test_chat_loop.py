"""The small loop on scripted models."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from openai import AsyncOpenAI

from chatixia_langchain.agent.chat_loop import ChatLoop
from chatixia_langchain.agent.store import MemoryStore
from chatixia_langchain.testing import ScriptedChat, ask_then_answer


@tool
def double(n: int) -> str:
    """Double a number."""
    return str(2 * n)


@tool
def boom(n: int) -> str:
    """Break."""
    raise RuntimeError("secret detail")


def calls(*pairs: tuple[str, dict[str, Any]]) -> AIMessage:
    made = [{"name": n, "args": a, "id": f"c{i}", "type": "tool_call"} for i, (n, a) in enumerate(pairs)]
    return AIMessage("", tool_calls=made)


def once(first: AIMessage) -> ScriptedChat:
    """A model that answers with `first`, then repeats what its tools said."""

    def rule(messages: list[BaseMessage], _: tuple[str, ...]) -> AIMessage | str:
        results = [m.text for m in messages if isinstance(m, ToolMessage)]
        return f"results: {results}" if results else first

    return ScriptedChat(rule=rule)


async def run(loop: ChatLoop, text: str = "go") -> list[BaseMessage]:
    return [m async for m in loop.astream(text) if not isinstance(m, AIMessageChunk)]


def assert_nothing_dangles(messages: list[BaseMessage]) -> None:
    asked = [c["id"] for m in messages if isinstance(m, AIMessage) for c in m.tool_calls]
    assert asked == [m.tool_call_id for m in messages if isinstance(m, ToolMessage)]


async def test_parallel_calls_have_results_in_order() -> None:
    loop = ChatLoop(once(calls(("double", {"n": 1}), ("double", {"n": 2}))), tools=[double])
    out = await run(loop)
    assert [m.text for m in out] == ["", "2", "4", "results: ['2', '4']"]
    assert_nothing_dangles(out)


async def test_tool_that_breaks_becomes_an_error_result_without_its_details() -> None:
    out = await run(ChatLoop(once(calls(("boom", {"n": 1}), ("double", {"n": 2}))), tools=[boom, double]))
    assert [(m.status, m.text) for m in out if isinstance(m, ToolMessage)] == [
        ("error", "The tool failed (RuntimeError)."),
        ("success", "4"),
    ]


async def test_unknown_tool_is_named() -> None:
    out = await run(ChatLoop(once(calls(("triple", {"n": 1}))), tools=[double]))
    assert 'There is no tool "triple". The tools are: double.' in out[1].text


async def test_step_limit_ends_the_turn_without_a_dangling_call() -> None:
    endless = ScriptedChat(rule=lambda messages, tools: calls(("double", {"n": 1})))
    out = await run(ChatLoop(endless, tools=[double], max_steps=3))
    assert_nothing_dangles(out)
    assert sum(isinstance(m, AIMessage) for m in out) == 4
    assert out[-1].text == "I stopped here: the limit of steps for this turn is reached."


async def test_slow_tool_is_given_up() -> None:
    @tool
    async def slow() -> str:
        """Take long."""
        await asyncio.sleep(60)
        return "never"

    out = await run(ChatLoop(once(calls(("slow", {}))), tools=[slow], tool_timeout_s=0.05))
    assert "no result within 0.05 s" in out[1].text


async def test_thread_is_remembered_and_turns_of_it_do_not_race() -> None:
    seen: list[int] = []

    def count(messages: list[BaseMessage], _: tuple[str, ...]) -> str:
        seen.append(sum(isinstance(m, HumanMessage) for m in messages))
        return "ok"

    loop = ChatLoop(ScriptedChat(rule=count))
    await asyncio.gather(*(loop.ainvoke(f"m{n}", thread_id="t") for n in range(5)))
    assert seen == [1, 2, 3, 4, 5]
    await loop.ainvoke("other", thread_id="u")
    assert seen[-1] == 1


async def test_failed_turn_is_not_stored() -> None:
    store = MemoryStore()

    def rule(messages: list[BaseMessage], _: tuple[str, ...]) -> str:
        raise ConnectionError("model away")

    with pytest.raises(ConnectionError):
        await ChatLoop(ScriptedChat(rule=rule), store=store).ainvoke("x", thread_id="t")
    assert await store.load("t") == []


def test_wrong_model_and_missing_name_are_refused() -> None:
    with pytest.raises(TypeError, match="not str"):
        ChatLoop("gpt-4o")
    with pytest.raises(ValueError, match="model_name"):
        ChatLoop(AsyncOpenAI(api_key="x", base_url="http://127.0.0.1:9"))
    with pytest.raises(ValueError, match="same name"):
        ChatLoop(once(calls()), tools=[double, double])


async def test_store_forgets_whole_turns() -> None:
    store = MemoryStore(max_messages=3, max_threads=2)
    await store.append(
        "t", [HumanMessage("1"), *[ToolMessage("r", tool_call_id="c")] * 2, HumanMessage("2"), AIMessage("a")]
    )
    assert [m.text for m in await store.load("t")] == ["2", "a"]
    for name in ("u", "v"):
        await store.append(name, [HumanMessage("x")])
    assert await store.load("t") == []


class Whole(FakeMessagesListChatModel):
    """A model that does not stream: its message comes whole."""

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        return self


def whole_model(said: AIMessage) -> Whole:
    return Whole(responses=[said])


async def test_refusal_of_a_chat_model_is_the_answer() -> None:
    refusing = whole_model(AIMessage("", additional_kwargs={"refusal": "I will not."}))
    assert (await ChatLoop(refusing).ainvoke("x")).text == "I will not."


@pytest.mark.parametrize(
    "metadata",
    [{"finish_reason": "length"}, {"stop_reason": "max_tokens"}, {"finish_reason": "MAX_TOKENS"}],
    ids=["openai", "anthropic", "google"],
)
async def test_every_provider_s_word_for_cut_off_keeps_tools_from_running(metadata: dict[str, str]) -> None:
    said = calls(("double", {"n": 1})).model_copy(update={"response_metadata": metadata})
    out = await run(ChatLoop(whole_model(said), tools=[double], max_steps=2))
    assert "cut off" in out[1].text
    assert_nothing_dangles(out)
    assert "cut off" in (await ChatLoop(whole_model(AIMessage("half", response_metadata=metadata))).ainvoke("x")).text


@pytest.mark.parametrize(
    "metadata", [{}, {"finish_reason": "stop"}, {"stop_reason": "end_turn"}, {"finish_reason": None}]
)
async def test_answer_that_is_whole_says_nothing_of_being_cut_off(metadata: dict[str, Any]) -> None:
    loop = ChatLoop(whole_model(AIMessage("all", response_metadata=metadata)))
    assert (await loop.ainvoke("x")).text == "all"


async def test_what_a_provider_wants_back_stays_in_the_message() -> None:
    more = {"signature": "abc", "tool_calls": [{"id": "c0", "function": {"name": "double", "arguments": "{"}}]}
    said = calls(("double", {"n": 1})).model_copy(update={"additional_kwargs": more})
    out = await run(ChatLoop(whole_model(said), tools=[double], max_steps=1))
    assert out[0].additional_kwargs == {"signature": "abc"}


async def test_ask_then_answer_rule() -> None:
    rule = ask_then_answer("double", lambda q: {"n": int(q)}, lambda r: f"it is {r}")
    assert (await ChatLoop(ScriptedChat(rule=rule), tools=[double]).ainvoke("4")).text == "it is 8"
