"""Mail that waits for a human's decision, on disk: its senders were told that it arrived, and the human may be away
for longer than this process lives.

Requests are not kept: whoever asks waits for the answer, and asks again under the same id.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from ..mesh.budget import Budget
from ..mesh.types import Incoming
from .database import Database

FIELDS = ("peer", "content", "conversation", "message_id", "hops", "broadcast", "path", "trace")


class HeldMail:
    """Messages by thread, as many as the lanes of paused threads hold. Without a `Database` it keeps nothing."""

    def __init__(self, file: Database | None = None) -> None:
        self._file = file
        self._kept: set[tuple[str, str]] = set()  # by peer and id: what is on disk

    async def load(self) -> list[Incoming]:
        """What an earlier process left, in the order in which it came."""
        if self._file is None:
            return []
        rows = await self._file.run(lambda link: link.execute("SELECT body FROM held ORDER BY n").fetchall())
        messages = [_decode(body) for (body,) in rows]
        self._kept = {(m.peer, m.message_id) for m in messages}
        return messages

    async def keep(self, messages: Sequence[Incoming]) -> None:
        """Write down those that are not yet."""
        new = [m for m in messages if not m.expects_reply and (m.peer, m.message_id) not in self._kept]
        if self._file is not None and new:
            rows = [(m.peer, m.message_id, _encode(m)) for m in new]
            await self._file.run(lambda link: _insert(link, rows))
            self._kept.update((m.peer, m.message_id) for m in new)

    async def done(self, messages: Sequence[Incoming]) -> None:
        """Forget those that had their turn."""
        ids = [key for m in messages if (key := (m.peer, m.message_id)) in self._kept]
        if self._file is not None and ids:
            await self._file.run(lambda link: _delete(link, ids))
            self._kept.difference_update(ids)


def _insert(link: sqlite3.Connection, rows: list[tuple[str, str, str]]) -> None:
    link.executemany("INSERT OR IGNORE INTO held (peer, message_id, body) VALUES (?, ?, ?)", rows)


def _delete(link: sqlite3.Connection, ids: list[tuple[str, str]]) -> None:
    link.executemany("DELETE FROM held WHERE peer = ? AND message_id = ?", ids)


def _encode(message: Incoming) -> str:
    body: dict[str, Any] = {name: getattr(message, name) for name in FIELDS}
    body["chain"] = list(message.chain)
    if message.budget is not None:
        body["budget"] = [message.budget.root, message.budget.turns, message.budget.tokens, message.budget.ms]
    return json.dumps(body)


def _decode(raw: str) -> Incoming:
    body = json.loads(raw)
    budget = Budget(*body["budget"]) if "budget" in body else None
    fields = {name: body[name] for name in FIELDS}
    return Incoming(**fields, expects_reply=False, chain=tuple(body["chain"]), budget=budget)
