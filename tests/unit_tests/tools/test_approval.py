"""A human's word across machines: what a peer's graph waits for, the caller's waits for, and the answer goes back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool as as_tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from chatixia_langchain import ChatLoop, MeshAgent, MeshTool, Reply
from chatixia_langchain.agent.policy import InboundPolicy
from chatixia_langchain.testing import ScriptedChat, ask_then_answer
from chatixia_langchain.tools.approval import RemoteInterrupted, resume
from chatixia_langchain.tools.remote_agent import RemoteAgent

from .conftest import Far

THREAD: Any = {"configurable": {"thread_id": "T"}}
GO: Any = {"messages": [HumanMessage("go")]}


class Careful:
    """A graph that asks a human `questions` one after the other, and counts what it did."""

    def __init__(self, *questions: str) -> None:
        self.done: list[list[Any]] = []
        self._questions = questions or ("may I?",)
        builder = StateGraph(MessagesState).add_node("work", self._work).add_edge(START, "work")
        self.graph = builder.compile(checkpointer=InMemorySaver())

    def _work(self, state: MessagesState) -> Any:
        said = [interrupt({"question": q}) for q in self._questions]
        self.done.append(said)
        return {"messages": [AIMessage(f"did it: {said}")]}


def caller(tool: MeshTool, saver: Any = None) -> Any:
    """An agent that asks with `tool`, with a checkpointer."""
    rule = ask_then_answer(tool.name, lambda q: {"message": q}, lambda r: f"it said {r}")
    return create_agent(ScriptedChat(rule=rule), [tool], checkpointer=saver or InMemorySaver())


def node(agent: RemoteAgent, saver: Any = None) -> Any:
    """The remote agent as the one node of a graph."""
    builder = StateGraph(MessagesState).add_node("b", agent).add_edge(START, "b")
    return builder.compile(checkpointer=saver or InMemorySaver())


@pytest.fixture(params=["tool", "node"])
def graph(request: pytest.FixtureRequest, far: Far) -> Any:
    """The caller's graph, with the peer `b` as a tool or as a node."""
    if request.param == "tool":
        return caller(MeshTool(far.a, peer="b"))
    return node(RemoteAgent(far.a, "b"))


@pytest.mark.parametrize("stream", [False, True], ids=["invoke", "stream"])
async def test_the_callers_graph_waits_and_the_answer_goes_back(far: Far, graph: Any, stream: bool) -> None:
    far_end = Careful()
    await far.serve(far_end.graph)

    async def run(given: Any) -> dict[str, Any]:
        if stream:
            modes = ["messages", "values"]
            return [p async for m, p in graph.astream(given, THREAD, stream_mode=modes) if m == "values"][-1]
        return await graph.ainvoke(given, THREAD)

    (wanted,) = (await run(GO))["__interrupt__"]
    assert set(wanted.value) == {"peer", "message_id", "id", "value"}
    assert (wanted.value["peer"], wanted.value["value"]) == ("b", {"question": "may I?"}), "labelled as the peer's"
    assert far_end.done == []
    out = await run(Command(resume="yes"))
    assert out["messages"][-1].text.endswith("did it: ['yes']")
    assert far_end.done == [["yes"]], "once"
    assert not (await graph.aget_state(THREAD)).next


async def test_several_questions_one_after_the_other(far: Far, graph: Any) -> None:
    far_end = Careful("first", "second", "second")
    await far.serve(far_end.graph)
    out = await graph.ainvoke(GO, THREAD)
    for n, question in enumerate(("first", "second", "second")):
        assert out["__interrupt__"][0].value["value"] == {"question": question}
        out = await graph.ainvoke(Command(resume=f"same{n // 2}"), THREAD)
    assert far_end.done == [["same0", "same0", "same1"]], "the same answer to a later question is another answer"


async def test_several_questions_at_once(far: Far, graph: Any) -> None:
    """Two branches of the peer's graph wait together: each is asked here, none is lost."""
    done: list[str] = []

    def branch(name: str) -> Any:
        def work(state: MessagesState) -> Any:
            done.append(f"{name}: {interrupt(name)}")
            return {"messages": [AIMessage(f"{name} done")]}

        return work

    builder = StateGraph(MessagesState)
    for name in ("left", "right"):
        builder.add_node(name, branch(name)).add_edge(START, name)
    await far.serve(builder.compile(checkpointer=InMemorySaver()))
    out = await graph.ainvoke(GO, THREAD)
    first = out["__interrupt__"][0].value["value"]
    out = await graph.ainvoke(Command(resume=f"ok {first}"), THREAD)
    second = out["__interrupt__"][0].value["value"]
    assert {first, second} == {"left", "right"}
    await graph.ainvoke(Command(resume=f"ok {second}"), THREAD)
    assert sorted(done) == ["left: ok left", "right: ok right"]


