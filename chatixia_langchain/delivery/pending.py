"""Requests that wait for a reply.

A reply counts only from the peer that was asked, and only the first one. A late, repeated or forged reply is a
non-event: `match` returns None and nothing else happens.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import Any


class Waiting:
    """One request that was asked. `owner` is the caller's future; `acked` when the peer's agent has it in its inbox.

    `sink` takes the chunks of the answer; None when they were not asked for.
    """

    __slots__ = ("acked", "deadline", "id", "owner", "peer", "sink", "started")

    def __init__(self, id: str, peer: str, started: float, deadline: float, owner: Any, sink: Any = None) -> None:
        self.id, self.peer = id, peer
        self.started, self.deadline = started, deadline
        self.owner, self.sink = owner, sink
        self.acked = False


class Pending:
    """All waiting requests of one agent, by id."""

    __slots__ = ("_waiting", "forged", "late", "next_at")

    def __init__(self) -> None:
        self._waiting: dict[str, Waiting] = {}  # bounded by the callers: each one waits for its own request
        self.next_at = inf  # no later than the earliest deadline
        self.forged = 0
        self.late = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, id_: str) -> bool:
        return id_ in self._waiting

    def add(self, waiting: Waiting) -> None:
        """Wait for the reply. Raises ValueError when the id waits already."""
        if waiting.id in self._waiting:
            raise ValueError(f"message id {waiting.id!r} waits for a reply already")
        self._waiting[waiting.id] = waiting
        if waiting.deadline < self.next_at:
            self.next_at = waiting.deadline

    def match(self, peer: str, id: str) -> Waiting | None:
        """The request that a reply from `peer` ends, or None."""
        waiting = self._waiting.get(id)
        if waiting is None:
            self.late += 1
            return None
        if waiting.peer != peer:
            self.forged += 1
            return None
        del self._waiting[id]
        return waiting

    def sink(self, peer: str, id: str) -> Any:
        """What takes the chunks that `peer` sends for request `id`; None when nobody does."""
        waiting = self._waiting.get(id)
        if waiting is None or waiting.peer != peer:
            return None
        return waiting.sink

    def acked(self, peer: str, id: str) -> None:
        """The peer's agent has the request."""
        waiting = self._waiting.get(id)
        if waiting is not None and waiting.peer == peer:
            waiting.acked = True

    def pop(self, id: str) -> Waiting | None:
        """Stop waiting."""
        return self._waiting.pop(id, None)

    def expire(self, now: float) -> list[Waiting]:
        """Remove and return the requests whose deadline passed."""
        if now < self.next_at:
            return []
        late = [w for w in self._waiting.values() if w.deadline <= now]
        for waiting in late:
            del self._waiting[waiting.id]
        self.next_at = min((w.deadline for w in self._waiting.values()), default=inf)
        return late

    def of(self, peer: str) -> Iterator[Waiting]:
        """The requests asked of `peer`; a snapshot."""
        return iter([w for w in self._waiting.values() if w.peer == peer])

    def clear(self) -> list[Waiting]:
        """Stop waiting for all and return them."""
        everything = list(self._waiting.values())
        self._waiting.clear()
        self.next_at = inf
        return everything
