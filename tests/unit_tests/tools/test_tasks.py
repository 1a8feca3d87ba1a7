"""Long work: a task runs while the agent goes on, is changed and stopped, and is never started twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import BaseTool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from chatixia_langchain import ChatLoop, InboundPolicy, Incoming, LocalMesh, Mesh, MeshAgent, MeshToolkit
from chatixia_langchain.mesh.budget import Usage
from chatixia_langchain.mesh.context import current_tool_call
from chatixia_langchain.testing import ScriptedChat
from chatixia_langchain.testing.fake_mesh import FakeMesh
from chatixia_langchain.tools import task_tools, tasks
from chatixia_langchain.tools.middleware import MeshMiddleware
from chatixia_langchain.tools.tasks import MAX_RESULT_CHARS, MeshTask, TaskBook, TaskTable, merge_tasks

from .desk import Desk


class Worker:
    """`b` works on what `a` gives it, until it is let go."""

    def __init__(self, a: Mesh, b: Mesh) -> None:
        self.a, self.b = a, b
        self.began: list[Incoming] = []
        self.stopped: list[str] = []
        self.go = asyncio.Event()

    async def work(self, message: Incoming) -> str:
        self.began.append(message)
        if message.content == "fail":
            raise RuntimeError("inside")
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.stopped.append(message.content)
            raise
        return "x" * 100_000 if message.content == "long" else f"done: {message.content}"

    async def until(self, n: int) -> None:
        """Wait until `n` runs began."""
        async with asyncio.timeout(10):
            while len(self.began) < n:
                await asyncio.sleep(0.01)


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    async with LocalMesh(transport="memory") as local:
        made = Worker(await local.join("a"), await local.join("b"))
        serving = asyncio.create_task(MeshAgent(made.b, made.work).serve())
        await made.a.wait_for_peer("b")
        yield made
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def tools_of(mesh: Mesh, **options: Any) -> dict[str, BaseTool]:
    return {t.name.removeprefix("mesh_"): t for t in MeshToolkit(mesh, **options).get_tools()}


def call(tool: BaseTool, id_: str = "call-1", /, **args: Any) -> dict[str, Any]:
    return {"type": "tool_call", "name": tool.name, "args": args, "id": id_}


async def started(tools: dict[str, BaseTool], description: str, peer: str = "b") -> str:
    """Start a task, and return its id."""
    result = await tools["start_task"].ainvoke(call(tools["start_task"], peer=peer, description=description))
    assert result.status == "success", result.content
    (id_,) = result.artifact
    assert id_ in result.content
    return str(id_)


async def look(tools: dict[str, BaseTool], id_: str) -> ToolMessage:
    """Check until the task runs no longer."""
    async with asyncio.timeout(10):
        while True:
            result = await tools["check_task"].ainvoke(call(tools["check_task"], task_id=id_))
            if "running" not in result.content:
                return result
            await asyncio.sleep(0.01)


async def test_a_task_runs_while_the_agent_goes_on(worker: Worker) -> None:
    tools = tools_of(worker.a)
    id_ = await started(tools, "dig")
    await worker.until(1)
    check = await tools["check_task"].ainvoke({"task_id": id_})
    assert "running" in check
    assert "running" in await tools["list_tasks"].ainvoke({})
    worker.go.set()
    result = await look(tools, id_)
    assert "<peer-message>\ndone: dig\n</peer-message>" in result.content, "the result is fenced as data"
    assert result.artifact[id_]["status"] == "success"
    assert "success" in await tools["list_tasks"].ainvoke({"status": "success"})
    assert await tools["list_tasks"].ainvoke({"status": "running"}) == "There are no such tasks."


async def test_an_update_stops_the_run_and_goes_on_in_the_same_conversation(worker: Worker) -> None:
    tools = tools_of(worker.a)
    id_ = await started(tools, "dig")
    await worker.until(1)
    said = await tools["update_task"].ainvoke({"task_id": id_, "instructions": "dig deeper"})
    assert id_ in said
    await worker.until(2)
    assert worker.stopped == ["dig"]
    first, second = worker.began
    assert first.conversation == second.conversation
    assert first.message_id != second.message_id
    worker.go.set()
    assert "done: dig deeper" in (await look(tools, id_)).content


async def test_a_cancelled_task_is_stopped_at_the_peer(worker: Worker) -> None:
    tools = tools_of(worker.a)
    id_ = await started(tools, "dig")
    await worker.until(1)
    assert await tools["cancel_task"].ainvoke({"task_id": id_}) == f"Task {id_} is cancelled."
    async with asyncio.timeout(2):
        while not worker.stopped:
            await asyncio.sleep(0.01)
    assert "cancelled" in await tools["check_task"].ainvoke({"task_id": id_})
    worker.go.set()
    done = await started(tools, "quick")
    await look(tools, done)
    assert await tools["cancel_task"].ainvoke({"task_id": done}) == f"Task {done} was over already: success."


async def test_a_failure_of_the_peer_is_the_tasks_outcome(worker: Worker) -> None:
    tools = tools_of(worker.a)
    result = await look(tools, await started(tools, "fail"))
    assert "error. [handler_failed]" in result.content
    assert "inside" not in result.content
    assert result.status == "success", "the look itself went well"


@pytest.mark.parametrize("peer", ["not a peer id!", "", "a"])
async def test_what_cannot_be_sent_is_said_at_once(worker: Worker, peer: str) -> None:
    tools = tools_of(worker.a)
    result = await tools["start_task"].ainvoke(call(tools["start_task"], peer=peer, description="x"))
    assert result.status == "error"
    assert await tools["list_tasks"].ainvoke({}) == "There are no such tasks."


async def test_a_text_that_is_too_big_is_said_at_once_and_a_task_that_is_too_slow_when_it_is_looked_at(
    worker: Worker,
) -> None:
    tools = tools_of(worker.a, task_timeout=2)
    start = tools["start_task"]
    result = await start.ainvoke(call(start, peer="b", description="x" * 300_000))
    assert result.content.startswith("[message_too_big]")
    id_ = await started(tools, "slow")
    await worker.until(1)
    assert "error. [timeout]" in (await look(tools, id_)).content
    async with asyncio.timeout(10):
        while worker.stopped != ["slow"]:  # its work is stopped
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", ["check_task", "update_task", "cancel_task"])
async def test_an_unknown_task_is_named(worker: Worker, name: str) -> None:
    tools = tools_of(worker.a)
    id_ = await started(tools, "dig")
    result = await tools[name].ainvoke(call(tools[name], task_id="task-none", instructions="x"))
    assert result.status == "error"
    assert "task-none" in result.content
    assert id_ in result.content, "the model learns which there are"


async def test_a_long_result_is_capped(worker: Worker) -> None:
    worker.go.set()
    tools = tools_of(worker.a)
    result = await look(tools, await started(tools, "long"))
    assert MAX_RESULT_CHARS < len(result.content) < MAX_RESULT_CHARS + 500
    assert "[cut off: 100000 characters in all]" in result.content


async def test_a_record_is_plain_json_and_keeps_no_more_of_a_text_than_is_needed(worker: Worker) -> None:
    """The state is written at every step of the graph."""
    tools = tools_of(worker.a)
    id_ = await started(tools, "d" * 10_000)
    (running,) = (await tools["check_task"].ainvoke(call(tools["check_task"], task_id=id_))).artifact.values()
    assert len(running["instructions"]) == 10_000, "to be asked again after a restart"
    worker.go.set()
    (done,) = (await look(tools, id_)).artifact.values()
    assert json.loads(json.dumps(done)) == done
    assert (done["instructions"], len(done["description"])) == ("", 300)


async def test_past_the_bound_a_task_is_refused_and_one_that_ends_makes_room(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "MAX_RUNNING", 2)
    tools = tools_of(worker.a)
    start = tools["start_task"]
    ids = [next(iter((await start.ainvoke(call(start, peer="b", description=f"{n}"))).artifact)) for n in range(2)]
    refused = await start.ainvoke(call(start, peer="b", description="one too many"))
    assert refused.status == "error"
    assert refused.content.startswith("[busy]")
    await tools["cancel_task"].ainvoke({"task_id": ids[0]})
    assert (await start.ainvoke(call(start, peer="b", description="now"))).status == "success"
    assert TaskTable.of(worker.a).running == 2


def in_thread(thread: str) -> Any:
    return {"configurable": {"thread_id": thread}}


async def test_a_thread_sees_its_own_tasks_alone(worker: Worker) -> None:
    tools = tools_of(worker.a)
    start, listed, check = tools["start_task"], tools["list_tasks"], tools["check_task"]
    (id_,) = (await start.ainvoke(call(start, peer="b", description="secret"), in_thread("t1"))).artifact
    assert id_ in await listed.ainvoke({}, in_thread("t1"))
    for other in (in_thread("t2"), {}):
        assert await listed.ainvoke({}, other) == "There are no such tasks."
        result = await check.ainvoke(call(check, task_id=id_), other)
        assert result.status == "error"
        assert "secret" not in result.content


def start_look_end(look_at: str = "mesh_check_task") -> ScriptedChat:
    """A model that starts a task, looks at it, and then says what it saw; a re-run makes the same calls."""

    def rule(messages: list[BaseMessage], _: tuple[str, ...]) -> AIMessage | str:
        last = messages[-1]
        if isinstance(last, ToolMessage) and last.name == look_at:
            return last.text
        if isinstance(last, ToolMessage):
            args: dict[str, Any] = {"task_id": next(iter(last.artifact))}
            return AIMessage("", tool_calls=[{"name": look_at, "args": args, "id": f"look-{len(messages)}"}])
        args = {"peer": "b", "description": last.text}
        return AIMessage("", tool_calls=[{"name": "mesh_start_task", "args": args, "id": f"start-{len(messages)}"}])

    return ScriptedChat(rule=rule)


async def test_in_a_chat_loop_the_tasks_live_in_the_toolkit(worker: Worker) -> None:
    loop = ChatLoop(start_look_end(), tools=MeshToolkit(worker.a).get_tools())
    answer = await loop.ainvoke("dig", thread_id="t")
    assert "running" in answer.text


async def test_a_call_that_runs_again_starts_nothing_twice(worker: Worker) -> None:
    """As a tool node does that is resumed, or retried after a crash of another tool beside it."""
    start = tools_of(worker.a)["start_task"]
    current_tool_call.set("call-1")
    for again in range(3):
        other = tools_of(worker.a)["start_task"] if again == 2 else start  # a graph that was made anew
        result = await other.ainvoke(call(other, peer="b", description="dig"), in_thread("t1"))
        assert result.status == "success"
    await worker.until(1)
    await asyncio.sleep(0.05)
    assert len(worker.began) == 1
    current_tool_call.set("call-2")
    await start.ainvoke(call(start, peer="b", description="dig"), in_thread("t1"))
    await worker.until(2)


async def test_a_sync_caller_has_the_same_door(worker: Worker) -> None:
    tools = tools_of(worker.a)
    result = await asyncio.to_thread(tools["start_task"].invoke, {"peer": "b", "description": "dig"})
    assert "is started" in result
    await worker.until(1)
    with pytest.raises(RuntimeError, match="own loop"):
        tools["list_tasks"].invoke({})


async def test_many_threads_and_loops_start_tasks_at_once(worker: Worker) -> None:
    """As many as are allowed, from threads and from loops of their own; each is run once and can be looked at."""
    tools = tools_of(worker.a)
    start, args = tools["start_task"], [{"peer": "b", "description": f"job {n}"} for n in range(tasks.MAX_RUNNING)]
    sync = [asyncio.to_thread(start.invoke, a) for a in args[::2]]
    loops = [asyncio.to_thread(lambda a=a: asyncio.run(start.ainvoke(a))) for a in args[1::2]]
    said = await asyncio.gather(*sync, *loops)
    assert all("is started" in s for s in said)
    assert (await start.ainvoke(call(start, peer="b", description="more"))).content.startswith("[busy]")
    worker.go.set()
    for line in (await tools["list_tasks"].ainvoke({})).splitlines():
        id_ = line.split()[1]
        assert "success" in (await look(tools, id_)).content
    assert len(worker.began) == tasks.MAX_RUNNING


def record(id_: str, **fields: Any) -> MeshTask:
    plain: Any = {
        "task_id": id_, "peer": "b", "description": "d", "instructions": "d", "resume": None, "message_id": id_,
        "conversation": id_, "timeout_s": None, "status": "success", "result": "", "usage": {}, "revision": 0,
        "created_at": "1", "updated_at": "1",
    }  # fmt: skip
    return {**plain, **fields}  # type: ignore[typeddict-item]


def test_an_older_look_never_undoes_a_cancellation() -> None:
    cancelled, seen = record("t", status="cancelled", revision=1), record("t", status="running", revision=0)
    assert merge_tasks({"t": cancelled}, {"t": seen})["t"]["status"] == "cancelled"
    assert merge_tasks({"t": seen}, {"t": cancelled})["t"]["status"] == "cancelled"


def test_what_is_kept_is_bounded_and_running_tasks_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "MAX_TASKS", 3)
    merged = merge_tasks({"run": record("run", status="running")}, {str(n): record(str(n)) for n in range(9)})
    assert list(merged) == ["run", "7", "8"]
    book = TaskBook()
    for n in range(9):
        book.put(f"thread-{n}", {str(n): record(str(n))})
    assert [n for n in range(9) if book.of(f"thread-{n}")] == [6, 7, 8]


async def test_allow_list_holds_for_tasks(worker: Worker) -> None:
    free, bound = tools_of(worker.a), tools_of(worker.a, allow=["c"])
    result = await bound["start_task"].ainvoke(call(bound["start_task"], peer="b", description="x"))
    assert result.status == "error"
    assert result.content.startswith("[peer_unreachable]")
    id_ = await started(free, "dig")
    bound["check_task"].book = free["check_task"].book  # type: ignore[attr-defined]
    result = await bound["check_task"].ainvoke(call(bound["check_task"], task_id=id_))
    assert result.content.startswith("[peer_unreachable]")


def test_how_long_a_run_may_take_is_a_setting_of_the_toolkit(worker: Worker) -> None:
    start = tools_of(worker.a, task_timeout=5)["start_task"]
    assert isinstance(start, task_tools.MeshStartTaskTool)
    assert start.timeout_s == 5


def start_then_check(task_id: Callable[[list[BaseMessage]], str]) -> ScriptedChat:
    """Starts one task, and looks at it until it runs no longer."""

    def rule(messages: list[BaseMessage], _: tuple[str, ...]) -> AIMessage | str:
        last = messages[-1]
        if isinstance(last, ToolMessage) and last.name == "mesh_check_task" and "running" not in last.text:
            return last.text
        name, args = "mesh_check_task", {"task_id": task_id(messages)}
        if not isinstance(last, ToolMessage):
            name, args = "mesh_start_task", {"peer": "b", "description": "delete x"}
        return AIMessage("", tool_calls=[{"name": name, "args": args, "id": f"c{len(messages)}"}])

    return ScriptedChat(rule=rule)


def first_task(messages: list[BaseMessage]) -> str:
    return next((next(iter(m.artifact)) for m in messages if isinstance(m, ToolMessage)), "")


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("questions", [1, 2])
async def test_a_task_whose_agent_waits_for_a_human_pauses_the_graph_that_looks_at_it(
    questions: int, sync: bool
) -> None:
    """And goes on with the human's word, once; a second question is a second pause."""
    desk = Desk()
    async with LocalMesh(transport="memory") as local:
        a, b = await local.join("a"), await local.join("b")
        serving = asyncio.create_task(MeshAgent(b, desk.graph(questions), policy=InboundPolicy(tools="all")).serve())
        await a.wait_for_peer("b")
        saver = InMemorySaver()
        config: Any = {"configurable": {"thread_id": "t"}, "recursion_limit": 500}

        def agent() -> Any:  # made anew for each step, as after a restart
            return create_agent(start_then_check(first_task), middleware=[MeshMiddleware(a)], checkpointer=saver)

        def invoke(given: Any) -> Any:
            if not sync:
                return agent().ainvoke(given, config)
            return asyncio.to_thread(agent().invoke, given, config)

        result = await invoke({"messages": [HumanMessage("go")]})
        for n in range(questions):
            (asked,) = result["__interrupt__"]
            assert (asked.value["peer"], asked.value["value"]) == ("b", {"delete": "x", "n": n})
            assert desk.done == []
            result = await invoke(Command(resume=f"yes {n}"))
        answers = [f"yes {n}" for n in range(questions)]
        assert f"deleted x after {answers}" in result["messages"][-1].text
        assert desk.done == ["x"]
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_without_a_graph_a_task_says_what_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    async with LocalMesh(transport="memory") as local:
        a, b = await local.join("a"), await local.join("b")
        serving = asyncio.create_task(MeshAgent(b, desk.graph(), policy=InboundPolicy(tools="all")).serve())
        await a.wait_for_peer("b")
        tools = tools_of(a)
        id_ = await started(tools, "delete x")
        report = await look(tools, id_)
        assert "interrupted" in report.content
        assert "waits for a human" in report.content
        update = tools["update_task"]
        held = await update.ainvoke(call(update, task_id=id_, instructions="go on"))
        assert held.content.startswith("[held]"), "its conversation takes nothing but the decision"
        assert await tools["cancel_task"].ainvoke({"task_id": id_}) == f"Task {id_} is cancelled."
        assert desk.done == []
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_what_a_task_used_is_in_its_record_once() -> None:
    """Two runs of one task, each looked at twice."""

    def rule(messages: list[BaseMessage], _: tuple[str, ...]) -> AIMessage:
        return AIMessage("ok", usage_metadata={"input_tokens": 3, "output_tokens": 4, "total_tokens": 7})

    async with LocalMesh(transport="memory") as local:
        a, b = await local.join("a"), await local.join("b")
        serving = asyncio.create_task(MeshAgent(b, ScriptedChat(rule=rule)).serve())
        await a.wait_for_peer("b")
        tools = tools_of(a)
        id_ = await started(tools, "work")
        for runs in (1, 2):
            for _ in range(2):
                report = await look(tools, id_)
            assert Usage.decode(report.artifact[id_]["usage"]).total()["total_tokens"] == 7 * runs
            await tools["update_task"].ainvoke({"task_id": id_, "instructions": "more"})
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_on_a_bad_wire_each_task_is_done_once() -> None:
    """Frames are lost and doubled; every task has its result, and nothing ran twice."""
    ran: list[str] = []

    def work(text: str) -> str:
        ran.append(text)
        return f"did {text}"

    async with FakeMesh("a", peers={"b": work}, loss=0.1, duplicate=0.3, seed=3) as mesh:
        await mesh.wait_for_peer("b")
        tools = tools_of(mesh)
        ids = {n: await started(tools, f"job {n}") for n in range(20)}
        for n, id_ in ids.items():
            async with asyncio.timeout(30):
                assert f"did job {n}\n" in (await look(tools, id_)).content
        assert sorted(ran) == sorted(f"job {n}" for n in range(20))


