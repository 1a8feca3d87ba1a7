"""A graph that pauses: who is told, who may decide, what waits meanwhile, and that nothing is done twice."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool

from chatixia_langchain import InboundPolicy, LocalMesh, Mesh, MeshError, Reply
from chatixia_langchain.agent.mesh_agent import TurnEvent
from chatixia_langchain.testing import ScriptedChat

from .test_mesh_agent import local as local
from .test_mesh_agent import served

agents = pytest.importorskip("langchain.agents")
memory = pytest.importorskip("langgraph.checkpoint.memory")
types = pytest.importorskip("langgraph.types")

ALL = InboundPolicy(tools="all")
LOCAL = InboundPolicy(tools="all", approvals="local")


class Desk:
    """Counts what was done, and makes graphs whose tool asks a human first: once for each word of its question."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def graph(self, checkpointer: Any) -> Any:
        @tool
        async def delete(what: str) -> str:
            """Delete something."""
            answers = [types.interrupt({"question": word}) for word in what.split()]
            if "crash" in answers:
                raise RuntimeError("disk on fire")
            self.done.append(what)
            return f"{what}: {answers}"

        return agents.create_agent(ScriptedChat(rule=deletes), [delete], checkpointer=checkpointer)


def said(message: BaseMessage) -> str:
    return message.text.split("\n")[2]


def deletes(messages: list[BaseMessage], _: tuple[str, ...]) -> AIMessage | str:
    """Calls `delete` for each part between commas of "delete ...", and says what came of it; else counts."""
    if isinstance(messages[-1], ToolMessage):
        last = max(n for n, m in enumerate(messages) if isinstance(m, AIMessage))
        return "; ".join(m.text for m in messages[last + 1 :])
    text = said(messages[-1])
    if not text.startswith("delete "):
        return f"heard {', '.join(said(m) for m in messages if isinstance(m, HumanMessage))}"
    parts = text.removeprefix("delete ").split(", ")
    calls: Any = [
        {"name": "delete", "args": {"what": part}, "id": f"c{len(messages)}-{n}", "type": "tool_call"}
        for n, part in enumerate(parts)
    ]
    return AIMessage("", tool_calls=calls)


async def decide(mesh: Mesh, peer: str, paused: Reply, values: Mapping[str, Any], **more: Any) -> Reply:
    return await mesh.ask(
        peer,
        "",
        conversation=paused.conversation,
        meta={"resume": {"of": more.pop("of", paused.message_id), "values": dict(values)}},
        **{"timeout": 10, **more},
    )


def all_of(paused: Reply, value: Any) -> dict[str, Any]:
    return {i.id: value for i in paused.interrupts}


@pytest.fixture
async def pair(local: LocalMesh) -> tuple[Mesh, Mesh]:
    return await local.join("a"), await local.join("b")


async def test_the_asker_is_told_and_its_decision_goes_on(pair: tuple[Mesh, Mesh]) -> None:
    a, b = pair
    desk, events = Desk(), list[TurnEvent]()
    async with served(b, desk.graph(memory.InMemorySaver()), policy=ALL, on_turn=events.append) as agent:
        paused = await a.ask("b", "delete x", conversation="c")
        assert [i.value for i in paused.interrupts] == [{"question": "x"}]
        assert "human's decision on 1 question" in paused.content
        assert desk.done == []
        (entry,) = agent.paused()
        assert (entry.peer, entry.conversation, entry.message_id) == ("a", "c", paused.message_id)
        assert entry.interrupts == paused.interrupts
        after = await decide(a, "b", paused, all_of(paused, "yes"))
        assert (after.content, after.interrupts) == ("x: ['yes']", ())
        assert (desk.done, agent.paused()) == (["x"], [])
        assert (await a.ask("b", "hi", conversation="c")).content == "heard delete x, hi"
    assert [e.kind for e in events] == ["began", "paused", "began", "ended", "began", "ended"]


