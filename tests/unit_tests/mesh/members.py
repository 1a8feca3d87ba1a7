"""Members of one process, for tests of the mesh: a hub, meshes on it, and handlers that answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

from chatixia_langchain import Incoming, Mesh
from chatixia_langchain.transport.memory import MemoryHub


class Members:
    """Starts meshes on one hub, and closes them."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.hub = MemoryHub()
        self._stack = stack
        self._tasks: list[asyncio.Task[None]] = []

    async def join(self, name: str, **settings: Any) -> Mesh:
        """A started mesh on the hub."""
        return await self._stack.enter_async_context(Mesh(name, transport=self.hub.transport(name), **settings))

    def serve(self, mesh: Mesh, handler: Callable[[Incoming], Awaitable[Any]]) -> None:
        """Run `handler` for each message, each in a task of its own, as an agent does."""

        async def loop() -> None:
            async with asyncio.TaskGroup() as group:
                async for incoming in mesh.incoming():
                    group.create_task(handler(incoming))  # type: ignore[arg-type]

        self._tasks.append(asyncio.create_task(loop()))

    async def stop(self) -> None:
        """End the handlers; an error in one is an error of the test."""
        for task in self._tasks:
            if not task.done():
                task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


async def echo(incoming: Incoming) -> None:
    """Answer with what was asked."""
    await incoming.reply(f"re:{incoming.content}")
