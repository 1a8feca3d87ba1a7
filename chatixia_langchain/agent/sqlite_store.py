"""`SQLiteStore`: conversations that outlive the process.

store = SQLiteStore("agent.sqlite")
loop = ChatLoop(AsyncOpenAI(), model_name="gpt-4o", store=store)
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from langchain_core.messages import BaseMessage

from .database import Database
from .message_json import decode, encode, role
from .store import MAX_MESSAGES, MAX_THREADS


class SQLiteStore:
    """A `ConversationStore` in one SQLite file, bounded as `MemoryStore` is.

    A thread belongs to one process at a time: writers do not see each other's unfinished turns. `path` may be the file
    of a `MeshAgent`'s `state_dir`. Works from any loop; the disk is used in a thread.
    """

    def __init__(
        self, path: str | Path | Database, *, max_threads: int = MAX_THREADS, max_messages: int = MAX_MESSAGES
    ) -> None:
        self._file = path if isinstance(path, Database) else Database(path)
        self._max_threads, self._max_messages = max_threads, max_messages

    async def load(self, thread_id: str) -> list[BaseMessage]:
        """Return the messages of a thread, oldest first. Raises ValueError for a row that is not readable."""
        rows = await self._file.run(lambda link: _load(link, thread_id))
        messages = []
        for n, body in rows:
            try:
                messages.append(decode(body))
            except ValueError as exc:
                raise ValueError(f"{self._file.path}: message {n} of thread {thread_id}: {exc}") from exc
        return messages

    async def append(self, thread_id: str, messages: Sequence[BaseMessage]) -> None:
        """Add the messages of one turn, all or none; forget what is over the bounds.

        Raises TypeError for a message that cannot be stored.
        """
        rows = [(role(m), encode(m)) for m in messages]
        await self._file.run(lambda link: self._append(link, thread_id, rows))

    async def aclose(self) -> None:
        """Close the file; the next use opens it again."""
        await self._file.close()

    def _append(self, link: sqlite3.Connection, thread: str, rows: list[tuple[str, str]]) -> None:
        _use(link, thread)
        (last,) = link.execute("SELECT coalesce(max(n), 0) FROM messages WHERE thread = ?", (thread,)).fetchone()
        numbered = [(thread, last + k, *row) for k, row in enumerate(rows, 1)]
        link.executemany("INSERT INTO messages VALUES (?, ?, ?, ?)", numbered)
        self._forget(link, thread)

    def _forget(self, link: sqlite3.Connection, thread: str) -> None:
        """Whole turns only: what is kept begins with a human message (see `store._whole_turns`)."""
        roles = link.execute("SELECT n, role FROM messages WHERE thread = ? ORDER BY n", (thread,)).fetchall()
        if len(roles) > self._max_messages:
            kept = roles[-self._max_messages :]
            first = next((n for n, who in kept if who == "human"), roles[-1][0] + 1)
            link.execute("DELETE FROM messages WHERE thread = ? AND n < ?", (thread, first))
        (threads,) = link.execute("SELECT count(*) FROM threads").fetchone()
        oldest = link.execute(
            "SELECT thread FROM threads ORDER BY used LIMIT ?", (max(0, threads - self._max_threads),)
        )
        for (name,) in oldest.fetchall():
            link.execute("DELETE FROM messages WHERE thread = ?", (name,))
            link.execute("DELETE FROM threads WHERE thread = ?", (name,))


def _load(link: sqlite3.Connection, thread: str) -> list[tuple[int, str]]:
    rows = link.execute("SELECT n, body FROM messages WHERE thread = ? ORDER BY n", (thread,)).fetchall()
    if rows:
        _use(link, thread)
    return rows


def _use(link: sqlite3.Connection, thread: str) -> None:
    """Make `thread` the one used last, by a counter: clocks go back."""
    (latest,) = link.execute("SELECT coalesce(max(used), 0) FROM threads").fetchone()
    link.execute("INSERT OR REPLACE INTO threads VALUES (?, ?)", (thread, latest + 1))
