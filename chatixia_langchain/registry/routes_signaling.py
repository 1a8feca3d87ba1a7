"""The WebSocket route: who it is, then `Sockets`."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket

from .auth import Unauthorized
from .guard import STATUS, Refusal, admit, note_refusal, unauthorized
from .state import Registry

router = APIRouter()
SUBPROTOCOL = "chatixia.v1"
BEARER = "bearer."


@router.websocket("/ws")
async def signaling(socket: WebSocket) -> None:
    """Signaling of one sidecar; the token decides who it is."""
    registry: Registry = socket.app.state.registry
    try:
        admit(dict(socket.scope["headers"]), registry.settings)
        who = registry.check_token(_token(socket, registry.settings.allow_query_token))
    except (Refusal, Unauthorized) as exc:
        refusal = exc if isinstance(exc, Refusal) else unauthorized(registry, socket.scope, str(exc))
        note_refusal(registry, socket.scope, refusal)
        answer = JSONResponse(refusal.body(), STATUS[refusal.code], refusal.headers())
        await socket.send_denial_response(answer)
        return
    offered: list[str] = socket.scope["subprotocols"]
    await socket.accept(subprotocol=SUBPROTOCOL if SUBPROTOCOL in offered else None)
    await registry.sockets.serve(socket, who)


def _token(socket: WebSocket, allow_query: bool) -> str:
    """The JWT of this handshake. Raises Unauthorized saying where it belongs."""
    kind, _, token = socket.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and token:
        return token.strip()
    for name in socket.scope["subprotocols"]:
        if name.startswith(BEARER):
            return str(name.removeprefix(BEARER))
    if "token" in socket.query_params:
        if allow_query:
            return socket.query_params["token"]
        raise Unauthorized(
            "a token in the query string is refused: start the registry with --allow-query-token for old sidecars"
        )
    raise Unauthorized("no token: send Authorization: Bearer <token>, or the subprotocols chatixia.v1, bearer.<token>")
