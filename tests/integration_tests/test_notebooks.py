"""The notebooks run, from their first cell to their last, and give what is committed beside their cells.

Where an output differs from run to run (times, pictures) the cell has the tag `varies`, and only the kind is compared.
`REFRESH_NOTEBOOKS=1 pytest tests/integration_tests/test_notebooks.py` writes the outputs anew.
"""

from __future__ import annotations

import base64
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from chatixia_langchain.testing import OpenAIServer
from tests.support import sidecar_binary

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("langchain")

FOLDER = Path(__file__).parents[2] / "notebooks"
BOOKS = sorted(FOLDER.glob("*.ipynb"))
HIDDEN = ("CHATIXIA_", "OPENAI_", "SIDECAR_BINARY", "MPLBACKEND")
MAX_PICTURE_BYTES = 100_000
KEPT = {"output_type", "name", "text", "data"}  # of an output: no counts, no metadata

pytestmark = [
    pytest.mark.sidecar,
    pytest.mark.timeout(300),
    # jupyter's own: it looks for its old folders, and closes its sockets when they are collected
    pytest.mark.filterwarnings("ignore::DeprecationWarning:jupyter.*", "ignore::ResourceWarning"),
]


def executed(path: Path, binary: str, **more: str) -> Any:
    """The notebook after a run in a kernel of its own; a cell that raises is a failure that shows the cell."""
    book = nbformat.read(path, as_version=4)
    env = {k: v for k, v in os.environ.items() if not k.startswith(HIDDEN)} | {"SIDECAR_BINARY": binary}
    client = nbclient.NotebookClient(book, timeout=120, kernel_name="python3", record_timing=False)
    client.execute(env=env | {"PYTHONWARNINGS": "default"} | more)
    book.metadata["language_info"] = {"name": "python"}  # else the version of this interpreter
    return book


def outputs(cell: Any) -> list[dict[str, Any]]:
    """What a cell printed and showed, neighbouring pieces of one stream as one."""
    joined: list[dict[str, Any]] = []
    for output in cell.outputs:
        kept = {k: v for k, v in output.items() if k in KEPT}
        if joined and output.output_type == "stream" and joined[-1].get("name") == output.get("name"):
            joined[-1]["text"] += kept["text"]
        else:
            joined.append(kept)
    return joined


def kinds(shown: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """The kinds of outputs, without what differs."""
    return [(o["output_type"], sorted(o.get("data", {}))) for o in shown]


@pytest.mark.parametrize("path", BOOKS, ids=[path.stem for path in BOOKS])
def test_a_notebook_gives_its_committed_outputs(path: Path) -> None:
    before, now = nbformat.read(path, as_version=4), executed(path, sidecar_binary())
    if os.environ.get("REFRESH_NOTEBOOKS"):
        for cell in now.cells:
            if cell.cell_type == "code":
                cell.outputs = [nbformat.from_dict(o | metadata(o)) for o in outputs(cell)]
        nbformat.write(now, path)
        return
    compared = 0
    for old, new in zip(before.cells, now.cells, strict=True):
        if old.cell_type != "code":
            continue
        if "varies" in old.metadata.get("tags", ()):
            assert kinds(outputs(old)) == kinds(outputs(new)), old.source
        else:
            assert outputs(old) == outputs(new), old.source
            compared += bool(outputs(new))
    assert compared > 3


def asks_once(body: dict[str, Any]) -> dict[str, Any]:
    """A model for any notebook: asks one agent, and tells what it said."""
    last = body["messages"][-1]
    names = [tool["function"]["name"] for tool in body.get("tools", ())]
    if last["role"] == "tool" or not names:
        return {"role": "assistant", "content": f"the model says: {last['content']}"}
    name = "mesh_ask" if "mesh_ask" in names else names[0]
    call = {"name": name, "arguments": json.dumps({"peer": "critic", "message": "gulls?"})}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": call}]}


@pytest.mark.parametrize("path", BOOKS[:2], ids=[path.stem for path in BOOKS[:2]])
def test_a_notebook_runs_on_a_model(path: Path) -> None:
    """With a key a real model takes the place of the script: here one that is chosen by OPENAI_BASE_URL."""
    pytest.importorskip("langchain_openai")
    with OpenAIServer(asks_once) as server:
        settings = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": server.url, "NO_PROXY": "127.0.0.1"}
        book = executed(path, sidecar_binary(), **settings)
        said = "".join(o["text"] for cell in book.cells if cell.cell_type == "code" for o in outputs(cell))
        assert "the model says: the model says: " in said
        assert len(server.requests) > 2


def metadata(output: dict[str, Any]) -> dict[str, Any]:
    """The fields that the format demands beside what we keep."""
    return {"metadata": {}} if output["output_type"] in ("display_data", "execute_result") else {}


def test_there_are_three() -> None:
    assert [path.name for path in BOOKS] == ["01_first_mesh.ipynb", "02_research_team.ipynb", "03_watching.ipynb"]


@pytest.mark.parametrize("path", BOOKS, ids=[path.stem for path in BOOKS])
def test_a_notebook_is_small_and_of_no_machine(path: Path) -> None:
    """No paths, no times of execution, no version of an interpreter; pictures that a page can carry."""
    text = path.read_text()
    assert not re.search(r"/(home|root|tmp|work|Users)/|iopub|\.\d+Z\"", text)
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    assert book.metadata.language_info == {"name": "python"}
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    pictures = [o.data["image/png"] for c in code for o in c.outputs if "image/png" in o.get("data", {})]
    assert all(1_000 < len(base64.b64decode(picture)) < MAX_PICTURE_BYTES for picture in pictures)
    assert bool(pictures) == (path.stem == "03_watching")
    assert any(c.outputs for c in code)
