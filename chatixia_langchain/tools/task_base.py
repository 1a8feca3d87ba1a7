"""What the tools for tasks share: where the tasks are kept, and how one stands now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableConfig
from pydantic import Field

from ..agent import text
from ..errors import MeshError
from ..mesh.types import Reply
from .base import Call, tool_runtime
from .door import DoorTool
from .tasks import OVER, MeshTask, TaskBook, TaskTable, settled

ASK_AGAIN_S = 2.0  # after a restart: how long a look waits for the peer to answer again

Known = Mapping[str, MeshTask]


class TaskTool(DoorTool):
    """Base of the five. `book` keeps the tasks where no graph has the state key `mesh_tasks`."""

    book: TaskBook = Field(exclude=True, repr=False)

    async def _work(self, arguments: dict[str, Any], runtime: Any, config: RunnableConfig | None) -> tuple[Any, Any]:
        call = Call.of(self.mesh.name, runtime, config, to=arguments.get("peer", ""))
        state, thread = getattr(tool_runtime(runtime), "state", None), call.conversation or ""
        kept: Known | None = state["mesh_tasks"] if isinstance(state, Mapping) and "mesh_tasks" in state else None
        said, tasks = await self._do(arguments, call, self.book.of(thread) if kept is None else kept)
        artifact = {id_: dict(task) for id_, task in tasks.items()}
        if kept is None:
            self.book.put(thread, tasks)
            return said, artifact
        from langgraph.types import Command  # there is a graph, so it is installed

        message = ToolMessage(said, tool_call_id=runtime.tool_call_id, name=self.name, artifact=artifact)
        return Command(update={"mesh_tasks": tasks, "messages": [message]}), artifact

    async def _do(self, arguments: dict[str, Any], call: Call, known: Known) -> tuple[str, dict[str, MeshTask]]:
        """Do it; returns what the model reads, and the tasks that changed."""
        raise NotImplementedError

    def _find(self, known: Known, task_id: str) -> MeshTask:
        task = known.get(task_id)
        if task is None:
            raise ValueError(text.no_such_task(task_id, known))
        self._check(task["peer"])
        return task

    @property
    def _table(self) -> TaskTable:
        return TaskTable.of(self.mesh)

    async def _look(self, task: MeshTask) -> tuple[MeshTask, Reply | MeshError | None]:
        """The task as it stands now, and what its ask came to.

        An ask that this process does not know goes again under its id.
        """
        if task["status"] in OVER:
            return task, None
        wait_s = 0.0
        if task["message_id"] not in self._table:
            await self._table.start(self.mesh, task)
            wait_s = ASK_AGAIN_S
        outcome = await self._table.outcome(task["message_id"], wait_s)
        return settled(task, outcome, _said(outcome)), outcome


def _said(outcome: Reply | MeshError | None) -> str:
    if outcome is None:
        return ""
    if isinstance(outcome, MeshError):
        return text.error(outcome)
    waits = [i.value for i in outcome.interrupts]
    return text.waits_for_human(outcome.peer, waits) if waits else outcome.content
