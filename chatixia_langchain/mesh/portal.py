"""One mesh, many loops and threads: calls from elsewhere run on the mesh's own loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from ..errors import MeshClosed

T = TypeVar("T")


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

        Raises RuntimeError at once on the thread of the mesh's loop: blocking there would be a deadlock.
        """
        if threading.get_ident() == self._thread:
            raise RuntimeError(
                "this is the thread of the mesh's own loop: blocking here would never end. Use 'await' instead."
            )
        future = self.submit(work, *args)
        try:
            return future.result()
        except BaseException:  # KeyboardInterrupt: take the work along
            future.cancel()
            raise


async def _run(work: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> T:
    return await work(*args)
