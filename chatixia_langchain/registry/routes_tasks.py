"""The task queue over HTTP: the mailbox of agents without a direct way to each other."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from .auth import own_names
from .bodies import ClaimBody, HeartbeatBody, ResultBody, TaskBody
from .deps import Caller, TheRegistry, until
from .guard import Refusal
from .keys import Identity
from .routes_directory import register
from .state import Registry
from .tasks import Task

router = APIRouter(tags=["tasks"])
MAX_PER_HEARTBEAT = 64
NO_TASK = Refusal("not_found", "not found")


@router.post("/api/hub/heartbeat")
async def heartbeat(body: HeartbeatBody, registry: TheRegistry, caller: Caller) -> dict[str, Any]:
    """A sign of life: renews the leases of claimed tasks and brings waiting ones. An unknown agent is registered."""
    fields = body.model_dump(include={"hostname", "ip", "port", "status", "mode", "sidecar_peer_id"}, exclude_none=True)
    if body.skill_names is not None:
        known = registry.directory.get(body.agent_id)
        fields["capabilities"] = {**(known.capabilities if known else {}), "skills": body.skill_names}
    register(registry, caller, body.agent_id, fields)
    registry.tasks.renew(peer=caller.peer_id, agent_id=body.agent_id, now=registry.now(), only=body.running)
    return {"status": "ok", "pending_tasks": _claim(registry, caller, body.agent_id, MAX_PER_HEARTBEAT) or []}


@router.post("/api/hub/claim")
async def claim(body: ClaimBody, request: Request, registry: TheRegistry, caller: Caller) -> dict[str, Any]:
    """Take waiting tasks; with `wait_s` the answer comes as soon as there is one."""
    if not registry.may_speak_for(caller, body.agent_id):
        raise Refusal("forbidden", f"{caller.peer_id!r} may not claim for {body.agent_id!r}")
    topics = [f"agent:{n}" for n in registry.names_of(caller, body.agent_id)]
    topics += [f"skill:{s}" for s in registry.skills_of(body.agent_id)]
    tasks = await until(
        request, registry, topics, lambda: _claim(registry, caller, body.agent_id, body.max), body.wait_s
    )
    return {"tasks": tasks or []}


@router.post("/api/hub/tasks")
async def submit(body: TaskBody, registry: TheRegistry, caller: Caller) -> dict[str, str]:
    """Leave a task for an agent, or for any agent with a skill."""
    target, skill = body.target_agent_id or "", body.skill or ""
    if not target and not skill:
        raise Refusal("invalid_line", "name a target_agent_id or a skill: nobody could claim this task")
    source = body.source_agent_id or caller.peer_id
    if not (source in own_names(caller.peer_id) or registry.may_speak_for(caller, source)):
        raise Refusal("forbidden", f"{caller.peer_id!r} may not submit as {source!r}")
    task, is_new = registry.tasks.submit(
        source_peer=caller.peer_id,
        source_agent_id=source,
        target_agent_id=registry.directory.canonical(target),
        skill=skill,
        payload=body.payload or {},
        ttl=body.ttl,
        key=body.id or "",
        now=registry.now(),
    )
    if is_new:
        registry.audit.note(
            "task_submitted", task=task.id, peer=caller.peer_id, target=task.target_agent_id, skill=skill
        )
        registry.announce([task])
    return {"task_id": task.id}


@router.get("/api/hub/tasks/all")
async def all_tasks(registry: TheRegistry, caller: Caller) -> list[dict[str, Any]]:
    """The caller's tasks; an admin sees all."""
    return [t.public() for t in registry.tasks.all() if registry.may_see(caller, t)]


@router.get("/api/hub/tasks/{task_id}")
async def get_task(
    task_id: str,
    request: Request,
    registry: TheRegistry,
    caller: Caller,
    wait_s: Annotated[float, Query(ge=0, le=30, allow_inf_nan=False)] = 0,
) -> dict[str, Any]:
    """One task; with `wait_s` the answer comes as soon as it is finished."""
    task = registry.tasks.get(task_id)
    if task is None or not registry.may_see(caller, task):
        raise NO_TASK
    await until(request, registry, [f"task:{task_id}"], lambda: task if task.is_finished else None, wait_s)
    return task.public()


@router.post("/api/hub/tasks/{task_id}")
async def finish(task_id: str, body: ResultBody, registry: TheRegistry, caller: Caller) -> dict[str, str]:
    """Report the outcome of a task that the caller claimed."""
    task = registry.tasks.get(task_id)
    if task is None or task.claimer_peer != caller.peer_id:
        raise NO_TASK
    registry.tasks.finish(task, state=body.state, result=body.result or "", error=body.error or "", now=registry.now())
    registry.audit.note("task_finished", task=task.id, peer=caller.peer_id, state=task.state)
    registry.announce([task])
    return {"status": "ok", "state": task.state}  # the first outcome counts: this may be an earlier one


def _claim(registry: Registry, caller: Identity, agent_id: str, limit: int) -> list[dict[str, Any]] | None:
    """Tasks for `agent_id`, now assigned to it, or None."""
    tasks: list[Task] = registry.tasks.claim(
        peer=caller.peer_id,
        agent_id=agent_id,
        names=registry.names_of(caller, agent_id),
        skills=registry.skills_of(agent_id),
        limit=limit,
        now=registry.now(),
    )
    for task in tasks:
        registry.audit.note("task_claimed", task=task.id, peer=caller.peer_id, agent=agent_id, attempt=task.attempts)
    return [task.public() for task in tasks] or None
