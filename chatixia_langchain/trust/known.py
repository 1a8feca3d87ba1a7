"""Pinned fingerprints: names and the certificates they are known by, in a file that people can read and edit.

{"peers": {"researcher": "sha-256 AB:CD:..."}}
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ..protocol.limits import is_peer_id

MAX_PINS: Final = 100_000
FINGERPRINT: Final = re.compile(r"sha-256 [0-9A-F]{2}(:[0-9A-F]{2}){31}")


def normal(fingerprint: str) -> str:
    """The one way to write a fingerprint. Raises ValueError for what is none."""
    kind, _, digits = fingerprint.strip().partition(" ")
    written = f"{kind.lower()} {digits.upper()}"
    if not FINGERPRINT.fullmatch(written):
        raise ValueError(f"{fingerprint[:120]!r} is not a fingerprint: sha-256 and 32 pairs of hexadecimal digits")
    return written


class KnownPeers:
    """Pins by name. With a `path` they are read from it, and new ones written to it."""

    def __init__(self, pins: Mapping[str, str] | None = None, *, path: Path | None = None) -> None:
        """Raises ValueError for a name or fingerprint that is none, or a file that is not the format; OSError."""
        self._path = path
        self._pins: dict[str, str] = {}
        if path is not None and path.exists():
            self._take(_read(path), str(path))
        self._take(pins or {}, "pins")

    def get(self, peer: str) -> str:
        """The fingerprint that `peer` is known by, "" when it is not known."""
        return self._pins.get(peer, "")

    def all(self) -> dict[str, str]:
        """All pins, by name."""
        return dict(sorted(self._pins.items()))

    def pin(self, peer: str, fingerprint: str) -> None:
        """Know `peer` by `fingerprint` from now on. Raises ValueError, and OSError when the file cannot be written."""
        if len(self._pins) >= MAX_PINS and peer not in self._pins:
            raise ValueError(f"{MAX_PINS} peers are known already")
        self._take({peer: fingerprint}, "pin")
        self._save()

    def forget(self, peer: str) -> bool:
        """Forget what `peer` was known by; False when nothing was. Raises OSError."""
        if self._pins.pop(peer, None) is None:
            return False
        self._save()
        return True

    def _take(self, pins: Mapping[str, str], where: str) -> None:
        for peer, fingerprint in pins.items():
            if not isinstance(peer, str) or not is_peer_id(peer):
                raise ValueError(f"{where}: {peer!r} is not a peer id")
            if not isinstance(fingerprint, str):
                raise ValueError(f"{where}: the fingerprint of {peer!r} is not text")
            self._pins[peer] = normal(fingerprint)

    def _save(self) -> None:
        if self._path is None:
            return
        draft = self._path.with_name(f"{self._path.name}.{secrets.token_hex(4)}")
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                json.dump({"peers": self.all()}, file, indent=2)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)  # in one step: a crash leaves the old pins or the new
        finally:
            draft.unlink(missing_ok=True)


def _read(path: Path) -> Mapping[str, str]:
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as exc:
        raise ValueError(f"{path} is not JSON: {exc}") from exc
    peers = document.get("peers") if isinstance(document, dict) else None
    if not isinstance(peers, dict):
        raise ValueError(f'{path} must look like {{"peers": {{"<name>": "sha-256 AB:CD:..."}}}}')
    return peers
