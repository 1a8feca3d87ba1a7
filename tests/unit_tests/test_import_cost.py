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
WHEN_STARTED = {"cryptography", "httpx2", "websockets"}  # keys and sockets: half of what the rest costs together


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


@pytest.mark.parametrize("names", ["MeshConfig, MeshError", "Incoming, Peer, Receipt, Reply, ReplyChunk, Usage"])
def test_plain_types_bring_no_langchain(names: str) -> None:
    found = tops(modules_after(f"from chatixia_langchain import {names}"))
    assert not found & (SERVERS_AND_MODELS | LANGCHAIN | WHEN_STARTED), found


def test_the_mesh_brings_no_langchain() -> None:
    """200 modules when this was written: asyncio, anyio, msgspec and ours. Keys and sockets come when it starts."""
    modules = modules_after("from chatixia_langchain import Mesh")
    assert not tops(modules) & (SERVERS_AND_MODELS | LANGCHAIN | WHEN_STARTED), tops(modules)
    assert len(modules) <= 260, len(modules)


def test_only_what_is_made_for_create_agent_brings_langchain() -> None:
    """So that the next test cannot be true of names that bring nothing."""
    assert {"langchain", "langgraph"} <= tops(modules_after("from chatixia_langchain import MeshMiddleware"))


@pytest.mark.parametrize("name", ["FakeMesh", "OpenAIServer"])
def test_the_test_kit_brings_no_langchain_until_it_is_used(name: str) -> None:
    both = f"import chatixia_langchain.testing.plugin\nfrom chatixia_langchain.testing import {name}"
    found = tops(modules_after(both))
    assert not found & (SERVERS_AND_MODELS | LANGCHAIN), found


@pytest.mark.parametrize("name", ["MeshTool", "MeshToolkit", "RemoteAgent", "MeshAgent", "ChatLoop", "InboundPolicy"])
def test_tools_and_agents_bring_langchain_core_alone(name: str) -> None:
    """`langchain-core` is a requirement of ours; langgraph, langchain and openai are the user's choice."""
    found = tops(modules_after(f"from chatixia_langchain import {name}"))
    assert "langchain_core" in found
    assert not found & SERVERS_AND_MODELS, found
