"""Which conversation a message belongs to, and who runs its turns.

- one conversation = (self, peer, conversation id) -> one `thread_id` -> one worker: turns of a thread never race, and
  a peer can never name another peer's thread;
- messages that expect no reply and wait together are taken in one turn; a request has a turn of its own, so that
  cancelling it takes nothing else along;
- a thread that is paused holds its mail until a decision resumes it; decisions overtake what is held;
- workers share a cap on turns at once; an idle one ends.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from ..errors import Busy
from ..mesh.types import Incoming
from .lane import Lane

logger = logging.getLogger(__name__)

IDLE_S = 60.0  # a worker without mail ends after this long; the next message starts a new one
MAX_THREADS = 1024  # conversations with a worker at once; see `Router.feed` for what happens past it
MAX_THREADS_PER_PEER = 256  # of them; so that one peer cannot take the room of all others


class Turns(Protocol):
    """Runs turns. Handles its own failures."""

    async def take(self, thread: str, batch: list[Incoming]) -> bool:
        """Run one turn; False when the thread is paused, and nothing of `batch` was taken."""

    async def again(self, thread: str, request: Incoming) -> bool:
        """Answer a request that was worked on before; False when it was not."""

    async def held(self, messages: list[Incoming]) -> None:
        """Hear what waits in a thread that is paused."""


def thread_id(me: str, peer: str, conversation: str) -> str:
    """The thread of a conversation: the same for the same three names, and for no others."""
    return "mesh:" + hashlib.sha256(f"{me}\0{peer}\0{conversation}".encode()).hexdigest()[:32]


class Router:
    """Hands messages to one worker per thread. All methods on one loop. `on_drop` is told what was lost."""

    def __init__(
        self,
        me: str,
        turns: Turns,
        *,
        max_concurrency: int,
        max_queue: int,
        idle_s: float = IDLE_S,
        on_drop: Callable[[str, Incoming], None] = lambda thread, message: None,
    ) -> None:
        self._me, self._turns, self._max_queue, self._idle_s = me, turns, max_queue, idle_s
        self._max_concurrency, self._on_drop = max_concurrency, on_drop
        self._rooms: dict[int, asyncio.Semaphore] = {}  # by hops; the policy bounds these
        self._lanes: dict[str, Lane] = {}
        self._by_peer: Counter[str] = Counter()
        self._workers: set[asyncio.Task[None]] = set()
        self._moved = asyncio.Event()  # a worker ended, or a lane became idle or held

    @property
    def threads(self) -> int:
        """How many threads have a worker now."""
        return len(self._lanes)

    @property
    def waiting(self) -> int:
        """How many messages wait for their turn."""
        return sum(len(lane) for lane in self._lanes.values())

    async def feed(self, message: Incoming) -> None:
        """Take one message. A request is taken or refused at once; a message that expects no reply waits for room.

        The sender of such a message was told that it arrived, so it is not dropped: while it waits here, the mesh's
        inbox fills, and then senders are told to come again. The one exception is mail for paused threads: a human may
        be gone for days, and the decision itself must come through here. Past `max_queue` such mail is dropped.

        Raises Busy when `max_queue` messages of this conversation wait already, or too many conversations are open.
        """
        thread = thread_id(self._me, message.peer, message.conversation)
        while (lane := self._lane(thread, message.peer)) is None:
            if not await self._may_come(message.peer, message.expects_reply):
                self._drop(thread, message)
                return
        if "resume" in message.meta:
            lane.decide(message)
            return
        if message.expects_reply:
            if lane.full:
                raise Busy(f"{self._max_queue} messages of this conversation wait already")
        elif not await lane.has_room():
            self._drop(thread, message)
            return
        lane.put(message)

    def restore(self, message: Incoming) -> None:
        """Take a message that an earlier process held: as many come as that one had room for."""
        thread = thread_id(self._me, message.peer, message.conversation)
        lane = self._lane(thread, message.peer)
        if lane is None:
            self._drop(thread, message)
        else:
            lane.put(message)

    def _lane(self, thread: str, peer: str) -> Lane | None:
        """The lane of a thread, with a worker; None when there is no room for another."""
        lane = self._lanes.get(thread)
        if lane is None and not self._is_full(peer):
            lane = self._lanes[thread] = Lane(peer, self._max_queue)
            self._by_peer[peer] += 1
            worker = asyncio.create_task(self._work(thread, lane), name=f"mesh-thread-{thread}")
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)
        return lane

    def _is_full(self, peer: str) -> bool:
        return len(self._lanes) >= MAX_THREADS or self._by_peer[peer] >= MAX_THREADS_PER_PEER

    async def _may_come(self, peer: str, now: bool) -> bool:
        """Wait for a lane to end; False when all that could are paused. Raises Busy when it has to be `now`."""
        crowd = [x for x in self._lanes.values() if x.peer == peer or self._by_peer[peer] < MAX_THREADS_PER_PEER]
        idle = next((lane for lane in crowd if lane.idle), None)
        if idle is not None:
            idle.end()
        elif now:
            raise Busy(f"{len(crowd)} conversations are open already")
        elif all(lane.held for lane in crowd):
            return False
        self._moved.clear()
        await self._moved.wait()
        return True

    def _drop(self, thread: str, message: Incoming) -> None:
        logger.warning("no room: dropped peer=%s id=%s thread=%s", message.peer, message.message_id, thread)
        self._on_drop(thread, message)

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

    async def _work(self, thread: str, lane: Lane) -> None:
        try:
            while True:
                batch = lane.next()
                if batch:
                    await self._run(thread, lane, batch)
                    continue
                self._moved.set()
                if not await lane.changed(self._idle_s):
                    return
                for request in lane.new_requests():
                    if await self._turns.again(thread, request):
                        lane.remove(request)
        finally:
            # No await since the lane was seen empty: no message can have come in between.
            del self._lanes[thread]
            self._by_peer -= Counter((lane.peer,))  # drops the peer with its last lane
            self._moved.set()

    async def _run(self, thread: str, lane: Lane, batch: list[Incoming]) -> None:
        taken = True
        async with self._room(batch[-1].hops):
            try:
                taken = await self._turns.take(thread, batch)
            except Exception:  # one turn must not take the conversation's later messages with it
                logger.exception("turn broke thread=%s ids=%s", thread, [m.message_id for m in batch])
        if taken:
            lane.release()
        else:
            lane.hold(batch)
            await self._turns.held(lane.messages)
