"""The traps of LangChain, LangGraph and asyncio that this package is built around, and the test that holds each shut.

A trap is something that was run and went wrong, silently more often than not. Whoever removes or renames a test must
say here what keeps its trap shut instead.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import textwrap
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import StructuredTool, tool

import chatixia_langchain
from chatixia_langchain import MeshTool
from chatixia_langchain.testing import FakeMesh, ScriptedChat

agents = pytest.importorskip("langchain.agents")

TESTS = Path(__file__).parents[1]
PACKAGE = Path(inspect.getfile(chatixia_langchain)).parent
HERE = "unit_tests/test_traps.py"
TOOLS = "unit_tests/tools/test_traps.py"
AGENT = "unit_tests/agent/test_traps.py"
MIDDLEWARE = "unit_tests/tools/test_middleware.py"

TRAPS = {
    # what a tool is given by the graph
    "a runtime in the signature of _arun alone is silently None": [
        f"{TOOLS}::test_trap_only_some_shapes_of_tools_get_a_runtime",
    ],
    "a model may write a runtime into its arguments": [
        f"{TOOLS}::test_trap_ours_gets_the_runtime_and_a_forged_one_is_overwritten",
        f"{TOOLS}::test_trap_runtime_is_hidden_from_the_model",
    ],
    "outside of a graph a caller's runtime is handed on unseen": [
        f"{TOOLS}::test_trap_outside_of_a_graph_a_callers_runtime_is_passed_through",
    ],
    "an object with __call__ is no coroutine for a tool": [
        f"{HERE}::test_trap_a_callable_object_is_no_coroutine_for_a_tool",
    ],
    # calls from threads and other loops
    "a tool of a coroutine alone cannot be invoked": [
        f"{TOOLS}::test_trap_tools_of_a_coroutine_alone_have_no_invoke",
    ],
    "a sync call on the mesh's own loop waits for itself": [
        f"{TOOLS}::test_trap_a_sync_call_on_the_meshs_own_loop_would_never_end",
        f"{TOOLS}::test_trap_a_sync_agent_on_the_meshs_own_loop_runs_its_tools_in_threads",
        f"{TOOLS}::test_trap_a_loop_that_is_only_busy_is_waited_for",
        "unit_tests/tools/test_toolkit.py::test_trap_a_sync_call_on_the_meshs_own_loop_says_so_at_once",
    ],
    "a call that is cancelled on one loop goes on on the other": [
        f"{TOOLS}::test_trap_cancellation_crosses_loops",
    ],
    # conversations
    "turns of one thread at the same time lose messages": [
        f"{AGENT}::test_trap_concurrent_turns_on_one_thread_lose_nothing",
    ],
    "a message to a paused thread abandons its approval": [
        "unit_tests/agent/test_approval.py::test_trap_mail_for_a_paused_thread_waits_and_abandons_nothing",
    ],
    "a tool that raises leaves a call without result for ever": [
        f"{AGENT}::test_trap_a_tool_that_raises_leaves_no_dangling_call",
        f"{TOOLS}::test_trap_a_tool_outlives_its_mesh_with_an_error_the_model_can_read",
    ],
    "a node that runs again has its effects again": [
        f"{AGENT}::test_trap_a_node_that_runs_again_is_no_second_request",
    ],
    "a tool that raises loses the results of those beside it, not their effects": [
        f"{HERE}::test_trap_parallel_calls_are_not_cancelled_by_one_that_fails",
    ],
    "agents that answer each other never stop": [
        f"{AGENT}::test_trap_agents_that_answer_every_message_stop",
        f"{AGENT}::test_trap_errors_get_no_answer",
    ],
    # create_agent
    "a tool that comes and goes needs a second hook": [
        f"{MIDDLEWARE}::test_trap_an_unknown_tool_is_a_value_error_without_the_second_hook",
    ],
    "a middleware with async hooks alone cannot be invoked": [
        f"{MIDDLEWARE}::test_trap_async_only_hooks_break_invoke",
    ],
    "a fake model's tool calls do not stream": [
        "unit_tests/testing/test_scripted.py::test_trap_tool_calls_of_a_fake_model_stream_under_stream_mode_messages",
    ],
    # scopes, tasks and loops
    "a scope entered in one task cannot be left in another": [
        f"{TOOLS}::test_trap_a_scope_entered_here_cannot_be_left_there",
        f"{TOOLS}::test_trap_a_deadline_around_the_entry_runs_it_in_another_task",
    ],
    "leaving a generator that holds a scope cancels whoever read it": [
        f"{TOOLS}::test_trap_breaking_out_of_a_generator_that_holds_a_scope",
        f"{TOOLS}::test_trap_a_deadline_around_a_stream_may_end_inside_it",
        f"{HERE}::test_trap_nothing_of_ours_yields_inside_a_scope",
    ],
    "connections are not closed in the order they were opened": [
        f"{TOOLS}::test_trap_meshes_close_in_any_order_from_any_task",
    ],
    "a lost connection leaves its waiters waiting": [
        f"{TOOLS}::test_trap_waiters_are_told_when_the_mesh_closes",
    ],
    "LangChain works on asyncio alone": [
        f"{HERE}::test_trap_langchain_runs_on_asyncio_and_so_do_we",
    ],
}


def _tests_in(file: Path) -> set[str]:
    """The tests that pytest finds in a file, without importing it."""
    tree = ast.parse(file.read_text())
    return {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) if n.name[:5] == "test_"}


@pytest.mark.parametrize("trap", TRAPS)
def test_each_trap_has_its_test(trap: str) -> None:
    for test in TRAPS[trap]:
        file, name = test.split("::")
        assert (TESTS / file).is_file(), f"{trap}: there is no {file}"
        assert name in _tests_in(TESTS / file), f"{trap}: {file} has no {name}"


def test_no_trap_is_missing_in_the_table() -> None:
    found = {
        f"{f.relative_to(TESTS)}::{n}"
        for f in TESTS.rglob("test_*.py")
        for n in _tests_in(f)
        if n.startswith("test_trap_")
    }
    assert found == {test for tests in TRAPS.values() for test in tests}


# those that are nobody else's


async def test_trap_a_callable_object_is_no_coroutine_for_a_tool() -> None:
    """The control fails while the agent is made; our tools are classes whose methods are there to be inspected."""

    class Asks:
        async def __call__(self, message: str) -> str:
            return message

    schema = {"type": "object", "properties": {"message": {"type": "string"}}}
    bare = StructuredTool(name="bare", description="x", args_schema=schema, coroutine=Asks())
    model = ScriptedChat(rule=lambda messages, tools: "x")
    with pytest.raises(TypeError, match="not a module, class, method, or function"):
        agents.create_agent(model, [bare])
    async with FakeMesh(peers={"b": str.upper}) as mesh:
        assert agents.create_agent(model, [MeshTool(mesh, peer="b")])


def calls_both(messages: list[BaseMessage], tools: tuple[str, ...]) -> AIMessage | str:
    if isinstance(messages[-1], ToolMessage):
        return "; ".join(m.text for m in messages if isinstance(m, ToolMessage))
    return AIMessage("", tool_calls=[{"name": n, "args": {"message": "hi"}, "id": f"c-{n}"} for n in sorted(tools)])


async def test_trap_parallel_calls_are_not_cancelled_by_one_that_fails() -> None:
    """The control loses the good tool's result, while what it did is done. Ours is an error beside the result."""
    effects: list[str] = []
    failed, done = asyncio.Event(), asyncio.Event()

    def broken(text: str) -> str:
        raise RuntimeError("down")

    async def slow(text: str) -> str:
        await asyncio.wait_for(failed.wait(), 10)
        effects.append(text)
        done.set()
        return f"good: {text}"

    @tool
    async def a_bad(message: str) -> str:
        """Fail."""
        failed.set()
        raise ConnectionError("down")

    @tool
    async def b_good(message: str) -> str:
        """Work for a while."""
        return await slow(message)

    asked: Any = {"messages": [HumanMessage("go")]}
    with pytest.raises(ConnectionError):
        await agents.create_agent(ScriptedChat(rule=calls_both), [a_bad, b_good]).ainvoke(asked)
    await asyncio.wait_for(done.wait(), 10)
    assert effects == ["hi"], "it went on behind the error"

    async with FakeMesh(peers={"bad": broken, "good": slow}) as mesh:
        ours = [MeshTool(mesh, peer="bad"), MeshTool(mesh, peer="good")]
        out = await agents.create_agent(ScriptedChat(rule=calls_both), ours).ainvoke(asked)
    error, result = out["messages"][-1].text.split("; ")
    assert error.startswith("[handler_failed]")
    assert result == "good: hi"
    assert effects == ["hi", "hi"]


