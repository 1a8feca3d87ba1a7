"""What a registry on the open network must withstand: web pages, stolen and withdrawn keys, guesses, floods, no TLS."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from chatixia_langchain.identity import Identity
from chatixia_langchain.registry import guard, sockets, state
from chatixia_langchain.registry.server import RegistryServer
from chatixia_langchain.registry.settings import RegistrySettings, SettingsError

from .conftest import World
from .test_command import Command, command, http  # noqa: F401  # a fixture


def client(server: RegistryServer, **options: Any) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=server.url, trust_env=False, timeout=20, **options)


@pytest.mark.parametrize("headers", [{"host": "evil.example"}, {"origin": "https://evil.example"}, {"origin": "null"}])
async def test_web_pages_and_rebound_names_are_refused_by_http_and_websocket(
    world: World, headers: dict[str, str]
) -> None:
    """Even with a good credential, and even where none is asked for."""
    key = {"x-api-key": world.caller("a").key}
    async with client(world.server) as web:
        for method, path in [("GET", "/healthz"), ("POST", "/api/token"), ("GET", "/api/registry/agents")]:
            assert (await web.request(method, path, headers=key)).status_code == 200, "without them it works"
            answer = await web.request(method, path, headers=key | headers)
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
            assert "access-control-allow-origin" not in answer.headers
    name, port = headers.pop("host", "127.0.0.1"), world.server.url.rsplit(":", 1)[1]
    token = {"Authorization": f"Bearer {await world.caller('a').token()}"}
    there = connect(f"ws://{name}:{port}/ws", host="127.0.0.1", additional_headers=token | headers, proxy=None)
    with pytest.raises(InvalidStatus) as refused:
        await there
    assert refused.value.response.status_code == 403


async def test_a_page_and_a_name_that_were_allowed_come_in() -> None:
    settings = {"allow_hosts": frozenset({"mesh.example"}), "allow_origins": frozenset({"https://ours.example"})}
    async with RegistryServer(**settings) as server, client(server) as web:
        headers = {"host": "mesh.example:443", "origin": "https://ours.example", "x-api-key": server.add_key("a")}
        assert (await web.post("/api/token", headers=headers)).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "mesh.example"])
def test_other_machines_are_not_served_without_tls_unless_told(host: str) -> None:
    with pytest.raises(SettingsError, match="--tls-cert and --tls-key, or --plain-http"):
        RegistrySettings(host=host)
    RegistrySettings(host=host, plain_http=True)
    RegistrySettings(host=host, tls_cert=Path("c"), tls_key=Path("k"))
    with pytest.raises(SettingsError, match="go together"):
        RegistrySettings(host=host, tls_cert=Path("c"))


async def test_it_serves_https_and_wss(tmp_path: Path) -> None:
    cert = key = tmp_path / "both.pem"
    cert.write_bytes(Identity.fresh().pem())
    trust = ssl.create_default_context(cafile=str(cert))
    trust.check_hostname = False  # the certificate names a peer, not an address
    async with RegistryServer(tls_cert=cert, tls_key=key) as server:
        assert server.url.startswith("https://127.0.0.1:")
        async with client(server, verify=trust) as web:
            answer = await web.post("/api/token", headers={"x-api-key": server.add_key("a")})
            headers = {"Authorization": f"Bearer {answer.json()['token']}"}
        assert server.ws_url.startswith("wss://")
        async with connect(server.ws_url, additional_headers=headers, ssl=trust, proxy=None) as socket:
            await socket.send('{"type":"register","peer_id":"a","payload":null}')
            assert json.loads(await socket.recv())["type"] == "peer_list"


async def test_a_key_taken_out_of_the_file_ends_its_socket_within_a_second(command: Command) -> None:  # noqa: F811
    """And the token it got; the other key's socket stays. H-24: theirs outlived every revocation."""
    _, url = command.serve()
    open_sockets = {}
    async with http(url) as web:
        for peer in ("a", "b"):
            token = (await web.post("/api/token", headers=command.key(peer))).json()["token"]
            headers = {"Authorization": f"Bearer {token}"}
            open_sockets[peer] = await connect(
                url.replace("http", "ws") + "/ws", additional_headers=headers, proxy=None
            )
            await open_sockets[peer].send(json.dumps({"type": "register", "peer_id": peer, "payload": None}))
            await open_sockets[peer].recv()
            assert (await web.get("/api/config", headers=headers)).status_code == 200
        document = json.loads((command.folder / "keys.json").read_text())
        document["keys"] = {k: who for k, who in document["keys"].items() if who["peer_id"] != "a"}
        (command.folder / "keys.json").write_text(json.dumps(document))
        began = time.monotonic()
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(open_sockets["a"].recv(), 20)
        took = time.monotonic() - began
        assert open_sockets["a"].close_code == 4401
        print(f"the socket ended {took:.2f} s after the key was taken out")
        assert (await web.post("/api/token", headers=command.key("a"))).status_code == 401
        await open_sockets["b"].ping()
        assert (await web.get("/api/config", headers=headers)).status_code == 200, "b's token is good as before"
    await open_sockets["b"].close()


