"""The tools that list the peers, and tell them something: `mesh_list_peers`, `mesh_send`, `mesh_broadcast`."""

from __future__ import annotations

from typing import Any

from langchain_core.runnables import RunnableConfig
from pydantic import BaseModel, Field

from ..agent import text
from ..mesh.types import Receipt
from .base import Call, Injected, NoArgs
from .door import READ_ONLY, DoorTool
from .mesh_tool import AskAnyInput

Artifact = dict[str, Any]


class BroadcastInput(BaseModel):
    """Arguments of a broadcast."""

    message: str = Field(description="What to tell all agents. Self-contained: they cannot see this conversation.")
    runtime: Injected = None


class MeshListPeersTool(DoorTool):
    """List the agents of the mesh: name, state, what they say of themselves.

    Instantiation:
        By `MeshToolkit(mesh).get_tools()`, or by `MeshMiddleware(mesh)`.

    Invocation:
        `await tool.ainvoke({})`. The artifact is a list of `{"peer", "state", "path"}`.

    Within an agent:
        It only reads: a turn that a peer started may use it.
    """

    name: str = "mesh_list_peers"
    description: str = text.LIST_PEERS
    args_schema: Any = NoArgs
    metadata: dict[str, Any] | None = READ_ONLY

    async def _work(
        self, arguments: dict[str, Any], runtime: Any, config: RunnableConfig | None
    ) -> tuple[str, list[Artifact]]:
        peers = self._allowed()
        return text.peer_list(peers), [{"peer": p.id, "state": p.state, "path": p.path} for p in peers]


class MeshSendTool(DoorTool):
    """Tell one agent something; no answer is expected.

    Instantiation:
        By `MeshToolkit(mesh).get_tools()`, or by `MeshMiddleware(mesh)`.

    Invocation:
        `await tool.ainvoke({"peer": "librarian", "message": "Closed on Monday."})`. The artifact is the receipt, as it
        stands when the message is accepted.

    Within an agent:
        A tool node that runs again sends the same message, which the peer takes once.
    """

    name: str = "mesh_send"
    description: str = text.SEND
    args_schema: Any = AskAnyInput

    async def _work(
        self, arguments: dict[str, Any], runtime: Any, config: RunnableConfig | None
    ) -> tuple[str, Artifact]:
        peer = arguments["peer"]
        self._check(peer)
        call = Call.of(self.mesh.name, runtime, config, to=peer)
        receipt = await self.mesh.send(peer, arguments["message"], **call.options())
        return text.sent(receipt), _plain(receipt)


class MeshBroadcastTool(DoorTool):
    """Tell all agents something; no answers are expected.

    Instantiation:
        By `MeshToolkit(mesh).get_tools()`, or by `MeshMiddleware(mesh)`.

    Invocation:
        `await tool.ainvoke({"message": "Closed on Monday."})`. The artifact has a receipt or `{"error": code}` for
        each peer.

    Within an agent:
        Agents do not answer broadcasts; to have answers, use `mesh_ask_many`.
    """

    name: str = "mesh_broadcast"
    description: str = text.BROADCAST
    args_schema: Any = BroadcastInput

    async def _work(
        self, arguments: dict[str, Any], runtime: Any, config: RunnableConfig | None
    ) -> tuple[str, Artifact]:
        to = None if self.allow is None else [p.id for p in self._allowed() if p.state != "offline"]
        results = await self.mesh.broadcast(arguments["message"], to=to)
        plain = {p: _plain(r) if isinstance(r, Receipt) else {"error": r.code} for p, r in results.items()}
        return text.broadcast(results), plain


def _plain(receipt: Receipt) -> Artifact:
    return {
        "peer": receipt.peer,
        "message_id": receipt.message_id,
        "conversation": receipt.conversation,
        "state": receipt.state,
    }
