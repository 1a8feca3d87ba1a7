"""HTTP: every route asks who is calling, nobody acts as another, bad input is answered and loses nothing."""

from __future__ import annotations

import asyncio
import json
import re
from urllib.parse import urlsplit

import httpx2
import jwt
import pytest

from chatixia_langchain.registry.guard import MAX_BODY_BYTES, OPEN
from chatixia_langchain.registry.limits import Buckets
from chatixia_langchain.registry.server import RegistryServer

from .conftest import World


async def test_every_route_asks_for_a_credential(server: RegistryServer) -> None:
    """H-2, H-1: read off the OpenAPI document, so that a route added later is in this test by itself."""
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as http:
        document = (await http.get("/openapi.json")).json()
        routes = [(m.upper(), re.sub(r"{\w+}", "x", p)) for p, item in document["paths"].items() for m in item]
        closed = [(method, path) for method, path in routes if path not in OPEN]
        assert len(closed) >= 18
        server.registry.wrong_credentials = Buckets(per_s=1, burst=1000)  # so many wrong ones would be slowed down
        for headers in ({}, {"x-api-key": "wrong"}, {"x-device-token": "dt_wrong"}, {"Authorization": "Bearer a.b.c"}):
            for method, path in [*closed, ("POST", "/api/token"), ("GET", "/no/such/route")]:
                answer = await http.request(method, path, headers=headers, content=b"not json")
                assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), (method, path, headers)
                assert answer.headers["www-authenticate"] == "Bearer"
        assert (await http.get("/healthz")).json() == {"status": "ok", "protocol": 1}


async def test_token_exchange_and_its_use(world: World) -> None:
    caller = world.caller("a")
    answer = await caller.post("/api/token")
    assert list(answer) == ["token", "peer_id", "role"]
    assert (answer["peer_id"], answer["role"]) == ("a", "agent")
    claims = jwt.decode(answer["token"], options={"verify_signature": False})
    assert claims["sub"] == "a"
    assert claims["exp"] == claims["iat"] + 300
    async with httpx2.AsyncClient(base_url=world.server.url, trust_env=False) as http:
        answer = await http.get("/api/config", headers={"Authorization": f"Bearer {answer['token']}"})
        assert answer.json() == {"iceServers": []}


async def test_nobody_acts_as_another(world: World) -> None:
    """A record, a heartbeat, a claim, a source: all belong to the caller, or are refused."""
    a, b = world.caller("a"), world.caller("b")
    await a.post("/api/registry/agents", {"agent_id": "a"})
    await a.post("/api/registry/agents", {"agent_id": "helper-of-a"})
    for path, body in [
        ("/api/registry/agents", {"agent_id": "a"}),
        ("/api/registry/agents", {"agent_id": "helper-of-a"}),
        ("/api/registry/agents", {"agent_id": "b", "sidecar_peer_id": "a"}),
        ("/api/hub/heartbeat", {"agent_id": "a"}),
        ("/api/hub/claim", {"agent_id": "a"}),
        ("/api/hub/claim", {"agent_id": "helper-of-a"}),
        ("/api/hub/tasks", {"target_agent_id": "a", "source_agent_id": "a"}),
    ]:
        assert await b.status("POST", path, body) == 403, (path, body)
    assert await b.status("DELETE", "/api/registry/agents/a") == 403
    world.caller("unborn")
    assert await b.status("POST", "/api/registry/agents", {"agent_id": "unborn"}) == 403, (
        "a name of the key file is not free"
    )
    assert [r["agent_id"] for r in await a.get("/api/registry/agents")] == ["a", "helper-of-a"]


async def test_name_goes_to_the_peer_whose_key_says_so(world: World) -> None:
    """Who registered a free name before its peer existed gets none of that peer's mail afterwards."""
    mallory = world.caller("mallory")
    await mallory.post("/api/registry/agents", {"agent_id": "late", "capabilities": {"skills": ["sum"]}})
    late = world.caller("late")
    await mallory.post("/api/hub/tasks", {"target_agent_id": "late"})
    for path in ("/api/hub/claim", "/api/hub/heartbeat", "/api/registry/agents"):
        assert await mallory.status("POST", path, {"agent_id": "late"}) == 403
    assert len((await late.post("/api/hub/heartbeat", {"agent_id": "late"}))["pending_tasks"]) == 1
    assert world.server.registry.directory.owner("late") == "late"


