"""Fixtures for pytest, there as soon as the package is installed (entry point `pytest11`).

    async def test_the_planner_asks_the_oracle(fake_mesh, scripted_chat):
        mesh = fake_mesh("planner", peers={"oracle": lambda text: "42"}, loss=0.1)
        agent = create_agent(scripted_chat(ask_then_answer(...)), [MeshTool(mesh, peer="oracle")])

- `fake_mesh(name, **settings)` makes a `FakeMesh` and starts it
- `local_mesh` is a `LocalMesh`: a real registry, and members by `await local_mesh.join(name)` or
  `local_mesh.join_sync(name)`. Their transport is that of `Mesh`, or chosen by
  `@pytest.mark.parametrize("local_mesh", ["aiortc"], indirect=True)`
- `openai_server` is an `OpenAIServer` that runs; set its `rule`
- `scripted_chat(rule, **settings)` makes a `ScriptedChat`; a str instead of a rule is said to everything

The meshes run on a loop in a thread of their own, so they serve tests with a loop and without, whatever runs the loop;
all is closed when the test ends. Nothing is imported before a fixture is used. `-p no:chatixia_langchain` turns it off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .fake_mesh import FakeMesh
    from .hosted import HostedLocalMesh
    from .openai_server import OpenAIServer
    from .scripted import Rule, ScriptedChat


@pytest.fixture
def fake_mesh() -> Iterator[Callable[..., FakeMesh]]:
    """`fake_mesh(name="me", *, peers=..., loss=..., ...)` starts a `FakeMesh`; it is closed when the test ends."""
    from .fake_mesh import FakeMesh

    with ExitStack() as stack:

        def make(name: str = "me", **settings: Any) -> FakeMesh:
            return stack.enter_context(FakeMesh(name, **settings))

        yield make


@pytest.fixture
def local_mesh(request: pytest.FixtureRequest) -> Iterator[HostedLocalMesh]:
    """A `LocalMesh` with its registry; it is closed, with its members, when the test ends."""
    from .hosted import HostedLocalMesh

    with HostedLocalMesh(transport=getattr(request, "param", None)) as mesh:
        yield mesh


@pytest.fixture
def openai_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    """An `OpenAIServer` that runs and echoes; a proxy of the environment does not stand in its way."""
    from .openai_server import OpenAIServer

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def scripted_chat() -> Callable[..., ScriptedChat]:
    """`scripted_chat(rule, **settings)` makes a `ScriptedChat`; `scripted_chat("always this")` too."""
    from .scripted import ScriptedChat

    def make(rule: Rule | str, **settings: Any) -> ScriptedChat:
        return ScriptedChat(rule=(lambda messages, tools: rule) if isinstance(rule, str) else rule, **settings)

    return make
