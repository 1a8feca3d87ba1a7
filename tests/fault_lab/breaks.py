"""Each guarantee switched off, to see the oracle fail: `member --break NAME`."""

from __future__ import annotations

from collections import deque
from typing import Any

from chatixia_langchain.delivery.inbox import SeenIds
from chatixia_langchain.delivery.outbox import QUEUED, Entry, Outbox
from chatixia_langchain.delivery.pending import Pending, Waiting


def duplicates() -> None:
    """A repeated message is taken for a new one."""
    SeenIds.__contains__ = lambda self, id_: False  # type: ignore[method-assign]


def resend() -> None:
    """What was handed to a transport counts as delivered."""
    handed = Outbox.sent

    def sent(self: Outbox, entry: Entry, now: float, path: str) -> None:
        handed(self, entry, now, path)
        if self.ack(entry.id) is not None and hasattr(entry.owner, "settle"):
            entry.owner.settle("delivered", path=path)

    Outbox.sent = sent  # type: ignore[method-assign]


def order() -> None:
    """What goes again after a break goes the other way round."""

    def rebuild(self: Outbox) -> None:
        self._queue = deque(reversed([e for e in self.entries.values() if e.state == QUEUED]))

    Outbox._rebuild = rebuild  # type: ignore[method-assign]


def peer() -> None:
    """A reply counts from whomever it comes."""
    check = Pending.match

    def match(self: Pending, peer: str, id: str) -> Waiting | None:
        waiting: Any = self._waiting.get(id)
        return check(self, waiting.peer if waiting else peer, id)

    Pending.match = match  # type: ignore[method-assign]


BREAKS = {"duplicates": duplicates, "resend": resend, "order": order, "peer": peer}
