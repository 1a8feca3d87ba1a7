"""Who is calling, and what they may do. Pure: the time is an argument.

- an API key (key file) or a device token (pairing) is long-lived and identifies a peer;
- `Tokens` makes the short-lived JWT that WebSocket and HTTP calls carry;
- `may_act_as` is the one rule on who may speak for which agent.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, cast

import jwt

from .keys import ROLES, Identity, Role, digest, key_id

TOKEN_TTL_S: Final = 300
ISSUER: Final = "chatixia-registry"
AUDIENCE: Final = "chatixia-mesh"
MIN_SECRET_CHARS: Final = 32  # HS256: a secret shorter than its hash is the weakest part


class Unauthorized(Exception):
    """No credential, or one that is wrong or expired. The text says which, and nothing of the credential."""


class Keyring:
    """API keys by their digest. `changed` is asked when a key is unknown, and by `refresh`: what the file holds now."""

    def __init__(
        self,
        keys: Mapping[str, Identity] | None = None,
        *,
        changed: Callable[[], dict[str, Identity] | None] | None = None,
    ) -> None:
        self._changed = changed
        self._by_digest: dict[str, Identity] = {}
        self._by_id: dict[str, Identity] = {}
        self._peers: set[str] = set()
        self._take(dict(keys or {}))

    def add(self, key: str, who: Identity) -> None:
        """Accept `key` from now on."""
        hashed = digest(key)
        self._take({**self._by_digest, hashed: replace(who, key_id=key_id(hashed))})

    def refresh(self) -> None:
        """Take the file as it is now: keys that are no longer in it end."""
        keys = self._changed() if self._changed is not None else None
        if keys is not None:
            self._take(keys)

    def find(self, key: str, now: float) -> Identity | None:
        """The owner of `key`, or None; a key that has expired has none."""
        hashed = digest(key)
        if hashed not in self._by_digest:
            self.refresh()
        who = self._by_digest.get(hashed)
        return who if who is not None and who.until > now else None

    def has_key(self, key_id: str, now: float) -> bool:
        """True while the key called `key_id` is accepted."""
        who = self._by_id.get(key_id)
        return who is not None and who.until > now

    def has_peer(self, peer_id: str) -> bool:
        """True when some key belongs to `peer_id`."""
        if peer_id not in self._peers:
            self.refresh()
        return peer_id in self._peers

    def _take(self, keys: dict[str, Identity]) -> None:
        self._by_digest = keys
        self._by_id = {who.key_id: who for who in keys.values()}
        self._peers = {who.peer_id for who in keys.values()}


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
            "key": who.key_id,
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
                options={"verify_exp": False, "verify_iat": False, "require": ["sub", "key", "exp", "iat", "jti"]},
            )
        except jwt.PyJWTError as exc:
            raise Unauthorized("the token is not valid here") from exc
        if not isinstance(claims["exp"], int) or claims["exp"] <= now:
            raise Unauthorized("the token has expired")
        if not all(isinstance(claims[c], str) for c in ("sub", "key")) or claims.get("role") not in ROLES:
            raise Unauthorized("the token is not valid here")
        return Identity(claims["sub"], cast("Role", claims["role"]), claims["key"], float(claims["exp"]))


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
