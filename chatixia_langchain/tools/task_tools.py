"""Tools for work of minutes: start a task at a peer, look at it, change it, stop it, list them.

The shape is that of Deep Agents' async subagents, the worker an agent on another machine.
"""

from __future__ import annotations

import uuid
from typing import Any, Literal

from pydantic import BaseModel, Field

from ..agent import text
from ..errors import MeshError
from ..mesh.types import Reply
from .approval import RemoteInterrupted, ask_human, resume
from .base import Call, Injected
from .door import READ_ONLY
from .task_base import Known, TaskTool
from .tasks import MeshTask, changed, now, running_again, with_status

TASK_TIMEOUT_S = 1800.0  # half an hour of work: as long as a peer's policy gives one request by default

TASK_ID = Field(description="The task_id that mesh_start_task returned, unchanged.")


class StartTaskInput(BaseModel):
    """Arguments of a start."""

    peer: str = Field(description="The agent that is to do it, as mesh_list_peers names it.")
    description: str = Field(description="What to do. Self-contained: that agent cannot see this conversation.")
    runtime: Injected = None


class TaskInput(BaseModel):
    """Arguments of a look, or a cancellation."""

    task_id: str = TASK_ID
    runtime: Injected = None


class UpdateTaskInput(TaskInput):
    """Arguments of an update."""

    instructions: str = Field(description="What to do now, or what to know besides.")


class ListTasksInput(BaseModel):
    """Arguments of the list."""

    status: Literal["running", "success", "error", "cancelled", "interrupted", "all"] | None = Field(
        default=None, description="Only tasks that stand so; all when left out."
    )
    runtime: Injected = None


class MeshStartTaskTool(TaskTool):
    """Give a peer work that takes long; returns a task id at once.

    Instantiation:
        By `MeshToolkit(mesh).get_tools()`, or by `MeshMiddleware(mesh)`.

    Invocation:
        `await tool.ainvoke({"peer": "researcher", "description": "Read it all."})`. The artifact is the new task, by
        its id.

    Within an agent:
        A tool node that runs again starts nothing twice. Past 64 tasks that run, a new one is refused as busy.
    """

    name: str = "mesh_start_task"
    description: str = text.START_TASK
    args_schema: Any = StartTaskInput
    timeout_s: float | None = TASK_TIMEOUT_S

    async def _do(self, arguments: dict[str, Any], call: Call, known: Known) -> tuple[str, dict[str, MeshTask]]:
        peer, description = arguments["peer"], arguments["description"]
        self._check(peer)
        message_id = call.message_id or uuid.uuid4().hex
        id_ = f"task-{message_id[:16]}"
        if id_ in known:  # the tool node runs again
            return text.task_started(id_, peer), {id_: known[id_]}
        task = MeshTask(
            task_id=id_, peer=peer, description=description[: text.MAX_CARD_CHARS], instructions=description,
            message_id=message_id, conversation=id_, resume=None, timeout_s=self.timeout_s, status="running",
            result="", usage={}, revision=0, created_at=now(), updated_at=now(),
        )  # fmt: skip
        await self._table.start(self.mesh, task)
        return text.task_started(id_, peer), {id_: task}


class MeshCheckTaskTool(TaskTool):
    """See how a task stands, and its result. Where the peer waits for a human, this graph asks its own.

    Instantiation:
        By `MeshToolkit(mesh).get_tools()`, or by `MeshMiddleware(mesh)`.

    Invocation:
        `await tool.ainvoke({"task_id": task_id})`. The artifact is the task, by its id.

    Within an agent:
        It only reads: a turn that a peer started may use it. After a restart it asks the peer again under the same id.
    """

    name: str = "mesh_check_task"
    description: str = text.CHECK_TASK
    args_schema: Any = TaskInput
    metadata: dict[str, Any] | None = READ_ONLY

    async def _do(self, arguments: dict[str, Any], call: Call, known: Known) -> tuple[str, dict[str, MeshTask]]:
        task, outcome = await self._look(self._find(known, arguments["task_id"]))
        if isinstance(outcome, Reply) and outcome.interrupts:
            task = await self._decided(task, outcome, call)
        return text.task_report(task), {task["task_id"]: task}

    async def _decided(self, task: MeshTask, paused: Reply, call: Call) -> MeshTask:
        """The task goes on with what the human said. Raises GraphInterrupt until it was said."""
        of = task["message_id"] if task["resume"] is None else str(task["resume"]["of"])
        try:
            values = ask_human(paused, of, resumable=call.message_id is not None)
        except RemoteInterrupted:  # nobody can be asked here: the task says what it waits for
            return task
        told = resume(paused, of, values)
        task = running_again(task, told["message_id"], resume=told["meta"]["resume"])
        await self._table.start(self.mesh, task)
        return task


