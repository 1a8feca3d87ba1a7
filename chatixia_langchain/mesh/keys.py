"""What a mesh knows of keys, from its settings: its own identity and card, and how it judges others."""

from __future__ import annotations

from pathlib import Path

from ..config import MeshConfig
from ..trust.judge import Mode, Trust
from ..trust.known import KnownPeers

KNOWN_PEERS = "known-peers.json"
CARD = "card.jws"


def make_trust(config: MeshConfig) -> Trust:
    """How this member judges others. Raises ValueError naming the setting that is wrong, OSError."""
    mode: Mode = config.trust
    folder = Path(config.state_dir) if config.state_dir else None
    known = KnownPeers(config.pins, path=folder / KNOWN_PEERS if folder else None)
    if mode != "mesh-root":
        return Trust(mode, known)
    from ..trust.cards import MeshRoot  # its library is for those who have a root

    path = Path(config.mesh_root)
    root = MeshRoot(path.read_bytes(), where=str(path)) if config.mesh_root else None
    return Trust(mode, known, root=root, revocations=lambda: _text(config.revocations))


def own_card(config: MeshConfig) -> str:
    """Our card, "" for none: the file `card`, or `card.jws` in the state folder. Raises OSError for a named one."""
    if config.card_file:
        return Path(config.card_file).read_text().strip()
    return _text(str(Path(config.state_dir) / CARD)) if config.state_dir else ""


def _text(path: str) -> str:
    """The text of a file; "" when there is none."""
    if not path:
        return ""
    try:
        return Path(path).read_text().strip()
    except FileNotFoundError:
        return ""
