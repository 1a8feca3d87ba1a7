"""The directory: which agents there are, what they can do, and whether they live. Pure: `now` in epoch seconds.

- an agent is `active` for ACTIVE_S after its last sign of life, then `stale` until OFFLINE_S, then `offline`;
- a heartbeat is a sign of life, and so is a sidecar that is online; a sidecar that was online and went away makes its
  agent `stale` at once, until the agent itself is heard again;
- a record belongs to the peer that registered it; records that were offline for KEPT_S are forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from ..errors import Busy
from .store import Store

Health = Literal["active", "stale", "offline"]
KIND: Final = "agent"
ACTIVE_S: Final = 90.0  # six heartbeats of 15 s
OFFLINE_S: Final = 270.0
KEPT_S: Final = 24 * 3600.0
MAX_AGENTS: Final = 10_000  # all together; more are refused with Busy
MAX_PER_OWNER: Final = 64  # one peer cannot fill the directory


class Agent(msgspec.Struct):
    """One record. `owner` is the peer that registered it."""

    agent_id: str
    owner: str
    registered_at: float
    last_heartbeat: float
    hostname: str = ""
    ip: str = ""
    port: int = 8000
    sidecar_peer_id: str = ""
    capabilities: dict[str, Any] = {}
    status: str = "active"
    mode: str = ""
    card: dict[str, Any] | None = None
    sidecar_lost_at: float = 0.0

    def skills(self) -> list[str]:
        """Names of all its skills, from the card and from `capabilities`, each once."""
        listed = self.capabilities.get("skills")
        names = [s for s in listed if isinstance(s, str)] if isinstance(listed, list) else []
        cards = (self.card or {}).get("skills")
        names += [s["name"] for s in cards if isinstance(s, dict) and isinstance(s.get("name"), str)] if cards else []
        return list(dict.fromkeys(names))


class Directory:
    """All agents, written through to `store`; heartbeats alone are not written."""

    def __init__(self, store: Store, is_online: Callable[[str], bool]) -> None:
        self._store, self._is_online = store, is_online
        self._agents: dict[str, Agent] = {}
        self._turn: dict[str, str] = {}  # skill -> who was given out last; at most one entry a skill that was asked for
        for key, body in store.load(KIND):
            self._agents[key] = msgspec.json.decode(body, type=Agent)

    def get(self, agent_id: str) -> Agent | None:
        """The record, or None."""
        return self._agents.get(agent_id)

    def owner(self, agent_id: str) -> str | None:
        """The peer that registered `agent_id`, or None."""
        agent = self._agents.get(agent_id)
        return agent.owner if agent else None

    def put(self, agent_id: str, owner: str, fields: dict[str, Any], now: float) -> Agent:
        """Register `agent_id`, or replace the given fields of its record; a sign of life. Raises Busy when full.

        `owner` may do so, and owns the record from now on.
        """
        agent = self._agents.get(agent_id)
        if agent is None:
            mine = sum(1 for a in self._agents.values() if a.owner == owner)
            if len(self._agents) >= MAX_AGENTS or mine >= MAX_PER_OWNER:
                raise Busy(f"the directory holds {len(self._agents)} agents, {mine} of them registered by {owner!r}")
            agent = Agent(agent_id=agent_id, owner=owner, registered_at=now, last_heartbeat=now)
            self._agents[agent_id] = agent
            changed = True
        else:
            fields = {**fields, "owner": owner}
            changed = any(getattr(agent, name) != value for name, value in fields.items())
        for name, value in fields.items():
            setattr(agent, name, value)
        agent.last_heartbeat = now
        if changed:
            self._store.put(KIND, agent_id, msgspec.json.encode(agent))
        return agent

    def delete(self, agent_id: str) -> None:
        """Forget it."""
        if self._agents.pop(agent_id, None):
            self._store.delete(KIND, agent_id)

    def sidecar_left(self, peer_id: str, now: float) -> None:
        """The sidecar of `peer_id` went offline."""
        for agent in self._agents.values():
            if peer_id in self._peer_ids(agent):
                agent.sidecar_lost_at = now

    def health(self, agent: Agent, now: float) -> Health:
        """How much life there is in it."""
        if self.online_as(agent):
            return "active"
        age = now - max(agent.last_heartbeat, agent.sidecar_lost_at)
        if age > OFFLINE_S:
            return "offline"
        return "stale" if age > ACTIVE_S or agent.sidecar_lost_at > agent.last_heartbeat else "active"

    def online_as(self, agent: Agent) -> str:
        """The peer id under which its sidecar is online, or ""."""
        return next((p for p in self._peer_ids(agent) if self._is_online(p)), "")

    def public(self, agent: Agent, now: float) -> dict[str, Any]:
        """The record of the HTTP interface, flat."""
        record = {
            "agent_id": agent.agent_id,
            "hostname": agent.hostname,
            "ip": agent.ip,
            "port": agent.port,
            "sidecar_peer_id": agent.sidecar_peer_id,
            "capabilities": agent.capabilities,
            "status": agent.status,
            "mode": agent.mode,
            "health": self.health(agent, now),
            "registered_at": _rfc3339(agent.registered_at),
            "last_heartbeat": _rfc3339(agent.last_heartbeat),
            "online": bool(self.online_as(agent)),
        }
        return record if agent.card is None else {**record, "card": agent.card}

    def all(self) -> list[Agent]:
        """All records, by id."""
        return [self._agents[k] for k in sorted(self._agents)]

    def route(self, skill: str, now: float) -> Agent | None:
        """An agent with `skill`: the active ones in turn, a stale one only when no active one is left."""
        able = [a for a in self.all() if skill in a.skills()]
        for wanted in ("active", "stale"):
            ready = [a for a in able if self.health(a, now) == wanted]
            if ready:
                last = self._turn.get(skill, "")
                chosen = next((a for a in ready if a.agent_id > last), ready[0])
                self._turn[skill] = chosen.agent_id
                return chosen
        return None

    def canonical(self, target: str) -> str:
        """The agent id for an address: old agents write `<agent_id>-sidecar`, or the sidecar's peer id."""
        if not target or target in self._agents:
            return target
        return next((a.agent_id for a in self.all() if a.sidecar_peer_id == target), target)

    def expire(self, now: float) -> list[str]:
        """Forget who has been offline for KEPT_S; returns their ids."""
        gone = [
            a.agent_id
            for a in self._agents.values()
            if self.health(a, now) == "offline" and now - a.last_heartbeat > KEPT_S
        ]
        for agent_id in gone:
            self.delete(agent_id)
        return gone

    def _peer_ids(self, agent: Agent) -> tuple[str, ...]:
        return (agent.sidecar_peer_id, agent.owner) if agent.sidecar_peer_id else (agent.owner,)


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
