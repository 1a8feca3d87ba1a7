"""Which tools a turn that a peer started may use: one rule, held at every place a tool can start.

- where a model is offered tools (`ChatLoop`, `MeshMiddleware`), those the turn may not use are not offered, and a
  call of one has an error result: `allowed`, `refusal`
- wherever else a tool starts inside the turn, at any depth and whoever holds it, `ToolGuard` raises before it runs
- what is out of sight: code of yours that is no tool, and threads you start yourself without the turn's context

A tool acts unless its `metadata` has `readOnlyHint: True`, MCP's annotation. Who makes the tool sets it: an operator
that takes tools of an MCP server it does not trust must not take that server's annotations either.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.tools import BaseTool
from langchain_core.tracers.context import register_configure_hook

from ..errors import MeshError
from ..mesh.context import current_turn

MAX_DEPTH = 8  # graphs inside graphs that are looked into for the names of tools

T = TypeVar("T")


def acts(metadata: Mapping[str, Any] | None) -> bool:
    """True for a tool that may change something."""
    return not (metadata and metadata.get("readOnlyHint") is True)


def refusal(tool_name: str, metadata: Mapping[str, Any] | None) -> MeshError | None:
    """Say why the turn that runs may not use a tool; None when it may, and outside of turns."""
    turn = current_turn.get()
    return None if turn is None else held(turn.tools, tool_name, metadata)


def held(names: Collection[str] | None, tool_name: str, metadata: Mapping[str, Any] | None) -> MeshError | None:
    """Say why a turn that may use `names` (None: all) may not use a tool; None when it may."""
    if names is None or tool_name in names or not acts(metadata):
        return None
    return MeshError(f"the tool {tool_name!r} is not for turns that a peer started", code="tool_refused", executed="no")


def allowed(tools: Iterable[T], may: Callable[[str, Mapping[str, Any] | None], MeshError | None] = refusal) -> list[T]:
    """Those of `tools` that the turn that runs may use: BaseTools, or the dicts that providers take for their own."""
    return [t for t in tools if may(*_called(t)) is None]


def _called(tool: Any) -> tuple[str, Mapping[str, Any] | None]:
    if isinstance(tool, BaseTool):
        return tool.name, tool.metadata
    if isinstance(tool, Mapping):  # a function schema, or a tool that the provider runs: {"type": "web_search"}
        function = tool.get("function")
        name = tool.get("name") or (function.get("name") if isinstance(function, Mapping) else None)
        return str(name or tool.get("type", "")), None
    return str(getattr(tool, "__name__", type(tool).__name__)), None


class ToolGuard(BaseCallbackHandler):
    """Raises when a tool starts that the turn may not use: before it runs, in sync and async runs, at any depth.

    `names` None allows all. It knows its names itself: a tool in a thread without the turn's context is held too.
    """

    raise_error = True  # the exception ends the call instead of being logged
    run_inline = True  # and does so before the tool runs

    def __init__(self, names: Collection[str] | None) -> None:
        self.names = names

    def on_tool_start(
        self, serialized: dict[str, Any] | None, input_str: str, *, metadata: dict[str, Any] | None = None, **more: Any
    ) -> None:
        """Raise MeshError (`tool_refused`) for a tool that is kept back."""
        name = str((serialized or {}).get("name") or more.get("name") or "")
        refused = held(self.names, name, metadata)
        if refused is not None:
            raise refused


_guard: ContextVar[ToolGuard | None] = ContextVar("chatixia_tool_guard", default=None)
# Callbacks of a config are lost where a node passes callbacks of its own; what is registered here never is.
register_configure_hook(_guard, inheritable=True)


@contextmanager
def guarded(names: Collection[str] | None) -> Iterator[ToolGuard]:
    """Guard all that starts in this context; gives the guard, for the callbacks of the turn's config."""
    guard = ToolGuard(names)
    before = _guard.set(guard)
    try:
        yield guard
    finally:
        _guard.reset(before)


def tools_of(agent: Any) -> dict[str, Mapping[str, Any] | None]:
    """The tools inside an agent by name, with their metadata: those of a `ChatLoop`, and of a graph's tool nodes."""
    return dict(_walk(agent, 0))


def _walk(thing: Any, depth: int) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    tools = getattr(thing, "tools_by_name", None)  # langgraph's ToolNode, ChatLoop
    if isinstance(tools, Mapping):
        yield from (_called(t) for t in tools.values())
    if depth == MAX_DEPTH:
        return
    nodes = getattr(thing, "nodes", None)
    for node in nodes.values() if isinstance(nodes, Mapping) else ():
        yield from _walk(getattr(node, "bound", None), depth + 1)
    bound = getattr(thing, "bound", None)  # RunnableBinding: `agent.with_config(...)`
    if bound is not None and not isinstance(nodes, Mapping):
        yield from _walk(bound, depth + 1)
    steps = getattr(thing, "steps", None)  # RunnableSequence
    for step in steps if isinstance(steps, list) else ():
        yield from _walk(step, depth + 1)


def kept_back(agent: Any, names: Collection[str] | None) -> list[str]:
    """Names of the tools inside `agent` that peers' turns may not use: what `serve` warns of."""
    return sorted(n for n, metadata in tools_of(agent).items() if held(names, n, metadata) is not None)
