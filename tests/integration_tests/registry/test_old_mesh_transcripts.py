"""What a chatixia-mesh 0.2 sidecar and agent say, byte for byte, and what they must hear."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect

from chatixia_langchain.config import Secret
from chatixia_langchain.registry.server import RegistryServer

REGISTER = '{"type":"register","peer_id":"%s","payload":null}'
PEER_LIST = '{"type":"peer_list","peer_id":"registry","payload":{"peers":%s}}'
NOTHING_S = 0.3  # how long we listen before we believe that nothing comes


class Old:
    """An old registry's clients: one registry that takes query tokens, sidecars by WebSocket, agents by HTTP."""

    def __init__(self, server: RegistryServer) -> None:
        self.server, self.http = server, httpx2.AsyncClient(base_url=server.url, timeout=20, trust_env=False)
        self.sockets: list[ClientConnection] = []

    async def sidecar(self, peer: str) -> ClientConnection:
        """Exchange the key without a body, connect with the token in the query, register."""
        answer = await self.http.post("/api/token", headers={"x-api-key": self.server.add_key(peer)})
        assert re.fullmatch(rf'{{"token":"[\w.-]+","peer_id":"{peer}","role":"agent"}}', answer.text)
        socket = await connect(f"{self.server.ws_url}?token={answer.json()['token']}", proxy=None)
        self.sockets.append(socket)
        await socket.send(REGISTER % peer)
        return socket


@pytest.fixture
async def old() -> AsyncIterator[Old]:
    with RegistryServer(allow_query_token=True, turn_urls=("turn:t:3478",), turn_secret=Secret("shared")) as server:
        made = Old(server)
        yield made
        for socket in made.sockets:
            socket.transport.abort()
        await made.http.aclose()


async def hear(socket: ClientConnection) -> str:
    """The next frame, as text."""
    return str(await asyncio.wait_for(socket.recv(), 20))


async def silent(socket: ClientConnection) -> bool:
    """True when nothing comes."""
    try:
        await asyncio.wait_for(socket.recv(), NOTHING_S)
    except TimeoutError:
        return True
    return False


async def test_two_old_sidecars_connect(old: Old) -> None:
    """The newcomer gets the list, offers, and everything crosses as it was written."""
    b = await old.sidecar("b")
    assert await hear(b) == PEER_LIST % "[]"
    a = await old.sidecar("a")
    assert await hear(a) == PEER_LIST % '["b"]'
    assert await silent(b), "an old sidecar is told of no joins"
    sdp = "v=0\\r\\no=- 1 2 IN IP4 0.0.0.0\\r\\ns=-\\r\\n"
    candidate = '{"candidate":"candidate:1 1 udp 2130706431 127.0.0.1 5000 typ host","sdpMid":"","sdpMLineIndex":0}'
    for here, there, frame in (
        (a, b, f'{{"type":"offer","peer_id":"a","target_id":"b","payload":{{"sdp":"{sdp}"}}}}'),
        (a, b, f'{{"type":"ice_candidate","peer_id":"a","target_id":"b","payload":{candidate}}}'),
        (b, a, f'{{"type":"answer","peer_id":"b","target_id":"a","payload":{{"sdp":"{sdp}"}}}}'),
        (b, a, f'{{"type":"ice_candidate","peer_id":"b","target_id":"a","payload":{candidate}}}'),
    ):
        await here.send(frame)
        assert await hear(there) == frame


async def test_old_sidecar_hears_nothing_unknown(old: Old) -> None:
    """Forged senders, unknown targets and types, heartbeats, joins and leaves: silence, and the socket lives."""
    a = await old.sidecar("a")
    assert await hear(a) == PEER_LIST % "[]"
    await a.send('{"type":"heartbeat","peer_id":"a","payload":{}}')
    await a.send('{"type":"offer","peer_id":"b","target_id":"a","payload":{"sdp":"forged"}}')
    await a.send('{"type":"offer","peer_id":"a","target_id":"nobody","payload":{"sdp":"x"}}')
    await a.send('{"type":"what","peer_id":"a","payload":null}')
    await a.send("garbage")
    b = await old.sidecar("b")
    assert await hear(b) == PEER_LIST % '["a"]'
    await b.close()
    assert await silent(a)
    await a.send(REGISTER % "a")
    assert await hear(a) == PEER_LIST % "[]"


async def test_old_sidecar_reconnects_over_its_dead_socket(old: Old) -> None:
    """It registers anew while the registry still believes in the first socket, and offers to all again."""
    b, first = await old.sidecar("b"), await old.sidecar("a")
    assert await hear(b) == PEER_LIST % "[]"
    assert await hear(first) == PEER_LIST % '["b"]'
    second = await old.sidecar("a")
    assert await hear(second) == PEER_LIST % '["b"]'
    await asyncio.wait_for(first.wait_closed(), 20)
    offer = '{"type":"offer","peer_id":"a","target_id":"b","payload":{"sdp":"again"}}'
    await second.send(offer)
    assert await hear(b) == offer


