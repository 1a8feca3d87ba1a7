"""The answering side of a streamed reply: text of one request on its way to a channel that may be busy.

- on the mesh's loop a chunk goes at once; from other loops and threads it is taken there, in order
- a busy transport: text is merged and waits, bounded; what finds no room is dropped, and the reply has it
- chunks are neither acknowledged nor sent again, and never go through the mailbox: there the reply is soon enough
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from ..delivery.chunks import MAX_CHUNK_CHARS, Writer
from ..errors import Busy, MeshError
from . import frames

if TYPE_CHECKING:
    from .core import Core, PeerState
    from .types import Incoming


class ChunkSender:
    """Called with text and step; lives as long as its request is not answered."""

    def __init__(self, core: Core, peer: PeerState, incoming: Incoming, task: bool) -> None:
        self._core, self._peer, self._incoming, self._task = core, peer, incoming, task
        self._text = Writer()
        self._lock = threading.Lock()  # held for moments: text comes from any thread
        self._seq = 0
        self._scheduled = False
        self._wait: asyncio.Task[None] | None = None

    def __call__(self, text: str, step: int) -> None:
        """Take `text`. Raises TypeError or ValueError for what cannot be sent."""
        if not isinstance(text, str):
            raise TypeError(f"text is a {type(text).__name__}, it must be a str")
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise ValueError(f"step {step!r} is not a count")
        if not text.isascii():
            text.encode()  # lone surrogates: raised here, to whoever wrote them
        if not text or self._core.closing:
            return
        with self._lock:
            self._text.add(step, text)
        self._soon()

    def _soon(self) -> None:
        try:
            here = asyncio.get_running_loop() is self._core.loop
        except RuntimeError:
            here = False
        if here:
            self._flush()
        elif not self._scheduled:
            self._scheduled = True
            try:
                self._core.loop.call_soon_threadsafe(self._flush)
            except RuntimeError:
                pass  # the mesh's loop is closed: nobody is there to read it

    def _flush(self) -> None:
        self._scheduled = False
        core, peer, waiting = self._core, self._peer, self._text.waiting
        while waiting and self._wait is None and not core.closing:
            if self._incoming.message_id not in peer.session.inbox.running or not self._open():
                with self._lock:
                    while waiting:
                        waiting.take()
                        self._text.dropped += 1
                return
            with self._lock:
                piece = waiting.take(MAX_CHUNK_CHARS)
            self._seq += 1
            body = frames.chunk(
                core.name, peer.id, piece.text,
                corr=self._incoming.message_id, seq=self._seq, step=piece.step, at=piece.at, task=self._task,
            )  # fmt: skip
            try:
                core.transport.send(peer.id, body)
                core.counters["chunks_sent"] += 1
            except Busy:
                with self._lock:
                    waiting.put_back(piece)
                self._wait = core.spawn(self._until_writable(), f"chunks {peer.id}")
            except MeshError:
                core.counters["chunks_lost"] += 1  # the channel broke, or takes no frame so big: the reply has it

    def _open(self) -> bool:
        return self._peer.up and not self._peer.doubt and self._core.transport.name != "mailbox"

    async def _until_writable(self) -> None:
        try:
            await self._core.transport.writable(self._peer.id)
        finally:
            self._wait = None
        self._flush()
