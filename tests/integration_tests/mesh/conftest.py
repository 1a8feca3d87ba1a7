"""A mesh of this machine with a real registry process and real sidecars."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest

from chatixia_langchain import Incoming, LocalMesh, Mesh
from chatixia_langchain.transport.sidecar import SidecarTransport

from ...support import sidecar_binary as sidecar_binary
from ...support import until as until


@pytest.fixture
async def local() -> AsyncIterator[LocalMesh]:
    """Members with a sidecar each."""
    async with LocalMesh(transport="sidecar", sidecar_binary=sidecar_binary()) as mesh:
        yield mesh


@pytest.fixture(params=["sidecar", "aiortc"])
async def webrtc(request: pytest.FixtureRequest) -> AsyncIterator[LocalMesh]:
    """Members with a sidecar each, or with aiortc."""
    settings = {"sidecar_binary": sidecar_binary()} if request.param == "sidecar" else {}
    async with LocalMesh(transport=request.param, **settings) as mesh:
        yield mesh


class Echo:
    """Answers every message of a mesh, and counts how often each id was run."""

    def __init__(self, mesh: Mesh, pause_s: float = 0.0) -> None:
        self.runs: Counter[str] = Counter()
        self._pause_s = pause_s
        self._task = asyncio.create_task(self._serve(mesh))

    async def _serve(self, mesh: Mesh) -> None:
        async with asyncio.TaskGroup() as group:
            async for incoming in mesh.incoming():
                self.runs[incoming.message_id] += 1
                group.create_task(self._answer(incoming))

    async def _answer(self, incoming: Incoming) -> None:
        if self._pause_s:
            await asyncio.sleep(self._pause_s)
        await incoming.reply(f"re:{incoming.content}")

    async def stop(self) -> None:
        """End it."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@pytest.fixture
async def echo() -> AsyncIterator[Callable[..., Echo]]:
    """`echo(mesh)` starts one."""
    made: list[Echo] = []

    def start(mesh: Mesh, pause_s: float = 0.0) -> Echo:
        made.append(Echo(mesh, pause_s))
        return made[-1]

    yield start
    for one in made:
        await one.stop()


def sidecar_of(mesh: Mesh) -> SidecarTransport:
    """The transport of a member, to find its process."""
    engine = mesh._lifetime.engine
    assert engine is not None
    assert isinstance(engine.core.transport, SidecarTransport)
    return engine.core.transport
