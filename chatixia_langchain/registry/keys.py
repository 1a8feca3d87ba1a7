"""The key file: who may speak to the registry. There is no default key.

- `{"keys": {"<key>": {"peer_id": "planner", "role": "agent"}}}`, mode 0600;
- `load_keys` reads it and names what is wrong with it;
- `init_keys` writes a new one, or adds peers to one that exists.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from ..protocol.limits import is_peer_id

logger = logging.getLogger(__name__)

Role = Literal["agent", "admin"]
ROLES: tuple[Role, ...] = ("agent", "admin")
MIN_KEY_CHARS = 8  # the existing mesh's keys are short; ours have 46. Below 8 it is a typing mistake
MAX_FILE_BYTES = 16 * 1024 * 1024


class KeyFileError(Exception):
    """The key file cannot be used; the text names the file, the fault and the way out."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a credential belongs to. `admin` may list, approve and delete what belongs to others."""

    peer_id: str
    role: Role = "agent"

    @property
    def is_admin(self) -> bool:
        """True for the role that manages others."""
        return self.role == "admin"


def load_keys(path: Path) -> dict[str, Identity]:
    """Read a key file. Raises KeyFileError: missing, unreadable, not the format, no key in it."""
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
        if not isinstance(entry, dict):
            raise KeyFileError(f'{where}: expected {{"peer_id": "...", "role": "agent"}}')
        peer_id, role = entry.get("peer_id"), entry.get("role", "agent")
        if not isinstance(peer_id, str) or not is_peer_id(peer_id) or peer_id == "registry":
            raise KeyFileError(f"{where}: peer_id {peer_id!r} is not a peer id")
        if role not in ROLES:
            raise KeyFileError(f"{where}: role {role!r} is unknown; use one of {', '.join(ROLES)}")
        found[key] = Identity(peer_id, cast("Role", role))
    return found


class KeyFile:
    """A key file that may grow while the registry runs: new agents need no restart. Taking a key away needs one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._stat()

    def added(self) -> dict[str, Identity]:
        """All keys of the file if it was written since the last look, else none. A faulty file is logged, not used."""
        stamp = self._stat()
        if stamp == self._stamp:
            return {}
        self._stamp = stamp
        try:
            return load_keys(self._path)
        except KeyFileError as exc:
            logger.warning("the changed key file is not used: %s", exc)
            return {}

    def _stat(self) -> tuple[int, int, int]:
        try:
            now = self._path.stat()
        except OSError:
            return (0, 0, 0)
        return (now.st_ino, now.st_size, now.st_mtime_ns)


def too_open(path: Path) -> bool:
    """True when others of this machine can read the key file."""
    return bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))


def init_keys(path: Path, peers: Sequence[str]) -> dict[str, Identity]:
    """Write random keys for `peers` and an `admin` to `path`, mode 0600; an existing file keeps its keys.

    Returns the identities that were added, by key. Raises KeyFileError when a name is not a peer id, the present file
    is malformed, nothing is missing in it, or the folder cannot be written.
    """
    for name in peers:
        if not is_peer_id(name) or name == "registry":
            raise KeyFileError(f"--peer {name!r} is not a peer id: 1 to 64 of A-Z a-z 0-9 . _ -")
    present = load_keys(path) if path.exists() else {}
    known = {who.peer_id for who in present.values()}
    wanted = [Identity(name) for name in dict.fromkeys(peers)]
    if not present:
        wanted.append(Identity("admin", "admin"))
    added = {f"ck_{secrets.token_urlsafe(32)}": who for who in wanted if who.peer_id not in known}
    if not added:
        raise KeyFileError(f"key file {path} exists and has all these peers; name new ones with --peer")
    everyone = {**present, **added}
    text = json.dumps({"keys": {k: {"peer_id": w.peer_id, "role": w.role} for k, w in everyone.items()}}, indent=2)
    _write_private(path, text + "\n")
    return added


def _write_private(path: Path, text: str) -> None:
    """Replace `path` in one step, readable by its owner alone from the first byte on."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError as exc:
        temporary.unlink(missing_ok=True)
        raise KeyFileError(f"key file {path} cannot be written: {exc.strerror}") from exc
