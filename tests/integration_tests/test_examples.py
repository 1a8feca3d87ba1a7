"""The examples do what they say, as a reader runs them: offline by their scripts, and on a model by OPENAI_BASE_URL."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chatixia_langchain.testing import OpenAIServer
from tests.support import sidecar_binary

pytest.importorskip("langchain")

EXAMPLES = Path(__file__).parents[2] / "examples"
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(("CHATIXIA_", "OPENAI_", "SIDECAR_BINARY"))}

# Members that close at the same time wait a second for each other's last acknowledgements; a busy machine needs longer.
LATE = re.compile(r"closed with \d+ messages that were not acknowledged$")


def run(name: str, **env: str) -> str:
    """What an example prints; it must end well and say nothing on stderr."""
    done = subprocess.run(  # not at a terminal: nobody is asked, and `human_approval.py` says no
        [sys.executable, str(EXAMPLES / name)],
        env=CLEAN | {"NO_PROXY": "127.0.0.1"} | env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if not LATE.search(line)]
    assert (done.returncode, said) == (0, []), done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def sidecar() -> dict[str, str]:
    """The environment in which the examples find a sidecar."""
    return {"SIDECAR_BINARY": sidecar_binary()}


@pytest.mark.sidecar
def test_two_agents_over_sidecars(sidecar: dict[str, str]) -> None:
    said = run("two_agents.py", **sidecar)
    assert said.startswith("The researcher found: Light needs 1.28 s from the Moon.\n")
    assert re.search(r"^by sidecar, over the channel, in [\d.]+ ms$", said, re.MULTILINE)


def test_two_agents_over_aiortc() -> None:
    pytest.importorskip("aiortc")
    assert "by aiortc, over the channel" in run("two_agents.py", CHATIXIA_TRANSPORT="aiortc")


@pytest.mark.sidecar
def test_two_processes(sidecar: dict[str, str]) -> None:
    said = run("two_processes.py", **sidecar)
    numbers = dict(re.findall(r"^the (\w+) is process (\d+)$", said, re.MULTILINE))
    assert len(set(numbers.values())) == len({"planner", "researcher"} & set(numbers)) == 2
    assert said.endswith("\nThe researcher found: Light needs 8 min 19 s from the Sun.\n")


@pytest.mark.sidecar
def test_planner_with_specialists(sidecar: dict[str, str]) -> None:
    assert run("planner_with_specialists.py", **sidecar).splitlines() == [
        "Your weekend:",
        "- The night train leaves at 20:14.",
        "- A room near the harbour costs 80.",
        "- Rain on Saturday, sun on Sunday.",
        "asked: hotels, trains, weather",
    ]


def test_loop_on_openai() -> None:
    assert run("loop_on_openai.py").splitlines() == ["[ask_librarian: shelf 5]", "The gulls are here: shelf 5"]


@pytest.mark.sidecar
def test_serve_a_graph(sidecar: dict[str, str]) -> None:
    text = "Gulls nest on roofs because roofs are safe."
    assert run("serve_a_graph.py", **sidecar).splitlines() == [
        f"birds: {text} (draft 1)",
        f"birds: {text} (draft 2)",
        f"towns: {text} (draft 1)",
        "the graph keeps 6 messages of the conversation about birds",
    ]


@pytest.mark.sidecar
def test_streaming(sidecar: dict[str, str]) -> None:
    """The words come in several pieces, in each of the three ways, and together they are the poem."""
    poem = "The gulls write slowly on the wind, and every word arrives in time."
    lines = dict(line.split(": ", 1) for line in run("streaming.py", **sidecar).splitlines() if ": " in line)
    for way in ("RemoteAgent", "poet", "ask_stream"):
        pieces = lines[way].split("|")
        assert "".join(pieces) == poem
        assert len(pieces) > 4
    assert lines["our model"].replace("|", "") == "The poet wrote it."


@pytest.mark.sidecar
def test_human_approval(sidecar: dict[str, str]) -> None:
    said = run("human_approval.py", **sidecar)
    assert said == "gardener asks: Cut the old oak?\nThe gardener says: Done. The old oak stays.\n"


@pytest.mark.sidecar
def test_vote(sidecar: dict[str, str]) -> None:
    assert run("vote.py", **sidecar).splitlines() == [
        "judge-1: yes",
        "judge-2: yes",
        "judge-3: no",
        "judge-4: cancelled",
        "spam? yes, by 2 votes",
    ]


def test_a_script_without_async() -> None:
    listed, answer, error = run("sync_script.py").splitlines()
    assert re.match(r"- librarian \((online|connected)\)", listed)
    assert answer == "The book about gulls is on shelf 5."
    assert error.startswith("[peer_unreachable] cannot reach 'nobody'")


def obedient(body: dict[str, Any]) -> dict[str, Any]:
    """A model for any example: calls each tool that it is offered once, with words that fit, then tells the results."""
    results = [m["content"] for m in body["messages"] if m["role"] == "tool"]
    if results or not body.get("tools"):
        return {"role": "assistant", "content": f"the model says: {' / '.join(results) or 'something'}"}
    made = []
    for n, offered in enumerate(body["tools"]):
        function = offered["function"]
        needed = function["parameters"].get("required", [])
        call = {"name": function["name"], "arguments": json.dumps(dict.fromkeys(needed, "gulls"))}
        made.append({"id": f"call-{n}", "type": "function", "function": call})
    return {"role": "assistant", "content": None, "tool_calls": made}


@pytest.fixture
def model() -> Iterator[OpenAIServer]:
    """A service that speaks the protocol of a real one."""
    with OpenAIServer(obedient) as server:
        yield server


ON_A_MODEL = {
    "two_agents.py": "the model says: the model says: something",
    "two_processes.py": "the model says: the model says: something",
    "planner_with_specialists.py": "the model says: " + " / ".join(["the model says: something"] * 3),
    "loop_on_openai.py": "the model says: shelf 5",
    "streaming.py": "|says: |",
    "human_approval.py": "gardener asks: Cut the gulls?",
    "serve_a_graph.py": "birds: The model says: something. (draft 2)",
}


@pytest.mark.sidecar
@pytest.mark.parametrize("name", ON_A_MODEL)
def test_on_a_model(name: str, model: OpenAIServer, sidecar: dict[str, str]) -> None:
    """With a key the same program runs on a real model: here on one that is chosen by OPENAI_BASE_URL."""
    pytest.importorskip("langchain_openai")
    env = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": model.url, "OPENAI_MODEL": "the-model"}
    said = run(name, **env, **sidecar)
    assert ON_A_MODEL[name] in said
    assert {body["model"] for body in model.requests} == {"the-model"}


PROGRAMS = sorted(path.name for path in EXAMPLES.glob("*.py") if path.name not in ("agent.py", "model.py"))


def test_every_example_is_run_here() -> None:
    """A program nobody runs is soon wrong. `agent.py` has tests of its own, `model.py` is part of the others."""
    source = Path(__file__).read_text()
    assert [name for name in PROGRAMS if f'run("{name}"' not in source] == []


@pytest.mark.parametrize("name", [*PROGRAMS, "model.py"])
def test_examples_stay_short_and_say_what_you_learn(name: str) -> None:
    lines = (EXAMPLES / name).read_text().splitlines()
    assert len(lines) < 80
    assert re.fullmatch(r'"""\S.{30,}', lines[0]), lines[0]
