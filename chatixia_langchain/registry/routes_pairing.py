"""Pairing over HTTP. Device tokens are shown once, to the admin who approves."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from .bodies import PairBody
from .deps import Admin, Caller, TheRegistry
from .guard import Refusal
from .pairing import CODE_S

router = APIRouter(prefix="/api/pairing", tags=["pairing"])


@router.post("/generate-code")
async def generate_code(registry: TheRegistry, caller: Caller) -> dict[str, Any]:
    """A six-digit code for one device. Asked for with a key of the key file; a paired device cannot invite others."""
    if not registry.keyring.has_peer(caller.peer_id):
        raise Refusal("forbidden", "this needs a key of the key file")
    return {"code": registry.pairing.new_code(registry.now()), "expires_in": int(CODE_S)}


@router.post("/pair")
async def pair(body: PairBody, registry: TheRegistry) -> dict[str, Any]:
    """Use a code. The device is pending until an admin approves it."""
    device = registry.pairing.pair(body.code, body.agent_name, registry.now())
    registry.audit.note("device_pending", device=device.id, peer=device.peer_id)
    return device.public()


@router.get("/pending")
async def pending(registry: TheRegistry, caller: Admin) -> list[dict[str, Any]]:
    """Devices that wait for approval."""
    return [d.public() for d in registry.pairing.devices("pending")]


@router.get("/all")
async def all_devices(registry: TheRegistry, caller: Admin) -> list[dict[str, Any]]:
    """All devices, without tokens."""
    return [d.public() for d in registry.pairing.devices()]


@router.post("/{device_id}/approve")
async def approve(device_id: str, registry: TheRegistry, caller: Admin) -> dict[str, Any]:
    """Let a device in; the answer holds its token, this once."""
    device, token = registry.pairing.approve(device_id)
    registry.audit.note("device_approved", device=device.id, peer=device.peer_id, by=caller.peer_id)
    return {**device.public(), "device_token": token}


@router.post("/{device_id}/reject")
async def reject(device_id: str, registry: TheRegistry, caller: Admin) -> dict[str, Any]:
    """Refuse a pending device."""
    device = registry.pairing.reject(device_id)
    registry.audit.note("device_rejected", device=device.id, peer=device.peer_id, by=caller.peer_id)
    return device.public()


@router.post("/{device_id}/revoke")
async def revoke(device_id: str, registry: TheRegistry, caller: Admin) -> dict[str, Any]:
    """Take an approved device's token away; its sockets are closed."""
    device = registry.pairing.revoke(device_id)
    registry.revoke()
    registry.audit.note("device_revoked", device=device.id, peer=device.peer_id, by=caller.peer_id)
    return device.public()