async def test_admin_deletes_and_lists_all(world: World) -> None:
    a, admin = world.caller("a"), world.caller("root", "admin")
    await a.post("/api/registry/agents", {"agent_id": "a"})
    task = await a.post("/api/hub/tasks", {"target_agent_id": "b"})
    assert [t["id"] for t in await admin.get("/api/hub/tasks/all")] == [task["task_id"]]
    assert await admin.status("DELETE", "/api/registry/agents/a") == 200
    assert await admin.get("/api/registry/agents") == []


async def test_directory_keeps_cards_and_health(world: World) -> None:
    a, b = world.caller("a"), world.caller("b")
    schema = {"type": "object", "properties": {"q": {"type": "string", "default": None}}}
    card = {"description": "reads", "skills": [{"name": "search", "description": "finds", "input_schema": schema}]}
    await a.post("/api/registry/agents", {"agent_id": "a", "hostname": "h", "card": card})
    record = await b.get("/api/registry/agents/a")
    assert (record["card"], record["health"], record["online"]) == (card, "active", False)
    assert (await b.get("/api/registry/route", params={"skill": "search"}))["agent_id"] == "a"
    socket = await world.online("a")
    assert (await b.get("/api/registry/agents/a"))["online"] is True
    world.server.advance(100)
    assert (await b.get("/api/registry/agents/a"))["health"] == "active"
    watcher = await world.online("b")
    await socket.socket.close()
    await watcher.hear("peer_left")
    record = await b.get("/api/registry/agents/a")
    assert (record["health"], record["online"]) == ("stale", False)