async def test_mixed_mesh(old: Old) -> None:
    """An old sidecar and a new one see each other, each in its own words."""
    a = await old.sidecar("a")
    assert await hear(a) == PEER_LIST % "[]"
    token = (await old.http.post("/api/token", headers={"x-api-key": old.server.add_key("n")})).json()["token"]
    new = await connect(old.server.ws_url, additional_headers={"Authorization": f"Bearer {token}"}, proxy=None)
    old.sockets.append(new)
    await new.send('{"type":"register","peer_id":"n","payload":{"protocol":1,"fingerprint":"f","generation":1}}')
    listed = '{"peers":["a"],"details":{"a":{"fingerprint":null,"protocol":0}}}'
    assert await hear(new) == f'{{"type":"peer_list","peer_id":"registry","payload":{listed}}}'
    await new.send('{"type":"ice_candidate","peer_id":"n","target_id":"a","payload":{"candidate":""}}')
    assert await silent(a)
    await a.close()
    assert await hear(new) == '{"type":"peer_left","peer_id":"registry","payload":{"peer_id":"a"}}'


def heartbeat(agent: str, skills: list[str]) -> dict[str, Any]:
    """The body that an old agent sends every 15 s."""
    return {
        "agent_id": agent,
        "hostname": "box",
        "ip": "10.0.0.1",
        "port": 8000,
        "status": "active",
        "mode": "interactive",
        "skills_count": len(skills),
        "goals_count": 0,
        "uptime_seconds": 12.5,
        "skill_names": skills,
        "sidecar_peer_id": f"{agent}-sidecar",
    }


async def test_old_agents_day(old: Old) -> None:
    """Registers, beats, routes, submits, is given the task, reports, and is deleted: every shape as it was."""
    keys = {name: {"x-api-key": old.server.add_key(name)} for name in ("a", "b-sidecar")}

    async def call(who: str, method: str, path: str, body: Any = None) -> Any:
        answer = await old.http.request(method, path, json=body, headers=keys[who])
        assert answer.status_code == 200, answer.text
        return answer.json()

    record = {
        "agent_id": "a",
        "hostname": "box",
        "ip": "10.0.0.1",
        "port": 8000,
        "sidecar_peer_id": "a-sidecar",
        "capabilities": {"skills": ["plan"], "mcp_servers": [], "goals_count": 0, "mode": "interactive"},
        "status": "active",
        "mode": "interactive",
    }
    assert await call("a", "POST", "/api/registry/agents", record) == {"status": "ok"}
    # b is known by its sidecar's key alone, and by its first heartbeat
    assert await call("b-sidecar", "POST", "/api/hub/heartbeat", heartbeat("b", ["sum"])) == {
        "status": "ok",
        "pending_tasks": [],
    }
    shown = {r["agent_id"]: r for r in await call("a", "GET", "/api/registry/agents")}
    assert {k: shown["a"][k] for k in record} == record
    assert (shown["a"]["health"], shown["b"]["capabilities"]["skills"]) == ("active", ["sum"])
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", shown["b"][k]) for k in ("registered_at", "last_heartbeat"))
    assert (await call("a", "GET", "/api/registry/route?skill=sum"))["agent_id"] == "b"
    nobody = {"error": "no agent found with skill", "skill": "fly"}
    assert await call("a", "GET", "/api/registry/route?skill=fly") == nobody

    # submitted to the address old agents make up: <agent_id>-sidecar
    task = {
        "skill": "sum",
        "target_agent_id": "b-sidecar",
        "source_agent_id": "a",
        "payload": {"x": [1, 2]},
        "ttl": 300,
    }
    task_id = (await call("a", "POST", "/api/hub/tasks", task))["task_id"]
    assert re.fullmatch(r"[0-9a-f]{12}", task_id)
    (given,) = (await call("b-sidecar", "POST", "/api/hub/heartbeat", heartbeat("b", ["sum"])))["pending_tasks"]
    assert given.pop("created_at") <= given.pop("updated_at")
    assert given.pop("attempts") == 1
    assert given == {
        "id": task_id,
        "skill": "sum",
        "target_agent_id": "b",
        "source_agent_id": "a",
        "assigned_agent_id": "b",
        "payload": {"x": [1, 2]},
        "state": "assigned",
        "result": "",
        "error": "",
        "ttl": 300.0,
    }
    done = {"state": "completed", "result": "3"}
    assert (await call("b-sidecar", "POST", f"/api/hub/tasks/{task_id}", done))["status"] == "ok"
    polled = await call("a", "GET", f"/api/hub/tasks/{task_id}")
    assert (polled["state"], polled["result"], polled["error"]) == ("completed", "3", "")
    assert [t["id"] for t in await call("a", "GET", "/api/hub/tasks/all")] == [task_id]
    assert set(await call("a", "GET", "/api/hub/network/topology")) == {"nodes", "edges"}
    assert await call("a", "DELETE", "/api/registry/agents/a") == {"status": "ok"}
    missing = await old.http.get("/api/registry/agents/a", headers=keys["a"])
    assert (missing.status_code, missing.text) == (404, '{"error":"not found"}')


async def test_ice_configuration(old: Old) -> None:
    answer = await old.http.get("/api/config", headers={"x-api-key": old.server.add_key("a")})
    (turn,) = answer.json()["iceServers"]
    assert turn["urls"] == ["turn:t:3478"]
    assert re.fullmatch(r"\d+:a", turn["username"])
    mac = hmac.new(b"shared", turn["username"].encode(), hashlib.sha1).digest()
    assert turn["credential"] == base64.b64encode(mac).decode()
    assert "shared" not in json.dumps(turn)
