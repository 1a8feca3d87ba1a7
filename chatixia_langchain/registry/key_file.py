"""Writing key files, and noticing that one was changed while the registry runs."""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..protocol.limits import is_peer_id
from .keys import HASHED, Identity, KeyFileError, digest, load_keys

logger = logging.getLogger(__name__)


class KeyFile:
    """A key file that may change while the registry runs: keys come, go and end without a restart."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._stat()

    def changed(self) -> dict[str, Identity] | None:
        """All keys of the file if it was written since the last look, else None.

        A faulty file is logged and not used: half an edit must neither lock everybody out nor let anybody in.
        """
        stamp = self._stat()
        if stamp == self._stamp:
            return None
        self._stamp = stamp
        try:
            return load_keys(self._path)
        except KeyFileError as exc:
            logger.warning("the changed key file is not used: %s", exc)
            return None

    def _stat(self) -> tuple[int, int, int]:
        try:
            now = self._path.stat()
        except OSError:
            return (0, 0, 0)
        return (now.st_ino, now.st_size, now.st_mtime_ns)


def init_keys(path: Path, peers: Sequence[str]) -> dict[str, Identity]:
    """Make random keys for `peers` and an `admin`: hashes go into `path`, each key into `<peer>.key` beside it (0600).

    An existing file keeps its keys. Returns what was added, by key. Raises KeyFileError when a name is not a peer id,
    the present file is malformed, nothing is missing in it, or the folder cannot be written.
    """
    for name in peers:
        if not is_peer_id(name) or name == "registry":
            raise KeyFileError(f"--peer {name!r} is not a peer id: 1 to 64 of A-Z a-z 0-9 . _ -")
    known = {who.peer_id for who in load_keys(path).values()} if path.exists() else set()
    wanted = [Identity(name) for name in dict.fromkeys(peers)]
    if not known:
        wanted.append(Identity("admin", "admin"))
    added = {f"ck_{secrets.token_urlsafe(32)}": who for who in wanted if who.peer_id not in known}
    if not added:
        raise KeyFileError(f"key file {path} exists and has all these peers; name new ones with --peer")
    for key, who in added.items():
        _write_private(path.with_name(f"{who.peer_id}.key"), key + "\n")
    _write_private(path, _document(path, added))
    return added


def _document(path: Path, added: Mapping[str, Identity]) -> str:
    """The text of the file with `added`: other fields of it stay, keys in plain text become hashes."""
    document: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {"keys": {}}
    entries = {k if HASHED.fullmatch(k) else digest(k): entry for k, entry in document["keys"].items()}
    entries |= {digest(key): {"peer_id": who.peer_id, "role": who.role} for key, who in added.items()}
    return json.dumps({**document, "keys": entries}, indent=2) + "\n"


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
