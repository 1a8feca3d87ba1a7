"""All systems by name, in the order of the tables."""

from __future__ import annotations

from importlib import import_module

from side import Side

WHERE = {
    "in-process": ("side_local", "InProcess"),
    "mesh-memory": ("side_mesh", "MeshMemory"),
    "mesh-sidecar": ("side_mesh", "MeshSidecar"),
    "mesh-aiortc": ("side_mesh", "MeshAiortc"),
    "langgraph-server": ("side_langgraph", "LangGraphServer"),
    "langgraph-eager": ("side_langgraph", "LangGraphServerEager"),
    "a2a-http": ("side_a2a", "A2A"),
    "mcp-http": ("side_mcp", "Mcp"),
}
BASELINE, OURS = "in-process", "mesh-sidecar"


def load(name: str) -> Side:
    """A new side of that name; its module is imported now, what it needs when it starts."""
    module, attribute = WHERE[name]
    made: Side = getattr(import_module(module), attribute)()
    return made
