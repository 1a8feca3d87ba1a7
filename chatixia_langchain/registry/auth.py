"""Who is calling, and what they may do. Pure: the time is an argument.

- an API key (key file) or a device token (pairing) is long-lived and identifies a peer;
- `Tokens` makes the short-lived JWT that WebSocket and HTTP calls carry;
- `may_act_as` is the one rule on who may speak for which agent.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import uuid
from collections.abc import Callable
from typing import Any, Final, cast

import jwt

from .keys import ROLES, Identity, Role

TOKEN_TTL_S: Final = 300
ISSUER: Final = "chatixia-registry"
AUDIENCE: Final = "chatixia-mesh"
MIN_SECRET_CHARS: Final = 32  # HS256: a secret shorter than its hash is the weakest part


class Unauthorized(Exception):
    """No credential, or one that is wrong or expired. The text says which, and nothing of the credential."""


class Keyring:
    """API keys by a keyed hash: looking one up takes the same time whatever part of it is right."""

    def __init__(self, keys: dict[str, Identity], *, more: Callable[[], dict[str, Identity]] | None = None) -> None:
        self._more = more  # asked when a key is unknown: what was added since
        self._pepper = secrets.token_bytes(32)
        self._by_digest: dict[bytes, Identity] = {}
        self._peers: dict[str, Identity] = {}
        for key, who in keys.items():
            self.add(key, who)

    def add(self, key: str, who: Identity) -> None:
        """Accept `key` from now on."""
        self._by_digest[self._digest(key)] = who
        self._peers[who.peer_id] = who

    def find(self, key: str) -> Identity | None:
        """The owner of `key`, or None."""
        digest = self._digest(key)
        if digest not in self._by_digest:
            self._look_for_more()
        return self._by_digest.get(digest)

    def has_peer(self, peer_id: str) -> bool:
        """True when some key belongs to `peer_id`."""
        if peer_id not in self._peers:
            self._look_for_more()
        return peer_id in self._peers

    def _look_for_more(self) -> None:
        if self._more is not None:
            for key, who in self._more().items():
                self.add(key, who)

    def _digest(self, key: str) -> bytes:
        return hmac.digest(self._pepper, key.encode("utf-8", "surrogateescape"), hashlib.sha256)


class Tokens:
    """Short-lived JWTs. `secret` empty: a random one, so that tokens end with this process."""

    def __init__(self, secret: str = "") -> None:
        if secret and len(secret) < MIN_SECRET_CHARS:
            raise ValueError(f"the registry secret has {len(secret)} characters; it needs at least {MIN_SECRET_CHARS}")
        self._secret = secret or secrets.token_hex(32)

    def issue(self, who: Identity, now: float) -> str:
        """A token for `who`, good for TOKEN_TTL_S seconds."""
        claims = {
            "sub": who.peer_id,
            "role": who.role,
            "iat": int(now),
            "exp": int(now) + TOKEN_TTL_S,
            "aud": AUDIENCE,
            "iss": ISSUER,
            "jti": uuid.uuid4().hex,
        }
        return jwt.encode(claims, self._secret, algorithm="HS256")

    def check(self, token: str, now: float) -> Identity:
        """The identity in `token`. Raises Unauthorized."""
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._secret,
                algorithms=["HS256"],
                audience=AUDIENCE,
                issuer=ISSUER,
                # The time is ours to check: `now` is an argument, and there is no leeway.
                options={"verify_exp": False, "verify_iat": False, "require": ["sub", "exp", "iat", "jti"]},
            )
        except jwt.PyJWTError as exc:
            raise Unauthorized("the token is not valid here") from exc
        if not isinstance(claims["exp"], int) or claims["exp"] <= now:
            raise Unauthorized("the token has expired")
        if not isinstance(claims["sub"], str) or claims.get("role") not in ROLES:
            raise Unauthorized("the token is not valid here")
        return Identity(claims["sub"], cast("Role", claims["role"]))


def own_names(peer_id: str) -> tuple[str, ...]:
    """Agent ids that belong to `peer_id` by its name alone: itself, and `a` for the sidecar `a-sidecar`."""
    stem = peer_id.removesuffix("-sidecar")
    return (peer_id,) if stem in (peer_id, "") else (peer_id, stem)


def may_act_as(who: Identity, agent_id: str, *, owner: str | None, is_reserved: bool) -> bool:
    """True when `who` may speak as `agent_id`.

    `owner` is the peer that registered that directory entry, if any; `is_reserved`: a peer has this name by its key,
    and an entry that another made before that key existed does not count against it.
    """
    return agent_id in own_names(who.peer_id) or (owner == who.peer_id and not is_reserved)
