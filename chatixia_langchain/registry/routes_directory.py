"""The directory over HTTP, and the topology."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse

from .bodies import AgentBody
from .deps import Caller, TheRegistry
from .guard import Refusal
from .keys import Identity
from .state import Registry
from .topology import topology

router = APIRouter(tags=["directory"])
NOT_FOUND = {"error": "not found"}


def register(registry: Registry, caller: Identity, agent_id: str, fields: dict[str, Any]) -> None:
    """Create or change a record, if `caller` may. Raises Refusal; Busy when the directory is full."""
    if not registry.may_register(caller, agent_id):
        raise Refusal("forbidden", f"{caller.peer_id!r} may not register {agent_id!r}: it belongs to another peer")
    sidecar = fields.get("sidecar_peer_id")
    if sidecar and sidecar not in (caller.peer_id, f"{agent_id}-sidecar", agent_id):
        raise Refusal("forbidden", f"sidecar_peer_id {sidecar!r} belongs to another peer")
    if registry.directory.get(agent_id) is None:
        registry.audit.note("agent_registered", agent=agent_id, peer=caller.peer_id)
    registry.directory.put(agent_id, caller.peer_id, fields, registry.now())


@router.post("/api/registry/agents")
async def put_agent(body: AgentBody, registry: TheRegistry, caller: Caller) -> dict[str, str]:
    """Register an agent, or replace its record."""
    fields = body.model_dump(exclude={"agent_id", "card"})
    fields["card"] = body.card.model_dump(exclude_none=True) if body.card else None
    register(registry, caller, body.agent_id, fields)
    return {"status": "ok"}


@router.get("/api/registry/agents")
async def list_agents(registry: TheRegistry, caller: Caller) -> list[dict[str, Any]]:
    """All agents, with their cards and how alive they are."""
    now = registry.now()
    return [registry.directory.public(agent, now) for agent in registry.directory.all()]


@router.get("/api/registry/agents/{agent_id}", response_model=None)
async def get_agent(agent_id: str, registry: TheRegistry, caller: Caller) -> dict[str, Any] | JSONResponse:
    """One agent."""
    agent = registry.directory.get(agent_id)
    if agent is None:
        return JSONResponse(NOT_FOUND, status_code=404)
    return registry.directory.public(agent, registry.now())


@router.delete("/api/registry/agents/{agent_id}", response_model=None)
async def delete_agent(agent_id: str, registry: TheRegistry, caller: Caller) -> dict[str, str] | JSONResponse:
    """Forget an agent: one's own, or any for an admin."""
    owner = registry.directory.owner(agent_id)
    if owner is None:
        return JSONResponse(NOT_FOUND, status_code=404)
    if not caller.is_admin and not registry.may_speak_for(caller, agent_id):
        raise Refusal("forbidden", f"{agent_id!r} belongs to another peer")
    registry.directory.delete(agent_id)
    registry.audit.note("agent_deleted", agent=agent_id, peer=caller.peer_id)
    return {"status": "ok"}


@router.get("/api/registry/route")
async def route(
    registry: TheRegistry, caller: Caller, skill: str = Query(min_length=1, max_length=256)
) -> dict[str, Any]:
    """An agent that has `skill`: the healthy ones in turn."""
    now = registry.now()
    agent = registry.directory.route(skill, now)
    if agent is None:
        return {"error": "no agent found with skill", "skill": skill}
    return registry.directory.public(agent, now)


@router.get("/api/hub/network/topology")
async def network(registry: TheRegistry, caller: Caller) -> dict[str, Any]:
    """Nodes and edges as the sidecars report them."""
    now, directory = registry.now(), registry.directory
    agents = [{**directory.public(a, now), "peer_id": registry.peer_of(a)} for a in directory.all()]
    relay = registry.sockets.relay
    return topology(agents, relay.online(), relay.links())
