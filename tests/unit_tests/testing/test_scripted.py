"""`ScriptedChat` does what agents expect of a real chat model: choice of tools, usage, tokens in time, failures."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.tools import tool
from langchain_tests.unit_tests import ChatModelUnitTests
from pydantic import BaseModel

from chatixia_langchain.testing import ScriptedChat, ask_then_answer


@tool
def look(where: str) -> str:
    """Look somewhere."""
    return f"nothing {where}"


@tool
def listen(where: str) -> str:
    """Listen somewhere."""
    return f"silence {where}"


def lists_tools(messages: list[BaseMessage], tools: tuple[str, ...]) -> str:
    return ",".join(tools)


class TestScriptedIsAChatModel(ChatModelUnitTests):
    """What LangChain asks of every chat model."""

    @property
    def chat_model_class(self) -> type[ScriptedChat]:
        return ScriptedChat

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"rule": lists_tools}


def calls_first(messages: list[BaseMessage], tools: tuple[str, ...]) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": tools[0], "args": {"where": "up"}, "id": "c"}])


@pytest.mark.parametrize(("choice", "seen"), [(None, "look,listen"), ("auto", "look,listen"), ("none", "")])
def test_a_choice_that_is_free_or_none(choice: Any, seen: str) -> None:
    model = ScriptedChat(rule=lists_tools).bind_tools([look, listen], tool_choice=choice)
    assert model.invoke("x").text == seen


@pytest.mark.parametrize("choice", ["listen", {"type": "function", "function": {"name": "listen"}}])
def test_a_named_tool_is_the_only_one(choice: Any) -> None:
    model = ScriptedChat(rule=calls_first).bind_tools([look, listen], tool_choice=choice)
    assert [c["name"] for c in model.invoke("x").tool_calls] == ["listen"]


@pytest.mark.parametrize("choice", ["any", "required", True, "look"])
async def test_a_forced_call_that_the_rule_does_not_make_is_an_error_of_the_test(choice: Any) -> None:
    """A real model would have called: an agent that relies on it must not be tested with text."""
    model = ScriptedChat(rule=lists_tools)
    with pytest.raises(ValueError, match="forces a call of look"):
        model.bind_tools([look], tool_choice=choice).invoke("x")
    with pytest.raises(ValueError, match="forces a call of look"):
        await model.bind_tools([look], tool_choice=choice).ainvoke("x")
    free: Any = ScriptedChat(rule=calls_first)
    assert free.bind_tools([look], tool_choice=choice).invoke("x").tool_calls


def test_a_choice_that_is_no_tool_is_named() -> None:
    with pytest.raises(ValueError, match="'smell' is none of the tools: look"):
        ScriptedChat(rule=lists_tools).bind_tools([look], tool_choice="smell")


async def test_structured_output_comes_with_it() -> None:
    class Place(BaseModel):
        """A place."""

        where: str

    model = ScriptedChat(rule=calls_first).with_structured_output(Place)
    assert model.invoke("x") == Place(where="up")
    assert await model.ainvoke("x") == Place(where="up")


async def test_tokens_are_counted_the_same_whole_and_streamed() -> None:
    model = ScriptedChat(rule=lambda messages, tools: "one two three")
    whole = await model.ainvoke([HumanMessage("a b"), HumanMessage("c")])
    assert whole.usage_metadata == {"input_tokens": 3, "output_tokens": 3, "total_tokens": 6}
    assert whole.response_metadata["model_name"] == "scripted"
    chunks = [c async for c in model.astream([HumanMessage("a b"), HumanMessage("c")])]
    assert [c.text for c in chunks if c.text] == ["one ", "two ", "three"]
    added = sum(chunks[1:], chunks[0])
    assert added.usage_metadata == whole.usage_metadata
    assert added.response_metadata["model_name"] == "scripted"
    assert added.response_metadata["finish_reason"] == "stop"
    assert sum(model.stream("x"), AIMessageChunk("")).usage_metadata is not None


def test_what_the_rule_says_of_usage_and_model_stands() -> None:
    usage: Any = {"input_tokens": 7, "output_tokens": 8, "total_tokens": 15}
    said = AIMessage("x", usage_metadata=usage, response_metadata={"model_name": "big"})
    answer = ScriptedChat(rule=lambda messages, tools: said).invoke("x")
    assert (answer.usage_metadata, answer.response_metadata["model_name"]) == (usage, "big")


async def test_tokens_come_one_after_the_other_in_time() -> None:
    model = ScriptedChat(rule=lambda messages, tools: "a b c d", delay_s=0.02)
    began = time.monotonic()
    times = [time.monotonic() async for chunk in model.astream("x") if chunk.text]
    assert min(b - a for a, b in pairwise([began, *times])) >= 0.015
    began = time.monotonic()
    model.invoke("x")
    assert time.monotonic() - began >= 0.08, "a whole answer takes as long"
    ten = await asyncio.wait_for(asyncio.gather(*(model.ainvoke("x") for _ in range(10))), 20)
    assert len(ten) == 10


async def test_a_failure_comes_after_so_many_tokens() -> None:
    model = ScriptedChat(rule=lambda messages, tools: "a b c d", failure=ConnectionError("cut"), fail_at=2)
    seen: list[str] = []

    async def read() -> None:
        async for chunk in model.astream("x"):
            seen.append(chunk.text)  # noqa: PERF401 - a comprehension keeps nothing when it fails

    with pytest.raises(ConnectionError, match="cut"):
        await read()
    assert seen == ["a ", "b "]
    for call in (model.invoke, lambda text: list(model.stream(text))):
        with pytest.raises(ConnectionError, match="cut"):
            call("x")
    with pytest.raises(ConnectionError, match="cut"):
        await model.ainvoke("x")


async def test_trap_tool_calls_of_a_fake_model_stream_under_stream_mode_messages() -> None:
    """LangChain's own fake yields no chunk for a message that only calls tools: "No generations found in stream"."""
    agents = pytest.importorskip("langchain.agents")
    rule = ask_then_answer("look", lambda q: {"where": q}, lambda r: f"I saw {r}")
    graph = agents.create_agent(ScriptedChat(rule=rule), [look])
    asked: Any = {"messages": [HumanMessage("there")]}
    parts = [part async for part, _ in graph.astream(asked, stream_mode="messages")]
    calls = [c for p in parts if isinstance(p, AIMessageChunk) for c in p.tool_call_chunks]
    assert "".join(c["args"] or "" for c in calls) == '{"where": "there"}'
    assert "".join(p.text for p in parts if isinstance(p, AIMessageChunk)) == "I saw nothing there"

    class Fake(GenericFakeChatModel):
        def bind_tools(self, tools: Any, **_: Any) -> Any:
            return self

    answers = [calls_first([], ("look",)), AIMessage("done")]
    theirs = agents.create_agent(Fake(messages=iter(answers)), [look])
    with pytest.raises(ValueError, match="No generations found in stream"):
        [part async for part in theirs.astream(asked, stream_mode="messages")]
