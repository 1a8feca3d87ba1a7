"""The same agents over every transport: memory, sidecars, aiortc, the registry's mailbox alone, and a bad wire."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool

from chatixia_langchain import ChatLoop, Incoming, Mesh, MeshMiddleware, MeshTool, MeshToolkit, RemoteAgent
from chatixia_langchain.errors import MeshTimeout, RemoteError
from chatixia_langchain.testing import OpenAIServer, ScriptedChat, ask_then_answer

from .conftest import World

agents = pytest.importorskip("langchain.agents")
savers = pytest.importorskip("langgraph.checkpoint.memory")
graphs = pytest.importorskip("langgraph.graph")
types = pytest.importorskip("langgraph.types")

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

WAIT_S = 60  # for what takes a moment: this may run on a busy machine
GO: Any = {"messages": [HumanMessage("what?")]}


def said(message: BaseMessage) -> str:
    """What a peer wrote, without the fence around it."""
    lines = message.text.split("\n")
    return lines[2] if len(lines) > 2 else message.text


def asking(name: str) -> ScriptedChat:
    """A model that asks with the tool `name` what it was asked, and passes the answer on."""
    rule = ask_then_answer(name, lambda q: {"message": said(HumanMessage(q))}, lambda r: f"told: {r}")
    return ScriptedChat(rule=rule)


def calling(name: str, args: dict[str, Any]) -> ScriptedChat:
    """A model that calls the tool `name`, and says what it said."""
    return ScriptedChat(rule=ask_then_answer(name, lambda q: args, lambda r: r))


def thread(id_: str) -> Any:
    return {"configurable": {"thread_id": id_}}


async def shout(message: Incoming) -> str:
    return message.content.upper()


async def test_an_agent_asks_with_a_tool(world: World) -> None:
    me, peer = await world.pair(shout, request_timeout_s=WAIT_S)
    mesh_tool = MeshTool(me, peer=peer)
    out = await agents.create_agent(asking(mesh_tool.name), [mesh_tool]).ainvoke(GO, thread("T"))
    assert out["messages"][-1].text == "told: WHAT?"
    (result,) = [m for m in out["messages"] if isinstance(m, ToolMessage)]
    assert (result.artifact["peer"], result.artifact["path"]) == (peer, world.path)
    assert result.artifact["latency_ms"] > 0
    assert await asyncio.to_thread(mesh_tool.invoke, {"message": "from a thread"}) == "FROM A THREAD"


async def test_a_question_goes_through_three_agents_and_its_cost_comes_back(world: World) -> None:
    """A graph asks a loop, which asks a function: hops and chain grow on the way, usage is summed on the way back."""
    planner, researcher, librarian = await world.join("planner", "researcher", "librarian")
    came: list[Incoming] = []

    async def library(message: Incoming) -> str:
        came.append(message)
        return "42"

    further, near = MeshTool(researcher, peer=librarian.name), MeshTool(planner, peer=researcher.name)
    world.serve(researcher, ChatLoop(asking(further.name), tools=[further]))
    world.serve(librarian, library)
    out = await agents.create_agent(asking(near.name), [near]).ainvoke(GO, thread("T"))
    assert out["messages"][-1].text == "told: told: 42"
    (message,) = came
    assert (message.content, message.hops, message.chain) == ("what?", 1, (researcher.name,))
    assert message.path == world.path
    assert message.ttl_s < planner.config.request_timeout_s, "what is left of the outer question's time"
    (result,) = [m for m in out["messages"] if isinstance(m, ToolMessage)]
    usage = result.artifact["usage"]
    assert usage["turns"] == 1
    assert usage["models"]["scripted"]["output_tokens"] > 0
    assert usage["peers"][librarian.name]["turns"] == 1


async def test_conversations_are_remembered_apart(world: World) -> None:
    def rule(messages: list[BaseMessage], _: tuple[str, ...]) -> str:
        return " ".join(said(m) for m in messages if isinstance(m, HumanMessage))

    me, peer = await world.pair(ScriptedChat(rule=rule))

    async def talk(name: str) -> list[str]:
        return [(await me.ask(peer, f"{name}{n}", conversation=name, timeout=WAIT_S)).content for n in range(2)]

    assert await asyncio.gather(*map(talk, "abcd")) == [[f"{n}0", f"{n}0 {n}1"] for n in "abcd"]


def graph_agent() -> Any:
    return agents.create_agent(ScriptedChat(rule=lambda m, t: f"graph {said(m[-1])}"), [])


def loop_agent() -> Any:
    return ChatLoop(ScriptedChat(rule=lambda m, t: f"loop {said(m[-1])}"))


@pytest.mark.parametrize(
    ("agent", "answer"),
    [(shout, "HI"), (graph_agent(), "graph hi"), (loop_agent(), "loop hi"), (ScriptedChat(rule=lambda m, t: "x"), "x")],
    ids=["function", "graph", "loop", "model"],
)
async def test_every_kind_of_agent_answers(world: World, agent: Any, answer: str) -> None:
    me, peer = await world.pair(agent)
    reply = await me.ask(peer, "hi", timeout=WAIT_S)
    assert (reply.content, reply.path) == (answer, world.path)


async def test_an_openai_client_answers(world: World, openai_server: OpenAIServer) -> None:
    openai = pytest.importorskip("openai")
    openai_server.rule = lambda body: {"role": "assistant", "content": body["messages"][-1]["content"].split("\n")[2]}
    async with openai.AsyncOpenAI(base_url=openai_server.url, api_key="offline") as client:
        me, peer = await world.pair(ChatLoop(client, model_name="m"))
        reply = await me.ask(peer, "hi", timeout=WAIT_S)
    assert reply.content == "hi"
    assert reply.usage.total()["total_tokens"] == 5


async def test_the_toolkit_does_what_it_says(world: World) -> None:
    me, peer, other = await world.join("me", "peer", "other", description="knows <b>gulls</b>", skills=["gulls"])
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def note(message: Incoming) -> str:
        heard.put_nowait(message.content)
        return f"noted {message.content}"

    world.serve(peer, note)
    world.serve(other, note)

    async def use(name: str, **args: Any) -> str:
        graph = agents.create_agent(calling(name, args), MeshToolkit(me).get_tools())
        return str((await graph.ainvoke(GO))["messages"][-1].text)

    async def arrive(*texts: str) -> bool:
        async with asyncio.timeout(WAIT_S):
            return Counter([await heard.get() for _ in texts]) == Counter(texts)

    listed = await use("mesh_list_peers")
    assert "knows <b>gulls</b>" in listed
    assert peer.name in listed
    assert await use("mesh_ask", peer=peer.name, message="q") == "noted q"
    assert await arrive("q")
    assert (await use("mesh_send", peer=peer.name, message="s")).startswith(f"Sent to {peer.name}")
    assert await arrive("s")
    told = await use("mesh_broadcast", message="b")
    assert told.startswith("Sent to ")
    assert peer.name in told
    assert other.name in told
    assert await arrive("b", "b")
    both = await use("mesh_ask_many", message="m", peers=[peer.name, other.name])
    assert both.count("noted m") == 2
    assert await arrive("m", "m")


async def test_a_task_runs_while_the_agent_goes_on(world: World) -> None:
    go_on = asyncio.Event()

    async def slow(message: Incoming) -> str:
        await go_on.wait()
        return f"done {message.content}"

    me, peer = await world.pair(slow)
    tools = {t.name: t for t in MeshToolkit(me).get_tools()}

    async def use(name: str, **args: Any) -> str:
        call = {"name": name, "args": args, "id": f"call-{name}", "type": "tool_call"}
        return str((await tools[name].ainvoke(call, thread("T"))).text)

    started = re.match(r"Task (\S+) is started", await use("mesh_start_task", peer=peer, description="dig"))
    assert started
    assert "running" in await use("mesh_list_tasks")
    go_on.set()
    async with asyncio.timeout(WAIT_S):
        while "done dig" not in (report := await use("mesh_check_task", task_id=started[1])):
            assert "running" in report
            await asyncio.sleep(0.1)


async def test_a_failure_of_the_peer_is_read_by_the_model(world: World) -> None:
    async def broken(message: Incoming) -> str:
        raise RuntimeError("secret")

    me, peer = await world.pair(broken)
    mesh_tool = MeshTool(me, peer=peer)
    out = await agents.create_agent(asking(mesh_tool.name), [mesh_tool]).ainvoke(GO)
    (result,) = [m for m in out["messages"] if isinstance(m, ToolMessage)]
    assert result.status == "error"
    assert result.text.startswith("[handler_failed]")
    assert out["messages"][-1].text.startswith("told: [handler_failed]"), "the turn goes on"
    assert "secret" not in str(out)
    with pytest.raises(RemoteError):
        await me.ask(peer, "x")


async def test_a_peer_that_takes_too_long_is_told_to_stop(world: World) -> None:
    ended = asyncio.Event()

    async def never(message: Incoming) -> str:
        try:
            await asyncio.sleep(600)
        finally:
            ended.set()
        return "late"

    me, peer = await world.pair(never)
    mesh_tool = MeshTool(me, peer=peer, timeout=1.5)
    out = await agents.create_agent(asking(mesh_tool.name), [mesh_tool]).ainvoke(GO)
    assert out["messages"][-1].text.startswith("told: [timeout]")
    async with asyncio.timeout(WAIT_S):
        await ended.wait()
    with pytest.raises(MeshTimeout):
        await me.ask(peer, "x", timeout=1.0)


async def test_an_answer_is_read_while_it_is_written(world: World) -> None:
    """The peer's model stops in the middle until its beginning was read here.

    By mailbox the answer comes whole; over a bad wire any chunk may be lost, and the text is whole all the same.
    """
    read_some = asyncio.Event()
    if not world.streams:
        read_some.set()

    class Slow(ScriptedChat):
        async def _astream(self, *args: Any, **more: Any) -> AsyncIterator[Any]:
            n = 0
            async for chunk in super()._astream(*args, **more):
                if n == 2:
                    await asyncio.wait_for(read_some.wait(), WAIT_S)
                n += 1
                yield chunk

    me, peer = await world.pair(Slow(rule=lambda m, t: "one two three four"))
    chunks: list[str] = []
    async with me.ask_stream(peer, "x", timeout=WAIT_S) as stream:
        async for chunk in stream:
            chunks.append(chunk.text)
            read_some.set()
        reply = await stream.reply()
    assert "".join(chunks) == reply.content == "one two three four"
    assert (len(chunks) > 1) is world.streams or world.transport == "bad"
    read_some.set()
    mesh_tool = MeshTool(me, peer=peer)
    graph = agents.create_agent(asking(mesh_tool.name), [mesh_tool])
    parts = [p async for p, _ in graph.astream(GO, stream_mode="messages")]
    from_peer = [p for p in parts if isinstance(p, AIMessageChunk) and p.name == peer]
    assert "".join(p.text for p in from_peer) == "one two three four"


async def test_leaving_a_stream_stops_the_peer(world: World) -> None:
    began, stopped = asyncio.Event(), asyncio.Event()

    async def endless(message: Incoming) -> str:
        try:
            await message.chunk("first ")
            began.set()
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            stopped.set()
            raise
        return "never"

    me, peer = await world.pair(endless)
    # A cancel whose channel breaks under it is lost: then the peer stops when the time it was given is over.
    stream = me.ask_stream(peer, "x", timeout=5 if world.transport == "bad" else WAIT_S)
    reading = asyncio.create_task(stream.__anext__())
    async with asyncio.timeout(WAIT_S):
        if world.streams:
            assert (await reading).text == "first "
        await began.wait()
        await stream.aclose()
        await stopped.wait()
    if not world.streams:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def test_a_remote_agent_is_a_runnable(world: World) -> None:
    def rule(messages: list[BaseMessage], _: tuple[str, ...]) -> str:
        return " ".join(said(m) for m in messages if isinstance(m, HumanMessage))

    me, peer = await world.pair(ScriptedChat(rule=rule))
    remote = RemoteAgent(me, peer, timeout=WAIT_S)
    first = await remote.ainvoke("one", thread("T"))
    assert (first.text, first.name) == ("one", peer)
    assert first.usage_metadata["total_tokens"] > 0
    assert (await remote.ainvoke("two", thread("T"))).text == "one two", "the thread is the conversation"
    assert (await remote.ainvoke("three", thread("U"))).text == "three"
    chunks = [c async for c in remote.astream("four", thread("T"))]
    assert "".join(c.text for c in chunks) == "one two four"
    assert (await asyncio.to_thread(remote.invoke, "five", thread("T"))).text == "one two four five"
    node = graphs.StateGraph(graphs.MessagesState).add_node("peer", remote).add_edge(graphs.START, "peer")
    out = await node.compile(checkpointer=savers.InMemorySaver()).ainvoke(GO, thread("V"))
    assert [m.text for m in out["messages"]] == ["what?", "what?"]
    assert await (remote | (lambda m: m.text.upper())).ainvoke("six") == "SIX"


async def test_a_human_is_asked_here_for_what_is_done_there(world: World) -> None:
    done: list[str] = []

    @tool
    async def delete(message: str) -> str:
        """Delete something."""
        answer = types.interrupt({"delete": message})
        done.append(f"{message}: {answer}")
        return done[-1]

    far_end = agents.create_agent(asking("delete"), [delete], checkpointer=savers.InMemorySaver())
    me, peer = await world.pair(far_end)
    mesh_tool = MeshTool(me, peer=peer, timeout=WAIT_S)
    graph = agents.create_agent(asking(mesh_tool.name), [mesh_tool], checkpointer=savers.InMemorySaver())
    (wanted,) = (await graph.ainvoke(GO, thread("T")))["__interrupt__"]
    assert (wanted.value["peer"], wanted.value["value"]) == (peer, {"delete": "what?"})
    assert done == []
    out = await graph.ainvoke(types.Command(resume="yes"), thread("T"))
    assert out["messages"][-1].text == "told: told: what?: yes"
    assert done == ["what?: yes"]


async def test_peers_come_and_go_as_tools_of_the_middleware(world: World) -> None:
    me, peer = await world.pair(shout)
    name = f"ask_{peer}"
    model = asking(name)
    graph = agents.create_agent(model, [], middleware=[MeshMiddleware(me, per_peer_tools=True, inbox=False)])
    assert (await graph.ainvoke(GO))["messages"][-1].text == "told: WHAT?"
    (late,) = await world.join("late")
    world.serve(late, shout)
    await me.wait_for_peer(late.name, timeout=30)
    calls: Any = {"name": f"ask_{late.name}", "args": {"message": "hi"}, "id": "c1"}

    def rule(messages: list[BaseMessage], tools: tuple[str, ...]) -> AIMessage | str:
        if isinstance(messages[-1], ToolMessage):
            return messages[-1].text
        return AIMessage("", tool_calls=[calls]) if calls["name"] in tools else "not offered"

    later = agents.create_agent(
        ScriptedChat(rule=rule), [], middleware=[MeshMiddleware(me, per_peer_tools=True, inbox=False)]
    )
    assert (await later.ainvoke(GO))["messages"][-1].text == "HI"


async def test_a_repeated_message_id_is_answered_again_and_not_run_again(world: World) -> None:
    ran = 0

    async def count(message: Incoming) -> str:
        nonlocal ran
        ran += 1
        return f"run {ran}"

    me, peer = await world.pair(count)

    async def once(mesh: Mesh) -> str:
        return (await mesh.ask(peer, "x", message_id="once", conversation="c", timeout=WAIT_S)).content

    assert [await once(me), await once(me)] == ["run 1", "run 1"]