async def test_two_peers_wait_in_one_step(far: Far) -> None:
    """Parallel tool calls of one answer: two interrupts, resumed by their ids."""
    ends = {"b": Careful(), "c": Careful()}
    for name, end in ends.items():
        await far.serve(end.graph, name)
    calls = [{"name": f"ask_{p}", "args": {"message": "go"}, "id": f"id-{p}", "type": "tool_call"} for p in "bc"]

    def rule(messages: list[BaseMessage], _: Any) -> Any:
        results = [m.text for m in messages if isinstance(m, ToolMessage)]
        return " and ".join(results) if results else AIMessage("", tool_calls=calls)

    tools = [MeshTool(far.a, peer=p) for p in "bc"]
    graph = create_agent(ScriptedChat(rule=rule), tools, checkpointer=InMemorySaver())
    out = await graph.ainvoke(GO, THREAD)
    waits = {i.value["peer"]: i.id for i in out["__interrupt__"]}
    assert set(waits) == {"b", "c"}
    out = await graph.ainvoke(Command(resume={waits["b"]: "yes", waits["c"]: "no"}), THREAD)
    assert out["messages"][-1].text == "did it: ['yes'] and did it: ['no']"
    assert [e.done for e in ends.values()] == [[["yes"]], [["no"]]]


async def test_two_levels_deep(far: Far) -> None:
    """a asks b, b's graph asks c, c waits: the human at a decides, and c acts once."""
    end = Careful()
    await far.serve(end.graph, "c")
    mesh_b = await far.local.join("b")
    await mesh_b.wait_for_peer("c")
    policy = InboundPolicy(tools=["ask_c"])
    serving = asyncio.create_task(MeshAgent(mesh_b, caller(MeshTool(mesh_b, peer="c")), policy=policy).serve())
    await far.a.wait_for_peer("b")
    graph = caller(MeshTool(far.a, peer="b"))
    (wanted,) = (await graph.ainvoke(GO, THREAD))["__interrupt__"]
    assert wanted.value["peer"] == "b"
    assert wanted.value["value"]["peer"] == "c", "b's question is c's, and says so"
    assert wanted.value["value"]["value"] == {"question": "may I?"}
    out = await graph.ainvoke(Command(resume="yes"), THREAD)
    assert out["messages"][-1].text == "it said it said did it: ['yes']"
    assert end.done == [["yes"]]
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


@pytest.mark.parametrize("way", ["tool", "node"])
async def test_a_new_caller_with_the_same_checkpointer_goes_on(far: Far, way: str) -> None:
    """The caller's process ended while it waited: thread and call, or step, make the same ids in the next one."""
    end, saver = Careful(), InMemorySaver()
    await far.serve(end.graph)

    def made() -> Any:
        if way == "node":
            return node(RemoteAgent(far.a, "b"), saver)
        return caller(MeshTool(far.a, peer="b"), saver)

    await made().ainvoke(GO, THREAD)
    await far.a.aclose()
    far.a = await far.local.join("a")
    await far.a.wait_for_peer("b")
    out = await made().ainvoke(Command(resume="yes"), THREAD)
    assert out["messages"][-1].text.endswith("did it: ['yes']")
    assert end.done == [["yes"]]


async def test_another_decision_in_a_fork_is_not_answered_with_the_first(far: Far) -> None:
    """Going back to the pause and deciding otherwise must not show the result of the earlier decision."""
    end = Careful()
    await far.serve(end.graph)
    graph = caller(MeshTool(far.a, peer="b"))
    await graph.ainvoke(GO, THREAD)
    paused = (await graph.aget_state(THREAD)).config
    await graph.ainvoke(Command(resume="yes"), THREAD)
    fork = await graph.aupdate_state(paused, None, as_node="__copy__")
    assert (await graph.ainvoke(None, fork))["__interrupt__"][0].value["peer"] == "b"
    out = await graph.ainvoke(Command(resume="no"), THREAD)
    assert "yes" not in out["messages"][-1].text
    assert "refused" in out["messages"][-1].text, "the peer's conversation waits no longer"
    assert end.done == [["yes"]]


