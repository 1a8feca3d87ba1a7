"""The demo says it worked only if it did: each thing that can be missing is named."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest

from chatixia_langchain.cli.demo_judge import judge, rows_of
from chatixia_langchain.cli.demo_members import DemoFailed
from chatixia_langchain.cli.demo_script import PROMPTS, QUESTION, rule
from chatixia_langchain.cli.demo_view import View

Seen = dict[str, list[dict[str, Any]]]


def tool(name: str, path: str = "channel", *, failed: bool = False) -> dict[str, Any]:
    return {"event": "tool", "name": name, "text": "t", "failed": failed, "artifact": {"path": path, "latency_ms": 1.5}}


def said(text: str, *calls: str) -> dict[str, Any]:
    return {"event": "said", "text": text, "calls": [{"name": c, "args": {}} for c in calls]}


HEARD = {"event": "turn", "kind": "began", "broadcast": True}
GOOD: Seen = {
    "planner": [said("", "ask_researcher"), tool("ask_researcher"), tool("mesh_broadcast"), said("1.28 s")],
    "researcher": [tool("ask_librarian"), said("1.28 s"), HEARD],
    "librarian": [said("384,400 km"), HEARD],
}
JOINED = {name: {"event": "joined", "transport": "sidecar", "why": "found"} for name in GOOD}
ROWS = [{"dtls": "DTLS 1.2"}, {"dtls": "-"}]


def test_all_there() -> None:
    result = judge(GOOD, JOINED, ROWS)
    assert (result["ok"], result["answer"], result["transport"], result["note"]) == (
        True, "1.28 s", "sidecar", " (DTLS 1.2)",
    )  # fmt: skip
    assert result["latency_ms"] == {"ask_researcher": 1.5, "ask_librarian": 1.5}


def test_aiortc_is_told_with_the_reason() -> None:
    joined = {name: {"transport": "aiortc", "why": "no sidecar binary was found"} for name in GOOD}
    assert judge(GOOD, joined, [])["note"] == " (no sidecar binary was found)"


def _no_answer(seen: Seen) -> None:
    seen["planner"].pop()


def _no_nested(seen: Seen) -> None:
    seen["researcher"].pop(0)


def _no_broadcast(seen: Seen) -> None:
    seen["planner"].pop(2)


def _deaf(seen: Seen) -> None:
    seen["librarian"].pop()


def _mailbox(seen: Seen) -> None:
    seen["researcher"][0]["artifact"]["path"] = "mailbox"


def _failed(seen: Seen) -> None:
    seen["planner"][1] |= {"failed": True, "artifact": None, "text": "[timeout] late"}


@pytest.mark.parametrize(
    ("spoil", "missing"),
    [
        (_no_answer, "the planner's model gave no answer"),
        (_no_nested, "the researcher's model did not call ask_librarian"),
        (_no_broadcast, "the planner's model did not call mesh_broadcast"),
        (_deaf, "the broadcast did not reach librarian"),
        (_mailbox, "the answer to the researcher's ask_librarian came by the mailbox, not over a data channel"),
        (_failed, r"the planner's ask_researcher failed: \[timeout\] late"),
    ],
)
def test_what_is_missing_is_named(spoil: Callable[[Seen], None], missing: str) -> None:
    seen = copy.deepcopy(GOOD)
    spoil(seen)
    with pytest.raises(DemoFailed, match=missing):
        judge(seen, JOINED, ROWS)


def test_a_transport_that_is_no_webrtc_is_not_enough() -> None:
    joined = JOINED | {"librarian": {"transport": "mailbox", "why": "asked for"}}
    with pytest.raises(DemoFailed, match="librarian used mailbox"):
        judge(GOOD, joined, ROWS)


def test_links_of_both_transports_make_rows() -> None:
    both = {
        "b": {"state": "open", "path": {"local": "host", "remote": "srflx", "protocol": "udp"}, "rtt_ms": 0.456,
              "dtls": "DTLS 1.2"},
        "c": {"state": "connecting", "path": "", "rtt_ms": None},
    }  # fmt: skip
    first, second = rows_of("a", {"links": both, "transport": "sidecar"})
    assert (first["link"], first["path"], first["rtt_ms"], first["dtls"]) == ("a > b", "host/srflx", "0.46", "DTLS 1.2")
    assert (second["path"], second["rtt_ms"], second["dtls"]) == ("-", "-", "-")


def test_the_script_plays_each_part_to_its_end() -> None:
    """Each agent's script by itself: it calls its tool, then answers, and a broadcast never starts a new question."""
    system = {name: {"role": "system", "content": prompt} for name, prompt in PROMPTS.items()}
    asked = rule({"messages": [system["planner"], {"role": "user", "content": QUESTION}]})
    assert asked["tool_calls"][0]["function"]["name"] == "ask_researcher"
    broadcast = {"role": "user", "content": 'A broadcast from the agent "planner" follows.'}
    for name in ("researcher", "librarian"):
        assert rule({"messages": [system[name], broadcast]})["content"] == "Noted."
    fact = rule({"messages": [system["librarian"], {"role": "user", "content": "How far is the Moon?"}]})["content"]
    result = rule({"messages": [system["researcher"], {"role": "tool", "content": fact}]})["content"]
    assert "1.28 s" in result
    assert (
        "could not" in rule({"messages": [system["researcher"], {"role": "tool", "content": "[timeout]"}]})["content"]
    )


def test_no_colours_into_a_file_and_one_line_per_line() -> None:
    out = io.StringIO()
    View(out).line("planner", "two\nlines \x1b[31m")
    assert out.getvalue().count("\n") == 1
    assert "\x1b" not in out.getvalue(), "what a model says does not steer the terminal"
