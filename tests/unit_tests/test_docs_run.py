"""Every Python block of the guide and of the README is run, as a reader would run it, and prints what the page shows.

- a section (`## `) is one namespace; its blocks run in order, with `await` at the top level
- a ```text block after a Python block is what that block prints; `...` in it stands for anything
- `<!-- prelude ... -->` is code a reader has already: a model, a peer that answers. Before the first section: for all
- `<!-- elsewhere -->`: the next block is another process. It has names of its own and runs until the section ends
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import contextlib
import doctest
import inspect
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain")
pytest.importorskip("openai")
pytest.importorskip("opentelemetry.sdk")

from opentelemetry import trace
from opentelemetry.util._once import Once

from chatixia_langchain import LocalMesh, Mesh, MeshAgent
from chatixia_langchain.testing import OpenAIServer

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs/langchain.md"
PIECES = re.compile(
    r"^<!-- prelude\n(?P<prelude>.*?)^-->$"
    r"|^(?P<elsewhere><!-- elsewhere -->)$"
    r"|^```python\n(?P<python>.*?)^```$"
    r"|^```text\n(?P<text>.*?)^```$"
    r"|^## (?P<heading>.*?)$",
    re.MULTILINE | re.DOTALL,
)


@dataclass
class Block:
    """Code of a page, at its line, and what the page says it prints (None: nothing is said)."""

    code: str
    line: int
    elsewhere: bool = False
    prints: str | None = None


@dataclass
class Section:
    """One `## ` of a page."""

    title: str
    prelude: list[Block] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)


def sections_of(page: str) -> tuple[list[Block], list[Section]]:
    """The prelude of the whole page, and its sections."""
    sections = [Section("")]
    elsewhere = False
    for piece in PIECES.finditer(page):
        kind, here = piece.lastgroup, sections[-1]
        line = page.count("\n", 0, piece.start()) + 2
        if kind == "heading":
            sections.append(Section(piece["heading"]))
        elif kind == "elsewhere":
            elsewhere = True
        elif kind == "prelude":
            here.prelude.append(Block(piece["prelude"], line))
        elif kind == "python":
            here.blocks.append(Block(piece["python"], line, elsewhere))
            elsewhere = False
        elif here.blocks and here.blocks[-1].prints is None:
            here.blocks[-1].prints = piece["text"]
    return sections[0].prelude, sections[1:]


async def run(block: Block, page: Path, names: dict[str, Any]) -> None:
    """Run one block; an error names the page and its line."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = compile("\n" * (block.line - 1) + block.code, str(page), "exec", flags, dont_inherit=True)
    done = eval(code, names)
    if inspect.isawaitable(done):
        await done


class Reader:
    """Someone who reads one section and types it in. `serve` is what a prelude uses to have peers that answer."""

    def __init__(self, page: Path, server: OpenAIServer) -> None:
        self._page, self._meshes, self._tasks = page, [], list[asyncio.Task[None]]()
        self.names: dict[str, Any] = {"__name__": "__main__", "serve": self.serve, "server": server}

    async def serve(self, name: str, agent: Any, *, policy: Any = None, **card: Any) -> Mesh:
        """A peer somewhere else: `agent` as MeshAgent takes it."""
        mesh = await Mesh(name, **card).start()
        self._meshes.append(mesh)
        self._tasks.append(asyncio.create_task(MeshAgent(mesh, agent, policy=policy).serve(), name=f"peer {name}"))
        return mesh

    async def read(self, block: Block) -> None:
        """Run a block and compare what it prints."""
        if block.elsewhere:
            self._tasks.append(asyncio.create_task(run(block, self._page, dict(self.names)), name="elsewhere"))
            await asyncio.sleep(0.05)
            return
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            await run(block, self._page, self.names)
        where = f"{self._page.name}:{block.line}"
        assert matches(block.prints or "", said.getvalue()), (
            f"{where} prints\n{said.getvalue()}instead of\n{block.prints}"
        )

    async def close(self) -> None:
        """End what the section started; a peer or a process elsewhere that failed is a failure of the section."""
        opened = [thing for thing in self.names.values() if isinstance(thing, Mesh | LocalMesh)]
        for task in self._tasks:
            task.cancel()
        ends = await asyncio.gather(*self._tasks, return_exceptions=True)
        for mesh in [*opened, *self._meshes]:
            await mesh.aclose()
        for end in ends:
            if isinstance(end, Exception):
                raise end