async def test_topology_is_what_sidecars_report(world: World) -> None:
    caller = world.caller("a")
    await caller.post("/api/registry/agents", {"agent_id": "a", "hostname": "h"})
    a, _ = await world.online("a"), await world.online("b")
    assert (await caller.get("/api/hub/network/topology"))["edges"] == []
    link = {"peer": "b", "state": "open", "path": {"local": "host", "remote": "host", "protocol": "udp"}, "rtt_ms": 0.4}
    await a.say("topology", payload={"links": [link]})
    await a.say("offer", "nobody", {"sdp": "x"})
    await a.hear("error")  # frames are read in order: the topology is in
    network = await caller.get("/api/hub/network/topology")
    assert [n["id"] for n in network["nodes"]] == ["a", "b"]
    edge = {"source": "a", "target": "b", "state": "open", "path": link["path"], "rtt_ms": 0.4}
    assert network["edges"] == [edge]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\x00",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"agent_id": "a b"}',
        b'{"agent_id": "a", "port": 99999}',
        b'{"agent_id": "a", "hostname": "\\ud800"}',
        b'{"agent_id": "a", "card": {"skills": [{"name": ""}]}}',
        b'{"agent_id": "a", "card": {"skills": [{"name": "s", "input_schema": {"x": NaN}}]}}',
        b'{"agent_id": "a", "capabilities": {"mcp_servers": [' + b"[" * 80 + b"]" * 80 + b"]}}",
        b'{"agent_id": "a", "hostname": "' + b"x" * 300 + b'"}',
    ],
)
async def test_bad_bodies_are_named_and_change_nothing(world: World, body: bytes) -> None:
    caller = world.caller("a")
    answer = await caller.http.post("/api/registry/agents", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    assert answer.json()["code"] == "invalid_line"
    assert await caller.get("/api/registry/agents") == []


@pytest.mark.parametrize("value", ["NaN", "Infinity", '"\\ud800"', "1" * 5000, "[" * 80 + "]" * 80, '{"\\udfff": 1}'])
async def test_payload_that_cannot_be_written_again_is_refused(world: World, value: str) -> None:
    """The parser takes these; the answer to the claimer could not be written, and the task would be stuck."""
    caller = world.caller("a")
    body = f'{{"target_agent_id": "a", "payload": {{"x": {value}}}}}'
    headers = {"content-type": "application/json"}
    answer = await caller.http.post("/api/hub/tasks", content=body.encode(), headers=headers)
    assert answer.status_code in (400, 422)
    assert answer.json()["code"] == "invalid_line"
    assert await caller.get("/api/hub/tasks/all") == []


async def test_body_is_bounded_with_and_without_a_length(world: World) -> None:
    caller = world.caller("a")
    too_long = b'{"target_agent_id": "a", "payload": {"x": "' + b"x" * MAX_BODY_BYTES + b'"}}'

    async def chunks() -> object:
        for start in range(0, len(too_long), 65536):
            yield too_long[start : start + 65536]

    for content in (too_long, chunks()):
        answer = await caller.http.post("/api/hub/tasks", content=content, headers={"content-type": "application/json"})  # type: ignore[arg-type]
        assert (answer.status_code, answer.json()["code"]) == (413, "message_too_big")


async def test_unknown_things_are_404(world: World) -> None:
    a = world.caller("a")
    answer = await a.http.get("/api/registry/agents/nobody")
    assert (answer.status_code, answer.json()) == (404, {"error": "not found"})
    for method, path in (("GET", "/api/hub/tasks/x"), ("DELETE", "/api/registry/agents/x"), ("GET", "/nowhere")):
        assert await a.status(method, path) == 404
    assert await a.status("POST", "/api/hub/tasks/x", {"state": "completed"}) == 404


async def test_pairing_lets_a_device_in_and_revoking_puts_it_out(world: World) -> None:
    admin, a = world.caller("root", "admin"), world.caller("a")
    code = (await a.post("/api/pairing/generate-code"))["code"]
    async with httpx2.AsyncClient(base_url=world.server.url, trust_env=False) as phone:
        device = (await phone.post("/api/pairing/pair", json={"code": code, "agent_name": "phone"})).json()
        assert device["status"] == "pending"
        again = await phone.post("/api/pairing/pair", json={"code": code, "agent_name": "phone"})
        assert again.status_code == 404
        for path in ("/api/pairing/pending", "/api/pairing/all"):
            assert await a.status("GET", path) == 403
        assert await a.status("POST", f"/api/pairing/{device['id']}/approve") == 403
        assert [d["id"] for d in await admin.get("/api/pairing/pending")] == [device["id"]]
        token = (await admin.post(f"/api/pairing/{device['id']}/approve"))["device_token"]
        assert token not in json.dumps(await admin.get("/api/pairing/all"))
        exchanged = await phone.post("/api/token", headers={"x-device-token": token})
        assert exchanged.json()["peer_id"] == device["peer_id"]
        bearer = {"Authorization": f"Bearer {exchanged.json()['token']}"}
        assert (await phone.post("/api/pairing/generate-code", headers=bearer)).status_code == 403
        socket = await world.sidecar("a", additional_headers=bearer)
        socket.peer_id = device["peer_id"]
        await socket.register()
        await admin.post(f"/api/pairing/{device['id']}/revoke")
        await asyncio.wait_for(socket.socket.wait_closed(), 20)
        assert socket.socket.close_code == 4401
        assert (await phone.post("/api/token", headers={"x-device-token": token})).status_code == 401
        assert (await phone.get("/api/config", headers=bearer)).status_code == 401


async def test_guessing_pairing_codes_is_rate_limited(world: World) -> None:
    codes = [f"{n:06d}" for n in range(30)]
    async with httpx2.AsyncClient(base_url=world.server.url, trust_env=False) as http:
        answers = [await http.post("/api/pairing/pair", json={"code": c, "agent_name": "x"}) for c in codes]
    assert {a.status_code for a in answers} == {404, 429}
    assert answers[-1].json()["code"] == "rate_limited"
    assert int(answers[-1].headers["retry-after"]) > 0


async def test_garbage_on_the_port_harms_nobody(world: World) -> None:
    """Bytes that are no HTTP end their own connection alone."""
    where = urlsplit(world.server.url)
    for garbage in (
        b"\x00" * 1000,
        b"GET\r\n\r\n",
        b"\x16\x03\x01" + b"x" * 500,
        b"POST /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
    ):
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        writer.write(garbage)
        writer.write_eof()
        await asyncio.wait_for(reader.read(), 20)
        writer.close()
        await writer.wait_closed()
    assert (await world.caller("a").get("/healthz"))["status"] == "ok"
