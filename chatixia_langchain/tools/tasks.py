"""Long work of peers: what is known of a task, and the asks that run for it.

- a `MeshTask` is plain JSON. It lives in the graph's state, where `merge_tasks` merges it by id, or in a `TaskBook`
- a `TaskTable` holds the asks, one table for a mesh, on the mesh's loop; an ask is found by the message id in the task
- message ids come from the tool calls. A tool node that runs again starts nothing twice; after a restart of this
  process the ask goes again under the same id, and the peer answers again instead of working again
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, TypedDict
from weakref import WeakKeyDictionary

from ..errors import Busy, Cancelled, MeshError
from ..mesh.budget import Usage
from ..mesh.mesh import Mesh
from ..mesh.types import DETACHED, Reply

logger = logging.getLogger(__name__)

MAX_RUNNING = 64  # asks of one mesh at once; past it a new task is refused as busy
MAX_OUTCOMES = 64  # answers kept after their ask; one that was dropped is asked for again under its id
MAX_TASKS = 100  # tasks of one graph's state, or of one toolkit; past it the oldest that is over is forgotten
MAX_RESULT_CHARS = 16_000  # of a result: the state is written at every step, and a model reads it whole

Status = Literal["running", "success", "error", "cancelled", "interrupted"]
OVER = ("success", "error", "cancelled")


class MeshTask(TypedDict):
    """One task. `revision` counts what this agent did to it: a look that is older never undoes a cancellation."""

    task_id: str
    peer: str
    description: str
    instructions: str  # the text of the present run
    resume: dict[str, Any] | None  # what a human decided: the present run goes on with it, instead of with a text
    message_id: str
    conversation: str
    timeout_s: float | None
    status: Status
    result: str
    usage: dict[str, Any]  # of all its runs, by peer: `Usage.to_json`
    revision: int
    created_at: str
    updated_at: str


def merge_tasks(old: Mapping[str, MeshTask] | None, new: Mapping[str, MeshTask] | None) -> dict[str, MeshTask]:
    """The reducer of the state key `mesh_tasks`: by id, the higher revision wins, then the later one."""
    merged = dict(old or {})
    for id_, task in (new or {}).items():
        if id_ not in merged or task["revision"] >= merged[id_]["revision"]:
            merged[id_] = task
    for id_ in [i for i, t in merged.items() if t["status"] != "running"][: max(0, len(merged) - MAX_TASKS)]:
        del merged[id_]
    return merged


def changed(task: MeshTask, **fields: Any) -> MeshTask:
    """A copy of `task` with `fields`, dated now; what is over is not asked again, and needs no text for it."""
    if fields["status"] in OVER:
        fields["instructions"] = ""
    return {**task, **fields, "updated_at": now()}  # type: ignore[typeddict-item]


def running_again(task: MeshTask, message_id: str, **fields: Any) -> MeshTask:
    """The task with a new run."""
    return changed(task, message_id=message_id, status="running", result="", revision=task["revision"] + 1, **fields)


def settled(task: MeshTask, outcome: Reply | MeshError | None, said: str) -> MeshTask:
    """The task after a look at its ask: `outcome` None runs on, `said` is the text of anything else."""
    if outcome is None:
        return task
    if isinstance(outcome, MeshError):
        status: Status = "cancelled" if outcome.code == "cancelled" else "error"
        return changed(task, status=status, result=_capped(said))
    if task["status"] == "interrupted":  # seen before, and counted
        return task
    usage = Usage.decode(task["usage"])
    usage.add_peer(task["peer"], outcome.usage)
    status = "interrupted" if outcome.interrupts else "success"
    return changed(task, status=status, result=_capped(said), usage=usage.to_json())


def now() -> str:
    """The time, in UTC, as ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _capped(said: str) -> str:
    if len(said) <= MAX_RESULT_CHARS:
        return said
    return f"{said[:MAX_RESULT_CHARS]}\n[cut off: {len(said)} characters in all]"


