"""Token exchange, ICE configuration, health."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request

from ..protocol.limits import PROTOCOL
from .deps import Caller, TheRegistry
from .ice import ice_servers_for

router = APIRouter()


@router.post("/api/token", tags=["token"])
async def token(request: Request, registry: TheRegistry) -> dict[str, str]:
    """Exchange `x-api-key` or `x-device-token` for a JWT that is good for five minutes."""
    who = registry.identify_key(dict(request.scope["headers"]))
    return {"token": registry.tokens.issue(who, time.time()), "peer_id": who.peer_id, "role": who.role}


@router.get("/api/config", tags=["token"])
async def config(registry: TheRegistry, caller: Caller) -> dict[str, Any]:
    """ICE servers for this caller; a TURN credential in it ends within ten minutes."""
    settings = registry.settings
    servers = ice_servers_for(
        caller.peer_id,
        servers=settings.ice_servers,
        turn_urls=settings.turn_urls,
        turn_secret=settings.turn_secret.reveal(),
        now=time.time(),
    )
    return {"iceServers": servers}


@router.get("/healthz", tags=["health"])
async def healthz() -> dict[str, Any]:
    """Alive; tells nothing of who is here."""
    return {"status": "ok", "protocol": PROTOCOL}
