"""Conversations that wait for a human's decision, and the decisions that were taken up. Survives with `state_dir`.

The checkpointer of the graph is what decides whether a thread is paused; this is the list that a user interface shows,
and what tells a repeated decision from a new one.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..errors import MeshError
from ..mesh.types import MAX_INTERRUPTS, Incoming, RemoteInterrupt
from .database import Database
from .history import History

MAX_PAUSED = 1024  # conversations in the list; past it the oldest leaves the list, and stays paused in its checkpoint
MAX_RESUMED = 8192  # decisions remembered; a repeat comes within the time of its request, not thousands later


@dataclass(frozen=True, slots=True)
class Paused:
    """A conversation whose turn waits for a decision. `since` is in seconds of the Unix clock.

    `asked`: the peer's message expects a reply, so the peer may decide too where the policy says `approvals="caller"`.
    `waiting`: that reply is still owed.
    """

    peer: str
    conversation: str
    message_id: str
    interrupts: tuple[RemoteInterrupt, ...]
    since: float = field(default_factory=time.time)
    asked: bool = True
    waiting: bool = False
    hops: int = 0
    chain: tuple[str, ...] = ()

    @classmethod
    def of(cls, message: Incoming, interrupts: tuple[RemoteInterrupt, ...]) -> Paused:
        """The pause of the turn of `message`."""
        return cls(
            message.peer,
            message.conversation,
            message.message_id,
            interrupts,
            asked=message.expects_reply,
            hops=message.hops,
            chain=message.chain,
        )

    @classmethod
    def found(cls, peer: str, conversation: str, history: History) -> Paused:
        """The pause that a thread is found with."""
        asked = bool(history.last.get("asked"))
        return cls(peer, conversation, history.last_id, history.interrupts, asked=asked)


@dataclass(frozen=True, slots=True)
class Decision:
    """What `meta["resume"]` of a request says: values by interrupt, for the pause of message `of`."""

    of: str
    values: Mapping[str, Any]

    @classmethod
    def read(cls, message: Incoming) -> Decision | None:
        """The decision in a message, None when it is an ordinary one. Raises MeshError (`invalid_line`)."""
        raw = message.meta.get("resume")
        if raw is None:
            return None
        values = raw.get("values") if isinstance(raw, dict) else None
        if not isinstance(raw, dict) or not isinstance(raw.get("of"), str) or not isinstance(values, dict):
            raise MeshError('meta.resume is not {"of": id, "values": {id: ...}}', code="invalid_line", executed="no")
        if not 0 < len(values) <= MAX_INTERRUPTS:
            why = f"meta.resume.values has {len(values)} entries, 1 to {MAX_INTERRUPTS} are taken"
            raise MeshError(why, code="invalid_line", executed="no")
        return cls(raw["of"], values)


class Pauses:
    """The list by thread, and the decisions. With a `Database` it is on disk before a method returns."""

    def __init__(self, file: Database | None = None) -> None:
        self._file = file
        self._paused: OrderedDict[str, Paused] = OrderedDict()
        self._resumed: OrderedDict[tuple[str, str], None] = OrderedDict()

    def all(self) -> list[Paused]:
        """All that wait, oldest first."""
        return list(self._paused.values())

    def get(self, thread: str) -> Paused | None:
        """What this thread waits with."""
        return self._paused.get(thread)

    async def load(self) -> None:
        """Read what an earlier process left."""
        if self._file is not None:
            for thread, body in await self._file.run(_read):
                self._paused.setdefault(thread, _decode(body))

    async def put(self, thread: str, paused: Paused) -> None:
        """A thread waits."""
        self._paused[thread] = paused
        gone = [self._paused.popitem(last=False)[0] for _ in range(len(self._paused) - MAX_PAUSED)]
        if self._file is not None:
            body = json.dumps(asdict(replace(paused, waiting=False)))
            await self._file.run(lambda link: _write(link, thread, body, gone))

    def waiting(self, thread: str, waiting: bool) -> None:
        """Note whether the reply of a paused thread is still owed. In memory: a debt does not survive its process."""
        if thread in self._paused:
            self._paused[thread] = replace(self._paused[thread], waiting=waiting)

    async def drop(self, thread: str) -> None:
        """A thread waits no longer."""
        if self._paused.pop(thread, None) is not None and self._file is not None:
            await self._file.run(lambda link: _write(link, "", "", [thread]))

    async def begin(self, thread: str, message_id: str) -> bool:
        """Note that a decision is taken up; False when it was before."""
        new = (thread, message_id) not in self._resumed
        self._resumed[thread, message_id] = None
        if len(self._resumed) > MAX_RESUMED:
            self._resumed.popitem(last=False)
        if new and self._file is not None:
            return await self._file.run(lambda link: _begin(link, thread, message_id))
        return new


def _read(link: sqlite3.Connection) -> list[tuple[str, str]]:
    return link.execute("SELECT thread, body FROM paused").fetchall()


def _write(link: sqlite3.Connection, thread: str, body: str, gone: list[str]) -> None:
    link.executemany("DELETE FROM paused WHERE thread = ?", [(name,) for name in gone])
    if body:
        link.execute("INSERT OR REPLACE INTO paused VALUES (?, ?)", (thread, body))


def _begin(link: sqlite3.Connection, thread: str, message_id: str) -> bool:
    new = link.execute("INSERT OR IGNORE INTO resumed VALUES (?, ?)", (thread, message_id)).rowcount == 1
    link.execute("DELETE FROM resumed WHERE rowid <= (SELECT max(rowid) FROM resumed) - ?", (MAX_RESUMED,))
    return new


def _decode(body: str) -> Paused:
    raw = json.loads(body)
    interrupts = tuple(RemoteInterrupt(i["id"], i["value"]) for i in raw.pop("interrupts"))
    return Paused(**{**raw, "interrupts": interrupts, "chain": tuple(raw["chain"])})
