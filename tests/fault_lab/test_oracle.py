"""The oracle can fail: each kind of wrong, written by hand, is seen."""

from __future__ import annotations

from typing import Any

import pytest

from .oracle import judge


def _run(*handled: str, state: str = "delivered", body: str = "") -> list[dict[str, Any]]:
    sent = [
        {"t": n, "me": "a", "event": "accepted", "id": i, "to": "b", "conv": "c", "seq": n, "body": i}
        for n, i in enumerate("12")
    ]
    ends = [{"t": 9, "me": "a", "event": "settled", "id": i, "to": "b", "state": state} for i in "12"]
    got = [
        {"t": 5 + n, "me": "b", "event": "handled", "id": i, "peer": "a", "conv": "c", "body": body or i}
        for n, i in enumerate(handled)
    ]
    return [*sent, *got, *ends]


def test_a_good_run_is_good() -> None:
    verdict = judge(_run("1", "2"), [4.5])
    assert verdict.good
    assert (verdict.accepted, verdict.delivered, verdict.recovery_s) == (2, 2, 0.5)


@pytest.mark.parametrize(
    ("events", "wrong"),
    [
        (_run("1"), "lost"),
        (_run("1", "2", "2"), "doubled"),
        (_run("2", "1"), "disorder"),
        (_run("1", "2", body="other words"), "forged"),
        (_run("1", "2", "3"), "forged"),
        (_run("1", "2")[:-1], "lost"),
    ],
)
def test_a_wrong_is_seen(events: list[dict[str, Any]], wrong: str) -> None:
    verdict = judge(events)
    assert not verdict.good
    assert getattr(verdict, wrong) >= 1
    assert any(note for note in verdict.notes)


def test_told_undeliverable_is_not_lost() -> None:
    verdict = judge(_run(state="undeliverable"))
    assert verdict.good
    assert verdict.undeliverable == 2
