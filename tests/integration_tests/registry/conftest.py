"""A real registry on a free port, HTTP callers and WebSocket sidecars that speak to it as the wire says."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect

from chatixia_langchain.registry.server import RegistryServer


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as started:
        yield started


class Caller:
    """One agent's HTTP calls, with its API key as old agents send it."""

    def __init__(self, server: RegistryServer, peer_id: str, role: Any = "agent") -> None:
        self.peer_id, self.key = peer_id, server.add_key(peer_id, role)
        self.http = httpx2.AsyncClient(
            base_url=server.url,
            headers={"x-api-key": self.key},
            timeout=40,
            trust_env=False,
            verify=False,  # no TLS here, and no time spent on loading its certificates for each caller
        )

    async def post(self, path: str, body: Any = None, **kw: Any) -> Any:
        """The JSON of a POST that went well."""
        answer = await self.http.post(path, json=body, **kw)
        assert answer.status_code == 200, (answer.status_code, answer.text)
        return answer.json()

    async def get(self, path: str, **kw: Any) -> Any:
        """The JSON of a GET that went well."""
        answer = await self.http.get(path, **kw)
        assert answer.status_code == 200, (answer.status_code, answer.text)
        return answer.json()

    async def status(self, method: str, path: str, body: Any = None) -> int:
        """The status of a call that may go wrong; a refusal always says what and why."""
        answer = await self.http.request(method, path, json=body)
        if answer.status_code != 200:
            assert answer.json()["error"]
        return answer.status_code

    async def token(self) -> str:
        """A fresh JWT."""
        return str((await self.post("/api/token"))["token"])


class Sidecar:
    """One WebSocket of one peer."""

    def __init__(self, socket: ClientConnection, peer_id: str) -> None:
        self.socket, self.peer_id = socket, peer_id

    async def say(self, kind: str, target: str | None = None, payload: Any = None) -> None:
        """Send a frame."""
        frame = {"type": kind, "peer_id": self.peer_id, "payload": payload}
        await self.socket.send(json.dumps(frame if target is None else {**frame, "target_id": target}))

    async def hear(self, kind: str) -> dict[str, Any]:
        """The payload of the next frame of this kind; frames of presence before it are passed over."""
        while True:
            frame = json.loads(await asyncio.wait_for(self.socket.recv(), 20))
            if frame["type"] == kind:
                return dict(frame["payload"])
            assert frame["type"] in ("peer_joined", "peer_left"), frame

    async def register(self, generation: int = 1) -> dict[str, Any]:
        """Register as a protocol-1 sidecar; returns the peer list."""
        await self.say(
            "register", payload={"protocol": 1, "fingerprint": f"fp {self.peer_id}", "generation": generation}
        )
        return await self.hear("peer_list")


class World:
    """Callers and sidecars by name; all are closed at the end."""

    def __init__(self, server: RegistryServer) -> None:
        self.server = server
        self._callers: dict[str, Caller] = {}
        self._sockets: list[ClientConnection] = []
        self._at_end: list[Callable[[], Any]] = []

    def at_end(self, what: Callable[[], Any]) -> None:
        """Do `what` when the test is over, however it went."""
        self._at_end.append(what)

    def caller(self, peer_id: str, role: str = "agent") -> Caller:
        """The agent `peer_id`."""
        if peer_id not in self._callers:
            self._callers[peer_id] = Caller(self.server, peer_id, role)
        return self._callers[peer_id]

    async def sidecar(self, peer_id: str, **options: Any) -> Sidecar:
        """An open, not yet registered WebSocket of `peer_id`."""
        token = await self.caller(peer_id).token()
        options.setdefault("additional_headers", {"Authorization": f"Bearer {token}"})
        socket = await connect(self.server.ws_url, proxy=None, **options)
        self._sockets.append(socket)
        return Sidecar(socket, peer_id)

    async def online(self, peer_id: str, generation: int = 1) -> Sidecar:
        """A registered protocol-1 sidecar."""
        sidecar = await self.sidecar(peer_id)
        await sidecar.register(generation)
        return sidecar

    async def aclose(self) -> None:
        """Close everything."""
        for socket in self._sockets:
            socket.transport.abort()
        for what in self._at_end:
            what()
        for caller in self._callers.values():
            await caller.http.aclose()


@pytest.fixture
async def world(server: RegistryServer) -> AsyncIterator[World]:
    made = World(server)
    yield made
    await made.aclose()


async def until(what: Callable[[], Any], timeout_s: float = 20.0) -> None:
    """Wait for `what` to become true, or fail."""
    end = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < end, "it did not become true in time"
        await asyncio.sleep(0.02)
