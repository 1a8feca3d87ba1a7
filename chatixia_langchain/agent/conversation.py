"""Which conversation a message belongs to, and who runs its turns.

- one conversation = (self, peer, conversation id) -> one `thread_id` -> one worker: turns of a thread never race, and
  a peer can never name another peer's thread;
- messages that expect no reply and wait together are taken in one turn; a request has a turn of its own, so that
  cancelling it takes nothing else along;
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
MAX_THREADS = 1024  # conversations with a worker at once; a new one past it is refused as busy

Turns = Callable[[str, list[Incoming]], Awaitable[None]]
"""Runs one turn of a thread. Handles its own failures."""

_Waiting = tuple[float, Incoming]  # when it came, by the loop's clock


def thread_id(me: str, peer: str, conversation: str) -> str:
    """The thread of a conversation: the same for the same three names, and for no others."""
    return "mesh:" + hashlib.sha256(f"{me}\0{peer}\0{conversation}".encode()).hexdigest()[:32]


class Router:
    """Hands messages to one worker per thread. All methods on one loop."""

    def __init__(self, me: str, turns: Turns, *, max_concurrency: int, max_queue: int, idle_s: float = IDLE_S) -> None:
        self._me, self._turns, self._max_queue, self._idle_s = me, turns, max_queue, idle_s
        self._max_concurrency = max_concurrency
        self._rooms: dict[int, asyncio.Semaphore] = {}  # by hops; the policy bounds these
        self._queues: dict[str, asyncio.Queue[_Waiting]] = {}
        self._workers: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()  # a worker ended

    @property
    def threads(self) -> int:
        """How many threads have a worker now."""
        return len(self._queues)

    async def feed(self, message: Incoming) -> None:
        """Take one message. A request is taken or refused at once; a message that expects no reply waits for room.

        The sender of such a message was told that it arrived, so it must not be dropped: while it waits here, the
        mesh's inbox fills, and then senders are told to come again.

        Raises Busy when `max_queue` messages of this conversation wait already, or too many conversations are open.
        """
        thread = thread_id(self._me, message.peer, message.conversation)
        waiting = (asyncio.get_running_loop().time(), message)
        while thread not in self._queues and len(self._queues) >= MAX_THREADS:
            if message.expects_reply:
                raise Busy(f"{MAX_THREADS} conversations are open already")
            self._ended.clear()
            await self._ended.wait()
        queue = self._queue(thread)
        if message.expects_reply and queue.full():
            raise Busy(f"{self._max_queue} messages of this conversation wait already")
        await queue.put(waiting)  # a worker never ends while its queue is full

    def _queue(self, thread: str) -> asyncio.Queue[_Waiting]:
        queue = self._queues.get(thread)
        if queue is None:
            queue = self._queues[thread] = asyncio.Queue(self._max_queue)
            worker = asyncio.create_task(self._work(thread, queue), name=f"mesh-thread-{thread}")
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)
        return queue

    def _room(self, hops: int) -> asyncio.Semaphore:
        """The cap for turns of this many hops.

        A turn waits only for turns of more hops than its own, so agents that ask each other in the middle of their
        turns never wait for each other's room in a circle.
        """
        return self._rooms.setdefault(hops, asyncio.Semaphore(self._max_concurrency))

    async def aclose(self) -> None:
        """Cancel the turns that run, and wait for them."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def _work(self, thread: str, queue: asyncio.Queue[_Waiting]) -> None:
        try:
            held: list[_Waiting] = []
            while True:
                try:
                    async with asyncio.timeout(self._idle_s):
                        first = held.pop() if held else await queue.get()
                except TimeoutError:
                    if queue.empty():
                        return
                    continue
                batch = _batch(first, queue, held)
                async with self._room(batch[-1][1].hops):
                    try:
                        await self._turns(thread, _aged(batch))
                    except Exception:  # one turn must not take the conversation's later messages with it
                        logger.exception("turn broke thread=%s ids=%s", thread, [m.message_id for _, m in batch])
        finally:
            # No await since the queue was seen empty: no message can have come in between.
            self._queues.pop(thread, None)
            self._ended.set()


def _batch(first: _Waiting, queue: asyncio.Queue[_Waiting], held: list[_Waiting]) -> list[_Waiting]:
    """Take the messages that wait together with `first`; a request that ends them is held for the next turn."""
    batch = [first]
    while not first[1].expects_reply and len(batch) < MAX_BATCH and not queue.empty():
        following = queue.get_nowait()
        if following[1].expects_reply:
            held.append(following)
            break
        batch.append(following)
    return batch


def _aged(batch: list[_Waiting]) -> list[Incoming]:
    """The messages, with the time they waited taken off what is left of theirs."""
    now = asyncio.get_running_loop().time()
    for came, message in batch:
        message.ttl_s = max(0.0, message.ttl_s - (now - came))
    return [message for _, message in batch]
