"""What an import brings along, as sets and counts of modules; times are for `bench`, they differ between machines.

Each import runs in a process of its own: here pytest has long imported most of it.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SERVERS_AND_MODELS = {"aiortc", "fastapi", "langchain", "langgraph", "openai", "starlette", "uvicorn"}
LANGCHAIN = {"langchain_core", "langsmith", "pydantic"}


def modules_after(statement: str) -> list[str]:
    """Every module that a fresh interpreter has after `statement`, and had not before."""
    code = f"import json, sys\nold = set(sys.modules)\n{statement}\nprint(json.dumps(sorted(set(sys.modules) - old)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    found: list[str] = json.loads(done.stdout)
    return found


def tops(modules: list[str]) -> set[str]:
    """The packages that modules belong to, those of the standard library left out."""
    return {m.split(".")[0] for m in modules} - set(sys.stdlib_module_names)


def test_the_counter_sees_what_an_import_brings() -> None:
    """Were it blind, every other claim here would be true."""
    assert "langchain_core" in tops(modules_after("import langchain_core.tools.base"))


def test_the_package_alone_brings_nothing_of_others() -> None:
    """30 modules when this was written, all of the standard library: `typing` and `importlib`."""
    modules = modules_after("import chatixia_langchain")
    assert tops(modules) == {"chatixia_langchain"}
    assert len(modules) <= 50, modules


@pytest.mark.parametrize("names", ["MeshConfig, MeshError", "Incoming, Peer, Receipt, Reply"])
def test_plain_types_bring_no_langchain(names: str) -> None:
    found = tops(modules_after(f"from chatixia_langchain import {names}"))
    assert not found & (SERVERS_AND_MODELS | LANGCHAIN | {"httpx2", "websockets", "cryptography"}), found


def test_the_mesh_brings_no_langchain() -> None:
    """195 modules when this was written: asyncio, anyio, msgspec and ours."""
    modules = modules_after("from chatixia_langchain import Mesh")
    assert not tops(modules) & (SERVERS_AND_MODELS | LANGCHAIN), tops(modules)
    assert len(modules) <= 260, len(modules)


@pytest.mark.parametrize("name", ["MeshTool", "MeshToolkit", "MeshAgent", "ChatLoop"])
def test_tools_and_agents_bring_langchain_core_alone(name: str) -> None:
    """`langchain-core` is a requirement of ours; langgraph, langchain and openai are the user's choice."""
    found = tops(modules_after(f"from chatixia_langchain import {name}"))
    assert "langchain_core" in found
    assert not found & SERVERS_AND_MODELS, found
