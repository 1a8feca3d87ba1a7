"""Cards: "this name has this key", signed by the mesh's root key. The registry carries them and cannot make them.

A card is a JWS (RFC 7515, ES256) with the claims `sub` (the name), `fpr` (the fingerprint), `serial`, `iat` and `exp`.
The list of revocations is one too: `revoked` has, by name, the serial that all good cards of that name are above.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeGuard

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from ..protocol.limits import is_peer_id
from .known import normal

ALGORITHMS: Final = ["ES256"]
CARD_TYPE: Final = "chatixia-card+jws"
REVOCATIONS_TYPE: Final = "chatixia-revocations+jws"
MAX_BYTES: Final = 256 * 1024  # of either; a card has a few hundred
DEFAULT_DAYS: Final = 365


class CardError(ValueError):
    """A card, a list of revocations or a root key is not good; the text says why, and nothing secret."""


@dataclass(frozen=True, slots=True)
class Card:
    """What a good card says. `expires` in epoch seconds."""

    name: str
    fingerprint: str
    serial: int
    expires: float


class RootKey:
    """The key that signs. It belongs on a machine that is neither an agent's nor the registry's."""

    def __init__(self, key: ECKey) -> None:
        self._key = key

    @classmethod
    def fresh(cls) -> RootKey:
        """A new one."""
        return cls(ECKey.generate_key("P-256"))

    @classmethod
    def load(cls, path: Path) -> RootKey:
        """Read the private key. Raises CardError, OSError."""
        if path.stat().st_mode & 0o077:
            raise CardError(f"{path} may be read by others: chmod 600 it")
        key = _key(path.read_bytes(), str(path))
        if not key.is_private:
            raise CardError(f"{path} holds no private key")
        return cls(key)

    def save(self, path: Path) -> None:
        """Write the private key to a new file, mode 0600. Raises FileExistsError, OSError."""
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(self._key.as_pem(private=True))

    def public_pem(self) -> bytes:
        """What every agent has to know."""
        return self._key.as_pem(private=False)

    def sign(self, name: str, fingerprint: str, *, serial: int, now: float, days: float = DEFAULT_DAYS) -> str:
        """A card. Raises ValueError for a name, fingerprint or time that is none."""
        if not is_peer_id(name):
            raise CardError(f"{name!r} is not a peer id")
        if days <= 0:
            raise CardError(f"a card for {days} days would be over before it begins")
        claims = {"sub": name, "fpr": normal(fingerprint), "serial": serial}
        return self._sign(CARD_TYPE, {**claims, "iat": int(now), "exp": int(now + days * 86400)})

    def revoke(self, revoked: Mapping[str, int], *, serial: int, now: float) -> str:
        """A list of revocations: cards of these names with a serial up to the one given end."""
        return self._sign(REVOCATIONS_TYPE, {"revoked": dict(revoked), "serial": serial, "iat": int(now)})

    def _sign(self, kind: str, claims: dict[str, Any]) -> str:
        header = {"alg": ALGORITHMS[0], "typ": kind}
        return jws.serialize_compact(header, json.dumps(claims).encode(), self._key, algorithms=ALGORITHMS)


class MeshRoot:
    """The root's public half: tells good cards from others."""

    def __init__(self, pem: bytes, *, where: str = "the mesh root") -> None:
        """Raises CardError."""
        self._key = _key(pem, where)

    def card(self, text: str, *, now: float) -> Card:
        """Read a card. Raises CardError: not signed by this root, over, or not a card."""
        claims = self._claims(text, CARD_TYPE)
        name, serial, expires = claims.get("sub"), claims.get("serial"), claims.get("exp")
        if not (isinstance(name, str) and is_peer_id(name) and _is_count(serial) and _is_count(expires)):
            raise CardError("the card lacks a name, a serial or an end")
        try:
            fingerprint = normal(str(claims.get("fpr")))
        except ValueError as exc:
            raise CardError(f"the card of {name!r}: {exc}") from exc
        if expires <= now:
            raise CardError(f"the card of {name!r} is over")
        return Card(name, fingerprint, serial, expires)

    def revocations(self, text: str) -> tuple[int, dict[str, int]]:
        """Read a list of revocations: its serial, and what it revokes. Raises CardError."""
        claims = self._claims(text, REVOCATIONS_TYPE)
        serial, revoked = claims.get("serial"), claims.get("revoked")
        if not _is_count(serial) or not isinstance(revoked, dict) or not all(map(_is_count, revoked.values())):
            raise CardError("this is not a list of revocations")
        return serial, revoked

    def _claims(self, text: str, kind: str) -> dict[str, Any]:
        if len(text) > MAX_BYTES:
            raise CardError(f"{len(text)} bytes are too many: the limit is {MAX_BYTES}")
        try:
            found = jws.deserialize_compact(text.strip(), self._key, algorithms=ALGORITHMS)
            claims = json.loads(found.payload)
        except (JoseError, ValueError, RecursionError) as exc:
            raise CardError("it is not signed by the root of this mesh") from exc
        if found.headers().get("typ") != kind or not isinstance(claims, dict):
            raise CardError("it is signed, but is something else")
        return claims


def _key(pem: bytes, where: str) -> ECKey:
    try:
        key = ECKey.import_key(pem)
    except (JoseError, ValueError, TypeError) as exc:
        raise CardError(f"{where} is not an ECDSA key in PEM") from exc
    if key.curve_name != "P-256":
        raise CardError(f"{where} is not a P-256 key")
    return key


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
