"""A tool call without a result gets an error result, in its place; whole histories stay as they are."""

from __future__ import annotations

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from chatixia_langchain.agent.orphans import repairs


def called(*ids: str) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": "ask_bob", "args": {}, "id": i, "type": "tool_call"} for i in ids])


def shape(messages: list[BaseMessage]) -> list[str]:
    return [f"{m.type}:{m.tool_call_id}:{m.status}" if isinstance(m, ToolMessage) else m.type for m in messages]


def test_an_orphan_in_the_middle_gets_its_result_in_its_place() -> None:
    history = [HumanMessage("a"), called("1"), HumanMessage("b")]
    assert shape(repairs(history)) == ["human", "ai", "tool:1:error", "human"]


def test_only_the_missing_result_is_added() -> None:
    history: list[BaseMessage] = [called("1", "2"), ToolMessage("fine", tool_call_id="2"), HumanMessage("b")]
    assert shape(repairs(history)) == ["ai", "tool:1:error", "tool:2:success", "human"]


def test_a_whole_history_comes_back_equal() -> None:
    history: list[BaseMessage] = [HumanMessage("a"), called("1"), ToolMessage("x", tool_call_id="1"), AIMessage("b")]
    assert repairs(history) == history
    assert repairs(repairs([called("1")])) == repairs([called("1")]), "repairing twice adds nothing"


def test_the_same_call_id_used_later_does_not_hide_an_orphan() -> None:
    history = [called("call_0"), HumanMessage("b"), called("call_0"), ToolMessage("x", tool_call_id="call_0")]
    assert shape(repairs(history)) == ["ai", "tool:call_0:error", "human", "ai", "tool:call_0:success"]
