"""What the tools of the toolkit share: one coroutine of work, and a door to it from every thread and loop."""

# Annotations are no strings here: LangChain reads those of `_run` and `_arun` on each call, and would compile them.
from typing import Any, Literal

from langchain_core.callbacks import AsyncCallbackManagerForToolRun, CallbackManagerForToolRun
from langchain_core.runnables import RunnableConfig

from ..errors import PeerUnreachable
from ..mesh.types import Peer
from .base import MeshBaseTool, told

READ_ONLY = {"readOnlyHint": True}
"""`metadata` of a tool that changes nothing: the MCP annotation. A policy lets peers' turns use it."""


class DoorTool(MeshBaseTool):
    """A tool whose `_work` runs on the mesh's loop. `allow` limits the peers it shows and reaches; None is all."""

    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"
    allow: frozenset[str] | None = None

    def _run(
        self,
        *,
        runtime: Any = None,
        config: RunnableConfig,  # langchain-core passes it for this very annotation, for no other
        run_manager: CallbackManagerForToolRun | None = None,
        **arguments: Any,
    ) -> tuple[Any, Any]:
        with told():
            return self.mesh.call_sync(self._work, arguments, runtime, config)

    async def _arun(
        self,
        *,
        runtime: Any = None,
        config: RunnableConfig,  # langchain-core passes it for this very annotation, for no other
        run_manager: AsyncCallbackManagerForToolRun | None = None,
        **arguments: Any,
    ) -> tuple[Any, Any]:
        with told():
            return await self.mesh.call(self._work, arguments, runtime, config)

    async def _work(self, arguments: dict[str, Any], runtime: Any, config: RunnableConfig | None) -> tuple[Any, Any]:
        """Do it; returns what the model reads, and the artifact. MeshError and ValueError are told to the model."""
        raise NotImplementedError

    def _check(self, *peers: str) -> None:
        """Raise PeerUnreachable for a peer that is not on the allow-list."""
        for peer in peers:
            if self.allow is not None and peer not in self.allow:
                raise PeerUnreachable(peer, "it is not among the peers this tool may reach")

    def _allowed(self) -> list[Peer]:
        """The peers this tool may show, by name."""
        peers = self.mesh.peers.values()
        return sorted((p for p in peers if self.allow is None or p.id in self.allow), key=lambda p: p.id)