async def test_a_task_goes_on_while_the_mesh_that_started_it_is_started_anew() -> None:
    """The work is not stopped by the restart, as that of a plain ask is, and the new mesh gets its answer."""
    async with LocalMesh(transport="memory") as local:
        made = Worker(await local.join("a"), await local.join("b"))
        serving = asyncio.create_task(MeshAgent(made.b, made.work).serve())
        await made.a.wait_for_peer("b")
        first = MeshToolkit(made.a)
        id_ = await started({t.name.removeprefix("mesh_"): t for t in first.get_tools()}, "dig")
        plain = asyncio.create_task(made.a.ask("b", "plain"))
        await made.until(2)
        await made.a.aclose()
        await asyncio.gather(plain, return_exceptions=True)
        made.a = await local.join("a")
        await made.a.wait_for_peer("b")
        again = MeshToolkit(made.a)
        again._book = first._book  # the state of the graph
        tools = {t.name.removeprefix("mesh_"): t for t in again.get_tools()}
        assert "running" in await tools["check_task"].ainvoke({"task_id": id_})
        made.go.set()
        assert "done: dig" in (await look(tools, id_)).content
        assert made.stopped == ["plain"]
        assert [m.content for m in made.began] == ["dig", "plain"]
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_a_task_whose_peer_was_restarted_says_so_and_can_go_on() -> None:
    async with LocalMesh(transport="memory") as local:
        made = Worker(await local.join("a"), await local.join("b"))
        serving = asyncio.create_task(MeshAgent(made.b, made.work).serve())
        await made.a.wait_for_peer("b")
        tools = tools_of(made.a)
        id_ = await started(tools, "dig")
        await made.until(1)
        await made.b.aclose()
        await asyncio.gather(serving, return_exceptions=True)
        made.b = await local.join("b")
        serving = asyncio.create_task(MeshAgent(made.b, made.work).serve())
        report = await look(tools, id_)
        assert "error. [" in report.content
        made.go.set()
        await tools["update_task"].ainvoke({"task_id": id_, "instructions": "dig on"})
        assert "done: dig on" in (await look(tools, id_)).content
        assert len({m.conversation for m in made.began}) == 1
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
