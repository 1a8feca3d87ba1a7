"""What the documents show exists: names, files, links, commands."""

from __future__ import annotations

import ast
import re
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
    named = re.findall(
        r"`((?:chatixia_langchain|sidecar-rs|protocol|tests|examples|bench|docs)/[\w./*-]*)`", page.read_text()
    )
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
