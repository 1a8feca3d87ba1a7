"""`MeshMiddleware` in real agents: its tools, peers that come and go, orphans, and what a turn may use."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from chatixia_langchain import InboundPolicy, Incoming, LocalMesh, Mesh, MeshAgent
from chatixia_langchain.testing import ScriptedChat
from chatixia_langchain.tools import per_peer
from chatixia_langchain.tools.middleware import MeshMiddleware
from chatixia_langchain.tools.per_peer import PeerTools, tool_name
from chatixia_langchain.transport.memory import MemoryHub

Rule = Callable[[list[BaseMessage], tuple[str, ...]], AIMessage | str]


@asynccontextmanager
async def echoing(mesh: Mesh) -> AsyncIterator[list[Incoming]]:
    """Serve an agent that echoes, and yield what it was asked."""
    asked: list[Incoming] = []

    async def echo(message: Incoming) -> str:
        asked.append(message)
        return f"echo: {message.content}"

    serving = asyncio.create_task(MeshAgent(mesh, echo).serve())
    try:
        yield asked
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


@pytest.fixture
async def local() -> AsyncIterator[LocalMesh]:
    async with LocalMesh(transport="memory") as mesh:
        yield mesh


def calls_once(name: str, seen: list[tuple[str, ...]] | None = None, **args: Any) -> ScriptedChat:
    """A model that calls one tool, offered or not, and then says what came back."""

    def rule(messages: list[BaseMessage], tools: tuple[str, ...]) -> AIMessage | str:
        if seen is not None:
            seen.append(tools)
        if isinstance(messages[-1], ToolMessage):
            return f"[{messages[-1].status}] {messages[-1].text}"
        return AIMessage("", tool_calls=[{"name": name, "args": args, "id": f"c{len(messages)}"}])

    return ScriptedChat(rule=rule)


async def said(agent: Any, text: str = "go", config: Any = None) -> str:
    result = await agent.ainvoke({"messages": [HumanMessage(text)]}, config)
    return str(result["messages"][-1].text)


async def test_the_toolkit_comes_with_it(local: LocalMesh) -> None:
    a, b = await local.join("a"), await local.join("b")
    async with echoing(b):
        await a.wait_for_peer("b")
        agent = create_agent(calls_once("mesh_ask", peer="b", message="hi"), middleware=[MeshMiddleware(a)])
        assert await said(agent) == "[success] echo: hi"
        bare = create_agent(calls_once("mesh_ask"), middleware=[MeshMiddleware(a, toolkit=False, inbox=False)])
        assert (await said(bare)).startswith("[error]")


async def test_peers_come_and_go_as_tools(local: LocalMesh) -> None:
    a, b = await local.join("a"), await local.join("b", description="knows things")
    seen: list[tuple[str, ...]] = []
    middleware = MeshMiddleware(a, per_peer_tools=True, toolkit=False)
    agent = create_agent(calls_once("ask_b", seen, message="hi"), middleware=[middleware])
    async with echoing(b) as came:
        await a.wait_for_peer("b")
        assert await said(agent) == "[success] echo: hi"
        assert "ask_b" in seen[0]
        c = await local.join("c")
        await a.wait_for_peer("c")
        await said(agent)
        assert "ask_c" in seen[-1]
        await c.aclose()
        await _offline(a, "c")
        await said(agent)
        assert "ask_c" not in seen[-1]
        assert len(came) == 3


async def _offline(mesh: Mesh, peer: str) -> None:
    async with asyncio.timeout(10):
        while mesh.peers[peer].state != "offline":
            await asyncio.sleep(0.01)


async def test_a_peer_that_left_between_offer_and_call_is_an_error_result(local: LocalMesh) -> None:
    a, b = await local.join("a"), await local.join("b")
    await a.wait_for_peer("b")

    class Leaves(AgentMiddleware):
        async def aafter_model(self, state: Any, runtime: Any) -> None:
            await b.aclose()
            await _offline(a, "b")

    seen: list[tuple[str, ...]] = []
    agent = create_agent(
        calls_once("ask_b", seen, message="hi"), middleware=[MeshMiddleware(a, per_peer_tools=True), Leaves()]
    )
    answer = await said(agent)
    assert "ask_b" in seen[0]
    assert answer.startswith("[error] [peer_unreachable] cannot reach 'b': it left the mesh.")


async def test_trap_an_unknown_tool_is_a_value_error_without_the_second_hook(local: LocalMesh) -> None:
    """The control shows the trap: tools that are only added to the model's request cannot be run."""
    a, b = await local.join("a"), await local.join("b")
    async with echoing(b):
        await a.wait_for_peer("b")
        ours = MeshMiddleware(a, per_peer_tools=True, toolkit=False)

        class OnlyOffers(AgentMiddleware):
            async def awrap_model_call(self, request: Any, handler: Any) -> Any:
                return await ours.awrap_model_call(request, handler)

        with pytest.raises(ValueError, match="Unknown tools"):
            await said(create_agent(calls_once("ask_b", message="hi"), middleware=[OnlyOffers()]))
        assert await said(create_agent(calls_once("ask_b", message="hi"), middleware=[ours])) == "[success] echo: hi"


