"""`MeshMiddleware`: the mesh inside an agent of `create_agent`.

- before a run: requests that an earlier run of the thread left open are failed
- before each model call: mail comes in; the model is offered what the turn may use, the peers of now among it
- around each tool call: what the turn may not use is refused, a peer's tool is found, one that left is an error
- after the run: requests that it was shown and did not answer are failed
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, NotRequired, TypeVar

from langchain.agents.middleware.types import (
    AgentMiddleware,
    AgentState,
    ModelRequest,
    ModelResponse,
    PrivateStateAttr,
    ToolCallRequest,
)
from langchain_core.messages import AnyMessage, ToolMessage
from langchain_core.tools import BaseTool
from langgraph.errors import GraphBubbleUp
from langgraph.runtime import Runtime
from langgraph.types import Command

from ..agent import text
from ..agent.guard import allowed, held, refusal
from ..agent.history import human, note
from ..agent.orphans import repairs
from ..agent.policy import InboundPolicy
from ..agent.tool_calls import failed
from ..errors import MeshClosed, MeshError, PeerUnreachable
from ..mesh.context import current_turn
from ..mesh.mesh import Mesh
from ..mesh.types import Incoming
from .base import allow_list
from .inbox import REPLY, Inbox, MeshReplyTool
from .per_peer import PeerTools
from .tasks import MeshTask, merge_tasks
from .toolkit import MeshToolkit

T = TypeVar("T")
Answer = ModelResponse[Any]
Result = ToolMessage | Command[Any]
Update = dict[str, Any] | None


class MeshState(AgentState[Any]):
    """What the mesh adds to an agent's state: its tasks, and the requests of peers that this run was shown."""

    mesh_tasks: NotRequired[Annotated[dict[str, MeshTask], merge_tasks]]
    mesh_requests: NotRequired[Annotated[list[str], PrivateStateAttr]]


