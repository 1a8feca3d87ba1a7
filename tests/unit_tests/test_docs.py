"""What the documents show exists: names, files, links, commands."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

import chatixia_langchain
from chatixia_langchain.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "bench/README.md",
    ROOT / "protocol/README.md",
]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_python_blocks_are_python_and_import_what_exists(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        for node in ast.walk(compile(block, page.name, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)):
            if isinstance(node, ast.ImportFrom) and node.module == "chatixia_langchain":
                assert {alias.name for alias in node.names} <= set(chatixia_langchain.__all__)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_files_that_are_named_exist(page: Path) -> None:
    """Paths in back quotes; a trailing * is a pattern."""
    folders = "chatixia_langchain|sidecar-rs|protocol|tests|examples|notebooks|bench|docs"
    named = re.findall(rf"`((?:{folders})/[\w./*-]*)`", page.read_text())
    lost = [
        path for path in named if not list(ROOT.glob(path.rstrip("/") or path)) and not path.startswith("bench/out")
    ]
    assert not lost


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_that_are_shown_exist(page: Path) -> None:
    shown = set(re.findall(r"^(?:.*&& )?chatixia-langchain ([a-z]+)", page.read_text(), re.MULTILINE))
    assert shown <= set(COMMANDS)


def test_layer_table_of_the_architecture_is_the_tested_one() -> None:
    from .test_layers import LAYER

    rows = re.findall(r"^\| (\d) \| (.+?) \|", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)
    written = {name.strip("`/").removesuffix(".py"): int(n) for n, parts in rows for name in parts.split(", ")}
    written[""] = written.pop("__init__")
    assert written == LAYER


def test_modules_that_the_architecture_walks_through_exist() -> None:
    """A turn and a tool call are told module by module; one that was renamed must be renamed there."""
    text = (ROOT / "docs/architecture.md").read_text()
    for part in ("agent", "tools"):
        (walk,) = re.findall(rf"in `chatixia_langchain/{part}/`:\n(.*?)\n## ", text, re.DOTALL)
        named = set(re.findall(r"`([a-z_]+)`", walk)) - {"ask_researcher", "current_turn", "create_agent"}
        assert len(named) > 5
        assert not {name for name in named if not (ROOT / f"chatixia_langchain/{part}/{name}.py").is_file()}


def test_error_table_of_the_guide_is_that_of_the_protocol() -> None:
    errors = json.loads((ROOT / "protocol/errors.json").read_text())
    rows = re.findall(r"^\| `(\w+)` \| (yes|no) \|", (ROOT / "docs/langchain.md").read_text(), re.MULTILINE)
    assert len(rows) > 15
    assert {code: answer == "yes" for code, answer in rows} == {code: errors[code]["retryable"] for code, _ in rows}


def test_limits_of_the_guide_are_the_defaults() -> None:
    written = re.findall(r"^\| `(max_\w+)` \| ([\d ]+) \|", (ROOT / "docs/langchain.md").read_text(), re.MULTILINE)
    defaults = {f.name: f.default for f in fields(chatixia_langchain.InboundPolicy) if f.name.startswith("max_")}
    assert {name: float(number.replace(" ", "")) for name, number in written} == defaults


def test_tools_of_the_guide_are_those_of_the_toolkit() -> None:
    """Names, and arguments in their order."""
    rows = re.findall(
        r"^\| `(mesh_\w+)` \| (?!yes|no )(.*?) \|", (ROOT / "docs/langchain.md").read_text(), re.MULTILINE
    )
    written = {name: re.findall(r"`(\w+)`", arguments) for name, arguments in rows}
    tools = chatixia_langchain.MeshToolkit(chatixia_langchain.Mesh("me", transport="memory")).get_tools()
    assert written == {tool.name: list(tool.args) for tool in tools}


def test_every_example_and_notebook_is_in_the_guide() -> None:
    text = (ROOT / "docs/langchain.md").read_text()
    files = [*(ROOT / "examples").glob("*.py"), *(ROOT / "notebooks").glob("*.ipynb")]
    assert [f.name for f in files if f"{f.parent.name}/{f.name})" not in text] == ["model.py"]
