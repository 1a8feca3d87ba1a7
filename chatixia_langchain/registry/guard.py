"""In front of every HTTP route: a name of ours, a credential, a rate, a bound on the body. What is not open is closed.

Pure ASGI, so that nothing of a request is parsed before its sender is known.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import front
from .auth import Unauthorized
from .limits import Buckets
from .settings import RegistrySettings
from .state import Registry

OPEN: Final = frozenset({"/healthz", "/openapi.json", "/api/token", "/api/pairing/pair"})
"""Paths that are not asked for a credential: two tell nothing, `/api/token` looks at the key itself, and in pairing
the code is the credential."""
MAX_BODY_BYTES: Final = 1024 * 1024  # a task with the largest message, quoted once more as JSON text
CALLS_PER_S: Final = 500.0  # of one peer: far above a busy mailbox, far below what keeps others waiting
CALLS_BURST: Final = 2000.0
STATUS: Final = {
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "refused": 409,
    "message_too_big": 413,
    "invalid_line": 422,
    "rate_limited": 429,
    "busy": 503,
    "internal": 500,
}


class Refusal(Exception):
    """A request is refused: `code` is a word of errors.json and decides the status."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text

    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        return {"error": self.text, "code": self.code}

    def headers(self) -> dict[str, str]:
        """What goes with it: how to log in, when to come back."""
        extra = {401: {"www-authenticate": "Bearer"}, 429: {"retry-after": "60"}, 503: {"retry-after": "1"}}
        return extra.get(STATUS[self.code], {})


class Guard:
    """ASGI middleware; puts the caller's `Identity` into `scope["state"]["caller"]`."""

    def __init__(self, app: ASGIApp, registry: Registry) -> None:
        self._app, self._registry = app, registry
        self._calls = Buckets(per_s=CALLS_PER_S, burst=CALLS_BURST)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # the WebSocket route looks at its token itself
            await self._app(scope, receive, send)
            return
        try:
            headers = dict(scope["headers"])
            admit(headers, self._registry.settings)
            if scope["path"] not in OPEN:
                caller = self._registry.identify(headers)
                if not self._calls.take(caller.peer_id, time.monotonic()):
                    raise Refusal("rate_limited", f"more than {CALLS_PER_S:g} calls a second of {caller.peer_id!r}")
                scope.setdefault("state", {})["caller"] = caller
            length = headers.get(b"content-length", b"")
            if length.isdigit() and int(length) > MAX_BODY_BYTES:
                raise Refusal("message_too_big", f"the body has {int(length)} bytes, the limit is {MAX_BODY_BYTES}")
            await self._app(scope, _bounded(receive), send)
        except Unauthorized as exc:
            await self._refuse(scope, send, unauthorized(self._registry, scope, str(exc)))
        except Refusal as exc:  # raised here or while the body was read: no answer has begun
            await self._refuse(scope, send, exc)

    async def _refuse(self, scope: Scope, send: Send, refusal: Refusal) -> None:
        note_refusal(self._registry, scope, refusal)
        body = json.dumps(refusal.body()).encode()
        headers = [(k.encode(), v.encode()) for k, v in refusal.headers().items()]
        headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": STATUS[refusal.code], "headers": headers})
        await send({"type": "http.response.body", "body": body})


def note_refusal(registry: Registry, scope: Scope, refusal: Refusal) -> None:
    """Note what was refused to whom, where it tells of an attack: credentials, rights, rates."""
    if refusal.code in ("unauthorized", "forbidden", "rate_limited"):
        caller = scope.get("state", {}).get("caller")
        registry.audit.note(
            "refused", code=refusal.code, path=scope["path"][:200], address=_address(scope),
            peer=caller.peer_id if caller else "",
        )  # fmt: skip


def _address(scope: Scope) -> str:
    return str((scope.get("client") or ("unknown", 0))[0])


def unauthorized(registry: Registry, scope: Scope, why: str) -> Refusal:
    """How to refuse a credential: past some refusals of one address, without saying more."""
    if registry.wrong_credentials.take(_address(scope), time.monotonic()):
        return Refusal("unauthorized", why)
    return Refusal("rate_limited", "too many refused credentials from this address")


def admit(headers: Mapping[bytes, bytes], settings: RegistrySettings) -> None:
    """Raises Refusal for what is addressed to a name that is not ours, or comes from a web page that may not call."""
    why = front.fault(headers, hosts=settings.allow_hosts, origins=settings.allow_origins)
    if why:
        raise Refusal("forbidden", why)


def _bounded(receive: Receive) -> Receive:
    taken = 0

    async def bounded() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > MAX_BODY_BYTES:
            raise Refusal("message_too_big", f"the body has more than {MAX_BODY_BYTES} bytes")
        return message

    return bounded
