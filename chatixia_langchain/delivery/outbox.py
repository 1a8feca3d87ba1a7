"""What this side accepted for one peer and the peer has not acknowledged.

- `add` takes an entry; the caller asked `has_room` before (a full window refuses new work, it never drops old work)
- `head` gives the next entry to hand to the transport, in order; `sent` notes that it went
- `ack` and `drop` end an entry; `busy` puts refused ones back, and holds all later ones so that order stays
- `requeue` after a reconnect: everything unacknowledged goes again, in order, under the same ids
- `tick` gives the entries whose deadline passed, and readies those whose acknowledgement is overdue
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from math import inf
from typing import Any, Final

RESEND_FIRST_S = 1.0  # an open channel is reliable: a missing ack means a slow or restarted agent, no need to hurry
RESEND_MAX_S = 5.0
MAILBOX_RESEND_S = 10.0  # the mailbox keeps what it took; only its own restart loses it
BUSY_FIRST_S = 0.02  # doubles with each round in which the peer took nothing
BUSY_MAX_S = 2.0
WINDOW_MESSAGES = 256
WINDOW_BYTES = 1_048_576

# Where an entry is; plain numbers, since they are compared for each message. A DONE entry is no longer in the outbox.
QUEUED: Final = 0
SENT: Final = 1
DONE: Final = 2


class Entry:
    """One accepted message. `owner` is what the caller wants back at its end; `tries` counts hand-overs to a transport.

    `windowed` is False for replies: they answer work that was already let in, so a full window must not hold them.
    """

    __slots__ = (
        "accepted",
        "body",
        "deadline",
        "due",
        "id",
        "kind",
        "owner",
        "path",
        "refused",
        "state",
        "tries",
        "windowed",
    )

    def __init__(self, id: str, body: bytes, kind: str, accepted: float, deadline: float, owner: Any = None) -> None:
        self.id = id
        self.body = body
        self.kind = kind
        self.accepted = accepted
        self.deadline = deadline
        self.owner = owner
        self.state: int = QUEUED
        self.tries = 0
        self.refused = False
        self.due = inf
        self.path = ""
        self.windowed = kind in ("message", "request")


class Outbox:
    """The unacknowledged entries for one peer, in order of acceptance."""

    __slots__ = (
        "_busy_rounds",
        "_held_until",
        "_max_bytes",
        "_max_messages",
        "_queue",
        "_window_bytes",
        "_window_used",
        "entries",
        "next_at",
    )

    def __init__(self, *, max_messages: int = WINDOW_MESSAGES, max_bytes: int = WINDOW_BYTES) -> None:
        self.entries: dict[str, Entry] = {}
        self.next_at = inf  # no later than the earliest moment `tick` has something to do
        self._queue: deque[Entry] = deque()  # bounded by the window and by the requests let in
        self._max_messages, self._max_bytes = max_messages, max_bytes
        self._window_used = self._window_bytes = 0
        self._held_until = 0.0
        self._busy_rounds = 0

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def room(self) -> int:
        """How many more messages the window takes, bytes aside."""
        return self._max_messages - self._window_used

    def has_room(self, size: int) -> bool:
        """True when the window takes `size` more bytes. One message always fits an empty window."""
        used = self._window_used
        return used == 0 or (used < self._max_messages and self._window_bytes + size <= self._max_bytes)

    def add(self, entry: Entry) -> None:
        """Accept `entry`. Raises ValueError when its id is on its way already."""
        if entry.id in self.entries:
            raise ValueError(f"message id {entry.id!r} is on its way already")
        self.entries[entry.id] = entry
        self._queue.append(entry)
        if entry.windowed:
            self._window_used += 1
            self._window_bytes += len(entry.body)
        if entry.deadline < self.next_at:
            self.next_at = entry.deadline

    def head(self, now: float) -> Entry | None:
        """The next entry to hand over, or None: nothing is queued, or the peer asked to wait."""
        queue = self._queue
        while queue and queue[0].state != QUEUED:
            queue.popleft()
        if not queue:
            return None
        if now < self._held_until:
            self._wake(self._held_until)
            return None
        return queue[0]

    def sent(self, entry: Entry, now: float, path: str) -> None:
        """`entry`, the head, was handed to a transport."""
        self._queue.popleft()
        entry.state = SENT
        entry.path = path
        wait = MAILBOX_RESEND_S if path == "mailbox" else min(RESEND_FIRST_S * (1 << min(entry.tries, 3)), RESEND_MAX_S)
        entry.tries += 1
        entry.due = now + wait
        if entry.due < self.next_at:
            self.next_at = entry.due

    def ack(self, id: str) -> Entry | None:
        """End the entry and return it; None for an unknown or repeated acknowledgement, which is a non-event."""
        entry = self.entries.pop(id, None)
        if entry is not None:
            entry.state = DONE
            self._busy_rounds = 0
            if entry.windowed:
                self._window_used -= 1
                self._window_bytes -= len(entry.body)
        return entry

    drop = ack  # given up instead of delivered: the bookkeeping is the same

    def busy(self, ids: Iterable[str], now: float) -> None:
        """The peer had no room for `ids`: they go again later, and nothing overtakes them."""
        refused = False
        for id_ in ids:
            entry = self.entries.get(id_)
            if entry is not None and entry.state == SENT:
                entry.state = QUEUED
                entry.refused = refused = True
        if refused:
            if now >= self._held_until:
                self.hold(now + min(BUSY_FIRST_S * (1 << min(self._busy_rounds, 7)), BUSY_MAX_S))
                self._busy_rounds += 1
            self._rebuild()

    def hold(self, until: float) -> None:
        """Hand nothing over before `until`."""
        self._held_until = max(self._held_until, until)
        self._wake(until)

    def requeue(self) -> None:
        """A new channel: everything unacknowledged goes again, in order."""
        self._held_until = 0.0
        for entry in self.entries.values():
            entry.state = QUEUED
        self._rebuild()

    def tick(self, now: float, *, resend: bool) -> list[Entry]:
        """Remove and return the expired entries; with `resend`, queue again those whose acknowledgement is overdue."""
        if now < self.next_at:
            return []
        expired = [entry for entry in self.entries.values() if entry.deadline <= now]
        for entry in expired:
            self.drop(entry.id)
        overdue = False
        self.next_at = self._held_until if self._held_until > now else inf
        for entry in self.entries.values():
            if entry.state == SENT and resend:
                if entry.due <= now:
                    entry.state = QUEUED
                    overdue = True
                else:
                    self._wake(entry.due)
            self._wake(entry.deadline)
        if overdue:
            self._rebuild()
        return expired

    def _rebuild(self) -> None:
        self._queue = deque(entry for entry in self.entries.values() if entry.state == QUEUED)

    def _wake(self, at: float) -> None:
        if at < self.next_at:
            self.next_at = at
