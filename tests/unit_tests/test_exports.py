"""The public names: promised, importable, imported only when used, listed once and in order."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import chatixia_langchain

INIT = Path(chatixia_langchain.__file__)
PROMISED = [
    "ChatLoop", "LocalMesh", "Mesh", "MeshAgent", "MeshError", "MeshMiddleware", "MeshTool", "MeshToolkit",
    "RemoteAgent", "ReplyChunk", "ReplyStream", "Usage",
]  # fmt: skip
MESH_METHODS = [
    "aclose", "ask", "ask_many", "ask_stream", "broadcast", "incoming", "peer_events", "peers", "send", "start",
    "status",
]  # fmt: skip


def names_for_type_checkers() -> set[str]:
    """What the `if TYPE_CHECKING` block of `__init__.py` re-exports."""
    for node in ast.parse(INIT.read_text()).body:
        if isinstance(node, ast.If):
            return {alias.asname or alias.name for each in node.body for alias in each.names}  # type: ignore[attr-defined]
    return set()


def test_all_is_sorted_and_holds_what_was_promised() -> None:
    listed = chatixia_langchain.__all__
    assert listed == sorted(listed)
    assert len(listed) == len(set(listed))
    assert set(PROMISED) <= set(listed)


def test_type_checkers_and_the_interpreter_see_the_same_names() -> None:
    assert names_for_type_checkers() == set(chatixia_langchain.__all__) - {"__version__"}
    assert dir(chatixia_langchain) == chatixia_langchain.__all__


@pytest.mark.parametrize("name", chatixia_langchain.__all__)
def test_every_name_can_be_imported(name: str) -> None:
    found = getattr(chatixia_langchain, name)
    assert name == "__version__" or found.__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="MeshTolol"):
        chatixia_langchain.MeshTolol  # noqa: B018


@pytest.mark.parametrize("method", MESH_METHODS)
def test_mesh_has_what_the_readme_uses(method: str) -> None:
    assert hasattr(chatixia_langchain.Mesh, method)


def test_names_are_imported_when_used() -> None:
    """`import chatixia_langchain` alone loads none of its parts."""
    code = "import chatixia_langchain, sys; print([m for m in sys.modules if m.startswith('chatixia_langchain.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"


def test_the_package_is_typed() -> None:
    assert (INIT.parent / "py.typed").is_file()
