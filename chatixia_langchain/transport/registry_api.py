"""The one HTTP client of the registry: token, directory, mailbox, ICE servers.

- the API key is exchanged for a token that is kept until shortly before it ends, and fetched anew after a 401;
- `keep_registered` puts our card into the directory, and again every 15 s, which is also our sign of life;
- foreign errors become ours: `RegistryRefused` (it says no), `Busy` (full), `LinkDown` (it cannot be reached).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import socket
import time
from collections.abc import Mapping
from typing import Any

import httpx2

from ..config import MeshConfig
from ..errors import Busy, LinkDown, MeshError, RegistryRefused

logger = logging.getLogger(__name__)

TIMEOUT_S = 10.0
BEAT_S = 15.0  # the registry calls an agent stale after 90 s
TOKEN_S = 300.0  # for a token that does not say when it ends
RENEW_AT = 0.8  # of its life


def _token_life_s(token: str) -> float:
    """How long a JWT is good for, by its own word: a duration, so that clocks need not agree."""
    try:
        part = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        return max(1.0, float(claims["exp"]) - float(claims["iat"]))
    except (ValueError, KeyError, IndexError, TypeError):
        return TOKEN_S


class RegistryApi:
    """Calls of one agent to its registry. Used on one loop; `aclose` ends it."""

    def __init__(self, config: MeshConfig) -> None:
        if not config.registry:
            raise ValueError("registry= is not set: there is no registry to talk to")
        self._config = config
        self._base = config.registry.rstrip("/")
        # 16: each long poll and each waiting sender holds one; httpx makes further calls wait for a free one.
        self._http = httpx2.AsyncClient(timeout=TIMEOUT_S, limits=httpx2.Limits(max_connections=16))
        self._token, self._renew_at = "", 0.0
        self._fetching = asyncio.Lock()
        self.peer_id = ""

    async def token(self) -> str:
        """A token that is still good for a while. Raises RegistryRefused, LinkDown."""
        async with self._fetching:  # callers share one exchange
            if time.monotonic() < self._renew_at:
                return self._token
            answer = await self._call("POST", "/api/token", headers={"x-api-key": self._config.api_key.reveal()})
            token, peer_id = answer.get("token"), answer.get("peer_id")
            if not isinstance(token, str) or not isinstance(peer_id, str):
                raise RegistryRefused("the answer to /api/token holds no token and peer_id", code="invalid_line")
            if peer_id != self._config.name:
                text = f"the API key belongs to {peer_id!r}, this agent is called {self._config.name!r}"
                raise RegistryRefused(text, code="forbidden")
            self.peer_id, self._token = peer_id, token
            self._renew_at = time.monotonic() + _token_life_s(token) * RENEW_AT
            return token

    def forget_token(self) -> None:
        """The registry did not like it: fetch a new one at the next call."""
        self._renew_at = 0.0

    async def call(self, method: str, path: str, body: Any = None, *, timeout_s: float = TIMEOUT_S) -> Any:
        """One call with our token; once more with a new one after a 401.

        Raises RegistryRefused, Busy, LinkDown.
        """
        for last in (False, True):
            headers = {"authorization": f"Bearer {await self.token()}"}
            try:
                return await self._call(method, path, body, headers=headers, timeout_s=timeout_s)
            except RegistryRefused as exc:
                if exc.status != 401 or last:
                    raise
                self.forget_token()
        raise AssertionError("unreachable")

    async def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str],
        timeout_s: float = TIMEOUT_S,
    ) -> Any:
        try:
            answer = await self._http.request(
                method, self._base + path, json=body, headers=dict(headers), timeout=timeout_s
            )
        except httpx2.HTTPError as exc:
            raise LinkDown(f"the registry {self._base} cannot be reached: {exc or type(exc).__name__}") from exc
        except RuntimeError as exc:  # what the client raises once it was closed
            raise LinkDown("the registry client is closed") from exc
        try:
            found = answer.json()
        except ValueError:
            found = None
        if answer.status_code < 400:
            if found is None:
                raise LinkDown(f"{method} {path} was answered with something that is not JSON")
            return found
        text = found.get("error") or found.get("detail") if isinstance(found, dict) else ""
        told = f"{method} {path}: {answer.status_code} {text or answer.reason_phrase}"
        if answer.status_code in (429, 503):
            raise Busy(told)
        if answer.status_code >= 500:
            raise LinkDown(told)
        code = found.get("code") if isinstance(found, dict) else None
        by_status = {401: "unauthorized", 403: "forbidden", 404: "not_found", 413: "message_too_big"}
        raise RegistryRefused(
            told, status=answer.status_code, code=code or by_status.get(answer.status_code, "refused")
        )

    async def directory(self) -> list[dict[str, Any]]:
        """All agents the registry knows, with cards and health. Raises as `call`."""
        found = await self.call("GET", "/api/registry/agents")
        return [r for r in found if isinstance(r, dict) and isinstance(r.get("agent_id"), str)]

    async def agent(self, agent_id: str) -> dict[str, Any] | None:
        """One record of the directory, None when there is none. Raises as `call`."""
        try:
            found: dict[str, Any] = await self.call("GET", f"/api/registry/agents/{agent_id}")
        except RegistryRefused as exc:
            if exc.status == 404:
                return None
            raise
        return found if "agent_id" in found else None  # an old registry answers 200 with an error

    async def register(self) -> None:
        """Put our card into the directory. Raises as `call`."""
        card = self._config.card()
        names = [s["name"] for s in card["skills"]]
        await self.call(
            "POST",
            "/api/registry/agents",
            {
                "agent_id": self._config.name,
                "hostname": socket.gethostname()[:256],
                "sidecar_peer_id": self._config.name,
                "capabilities": {"skills": names, "mode": "mesh"},
                "mode": "mesh",
                "card": card,
            },
        )

    async def deregister(self) -> None:
        """Take our record out of the directory. Raises as `call`."""
        await self.call("DELETE", f"/api/registry/agents/{self._config.name}", timeout_s=2.0)

    async def keep_registered(self) -> None:
        """Register now and every 15 s, until cancelled. Failures are logged; the next time comes.

        The whole card each time: a registry that lost its memory has it back within 15 s.
        """
        failing = False
        while True:
            try:
                await self.register()
                failing = False
            except MeshError as exc:
                if not failing:
                    logger.warning("agent=%s: cannot register: %s", self._config.name, exc)
                failing = True
            await asyncio.sleep(2.0 if failing else BEAT_S)

    async def submit(self, task: Mapping[str, Any]) -> str:
        """Leave a task; returns its id. Raises as `call`."""
        answer = await self.call("POST", "/api/hub/tasks", dict(task))
        return str(answer.get("task_id", ""))

    async def claim(self, *, wait_s: float, limit: int) -> list[dict[str, Any]]:
        """Take tasks that wait for us; comes back after `wait_s` seconds with none. Raises as `call`."""
        body = {"agent_id": self._config.name, "wait_s": wait_s, "max": limit}
        answer = await self.call("POST", "/api/hub/claim", body, timeout_s=wait_s + TIMEOUT_S)
        return [t for t in answer.get("tasks", []) if isinstance(t, dict)]

    async def finish(self, task_id: str, *, result: str = "", error: str = "") -> None:
        """Tell the outcome of a task we claimed. Raises as `call`."""
        state = "failed" if error else "completed"
        await self.call("POST", f"/api/hub/tasks/{task_id}", {"state": state, "result": result, "error": error})

    async def ice_servers(self) -> list[dict[str, Any]]:
        """The registry's ICE servers; none from a registry that has no such route. Raises LinkDown."""
        with contextlib.suppress(RegistryRefused):
            answer = await self.call("GET", "/api/config")
            return [s for s in answer.get("iceServers", []) if isinstance(s, dict)]
        return []

    async def aclose(self) -> None:
        """Close the connections. Idempotent."""
        await self._http.aclose()
