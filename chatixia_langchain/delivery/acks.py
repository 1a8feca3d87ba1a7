"""Acknowledgements waiting to travel together: one frame carries up to 64.

A reply acknowledges its request, so an ask costs two frames and a share of a late acknowledgement.
"""

from __future__ import annotations

from math import inf

MAX_IDS = 64  # a quarter of the window: the sender never stands still for want of acknowledgements
MAX_BYTES = 131_072  # an eighth of the window, for the same reason
DELAY_S = {"message": 0.002, "request": 0.02, "reply": 0.02, "error": 0.02}
"""How long an acknowledgement may wait. A request's is usually implied by its reply; nobody waits for a reply's."""


class Acks:
    """The ids of one peer's messages that are in our inbox and not acknowledged yet."""

    __slots__ = ("_bytes", "_ids", "due")

    def __init__(self) -> None:
        self._ids: dict[str, None] = {}
        self._bytes = 0
        self.due = inf

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, id: str, kind: str, size: int, now: float) -> bool:
        """Note an arrival; True when the batch is full and must go now."""
        self._ids[id] = None
        self._bytes += size
        due = now + DELAY_S[kind]
        if due < self.due:
            self.due = due
        return len(self._ids) >= MAX_IDS or self._bytes >= MAX_BYTES

    def implied(self, id: str) -> None:
        """A reply to `id` is about to go: it acknowledges the request."""
        self._ids.pop(id, None)

    def take(self) -> tuple[str, ...]:
        """The ids to send now; the batch is empty afterwards."""
        ids = tuple(self._ids)
        self._ids.clear()
        self._bytes = 0
        self.due = inf
        return ids
