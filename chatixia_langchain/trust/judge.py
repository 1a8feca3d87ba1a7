"""The one decision on a channel: it leads to the peer it is said to lead to, or it does not. Time is an argument.

| mode | a channel is good when its certificate is |
|---|---|
| `registry` | the one that the session description named: the registry is trusted with names |
| `tofu` | the one that the name had the first time (trust on first use); a change is refused and told loudly |
| `pinned` | the one that the name was pinned to beforehand; names without a pin are refused |
| `mesh-root` | the one on a card of that name which the mesh's root key signed |
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from .known import KnownPeers, normal

if TYPE_CHECKING:
    from .cards import MeshRoot  # its library is for those who have a root

logger = logging.getLogger(__name__)

Mode = Literal["registry", "tofu", "pinned", "mesh-root"]


class Trust:
    """What one agent knows of others' keys. `revocations` gives the present list as text, "" for none."""

    def __init__(
        self,
        mode: Mode,
        known: KnownPeers,
        *,
        root: MeshRoot | None = None,
        revocations: Callable[[], str] = lambda: "",
    ) -> None:
        """Raises ValueError for `mesh-root` without a root."""
        if mode == "mesh-root" and root is None:
            raise ValueError("trust 'mesh-root' needs the public key of the root: mesh_root=")
        self.mode, self.known = mode, known
        self._root, self._revocations = root, revocations
        self._serial, self._revoked = -1, dict[str, int]()

    @property
    def strict(self) -> bool:
        """True when the registry's word is not enough."""
        return self.mode != "registry"

    def announced(self, peer: str, fingerprint: str) -> str:
        """Why a peer that the registry announces with this fingerprint is not worth a dial; "" when it may be."""
        known = self.known.get(peer) if self.mode in ("tofu", "pinned") else ""
        if self.mode == "pinned" and not known:
            return _not_pinned(peer)
        if known and fingerprint and known != _written(fingerprint):
            return _changed(peer, known, fingerprint)
        return ""

    def judge(self, peer: str, fingerprint: str, card: str, now: float) -> str:
        """Decide on an open channel: "" when it is good, else why not.

        `fingerprint` is that of the certificate the channel was made with, `card` what came over it. In `tofu` mode a
        new name is pinned by this.
        """
        shown = _written(fingerprint)
        if not self.strict:
            return ""
        if not shown:
            return f"the channel to {peer!r} shows no certificate"
        if self.mode == "mesh-root":
            return self._by_card(peer, shown, card, now)
        if why := self.announced(peer, shown):
            return why
        if not self.known.get(peer):
            try:
                self.known.pin(peer, shown)
            except (OSError, ValueError) as exc:
                return f"{peer!r} is new, and could not be pinned: {exc}"
            logger.warning("peer=%s: met for the first time, pinned to %s", peer, shown)
        return ""

    def _by_card(self, peer: str, shown: str, text: str, now: float) -> str:
        assert self._root is not None, "checked when it was made"
        if not text:
            return f"{peer!r} shows no card of this mesh's root"
        try:
            card = self._root.card(text, now=now)
            self._read_revocations()
        except ValueError as exc:  # CardError
            return f"the card of {peer!r} is not taken: {exc}"
        if card.name != peer:
            return f"{peer!r} shows the card of {card.name!r}"
        if card.fingerprint != shown:
            return f"{peer!r} shows a card for another key: {card.fingerprint}, its own is {shown}"
        if card.serial <= self._revoked.get(peer, -1):
            return f"the card of {peer!r} was revoked"
        return ""

    def _read_revocations(self) -> None:
        """Take the present list, if it is not older than the one we have: who serves it may be hostile."""
        assert self._root is not None
        text = self._revocations()
        if not text:
            return
        serial, revoked = self._root.revocations(text)
        if serial < self._serial:
            logger.warning("a list of revocations with serial %d is older than the one known, %d", serial, self._serial)
            return
        self._serial, self._revoked = serial, revoked


def _written(fingerprint: str) -> str:
    try:
        return normal(fingerprint) if fingerprint else ""
    except ValueError:
        return fingerprint[:120]


def _not_pinned(peer: str) -> str:
    return f"{peer!r} is not pinned: chatixia-langchain trust pin {peer} FINGERPRINT"


def _changed(peer: str, known: str, shown: str) -> str:
    return (
        f"the key of {peer!r} is not the one it is known by: known {known}, shown {shown}. If it was set up anew: "
        f"chatixia-langchain trust forget {peer}"
    )