async def test_several_questions_are_decided_one_by_one_or_together(pair: tuple[Mesh, Mesh]) -> None:
    a, b = pair
    desk = Desk()
    async with served(b, desk.graph(memory.InMemorySaver()), policy=ALL):
        paused = await a.ask("b", "delete x, y", conversation="c")
        first, second = paused.interrupts
        rest = await decide(a, "b", paused, {first.id: "one"})
        assert rest.interrupts == (second,)
        assert (await decide(a, "b", paused, {second.id: "two"})).content == "x: ['one']; y: ['two']"
        paused = await a.ask("b", "delete p q", conversation="d")
        again = await decide(a, "b", paused, all_of(paused, 1))
        assert [i.value for i in again.interrupts] == [{"question": "q"}], "the same tool asks a second time"
        assert (await decide(a, "b", paused, all_of(again, 2))).content == "p q: [1, 2]"
    assert desk.done == ["x", "y", "p q"]


async def test_trap_mail_for_a_paused_thread_waits_and_abandons_nothing(pair: tuple[Mesh, Mesh]) -> None:
    """A graph that is given a message while it is paused forgets what it waited for, and leaves a call without result.

    The first half shows that on the graph itself, the second that an agent in between holds the mail.
    """
    a, b = pair
    graph = Desk().graph(memory.InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}
    await graph.ainvoke({"messages": [HumanMessage("\n\ndelete x")]}, config)
    bare = await graph.ainvoke({"messages": [HumanMessage("\n\nhi")]}, config)
    assert [m.type for m in bare["messages"]] == ["human", "ai", "human", "ai"], "the trap: a call without result"

    desk = Desk()
    async with served(b, desk.graph(memory.InMemorySaver()), policy=ALL):
        paused = await a.ask("b", "delete x", conversation="c")
        for n in range(3):
            await (await a.send("b", f"note {n}", conversation="c")).delivered()
        waits = asyncio.create_task(a.ask("b", "and now?", conversation="c", timeout=20))
        await asyncio.sleep(0.1)
        assert not waits.done()
        assert (await a.ask("b", "hi", conversation="other")).content == "heard hi", "other conversations go on"
        assert (await decide(a, "b", paused, all_of(paused, "yes"))).content == "x: ['yes']"
        assert (await waits).content == "heard delete x, note 0, note 1, note 2, and now?"
    assert desk.done == ["x"]


async def test_a_request_that_waits_in_vain_is_failed_as_held(pair: tuple[Mesh, Mesh]) -> None:
    a, b = pair
    async with served(b, Desk().graph(memory.InMemorySaver()), policy=ALL):
        paused = await a.ask("b", "delete x", conversation="c")
        with pytest.raises(MeshError) as caught:
            await a.ask("b", "and now?", conversation="c", timeout=0.8)
        assert (caught.value.code, caught.value.executed) == ("held", "no")
        assert (await decide(a, "b", paused, all_of(paused, "yes"))).content == "x: ['yes']"
        assert (await a.ask("b", "hi", conversation="c")).content == "heard delete x, hi"


async def test_wrong_decisions_are_refused_and_the_thread_stays_paused(
    local: LocalMesh, pair: tuple[Mesh, Mesh]
) -> None:
    a, b = pair
    c = await local.join("c")
    desk = Desk()
    async with served(b, desk.graph(memory.InMemorySaver()), policy=ALL):
        paused = await a.ask("b", "delete x", conversation="c")
        yes = all_of(paused, "yes")
        wrong: list[tuple[Any, str, str]] = [
            (decide(a, "b", paused, {"nonsense": 1}), "refused", "no interrupt 'nonsense'"),
            (decide(a, "b", paused, yes, of="another"), "refused", "not with 'another'"),
            (decide(a, "b", paused, {}), "invalid_line", "0 entries"),
            (decide(c, "b", paused, yes), "refused", "waits for no decision"),
            (a.ask("b", "", conversation="d", meta={"resume": {"of": "x", "values": yes}}), "refused", "no decision"),
            (a.ask("b", "", conversation="c", meta={"resume": "yes"}), "invalid_line", "meta.resume"),
            (a.ask("b", "", conversation="c", meta={"resume": {"of": 1, "values": {}}}), "invalid_line", "meta.resume"),
        ]
        for attempt, code, why in wrong:
            with pytest.raises(MeshError, match=why) as caught:
                await attempt
            assert (caught.value.code, caught.value.executed) == (code, "no")
        assert desk.done == []
        assert (await decide(a, "b", paused, yes)).content == "x: ['yes']"
        with pytest.raises(MeshError, match="waits for no decision"):
            await decide(a, "b", paused, yes)
    assert desk.done == ["x"]