SCOPES = {"TaskGroup", "create_task_group", "timeout", "timeout_at", "fail_after", "move_on_after", "CancelScope"}


def yields_inside_a_scope(source: str) -> list[int]:
    """The lines of every `yield` that a `with` of a task group or a deadline encloses, in the same function."""
    found: list[int] = []

    def walk(node: ast.AST, inside: bool) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            inside = False
        if isinstance(node, ast.With | ast.AsyncWith):
            called = [i.context_expr.func for i in node.items if isinstance(i.context_expr, ast.Call)]
            names = {f.attr if isinstance(f, ast.Attribute) else getattr(f, "id", "") for f in called}
            inside = inside or bool(names & SCOPES)
        if inside and isinstance(node, ast.Yield | ast.YieldFrom):
            found.append(node.lineno)
        for child in ast.iter_child_nodes(node):
            walk(child, inside)

    walk(ast.parse(source), False)
    return found


def test_trap_nothing_of_ours_yields_inside_a_scope() -> None:
    """A reader may break off at any `yield`: a scope that is open there is left in another task, or never."""
    planted = """
        async def words():
            async with anyio.create_task_group(), other():
                if x:
                    yield 1
            async with lock:
                yield 2
            with anyio.move_on_after(1):
                def inner():
                    yield 3
            async with asyncio.timeout(1):
                yield 4
    """
    assert yields_inside_a_scope(textwrap.dedent(planted)) == [5, 12], "the check sees what it looks for"
    bad = {f"{f.relative_to(PACKAGE)}:{n}" for f in PACKAGE.rglob("*.py") for n in yields_inside_a_scope(f.read_text())}
    assert bad == set()


def test_trap_langchain_runs_on_asyncio_and_so_do_we() -> None:
    """Under trio every async entry of LangChain fails. anyio is here for a loop's thread, and the loop is asyncio's."""
    imports: dict[str, set[str]] = {}
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "anyio":
                imports.setdefault(str(file.relative_to(PACKAGE)), set()).update(a.name for a in node.names)
            elif isinstance(node, ast.Import):
                assert not [a for a in node.names if a.name.split(".")[0] in ("anyio", "trio")], file
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "start_blocking_portal":
                backend = [k.value for k in node.keywords if k.arg == "backend"]
                assert [getattr(b, "value", "") for b in backend] == ["asyncio"], file
    assert imports, "the check sees what it looks for"
    assert set().union(*imports.values()) <= {"BlockingPortal", "start_blocking_portal"}, imports
