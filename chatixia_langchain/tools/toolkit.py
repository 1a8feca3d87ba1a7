"""`MeshToolkit`: the mesh as tools.

Their names are fixed, so that prompts, limits and approvals hold while peers come and go.
"""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.tools import BaseTool, BaseToolkit
from pydantic import ConfigDict, Field, PrivateAttr

from ..mesh.mesh import Mesh
from .base import allow_list
from .fanout_tool import MeshAskManyTool
from .mesh_tool import MeshTool
from .peers_tools import MeshBroadcastTool, MeshListPeersTool, MeshSendTool
from .task_tools import (
    TASK_TIMEOUT_S,
    MeshCancelTaskTool,
    MeshCheckTaskTool,
    MeshListTasksTool,
    MeshStartTaskTool,
    MeshUpdateTaskTool,
)
from .tasks import TaskBook


class MeshToolkit(BaseToolkit):
    """The mesh as tools.

    `mesh_list_peers`, `mesh_ask`, `mesh_send`, `mesh_broadcast`, `mesh_ask_many`, and for work of minutes
    `mesh_start_task`, `mesh_check_task`, `mesh_update_task`, `mesh_cancel_task`, `mesh_list_tasks`.

    Setup:
        The mesh must be started before a tool is called, not before the toolkit is made.

    Instantiation:
        `MeshToolkit(mesh)`. `allow` limits which peers the model sees and reaches, by every tool. `per_peer=True`
        adds one `ask_<peer>` tool for each peer that is online now; `MeshMiddleware(mesh, per_peer_tools=True)` keeps
        up with peers that come and go. `task_timeout` is how long one run of a task may take, in seconds.

    Invocation:
        `tools = {t.name: t for t in MeshToolkit(mesh).get_tools()}`, then
        `await tools["mesh_ask"].ainvoke({"peer": "researcher", "message": "hello"})`.

    Within an agent:
        `create_agent(model, MeshToolkit(mesh).get_tools())`. With `MeshMiddleware` the tasks live in the graph's state
        and survive a restart; without it they live in this object, apart for each thread.

    Raises ValueError from `get_tools` when two tools have the same name: two peers' names can give one.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    mesh: Mesh = Field(exclude=True, repr=False)
    allow: frozenset[str] | None = None
    per_peer: bool = False
    task_timeout_s: float | None = TASK_TIMEOUT_S
    _book: TaskBook = PrivateAttr(default_factory=TaskBook)

    def __init__(
        self,
        mesh: Mesh,
        *,
        allow: Sequence[str] | None = None,
        per_peer: bool = False,
        task_timeout: float | None = TASK_TIMEOUT_S,
    ) -> None:
        super().__init__(
            mesh=mesh,  # type: ignore[call-arg]  # pydantic fields of this class
            allow=allow_list(allow),
            per_peer=per_peer,
            task_timeout_s=task_timeout,
        )

    def get_tools(self) -> list[BaseTool]:
        """Return the tools."""
        tools = [*self._fixed(), *self._tasks(), *self._each()]
        names = [t.name for t in tools]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"two tools have the same name, of two peers perhaps: {', '.join(twice)}")
        return tools

    def _fixed(self) -> list[BaseTool]:
        mesh, allow = self.mesh, self.allow
        return [
            MeshListPeersTool(mesh=mesh, allow=allow),
            MeshTool(mesh, allow=None if allow is None else sorted(allow)),
            MeshSendTool(mesh=mesh, allow=allow),
            MeshBroadcastTool(mesh=mesh, allow=allow),
            MeshAskManyTool(mesh=mesh, allow=allow),
        ]

    def _each(self) -> list[BaseTool]:
        online = [p.id for p in self.mesh.peers.values() if self.per_peer and p.state != "offline"]
        return [MeshTool(self.mesh, peer=p) for p in online if self.allow is None or p in self.allow]

    def _tasks(self) -> list[BaseTool]:
        mesh, allow, book = self.mesh, self.allow, self._book
        return [
            MeshStartTaskTool(mesh=mesh, allow=allow, book=book, timeout_s=self.task_timeout_s),
            MeshCheckTaskTool(mesh=mesh, allow=allow, book=book),
            MeshUpdateTaskTool(mesh=mesh, allow=allow, book=book),
            MeshCancelTaskTool(mesh=mesh, allow=allow, book=book),
            MeshListTasksTool(mesh=mesh, allow=allow, book=book),
        ]