async def test_trap_async_only_hooks_break_invoke(local: LocalMesh) -> None:
    a, b = await local.join("a"), await local.join("b")

    class AsyncOnly(AgentMiddleware):
        async def abefore_model(self, state: Any, runtime: Any) -> None:
            return None

    model = calls_once("ask_b", message="hi")
    async with echoing(b):
        await a.wait_for_peer("b")
        broken = create_agent(model, middleware=[AsyncOnly()])
        with pytest.raises(TypeError, match="No synchronous function"):
            await asyncio.to_thread(broken.invoke, {"messages": [HumanMessage("go")]})
        agent = create_agent(model, middleware=[MeshMiddleware(a, per_peer_tools=True)])
        result = await asyncio.to_thread(agent.invoke, {"messages": [HumanMessage("go")]})
        assert result["messages"][-1].text == "[success] echo: hi"


@pytest.mark.parametrize(
    "hook",
    ["before_agent", "before_model", "wrap_model_call", "wrap_tool_call", "after_agent"],
)
def test_every_hook_is_there_sync_and_async(hook: str) -> None:
    for name in (hook, f"a{hook}"):
        assert getattr(MeshMiddleware, name) is not getattr(AgentMiddleware, name)


async def test_invoke_on_the_meshs_own_loop_says_so_at_once(local: LocalMesh) -> None:
    a = await local.join("a")
    agent = create_agent(calls_once("mesh_list_peers"), middleware=[MeshMiddleware(a)])
    with pytest.raises(RuntimeError, match="own loop"):
        agent.invoke({"messages": [HumanMessage("go")]})


async def test_an_agent_runs_on_another_loop(local: LocalMesh) -> None:
    a, b = await local.join("a"), await local.join("b")
    async with echoing(b):
        await a.wait_for_peer("b")
        agent = create_agent(calls_once("ask_b", message="hi"), middleware=[MeshMiddleware(a, per_peer_tools=True)])
        assert await asyncio.to_thread(lambda: asyncio.run(said(agent))) == "[success] echo: hi"


async def test_orphaned_tool_calls_have_results_before_the_model_sees_them(local: LocalMesh) -> None:
    a = await local.join("a")
    seen: list[list[BaseMessage]] = []

    def rule(messages: list[BaseMessage], _: tuple[str, ...]) -> str:
        seen.append(messages)
        return "ok"

    orphan = AIMessage("", tool_calls=[{"name": "x", "args": {}, "id": "lost"}])
    history = [HumanMessage("one"), orphan, HumanMessage("two")]
    for on, types in ((True, ["human", "ai", "tool", "human"]), (False, ["human", "ai", "human"])):
        agent = create_agent(ScriptedChat(rule=rule), middleware=[MeshMiddleware(a, repair_orphans=on)])
        await agent.ainvoke({"messages": list(history)})
        assert [m.type for m in seen[-1]] == types
    repaired = seen[0][2]
    assert isinstance(repaired, ToolMessage)
    assert (repaired.status, repaired.tool_call_id) == ("error", "lost")


