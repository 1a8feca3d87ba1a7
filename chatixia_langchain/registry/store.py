"""Where the registry's state lives: in memory, or in one SQLite file. The contract tests run over both.

A store keeps JSON bodies by (kind, id) and nothing else: indexes and rules are in `directory`, `tasks` and `pairing`,
which write through and read everything back once, at start.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol


class StoreError(Exception):
    """The store cannot be opened; the text names the file and the fault."""


class Store(Protocol):
    """Bodies by kind and id. Calls are short and made from one thread."""

    def put(self, kind: str, key: str, body: bytes) -> None:
        """Keep `body`, in place of an earlier one."""

    def delete(self, kind: str, key: str) -> None:
        """Forget it; not there is not an error."""

    def load(self, kind: str) -> Iterator[tuple[str, bytes]]:
        """All of one kind, in the order they were first put."""

    def close(self) -> None:
        """Let go of the file. May be called twice."""


class MemoryStore:
    """Forgets everything with the process."""

    def __init__(self) -> None:
        self._bodies: dict[str, dict[str, bytes]] = {}

    def put(self, kind: str, key: str, body: bytes) -> None:
        self._bodies.setdefault(kind, {})[key] = body

    def delete(self, kind: str, key: str) -> None:
        self._bodies.get(kind, {}).pop(key, None)

    def load(self, kind: str) -> Iterator[tuple[str, bytes]]:
        yield from list(self._bodies.get(kind, {}).items())

    def close(self) -> None:
        """Nothing to let go of."""


class SqliteStore:
    """One file, write-ahead log. A crash of the process loses nothing; a crash of the machine perhaps the last moment:

    the mailbox promises nothing (delivery is end to end), so it does not pay for a sync on every task.
    """

    def __init__(self, path: Path) -> None:
        try:
            # Opened by the main thread, used by the server's: never by both at once.
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS records (kind TEXT NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL,"
                " UNIQUE (kind, key))"
            )
            path.chmod(0o600)  # task payloads and hashes of device tokens are in it
        except (sqlite3.Error, OSError) as exc:
            raise StoreError(f"database {path} cannot be opened: {exc}") from exc

    def put(self, kind: str, key: str, body: bytes) -> None:
        self._db.execute(
            "INSERT INTO records (kind, key, body) VALUES (?, ?, ?)"
            " ON CONFLICT (kind, key) DO UPDATE SET body = excluded.body",
            (kind, key, body),
        )

    def delete(self, kind: str, key: str) -> None:
        self._db.execute("DELETE FROM records WHERE kind = ? AND key = ?", (kind, key))

    def load(self, kind: str) -> Iterator[tuple[str, bytes]]:
        rows = self._db.execute("SELECT key, body FROM records WHERE kind = ? ORDER BY rowid", (kind,)).fetchall()
        yield from rows

    def close(self) -> None:
        self._db.close()