class TaskBook:
    """The tasks where no graph keeps them, by thread: what one conversation started, no other sees. Bounded."""

    def __init__(self) -> None:
        self._tasks: dict[str, dict[str, MeshTask]] = {}

    def of(self, thread: str) -> dict[str, MeshTask]:
        """The tasks of a thread."""
        return self._tasks.get(thread, {})

    def put(self, thread: str, tasks: Mapping[str, MeshTask]) -> None:
        """Add or change tasks of a thread; past `MAX_TASKS` in all, the thread changed longest ago is forgotten."""
        self._tasks[thread] = merge_tasks(self._tasks.pop(thread, None), tasks)
        while len(self._tasks) > 1 and sum(map(len, self._tasks.values())) > MAX_TASKS:
            del self._tasks[next(iter(self._tasks))]


class TaskTable:
    """The asks of one mesh's tasks, by message id. All methods on the mesh's loop."""

    _of: ClassVar[WeakKeyDictionary[Mesh, TaskTable]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._asks: dict[str, asyncio.Task[Reply | MeshError]] = {}

    @classmethod
    def of(cls, mesh: Mesh) -> TaskTable:
        """The table of `mesh`: toolkits that are made anew find what runs."""
        return cls._of.setdefault(mesh, cls())

    def __contains__(self, message_id: str) -> bool:
        return message_id in self._asks

    @property
    def running(self) -> int:
        """How many asks run now."""
        return sum(not ask.done() for ask in self._asks.values())

    async def start(self, mesh: Mesh, task: MeshTask) -> None:
        """Run the ask of `task`, unless it runs or ran already.

        Raises Busy when `MAX_RUNNING` run, ValueError or MeshError for what cannot even be sent.
        """
        id_ = task["message_id"]
        if id_ in self._asks:
            return
        if self.running >= MAX_RUNNING:
            raise Busy(f"{MAX_RUNNING} tasks run already: cancel one, or wait until one is done")
        self._forget()
        ask = self._asks[id_] = asyncio.create_task(_ask(mesh, task), name=f"mesh-task-{task['task_id']}")
        await asyncio.sleep(0)  # its first step checks the peer's name and the size of the text
        logger.info("task begins peer=%s id=%s", task["peer"], id_)
        refused = ask.exception() or ask.result() if ask.done() else None
        if isinstance(refused, Exception):
            del self._asks[id_]
            raise refused

    async def outcome(self, message_id: str, wait_s: float = 0.0) -> Reply | MeshError | None:
        """The answer, its error, or None while it runs; waits for it at most `wait_s` seconds."""
        ask = self._asks[message_id]
        if not ask.done():
            await asyncio.wait({ask}, timeout=wait_s)
        if ask.cancelled():
            return Cancelled("the task was stopped")
        return ask.result() if ask.done() else None

    async def stop(self, message_id: str) -> None:
        """Cancel the ask, if it runs; the peer is told, and stops."""
        ask = self._asks.get(message_id)
        if ask is not None and not ask.done():
            logger.info("task is stopped id=%s", message_id)
            ask.cancel()
            await asyncio.gather(ask, return_exceptions=True)

    def _forget(self) -> None:
        done = [id_ for id_, ask in self._asks.items() if ask.done()]
        for id_ in done[: max(0, len(done) - MAX_OUTCOMES + 1)]:
            del self._asks[id_]


async def _ask(mesh: Mesh, task: MeshTask) -> Reply | MeshError:
    """The ask of a task. An error is its outcome; ValueError (what cannot be sent) raises, and so do bugs."""
    try:
        return await mesh.ask(
            task["peer"],
            task["instructions"] if task["resume"] is None else "",
            conversation=task["conversation"],
            message_id=task["message_id"],
            timeout=task["timeout_s"],
            meta={DETACHED: True} | ({} if task["resume"] is None else {"resume": task["resume"]}),
        )
    except MeshError as exc:
        return exc


def with_status(tasks: Iterable[MeshTask], status: str | None) -> list[MeshTask]:
    """The tasks of one status, oldest first; None means all."""
    return sorted((t for t in tasks if status in (None, "all", t["status"])), key=lambda t: t["created_at"])