async def test_the_audit_log_tells_who_did_what_and_no_secret(world: World, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with RegistryServer(audit_log=path) as server:
        world = World(server)
        try:
            a, b = world.caller("a"), world.caller("b")
            canary, token = "canary-in-a-body", await a.token()
            task = await a.post(
                "/api/hub/tasks", {"target_agent_id": "b", "skill": "x", "payload": {"message": canary}}
            )
            await b.post("/api/registry/agents", {"agent_id": "b"})
            await b.post("/api/hub/claim", {"agent_id": "b"})
            await b.post(f"/api/hub/tasks/{task['task_id']}", {"state": "completed", "result": canary})
            assert await a.status("POST", "/api/registry/agents", {"agent_id": "b"}) == 403
            async with client(server) as web:
                assert (await web.get("/api/config", headers={"x-api-key": "ck_guess"})).status_code == 401
            await world.online("a")
        finally:
            await world.aclose()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    events = [line["event"] for line in lines]
    assert events[:4] == ["task_submitted", "agent_registered", "task_claimed", "task_finished"]
    refused = [(e["code"], e["path"], e["peer"]) for e in lines if e["event"] == "refused"]
    assert refused == [("forbidden", "/api/registry/agents", "a"), ("unauthorized", "/api/config", "")]
    assert {"socket_opened", "socket_ended"} <= set(events)
    assert not [secret for secret in (canary, token, a.key, b.key, "ck_guess") if secret in path.read_text()]
    assert path.stat().st_mode & 0o777 == 0o600


async def test_guessing_is_slowed_down_and_a_right_key_still_works(world: World) -> None:
    key = world.caller("a").key
    async with client(world.server) as web:
        answers = [
            (await web.post("/api/token", headers={"x-api-key": f"ck_{n}"})).status_code
            for n in range(int(state.WRONG_BURST) + 5)
        ]
        assert answers[: int(state.WRONG_BURST)] == [401] * int(state.WRONG_BURST)
        assert answers[-4:] == [429] * 4
        refused = await web.post("/api/token", headers={"x-api-key": "ck_x"})
        assert (refused.json()["code"], refused.headers["retry-after"]) == ("rate_limited", "60")
        assert (await web.post("/api/token", headers={"x-api-key": key})).status_code == 200


async def test_a_flood_of_frames_waits_in_its_own_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every frame arrives, no faster than the rate; another peer's frame passes meanwhile."""
    monkeypatch.setattr(sockets, "FRAMES_PER_S", 100.0)
    monkeypatch.setattr(sockets, "FRAMES_BURST", 50.0)
    async with RegistryServer() as server:
        world = World(server)
        try:
            flooder, quiet, hearer = [await world.online(n) for n in ("flooder", "quiet", "hearer")]
            offer = {"candidate": "c", "sdpMid": "0", "sdpMLineIndex": 0}
            for number in range(200):
                await flooder.say("ice_candidate", "hearer", {**offer, "candidate": f"candidate:{number}"})
            await quiet.say("ice_candidate", "hearer", {**offer, "candidate": "candidate:quiet"})
            heard = [(await hearer.hear("ice_candidate"))["candidate"] for _ in range(201)]
            place = heard.index("candidate:quiet")
            assert [c for c in heard if c != "candidate:quiet"] == [f"candidate:{n}" for n in range(200)]
            assert place < 200, "it did not wait for the end of the flood"
        finally:
            await world.aclose()


async def test_a_caller_that_calls_too_often_is_told_to_slow_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "CALLS_BURST", 20.0)
    monkeypatch.setattr(guard, "CALLS_PER_S", 0.5)
    async with RegistryServer() as server:
        world = World(server)
        try:
            a, b = world.caller("a"), world.caller("b")
            statuses = [await a.status("GET", "/api/config") for _ in range(22)]
            assert statuses[:20] == [200] * 20
            assert statuses[-1] == 429
            assert await b.status("GET", "/api/config") == 200
        finally:
            await world.aclose()
