"""`LocalMesh`: a whole mesh on this machine, without any set-up.

    async with LocalMesh() as local:
        planner = await local.join("planner")
        researcher = await local.join("researcher", description="knows things")

It runs the real thing: a registry process, and one sidecar per member when the binary is there. With
`transport="memory"` there is neither; the members meet inside this process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import MeshClosed
from ..transport.memory import MemoryHub
from .local_registry import LocalRegistry
from .mesh import Mesh

logger = logging.getLogger(__name__)


class LocalMesh:
    """A whole mesh on this machine: a registry process, and members with a sidecar each where the binary is found.

    Setup:
        The extra `registry`; none with `transport="memory"`, where the members meet inside this process.

    Instantiation:
        `LocalMesh()`. `settings` are those of `Mesh`, for every member.

    Invocation:
        `async with LocalMesh() as local:`, then `await local.join("planner")`. All ends with the block. Members in
        other processes use `registry_url` and `api_key(name)`.

    Within an agent:
        `create_agent(model, [MeshTool(await local.join("planner"), peer="researcher")])`: members are plain `Mesh`es.
    """

    def __init__(self, *, transport: str | None = None, **settings: Any) -> None:
        self._transport, self._settings = transport, settings
        self._hub = MemoryHub() if transport == "memory" else None
        self._registry: LocalRegistry | None = None
        self.members: dict[str, Mesh] = {}
        self._open = False

    async def start(self) -> LocalMesh:
        """Start the registry. Raises LinkDown when it does not come up."""
        if self._hub is None and not self._open:
            registry = LocalRegistry()
            try:
                await registry.start()
            except BaseException:
                await registry.aclose()
                raise
            self._registry = registry
        self._open = True
        return self

    @property
    def registry(self) -> LocalRegistry:
        """The registry process. Raises MeshClosed when there is none."""
        if self._registry is None:
            raise MeshClosed("this LocalMesh has no registry: it is not open, or its transport is memory")
        return self._registry

    @property
    def registry_url(self) -> str:
        """Base URL of the registry, for members in other processes; "" with `transport="memory"`."""
        return "" if self._registry is None else self._registry.url

    def api_key(self, name: str) -> str:
        """The API key of the member `name`, for a member in another process. Raises MeshClosed without a registry."""
        return self.registry.key(name)

    async def join(
        self, name: str, *, description: str = "", skills: Sequence[str | Mapping[str, Any]] = (), **settings: Any
    ) -> Mesh:
        """Start a member and return it; it is closed with this object, or before by its own `aclose`.

        Raises ValueError for a name that is taken, MeshClosed when this is not open, and what `Mesh.start` raises.
        """
        if not self._open:
            raise MeshClosed("this LocalMesh is not open: use it in an 'async with' block")
        if name in self.members and not self.members[name].closed:
            raise ValueError(f"there is a member called {name!r} already")
        options: dict[str, Any] = {"description": description, "skills": skills, **self._settings, **settings}
        if self._hub is not None:
            mesh = Mesh(name, transport=self._hub.transport(name), **options)
        else:
            options.setdefault("transport", self._transport)
            mesh = Mesh(name, registry=self.registry_url, api_key=self.registry.key(name), **options)
        self.members[name] = mesh
        try:
            return await mesh.start()
        except BaseException:
            del self.members[name]
            raise

    async def aclose(self) -> None:
        """Close the members, all at once, then the registry. Idempotent."""
        self._open = False
        members, self.members = list(self.members.values()), {}
        try:
            for result in await asyncio.gather(*(m.aclose() for m in members), return_exceptions=True):
                if isinstance(result, Exception):
                    logger.error("a member could not be closed", exc_info=result)
        finally:
            registry, self._registry = self._registry, None
            if registry is not None:
                await registry.aclose()

    async def __aenter__(self) -> LocalMesh:
        return await self.start()

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()
