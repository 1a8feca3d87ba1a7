"""A `LocalMesh` on a loop in a thread of its own: for tests of any kind, with a loop or without."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from ..mesh.local import LocalMesh
from ..mesh.mesh import Mesh

T = TypeVar("T")


class HostedLocalMesh(LocalMesh):
    """A `LocalMesh` that is entered by `with`. `await join(...)` from any loop, `join_sync(...)` without one.

    Its members are plain `Mesh`es that live on that loop: await them from any loop, or use their `sync`.
    """

    def __init__(self, *, transport: str | None = None, **settings: Any) -> None:
        super().__init__(transport=transport, **settings)
        self._scope: AbstractContextManager[BlockingPortal] | None = None
        self._portal: BlockingPortal | None = None

    def __enter__(self) -> HostedLocalMesh:
        """Start the loop and the registry. Raises what `LocalMesh.start` raises."""
        scope = start_blocking_portal(backend="asyncio", name="local-mesh")
        portal = scope.__enter__()
        try:
            portal.call(self.start)
        except BaseException as exc:
            scope.__exit__(type(exc), exc, exc.__traceback__)
            raise
        self._scope, self._portal = scope, portal
        return self

    def __exit__(self, *exc: object) -> None:
        scope, portal = self._scope, self._portal
        self._scope = self._portal = None
        if scope is None or portal is None:
            return
        try:
            portal.call(self.aclose)
        finally:
            scope.__exit__(None, None, None)

    async def join(self, name: str, **options: Any) -> Mesh:
        """See `LocalMesh.join`; from any loop."""
        return await self._there(partial(super().join, name, **options))

    def join_sync(self, name: str, **options: Any) -> Mesh:
        """`join`, for a thread without a loop."""
        return self._running.call(partial(super().join, name, **options))

    async def _there(self, work: Callable[[], Awaitable[T]]) -> T:
        return await asyncio.wrap_future(self._running.start_task_soon(work))

    @property
    def _running(self) -> BlockingPortal:
        if self._portal is None:
            raise RuntimeError("this mesh is not open: use it in a 'with' block")
        return self._portal
