"""The examples do what they say, as a reader runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .mesh.conftest import sidecar_binary

EXAMPLES = Path(__file__).parents[2] / "examples"
SHORT = ("two_agents.py", "sync_script.py")


def run(name: str, **env: str) -> str:
    """What an example prints; it must end well and say nothing on stderr."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


@pytest.mark.sidecar
def test_two_agents_over_sidecars() -> None:
    pytest.importorskip("langchain")
    said = run("two_agents.py", SIDECAR_BINARY=sidecar_binary())
    assert said.startswith("The researcher found: Light needs 1.28 s from the Moon.\n")
    assert re.search(r"^by sidecar, over the channel, in [\d.]+ ms$", said, re.MULTILINE)


def test_two_agents_over_aiortc() -> None:
    pytest.importorskip("langchain")
    pytest.importorskip("aiortc")
    assert "by aiortc, over the channel" in run("two_agents.py", CHATIXIA_TRANSPORT="aiortc")


def test_a_script_without_async() -> None:
    listed, answer, error = run("sync_script.py").splitlines()
    assert re.match(r"- librarian \((online|connected)\)", listed)
    assert answer == "The book about gulls is on shelf 5."
    assert error.startswith("[peer_unreachable] cannot reach 'nobody'")


@pytest.mark.parametrize("name", SHORT)
def test_examples_stay_short(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) < 80
