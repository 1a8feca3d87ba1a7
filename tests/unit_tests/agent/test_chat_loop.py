"""The small loop, on a scripted model and on the real OpenAI client against the local server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import BaseTool, tool
from openai import AsyncOpenAI, BadRequestError

from chatixia_langchain import MeshError
from chatixia_langchain.agent.chat_loop import ChatLoop
from chatixia_langchain.agent.store import MemoryStore
from chatixia_langchain.testing import OpenAIServer, ScriptedChat, ask_then_answer

from .peer_turn import peer_turn


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


# on the real client


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as s:
        yield s


@pytest.fixture
async def client(server: OpenAIServer) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=server.url, api_key="offline", max_retries=2) as c:
        yield c


def openai_rule(arguments: str, finish: str = "") -> Any:
    def rule(body: dict[str, Any]) -> dict[str, Any]:
        last = body["messages"][-1]
        if last["role"] == "tool":
            return {"role": "assistant", "content": f"tool said {last['content']}"}
        function = {"name": "double", "arguments": arguments}
        return {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        }

    return rule


def openai_loop(client: AsyncOpenAI, tools: tuple[BaseTool, ...] = (double,)) -> ChatLoop:
    return ChatLoop(client, model_name="local", tools=tools)


async def test_openai_streams_text_and_tool_calls(server: OpenAIServer, client: AsyncOpenAI) -> None:
    server.rule = openai_rule('{"n": 21}')
    server.fail_next.append(429)
    seen = [m async for m in openai_loop(client).astream("go")]
    whole = [m for m in seen if not isinstance(m, AIMessageChunk)]
    assert [m.text for m in whole] == ["", "42", "tool said 42"]
    assert sum(isinstance(m, AIMessageChunk) and bool(m.text) for m in seen) == 3  # word by word
    assert server.requests[0]["tools"][0]["function"]["name"] == "double"


async def test_openai_bad_arguments_do_not_run_the_tool(server: OpenAIServer, client: AsyncOpenAI) -> None:
    """Truncated JSON is not repaired: the call has an error result, and the loop goes on."""
    server.rule = openai_rule('{"n": 2')
    whole = await run(openai_loop(client))
    assert isinstance(whole[1], ToolMessage)
    assert whole[1].status == "error"
    assert "not a JSON object" in whole[1].text
    assert_nothing_dangles(whole)
    assert json.loads(server.requests[-1]["messages"][1]["tool_calls"][0]["function"]["arguments"]) == {}


async def test_openai_length_runs_no_tool(server: OpenAIServer, client: AsyncOpenAI) -> None:
    """What was cut off may look whole and mean something else."""
    server.rule = openai_rule('{"n": 2}')
    server.finish_next.append("length")
    whole = await run(openai_loop(client))
    assert "cut off" in whole[1].text
    assert_nothing_dangles(whole)


async def test_openai_length_of_text_is_said(server: OpenAIServer, client: AsyncOpenAI) -> None:
    server.finish_next.append("length")
    assert "cut off" in (await openai_loop(client).ainvoke("x")).text


async def test_openai_refusal_is_the_answer(server: OpenAIServer, client: AsyncOpenAI) -> None:
    server.rule = lambda body: {"role": "assistant", "content": None, "refusal": "I will not."}
    assert (await openai_loop(client).ainvoke("x")).text == "I will not."


@pytest.mark.parametrize("reason", ["content_filter", "length"])
async def test_openai_answer_that_was_cut_off_says_so_and_runs_nothing(
    reason: str, server: OpenAIServer, client: AsyncOpenAI
) -> None:
    server.finish_next.append(reason)
    assert "cut off" in (await openai_loop(client).ainvoke("x")).text
    server.rule = openai_rule('{"n": 2}')
    server.finish_next.append(reason)
    whole = await run(openai_loop(client))
    assert "cut off" in whole[1].text
    assert_nothing_dangles(whole)


async def test_openai_usage_of_each_step(server: OpenAIServer, client: AsyncOpenAI) -> None:
    """Each message has what its own model call used, the turn the sum; nothing is counted twice."""
    server.rule = openai_rule('{"n": 21}')
    with peer_turn(tools=["double"]) as (turn, callbacks):
        answer = await openai_loop(client).ainvoke("go", config={"callbacks": callbacks})
    assert answer.usage_metadata == {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
    assert turn.spent.to_json()["models"] == {"local": {"input_tokens": 6, "output_tokens": 4, "total_tokens": 10}}
    assert [r["stream_options"] for r in server.requests] == [{"include_usage": True}] * 2


async def test_openai_server_that_refuses_usage_is_asked_without(server: OpenAIServer, client: AsyncOpenAI) -> None:
    server.fail_next.append(400)
    loop = openai_loop(client, ())
    assert (await loop.ainvoke("x")).usage_metadata is None
    assert (await loop.ainvoke("y")).text == "echo: y"
    assert ["stream_options" in r for r in server.requests] == [True, False, False]


async def test_openai_request_that_is_wrong_anyway_fails(server: OpenAIServer, client: AsyncOpenAI) -> None:
    """Both tries are refused: the error is raised, and the next turn asks for usage again."""
    server.fail_next.extend([400, 400])
    loop = openai_loop(client, ())
    with pytest.raises(BadRequestError):
        await loop.ainvoke("x")
    assert (await loop.ainvoke("y")).usage_metadata is not None


async def test_openai_turn_ends_when_its_tokens_are_used_up(server: OpenAIServer, client: AsyncOpenAI) -> None:
    server.rule = openai_rule('{"n": 21}')
    policy: dict[str, Any] = {"tools": "all", "max_tokens": 5}
    with peer_turn(**policy) as (_, callbacks), pytest.raises(MeshError, match="5 tokens") as caught:
        await openai_loop(client).ainvoke("go", config={"callbacks": callbacks})
    assert caught.value.code == "budget_exceeded"
    assert len(server.requests) == 1


async def test_openai_without_tools_sends_no_tools(server: OpenAIServer, client: AsyncOpenAI) -> None:
    await openai_loop(client, ()).ainvoke("x")
    assert "tools" not in server.requests[0]


async def test_ask_then_answer_rule() -> None:
    rule = ask_then_answer("double", lambda q: {"n": int(q)}, lambda r: f"it is {r}")
    assert (await ChatLoop(ScriptedChat(rule=rule), tools=[double]).ainvoke("4")).text == "it is 8"
