"""One mesh, many loops and threads: calls from elsewhere run on the mesh's own loop."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from ..errors import MeshClosed

T = TypeVar("T")

NEVER = "blocking here would never end. Use 'await' instead."
PROBE_S = 1.0  # longer than a loop that works is away


class Portal:
    """The way onto a mesh's loop. Made on that loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    @property
    def here(self) -> bool:
        """True when the running loop is the mesh's."""
        return asyncio.get_running_loop() is self.loop

    def submit(self, work: Callable[..., Awaitable[T]], *args: Any) -> Future[T]:
        """Start `work(*args)` on the mesh's loop, from anywhere. Raises MeshClosed when that loop no longer runs."""
        if not self.loop.is_running():
            raise MeshClosed("the loop of this mesh does not run any more", executed="no")
        return asyncio.run_coroutine_threadsafe(_run(work, args), self.loop)

    async def call(self, work: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run `work(*args)` on the mesh's loop and await it, from any loop. Cancelling cancels it there."""
        if self.here:
            return await work(*args)
        return await asyncio.wrap_future(self.submit(work, *args))

    def call_sync(self, work: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run `work(*args)` on the mesh's loop and block until it is done.

        Raises RuntimeError at once on the thread of the mesh's loop, and within seconds when that thread waits for this
        one (a sync call there, that runs its tools in threads): blocking would be a deadlock.
        """
        if threading.get_ident() == self._thread:
            raise RuntimeError(f"this is the thread of the mesh's own loop: {NEVER}")
        future = self.submit(work, *args)
        try:
            while not wait([future], PROBE_S).done:
                if self._waits():
                    raise RuntimeError(f"a sync call on the thread of the mesh's own loop waits for this one: {NEVER}")
            return future.result()
        except BaseException:  # KeyboardInterrupt: take the work along
            future.cancel()
            raise

    def _waits(self) -> bool:
        """True when the thread of the mesh's loop stands still in a wait for another thread, and not in its loop."""
        alive = threading.Event()
        self.loop.call_soon_threadsafe(alive.set)
        if alive.wait(PROBE_S):
            return False
        frame = sys._current_frames().get(self._thread)
        return frame is not None and frame.f_code.co_filename == threading.__file__


async def _run(work: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> T:
    return await work(*args)
