"""The small loop on the real OpenAI client, against the local server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from langchain_core.messages import AIMessageChunk, ToolMessage
from langchain_core.tools import BaseTool
from openai import AsyncOpenAI, BadRequestError

from chatixia_langchain import MeshError
from chatixia_langchain.agent.chat_loop import ChatLoop
from chatixia_langchain.testing import OpenAIServer

from .peer_turn import peer_turn
from .test_chat_loop import assert_nothing_dangles, double, run


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
