"""Docstrings of the public classes, in the order of LangChain's integration pages: what it is, then how to use it."""

from __future__ import annotations

import inspect
import re
from types import ModuleType

import pytest

pytest.importorskip("langchain")

import chatixia_langchain
from chatixia_langchain import Mesh, MeshToolkit, testing
from chatixia_langchain.tools.inbox import MeshReplyTool

ORDER = ["Setup", "Instantiation", "Invocation", "Within an agent"]
HANDED_OUT = {"Incoming", "Peer", "Receipt", "Reply", "ReplyChunk", "ReplyStream", "Usage"}  # nobody makes one
SETTINGS_AND_ERRORS = {"InboundPolicy", "MeshConfig", "MeshError", "SidecarNotFound"}


def classes(module: ModuleType) -> dict[str, type]:
    """The public classes of a module."""
    found = {name: getattr(module, name) for name in module.__all__}
    return {name: thing for name, thing in found.items() if inspect.isclass(thing)}


PUBLIC = classes(chatixia_langchain) | classes(testing)
TOOLS = [*(type(tool) for tool in MeshToolkit(Mesh("me", transport="memory")).get_tools()), MeshReplyTool]


def sections(thing: type) -> list[str]:
    """The sections of LangChain's order that a docstring has, as they come."""
    return [name for name in re.findall(r"^(\S.*):$", doc(thing), re.MULTILINE) if name in ORDER]


def doc(thing: type) -> str:
    """A docstring of the class itself, not one that it inherits."""
    return inspect.cleandoc(vars(thing).get("__doc__") or "")


@pytest.mark.parametrize("name", sorted(PUBLIC.keys() - HANDED_OUT - SETTINGS_AND_ERRORS))
def test_what_a_user_makes_has_all_sections_in_order(name: str) -> None:
    assert sections(PUBLIC[name]) == ORDER


@pytest.mark.parametrize("tool", TOOLS, ids=[tool.__name__ for tool in TOOLS])
def test_tools_have_the_sections_in_order(tool: type) -> None:
    """`Setup` is that of the toolkit, which makes them."""
    assert [name for name in sections(tool) if name != "Setup"] == ORDER[1:]


@pytest.mark.parametrize("thing", [*PUBLIC.values(), *TOOLS], ids=lambda thing: thing.__name__)
def test_a_docstring_opens_with_its_purpose(thing: type) -> None:
    """One line, and whole sentences: it is what an editor shows."""
    first = doc(thing).split("\n\n")[0]
    assert re.match(r"[A-Z`]", first)
    assert first.endswith(".")
    assert "." in first.split("\n")[0]
