"""Peers as tools and as Runnables over every transport: one suite, the same claims.

Over channels the answer is read while it is written; the mailbox brings it whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage, ToolMessage

from chatixia_langchain import Incoming, LocalMesh, Mesh, MeshAgent, MeshError, MeshTool
from chatixia_langchain.testing import ScriptedChat, ask_then_answer
from chatixia_langchain.tools.remote_agent import RemoteAgent

from ...support import sidecar_binary

agents = pytest.importorskip("langchain.agents")
graphs = pytest.importorskip("langgraph.graph")
memory = pytest.importorskip("langgraph.checkpoint.memory")
types = pytest.importorskip("langgraph.types")

PATHS = {"memory": "memory", "sidecar": "channel", "aiortc": "channel", "mailbox": "mailbox"}
WORDS = ("one ", "two ", "three")
THREAD: Any = {"configurable": {"thread_id": "T"}}


class Ends:
    """The asker, and how the other end does."""

    def __init__(self, local: LocalMesh, transport: str) -> None:
        self.local, self.transport = local, transport
        self.channel = PATHS[transport] != "mailbox"
        self.asked: list[Incoming] = []
        self.go, self.cancelled = asyncio.Event(), asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.a: Mesh

    async def serve(self, agent: Any, name: str = "b") -> None:
        mesh = await self.local.join(name)
        self._tasks.append(asyncio.create_task(MeshAgent(mesh, agent).serve()))
        await self.a.wait_for_peer(name)

    async def writer(self, message: Incoming) -> str:
        """Write word by word; past the first one only when `go` is set, which over the mailbox it is."""
        self.asked.append(message)
        try:
            for n, word in enumerate(WORDS):
                await message.chunk(word)
                if n == 0 and self.channel:
                    await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return "".join(WORDS)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.fixture(params=[pytest.param(t, marks=pytest.mark.sidecar if t == "sidecar" else ()) for t in PATHS])
async def ends(request: pytest.FixtureRequest) -> AsyncIterator[Ends]:
    settings = {"sidecar_binary": sidecar_binary()} if request.param == "sidecar" else {}
    async with LocalMesh(transport=request.param, **settings) as local:
        made = Ends(local, request.param)
        made.a = await local.join("a")
        yield made
        await made.stop()


async def test_a_remote_agent_streams_and_its_answer_is_whole(ends: Ends) -> None:
    await ends.serve(ends.writer)
    agent, seen = RemoteAgent(ends.a, "b", timeout=60), list[Any]()
    async for chunk in agent.astream("x"):
        seen.append(chunk)
        ends.go.set()
    assert "".join(c.content for c in seen) == "one two three"
    if ends.channel:
        assert seen[0].content == "one ", "seen before the second was written"
    assert seen[-1].response_metadata["mesh"]["path"] == PATHS[ends.transport]
    answer = await agent.ainvoke("x")
    assert (answer.text, answer.name) == ("one two three", "b")


async def test_an_agent_with_a_peer_as_tool_shows_the_peers_tokens(ends: Ends) -> None:
    await ends.serve(ends.writer)
    rule = ask_then_answer("ask_b", lambda q: {"message": q}, lambda r: f"it said {r}")
    graph = agents.create_agent(ScriptedChat(rule=rule), [MeshTool(ends.a, peer="b", timeout=60)])
    heard, said = "", ""
    async for message, about in graph.astream({"messages": [("user", "go")]}, THREAD, stream_mode="messages"):
        if "chatixia:remote" in (about.get("tags") or ()):
            heard += message.text
            ends.go.set()
        elif isinstance(message, ToolMessage):
            assert message.artifact["path"] == PATHS[ends.transport]
        else:
            said += message.text
    assert (heard, said) == ("one two three", "it said one two three")


async def test_a_peer_is_a_node_and_its_human_is_asked_here(ends: Ends) -> None:
    done: list[str] = []

    def work(state: Any) -> Any:
        done.append(types.interrupt({"question": "may I?"}))
        return {"messages": [AIMessage(f"did it: {done}")]}

    def graph(node: Any) -> Any:
        builder = graphs.StateGraph(graphs.MessagesState).add_node("n", node).add_edge(graphs.START, "n")
        return builder.compile(checkpointer=memory.InMemorySaver())

    await ends.serve(graph(work))
    here = graph(RemoteAgent(ends.a, "b", timeout=60))
    (wanted,) = (await here.ainvoke({"messages": [("user", "go")]}, THREAD))["__interrupt__"]
    assert (wanted.value["peer"], wanted.value["value"]) == ("b", {"question": "may I?"})
    out = await here.ainvoke(types.Command(resume="yes"), THREAD)
    assert out["messages"][-1].text == "did it: ['yes']"
    assert done == ["yes"]


async def test_twenty_at_once_are_each_answered(ends: Ends) -> None:
    async def echo(message: Incoming) -> str:
        return f"re:{message.content}"

    await ends.serve(echo)
    texts = [f"q{n}" for n in range(20)]
    answers = await RemoteAgent(ends.a, "b", timeout=60).abatch(texts)
    assert [a.text for a in answers] == [f"re:{t}" for t in texts]


async def test_leaving_the_stream_cancels_the_peers_run(ends: Ends) -> None:
    if not ends.channel:
        pytest.skip("nothing comes over the mailbox before the answer is whole: there is no stream to leave")
    await ends.serve(ends.writer)
    async for _ in RemoteAgent(ends.a, "b", timeout=60).astream("x"):
        break
    await asyncio.wait_for(ends.cancelled.wait(), 10)


async def test_cancelling_the_caller_cancels_the_peers_run(ends: Ends) -> None:
    """Over the mailbox too: the cancel goes the same way as the question."""

    async def never(message: Incoming) -> str:
        ends.asked.append(message)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ends.cancelled.set()
            raise
        return ""

    await ends.serve(never)
    task = asyncio.create_task(MeshTool(ends.a, peer="b", timeout=60).ainvoke({"message": "x"}))
    async with asyncio.timeout(20):
        while not ends.asked:
            await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(ends.cancelled.wait(), 20)


async def test_failures_are_mesh_errors(ends: Ends) -> None:
    async def breaks(message: Incoming) -> str:
        await message.chunk("one ")
        raise RuntimeError("inside")

    await ends.serve(breaks)
    agent = RemoteAgent(ends.a, "b", timeout=60)
    with pytest.raises(MeshError, match="handler_failed"):
        await agent.ainvoke("x")
    with pytest.raises(MeshError, match="handler_failed"):
        [chunk async for chunk in agent.astream("x")]
