"""A module imports only from lower layers, or its own folder. Without this the transports soon know the agent."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "chatixia_langchain"

LAYER = {
    "errors": 0,
    "protocol": 1,
    "identity": 1,
    "config": 2,
    "delivery": 2,
    "trust": 2,
    "transport": 3,
    "mesh": 4,
    "agent": 5,
    "registry": 5,
    "tools": 6,
    "testing": 7,
    "cli": 8,
    "": 9,  # chatixia_langchain/__init__.py
    "__main__": 9,
}
# The version is all that may be taken from the top.
FROM_THE_TOP = {"__version__"}
ONLY_WITH_LANGCHAIN = {"agent", "tools", "testing"}

Import = tuple[str, str, frozenset[str]]  # file, dotted target, names taken


def part_of(dotted: str) -> str:
    """The folder or top module that a dotted name belongs to, "" for the package itself."""
    return dotted.split(".")[1] if "." in dotted else ""


def module_of(path: Path) -> str:
    """The dotted name of a file."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[Import]:
    """Every import of a file, those inside functions too; relative ones resolved."""
    module, here = module_of(path), str(path.relative_to(PACKAGE.parent))
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((here, alias.name, frozenset()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = frozenset(alias.name for alias in node.names)
            if not node.level:
                yield here, node.module or "", names
                continue
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            target = ".".join([*base, *([node.module] if node.module else [])])
            if node.module:
                yield here, target, names
            else:  # `from . import a, b`: modules of the folder, or names of the package
                yield from ((here, f"{target}.{name}" if name not in FROM_THE_TOP else target, names) for name in names)


ALL = [found for path in sorted(PACKAGE.rglob("*.py")) for found in imports_of(path)]
OURS = [found for found in ALL if found[1].split(".")[0] == "chatixia_langchain"]


def test_the_reader_of_imports_sees_the_relative_ones() -> None:
    """An empty list would make every other claim here true."""
    assert len(OURS) > 50
    assert ("chatixia_langchain/cli/main.py", "chatixia_langchain.errors", frozenset({"MeshError"})) in OURS
    assert ("chatixia_langchain/cli/main.py", "chatixia_langchain", frozenset({"__version__"})) in OURS


def test_every_part_has_a_layer() -> None:
    parts = {part_of(module_of(path)) for path in PACKAGE.rglob("*.py")}
    assert parts == set(LAYER), f"in only one of table and tree: {sorted(parts ^ set(LAYER))}"


def test_imports_point_downward() -> None:
    wrong = []
    for here, target, names in OURS:
        mine, theirs = part_of(here.removesuffix(".py").replace("/", ".").removesuffix(".__init__")), part_of(target)
        if mine == theirs or names <= FROM_THE_TOP or mine == "":
            continue
        if LAYER[theirs] >= LAYER[mine]:
            wrong.append(f"{here} (layer {LAYER[mine]}) imports {target} (layer {LAYER[theirs]})")
    assert not wrong, "\n".join(wrong)


def test_registry_and_agent_side_never_meet() -> None:
    """The registry must run without an agent installed beside it, and an agent must not carry a registry's code."""
    allowed = {"", "errors", "protocol", "config", "registry"}
    registry = [(h, t) for h, t, _ in OURS if "/registry/" in h and part_of(t) not in allowed]
    agents = [
        (h, t) for h, t, _ in OURS if part_of(t) == "registry" and not any(f"/{p}" in h for p in ("registry/", "cli/"))
    ]
    # LocalMesh and the test fixtures start a whole registry; they do so as a process, not by import.
    assert not registry, registry
    assert not agents, agents


def test_langchain_only_where_it_is_seen() -> None:
    wrong = [
        (here, target)
        for here, target, _ in ALL
        if target.split(".")[0] in {"langchain_core", "langchain", "langgraph", "langchain_openai"}
        and here.split("/")[1].removesuffix(".py") not in ONLY_WITH_LANGCHAIN
    ]
    assert not wrong, wrong
