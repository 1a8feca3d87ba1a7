"""A pair of members for the tests of tools and remote agents: `far.a` asks here, `b` is served as each test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from chatixia_langchain import Incoming, LocalMesh, Mesh, MeshAgent

Handler = Callable[[Incoming], Awaitable[str]]


class Far:
    """The asker's mesh, and the far end: what it was asked, how it answers, and how its turns ended."""

    def __init__(self, local: LocalMesh, a: Mesh) -> None:
        self.local, self.a = local, a
        self.asked: list[Incoming] = []
        self.cancelled = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def serve(self, agent: Any, name: str = "b") -> Mesh:
        """Let `agent` answer as peer `name`; a handler's requests are noted, and whether one was cancelled."""
        mesh = await self.local.join(name)
        self._tasks.append(asyncio.create_task(MeshAgent(mesh, self._noted(agent)).serve()))
        await self.a.wait_for_peer(name)
        return mesh

    def _noted(self, agent: Any) -> Any:
        if not asyncio.iscoroutinefunction(agent):
            return agent

        async def handler(message: Incoming) -> Any:
            self.asked.append(message)
            try:
                return await agent(message)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise

        return handler

    async def stop(self) -> None:
        """End the far end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.fixture
async def far() -> AsyncIterator[Far]:
    """`await far.serve(agent)` first."""
    async with LocalMesh(transport="memory") as local:
        made = Far(local, await local.join("a"))
        yield made
        await made.stop()


async def echo(message: Incoming) -> str:
    """Answer with what was asked; "fail" fails."""
    if message.content == "fail":
        raise RuntimeError("inside")
    return f"echo: {message.content}"


class Writer:
    """A peer that writes its answer word by word; it goes on past the first word when `go` is set.

    So whatever was seen before `go` was seen while it still wrote.
    """

    def __init__(self, *words: str, step: int = 0) -> None:
        self.go = asyncio.Event()
        self._words, self._step = words or ("one ", "two ", "three"), step

    async def __call__(self, message: Incoming) -> str:
        """Answer."""
        for n, word in enumerate(self._words):
            await message.chunk(word, self._step)
            if n == 0:
                await self.go.wait()
        return "".join(self._words)
