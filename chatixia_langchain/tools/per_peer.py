"""One tool a peer, as peers come and go: `ask_<peer>` for each that is online now.

A name must lead to one peer only, whoever joins later. So a peer whose name had to be changed to fit has a digest of
it in its tool's name, and a name that two peers give is offered for neither.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection

from ..agent import text
from ..mesh.mesh import Mesh
from .mesh_tool import MeshTool

logger = logging.getLogger(__name__)

MAX_PEER_TOOLS = 64  # in one model call: providers take 128 tools; the peers past it can be asked by mesh_ask


def tool_name(peer: str) -> str:
    """The name of a peer's tool; no two names of peers that need no change give the same."""
    plain = f"ask_{peer}"
    safe = text.safe_name(plain)
    if safe == plain:
        return safe
    digest = hashlib.sha256(peer.encode()).hexdigest()[:8]
    return f"{safe[: text.MAX_NAME_CHARS - 9]}_{digest}"


class PeerTools:
    """The tools of one mesh's peers. From any thread: what it keeps is replaced whole."""

    def __init__(self, mesh: Mesh, allow: frozenset[str] | None) -> None:
        self._mesh, self._allow = mesh, allow
        self._made: dict[str, MeshTool] = {}

    def offered(self, taken: Collection[str]) -> list[MeshTool]:
        """The tools for a model now; a name in `taken` is another tool's and stays so."""
        tools = [t for name, t in sorted(self._present().items()) if name not in taken]
        if len(tools) > MAX_PEER_TOOLS:
            logger.warning("agent=%s: %d peers, a tool for %d of them", self._mesh.name, len(tools), MAX_PEER_TOOLS)
        return tools[:MAX_PEER_TOOLS]

    def find(self, name: str) -> MeshTool | None:
        """The tool of a peer that is online now."""
        return self._present().get(name)

    def gone(self, name: str) -> str | None:
        """The peer that had a tool of this name and is offline now."""
        left = (p.id for p in self._mesh.peers.values() if p.state == "offline" and self._may(p.id))
        return next((peer for peer in left if tool_name(peer) == name), None)

    def _may(self, peer: str) -> bool:
        return self._allow is None or peer in self._allow

    def _present(self) -> dict[str, MeshTool]:
        made: dict[str, MeshTool] = {}
        twice: set[str] = set()
        for peer in self._mesh.peers.values():
            if peer.state == "offline" or not self._may(peer.id):
                continue
            name, description = tool_name(peer.id), text.tool_description(peer, peer.id)
            if name in made:
                twice.add(name)
            known = self._made.get(name)
            same = known is not None and (known.peer, known.description) == (peer.id, description)
            made[name] = known if known is not None and same else MeshTool(self._mesh, peer=peer.id, name=name)
        for name in twice:
            logger.warning("agent=%s: two peers give the tool name %s, offered for neither", self._mesh.name, name)
            del made[name]
        self._made = made
        return made