class MeshUpdateTaskTool(TaskTool):
    """Stop the present run of a task, and go on in its conversation with new instructions.

    Instantiation:
        By `MeshToolkit(mesh).get_tools()`, or by `MeshMiddleware(mesh)`.

    Invocation:
        `await tool.ainvoke({"task_id": task_id, "instructions": "Only the part on gulls."})`.

    Within an agent:
        Refused as `held` while the peer waits for a human: that is to be decided first.
    """

    name: str = "mesh_update_task"
    description: str = text.UPDATE_TASK
    args_schema: Any = UpdateTaskInput

    async def _do(self, arguments: dict[str, Any], call: Call, known: Known) -> tuple[str, dict[str, MeshTask]]:
        task, _ = await self._look(self._find(known, arguments["task_id"]))
        if task["status"] == "interrupted":
            raise MeshError(task["result"], code="held", executed="no")
        await self._table.stop(task["message_id"])
        message_id = call.message_id or uuid.uuid4().hex
        task = running_again(task, message_id, instructions=arguments["instructions"], resume=None)
        await self._table.start(self.mesh, task)
        return text.task_updated(task["task_id"], task["peer"]), {task["task_id"]: task}


class MeshCancelTaskTool(TaskTool):
    """Stop a task; the peer is told.

    Instantiation:
        By `MeshToolkit(mesh).get_tools()`, or by `MeshMiddleware(mesh)`.

    Invocation:
        `await tool.ainvoke({"task_id": task_id})`. A task that was over already stays as it is.

    Within an agent:
        An older look at the task, on its way at the same time, does not undo the cancellation.
    """

    name: str = "mesh_cancel_task"
    description: str = text.CANCEL_TASK
    args_schema: Any = TaskInput

    async def _do(self, arguments: dict[str, Any], call: Call, known: Known) -> tuple[str, dict[str, MeshTask]]:
        # Its answer may be here already; and of a run from before a restart, only one that was asked again can be told.
        task, _ = await self._look(self._find(known, arguments["task_id"]))
        if task["status"] in ("running", "interrupted"):
            await self._table.stop(task["message_id"])
            task = changed(task, status="cancelled", revision=task["revision"] + 1)
        return text.task_cancelled(task), {task["task_id"]: task}


class MeshListTasksTool(TaskTool):
    """List the tasks of this conversation, and how each stands now.

    Instantiation:
        By `MeshToolkit(mesh).get_tools()`, or by `MeshMiddleware(mesh)`.

    Invocation:
        `await tool.ainvoke({"status": "running"})`; all without `status`.

    Within an agent:
        It only reads: a turn that a peer started may use it.
    """

    name: str = "mesh_list_tasks"
    description: str = text.LIST_TASKS
    args_schema: Any = ListTasksInput
    metadata: dict[str, Any] | None = READ_ONLY

    async def _do(self, arguments: dict[str, Any], call: Call, known: Known) -> tuple[str, dict[str, MeshTask]]:
        mine = [t for t in known.values() if self.allow is None or t["peer"] in self.allow]
        live = {t["task_id"]: await self._now(t) for t in mine}
        shown = with_status(live.values(), arguments.get("status"))
        return text.task_list(shown), {id_: t for id_, t in live.items() if t is not known[id_]}

    async def _now(self, task: MeshTask) -> MeshTask:
        if task["message_id"] not in self._table:
            return task  # of before a restart: a look at it asks again
        return (await self._look(task))[0]
