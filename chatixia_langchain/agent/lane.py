"""What waits in one conversation: messages, and decisions that overtake them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from ..errors import Busy, MeshError
from ..mesh.types import Incoming

logger = logging.getLogger(__name__)

MAX_BATCH = 32  # messages of one turn: more would not fit a model's attention
MAX_DECISIONS = 8  # that wait at once; each is one question to one human, further ones are refused as busy
HELD_MARGIN_S = 0.25  # a held request is failed this long before its time is over, so that its asker hears why


class Lane:
    """The mail of one thread, for one worker. All on one loop; times by its clock.

    `held` is set while the thread is paused: then only decisions are handed out, until something changes. At most
    `size` messages wait (and `MAX_BATCH` more, when a batch is put back); `Router.feed` says what happens past it.
    """

    def __init__(self, peer: str, size: int) -> None:
        self.peer, self._size = peer, size
        self._waiting: deque[tuple[float, Incoming]] = deque()  # with when its time is over
        self._decisions: deque[tuple[float, Incoming]] = deque()
        self._new: list[Incoming] = []  # requests that came while held
        self.held = False
        self.idle = False
        self._ending = False
        self._mail = asyncio.Event()
        self._room = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._decisions)

    @property
    def full(self) -> bool:
        """True when no further message may wait."""
        return len(self._waiting) >= self._size

    async def has_room(self) -> bool:
        """Wait for room; False when the thread is paused and full, so that none will come."""
        while self.full:
            if self.held:
                return False
            self._room.clear()
            await self._room.wait()
        return True

    @property
    def messages(self) -> list[Incoming]:
        """What waits, decisions apart."""
        return [message for _, message in self._waiting]

    def put(self, message: Incoming) -> None:
        """Add a message at the end."""
        self._waiting.append((_now() + message.ttl_s, message))
        if self.held and message.expects_reply:
            self._new.append(message)
        self._wake()

    def decide(self, message: Incoming) -> None:
        """Add a decision, ahead of all messages. Raises Busy when too many wait."""
        if len(self._decisions) >= MAX_DECISIONS:
            raise Busy(f"{MAX_DECISIONS} decisions wait in this conversation already")
        self._decisions.append((_now() + message.ttl_s, message))
        self._wake()

    def next(self) -> list[Incoming]:
        """Take what the next turn is for, with what is left of the time of each; [] when there is nothing to run."""
        if self._decisions:
            return [_aged(self._decisions.popleft())]
        if self.held:
            return []
        batch: list[Incoming] = []
        while self._waiting and len(batch) < MAX_BATCH:
            if batch and self._waiting[0][1].expects_reply:
                break
            batch.append(_aged(self._waiting.popleft()))
            if batch[-1].expects_reply:
                break
        if batch:
            self._room.set()
        return batch

    def hold(self, batch: list[Incoming]) -> None:
        """The thread is paused: put `batch` back to the front."""
        now = _now()
        self._waiting.extendleft((now + m.ttl_s, m) for m in reversed(batch))
        self.held = True
        self._room.set()  # whoever waits for room learns that none will come

    def release(self) -> None:
        """A turn was taken: look at the front again."""
        self.held = False
        self._new.clear()
        self._room.set()

    async def changed(self, idle_s: float) -> bool:
        """Wait until something may be handed out; False when nothing came for `idle_s`, or `end` was called.

        Held requests whose time is over are failed here, and cancelled ones are dropped.
        """
        while not self._mail.is_set():
            await self._expire()
            self.idle = not len(self)
            try:
                async with asyncio.timeout(self._patience(idle_s)):
                    await self._mail.wait()
            except TimeoutError:
                if not len(self) and not self._mail.is_set():
                    return False
            finally:
                self.idle = False
        self._mail.clear()
        if self._ending and not len(self):
            return False
        self._ending = False
        return True

    def new_requests(self) -> list[Incoming]:
        """The requests that came while held; from now on the front is looked at again."""
        new, self._new = self._new, []
        self.held = False
        return new

    def remove(self, request: Incoming) -> None:
        """Take out a request that was answered."""
        self._waiting = deque(w for w in self._waiting if w[1] is not request)
        self._room.set()

    def end(self) -> None:
        """Let the worker end now, if nothing came in between."""
        self._ending, self.idle = True, False
        self._mail.set()

    def _wake(self) -> None:
        self.idle = False
        self._mail.set()

    def _patience(self, idle_s: float) -> float | None:
        """How long to wait: until the first held request is over; without an end when only messages are held."""
        if not len(self):
            return idle_s
        ends = [end - HELD_MARGIN_S for end, m in self._waiting if m.expects_reply]
        return max(0.0, min(ends) - _now()) if ends else None

    async def _expire(self) -> None:
        now = _now()
        over = [
            w for w in self._waiting if w[1].expects_reply and (w[0] - HELD_MARGIN_S <= now or w[1].cancelled.is_set())
        ]
        if not over:
            return
        self._waiting = deque(w for w in self._waiting if w not in over)
        self._room.set()
        for _, request in over:
            await fail_held(request)


async def fail_held(request: Incoming) -> None:
    """Fail a request that waited in vain for a decision."""
    why = "the conversation waits for a human's decision, and did for as long as the request may wait"
    try:
        await request.fail(MeshError(why, code="held", executed="no"))
    except MeshError as exc:  # the mesh is closed: nobody can be told
        logger.info("held, and not told peer=%s id=%s: %s", request.peer, request.message_id, exc)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _aged(waiting: tuple[float, Incoming]) -> Incoming:
    end, message = waiting
    message.ttl_s = max(0.0, end - _now())
    return message
