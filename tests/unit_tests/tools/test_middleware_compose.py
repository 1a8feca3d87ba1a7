"""`MeshMiddleware` beside LangChain's own: approval and limits, whichever comes first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    HumanInTheLoopMiddleware,
    ModelCallLimitMiddleware,
    ToolCallLimitMiddleware,
    ToolRetryMiddleware,
)
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from chatixia_langchain import Incoming, LocalMesh, Mesh, MeshAgent
from chatixia_langchain.testing import ScriptedChat
from chatixia_langchain.tools.middleware import MeshMiddleware

both_orders = pytest.mark.parametrize("first", [True, False], ids=["ours first", "ours last"])
GO: Any = {"messages": [HumanMessage("go")]}
THREAD: Any = {"configurable": {"thread_id": "t"}}


class Pair:
    """`b` counts what `a`'s agent asks of it."""

    def __init__(self, a: Mesh) -> None:
        self.a = a
        self.asked: list[Incoming] = []

    async def echo(self, message: Incoming) -> str:
        self.asked.append(message)
        return f"echo: {message.content}"

    def agent(self, model: ScriptedChat, other: AgentMiddleware, first: bool) -> Any:
        ours = MeshMiddleware(self.a, per_peer_tools=True)
        stack = [ours, other] if first else [other, ours]
        return create_agent(model, middleware=stack, checkpointer=InMemorySaver())


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with LocalMesh(transport="memory") as local:
        made, b = Pair(await local.join("a")), await local.join("b")
        serving = asyncio.create_task(MeshAgent(b, made.echo).serve())
        await made.a.wait_for_peer("b")
        yield made
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def asks(name: str, times: int = 1, **args: Any) -> ScriptedChat:
    """Calls one tool so many times, then tells the results."""

    def rule(messages: list[BaseMessage], _: tuple[str, ...]) -> AIMessage | str:
        results = [f"[{m.status}] {m.text}" for m in messages if isinstance(m, ToolMessage)]
        if len(results) >= times:
            return " | ".join(results)
        return AIMessage("", tool_calls=[{"name": name, "args": args, "id": f"c{len(messages)}"}])

    return ScriptedChat(rule=rule)


@both_orders
@pytest.mark.parametrize("name", ["mesh_ask", "ask_b"])
@pytest.mark.parametrize("decision", ["approve", "reject", "edit"])
async def test_a_human_approves_calls_of_peers(pair: Pair, first: bool, name: str, decision: str) -> None:
    """Of tools with a fixed name and of tools that come and go; nothing is sent before the word is given."""
    human = HumanInTheLoopMiddleware(interrupt_on={name: {"allowed_decisions": ["approve", "reject", "edit"]}})
    args = {"message": "hi"} | ({"peer": "b"} if name == "mesh_ask" else {})
    agent = pair.agent(asks(name, **args), human, first)
    paused = await agent.ainvoke(GO, THREAD)
    assert paused["__interrupt__"]
    assert pair.asked == []
    word: dict[str, Any] = {"type": decision}
    if decision == "edit":
        word["edited_action"] = {"name": name, "args": {**args, "message": "hello"}}
    result = await agent.ainvoke(Command(resume={"decisions": [word]}), THREAD)
    said = result["messages"][-1].text
    if decision == "reject":
        assert pair.asked == []
        assert said.startswith("[error]")
    else:
        wanted = "hello" if decision == "edit" else "hi"
        assert said.startswith("[success]")
        assert said.endswith(f"echo: {wanted}")
        assert [m.content for m in pair.asked] == [wanted]


@both_orders
async def test_a_limit_of_tool_calls_holds(pair: Pair, first: bool) -> None:
    limit = ToolCallLimitMiddleware(tool_name="ask_b", run_limit=2, exit_behavior="continue")
    result = await pair.agent(asks("ask_b", 3, message="hi"), limit, first).ainvoke(GO, THREAD)
    assert len(pair.asked) == 2
    assert result["messages"][-1].text.startswith("[success] echo: hi | [success] echo: hi | [error] Tool call limit")


@both_orders
async def test_a_limit_of_model_calls_holds(pair: Pair, first: bool) -> None:
    limit = ModelCallLimitMiddleware(run_limit=2, exit_behavior="end")
    result = await pair.agent(asks("mesh_ask", 9, peer="b", message="hi"), limit, first).ainvoke(GO, THREAD)
    assert len(pair.asked) == 2
    assert "limit" in result["messages"][-1].text


@both_orders
async def test_a_retry_does_not_make_two_requests_of_one_call(pair: Pair, first: bool) -> None:
    """The call is retried with its id, and the peer answers again instead of working again."""
    broken: list[str] = []

    class BreaksOnce(AgentMiddleware):
        async def awrap_tool_call(self, request: Any, handler: Any) -> Any:
            result = await handler(request)
            if not broken:
                broken.append(request.tool_call["id"])
                raise ConnectionError("lost on the way back")
            return result

    ours = MeshMiddleware(pair.a, per_peer_tools=True)
    retry = ToolRetryMiddleware(max_retries=2, initial_delay=0.01, jitter=False)
    stack = [ours, retry, BreaksOnce()] if first else [retry, BreaksOnce(), ours]
    agent = create_agent(asks("ask_b", message="hi"), middleware=stack, checkpointer=InMemorySaver())
    result = await agent.ainvoke(GO, THREAD)
    assert result["messages"][-1].text == "[success] echo: hi"
    assert broken
    assert len(pair.asked) == 1


@both_orders
async def test_tasks_survive_a_pause_of_the_graph(pair: Pair, first: bool) -> None:
    """The task was started before the pause; the state has it after."""

    def rule(messages: list[BaseMessage], _: tuple[str, ...]) -> AIMessage | str:
        results = [m for m in messages if isinstance(m, ToolMessage)]
        if not results:
            args = {"peer": "b", "description": "dig"}
            return AIMessage("", tool_calls=[{"name": "mesh_start_task", "args": args, "id": "c1"}])
        (task_id,) = results[0].artifact
        if "echo: dig" in results[-1].text:
            return "ok"
        args = {"task_id": task_id}
        return AIMessage("", tool_calls=[{"name": "mesh_check_task", "args": args, "id": f"c{len(messages)}"}])

    human = HumanInTheLoopMiddleware(interrupt_on={"mesh_check_task": {"allowed_decisions": ["approve"]}})
    agent = pair.agent(ScriptedChat(rule=rule), human, first)
    result = await agent.ainvoke(GO, THREAD)
    async with asyncio.timeout(10):
        while "__interrupt__" in result:
            assert len(result["mesh_tasks"]) == 1
            result = await agent.ainvoke(Command(resume={"decisions": [{"type": "approve"}]}), THREAD)
    assert result["messages"][-1].text == "ok"
    assert len(pair.asked) == 1
