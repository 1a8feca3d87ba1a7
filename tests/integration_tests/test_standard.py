"""LangChain's own standard tests, for every tool, over a real registry and two real sidecars."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from langchain_core.tools import BaseTool
from langchain_tests.integration_tests import ToolsIntegrationTests

from chatixia_langchain import Incoming, LocalMesh, Mesh, MeshAgent, MeshTool

from ..tool_cases import ARGUMENTS, SKILLS, tool_case
from .mesh.conftest import sidecar_binary

pytestmark = pytest.mark.sidecar


async def echo(message: Incoming) -> str:
    """Answer with what was asked."""
    return f"echo: {message.content}"


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    """A member on a loop in a thread of its own: the suite's tests have a loop each."""
    with start_blocking_portal() as portal:
        local = portal.call(LocalMesh(transport="sidecar", sidecar_binary=sidecar_binary()).start)
        try:
            a, b = portal.call(local.join, "a"), portal.call(partial(local.join, "b", skills=SKILLS))
            threading.Thread(target=lambda: b.call_sync(MeshAgent(b, echo).serve), daemon=True).start()
            a.sync.wait_for_peer("b")
            yield a
        finally:
            portal.call(local.aclose)


@pytest.fixture(params=list(ARGUMENTS))
def tool_and_args(request: pytest.FixtureRequest, mesh: Mesh) -> tuple[BaseTool, dict[str, Any]]:
    """One tool and what to give it."""
    return tool_case(mesh, request.param)


class TestTools(ToolsIntegrationTests):
    """Each tool, over data channels."""

    made: BaseTool
    args: dict[str, Any]

    @pytest.fixture(autouse=True)
    def _pick(self, tool_and_args: tuple[BaseTool, dict[str, Any]]) -> None:
        type(self).made, type(self).args = tool_and_args

    @property
    def tool_constructor(self) -> BaseTool:  # type: ignore[override]  # an instance, as the suite allows
        return self.made

    @property
    def tool_constructor_params(self) -> dict[str, Any]:
        return {}

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return self.args


def test_the_tools_above_did_go_over_data_channels(mesh: Mesh) -> None:
    """Else the suite would have passed over the mailbox."""
    call = {"name": "ask_b", "args": {"message": "x"}, "id": "c1", "type": "tool_call"}
    result = MeshTool(mesh, peer="b").invoke(call)
    assert result.content == "echo: x"
    assert result.artifact["path"] == "channel"
    status = mesh.sync.status()
    assert status["transport"] == "sidecar"
    assert status["links"]["b"]["dtls"].startswith("DTLS 1.")
