"""One mesh of each transport for a whole module, with members that come and go with each test."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from chatixia_langchain import InboundPolicy, LocalMesh, Mesh, MeshAgent
from chatixia_langchain.testing import FakeMesh

from ...support import sidecar_binary

TRANSPORTS = ("memory", "sidecar", "aiortc", "mailbox", "bad")
PATHS = {"memory": "memory", "sidecar": "channel", "aiortc": "channel", "mailbox": "mailbox", "bad": "memory"}
BAD: Any = {"loss": 0.1, "duplicate": 0.1, "delay": (0.0, 0.01), "seed": 11}  # a channel breaks at every tenth frame
ALL_TOOLS = InboundPolicy(tools="all")


class World:
    """A mesh over one transport. Names are used once, so that no test meets the leftovers of another."""

    def __init__(self, transport: str, local: LocalMesh | FakeMesh) -> None:
        self.transport, self.path = transport, PATHS[transport]
        self.streams = transport not in ("mailbox", "bad")  # there an answer comes whole, or may
        self._local, self._numbers = local, itertools.count()
        self._tasks: list[asyncio.Task[None]] = []
        self._members: list[Mesh] = []

    async def join(self, *names: str, **options: Any) -> list[Mesh]:
        """Members who all see each other; the name of each begins with the one given."""
        joined = [await self._local.join(f"{name}{next(self._numbers)}", **options) for name in names]
        self._members += joined
        assert {mesh.transport_name for mesh in joined} == {"memory" if self.transport == "bad" else self.transport}
        for one, other in itertools.permutations(joined, 2):
            await one.wait_for_peer(other.name, timeout=30)
        return joined

    def serve(self, mesh: Mesh, agent: Any, policy: InboundPolicy = ALL_TOOLS) -> None:
        """Let `agent` answer for `mesh` until the test ends."""
        self._tasks.append(asyncio.create_task(MeshAgent(mesh, agent, policy=policy).serve()))

    async def pair(self, agent: Any, **options: Any) -> tuple[Mesh, str]:
        """One who asks, and the name of the one who answers by `agent`."""
        me, peer = await self.join("me", "peer", **options)
        self.serve(peer, agent)
        return me, peer.name

    async def clear(self) -> None:
        """All members leave; what broke while an agent was served is an error of the test."""
        await asyncio.gather(*(mesh.aclose() for mesh in self._members))
        tasks, self._tasks, self._members = self._tasks, [], []
        await asyncio.wait_for(asyncio.gather(*tasks), 20)


@asynccontextmanager
async def _open(transport: str) -> AsyncIterator[World]:
    if transport == "bad":
        async with FakeMesh("nobody", **BAD) as fake:
            yield World(transport, fake)
        assert fake.wire.breaks > 20, "it was bad"
        return
    more = {"sidecar_binary": sidecar_binary()} if transport == "sidecar" else {}
    async with LocalMesh(transport=transport, **more) as local:
        yield World(transport, local)


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=[pytest.param(t, marks=[pytest.mark.sidecar] if t == "sidecar" else []) for t in TRANSPORTS],
)
async def _mesh(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    if request.param == "aiortc":
        pytest.importorskip("aiortc")
    async with _open(request.param) as world:
        yield world


@pytest_asyncio.fixture(loop_scope="module")
async def world(_mesh: World) -> AsyncIterator[World]:
    """The mesh of this transport, with nobody on it yet. Tests that use it share the module's loop."""
    yield _mesh
    await _mesh.clear()
