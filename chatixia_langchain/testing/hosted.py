"""A `LocalMesh` on a loop in a thread of its own: for tests of any kind, with a loop or without."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from anyio.from_thread import BlockingPortal

from ..mesh.local import LocalMesh
from ..mesh.mesh import Mesh
from ..mesh.own_loop import OwnLoop

T = TypeVar("T")


class HostedLocalMesh(LocalMesh):
    """A `LocalMesh` that is entered by `with`. `await join(...)` from any loop, `join_sync(...)` without one.

    Its members are plain `Mesh`es that live on that loop: await them from any loop, or use their `sync`.
    """

    def __init__(self, *, transport: str | None = None, **settings: Any) -> None:
        super().__init__(transport=transport, **settings)
        self._own_loop = OwnLoop("local-mesh", self.start, self.aclose)

    def __enter__(self) -> HostedLocalMesh:
        """Start the loop and the registry. Raises what `LocalMesh.start` raises."""
        self._own_loop.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self._own_loop.close()

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
        if self._own_loop.portal is None:
            raise RuntimeError("this mesh is not open: use it in a 'with' block")
        return self._own_loop.portal