async def test_allow_limits_every_way_to_a_peer(local: LocalMesh) -> None:
    a, b, c = [await local.join(n) for n in "abc"]
    async with echoing(b), echoing(c):
        await a.wait_for_peer("b")
        await a.wait_for_peer("c")
        seen: list[tuple[str, ...]] = []
        guarded = MeshMiddleware(a, per_peer_tools=True, allow=["b"])
        agent = create_agent(calls_once("ask_c", seen, message="hi"), middleware=[guarded])
        assert (await said(agent)).startswith("[error]")
        assert "ask_b" in seen[0]
        assert "ask_c" not in seen[0]
        for name in ("mesh_ask", "mesh_send"):
            agent = create_agent(calls_once(name, peer="c", message="hi"), middleware=[guarded])
            assert (await said(agent)).startswith("[error] [peer_unreachable]")
        agent = create_agent(calls_once("mesh_start_task", peer="c", description="hi"), middleware=[guarded])
        assert (await said(agent)).startswith("[error] [peer_unreachable]")


@pytest.mark.parametrize("policy", [None, InboundPolicy(tools=["deploy"]), InboundPolicy(tools="all")])
async def test_a_turn_of_a_peer_is_neither_offered_nor_given_what_the_policy_keeps_back(
    local: LocalMesh, policy: InboundPolicy | None
) -> None:
    """The model calls the tool whether it is offered or not; with the policy off the same call goes through."""
    a, b = await local.join("a"), await local.join("b")
    deployed: list[str] = []

    @tool
    def deploy(what: str) -> str:
        """Deploy it."""
        deployed.append(what)
        return "deployed"

    seen: list[tuple[str, ...]] = []
    agent = create_agent(calls_once("deploy", seen, what="x"), [deploy], middleware=[MeshMiddleware(b)])
    serving = asyncio.create_task(MeshAgent(b, agent, policy=policy).serve())
    await a.wait_for_peer("b")
    reply = await a.ask("b", "deploy x")
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    if policy is None:
        assert deployed == []
        assert "deploy" not in seen[0]
        assert "mesh_ask" not in seen[0]
        assert "mesh_list_peers" in seen[0], "what only reads stays"
        assert reply.content.startswith("[error] Not run: [tool_refused]")
    else:
        assert deployed == ["x"]
        assert "deploy" in seen[0]
        assert ("mesh_ask" in seen[0]) is (policy.tools == "all")
    deployed.clear()
    assert await said(agent) == "[success] deployed", "our own user is not held by it"


async def test_peers_as_tools_are_held_by_the_policy_too(local: LocalMesh) -> None:
    a, b, c = [await local.join(n) for n in "abc"]
    async with echoing(c) as came:
        await b.wait_for_peer("c")
        seen: list[tuple[str, ...]] = []
        agent = create_agent(
            calls_once("ask_c", seen, message="x"), middleware=[MeshMiddleware(b, per_peer_tools=True)]
        )
        serving = asyncio.create_task(MeshAgent(b, agent).serve())
        await a.wait_for_peer("b")
        reply = await a.ask("b", "ask c")
        assert "[tool_refused]" in reply.content
        assert came == []
        assert "ask_c" not in seen[0]
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_two_peers_never_share_a_tool(local: LocalMesh) -> None:
    a = await local.join("a")
    names = ["x.y", "x_y", "X_y"]
    for name in names:
        await local.join(name)
        await a.wait_for_peer(name)
    tools = {t.name: t.peer for t in PeerTools(a, None).offered(())}
    assert sorted(tools.values()) == sorted(names)  # type: ignore[type-var]
    assert tools["ask_x_y"] == "x_y"
    assert tools[tool_name("x.y")] == "x.y"
    assert "ask_x_y" not in {t.name for t in PeerTools(a, None).offered({"ask_x_y"})}, "a tool of the agent's own stays"
    assert all(len(n) <= 64 for n in (tool_name("p" * 64), tool_name("p." * 32)))


