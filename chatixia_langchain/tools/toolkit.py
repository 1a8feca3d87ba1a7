"""`MeshToolkit`: the mesh as four tools.

Their names are fixed, so that prompts, limits and approvals hold while peers come and go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from langchain_core.callbacks import AsyncCallbackManagerForToolRun, CallbackManagerForToolRun
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, BaseToolkit
from pydantic import BaseModel, ConfigDict, Field

from ..agent import text
from ..errors import MeshError, PeerUnreachable
from ..mesh.mesh import Mesh
from ..mesh.types import Peer, Receipt
from .base import Call, Injected, MeshBaseTool, MeshToolError, NoArgs, illegal
from .mesh_tool import AskAnyInput, MeshTool

Format = Literal["content", "content_and_artifact"]
Artifact = dict[str, Any]


class BroadcastInput(BaseModel):
    """Arguments of a broadcast."""

    message: str = Field(description="What to tell all agents. Self-contained: they cannot see this conversation.")
    runtime: Injected = None


class _PeersTool(MeshBaseTool):
    response_format: Format = "content_and_artifact"
    allow: frozenset[str] | None = None

    def _allowed(self) -> list[Peer]:
        peers = self.mesh.peers.values()
        return sorted((p for p in peers if self.allow is None or p.id in self.allow), key=lambda p: p.id)


class MeshListPeersTool(_PeersTool):
    """List the agents of the mesh: name, state, what they say of themselves."""

    name: str = "mesh_list_peers"
    description: str = text.LIST_PEERS
    args_schema: Any = NoArgs

    def _run(
        self, runtime: Any = None, run_manager: CallbackManagerForToolRun | None = None
    ) -> tuple[str, list[dict[str, str]]]:
        peers = self._allowed()
        return text.peer_list(peers), [{"peer": p.id, "state": p.state, "path": p.path} for p in peers]

    async def _arun(
        self, runtime: Any = None, run_manager: AsyncCallbackManagerForToolRun | None = None
    ) -> tuple[str, list[dict[str, str]]]:
        return self._run()


class MeshSendTool(_PeersTool):
    """Tell one agent something; no answer is expected."""

    name: str = "mesh_send"
    description: str = text.SEND
    args_schema: Any = AskAnyInput

    def _run(
        self,
        peer: str,
        message: str,
        runtime: Any = None,
        config: RunnableConfig | None = None,
        run_manager: CallbackManagerForToolRun | None = None,
    ) -> tuple[str, Artifact]:
        return self.mesh.call_sync(self._send, peer, message, self._prepare(peer, runtime, config))

    async def _arun(
        self,
        peer: str,
        message: str,
        runtime: Any = None,
        config: RunnableConfig | None = None,
        run_manager: AsyncCallbackManagerForToolRun | None = None,
    ) -> tuple[str, Artifact]:
        return await self._send(peer, message, self._prepare(peer, runtime, config))

    def _prepare(self, peer: str, runtime: Any, config: RunnableConfig | None) -> Call:
        if self.allow is not None and peer not in self.allow:
            raise MeshToolError(PeerUnreachable(peer, "it is not among the peers this tool may reach"))
        return Call.of(self.mesh.name, runtime, config, to=peer)

    async def _send(self, peer: str, message: str, call: Call) -> tuple[str, Artifact]:
        try:
            receipt = await self.mesh.send(peer, message, **call.options())
        except MeshError as exc:
            raise MeshToolError(exc) from exc
        except ValueError as exc:
            raise MeshToolError(illegal(exc)) from exc
        return text.sent(receipt), _plain(receipt)


class MeshBroadcastTool(_PeersTool):
    """Tell all agents something; no answers are expected."""

    name: str = "mesh_broadcast"
    description: str = text.BROADCAST
    args_schema: Any = BroadcastInput

    def _run(
        self,
        message: str,
        runtime: Any = None,
        config: RunnableConfig | None = None,
        run_manager: CallbackManagerForToolRun | None = None,
    ) -> tuple[str, Artifact]:
        return self.mesh.call_sync(self._broadcast, message, Call.of(self.mesh.name, runtime, config))

    async def _arun(
        self,
        message: str,
        runtime: Any = None,
        config: RunnableConfig | None = None,
        run_manager: AsyncCallbackManagerForToolRun | None = None,
    ) -> tuple[str, Artifact]:
        return await self._broadcast(message, Call.of(self.mesh.name, runtime, config))

    async def _broadcast(self, message: str, call: Call) -> tuple[str, Artifact]:
        to = None if self.allow is None else [p.id for p in self._allowed() if p.state != "offline"]
        try:
            results = await self.mesh.broadcast(message, to=to, hops=call.hops, chain=call.chain)
        except MeshError as exc:
            raise MeshToolError(exc) from exc
        except ValueError as exc:
            raise MeshToolError(illegal(exc)) from exc
        plain = {p: _plain(r) if isinstance(r, Receipt) else {"error": r.code} for p, r in results.items()}
        return text.broadcast(results), plain


class MeshToolkit(BaseToolkit):
    """The mesh as tools: `mesh_list_peers`, `mesh_ask`, `mesh_send`, `mesh_broadcast`.

    `allow` limits which peers the model sees and reaches; `per_peer=True` adds one `ask_<peer>` tool for each peer
    that is online now. Instantiation: `MeshToolkit(mesh)`. Within an agent: `create_agent(model,
    MeshToolkit(mesh).get_tools())`.

    Raises ValueError from `get_tools` when two peers' names give the same tool name.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    mesh: Mesh = Field(exclude=True, repr=False)
    allow: frozenset[str] | None = None
    per_peer: bool = False

    def __init__(self, mesh: Mesh, *, allow: Sequence[str] | None = None, per_peer: bool = False) -> None:
        super().__init__(
            mesh=mesh,  # type: ignore[call-arg]  # pydantic fields of this class
            allow=None if allow is None else frozenset(allow),
            per_peer=per_peer,
        )

    def get_tools(self) -> list[BaseTool]:
        """Return the tools."""
        allow = None if self.allow is None else sorted(self.allow)
        tools: list[BaseTool] = [
            MeshListPeersTool(mesh=self.mesh, allow=self.allow),
            MeshTool(self.mesh, allow=allow),
            MeshSendTool(mesh=self.mesh, allow=self.allow),
            MeshBroadcastTool(mesh=self.mesh, allow=self.allow),
        ]
        if self.per_peer:
            peers = [p.id for p in self.mesh.peers.values() if p.state != "offline"]
            tools += [MeshTool(self.mesh, peer=p) for p in peers if self.allow is None or p in self.allow]
        names = [t.name for t in tools]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"two peers give the same tool name: {', '.join(twice)}")
        return tools


def _plain(receipt: Receipt) -> Artifact:
    return {
        "peer": receipt.peer,
        "message_id": receipt.message_id,
        "conversation": receipt.conversation,
        "state": receipt.state,
    }
