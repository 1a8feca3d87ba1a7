"""The offline models behave as real ones do where it matters: fragments, tool calls, failures, many at once."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool

from chatixia_langchain import testing
from chatixia_langchain.testing import OpenAIServer, ScriptedChat, ask_then_answer, from_openai_rule


@tool
def look(where: str) -> str:
    """Look somewhere."""
    return f"nothing {where}"


def asks(messages: list[BaseMessage], tools: tuple[str, ...]) -> AIMessage | str:
    """Call each bound tool once, side by side; then say what came."""
    if isinstance(messages[-1], ToolMessage):
        return messages[-1].text
    calls = [{"name": name, "args": {"where": "übers Meer"}, "id": f"c{n}"} for n, name in enumerate(tools * 2)]
    return AIMessage("wait", tool_calls=calls)


async def test_fragments_add_up_to_the_whole() -> None:
    model: Any = ScriptedChat(rule=asks).bind_tools([look])
    whole = await model.ainvoke("x")
    chunks = [c async for c in model.astream("x")]
    assert len(chunks) > 4, "text and arguments come in pieces"
    added: AIMessageChunk = sum(chunks[1:], chunks[0])
    assert (added.text, added.tool_calls) == (whole.text, whole.tool_calls)
    assert [c["id"] for c in whole.tool_calls] == ["c0", "c1"]
    assert sum((c for c in model.stream("x")), AIMessageChunk("")).tool_calls == whole.tool_calls


async def test_one_model_serves_many_conversations_at_once() -> None:
    model = ScriptedChat(rule=lambda messages, tools: messages[-1].text)
    said = await asyncio.gather(*(model.ainvoke(str(n)) for n in range(50)))
    assert [m.text for m in said] == [str(n) for n in range(50)]


def test_binding_makes_a_copy() -> None:
    model = ScriptedChat(rule=asks)
    model.bind_tools([look])
    assert model.invoke("x").tool_calls == []


def test_a_rule_without_its_tool_answers_from_the_question() -> None:
    rule = ask_then_answer("absent", lambda q: {}, lambda text: f"about {text}")
    assert rule([HumanMessage("gulls")], ("look",)) == "about gulls"


def test_one_rule_for_both_models() -> None:
    def rule(body: dict[str, Any]) -> dict[str, Any]:
        function = {"name": "look", "arguments": json.dumps({"where": body["messages"][-1]["content"]})}
        return {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "function": function}]}

    said = ScriptedChat(rule=from_openai_rule(rule)).invoke("here")
    assert said.tool_calls[0]["args"] == {"where": "here"}
    assert said.text == ""


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as made:
        yield made


def post(server: OpenAIServer, path: str = "/chat/completions", **more: Any) -> httpx2.Response:
    body = {"model": "m", "messages": [{"role": "user", "content": "a b"}], **more}
    return httpx2.post(server.url + path, json=body, timeout=10, trust_env=False)


def test_whole_answers_and_streams_say_the_same(server: OpenAIServer) -> None:
    whole = post(server).json()
    assert whole["choices"][0] == {
        "index": 0,
        "message": {"role": "assistant", "content": "echo: a b"},
        "finish_reason": "stop",
    }
    lines = [line.removeprefix("data: ") for line in post(server, stream=True).text.split("\n") if line]
    assert lines[-1] == "[DONE]"
    choices = [choice for line in lines[:-1] for choice in json.loads(line)["choices"]]
    assert "".join(c["delta"].get("content") or "" for c in choices) == "echo: a b"
    assert choices[-1]["finish_reason"] == "stop"
    usage = post(server, stream=True, stream_options={"include_usage": True}).text
    assert '"usage"' in usage
    assert '"usage"' not in "".join(lines)


def test_failures_come_in_order_and_then_end(server: OpenAIServer) -> None:
    server.fail_next.extend([429, 500])
    assert [post(server).status_code for _ in range(3)] == [429, 500, 200]
    assert len(server.requests) == 3
    assert post(server, "/embeddings").status_code == 404


def test_a_body_that_is_not_json_is_refused_and_the_server_lives(server: OpenAIServer) -> None:
    for content in (b"{not json", b"[]", b""):
        answer = httpx2.post(server.url + "/chat/completions", content=content, timeout=10, trust_env=False)
        assert answer.status_code in (400, 413), content
        assert answer.json()["error"]["message"]
    assert post(server).status_code == 200


async def test_the_official_client_retries_a_failure(server: OpenAIServer) -> None:
    openai = pytest.importorskip("openai")
    server.fail_next.extend([500, 429])
    async with openai.AsyncOpenAI(base_url=server.url, api_key="x", max_retries=2) as client:
        said = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
    assert said.choices[0].message.content == "echo: hi"
    assert len(server.requests) == 3


def test_a_server_that_never_started_closes() -> None:
    OpenAIServer().close()


def test_the_server_alone_needs_no_langchain() -> None:
    code = "import sys; from chatixia_langchain.testing import OpenAIServer; print('langchain_core' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, timeout=30).strip() == "False"


def test_names_are_listed_and_there() -> None:
    assert all(getattr(testing, name).__name__ == name for name in testing.__all__)
    with pytest.raises(AttributeError, match="Nothing"):
        testing.Nothing  # noqa: B018
