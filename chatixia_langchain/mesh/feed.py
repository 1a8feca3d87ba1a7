"""Bounded queues that end with the mesh, and the objects that users iterate over."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Feed(Generic[T]):
    """A bounded queue with several takers. Belongs to one loop.

    When it is full, `put` refuses (returns False); with `drop_oldest` it drops the oldest item instead.
    """

    def __init__(self, limit: int, *, drop_oldest: bool = False) -> None:
        self.items: deque[T] = deque()
        self.limit = limit
        self.dropped = 0
        self._drop_oldest = drop_oldest
        self._waiters: deque[asyncio.Future[None]] = deque()  # one per taker that waits
        self._closed = False

    @property
    def full(self) -> bool:
        """True when `put` would refuse."""
        return len(self.items) >= self.limit

    def put(self, item: T) -> bool:
        """Add an item; False when the queue is full or closed."""
        if self._closed:
            return False
        if len(self.items) >= self.limit:
            if not self._drop_oldest:
                return False
            self.items.popleft()
            self.dropped += 1
        self.items.append(item)
        self._wake_one()
        return True

    async def get(self, taker: Taker[T]) -> T:
        """Take the next item. Raises StopAsyncIteration when the queue or the taker was closed and nothing is left."""
        while taker.closed or not self.items:
            if self._closed or taker.closed:
                raise StopAsyncIteration
            waiter = taker.waiting = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.cancelled():
                    if waiter in self._waiters:  # not when an item, or the end, came in the same moment
                        self._waiters.remove(waiter)
                elif self.items:
                    self._wake_one()  # it was our turn: pass it on, so that no item is left lying
                raise
        return self.items.popleft()

    def close(self) -> None:
        """End the iteration of all takers once the queue is empty."""
        self._closed = True
        while self._waiters:
            self._wake_one()

    def _wake_one(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def discard(self, waiter: asyncio.Future[None]) -> None:
        """Wake one waiter out of turn: its taker was closed."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        if not waiter.done():
            waiter.set_result(None)


class Taker(Generic[T]):
    """What `mesh.incoming()` and `mesh.peer_events()` return: `async for` over it, or `__anext__`; from any loop.

    Closing the mesh, or `aclose()`, ends the iteration. Cancelling a wait loses no item.
    """

    def __init__(
        self,
        feed: Feed[T],
        bridge: Callable[[Callable[..., Awaitable[Any]]], Awaitable[Any] | None],
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self._feed, self._bridge, self._on_close = feed, bridge, on_close
        self.closed = False
        self.waiting: asyncio.Future[None] | None = None

    def __aiter__(self) -> Taker[T]:
        return self

    async def __anext__(self) -> T:
        """The next item."""
        other = self._bridge(self._next)
        item: T = await self._next() if other is None else await other
        if item is _END:
            raise StopAsyncIteration
        return item

    def nowait(self) -> T | None:
        """The next item, or None when none waits. On the mesh's own loop only."""
        return self._feed.items.popleft() if self._feed.items and not self.closed else None

    async def _next(self) -> Any:
        # StopAsyncIteration does not travel through futures, so the end is an item here.
        try:
            return await self._feed.get(self)
        except StopAsyncIteration:
            return _END

    async def aclose(self) -> None:
        """End this iteration; other takers of the same queue go on. Idempotent."""
        other = self._bridge(self._close)
        await (self._close() if other is None else other)

    async def _close(self) -> None:
        if not self.closed and self._on_close is not None:
            self._on_close()
        self.closed = True
        if self.waiting is not None:
            self._feed.discard(self.waiting)


_END: Any = object()
