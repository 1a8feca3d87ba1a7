"""What all mesh tools share: the error contract, and how a call finds its conversation, its id and its place in a
chain.

The error contract: a failure of a peer or of the way to it becomes a `MeshToolError`, which LangChain turns into an
error `ToolMessage` that the model can read. Our own bugs raise.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Any

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, InjectedToolArg, ToolException
from pydantic import BaseModel, ConfigDict, Field

from ..agent import text
from ..agent.context import current_tool_call, current_turn
from ..errors import MeshError
from ..mesh.mesh import Mesh

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


@dataclass(frozen=True, slots=True)
class Call:
    """What one tool call sends along. `options` are keyword arguments of `Mesh.ask` and `Mesh.send`."""

    message_id: str | None
    conversation: str | None
    hops: int
    chain: tuple[str, ...]
    timeout_s: float | None

    @classmethod
    def of(
        cls, name: str, runtime: Any, config: RunnableConfig | None, *, timeout_s: float | None = None, to: str = ""
    ) -> Call:
        """Find the call's place: thread and tool call id make its conversation and its message id.

        A tool node that runs again makes the same id, so the peer answers again instead of working again. Outside of
        an agent there is neither, and the mesh makes fresh ones.
        """
        thread = _thread_id(config) or _thread_id(getattr(runtime, "config", None))
        call_id = getattr(runtime, "tool_call_id", None)
        call_id = call_id if isinstance(call_id, str) and call_id else current_tool_call.get()
        turn = current_turn.get()
        hops, chain, left = (0, (), timeout_s) if turn is None else turn.nested(name, timeout_s)
        message_id = _digest(name, thread, call_id, to) if thread and call_id else None
        conversation = f"t-{_digest(name, thread)[:24]}" if thread else None
        return cls(message_id, conversation, hops, chain, left)

    def options(self) -> dict[str, Any]:
        """Keyword arguments that `ask` and `send` share."""
        return {
            "message_id": self.message_id,
            "conversation": self.conversation,
            "hops": self.hops,
            "chain": self.chain,
        }


def _thread_id(config: Any) -> str:
    configurable = config.get("configurable") if isinstance(config, dict) else None
    thread = configurable.get("thread_id") if isinstance(configurable, dict) else None
    return thread if isinstance(thread, str) else ""


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def illegal(why: ValueError) -> MeshError:
    """The model named a peer or wrote a text that cannot be sent: its mistake to mend, not ours."""
    return MeshError(str(why), code="invalid_line", executed="no")
