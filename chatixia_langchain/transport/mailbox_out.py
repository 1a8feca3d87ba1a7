"""What waits to be posted to the mailbox: one bounded queue and one worker per peer, in order."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from ..errors import Busy, LinkDown, MeshError
from ..protocol.limits import WINDOW_BYTES

logger = logging.getLogger(__name__)

OVERHEAD_BYTES = 4096  # about what a task costs beside its body: at most 256 small messages wait per peer
GIVE_UP_S = 60.0  # a message that could not be posted for so long is dropped and logged
PAUSE_MIN_S, PAUSE_MAX_S = 0.25, 5.0
AT_ONCE = 8  # posts at a time over all peers


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message on its way to the mailbox; `key` makes its posting repeatable."""

    peer: str
    body: bytes
    key: str
    since: float = field(default_factory=time.monotonic)

    @property
    def cost(self) -> int:
        """What it takes of the window, in bytes."""
        return len(self.body) + OVERHEAD_BYTES


class _Queue:
    __slots__ = ("bytes", "items", "waiters", "worker")

    def __init__(self) -> None:
        self.items: deque[Outgoing] = deque()  # bounded by the window
        self.bytes = 0
        self.waiters: list[asyncio.Future[None]] = []
        self.worker: asyncio.Task[None] | None = None


class Queues:
    """All queues of a transport. `post` sends one message, raising MeshError."""

    def __init__(self, post: Callable[[Outgoing], Awaitable[None]]) -> None:
        self._post = post
        self._queues: dict[str, _Queue] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)

    def put(self, item: Outgoing) -> None:
        """Queue it. Raises Busy when the window to its peer is full."""
        queue = self._queues.setdefault(item.peer, _Queue())
        if queue.bytes + item.cost > WINDOW_BYTES:
            raise Busy(f"the window to {item.peer!r} is full")
        queue.items.append(item)
        queue.bytes += item.cost
        if queue.worker is None:
            queue.worker = asyncio.create_task(self._work(item.peer, queue), name=f"mailbox-post-{item.peer}")

    async def room(self, peer: str) -> None:
        """Return when half of the window to `peer` is free, or the transport closes."""
        while (queue := self._queues.get(peer)) and queue.bytes > WINDOW_BYTES // 2:
            waiter = asyncio.get_running_loop().create_future()
            queue.waiters.append(waiter)
            await waiter

    def queued(self) -> int:
        """Messages that wait."""
        return sum(len(q.items) for q in self._queues.values())

    async def aclose(self) -> None:
        """Drop everything and end the workers."""
        queues, self._queues = self._queues, {}
        workers = [q.worker for q in queues.values() if q.worker]
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        for queue in queues.values():
            self._wake(queue)

    async def _work(self, peer: str, queue: _Queue) -> None:
        while queue.items:
            item = queue.items[0]
            await self._one(item)
            queue.items.popleft()
            queue.bytes -= item.cost
            if queue.bytes <= WINDOW_BYTES // 2:
                self._wake(queue)
        queue.worker = None
        if self._queues.get(peer) is queue:
            del self._queues[peer]  # a queue for each peer ever met would be a leak

    async def _one(self, item: Outgoing) -> None:
        pause = PAUSE_MIN_S
        while True:
            try:
                async with self._slots:
                    await self._post(item)
                return
            except (Busy, LinkDown) as exc:
                if time.monotonic() - item.since > GIVE_UP_S:
                    logger.warning("peer=%s: a message was not taken for %.0f s: %s", item.peer, GIVE_UP_S, exc)
                    return
            except MeshError as exc:
                logger.warning("peer=%s: a message is refused: %s", item.peer, exc)
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, PAUSE_MAX_S)

    def _wake(self, queue: _Queue) -> None:
        waiters, queue.waiters = queue.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