async def test_without_a_graph_it_is_said_who_waits_for_what(far: Far) -> None:
    await far.serve(Careful().graph)
    tool = MeshTool(far.a, peer="b")
    call = {"type": "tool_call", "name": tool.name, "args": {"message": "go"}, "id": "c1"}
    result = await tool.ainvoke(call, THREAD)
    assert result.status == "error"
    assert result.content.startswith(
        "[interrupted] the agent \"b\" waits for a human to decide on: \"{'question': 'may"
    )
    rule = ask_then_answer(tool.name, lambda q: {"message": q}, lambda r: f"it said {r}")
    told = await ChatLoop(ScriptedChat(rule=rule), tools=[tool]).ainvoke("go", thread_id="L")
    assert told.text.startswith("it said [interrupted]")


async def test_a_program_without_a_graph_can_decide_by_hand(far: Far) -> None:
    end = Careful("first", "second")
    await far.serve(end.graph)
    with pytest.raises(RemoteInterrupted) as caught:
        await RemoteAgent(far.a, "b").ainvoke("go")
    paused = caught.value
    (wanted,) = paused.interrupts
    assert (paused.code, paused.retryable, wanted.value) == ("interrupted", False, {"question": "first"})
    reply = await far.a.ask(paused.peer, "", **paused.resume({wanted.id: "yes"}))
    (wanted,) = reply.interrupts
    assert wanted.value == {"question": "second"}
    assert end.done == []
    with pytest.raises(TypeError):
        paused.resume({wanted.id: object()})


def test_the_id_of_a_decision_is_that_of_its_question_and_its_values() -> None:
    """Older langgraph gives each interrupt of a node one id: the same word twice must not be taken for a repeat."""
    first, later = (Reply("", "b", "c", id_, "memory") for id_ in ("m1", "m2"))
    made = [resume(first, "m1", {"i": 1}), resume(first, "m1", {"i": 1}), resume(first, "m1", {"i": 2})]
    made.append(resume(later, "m1", {"i": 1}))
    ids = [m["message_id"] for m in made]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3
    assert {m["meta"]["resume"]["of"] for m in made} == {"m1"}


async def test_a_graph_without_a_thread_cannot_wait(far: Far) -> None:
    """It could never be resumed: the model is told instead of the run being lost."""
    await far.serve(Careful().graph)
    tool = MeshTool(far.a, peer="b")
    rule = ask_then_answer(tool.name, lambda q: {"message": q}, lambda r: f"it said {r}")
    out = await create_agent(ScriptedChat(rule=rule), [tool]).ainvoke(GO)
    assert out["messages"][-1].text.startswith("it said [interrupted]")


async def test_approval_by_the_sync_door(far: Far, graph: Any) -> None:
    end = Careful()
    await far.serve(end.graph)
    out = await asyncio.to_thread(graph.invoke, GO, THREAD)
    assert out["__interrupt__"][0].value["peer"] == "b"
    out = await asyncio.to_thread(graph.invoke, Command(resume="yes"), THREAD)
    assert out["messages"][-1].text.endswith("did it: ['yes']")
    assert end.done == [["yes"]]


async def test_what_the_peer_says_while_it_waits_is_no_token_of_its_answer(far: Far, graph: Any) -> None:
    await far.serve(Careful().graph)
    heard = [m.text async for m, _ in graph.astream(GO, THREAD, stream_mode="messages") if m.type != "tool"]
    assert "".join(heard) == ""
    resumed = [m async for m, _ in graph.astream(Command(resume="yes"), THREAD, stream_mode="messages")]
    remote = "".join(m.text for m in resumed if m.name == "b")
    assert remote == "did it: ['yes']"


async def test_a_tool_with_approval_of_its_own_beside_it(far: Far) -> None:
    """A local interrupt and a peer's in one step: neither takes the other's answer."""

    @as_tool
    def local() -> str:
        """Ask here."""
        return f"local {interrupt('here')}"

    end = Careful()
    await far.serve(end.graph)
    remote = MeshTool(far.a, peer="b")
    calls = [
        {"name": "local", "args": {}, "id": "c1", "type": "tool_call"},
        {"name": remote.name, "args": {"message": "go"}, "id": "c2", "type": "tool_call"},
    ]

    def rule(messages: list[BaseMessage], _: Any) -> Any:
        results = [m.text for m in messages if isinstance(m, ToolMessage)]
        return " and ".join(results) if results else AIMessage("", tool_calls=calls)

    graph = create_agent(ScriptedChat(rule=rule), [local, remote], checkpointer=InMemorySaver())
    waits = {str(i.value): i.id for i in (await graph.ainvoke(GO, THREAD))["__interrupt__"]}
    answers = {id_: "A" if value == "here" else "B" for value, id_ in waits.items()}
    out = await graph.ainvoke(Command(resume=answers), THREAD)
    assert out["messages"][-1].text == "local A and did it: ['B']"
