"""How the demo shows itself: the conversation line by line, the links as a table.

Colours on a terminal only; NO_COLOR is obeyed.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any, TextIO

_COLOURS = {"planner": "36", "researcher": "33", "librarian": "35", "registry": "90", "": "90"}


class View:
    """Prints with the time since the start in front of each line."""

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self._out, self._started = out, time.monotonic()
        self.doing = "starting"
        self._colour = out.isatty() and "NO_COLOR" not in os.environ

    def step(self, text: str) -> None:
        """Print what the demo does now, and keep it for the case that it never ends."""
        self.doing = text
        self.line("", text)

    def line(self, who: str, text: str) -> None:
        """Print one line of `who`."""
        label = f"{who:>10}"
        if self._colour:
            label = f"\033[{_COLOURS.get(who, '0')}m{label}\033[0m"
        flat = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))  # models must not steer terminals
        print(f"{time.monotonic() - self._started:6.2f}s {label}  {flat}", file=self._out, flush=True)

    def event(self, who: str, event: dict[str, Any]) -> None:
        """Print what a member told, if it is for people."""
        match event["event"]:
            case "loaded":
                self.line(who, "is loaded")
            case "joined":
                self.line(who, f"joined by {event['transport']} ({event['why']})")
            case "turn" if event["kind"] == "began":
                verb = "hears" if event["broadcast"] else "is asked by"
                self.line(who, f"{verb} {event['peer']}: {event['asked']}")
            case "turn" if not event["broadcast"]:
                self.line(who, f"answers {event['peer']}: {event['answer']}")
            case "said" if event["calls"]:
                for call in event["calls"]:
                    self.line(who, f"calls {call['name']}({call['args'].get('message', call['args'])!r})")
            case "said" if who == "planner":  # the others say it to a peer: see above
                self.line(who, f"says: {event['text']}")
            case "tool":
                ms = (event["artifact"] or {}).get("latency_ms")
                took = f" in {ms:.0f} ms" if ms is not None else ""
                self.line(who, f"got from {event['name']}{took}: {event['text']}")
            case "failed":
                self.line(who, f"FAILED: {event['why']}")

    def links(self, rows: list[dict[str, str]]) -> None:
        """Print the links."""
        keys = ("link", "state", "path", "dtls", "rtt_ms", "transport")
        table = [dict(zip(keys, keys, strict=True)), *rows]
        widths = {k: max(len(r[k]) for r in table) for k in keys}
        print(file=self._out)
        for row in table:
            print("  " + "  ".join(row[k].ljust(widths[k]) for k in keys).rstrip(), file=self._out, flush=True)
        print(file=self._out)
