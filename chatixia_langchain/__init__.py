"""LangChain agents on different machines call each other directly over WebRTC.

    async with Mesh("planner", registry="https://mesh.example", api_key=...) as mesh:
        agent = create_agent(model, [MeshTool(mesh, peer="researcher")])

The names below are the public surface; they are imported when first used, so that `import chatixia_langchain` is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .agent.chat_loop import ChatLoop as ChatLoop
    from .agent.mesh_agent import InboundPolicy as InboundPolicy
    from .agent.mesh_agent import MeshAgent as MeshAgent
    from .config import MeshConfig as MeshConfig
    from .errors import MeshError as MeshError
    from .errors import SidecarNotFound as SidecarNotFound
    from .mesh.budget import Usage as Usage
    from .mesh.local import LocalMesh as LocalMesh
    from .mesh.mesh import Mesh as Mesh
    from .mesh.stream import ReplyStream as ReplyStream
    from .mesh.types import Incoming as Incoming
    from .mesh.types import Peer as Peer
    from .mesh.types import Receipt as Receipt
    from .mesh.types import Reply as Reply
    from .mesh.types import ReplyChunk as ReplyChunk
    from .tools.mesh_tool import MeshTool as MeshTool
    from .tools.middleware import MeshMiddleware as MeshMiddleware
    from .tools.remote_agent import RemoteAgent as RemoteAgent
    from .tools.toolkit import MeshToolkit as MeshToolkit

__version__ = "0.1.0"

_WHERE = {
    "ChatLoop": ".agent.chat_loop",
    "InboundPolicy": ".agent.mesh_agent",
    "Incoming": ".mesh.types",
    "LocalMesh": ".mesh.local",
    "Mesh": ".mesh.mesh",
    "MeshAgent": ".agent.mesh_agent",
    "MeshConfig": ".config",
    "MeshError": ".errors",
    "MeshMiddleware": ".tools.middleware",
    "MeshTool": ".tools.mesh_tool",
    "MeshToolkit": ".tools.toolkit",
    "Peer": ".mesh.types",
    "Receipt": ".mesh.types",
    "RemoteAgent": ".tools.remote_agent",
    "Reply": ".mesh.types",
    "ReplyChunk": ".mesh.types",
    "ReplyStream": ".mesh.stream",
    "SidecarNotFound": ".errors",
    "Usage": ".mesh.budget",
}

_EXTRAS = {"MeshMiddleware": "agents"}  # what needs more than the base install

__all__ = [
    "ChatLoop",
    "InboundPolicy",
    "Incoming",
    "LocalMesh",
    "Mesh",
    "MeshAgent",
    "MeshConfig",
    "MeshError",
    "MeshMiddleware",
    "MeshTool",
    "MeshToolkit",
    "Peer",
    "Receipt",
    "RemoteAgent",
    "Reply",
    "ReplyChunk",
    "ReplyStream",
    "SidecarNotFound",
    "Usage",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name in _WHERE:
        try:
            return getattr(import_module(_WHERE[name], __name__), name)
        except ModuleNotFoundError as exc:
            if name not in _EXTRAS:
                raise
            why = f"{name} needs {exc.name}: pip install 'chatixia-langchain[{_EXTRAS[name]}]'"
            raise ImportError(why, name=exc.name) from exc
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
