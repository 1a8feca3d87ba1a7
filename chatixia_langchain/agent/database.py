"""One SQLite file with what an agent must know after a restart, used from a thread of its own.

- opened when first used, in WAL mode, readable by this user only; `close` may be called twice, the next use opens again
- every piece of work is one transaction: all of it is on disk when `run` returns, or none of it
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

VERSION = 1  # of the tables below; a newer one in the file means that a newer release wrote it
BUSY_S = 5.0  # how long to wait for another process that writes: the tables are small
TABLES = """
CREATE TABLE IF NOT EXISTS threads (thread TEXT PRIMARY KEY, used INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS threads_used ON threads (used);
CREATE TABLE IF NOT EXISTS messages (
    thread TEXT NOT NULL, n INTEGER NOT NULL, role TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (thread, n)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS paused (thread TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS resumed (thread TEXT NOT NULL, message_id TEXT NOT NULL, UNIQUE (thread, message_id));
CREATE TABLE IF NOT EXISTS held (
    n INTEGER PRIMARY KEY, peer TEXT NOT NULL, message_id TEXT NOT NULL, body TEXT NOT NULL, UNIQUE (peer, message_id)
);
"""


class Database:
    """The file at `path`, made when it is not there. All methods from any loop."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._link: sqlite3.Connection | None = None
        # One thread: SQLite writes one at a time anyway. Its queue holds at most one piece of work per caller.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="chatixia-sqlite")

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work` in one transaction. Work that was begun is finished, also when the caller is cancelled.

        Raises sqlite3.Error, and ValueError for a file that a newer release wrote.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._do, work)

    async def close(self) -> None:
        """Close the file once the work that was given is done."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        link = self._link or self._open()
        link.execute("BEGIN IMMEDIATE")
        try:
            result = work(link)
            link.execute("COMMIT")
        except BaseException:
            link.rollback()
            raise
        return result

    def _open(self) -> sqlite3.Connection:
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        link = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            link.execute("PRAGMA journal_mode=WAL")
            (version,) = link.execute("PRAGMA user_version").fetchone()
            if version > VERSION:
                raise ValueError(f"{self.path} was written by a newer release (tables {version}, known: {VERSION})")
            link.executescript(TABLES)
            link.execute(f"PRAGMA user_version={VERSION}")
        except BaseException:
            link.close()
            raise
        self._link = link
        weakref.finalize(self, link.close)  # whoever forgets to close it loses nothing
        return link

    def _close(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
