"""One test for each trap of LangChain and asyncio that tools over a live connection fall into.

Where the trap is in other libraries, a control shows that it is still there: if that fails, our way around can go.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import anyio
import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import BaseTool, InjectedToolArg, StructuredTool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.prebuilt.tool_node import ToolRuntime
from pydantic import BaseModel

from chatixia_langchain import LocalMesh, Mesh, MeshTool
from chatixia_langchain.testing import ScriptedChat
from chatixia_langchain.tools.remote_agent import RemoteAgent
from chatixia_langchain.transport.memory import MemoryHub

from .conftest import Far, Writer, echo

# runtime injection: langgraph looks at the schema, and at func and coroutine, never at _run and _arun


class Message(BaseModel):
    message: str


class MessageAndRuntime(Message):
    runtime: Annotated[Any, InjectedToolArg()] = None


class Plain(BaseTool):
    """A schema without a runtime; `_arun` has one with langgraph's own type."""

    name: str = "t"
    description: str = "d"
    args_schema: Any = Message
    seen: Any = None

    def _run(self, message: str, runtime: ToolRuntime = None) -> str:  # type: ignore[assignment]
        self.seen.append(runtime)
        return message


class Marked(Plain):
    """The same with a marker in the signature alone."""

    def _run(self, message: str, runtime: Annotated[Any, InjectedToolArg()] = None) -> str:
        self.seen.append(runtime)
        return message


class Unschemed(Marked):
    """No schema: it is made from `_run`."""

    args_schema: Any = None


class Schemed(Marked):
    """The marker in the schema: our way."""

    args_schema: Any = MessageAndRuntime


def structured(seen: list[Any]) -> BaseTool:
    """The way of langchain-mcp-adapters."""

    async def work(message: str, runtime: Annotated[object | None, InjectedToolArg()] = None) -> str:
        seen.append(runtime)
        return message

    schema = {"type": "object", "properties": {"message": {"type": "string"}}}
    return StructuredTool(name="t", description="d", args_schema=schema, coroutine=work)


async def by_tool_node(tool: BaseTool, **args: Any) -> ToolMessage:
    """Run one call of `tool` in a graph."""
    call = {"name": tool.name, "args": {"message": "x", **args}, "id": "c1", "type": "tool_call"}
    graph = StateGraph(MessagesState).add_node("tools", ToolNode([tool])).add_edge(START, "tools").compile()
    config: Any = {"configurable": {"thread_id": "T"}}
    out = await graph.ainvoke({"messages": [AIMessage("", tool_calls=[call])]}, config)
    return out["messages"][-1]  # type: ignore[no-any-return]


SHAPES: list[tuple[str, Callable[[list[Any]], BaseTool], bool]] = [
    ("schema without runtime, ToolRuntime in _run", lambda seen: Plain(seen=seen), False),
    ("schema without runtime, marker in _run", lambda seen: Marked(seen=seen), False),
    ("StructuredTool, marker in the coroutine", structured, True),
    ("no schema, marker in _run", lambda seen: Unschemed(seen=seen), True),
    ("marker in the schema", lambda seen: Schemed(seen=seen), True),
]


@pytest.mark.parametrize(("make", "injected"), [s[1:] for s in SHAPES], ids=[s[0] for s in SHAPES])
async def test_trap_only_some_shapes_of_tools_get_a_runtime(
    make: Callable[[list[Any]], BaseTool], injected: bool
) -> None:
    seen: list[Any] = []
    tool = make(seen)
    await by_tool_node(tool)
    assert [isinstance(r, ToolRuntime) for r in seen] == [injected]


async def test_trap_ours_gets_the_runtime_and_a_forged_one_is_overwritten(far: Far) -> None:
    """The ids show it: they come from the call of the runtime, whatever a model writes into the arguments."""
    await far.serve(echo)
    tool = MeshTool(far.a, peer="b")
    first = await by_tool_node(tool)
    forged = await by_tool_node(tool, runtime={"tool_call_id": "other", "config": {"configurable": {"thread_id": "X"}}})
    assert first.artifact["message_id"] == forged.artifact["message_id"]
    assert len(far.asked) == 1
    assert far.asked[0].message_id != far.asked[0].conversation != ""


