"""A loop in a thread of its own, for code that is not async: what `with Mesh(...)` runs on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal


class OwnLoop:
    """Runs `start` when it is opened and `stop` when it is closed, both on that loop. `portal` is None while closed."""

    def __init__(self, name: str, start: Callable[[], Awaitable[Any]], stop: Callable[[], Awaitable[Any]]) -> None:
        self._name, self._start, self._stop = name, start, stop
        self._scope: AbstractContextManager[BlockingPortal] | None = None
        self.portal: BlockingPortal | None = None

    def open(self) -> None:
        """Start the thread. Raises what `start` raises; the thread has ended then."""
        scope = start_blocking_portal(backend="asyncio", name=self._name)
        portal = scope.__enter__()
        try:
            portal.call(self._start)
        except BaseException as exc:
            scope.__exit__(type(exc), exc, exc.__traceback__)
            raise
        self._scope, self.portal = scope, portal

    def close(self) -> None:
        """End the thread. Idempotent. Raises what `stop` raises, and ends the thread all the same."""
        scope, portal = self._scope, self.portal
        self._scope = self.portal = None
        if scope is None or portal is None:
            return
        try:
            portal.call(self._stop)
        finally:
            scope.__exit__(None, None, None)
