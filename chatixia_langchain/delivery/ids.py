"""Message ids and epochs.

An id is 64 random bits, chosen once per run of an agent, and a counter: unique for ever, and cheap. It need not be
unguessable: a reply counts only from the peer that was asked, and duplicates are recognised by (peer, id).
"""

from __future__ import annotations

import secrets
from itertools import count


class IdSource:
    """Ids of one run of one agent. `epoch` names the run."""

    __slots__ = ("_numbers", "_prefix", "epoch")

    def __init__(self, prefix: str | None = None) -> None:
        self.epoch = secrets.token_hex(8)
        self._prefix = secrets.token_urlsafe(8) if prefix is None else prefix  # fixed length: no separator needed
        self._numbers = count(1)

    def next(self) -> str:
        """Return a fresh id, 12 or more of `[A-Za-z0-9_-]`."""
        return f"{self._prefix}{next(self._numbers):x}"