class MeshMiddleware(AgentMiddleware[MeshState, Any, Any]):
    """The mesh inside an agent: its tools, its peers as they come and go, its mail, and its limits.

    Setup:
        Needs the extra `agents` (langchain and langgraph). The mesh must be started before the agent is called.

    Instantiation:
        `MeshMiddleware(mesh)`. `toolkit` brings the tools of `MeshToolkit`, with their tasks in the graph's state:
        with a checkpointer they survive a restart. `per_peer_tools` offers each peer that is online as `ask_<peer>`.
        `inbox` shows the model what peers send while it runs, fenced as data, unless a `MeshAgent` serves the mesh; a
        request gets the tool `mesh_reply`, and is failed if the run ends without an answer. A thread that has seen mail
        is held to `policy`: by default it may use no tool that acts any more, whoever asks, since the model may do what
        the mail says. `repair_orphans` gives tool calls without results an error result before the model sees them.
        `allow` limits the peers, for all of it.

    Invocation:
        The agent is called as ever, by `invoke` too: from any thread but that of the mesh's own loop.

    Within an agent:
        `create_agent(model, middleware=[MeshMiddleware(mesh), HumanInTheLoopMiddleware(...)])`. Put it first, then it
        sees what retries and error handlers after it make of a failure. In a turn that a peer started, tools that the
        policy keeps back are neither offered nor run.
    """

    state_schema = MeshState

    def __init__(
        self,
        mesh: Mesh,
        *,
        per_peer_tools: bool = False,
        toolkit: bool = True,
        inbox: bool = False,
        policy: InboundPolicy | None = None,
        repair_orphans: bool = True,
        allow: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.mesh = mesh
        names = allow_list(allow)
        self._repair = repair_orphans
        self._peers = PeerTools(mesh, names) if per_peer_tools else None
        policy = policy or InboundPolicy()
        self._after_mail = policy.turn_tools
        self._inbox = Inbox(mesh, policy if names is None else replace(policy, allow_peers=names)) if inbox else None
        tools: list[BaseTool] = MeshToolkit(mesh, allow=allow).get_tools() if toolkit else []
        if self._inbox is not None:
            tools.append(MeshReplyTool(mesh=mesh, allow=names, inbox=self._inbox))
        self.tools = tools

    # mail

    def before_agent(self, state: MeshState, runtime: Runtime[Any]) -> Update:
        """Fail the requests that an earlier run left open."""
        return self.after_agent(state, runtime)

    async def abefore_agent(self, state: MeshState, runtime: Runtime[Any]) -> Update:
        """Fail the requests that an earlier run left open."""
        return await self.aafter_agent(state, runtime)

    def before_model(self, state: MeshState, runtime: Runtime[Any]) -> Update:
        """Bring the mail in."""
        if self._inbox is None:
            return None
        try:
            return _delivered(state, self.mesh.call_sync(self._inbox.take))
        except MeshClosed:  # no mail then; a tool says so when one is called
            return None

    async def abefore_model(self, state: MeshState, runtime: Runtime[Any]) -> Update:
        """Bring the mail in."""
        if self._inbox is None:
            return None
        try:
            return _delivered(state, await self.mesh.call(self._inbox.take))
        except MeshClosed:
            return None

    def after_agent(self, state: MeshState, runtime: Runtime[Any]) -> Update:
        """Fail the requests that were not answered."""
        if not (shown := state.get("mesh_requests")):
            return None
        self._close(shown)
        return {"mesh_requests": []}

    async def aafter_agent(self, state: MeshState, runtime: Runtime[Any]) -> Update:
        """Fail the requests that were not answered."""
        if not (shown := state.get("mesh_requests")):
            return None
        await self._aclose(shown)
        return {"mesh_requests": []}

    def _close(self, shown: Sequence[str]) -> None:
        if self._inbox is not None and self._inbox.waits(shown):
            try:
                self.mesh.call_sync(self._inbox.close, shown)
            except MeshClosed:  # then nobody waits any more
                pass

    async def _aclose(self, shown: Sequence[str]) -> None:
        if self._inbox is not None and self._inbox.waits(shown):
            try:
                await self.mesh.call(self._inbox.close, shown)
            except MeshClosed:
                pass

    # the model

    def wrap_model_call(self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Answer]) -> Answer:
        """Offer what the turn may use, on a history that is whole."""
        try:
            return handler(self._offered(request))
        except GraphBubbleUp:  # a pause, not an end
            raise
        except BaseException:
            self._close(_shown(request.state))
            raise

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[Answer]]
    ) -> Answer:
        """Offer what the turn may use, on a history that is whole."""
        try:
            return await handler(self._offered(request))
        except GraphBubbleUp:
            raise
        except BaseException:
            await self._aclose(_shown(request.state))
            raise

    def _offered(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        tools = list(request.tools)
        if self._inbox is None or not self._inbox.waits(_shown(request.state)):
            tools = [t for t in tools if not isinstance(t, MeshReplyTool)]
        if self._peers is not None:
            tools += self._peers.offered({t.name for t in tools if isinstance(t, BaseTool)})
        messages: list[Any] = [*(repairs(request.messages) if self._repair else request.messages)]
        return request.override(tools=allowed(tools, self._rule(request.messages)), messages=messages)

    def _rule(self, messages: Sequence[AnyMessage]) -> Callable[[str, Mapping[str, Any] | None], MeshError | None]:
        """What says whether a tool may be used: the turn of a peer, or, on a thread that has seen mail, our policy."""
        if current_turn.get() is not None or self._inbox is None or not any(map(note, messages)):
            return refusal
        return self._mail_rule

    def _mail_rule(self, name: str, metadata: Mapping[str, Any] | None) -> MeshError | None:
        return None if name == REPLY else held(self._after_mail, name, metadata)

    # tools

    def wrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Result]) -> Result:
        """Run a tool call, if the turn may."""
        found = self._found(request)
        if isinstance(found, ToolMessage):
            return found
        try:
            return handler(found)
        except GraphBubbleUp:
            raise
        except BaseException:
            self._close(_shown(request.state))
            raise

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Result]]
    ) -> Result:
        """Run a tool call, if the turn may."""
        found = self._found(request)
        if isinstance(found, ToolMessage):
            return found
        try:
            return await handler(found)
        except GraphBubbleUp:
            raise
        except BaseException:
            await self._aclose(_shown(request.state))
            raise

    def _found(self, request: ToolCallRequest) -> ToolCallRequest | ToolMessage:
        """The request with its tool, or the result of a call that cannot run."""
        call, tool = request.tool_call, request.tool
        may = self._rule(request.state.get("messages") or () if isinstance(request.state, dict) else ())
        refused = may(call["name"], tool.metadata if tool is not None else None)
        if refused is not None:
            return failed(call, text.tool_refused(refused))
        if tool is not None or self._peers is None:
            return request
        found = self._peers.find(call["name"])
        if found is not None:
            return request.override(tool=found)
        peer = self._peers.gone(call["name"])
        return request if peer is None else failed(call, text.error(PeerUnreachable(peer, "it left the mesh")))


def _delivered(state: MeshState, mail: list[tuple[str, Incoming]]) -> Update:
    if not mail:
        return None
    messages = [human(m).model_copy(update={"content": text.mail(m, reference)}) for reference, m in mail]
    shown = [*(state.get("mesh_requests") or ()), *(reference for reference, _ in mail if reference)]
    return {"messages": messages, "mesh_requests": shown}


def _shown(state: Any) -> list[str]:
    """The requests of peers that this run was shown."""
    return (state.get("mesh_requests") or []) if isinstance(state, dict) else []
