"""`FakeMesh`: a mesh in this process over a wire as bad as you like, to test what an agent does on a bad network.

async with FakeMesh("planner", peers={"oracle": lambda text: "42"}, loss=0.2, seed=7) as mesh:
    reply = await mesh.ask("oracle", "what?")
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..mesh.mesh import Mesh
from ..mesh.sync import SyncMesh
from ..mesh.types import Incoming
from .faults import Delay, Faults, WireCounts
from .faulty_wire import FaultyHub, FaultyTransport

if TYPE_CHECKING:
    from ..agent.policy import InboundPolicy

logger = logging.getLogger(__name__)


class FakeMesh(Mesh):
    """One member of a mesh, and the mesh around it, in this process.

    A `Mesh` in everything: the same delivery, the same errors, tools and agents work on it. Beneath is a wire that
    loses, doubles and delays frames by chances drawn from `seed`; delivery makes up for it, so a test sees what a bad
    network costs, not a simulation of it.

    Setup:
        Nothing beside the package; no registry, no sidecar, no network.

    Instantiation:
        `name` is this member. `peers` are others, by name, that start with it: what `MeshAgent` serves (a graph, a chat
        model, a function of `Incoming`), or a plain function, sync or async, from the text of a message to the text of
        the answer. A function is given the `Incoming` only if its parameter is annotated so.

        - `loss`, `duplicate`: chances per frame and direction, from 0 to 0.9. A lost frame breaks its channel: real
          ones are reliable while they live, so what comes behind it is lost too, and both ends dial again. With
          `silent=True` it vanishes alone, and waits for its resend (1 s and more) while later ones pass it.
        - `delay`: seconds, or a range `(low, high)`. The order is kept unless `reorder=True`.
        - `partition`: names cut off from everybody, and pairs of names cut off from each other, from the start.
        - other settings are those of `Mesh`.

    Invocation:
        `async with FakeMesh(...) as mesh:`, or `with` for code that is not async (then `mesh.sync.join`,
        `mesh.sync.ask`). `join` adds members, `partition` and `heal` cut and mend, `wire` counts frames.

    Within an agent:
        `MeshTool(mesh, peer="oracle")`, `MeshToolkit(mesh)` and `MeshAgent(mesh, agent)` take it as they take a `Mesh`.

    Raises ValueError for a setting that is wrong, TypeError (at the start) for a peer that cannot be served.
    """

    sync: FakeSyncMesh

    def __init__(
        self,
        name: str = "me",
        *,
        peers: Mapping[str, Any] | None = None,
        loss: float = 0.0,
        duplicate: float = 0.0,
        delay: Delay = 0.0,
        reorder: bool = False,
        silent: bool = False,
        partition: Iterable[str | tuple[str, str]] = (),
        seed: int = 0,
        **settings: Any,
    ) -> None:
        faults = Faults(loss=loss, duplicate=duplicate, delay=delay, reorder=reorder, seed=seed)
        self._hub = FaultyHub(faults, silent=silent)
        super().__init__(name, transport=FaultyTransport(self._hub, name), **settings)
        self.sync = FakeSyncMesh(self)
        self.members: dict[str, Mesh] = {}
        self._first = dict(peers or {})
        self._serving: dict[str, asyncio.Task[None]] = {}
        for cut in partition:
            self.partition(*((cut,) if isinstance(cut, str) else cut))

    @property
    def wire(self) -> WireCounts:
        """What became of the frames so far, those of all members."""
        return self._hub.counts

    async def join(
        self,
        name: str,
        agent: Any = None,
        *,
        description: str = "",
        skills: Sequence[str | Mapping[str, Any]] = (),
        policy: InboundPolicy | None = None,
        **settings: Any,
    ) -> Mesh:
        """Start a member and return it; with an `agent`, its messages are answered by that. From any loop.

        Raises ValueError for a name that is taken, TypeError for an agent that cannot be served.
        """
        given: dict[str, Any] = {"description": description, "skills": skills, **settings}
        return await self.call(partial(self._join, name, agent, policy, given))

    async def _join(self, name: str, agent: Any, policy: InboundPolicy | None, settings: dict[str, Any]) -> Mesh:
        if name == self.config.name or (name in self.members and not self.members[name].closed):
            raise ValueError(f"there is a member called {name!r} already")
        mesh = Mesh(name, transport=FaultyTransport(self._hub, name), **settings)
        served = None if agent is None else _served(mesh, agent, policy)
        self.members[name] = await mesh.start()
        if served is not None:
            self._serving[name] = asyncio.create_task(served.serve(), name=f"fake-{name}")
        await self.wait_for_peer(name)  # who asks at once must not hear that nobody of this name is known
        return mesh

    async def leave(self, name: str) -> None:
        """Close a member, as a process that ends; from any loop. Raises KeyError when there is none of this name."""
        await self.call(self._leave, name)

    async def _leave(self, name: str) -> None:
        await self.members.pop(name).aclose()
        serving = self._serving.pop(name, None)
        if serving is not None:
            await serving

    def partition(self, a: str, b: str | None = None) -> None:
        """Cut `a` off from `b`, or from everybody: members stay known and online, and no frame gets through.

        From any thread. A request that was sent fails as PeerGone, one that was not as PeerUnreachable, after some 5 s
        or at its own deadline (MeshTimeout); messages wait for `heal` as long as they live.
        """
        self._hub.part(a, b)

    def heal(self) -> None:
        """End all partitions: what waits goes on by itself. From any thread."""
        self._hub.heal()

    async def start(self) -> FakeMesh:
        """Start this member and its `peers`. See `Mesh.start`."""
        await super().start()
        try:
            for name, agent in self._first.items():
                await self.join(name, agent)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def aclose(self) -> None:
        """Close all members. Idempotent; from any task, loop or thread. Raises what broke the serving of an agent."""
        portal = self._lifetime.portal
        try:
            if portal is not None and portal.loop.is_running():
                await portal.call(self._close_others)
        finally:
            await super().aclose()

    async def _close_others(self) -> None:
        members, self.members = list(self.members.values()), {}
        serving, self._serving = list(self._serving.values()), {}
        await asyncio.gather(*(m.aclose() for m in members))
        await asyncio.gather(*serving)

    async def __aenter__(self) -> FakeMesh:
        return await self.start()

    def __enter__(self) -> FakeMesh:
        super().__enter__()
        return self


class FakeSyncMesh(SyncMesh):
    """`FakeMesh.sync`: the blocking door, with `join` and `leave`."""

    def __init__(self, mesh: FakeMesh) -> None:
        super().__init__(mesh)
        self._fake = mesh

    def join(self, name: str, agent: Any = None, **options: Any) -> Mesh:
        """See `FakeMesh.join`."""
        return self._fake.call_sync(partial(self._fake.join, name, agent, **options))

    def leave(self, name: str) -> None:
        """See `FakeMesh.leave`."""
        self._fake.call_sync(self._fake.leave, name)


def _served(mesh: Mesh, agent: Any, policy: InboundPolicy | None) -> Any:
    from ..agent.mesh_agent import MeshAgent  # LangChain is imported when an agent is served, and not before

    if inspect.isroutine(agent) and not _takes_incoming(agent):
        agent = _of_text(agent)
    return MeshAgent(mesh, agent, policy=policy)


def _takes_incoming(function: Callable[..., Any]) -> bool:
    for parameter in inspect.signature(function).parameters.values():
        wanted = parameter.annotation
        return wanted is Incoming or (isinstance(wanted, str) and wanted.rpartition(".")[2] == "Incoming")
    raise TypeError(f"{function!r} takes no argument: give a function of the message's text")


def _of_text(function: Callable[[str], Any]) -> Callable[[Incoming], Any]:
    async def answer(message: Incoming) -> Any:
        if inspect.iscoroutinefunction(function):
            return await function(message.content)
        return await asyncio.to_thread(function, message.content)  # it may block, and ask others by `mesh.sync`

    return answer