def matches(want: str, got: str) -> bool:
    """True when a page's output is the real one, `...` aside."""
    return doctest.OutputChecker().check_output(want.rstrip(), got.rstrip(), doctest.ELLIPSIS)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    """What a reader has: an OpenAI key (here of a local server), and peers (here in this process)."""
    with OpenAIServer() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "offline")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("CHATIXIA_TRANSPORT", "memory")
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)  # a process sets its provider once: back afterwards
        monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
        yield server


PRELUDE, SECTIONS = sections_of(GUIDE.read_text())


async def read(blocks: list[Block], page: Path, server: OpenAIServer) -> None:
    """Read one section from its beginning to its end."""
    reader = Reader(page, server)
    try:
        for block in blocks:
            await reader.read(block)
    finally:
        await reader.close()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("section", [pytest.param(s, id=s.title) for s in SECTIONS if s.blocks])
async def test_the_guide_runs_as_written(section: Section, server: OpenAIServer) -> None:
    await read([*PRELUDE, *section.prelude, *section.blocks], GUIDE, server)


def test_every_python_block_belongs_to_a_section_that_is_run() -> None:
    """A block before the first heading, or one that the pattern misses, would not be run."""
    fences = len(re.findall(r"^\s*```\s*python", GUIDE.read_text(), re.MULTILINE))
    assert sum(len(section.blocks) for section in SECTIONS) == fences > 30


GIVEN = {"model", "key", "librarian"}  # what the text says that a reader has


@pytest.mark.parametrize("section", [pytest.param(s, id=s.title) for s in SECTIONS if s.blocks])
def test_a_section_brings_the_names_that_it_uses(section: Section) -> None:
    """A reader has no prelude: what a block uses is imported or made in this section, where it can be seen."""
    used, made = set(), set(dir(builtins))
    for block in section.blocks:
        for node in ast.walk(compile(block.code, "block", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)):
            if isinstance(node, ast.Name):
                (used if isinstance(node.ctx, ast.Load) else made).add(node.id)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                made |= {alias.asname or alias.name for alias in node.names}
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.arg | ast.ExceptHandler):
                made.add(node.arg if isinstance(node, ast.arg) else node.name or "")
    assert used - made <= GIVEN


async def test_the_first_use_in_the_readme_runs_as_written(server: OpenAIServer) -> None:
    """The block serves until it is cancelled: meanwhile a peer asks the planner, whose model asks the researcher."""
    from chatixia_langchain.testing import ScriptedChat, ask_then_answer

    page = ROOT / "README.md"
    _, sections = sections_of(page.read_text())
    (first,) = [section.blocks[0] for section in sections if section.title == "Use"]
    reader = Reader(page, server)
    rule = ask_then_answer("ask_researcher", lambda q: {"message": "light?"}, lambda found: f"planner: {found}")
    reader.names |= {"key": "k", "model": ScriptedChat(rule=rule)}
    try:
        await reader.serve("researcher", ScriptedChat(rule=lambda messages, tools: "1.28 s"))
        asker = await reader.serve("asker", ScriptedChat(rule=lambda messages, tools: ""))
        await reader.read(Block(first.code, first.line, elsewhere=True))
        await asker.wait_for_peer("planner")
        assert (await asker.ask("planner", "how far is the Moon?")).content == "planner: 1.28 s"
    finally:
        await reader.close()


@pytest.mark.parametrize(
    ("page", "error"),
    [
        pytest.param("## A\n```python\nprint(1)\n```\n\n```text\n2\n```\n", AssertionError, id="another output"),
        pytest.param("## A\n```python\nprint(1)\n```\n", AssertionError, id="output that is not shown"),
        pytest.param("## A\n```python\n1 / 0\n```\n", ZeroDivisionError, id="an error"),
        pytest.param("## A\n<!-- elsewhere -->\n```python\n1 / 0\n```\n", ZeroDivisionError, id="an error elsewhere"),
        pytest.param("## A\n```python\nx = 1\n```\n## B\n```python\nx\n```\n", NameError, id="a name of A in B"),
    ],
)
async def test_a_page_that_is_wrong_is_found(page: str, error: type[Exception], server: OpenAIServer) -> None:
    *right, wrong = sections_of(page)[1]
    for section in right:
        await read(section.blocks, GUIDE, server)
    with pytest.raises(error):
        await read(wrong.blocks, GUIDE, server)
