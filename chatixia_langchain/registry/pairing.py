"""Pairing: a device joins with a six-digit code and the consent of an admin. Pure: `now` is an argument.

- a key holder makes a code, good once and for CODE_S; the device sends it with its name and becomes `pending`;
- an admin approves, and gets the device token, once: only its hash is kept, and no list shows it;
- an entry that was rejected or revoked stays as a record; its token is dead at once.

A code has a million values, so wrong guesses are counted: past MAX_WRONG a minute all pairing waits.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Any, Final, Literal

import msgspec

from ..errors import Busy
from .keys import Identity
from .store import Store

Status = Literal["pending", "approved", "rejected", "revoked"]
KIND: Final = "device"
CODE_S: Final = 300.0
MAX_CODES: Final = 100  # open codes; each makes a guess likelier to hit. More are refused with Busy
MAX_WRONG: Final = 10  # wrong codes per minute, from all callers together: 10/min * 5 min * 100 codes of a million
MAX_DEVICES: Final = 10_000  # entries kept; more are refused with Busy
WINDOW_S: Final = 60.0


class PairingError(Exception):
    """The step is refused; `code` is a word of errors.json."""

    def __init__(self, code: Literal["not_found", "rate_limited", "refused"], text: str) -> None:
        super().__init__(text)
        self.code = code


class Device(msgspec.Struct):
    """One paired device. `token_hash`: SHA-256 of a token with 128 random bits; it needs no salt."""

    id: str
    peer_id: str
    agent_name: str
    status: Status
    created_at: float
    token_hash: str = ""

    def public(self) -> dict[str, Any]:
        """What lists show: never the token, nor its hash."""
        return {
            "id": self.id,
            "peer_id": self.peer_id,
            "agent_name": self.agent_name,
            "status": self.status,
            "created_at": self.created_at,
        }


class Pairing:
    """Codes (in memory) and devices (in the store)."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._codes: dict[str, float] = {}
        self._wrong: list[float] = []
        self._devices: dict[str, Device] = {}
        self._by_hash: dict[str, Device] = {}
        for _, body in store.load(KIND):
            self._index(msgspec.json.decode(body, type=Device))

    def new_code(self, now: float) -> str:
        """Six digits. Raises Busy when too many codes are open."""
        self._codes = {c: until for c, until in self._codes.items() if until > now}
        if len(self._codes) >= MAX_CODES:
            raise Busy(f"{len(self._codes)} codes are open")
        while (code := f"{secrets.randbelow(1_000_000):06d}") in self._codes:
            pass
        self._codes[code] = now + CODE_S
        return code

    def pair(self, code: str, agent_name: str, now: float) -> Device:
        """Use up `code`. Raises PairingError: unknown or expired code, too many wrong ones; Busy."""
        self._wrong = [at for at in self._wrong if now - at < WINDOW_S]
        if len(self._wrong) >= MAX_WRONG:
            raise PairingError("rate_limited", "too many wrong codes; try again in a minute")
        if self._codes.get(code, 0.0) <= now:
            self._wrong.append(now)
            raise PairingError("not_found", "this code is unknown, used or expired")
        if len(self._devices) >= MAX_DEVICES:
            raise Busy(f"{len(self._devices)} devices are known")
        del self._codes[code]
        taken = {d.peer_id for d in self._devices.values()}
        while (peer_id := f"agent-{secrets.token_hex(3)}") in taken:
            pass
        device = Device(secrets.token_hex(8), peer_id, agent_name, "pending", now)
        self._keep(device)
        return device

    def approve(self, device_id: str) -> tuple[Device, str]:
        """Let a pending device in; returns it and its token, which is not kept. Raises PairingError."""
        device = self._expect(device_id, "pending")
        token = f"dt_{secrets.token_hex(16)}"
        device.status, device.token_hash = "approved", _hash(token)
        self._keep(device)
        return device, token

    def reject(self, device_id: str) -> Device:
        """Refuse a pending device. Raises PairingError."""
        return self._shut(self._expect(device_id, "pending"), "rejected")

    def revoke(self, device_id: str) -> Device:
        """Take an approved device's token away. Raises PairingError."""
        return self._shut(self._expect(device_id, "approved"), "revoked")

    def find(self, token: str) -> Identity | None:
        """Who `token` belongs to, if approved."""
        device = self._by_hash.get(_hash(token))
        return Identity(device.peer_id, key_id=device.id) if device else None

    def has_device(self, device_id: str) -> bool:
        """True while the device `device_id` is approved."""
        device = self._devices.get(device_id)
        return device is not None and device.status == "approved"

    def has_peer(self, peer_id: str) -> bool:
        """True when `peer_id` is an approved device."""
        return any(d.peer_id == peer_id and d.status == "approved" for d in self._devices.values())

    def devices(self, status: Status | None = None) -> list[Device]:
        """All entries, or those of one status, oldest first."""
        return [d for d in self._devices.values() if status in (None, d.status)]

    def _expect(self, device_id: str, status: Status) -> Device:
        device = self._devices.get(device_id)
        if device is None:
            raise PairingError("not_found", "there is no such device")
        if device.status != status:
            raise PairingError("refused", f"this device is {device.status}, not {status}")
        return device

    def _shut(self, device: Device, status: Status) -> Device:
        self._by_hash.pop(device.token_hash, None)
        device.status, device.token_hash = status, ""
        self._keep(device)
        return device

    def _keep(self, device: Device) -> None:
        self._index(device)
        self._store.put(KIND, device.id, msgspec.json.encode(device))

    def _index(self, device: Device) -> None:
        self._devices[device.id] = device
        if device.token_hash:
            self._by_hash[device.token_hash] = device


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
