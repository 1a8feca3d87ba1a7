"""Which conversation a message belongs to, and who runs its turns.

- one conversation = (self, peer, conversation id) -> one `thread_id` -> one worker: turns of a thread never race, and
  a peer can never name another peer's thread;
- messages that expect no reply wait for each other and are taken in one turn together with the next request;
- workers share a cap on turns at once; an idle one ends.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable

from ..errors import Busy
from ..mesh.types import Incoming

logger = logging.getLogger(__name__)

IDLE_S = 60.0  # a worker without mail ends after this long; the next message starts a new one
MAX_BATCH = 32  # messages of one turn: more would not fit a model's attention

Turns = Callable[[str, list[Incoming]], Awaitable[None]]
"""Runs one turn of a thread. Handles its own failures."""


def thread_id(me: str, peer: str, conversation: str) -> str:
    """The thread of a conversation: the same for the same three names, and for no others."""
    return "mesh:" + hashlib.sha256(f"{me}\0{peer}\0{conversation}".encode()).hexdigest()[:32]


class Router:
    """Hands messages to one worker per thread. All methods on one loop."""

    def __init__(self, me: str, turns: Turns, *, max_concurrency: int, max_queue: int, idle_s: float = IDLE_S) -> None:
        self._me, self._turns, self._max_queue, self._idle_s = me, turns, max_queue, idle_s
        self._room = asyncio.Semaphore(max_concurrency)
        self._queues: dict[str, asyncio.Queue[Incoming]] = {}
        self._workers: set[asyncio.Task[None]] = set()

    @property
    def threads(self) -> int:
        """How many threads have a worker now."""
        return len(self._queues)

    def feed(self, message: Incoming) -> None:
        """Take one message; never waits.

        Raises Busy when `max_queue` messages of this conversation wait already.
        """
        thread = thread_id(self._me, message.peer, message.conversation)
        queue = self._queues.get(thread)
        if queue is None:
            queue = self._queues[thread] = asyncio.Queue(self._max_queue)
            worker = asyncio.create_task(self._work(thread, queue), name=f"mesh-thread-{thread}")
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)
        try:
            queue.put_nowait(message)
        except asyncio.QueueFull:
            raise Busy(f"{self._max_queue} messages of this conversation wait already") from None

    async def aclose(self) -> None:
        """Cancel the turns that run, and wait for them."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def _work(self, thread: str, queue: asyncio.Queue[Incoming]) -> None:
        try:
            while True:
                try:
                    async with asyncio.timeout(self._idle_s):
                        first = await queue.get()
                except TimeoutError:
                    if queue.empty():
                        return
                    continue
                batch = _batch(first, queue)
                async with self._room:
                    try:
                        await self._turns(thread, batch)
                    except Exception:  # one turn must not take the conversation's later messages with it
                        logger.exception("turn broke thread=%s ids=%s", thread, [m.message_id for m in batch])
        finally:
            # No await since the queue was seen empty: no message can have come in between.
            self._queues.pop(thread, None)


def _batch(first: Incoming, queue: asyncio.Queue[Incoming]) -> list[Incoming]:
    """Take what waits, up to and including the first request: each request has a turn, and so an answer, of its own."""
    batch = [first]
    while not batch[-1].expects_reply and len(batch) < MAX_BATCH and not queue.empty():
        batch.append(queue.get_nowait())
    return batch
