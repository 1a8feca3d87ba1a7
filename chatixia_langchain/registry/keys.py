"""The key file: which API keys there are, and whose they are.

    {"keys": {"sha256:<64 hex>": {"peer_id": "planner", "role": "agent", "expires": "2027-01-31T00:00:00Z"}}}

The file holds hashes, so that who reads it has no key; a key has 256 random bits, which needs no salt and no slow hash.
Keys in plain text, as the existing mesh writes them, are understood too. There is no default key.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
from dataclasses import dataclass, field
from datetime import datetime
from math import inf
from pathlib import Path
from typing import Any, Final, Literal, cast

from ..protocol.limits import is_peer_id

Role = Literal["agent", "admin"]
ROLES: tuple[Role, ...] = ("agent", "admin")
MIN_KEY_CHARS = 8  # the existing mesh's keys are short; ours have 46. Below 8 it is a typing mistake
MAX_FILE_BYTES = 16 * 1024 * 1024
HASHED: Final = re.compile(r"sha256:[0-9a-f]{64}")


class KeyFileError(Exception):
    """The key file cannot be used; the text names the file, the fault and the way out."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a credential belongs to, and which one it was.

    `admin` may list, approve and delete what belongs to others. `key_id` names the key or device (not the secret);
    `until` is when that ends, in epoch seconds.
    """

    peer_id: str
    role: Role = "agent"
    key_id: str = field(default="", compare=False)
    until: float = field(default=inf, compare=False)

    @property
    def is_admin(self) -> bool:
        """True for the role that manages others."""
        return self.role == "admin"


def digest(key: str) -> str:
    """What the file and the registry keep of a key."""
    return "sha256:" + hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def load_keys(path: Path) -> dict[str, Identity]:
    """Read a key file: identities by `digest`.

    Raises KeyFileError: missing, unreadable, not the format, no key in it.
    """
    advice = f'write one with "chatixia-langchain registry init --api-keys {path}"'
    try:
        raw = path.read_bytes()
    except FileNotFoundError as exc:
        raise KeyFileError(f"key file {path} does not exist; {advice}") from exc
    except OSError as exc:
        raise KeyFileError(f"key file {path} cannot be read: {exc.strerror}") from exc
    if len(raw) > MAX_FILE_BYTES:
        raise KeyFileError(f"key file {path} has {len(raw)} bytes, more than {MAX_FILE_BYTES}")
    keys = parse_keys(raw, str(path))
    if not keys:
        raise KeyFileError(f"key file {path} holds no key; move it away and {advice}")
    return keys


def parse_keys(raw: bytes, name: str) -> dict[str, Identity]:
    """Check the text of a key file. Raises KeyFileError; keys themselves are never quoted in it."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise KeyFileError(f"key file {name} is not JSON: {exc}") from exc
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, dict):
        raise KeyFileError(
            f'key file {name} must look like {{"keys": {{"<key>": {{"peer_id": "...", "role": "agent"}}}}}}'
        )
    found: dict[str, Identity] = {}
    for number, (key, entry) in enumerate(entries.items(), start=1):
        where = f"key file {name}, entry {number}"
        if len(key) < MIN_KEY_CHARS or not key.isascii() or not key.isprintable() or " " in key:
            raise KeyFileError(f"{where}: a key has at least {MIN_KEY_CHARS} printable ASCII characters and no spaces")
        if key.startswith("sha256:") and not HASHED.fullmatch(key):
            raise KeyFileError(f"{where}: after sha256: 64 hexadecimal digits are expected")
        hashed = key if HASHED.fullmatch(key) else digest(key)
        found[hashed] = _identity(hashed, entry, where)
    return found


def _identity(hashed: str, entry: Any, where: str) -> Identity:
    if not isinstance(entry, dict):
        raise KeyFileError(f'{where}: expected {{"peer_id": "...", "role": "agent"}}')
    peer_id, role = entry.get("peer_id"), entry.get("role", "agent")
    if not isinstance(peer_id, str) or not is_peer_id(peer_id) or peer_id == "registry":
        raise KeyFileError(f"{where}: peer_id {peer_id!r} is not a peer id")
    if role not in ROLES:
        raise KeyFileError(f"{where}: role {role!r} is unknown; use one of {', '.join(ROLES)}")
    return Identity(peer_id, cast("Role", role), key_id(hashed), _until(entry.get("expires"), where))


def key_id(hashed: str) -> str:
    """A name for a key that may be shown: the beginning of its digest."""
    return "k" + hashed.removeprefix("sha256:")[:16]


def _until(text: Any, where: str) -> float:
    if text is None:
        return inf
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        moment = None
    if moment is None or moment.tzinfo is None:
        raise KeyFileError(f"{where}: expires {text!r} is not a time with a zone, like 2027-01-31T00:00:00Z")
    return moment.timestamp()


def too_open(path: Path) -> bool:
    """True when others of this machine can read the key file."""
    return bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
