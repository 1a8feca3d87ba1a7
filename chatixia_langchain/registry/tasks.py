"""The task queue, which is the mailbox. Pure: `now` is an argument, in epoch seconds that never jump.

- `submit` -> pending; `claim` -> assigned, with a lease; `finish` -> completed or failed; `expire(now)` does the rest;
- a lease that is not renewed puts the task back to pending; after MAX_ATTEMPTS leases it has failed;
- a task with a target is for that agent alone; one with only a skill is for any agent that has it;
- every number and size has a bound: past it `submit` raises Busy and nothing was accepted.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from itertools import islice
from typing import Any, Final, Literal

import msgspec

from ..errors import Busy
from .store import Store

State = Literal["pending", "assigned", "completed", "failed"]
KIND: Final = "task"
LEASE_S: Final = 30.0  # two heartbeats of 15 s
MAX_ATTEMPTS: Final = 5
MAX_TTL_S: Final = 3600.0
DEFAULT_TTL_S: Final = 300.0
FINISHED_KEPT_S: Final = 600.0
MAX_WAITING: Final = 1024  # unfinished tasks per target: a burst for an agent that is away
MAX_WAITING_BYTES: Final = 16 * 1024 * 1024  # the same in bytes
MAX_TASKS: Final = 100_000  # all together, finished ones that are still readable included
MAX_TOTAL_BYTES: Final = 256 * 1024 * 1024


class Task(msgspec.Struct):
    """One task. The fields up to `ttl` are what callers see; the rest is ours."""

    id: str
    skill: str
    target_agent_id: str
    source_agent_id: str
    payload: dict[str, Any]
    created_at: float
    updated_at: float
    ttl: float
    state: State = "pending"
    assigned_agent_id: str = ""
    result: str = ""
    error: str = ""
    attempts: int = 0
    source_peer: str = ""
    claimer_peer: str = ""
    lease_until: float = 0.0
    key: str = ""
    size: int = 0

    @property
    def is_finished(self) -> bool:
        """True when nothing will happen to it any more."""
        return self.state in ("completed", "failed")

    @property
    def queue(self) -> str:
        """Where it waits: the queue of its target, or else of its skill."""
        return f"agent:{self.target_agent_id}" if self.target_agent_id else f"skill:{self.skill}"

    def public(self) -> dict[str, Any]:
        """The record of the HTTP interface."""
        shown = ("id", "skill", "target_agent_id", "source_agent_id", "assigned_agent_id", "payload", "state")
        rest = ("result", "error", "created_at", "updated_at", "ttl", "attempts")
        return {name: getattr(self, name) for name in shown + rest}


class Tasks:
    """All tasks, written through to `store`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tasks: dict[str, Task] = {}
        self._pending: dict[str, dict[str, None]] = {}  # queue -> task ids, oldest first
        self._assigned: dict[tuple[str, str], set[str]] = {}  # (peer, agent id) -> tasks it holds a lease for
        self._waiting: dict[str, tuple[int, int]] = {}  # queue -> unfinished tasks and their bytes
        self._keys: dict[tuple[str, str], str] = {}
        self._bytes = 0
        for _, body in store.load(KIND):
            task = msgspec.json.decode(body, type=Task)
            self._index(task)

    def __len__(self) -> int:
        return len(self._tasks)

    def submit(
        self,
        *,
        source_peer: str,
        source_agent_id: str,
        target_agent_id: str,
        skill: str,
        payload: dict[str, Any],
        ttl: float,
        key: str,
        now: float,
    ) -> tuple[Task, bool]:
        """Add a task; returns it and whether it is new: the same `key` from the same peer names the same task.

        `ttl` in seconds, capped at MAX_TTL_S. Raises Busy when the target's queue or the whole is full.
        """
        known = self._keys.get((source_peer, key)) if key else None
        if known is not None:
            return self._tasks[known], False
        size = len(msgspec.json.encode(payload))
        task = Task(
            id=self._new_id(),
            skill=skill,
            target_agent_id=target_agent_id,
            source_agent_id=source_agent_id,
            payload=payload,
            created_at=now,
            updated_at=now,
            ttl=min(ttl, MAX_TTL_S),
            source_peer=source_peer,
            key=key,
            size=size,
        )
        number, waiting_bytes = self._waiting.get(task.queue, (0, 0))
        if number >= MAX_WAITING or waiting_bytes + size > MAX_WAITING_BYTES:
            raise Busy(f"{number} tasks with {waiting_bytes} bytes wait for {target_agent_id or skill!r} already")
        if len(self._tasks) >= MAX_TASKS or self._bytes + size > MAX_TOTAL_BYTES:
            raise Busy(f"the registry holds {len(self._tasks)} tasks with {self._bytes} bytes already")
        self._save(task)  # first: when that fails, nothing was accepted
        self._index(task)
        return task, True

    def claim(
        self, *, peer: str, agent_id: str, names: Iterable[str], skills: Iterable[str], limit: int, now: float
    ) -> list[Task]:
        """Give up to `limit` pending tasks to `agent_id` of `peer`, oldest first within a queue.

        `names` are the ids that `agent_id` is addressed by, `skills` what it can do.
        """
        taken: list[Task] = []
        for queue in [f"agent:{n}" for n in names] + [f"skill:{s}" for s in skills]:
            for task_id in list(islice(self._pending.get(queue, ()), limit - len(taken))):
                task = self._tasks[task_id]
                if task.created_at + task.ttl <= now:
                    continue  # `expire` will say so
                self._unqueue(task)
                self._assigned.setdefault((peer, agent_id), set()).add(task_id)
                task.state, task.assigned_agent_id, task.claimer_peer = "assigned", agent_id, peer
                task.lease_until, task.updated_at = now + LEASE_S, now
                task.attempts += 1
                self._save(task)
                taken.append(task)
        return taken

    def renew(self, *, peer: str, agent_id: str, now: float, only: Iterable[str] | None = None) -> None:
        """Extend the leases of `agent_id`; `only` names the tasks it still works on, None means all of them."""
        held = self._assigned.get((peer, agent_id), set())
        for task_id in held if only is None else held.intersection(only):
            self._tasks[task_id].lease_until = now + LEASE_S

    def finish(self, task: Task, *, state: Literal["completed", "failed"], result: str, error: str, now: float) -> None:
        """Record the outcome. A task that is finished already stays as it is: the first outcome counts."""
        if task.is_finished:
            return
        self._end(task, state, result, error, now)

    def get(self, task_id: str) -> Task | None:
        """The task, or None."""
        return self._tasks.get(task_id)

    def all(self) -> list[Task]:
        """All tasks, oldest first."""
        return list(self._tasks.values())

    def expire(self, now: float) -> list[Task]:
        """Let time pass: returns the tasks that changed state. Finished ones are forgotten after FINISHED_KEPT_S."""
        changed = []
        for task in list(self._tasks.values()):
            if task.is_finished:
                if task.updated_at + FINISHED_KEPT_S <= now:
                    self._forget(task)
            elif task.created_at + task.ttl <= now:
                self._end(task, "failed", "", "expired", now)
                changed.append(task)
            elif task.state == "assigned" and task.lease_until <= now:
                self._give_back(task, now)
                changed.append(task)
        return changed

    def _give_back(self, task: Task, now: float) -> None:
        if task.attempts >= MAX_ATTEMPTS:
            self._end(task, "failed", "", f"given up after {task.attempts} attempts", now)
            return
        self._unassign(task)
        # `claimer_peer` stays: a late result of the one who had it is still better than a second run.
        task.state, task.assigned_agent_id, task.updated_at = "pending", "", now
        self._pending.setdefault(task.queue, {})[task.id] = None
        self._save(task)

    def _end(self, task: Task, state: Literal["completed", "failed"], result: str, error: str, now: float) -> None:
        self._unqueue(task)
        self._unassign(task)
        self._count_waiting(task, -1)
        grown = len(result) + len(error)
        task.state, task.result, task.error, task.updated_at = state, result, error, now
        task.size += grown
        self._bytes += grown
        self._save(task)

    def _index(self, task: Task) -> None:
        self._tasks[task.id] = task
        self._bytes += task.size
        if task.key:
            self._keys[(task.source_peer, task.key)] = task.id
        if not task.is_finished:
            self._count_waiting(task, 1)
        if task.state == "pending":
            self._pending.setdefault(task.queue, {})[task.id] = None
        elif task.state == "assigned":
            self._assigned.setdefault((task.claimer_peer, task.assigned_agent_id), set()).add(task.id)

    def _unqueue(self, task: Task) -> None:
        queue = self._pending.get(task.queue)
        if queue is not None:
            queue.pop(task.id, None)
            if not queue:
                del self._pending[task.queue]

    def _unassign(self, task: Task) -> None:
        holder = (task.claimer_peer, task.assigned_agent_id)
        held = self._assigned.get(holder)
        if held is not None:
            held.discard(task.id)
            if not held:
                del self._assigned[holder]

    def _count_waiting(self, task: Task, sign: Literal[1, -1]) -> None:
        number, size = self._waiting.get(task.queue, (0, 0))
        number, size = number + sign, size + sign * task.size
        if number:
            self._waiting[task.queue] = (number, size)
        else:
            self._waiting.pop(task.queue, None)

    def _forget(self, task: Task) -> None:
        del self._tasks[task.id]
        self._keys.pop((task.source_peer, task.key), None)
        self._bytes -= task.size
        self._store.delete(KIND, task.id)

    def _save(self, task: Task) -> None:
        self._store.put(KIND, task.id, msgspec.json.encode(task))

    def _new_id(self) -> str:
        while (new := secrets.token_hex(6)) in self._tasks:
            pass
        return new
