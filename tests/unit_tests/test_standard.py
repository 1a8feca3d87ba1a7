"""LangChain's own standard tests, for every tool, over the memory transport."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.tools import BaseTool
from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests

from chatixia_langchain import Incoming, Mesh, MeshAgent, MeshToolkit
from chatixia_langchain.transport.memory import MemoryHub

from ..tool_cases import ARGUMENTS, SKILLS, tool_case


@pytest.fixture(scope="class")
def mesh() -> Iterator[Mesh]:
    hub = MemoryHub()
    with Mesh("b", transport=hub.transport("b"), skills=SKILLS) as b, Mesh("a", transport=hub.transport("a")) as a:

        async def echo(message: Incoming) -> str:
            return f"echo: {message.content}"

        threading.Thread(target=lambda: b.call_sync(MeshAgent(b, echo).serve), daemon=True).start()
        a.sync.wait_for_peer("b")
        yield a


@pytest.fixture(scope="class", params=list(ARGUMENTS))
def tool_and_args(request: pytest.FixtureRequest, mesh: Mesh) -> tuple[BaseTool, dict[str, Any]]:
    return tool_case(mesh, request.param)


class _Tool:
    made: BaseTool
    args: dict[str, Any]

    @pytest.fixture(autouse=True)
    def _pick(self, tool_and_args: tuple[BaseTool, dict[str, Any]]) -> None:
        type(self).made, type(self).args = tool_and_args

    @property
    def tool_constructor(self) -> BaseTool:
        return self.made

    @property
    def tool_constructor_params(self) -> dict[str, Any]:
        return {}

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return self.args


class TestUnit(_Tool, ToolsUnitTests):  # type: ignore[misc]  # an instance instead of a class, as the suite allows
    pass


class TestIntegration(_Tool, ToolsIntegrationTests):  # type: ignore[misc]
    pass


def test_the_table_has_every_tool_of_the_toolkit(mesh: Mesh) -> None:
    assert {t.name for t in MeshToolkit(mesh).get_tools()} == set(ARGUMENTS) - {"ask_b", "b_search"}
