"""The server through the real clients: `AsyncOpenAI` and `ChatOpenAI` see what they would see of the real service."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool

from chatixia_langchain import ChatLoop
from chatixia_langchain.testing import OpenAIServer

openai = pytest.importorskip("openai")
ASKED: Any = [{"role": "user", "content": "where are the gulls?"}]
ARGUMENTS = {"where": "over the sea and far away"}


@tool
def look(where: str) -> str:
    """Look somewhere."""
    return f"nothing {where}"


def looks(body: dict[str, Any]) -> dict[str, Any]:
    """Call `look` first, then say what it said."""
    last = body["messages"][-1]
    if last["role"] == "tool":
        return {"role": "assistant", "content": f"I saw {last['content']}"}
    function = {"name": "look", "arguments": json.dumps(ARGUMENTS)}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": function}],
    }


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with OpenAIServer(looks) as made:
        yield made


def client(server: OpenAIServer, retries: int = 0) -> Any:
    return openai.AsyncOpenAI(base_url=server.url, api_key="offline", max_retries=retries)


def chat(server: OpenAIServer, retries: int = 0, **more: Any) -> Any:
    models = pytest.importorskip("langchain_openai")
    return models.ChatOpenAI(base_url=server.url, api_key="offline", model="m", max_retries=retries, **more)


async def test_the_clients_stream_helper_adds_up_a_tool_call_of_fragments(server: OpenAIServer) -> None:
    tools: Any = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    more: Any = {"stream_options": {"include_usage": True}, "tools": tools}
    async with client(server) as c, c.chat.completions.stream(model="m", messages=ASKED, **more) as stream:
        kinds = [event.type async for event in stream]
        whole = await stream.get_final_completion()
    (call,) = whole.choices[0].message.tool_calls
    assert (call.id, json.loads(call.function.arguments)) == ("c1", ARGUMENTS)
    assert kinds.count("tool_calls.function.arguments.delta") > 3
    assert whole.choices[0].finish_reason == "tool_calls"
    assert whole.usage.total_tokens == 5


async def test_chat_openai_streams_calls_text_and_usage(server: OpenAIServer) -> None:
    model = chat(server, stream_usage=True).bind_tools([look])
    chunks = [c async for c in model.astream(ASKED)]
    assert sum(len(c.tool_call_chunks) for c in chunks) > 3
    added = sum(chunks[1:], chunks[0])
    assert added.tool_calls[0]["args"] == ARGUMENTS
    assert added.usage_metadata["total_tokens"] == 5
    asked = [HumanMessage("?"), added, ToolMessage("gulls", tool_call_id="c1")]
    text = [c.text async for c in chat(server).astream(asked) if c.text]
    assert text == ["I ", "saw ", "gulls"]


async def test_a_whole_agent_runs_on_it_with_either_client(server: OpenAIServer) -> None:
    agents = pytest.importorskip("langchain.agents")
    graph = agents.create_agent(chat(server), [look])
    parts = [p async for p, _ in graph.astream({"messages": [HumanMessage("?")]}, stream_mode="messages")]
    assert "".join(p.text for p in parts if isinstance(p, AIMessageChunk)) == "I saw nothing over the sea and far away"
    async with client(server) as c:
        said = await ChatLoop(c, model_name="m", tools=[look]).ainvoke("?")
    assert said.text == "I saw nothing over the sea and far away"


@pytest.mark.parametrize("status", [429, 500])
async def test_an_injected_status_is_retried_or_told_with_its_name(server: OpenAIServer, status: int) -> None:
    server.fail_next.append(status)
    assert (await chat(server, retries=1).ainvoke(ASKED)).tool_calls
    assert len(server.requests) == 2
    server.fail_next.append(status)
    wanted = openai.RateLimitError if status == 429 else openai.InternalServerError
    async with client(server) as c:
        with pytest.raises(wanted):
            await c.chat.completions.create(model="m", messages=ASKED)


async def read(chunks: Any) -> list[Any]:
    return [c async for c in chunks]


async def test_a_connection_cut_in_a_stream_is_an_error_and_not_an_end(server: OpenAIServer) -> None:
    server.rule = lambda body: {"role": "assistant", "content": "one two three four"}
    async with client(server) as c:
        server.cut_next.append(3)
        seen: list[str] = []

        async def stream() -> None:
            async for chunk in await c.chat.completions.create(model="m", messages=ASKED, stream=True):
                seen.append(chunk.choices[0].delta.content or "")  # noqa: PERF401 - what was seen before it fails

        with pytest.raises((openai.APIConnectionError, httpx2.RemoteProtocolError)):
            await stream()
    assert seen == ["", "one ", "two "]
    server.cut_next.append(2)
    with pytest.raises((openai.APIConnectionError, httpx2.RemoteProtocolError)):
        await read(chat(server).astream(ASKED))
    assert (await chat(server).ainvoke(ASKED)).text == "one two three four", "only that one was cut"


async def test_a_connection_cut_in_a_whole_answer_is_retried_by_the_client(server: OpenAIServer) -> None:
    server.cut_next.append(0)
    async with client(server) as c:
        with pytest.raises(openai.APIConnectionError):
            await c.chat.completions.create(model="m", messages=ASKED)
    server.cut_next.append(0)
    async with client(server, retries=1) as c:
        said = await c.chat.completions.create(model="m", messages=ASKED)
    assert said.choices[0].message.tool_calls
    assert len(server.requests) == 3


async def test_each_token_waits(server: OpenAIServer) -> None:
    server.rule, server.delay_s = (lambda body: {"role": "assistant", "content": "a b c"}), 0.02
    began = time.monotonic()
    times = [time.monotonic() - began async for c in chat(server).astream(ASKED) if c.text]
    assert [t >= 0.02 * (n + 1) for n, t in enumerate(times)] == [True] * 3
    began = time.monotonic()
    await chat(server).ainvoke(ASKED)
    assert time.monotonic() - began >= 0.06


def test_one_client_serves_tests_with_a_loop_each(server: OpenAIServer) -> None:
    """A connection that is kept belongs to the loop that opened it: the next test would find its loop closed."""
    model = chat(server)
    for _ in range(3):
        assert asyncio.run(model.ainvoke(ASKED)).tool_calls