async def test_a_decision_whose_turn_fails_leaves_the_conversation_free(pair: tuple[Mesh, Mesh]) -> None:
    a, b = pair
    async with served(b, Desk().graph(memory.InMemorySaver()), policy=ALL) as agent:
        paused = await a.ask("b", "delete x", conversation="c")
        with pytest.raises(MeshError) as caught:
            await decide(a, "b", paused, all_of(paused, "crash"))
        assert caught.value.code == "handler_failed"
        assert "fire" not in str(caught.value)
        assert agent.paused() == []
        assert (await a.ask("b", "hi", conversation="c")).content == "heard delete x, hi"


async def test_a_graph_that_cannot_go_on_says_so_here_and_fails_there(
    pair: tuple[Mesh, Mesh], caplog: pytest.LogCaptureFixture
) -> None:
    a, b = pair
    async with served(b, Desk().graph(None), policy=ALL):
        with pytest.raises(MeshError) as caught:
            await a.ask("b", "delete x")
    assert caught.value.code == "handler_failed"
    assert "has no checkpointer" in caplog.text


async def test_a_checkpointer_that_breaks_fails_the_request_and_not_the_agent(pair: tuple[Mesh, Mesh]) -> None:
    a, b = pair
    saver = memory.InMemorySaver()
    graph = Desk().graph(saver)
    works = saver.aget_tuple
    async with served(b, graph, policy=ALL):

        async def broken(config: Any) -> Any:
            raise OSError("disk full")

        saver.aget_tuple = broken
        with pytest.raises(MeshError) as caught:
            await a.ask("b", "hi", conversation="c", timeout=5)
        assert "disk" not in str(caught.value)
        saver.aget_tuple = works
        assert (await a.ask("b", "hi", conversation="c", timeout=5)).content == "heard hi"


async def test_a_streamed_turn_may_pause_and_go_on_streaming(pair: tuple[Mesh, Mesh]) -> None:
    a, b = pair
    desk = Desk()
    async with served(b, desk.graph(memory.InMemorySaver()), policy=ALL):
        async with a.ask_stream("b", "delete x", conversation="c", timeout=10) as stream:
            paused = await stream.reply()
        assert [i.value for i in paused.interrupts] == [{"question": "x"}]
        resume = {"of": paused.message_id, "values": all_of(paused, "yes")}
        async with a.ask_stream("b", "", conversation="c", meta={"resume": resume}, timeout=10) as stream:
            pieces = [chunk.text async for chunk in stream]
            assert (await stream.reply()).content == "".join(pieces) == "x: ['yes']"
        assert len(pieces) > 1
    assert desk.done == ["x"]


async def test_langchains_own_approval_works_across_the_mesh(pair: tuple[Mesh, Mesh]) -> None:
    """`HumanInTheLoopMiddleware` asks before the tool, in its own words, and takes decisions in its own words."""
    middleware = pytest.importorskip("langchain.agents.middleware")
    a, b = pair
    done: list[str] = []

    @tool
    async def delete(what: str) -> str:
        """Delete something."""
        done.append(what)
        return f"{what} is gone"

    gate = middleware.HumanInTheLoopMiddleware(interrupt_on={"delete": {"allowed_decisions": ["approve", "reject"]}})
    graph = agents.create_agent(
        ScriptedChat(rule=deletes), [delete], middleware=[gate], checkpointer=memory.InMemorySaver()
    )
    async with served(b, graph, policy=ALL):
        paused = await a.ask("b", "delete x, y", conversation="c")
        (wanted,) = paused.interrupts
        assert [r["args"] for r in wanted.value["action_requests"]] == [{"what": "x"}, {"what": "y"}]
        decisions = {"decisions": [{"type": "approve"}, {"type": "reject", "message": "not y"}]}
        answer = (await decide(a, "b", paused, {wanted.id: decisions})).content
        assert answer.endswith("not y; x is gone")
    assert done == ["x"]