class Forged:
    """What an object that is no runtime could say."""

    tool_call_id = "c1"

    @property
    def config(self) -> Any:
        return {"configurable": {"thread_id": "T"}}

    def emit_output_delta(self, delta: str) -> None:
        raise AssertionError("called")


@pytest.mark.parametrize("runtime", [Forged(), {"tool_call_id": "c1"}, "x"], ids=["object", "dict", "str"])
async def test_trap_outside_of_a_graph_a_callers_runtime_is_passed_through(far: Far, runtime: Any) -> None:
    """langchain-core hands it on; ours looks at its type, and takes nothing from it."""
    await far.serve(echo)
    assert await MeshTool(far.a, peer="b").ainvoke({"message": "x", "runtime": runtime}) == "echo: x"
    assert far.asked[0].message_id == far.asked[0].conversation, "fresh ones"


async def test_trap_runtime_is_hidden_from_the_model(far: Far) -> None:
    schema = MeshTool(far.a, peer="b").tool_call_schema
    assert list(schema.model_json_schema()["properties"]) == ["message"]  # type: ignore[union-attr]


# sync bridging


async def test_trap_tools_of_a_coroutine_alone_have_no_invoke(far: Far) -> None:
    """The control is what users of MCP tools run into; ours has a sync door of its own."""
    with pytest.raises(NotImplementedError):
        await asyncio.to_thread(structured([]).invoke, {"message": "x"})
    await far.serve(echo)
    assert await asyncio.to_thread(MeshTool(far.a, peer="b").invoke, {"message": "x"}) == "echo: x"


async def test_trap_a_sync_call_on_the_meshs_own_loop_would_never_end(far: Far) -> None:
    await far.serve(echo)
    with pytest.raises(RuntimeError, match="await"):
        MeshTool(far.a, peer="b").invoke({"message": "x"})


async def test_trap_a_sync_agent_on_the_meshs_own_loop_runs_its_tools_in_threads(far: Far) -> None:
    """As in a notebook's cell: `agent.invoke` blocks the loop, and its tool's thread waits for that loop."""
    await far.serve(echo)
    call = {"name": "ask_b", "args": {"message": "x"}, "id": "c1", "type": "tool_call"}
    model = ScriptedChat(rule=lambda messages, _: AIMessage("", tool_calls=[call]))
    with pytest.raises(RuntimeError, match="waits for this one"):
        create_agent(model, [MeshTool(far.a, peer="b")]).invoke({"messages": [("user", "go")]})
    assert await MeshTool(far.a, peer="b").ainvoke({"message": "x"}) == "echo: x", "the mesh lives"


async def test_trap_a_loop_that_is_only_busy_is_waited_for(far: Far) -> None:
    """Two seconds of work on the mesh's loop are not taken for a deadlock."""
    import time

    await far.serve(echo)
    asking = asyncio.create_task(asyncio.to_thread(MeshTool(far.a, peer="b").invoke, {"message": "x"}))
    await asyncio.sleep(0.01)
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        sum(range(1000))
    assert await asking == "echo: x"


async def test_trap_cancellation_crosses_loops(far: Far) -> None:
    """A tool that is cancelled on another loop leaves nothing on the mesh's, and its peer stops."""
    await far.serve(Writer().__call__)

    async def elsewhere() -> None:
        task = asyncio.create_task(MeshTool(far.a, peer="b").ainvoke({"message": "x"}))
        while not far.asked:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    await asyncio.to_thread(asyncio.run, elsewhere())
    await asyncio.wait_for(far.cancelled.wait(), 10)
    assert (await far.a.status())["queues"]["pending"] == 0


# scopes of anyio


async def test_trap_a_scope_entered_here_cannot_be_left_there() -> None:
    """anyio's task group (the control) breaks; a mesh may be entered and left in any two tasks."""
    group = anyio.create_task_group()
    await asyncio.create_task(_aenter(group))
    with pytest.raises(RuntimeError, match="different task"):
        await asyncio.create_task(group.__aexit__(None, None, None))  # type: ignore[arg-type]
    mesh = Mesh("a", transport=MemoryHub().transport("a"))
    await asyncio.create_task(_aenter(mesh))
    await asyncio.create_task(_aexit(mesh))
    assert mesh.closed