async def test_a_peer_that_names_itself_after_anothers_tool_gets_neither(local: LocalMesh) -> None:
    a = await local.join("a")
    thief = tool_name("x.y").removeprefix("ask_")
    for name in ("x.y", thief):
        await local.join(name)
        await a.wait_for_peer(name)
    tools = PeerTools(a, None)
    assert tools.offered(()) == []
    assert tools.find(tool_name("x.y")) is None


async def test_the_number_of_peers_tools_is_bounded(local: LocalMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past it peers are asked by name: providers refuse a request with too many tools."""
    monkeypatch.setattr(per_peer, "MAX_PEER_TOOLS", 2)
    a = await local.join("a")
    for name in "bcd":
        await local.join(name)
        await a.wait_for_peer(name)
    tools = PeerTools(a, None)
    assert [t.name for t in tools.offered(())] == ["ask_b", "ask_c"]
    assert tools.find("ask_d") is not None


async def test_what_a_peer_says_of_itself_reaches_the_tool_as_it_changes(local: LocalMesh) -> None:
    a, b = await local.join("a"), await local.join("b", description="draws")
    await a.wait_for_peer("b")
    tools = PeerTools(a, None)
    (before,) = tools.offered(())
    assert '"draws"' in before.description
    assert tools.offered(())[0] is before, "made once for one card"
    await b.aclose()
    await _offline(a, "b")
    await local.join("b", description="sums")
    async with asyncio.timeout(10):
        while not (now := tools.offered(())) or '"sums"' not in now[0].description:
            await asyncio.sleep(0.01)


def test_an_agent_in_plain_sync_code() -> None:
    hub = MemoryHub()
    with Mesh("b", transport=hub.transport("b")) as b, Mesh("a", transport=hub.transport("a")) as a:

        async def echo(message: Incoming) -> str:
            return f"echo: {message.content}"

        threading.Thread(target=lambda: b.call_sync(MeshAgent(b, echo).serve), daemon=True).start()
        a.sync.wait_for_peer("b")
        a.sync.delivered(b.sync.send("a", "by the way"))
        ours = MeshMiddleware(a, per_peer_tools=True, inbox=True, policy=InboundPolicy(tools=["ask_b"]))
        agent = create_agent(calls_once("ask_b", message="hi"), middleware=[ours])
        result = agent.invoke({"messages": [HumanMessage("go")]})
        assert [m.type for m in result["messages"]] == ["human", "human", "ai", "tool", "ai"]
        assert "by the way" in result["messages"][1].text
        assert result["messages"][-1].text == "[success] echo: hi"


async def test_tasks_live_in_the_graphs_state_and_survive_a_new_agent(local: LocalMesh) -> None:
    """The second agent knows the task from the checkpoint alone, and its middleware and toolkit are new."""
    a, b = await local.join("a"), await local.join("b")
    saver = InMemorySaver()
    config = {"configurable": {"thread_id": "t"}}
    async with echoing(b) as came:
        await a.wait_for_peer("b")
        start = create_agent(
            calls_once("mesh_start_task", peer="b", description="dig"),
            middleware=[MeshMiddleware(a)],
            checkpointer=saver,
        )
        assert "is started" in await said(start, config=config)
        (id_,) = (await start.aget_state(config)).values["mesh_tasks"]
        check = create_agent(
            calls_once("mesh_check_task", task_id=id_), middleware=[MeshMiddleware(a)], checkpointer=saver
        )
        async with asyncio.timeout(10):
            while "echo: dig" not in (answer := await said(check, config=config)):
                assert "running" in answer
        assert (await check.aget_state(config)).values["mesh_tasks"][id_]["status"] == "success"
        listed = create_agent(calls_once("mesh_list_tasks"), middleware=[MeshMiddleware(a)], checkpointer=saver)
        assert id_ in await said(listed, config=config)
        assert id_ not in await said(listed, config={"configurable": {"thread_id": "other"}})
        assert len(came) == 1


def test_the_module_of_the_tools_brings_neither_langgraph_nor_langchain() -> None:
    code = "import sys, chatixia_langchain.tools.toolkit as t; print({'langgraph', 'langchain'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"
