"""What all mesh tools share: the error contract, and how a call finds its conversation and its id.

The error contract: a failure of a peer or of the way to it becomes a `MeshToolError`, which LangChain turns into an
error `ToolMessage` that the model can read. Our own bugs raise.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, InjectedToolArg, ToolException
from pydantic import BaseModel, ConfigDict, Field

from ..agent import text
from ..errors import MeshError
from ..mesh.budget import Usage
from ..mesh.context import current_tool_call
from ..mesh.mesh import Mesh
from ..mesh.types import Reply

Injected = Annotated[Any, InjectedToolArg()]
"""langgraph's runtime, hidden from the model.

It must stand in `args_schema`: langgraph does not look at `_run` and `_arun`.
"""


class MeshToolError(ToolException):
    """A peer, or the way to it, failed. `code`, `retryable`, `executed` are those of the `MeshError` it comes from."""

    def __init__(self, error: MeshError) -> None:
        super().__init__(text.error(error))
        self.code, self.retryable, self.executed = error.code, error.retryable, error.executed


def handle(error: ToolException) -> str:
    """Turn our own error into text; let any other go on its way."""
    if isinstance(error, MeshToolError):
        return str(error)
    raise error


class NoArgs(BaseModel):
    """No arguments but langgraph's runtime."""

    runtime: Injected = None


class MeshBaseTool(BaseTool):
    """A tool that holds a mesh. The mesh is never serialised, copied or printed."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    mesh: Mesh = Field(exclude=True, repr=False)
    handle_tool_error: Any = handle


class MeshToolArtifact(TypedDict):
    """What the program (not the model) gets beside the answer. Plain JSON, since checkpointers store it.

    `usage` is what the peer says that it used, with that of the peers it asked: see `Usage.to_json`.
    """

    peer: str
    conversation: str
    message_id: str
    path: str
    latency_ms: float
    usage: dict[str, Any]


def artifact(reply: Reply, usage: Usage) -> MeshToolArtifact:
    """The artifact of an answer."""
    return MeshToolArtifact(
        peer=reply.peer,
        conversation=reply.conversation,
        message_id=reply.message_id,
        path=reply.path,
        latency_ms=round(reply.latency_s * 1e3, 3),
        usage=usage.to_json(),
    )


@dataclass(frozen=True, slots=True)
class Call:
    """What one tool call sends along. `options` are keyword arguments of `Mesh.ask` and `Mesh.send`."""

    message_id: str | None
    conversation: str | None

    @classmethod
    def of(cls, name: str, runtime: Any, config: RunnableConfig | None, *, to: str = "") -> Call:
        """Find the call's place: thread and tool call id make its conversation and its message id.

        A tool node that runs again makes the same id, so the peer answers again instead of working again. Outside of
        an agent there is neither, and the mesh makes fresh ones.
        """
        runtime = tool_runtime(runtime)
        thread = _configured(config, "thread_id") or _configured(getattr(runtime, "config", None), "thread_id")
        call_id = getattr(runtime, "tool_call_id", None) or current_tool_call.get()
        message_id = _digest(name, thread, call_id, to) if thread and call_id else None
        return cls(message_id, _conversation(name, thread))

    @classmethod
    def in_node(cls, name: str, config: RunnableConfig | None, content: str, *, to: str, nth: int = 0) -> Call:
        """Find the place of a call that no tool makes: in a graph's node, thread, step and content make its id.

        langgraph gives each task of a thread a `checkpoint_ns`, and the same one when it runs it again. Outside of a
        graph there is none, and the mesh makes a fresh id; the thread makes the conversation all the same.
        """
        thread, step = _configured(config, "thread_id"), _configured(config, "checkpoint_ns")
        message_id = _digest(name, thread, step, to, content, str(nth)) if thread and step else None
        return cls(message_id, _conversation(name, thread))

    def options(self) -> dict[str, Any]:
        """Keyword arguments that `ask` and `send` share."""
        return {"message_id": self.message_id, "conversation": self.conversation}


def allow_list(names: Collection[str] | None) -> frozenset[str] | None:
    """The peers that may be reached; None is all. Raises ValueError for a str, which stands for one name."""
    if isinstance(names, str):
        raise ValueError(f"allow is the str {names!r}: give a collection of names")
    return None if names is None else frozenset(names)


def tool_runtime(given: Any) -> Any:
    """langgraph's `ToolRuntime` if it is one, else None: outside of a graph whoever calls may put anything there."""
    prebuilt = sys.modules.get("langgraph.prebuilt")  # not loaded: nobody can have made one
    return given if prebuilt is not None and isinstance(given, prebuilt.ToolRuntime) else None


def _configured(config: Mapping[str, Any] | None, key: str) -> str:
    """A value of `configurable`; thread ids may be UUIDs or numbers too."""
    value = ((config or {}).get("configurable") or {}).get(key)
    return "" if value is None else str(value)


def _conversation(name: str, thread: str) -> str | None:
    return f"t-{_digest(name, thread)[:24]}" if thread else None


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def illegal(why: ValueError) -> MeshError:
    """The model named a peer or wrote a text that cannot be sent: its mistake to mend, not ours."""
    return MeshError(str(why), code="invalid_line", executed="no")


@contextmanager
def told() -> Iterator[None]:
    """What failed out there, or was asked for wrongly, is an error that the model reads. Our own bugs raise."""
    try:
        yield
    except MeshError as exc:
        raise MeshToolError(exc) from exc
    except ValueError as exc:
        raise MeshToolError(illegal(exc)) from exc