async def test_trap_a_deadline_around_the_entry_runs_it_in_another_task() -> None:
    """`asyncio.wait_for` does so on Python 3.11; leaving is then in the outer task."""
    mesh = await asyncio.wait_for(Mesh("a", transport=MemoryHub().transport("a")).start(), 10)
    assert mesh.transport_name == "memory"
    await mesh.aclose()


async def _aenter(scope: Any) -> None:
    await scope.__aenter__()


async def _aexit(scope: Any) -> None:
    await scope.__aexit__(None, None, None)


async def _words_in_a_group() -> AsyncIterator[str]:
    async with anyio.create_task_group():
        yield "one"
        yield "two"


async def test_trap_breaking_out_of_a_generator_that_holds_a_scope(far: Far) -> None:
    """The control kills its reader when another task closes it; our streams can be left and closed anywhere."""

    async def control() -> None:
        held = _words_in_a_group()
        assert await anext(held) == "one"
        with pytest.raises(RuntimeError, match="different task"):
            await asyncio.create_task(held.aclose())  # type: ignore[attr-defined]
        await asyncio.sleep(0.1)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(control())

    await far.serve(Writer().__call__)
    for stream in (
        RemoteAgent(far.a, "b").astream("x"),
        MeshTool(far.a, peer="b").astream_events({"message": "x"}, version="v2"),
        far.a.ask_stream("b", "x"),
    ):
        far.cancelled.clear()
        async for part in stream:
            if not isinstance(part, dict) or part["event"] == "on_chat_model_stream":
                break
        await asyncio.create_task(stream.aclose())  # type: ignore[attr-defined]
        await asyncio.wait_for(far.cancelled.wait(), 10)
        await asyncio.sleep(0)  # a stray cancellation would come out here
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_trap_a_deadline_around_a_stream_may_end_inside_it(far: Far) -> None:
    """`asyncio.timeout` of the reader cuts the stream; the next question works."""
    writer = Writer()
    await far.serve(writer.__call__)
    agent = RemoteAgent(far.a, "b")
    with pytest.raises(TimeoutError):
        await _read_for(agent, 0.3)
    await asyncio.wait_for(far.cancelled.wait(), 10)
    writer.go.set()
    assert (await agent.ainvoke("x")).text == "one two three"


async def _read_for(agent: RemoteAgent, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        async for _ in agent.astream("x"):
            pass


async def test_trap_meshes_close_in_any_order_from_any_task() -> None:
    """First in, first out, and from tasks that know nothing of each other: as tool nodes do it."""
    async with LocalMesh(transport="memory") as local:
        meshes = [await local.join(name) for name in ("a", "b", "c")]
        await asyncio.gather(*(asyncio.create_task(mesh.aclose()) for mesh in meshes))
        await asyncio.gather(*(mesh.aclose() for mesh in meshes))
        assert all(mesh.closed for mesh in meshes)


async def test_trap_a_tool_outlives_its_mesh_with_an_error_the_model_can_read(far: Far) -> None:
    await far.serve(echo)
    tool = MeshTool(far.a, peer="b")
    await far.a.aclose()
    call = {"type": "tool_call", "name": tool.name, "args": {"message": "x"}, "id": "c1"}
    result = await tool.ainvoke(call)
    assert (result.status, result.content.split("]")[0]) == ("error", "[mesh_closed")


async def test_trap_waiters_are_told_when_the_mesh_closes(far: Far) -> None:
    """Whoever waits for a word of a stream hears of the end, instead of waiting on."""
    await far.serve(Writer().__call__)
    first = asyncio.Event()

    async def read() -> None:
        async for _ in RemoteAgent(far.a, "b").astream("x"):
            first.set()

    task = asyncio.create_task(read())
    await asyncio.wait_for(first.wait(), 10)
    await far.a.aclose()
    with pytest.raises(Exception, match="closed"):
        await asyncio.wait_for(task, 10)
