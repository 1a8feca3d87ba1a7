"""Judges a run by what its members wrote down: what was accepted, delivered, handled. Pure: events in, a verdict out.

An event is one JSON object of a member's log: `t` (the machine's monotonic seconds), `me`, `event`, `id` and

- `accepted` {to, conv, seq, body}: `send()` or `ask()` took it; `seq` counts per (sender, receiver, conversation)
- `settled` {to, state, path, reason}: the final word on a message
- `handled` {peer, conv, body, path}: the receiver's inbox gave it to its agent
- `replied` {to, body} by the asked, `answered` {to, body} or `failed` {to, reason} at the asker
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Event = Mapping[str, Any]
SHOWN = 5  # of each kind of wrong


@dataclass
class Verdict:
    """Figures of one run. `good` is the promise: nothing lost, doubled, forged or out of order."""

    accepted: int = 0
    delivered: int = 0
    undeliverable: int = 0
    lost: int = 0
    doubled: int = 0
    forged: int = 0
    disorder: int = 0
    recovery_s: float = 0.0
    by_mailbox: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """True when the promise held."""
        return not (self.lost or self.doubled or self.forged or self.disorder)

    def line(self) -> str:
        """The figures on one line."""
        names = ("accepted", "delivered", "undeliverable", "lost", "doubled", "forged", "disorder")
        return " ".join(f"{name} {getattr(self, name)}" for name in names) + f" recovery {self.recovery_s:.1f} s"


def read(folder: Path) -> list[Event]:
    """The events of all members. A last line that is half written belongs to a member that was killed."""
    events: list[Event] = []
    for path in sorted(folder.glob("*.events")):
        lines = path.read_text().split("\n")
        events += [json.loads(line) for line in lines[:-1] if line]
    return sorted(events, key=lambda e: e["t"])


def judge(events: Iterable[Event], heals: Iterable[float] = ()) -> Verdict:
    """The verdict; `heals` are the moments from which on all should work again (`recovery_s` is the worst)."""
    run = _Run(list(events))
    verdict = Verdict()
    run.messages(verdict)
    run.strangers(verdict)
    run.order(verdict)
    run.answers(verdict)
    verdict.recovery_s = run.recovery(list(heals))
    return verdict


class _Run:
    def __init__(self, events: list[Event]) -> None:
        self.events = events
        self.accepted = {(e["me"], e["id"]): e for e in events if e["event"] == "accepted"}
        self.settled = {(e["me"], e["id"]): e for e in events if e["event"] in ("settled", "answered", "failed")}
        self.handled = [e for e in events if e["event"] == "handled"]
        self.times = Counter((e["peer"], e["id"]) for e in self.handled)

    def messages(self, verdict: Verdict) -> None:
        """Each accepted one was handled once, or its sender was told that it was not delivered."""
        for key, event in self.accepted.items():
            verdict.accepted += 1
            times = self.times[key]
            end = self.settled.get(key)
            told = end is not None and (end["event"] == "failed" or end.get("state") == "undeliverable")
            verdict.delivered += times > 0
            verdict.undeliverable += told
            verdict.by_mailbox += end is not None and end.get("path") == "mailbox"
            if times == 0 and not told:
                verdict.lost += 1
                _note(verdict, "lost", event, f"its sender was told: {end['event'] if end else 'nothing'}")
            elif end is None:
                verdict.lost += 1
                _note(verdict, "lost", event, "its sender was never told what became of it")
            if times > 1:
                verdict.doubled += times - 1
                _note(verdict, "doubled", event, f"handled {times} times")

    def strangers(self, verdict: Verdict) -> None:
        """Nothing was handled that its sender did not send, to this receiver, with these words."""
        for event in self.handled:
            sent = self.accepted.get((event["peer"], event["id"]))
            if sent is None or sent["to"] != event["me"] or sent["body"] != event["body"]:
                verdict.forged += 1
                _note(verdict, "forged", event, "handled, but never sent so")

    def order(self, verdict: Verdict) -> None:
        """Per (sender, receiver, conversation), messages that were handled keep the order they were accepted in."""
        last: dict[tuple[str, str, str], int] = {}
        seen: set[tuple[str, str]] = set()
        for event in self.handled:
            sent = self.accepted.get((event["peer"], event["id"]))
            if sent is None or (event["peer"], event["id"]) in seen:
                continue
            seen.add((event["peer"], event["id"]))
            way = (event["peer"], event["me"], event["conv"])
            if sent["seq"] < last.get(way, -1):
                verdict.disorder += 1
                _note(verdict, "out of order", event, f"number {sent['seq']} after {last[way]}")
            last[way] = max(sent["seq"], last.get(way, -1))

    def answers(self, verdict: Verdict) -> None:
        """An answer is what the one who was asked said."""
        replied = {(e["to"], e["id"]): (e["me"], e["body"]) for e in self.events if e["event"] == "replied"}
        for event in self.events:
            if event["event"] != "answered":
                continue
            if replied.get((event["me"], event["id"])) != (event["to"], event["body"]):
                verdict.forged += 1
                _note(verdict, "forged", event, "an answer that the asked did not give")

    def recovery(self, heals: list[float]) -> float:
        """From each heal to the first message that was accepted before or after it and handled after it."""
        worst = 0.0
        for at in heals:
            later = [e["t"] for e in self.handled if e["t"] >= at]
            if later:
                worst = max(worst, min(later) - at)
        return worst


def _note(verdict: Verdict, what: str, event: Event, why: str) -> None:
    if sum(note.startswith(what) for note in verdict.notes) < SHOWN:
        verdict.notes.append(f"{what}: {event['me']} {event['id']}: {why}")
