"""Directory records: signs of life, turns, ownership, bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chatixia_langchain.errors import Busy
from chatixia_langchain.registry.directory import ACTIVE_S, KEPT_S, MAX_PER_OWNER, OFFLINE_S, Directory
from chatixia_langchain.registry.store import MemoryStore, SqliteStore


class Town:
    """A directory and the set of peers whose sidecar is online."""

    def __init__(self) -> None:
        self.online: set[str] = set()
        self.directory = Directory(MemoryStore(), self.online.__contains__)

    def put(self, name: str, *, now: float = 0.0, skills: tuple[str, ...] = (), **fields: Any) -> None:
        self.directory.put(name, name, {"capabilities": {"skills": list(skills)}, **fields}, now)

    def health(self, name: str, now: float) -> str:
        agent = self.directory.get(name)
        assert agent is not None
        return self.directory.health(agent, now)

    def route(self, skill: str, now: float) -> str | None:
        agent = self.directory.route(skill, now)
        return agent.agent_id if agent else None


@pytest.fixture
def town() -> Town:
    return Town()


def test_health_follows_the_last_heartbeat(town: Town) -> None:
    town.put("a", now=100)
    at = {100 + ACTIVE_S: "active", 101 + ACTIVE_S: "stale", 100 + OFFLINE_S: "stale", 101 + OFFLINE_S: "offline"}
    assert {now: town.health("a", now) for now in at} == at


def test_live_sidecar_keeps_its_agent_active(town: Town) -> None:
    town.put("a", now=0)
    town.online.add("a")
    assert town.health("a", 10_000) == "active"


def test_lost_sidecar_makes_stale_at_once_until_heard_again(town: Town) -> None:
    """kill -9 of an agent and its sidecar is known when the socket ends, not 90 s later."""
    town.put("a", now=0)
    town.online.add("a")
    town.online.remove("a")
    town.directory.sidecar_left("a", 10)
    assert town.health("a", 11) == "stale"
    town.put("a", now=15)
    assert town.health("a", 16) == "active"


def test_route_takes_the_healthy_in_turn(town: Town) -> None:
    for name in ("a", "b", "c"):
        town.put(name, now=0, skills=("sum",))
    town.put("d", now=0, skills=("other",))
    assert [town.route("sum", 1) for _ in range(4)] == ["a", "b", "c", "a"]
    town.put("b", now=100, skills=("sum",))
    assert [town.route("sum", 120) for _ in range(2)] == ["b", "b"]
    assert town.route("sum", 100 + ACTIVE_S + 1) in ("a", "b", "c"), "stale is better than nobody"
    assert town.route("sum", 1000) is None
    assert town.route("nothing", 1) is None


def test_skills_come_from_card_and_capabilities(town: Town) -> None:
    town.put("a", skills=("x", "y"), card={"description": "", "skills": [{"name": "y"}, {"name": "z"}]})
    agent = town.directory.get("a")
    assert agent is not None
    assert agent.skills() == ["x", "y", "z"]


def test_public_record_is_flat_and_dated(town: Town) -> None:
    town.put("a", now=0, hostname="h", card={"description": "d", "skills": []})
    agent = town.directory.get("a")
    assert agent is not None
    assert town.directory.public(agent, 1) == {
        "agent_id": "a",
        "hostname": "h",
        "ip": "",
        "port": 8000,
        "sidecar_peer_id": "",
        "capabilities": {"skills": []},
        "status": "active",
        "mode": "",
        "health": "active",
        "registered_at": "1970-01-01T00:00:00+00:00",
        "last_heartbeat": "1970-01-01T00:00:00+00:00",
        "online": False,
        "card": {"description": "d", "skills": []},
    }


def test_address_of_an_old_agent_is_understood(town: Town) -> None:
    town.put("a", sidecar_peer_id="a-sidecar")
    assert town.directory.canonical("a-sidecar") == "a"
    assert town.directory.canonical("unknown") == "unknown"


def test_no_target_stays_no_target(town: Town) -> None:
    """An agent without a sidecar id has an empty one: it must not be taken for the target of every skill task."""
    town.put("a")
    assert town.directory.canonical("") == ""


def test_one_peer_cannot_fill_the_directory(town: Town) -> None:
    for i in range(MAX_PER_OWNER):
        town.directory.put(f"x{i}", "greedy", {}, 0)
    with pytest.raises(Busy):
        town.directory.put("one-more", "greedy", {}, 0)
    town.directory.put("x0", "greedy", {}, 1)
    town.directory.put("other", "modest", {}, 0)


def test_long_offline_is_forgotten(town: Town) -> None:
    town.put("gone", now=0)
    town.put("here", now=0)
    town.online.add("here")
    assert town.directory.expire(KEPT_S) == []
    assert town.directory.expire(KEPT_S + 1) == ["gone"]
    assert [a.agent_id for a in town.directory.all()] == ["here"]


def test_restart_keeps_records(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "r.db")
    Directory(store, lambda _: False).put("a", "owner", {"hostname": "h"}, 5)
    agent = Directory(store, lambda _: False).get("a")
    assert agent is not None
    assert (agent.owner, agent.hostname, agent.registered_at) == ("owner", "h", 5)
    store.close()
